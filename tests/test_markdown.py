"""The post-mortem: what a trace says stays text, whatever it looks like; what people have to fill in is marked."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.made_captures import HOSTILE, OPTIONS, collected, hostile_capture, mixed
from tracer.commands.reading import collect
from tracer.events import no_events
from tracer.pages.content import ROWS_MAX, content_of
from tracer.pages.markdown import escaped, markdown_text
from tracer.pages.span import span_of

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
def test_it_does_not_begin_a_block_either(text: str) -> None:
    if text.strip():
        assert PARSER.parse(f"- {escaped(text)}")[2].type == "paragraph_open"


@pytest.mark.parametrize("sign", ["@", "#"])
def test_mentions_and_references_are_broken(sign: str) -> None:
    assert f"{sign}someone" not in html.unescape(escaped(f"to {sign}someone"))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_stays_one_cell(text: str) -> None:
    tokens = PARSER.parse(f"| a | b |\n|---|---|\n| {escaped(text)} | y |")
    assert sum(token.type == "td_open" for token in tokens) == 2


def test_a_hostile_trace_makes_no_link_image_code_or_html(tmp_path: Path) -> None:
    made = collect(OPTIONS, hostile_capture(tmp_path / "t.arrows"))
    text = markdown_text(content_of(made, span_of(made), "t|`.arrows", "<b>@all", ()), made)
    assert inline_types(text) <= HARMLESS | {"strong_open", "strong_close", "em_open", "em_close"}
    assert not any(token.type == "html_block" for token in PARSER.parse(text))


def test_it_has_what_a_post_mortem_needs(tmp_path: Path) -> None:
    made = collected(tmp_path / "t.arrows", mixed())
    text = markdown_text(content_of(made, span_of(made), "t.arrows", None, ("--rules", "all")), made)
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[1:] == [
        f"## {name}"
        for name in (
            "Verdict",
            "Impact",
            "Timeline",
            "Endpoints",
            "Owners",
            "What was lost or not seen",
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
