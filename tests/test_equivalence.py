"""The comparing part of the equivalence harness, with hand-made events: what counts as seen, late, unknown and wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.lab.equivalence import Account, change, report
from tests.lab.likeness import TOLERANCE_NS, Likeness, likeness, pairs, seen_table
from tests.stories import LABELS, REGISTRY, Story, shifted_by
from tests.traces import MS, SECOND, START_NS
from tracer.analysis import Analysis
from tracer.events import EventBatch, EventFlag, Events, is_opening
from tracer.findings import Finding, FindingState, Severity
from tracer.rows import Connections


def one(kind: str = "local", at_s: float = 0, **options: Any) -> Events:
    """The events of one connection."""
    story = Story()
    story.connection(at_s, kind, **options)
    return story.events()


def rows(*parts: Events, early_ns: int = 0) -> Connections:
    """The connections of a trace, each of whose events may have been so much earlier."""
    events = np.concatenate(parts)
    analysis = Analysis("polled", 1, LABELS)
    batch = EventBatch(events, "polled", 1, early_ns=np.full(len(events), early_ns, np.uint64))
    return np.concatenate([analysis.feed(batch).ended, analysis.open()])


def found(truth: Connections, other: Connections) -> Likeness:
    return likeness("story", truth, other)


def kinds(what: Likeness) -> list[str]:
    return [defect.kind for defect in what.defects]


@pytest.mark.parametrize("kind", ["local", "peer", "reset", "refused", "timeout"])
def test_a_trace_is_like_itself(kind: str) -> None:
    told = found(rows(one(kind, received=10, acked=5)), rows(one(kind, received=10, acked=5)))
    assert not told.defects
    assert told.counts["close_reason right"] == told.counts["owner right"] == told.counts["opened_ns within"] == 1


def test_a_connection_that_was_not_seen_is_counted_in_its_class_of_lives() -> None:
    told = found(rows(one(life_s=0.0005, connect_s=0.0001, closing_s=0.0001)), rows(one())[:0])
    assert kinds(told) == ["not seen"]
    assert (told.counts["lived under 1 ms"], told.counts["seen under 1 ms"]) == (1, 0)


def test_a_connection_that_was_not_there_is_a_defect() -> None:
    assert kinds(found(rows(one())[:0], rows(one()))) == ["of nothing"]


def test_the_same_ends_at_another_time_are_another_connection() -> None:
    assert pairs(rows(one()), rows(shifted_by(one(), 5))) == []


def test_a_connection_that_is_told_late_is_the_same_and_outside_of_its_interval() -> None:
    assert kinds(found(rows(one()), rows(shifted_by(one(), 1)))) == ["opened_ns OUTSIDE", "closed_ns OUTSIDE"]


def test_what_overlaps_is_taken_before_what_is_nearer() -> None:
    long, again = one(life_s=9), shifted_by(one(), 10)
    again["skaddr"] += np.uint64(64)
    assert pairs(rows(again), rows(long, shifted_by(again, -0.5))) == [(0, 1)]
    assert pairs(rows(shifted_by(again, -2)), rows(long, shifted_by(again, -1.9))) == [(0, 0)]


def test_the_nearest_of_several_with_the_same_ends_is_taken() -> None:
    again = shifted_by(one(), 0.015)
    again["skaddr"] += np.uint64(64)
    assert pairs(rows(one(), again), rows(again)) == [(1, 0)]


def test_what_is_still_open_is_paired() -> None:
    assert pairs(rows(one(keep=2)), rows(shifted_by(one(keep=2), 0.03), early_ns=30 * MS)) == [(0, 0)]


@pytest.mark.parametrize(("later_ns", "early_ns", "expected"), [
    (0, 0, "within"),
    (9 * MS, 5 * MS, "within"),
    (9 * MS, 0, "OUTSIDE"),
    (-TOLERANCE_NS - MS, 0, "OUTSIDE"),
])  # fmt: skip
def test_a_time_is_judged_by_the_interval_that_is_given_for_it(later_ns: int, early_ns: int, expected: str) -> None:
    told = found(rows(one()), rows(shifted_by(one(), later_ns / SECOND), early_ns=early_ns))
    assert told.counts[f"opened_ns {expected}"] == 1
    assert told.errors_ns["opened_ns"] == [later_ns]


@pytest.mark.parametrize(("received", "expected"), [(100, "exact"), (101, "off by 1"), (98, "WRONG")])
def test_bytes_are_judged_by_how_far_they_are_off(received: int, expected: str) -> None:
    told = found(rows(one(received=100)), rows(one(received=received)))
    assert told.counts[f"bytes_received {expected}"] == 1


@pytest.mark.parametrize("flag", [EventFlag.HAS_RECEIVED, EventFlag.HAS_SK_ERR, EventFlag.OWNER])
def test_what_is_unknown_is_no_defect(flag: EventFlag) -> None:
    told = found(rows(one("reset")), rows(one("reset", without=flag)))
    assert not told.defects
    assert sum(count for name, count in told.counts.items() if name.endswith(" unknown")) == 1


def test_another_close_reason_is_a_defect() -> None:
    assert kinds(found(rows(one("local")), rows(one("peer")))) == ["close_reason WRONG"]


def test_a_connection_that_ended_and_is_shown_open_is_a_defect() -> None:
    assert kinds(found(rows(one()), rows(one(keep=2)))) == ["close_reason STILL OPEN"]


def test_another_owner_is_a_defect() -> None:
    assert kinds(found(rows(one(pid=1)), rows(one(pid=2)))) == ["owner WRONG"]


def test_likenesses_add_up() -> None:
    each = found(rows(one()), rows(one("peer")))
    both = each + each
    assert both.counts["close_reason WRONG"] == len(both.defects) == len(both.errors_ns["opened_ns"]) == 2


def account(*opened: tuple[str, float]) -> Account:
    """One connection, and findings of these rules at these seconds."""
    events = one()
    findings = [
        Finding(rule, 1, FindingState.OPEN, Severity.WARNING, 0.9, REGISTRY, at, at, -1, at, "", {}, (), "")
        for rule, at in ((rule, START_NS + round(at_s * SECOND)) for rule, at_s in opened)
    ]
    return Account(findings, LABELS, rows(events), int((~is_opening(events)).sum()) + 1)


def test_findings_are_the_same_missing_or_extra() -> None:
    told = change(account(("refused", 3), ("refused", 9), ("churn", 3)), account(("refused", 4.5), ("reset", 1)))
    where = LABELS[REGISTRY]
    assert told.same == {("refused", where): 1.5}
    assert (told.missing, told.extra) == ((("churn", where),), (("reset", where),))


LABEL = {
    "name": "story", "client": "skopeo", "fault": "refused", "also": [], "in_tcp": True, "fault_ns": START_NS, "told_ns": None,
    "pulls": 4, "started_ns": START_NS,
}  # fmt: skip


def test_the_report_says_who_named_the_fault() -> None:
    said = account(("refused", 3))
    lines = report({"story": LABEL}, {"story": {"ebpf": said, "polled": said, "proc": account()}})
    (row,) = [line for line in lines if line.startswith("| story | refused |")]
    assert [cell.strip() for cell in row.split("|")[3:-1:4]] == ["right", "right", "missed"]


def test_every_line_of_what_was_seen_has_a_figure_for_each_source() -> None:
    lines = seen_table({"polled": found(rows(one()), rows(one())), "proc": Likeness()})
    assert {line.count("|") for line in lines} == {4}
