"""The post-mortem: what a trace says stays text, whatever it looks like; what people have to fill in is marked."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.made_captures import HOSTILE, OPTIONS, collected, hostile_capture, mixed
from tests.test_findings_lines import ONE
from tracer.collected.collector import Collected
from tracer.commands.reading import collect
from tracer.events import no_events
from tracer.findings import Severity
from tracer.pages.content import ROWS_MAX, content_of
from tracer.pages.markdown import escaped, escaped_cell, markdown_text
from tracer.pages.span import span_of
from tracer.verdict import parts_of

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HARMLESS = {"inline", "text", "softbreak", "text_special"}


def inline_types(markdown: str) -> set[str]:
    return {child.type for token in PARSER.parse(markdown) for child in token.children or ()}


@given(st.text(st.sampled_from("ab1 \\`*_[]()<>#|~!&@:/.+-=$\n\tw"), max_size=40))
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    tokens = PARSER.parse(f"x {escaped(text)}")
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children or ()} <= HARMLESS
    shown = html.unescape("".join(child.content for child in tokens[1].children or ())).replace("\u200b", "")
    assert shown == " ".join(["x", *text.split()])


@given(st.text(st.sampled_from("a1 .)+-=#>*|"), max_size=12))
@example("123456789. a")
@example("12)")
@example("--- -")
def test_it_does_not_begin_a_block_either(text: str) -> None:
    if text.strip():
        assert PARSER.parse(f"- {escaped(text)}")[2].type == "paragraph_open"
        assert [token.type for token in PARSER.parse(f"a\n{escaped(text)}")] == ["paragraph_open", "inline", "paragraph_close"]


@given(st.text(st.sampled_from("a1 .)+-=#>*|_`~[]()<&\\"), max_size=12))
def test_a_cell_shows_its_text_as_it_is(text: str) -> None:
    tokens = PARSER.parse(f"| a |\n|---|\n| {escaped_cell(text)} |")
    cell = next(token for index, token in enumerate(tokens) if tokens[index - 1].type == "td_open")
    assert {child.type for child in cell.children or ()} <= HARMLESS
    shown = html.unescape("".join(child.content for child in cell.children or ())).replace("\u200b", "")
    assert shown == " ".join(text.split())


@pytest.mark.parametrize("sign", ["@", "#"])
def test_mentions_and_references_are_broken(sign: str) -> None:
    assert f"{sign}someone" not in html.unescape(escaped(f"to {sign}someone"))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_stays_one_cell(text: str) -> None:
    tokens = PARSER.parse(f"| a | b |\n|---|---|\n| {escaped_cell(text)} | y |")
    assert sum(token.type == "td_open" for token in tokens) == 2


def test_a_hostile_trace_makes_no_link_image_code_or_html(tmp_path: Path) -> None:
    made = collect(OPTIONS, hostile_capture(tmp_path / "t.arrows"))
    text = markdown_text(content_of(made, span_of(made), "t|`.arrows", "<b>@all", ()), made)
    assert inline_types(text) <= HARMLESS | {"strong_open", "strong_close", "em_open", "em_close"}
    assert not any(token.type == "html_block" for token in PARSER.parse(text))


def test_it_has_what_a_post_mortem_needs(tmp_path: Path) -> None:
    made = collected(tmp_path / "t.arrows", mixed())
    text = markdown_text(content_of(made, span_of(made), "t.arrows", None, ("--rules", "all")), made)
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        f"## {name}"
        for name in (
            "Verdict",
            "What was lost or not seen",
            "Other findings",
            "Impact",
            "Timeline",
            "Endpoints",
            "Owners",
            "To be filled in",
            "How to see it again",
        )
    ]
    assert text.count("_to be filled in_") == 6
    assert "```sh\nregtrace replay t.arrows --rules all\n```" in text


def test_the_timeline_is_in_the_order_of_time_and_in_utc(tmp_path: Path) -> None:
    made = collected(tmp_path / "t.arrows", mixed())
    text = markdown_text(content_of(made, span_of(made), "t.arrows", None), made)
    times = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| 20")]
    assert len(times) >= 4
    assert times == sorted(times)
    assert all(time.endswith(" UTC") for time in times)


def extras_of(text: str) -> str:
    return text.partition("## Other findings\n")[2].partition("\n## ")[0]


def test_every_finding_is_told_at_length(tmp_path: Path) -> None:
    made = collected(tmp_path / "t.arrows", mixed())
    worst, less = replace(ONE, episode=1), replace(ONE, episode=2, severity=Severity.NOTICE, rule="churn", advice="wait")
    made = replace(made, findings=(less, worst), endpoints={ONE.endpoint_id: "[x](y):443"})
    extras = extras_of(markdown_text(content_of(made, span_of(made), "t.arrows", None), made))
    assert "### NOTICE: churn at \\[x\\](y):443" in extras
    assert [line.split(":**")[0] for line in extras.splitlines() if line.startswith("- ")] == [
        f"- **{heading}" for heading, _ in parts_of(less, made)
    ]
    assert "- **What to do:** wait" in extras
    assert "CRITICAL" not in extras


def test_of_very_many_findings_ten_are_told_at_length(tmp_path: Path) -> None:
    made = collected(tmp_path / "t.arrows", mixed())
    made = replace(made, findings=tuple(replace(ONE, episode=number) for number in range(1, 15)))
    extras = extras_of(markdown_text(content_of(made, span_of(made), "t.arrows", None), made))
    assert extras.count("### ") == 10
    assert extras.endswith("And 3 more.\n")


def test_where_nothing_is_wrong_what_was_found_is_told_all_the_same(tmp_path: Path) -> None:
    made = collected(tmp_path / "t.arrows", mixed())
    made = replace(made, findings=(replace(ONE, benign=True, severity=Severity.NOTICE),))
    assert "### NOTICE: " in extras_of(markdown_text(content_of(made, span_of(made), "t.arrows", None), made))


def test_a_finding_that_grew_says_when(tmp_path: Path) -> None:
    made = collected(tmp_path / "t.arrows", mixed())
    begin_ns = made.summary.first_ns
    found = replace(ONE, episode=3, started_ns=begin_ns, detected_ns=begin_ns + 1_000_000_000)
    grown = {3: ((found.detected_ns, Severity.WARNING), (found.detected_ns + 2_000_000_000, Severity.CRITICAL))}
    timeline = told_of(replace(made, findings=(found,), severities=grown))
    assert [line.partition(" is ")[2] for line in timeline if " is " in line] == [
        "found by regtrace (warning) |",
        "critical now |",
    ]
    timeline = told_of(replace(made, findings=(found,), severities={}))
    assert [line.partition(" is ")[2] for line in timeline if " is " in line] == ["found by regtrace |"]


def told_of(made: Collected) -> list[str]:
    text = markdown_text(content_of(made, span_of(made), "t.arrows", None), made)
    return text.partition("## Timeline\n")[2].partition("\n## ")[0].splitlines()


@pytest.mark.parametrize("text", ["3.8ms", "12.5", "-", "-5", "+1.250 s", "1) first", "9. ninth"])
def test_a_cell_has_no_escapes_that_it_does_not_need(text: str) -> None:
    assert escaped_cell(text) == text


@pytest.mark.parametrize(
    ("text", "written"), [("3.8ms", "3.8ms"), ("123. a", "123\\. a"), ("- a", "\\- a"), ("a - 1. b", "a - 1. b")]
)
def test_a_line_has_escapes_only_where_a_list_could_begin(text: str, written: str) -> None:
    assert escaped(text) == written


def test_of_very_many_findings_the_rest_is_counted(tmp_path: Path) -> None:
    made = collected(tmp_path / "t.arrows", mixed())
    made = replace(made, findings=made.findings[:1] * (ROWS_MAX + 7))
    text = markdown_text(content_of(made, span_of(made), "t.arrows", None), made)
    assert "7 more findings are not shown." in text


def test_an_empty_trace_is_said_to_be_empty(tmp_path: Path) -> None:
    made = collected(tmp_path / "t.arrows", no_events())
    text = markdown_text(content_of(made, None, "t.arrows", None), made)
    assert "Nothing happened." in text


def test_of_a_name_with_backticks_the_fence_is_longer(tmp_path: Path) -> None:
    made = replace(collected(tmp_path / "t.arrows", no_events()))
    text = markdown_text(content_of(made, None, "a````b.arrows", None), made)
    assert [token.content for token in PARSER.parse(text) if token.type == "fence"] == ["regtrace replay 'a````b.arrows'\n"]
