"""What people read: bounds instead of times that nobody knows, how much was seen, where names moved, whose connections."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np

from tests.stories import LABELS, ROLES, Story, trying
from tests.traces import MS, SECOND, START_NS, path, trace
from tracer.analysis import Analysis
from tracer.events import EventBatch, Events, KernelCounts, no_events
from tracer.facts import AddressFact, EndpointFact
from tracer.findings import Suspect
from tracer.header import TraceHeader
from tracer.owners.owner import OwnerDetail
from tracer.owners.register import OwnerRegister
from tracer.reports.text_report import TextReport, coverage_text, learnt_texts, owner_texts, summary_texts, suspect_text
from tracer.roles import Role
from tracer.rows import blank_connections
from tracer.rules.settings import RuleSettings


def analysed(events: Events, early_ns: int = 0, opened: int = 0, counted: int = 0) -> tuple[Analysis, str]:
    """A trace with times that may be so much earlier, and all that is printed of it."""
    stream = io.StringIO()
    report = TextReport(stream, transitions=False)
    made = Analysis("polled", 50 * MS, LABELS, RuleSettings(), dict(ROLES))
    report.start(TraceHeader("polled", "because", 50 * MS, endpoints=LABELS))
    early = np.full(len(events), early_ns, np.uint64)
    batch = EventBatch(events, "polled", 50 * MS, early_ns=early if early_ns else None, opened=opened, counted=counted)
    report.batch(batch, made.feed(batch), made)
    last = EventBatch(no_events(), "polled", 50 * MS, until_ns=int(events["ts_ns"].max()) + 30 * SECOND)
    report.batch(last, made.feed(last), made)
    report.finish(made, None)
    return made, stream.getvalue()


def test_what_was_seen_in_one_look_has_a_longest_life() -> None:
    _, text = analysed(trace(*path("peer", [START_NS] * 5)), early_ns=80 * MS)
    assert "life <80ms" in text
    assert "connect <80ms" in text


def test_times_with_bounds_say_so() -> None:
    _, text = analysed(
        trace(*path("peer", [START_NS, START_NS, START_NS + SECOND, START_NS + SECOND, START_NS + SECOND])), 80 * MS
    )
    assert "life 1s" in text
    assert "times may be 80ms earlier" in text


def test_exact_times_say_nothing_of_bounds() -> None:
    _, text = analysed(trace(*path("peer", [START_NS + each for each in range(5)])))
    assert "earlier" not in text
    assert "<" not in text


def test_the_summary_says_how_many_connections_were_seen() -> None:
    made, text = analysed(trace(*path("peer", [START_NS] * 5)), opened=3, counted=12)
    assert "3 of 12 opened connections seen" in text
    assert made.summary().coverage == 0.25


def test_without_a_count_coverage_is_unknown_but_for_ebpf() -> None:
    made, _ = analysed(trace(*path("peer", [START_NS] * 5)))
    assert coverage_text(made.summary()) == "coverage unknown"
    assert coverage_text(replace(made.summary(), source="ebpf", gaps=0)) == "every transition seen"


def test_the_summary_says_what_the_kernel_counted_meanwhile() -> None:
    made = Analysis("polled", 50 * MS, {})
    for kernel in (KernelCounts(5, 7, 0, 100, 2, 4, 10), KernelCounts(6, 3, 0, 150, 3, -1, 9)):
        made.feed(EventBatch(no_events(), "polled", 50 * MS, kernel=kernel))
    (line,) = (line for line in summary_texts(made.summary()) if "TIME_WAIT" in line)
    assert "6 TCP sockets in use, 3 in TIME_WAIT (at most 7)" in line
    assert "50 opened, 1 failed, ? resets sent, ? segments sent again" in line


def test_a_finding_says_of_how_many_connections_it_knows() -> None:
    _, text = analysed(trying(1.0, 12), opened=6, counted=12)
    assert "seen:   50% of the connections that were opened" in text


def test_a_finding_is_less_sure_where_little_was_seen() -> None:
    def sure(opened: int) -> str:
        _, text = analysed(trying(1.0, 12), opened=opened, counted=12)
        return text.partition("refused (")[2].partition(" sure")[0]

    assert sure(11) == sure(12) == "90%"
    assert sure(6) == "63%"


def test_what_rests_on_absence_is_withheld_where_little_was_seen() -> None:
    story = Story()
    story.connection(0, received=400, acked=100)
    story.connection(0.05, received=300, acked=200, endpoint=3)
    for opened, found in ((12, True), (6, False)):
        made, text = analysed(story.events(), opened=opened, counted=12)
        assert (" auth-failure (" in text) is found
        assert ("auth-failure" in dict(made.summary().abstained)) is not found


def test_a_name_that_moves_is_told_with_its_time_but_not_what_it_had_at_the_start() -> None:
    stream = io.StringIO()
    report = TextReport(stream, transitions=False)
    made = Analysis("ebpf", 1, LABELS)
    report.start(TraceHeader("ebpf", "because", 1, endpoints=LABELS))
    for address, added in (("192.0.2.1", True), ("192.0.2.2", True), ("192.0.2.1", False)):
        batch = EventBatch(no_events(), "ebpf", 1, facts=(AddressFact(1, address, added, 5 * SECOND),))
        report.batch(batch, made.feed(batch), made)
    label = LABELS[1]
    assert stream.getvalue().splitlines()[-2:] == [
        f"5.000000  {label} is at 192.0.2.2",
        f"5.000000  {label} is no longer at 192.0.2.1",
    ]
    assert f"{label} is at 192.0.2.1" not in stream.getvalue()


def test_a_learnt_host_is_told_with_its_reason_and_nothing_raw() -> None:
    fact = EndpointFact(9, "blobs\x1b[2J.example:443", Role.BLOB, "learnt: ctr\x1b[31m connected to it", learnt=True)
    (line,) = learnt_texts(EventBatch(no_events(), "ebpf", 1, facts=(fact, EndpointFact(1, "listed"))))
    assert line.isprintable()
    assert line.startswith("LEARNT blobs")
    assert line.endswith("connected to it")


def test_owners_and_suspects_say_their_container() -> None:
    rows = blank_connections(1)
    rows["pid"], rows["comm"], rows["opened_ns"], rows["cgroup_id"] = 7, b"curl", 5, 3
    owners = OwnerRegister()
    owners.add(OwnerDetail(pid=7, cgroup_id=3, container="c" * 64, runtime="docker"))
    assert owner_texts(rows, owners) == ["curl[7] @docker:" + "c" * 12]
    suspect = Suspect(7, b"curl", 3, None, 1.0, container="c" * 64)
    assert suspect_text(suspect) == f"curl[7] in {'c' * 12} 100% of these connections"
    assert suspect_text(replace(suspect, container=None, unit="x\x1b.service")).isprintable()
