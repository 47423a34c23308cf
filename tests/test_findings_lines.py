"""Findings as lines: the contract's fields for programs, and nothing that a terminal would obey for people."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.stories import LABELS, TALES, Story, Tale, judge, tell, trying
from tracer.analysis import Analysis
from tracer.clock import ClockOffset
from tracer.events import EventBatch
from tracer.findings import Finding, FindingState, Severity, Suspect
from tracer.header import TraceHeader
from tracer.lines import finding_lines, summary_line
from tracer.reports.json_report import JsonReport
from tracer.reports.text_report import TextReport, finding_texts, summary_texts
from tracer.rules.settings import RuleSettings

CONTRACT = (
    "type", "rule", "state", "severity", "confidence", "endpoint", "started_at", "detected_at", "ended_at", "summary", "evidence",
    "suspects", "advice",
)  # fmt: skip
SUSPECT = ("pid", "comm", "container", "unit", "opens_per_min", "share")
CLOCK = ClockOffset(1_700_000_000_000_000_000, 5)
ONE = Finding(
    "rate-limit", 3, FindingState.OPEN, Severity.CRITICAL, 0.92, 1, 1_000, 2_000, -1, 2_000, "what", {"a": 1},
    (Suspect(7, b"skopeo", -1, None, 1.0),), "do",
)  # fmt: skip


def line_of(finding: Finding, clock: ClockOffset | None = None) -> dict[str, Any]:
    (line,) = finding_lines([finding], LABELS, clock)
    assert "\n" not in line
    return json.loads(line)


def test_a_line_has_the_fields_of_the_contract() -> None:
    assert [name for name in CONTRACT if name not in line_of(ONE)] == []


def test_a_suspect_has_the_fields_of_the_contract() -> None:
    assert [name for name in SUSPECT if name not in line_of(ONE)["suspects"][0]] == []


@pytest.mark.parametrize("rule", sorted(TALES))
def test_the_lines_of_a_rule_have_the_fields_and_values_of_the_contract(rule: str) -> None:
    for finding in tell(TALES[rule]()).of(rule):
        line = line_of(finding, CLOCK)
        assert (line["type"], line["rule"]) == ("finding", rule)
        assert line["state"] in ("open", "update", "closed")
        assert line["severity"] in ("notice", "warning", "critical")
        assert 0 <= line["confidence"] <= 1
        assert line["endpoint"] in LABELS.values()
        assert (line["ended_at"] is None) == (line["ended_ns"] is None) == (line["state"] != "closed")
        assert line["summary"]
        assert line["advice"]
        assert line["started_at"] <= line["detected_at"] <= line["at"]


def test_times_are_boottime_and_wall_clock() -> None:
    line = line_of(ONE, CLOCK)
    assert (line["started_ns"], line["detected_ns"], line["ended_ns"]) == (1000, 2000, None)
    assert line["started_at"].startswith("2023-11-14T22:13:20.000001000")
    assert line["ended_at"] is None


def test_without_a_clock_there_is_no_wall_clock_time() -> None:
    line = line_of(replace(ONE, state=FindingState.CLOSED, ended_ns=5))
    assert (line["started_at"], line["detected_at"], line["ended_at"], line["at"]) == (None, None, None, None)
    assert line["ended_ns"] == 5


def test_what_is_not_known_of_a_suspect_is_null() -> None:
    line = line_of(replace(ONE, suspects=(Suspect(-1, b"", -1, None, 0.5),)))["suspects"][0]
    assert (line["pid"], line["comm"], line["cgroup_id"], line["opens_per_min"]) == (None, None, None, None)


def test_an_endpoint_without_a_label_has_its_number() -> None:
    assert line_of(replace(ONE, endpoint_id=77))["endpoint"] == "endpoint 77"


def test_a_process_name_of_any_bytes_is_a_line() -> None:
    assert line_of(replace(ONE, suspects=(Suspect(1, b"\xff\x1b\n", 1, 1.0, 0.5),)))["suspects"][0]["comm"] == "\\xff\x1b\n"


def test_the_summary_says_what_is_open_and_who_abstained() -> None:
    made = Analysis("ebpf", 2_000_000_000, LABELS, RuleSettings("all", benign=True))
    made.feed(EventBatch(trying(), "ebpf", 2_000_000_000))
    made.close()
    line = json.loads(summary_line(made.summary(), None))
    assert {each["rule"] for each in line["open_findings"]} == {"refused", "textbook/refused"}
    assert line["episodes"] == 2
    assert [set(each) for each in line["abstained"]] == [{"rule", "reason"}]
    assert line["abstained"][0]["rule"] == "retry-storm"


def test_the_json_report_writes_findings_as_they_are_made() -> None:
    stream = io.StringIO()
    report = JsonReport(stream, transitions=False)
    made = Analysis("ebpf", 1, LABELS, RuleSettings("all"))
    report.start(TraceHeader("ebpf", "a test", 1, endpoints=dict(LABELS)))
    batch = EventBatch(trying(), "ebpf", 1)
    report.batch(batch, made.feed(batch), made)
    assert [json.loads(line)["type"] for line in stream.getvalue().splitlines()].count("finding") >= 3


# --- for people

EVIL = b"\x1b]0;own\x07\x1b[2J"


def evil() -> Tale:
    story = Story()
    for number in range(12):
        story.connection(number, "refused", comm=EVIL, pid=number)
        story.connection(number + 0.2, "peer", comm=EVIL + b"2", pid=1, received=222, acked=9, life_s=0.01)
    return Tale(story.events(), 60)


def text_of(tale: Tale, labels: dict[int, str]) -> str:
    stream = io.StringIO()
    report = TextReport(stream, transitions=True)
    made = Analysis("ebpf", 1, labels, RuleSettings("all", benign=True))
    report.start(TraceHeader("ebpf", "a test", 1, endpoints=labels))
    batch = EventBatch(tale.events, "ebpf", 1, 3, 1, 2)
    report.batch(batch, made.feed(batch), made)
    report.finish(made, None)
    return stream.getvalue()


def test_nothing_that_a_terminal_obeys_is_written() -> None:
    text = text_of(evil(), {1: "evil\x1b[31m.example:443\u202e"})
    assert "retry-storm" in text
    assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("rule", sorted(TALES))
def test_the_text_of_a_rule_is_printable_whatever_names_are(rule: str) -> None:
    tale = TALES[rule]()
    labels = dict.fromkeys(LABELS, "x\x1b[31m\n:443")
    made = Analysis("ebpf", 1, labels, tale.settings, tale.roles)
    findings = made.feed(EventBatch(tale.events, "ebpf", 1)).findings + made.close()
    for finding in findings:
        for line in finding_texts(finding, labels, None):
            assert line.isprintable()


def test_an_opened_finding_says_what_who_and_what_to_do() -> None:
    lines = finding_texts(ONE, LABELS, None)
    assert "CRITICAL" in lines[0]
    assert "rate-limit" in lines[0]
    assert "92%" in lines[0]
    assert any("skopeo[7]" in line for line in lines)
    assert lines[-1].endswith("do")


def test_a_closed_finding_is_one_line_with_how_long_it_lasted() -> None:
    (line,) = finding_texts(replace(ONE, state=FindingState.CLOSED, ended_ns=3_000_001_000), LABELS, None)
    assert "over after 3s" in line
    assert LABELS[1] in line


def test_an_update_does_not_repeat_the_advice() -> None:
    assert not any(
        line.strip().startswith("do:") for line in finding_texts(replace(ONE, state=FindingState.UPDATE), LABELS, None)
    )


def test_the_summary_in_words_says_what_is_open_and_who_abstained() -> None:
    made = Analysis("ebpf", 2_000_000_000, LABELS, RuleSettings("all", benign=True))
    made.feed(EventBatch(trying(), "ebpf", 2_000_000_000))
    made.close()
    text = "\n".join(summary_texts(made.summary()))
    assert f"refused at {LABELS[1]} (critical)" in text
    assert "retry-storm did not judge" in text


def test_severities_are_in_order() -> None:
    assert Severity.NOTICE < Severity.WARNING < Severity.CRITICAL
    assert judge(trying(), 20).worst is Severity.CRITICAL
