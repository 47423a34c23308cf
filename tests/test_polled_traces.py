"""Any trace, looked at at any pace: what comes of it agrees with the trace, as far as it goes, and says how far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.looks import polled
from tests.stories import TALES, Story, Verdict, judge_batches
from tests.traces import MS, PATHS, SECOND, START_NS, event, trace
from tracer.connections import ConnectionTracker
from tracer.events import EventBatch, EventFlag, Events, TcpState
from tracer.lifecycle import CloseReason
from tracer.rows import Connections

S = TcpState
OUTBOUND = [name for name in PATHS if name not in ("inbound", "listener", "simultaneous-open")]


@st.composite
def traces(draw: st.DrawFn) -> Events:
    """Up to eight connections, each with ports of its own."""
    events = []
    for number in range(draw(st.integers(1, 8))):
        at_ns = START_NS + draw(st.integers(0, 800)) * MS
        received, acked = draw(st.integers(0, 1 << 40)), draw(st.integers(0, 1 << 20))
        for step, (old, new, sk_err) in enumerate(PATHS[draw(st.sampled_from(OUTBOUND))]):
            at_ns += draw(st.integers(0, 300)) * MS * bool(step)
            common = {"skaddr": 0xFFFF_8880_0000_0000 + 0x1000 * number, "sport": 30_000 + number, "sk_err": sk_err}
            events.append(event(old, new, at_ns, bytes_received=received, bytes_acked=acked, **common))
    return trace(*sorted(events, key=lambda each: int(each["ts_ns"])))


NEEDS_ERRNO = {"reset"}
TOO_SHORT = {"rate-limit": {"textbook/rate-limit"}}
"""Rules that speak in another one's tale, on CLOSE_WAITs that are over before they are looked at."""
PACES = st.lists(st.integers(1, 400), min_size=1, max_size=20)


def looks(pace_ms: Sequence[int]) -> list[int]:
    """Times of looks: at this pace, and once when all is over."""
    return [*(START_NS + np.cumsum(pace_ms) * MS).tolist(), START_NS + 100 * SECOND, START_NS + 101 * SECOND]


def rows_of_batches(batches: Sequence[EventBatch]) -> Connections:
    tracker = ConnectionTracker()
    ended = [tracker.feed(batch.events, batch.early_ns).ended for batch in batches]
    return np.concatenate([*ended, tracker.open()])


def exact(events: Events) -> dict[int, np.void]:
    """The true rows, by local port."""
    return {int(row["lport"]): row for row in rows_of_batches([EventBatch(events, "ebpf", 1)])}


@settings(max_examples=60, deadline=None)
@given(traces(), PACES)
def test_with_records_every_connection_becomes_a_row_and_only_once(events: Events, pace_ms: list[int]) -> None:
    ports = rows_of_batches(polled(events, looks(pace_ms), with_records=True))["lport"].tolist()
    assert sorted(ports) == sorted(exact(events))


@settings(max_examples=60, deadline=None)
@given(traces(), PACES)
def test_without_records_no_connection_is_made_up(events: Events, pace_ms: list[int]) -> None:
    ports = rows_of_batches(polled(events, looks(pace_ms), with_records=False))["lport"].tolist()
    assert len(set(ports)) == len(ports)
    assert set(ports) <= set(exact(events))


@pytest.mark.parametrize("with_records", [True, False], ids=["polled", "proc"])
@settings(max_examples=60, deadline=None)
@given(events=traces(), pace_ms=PACES)
def test_true_times_lie_within_their_bounds(with_records: bool, events: Events, pace_ms: list[int]) -> None:
    truth = exact(events)
    for row in rows_of_batches(polled(events, looks(pace_ms), with_records)):
        for name in ("opened", "established", "closed"):
            at_ns, early_ns, true_ns = (
                int(row[f"{name}_ns"]),
                int(row[f"{name}_early_ns"]),
                int(truth[int(row["lport"])][f"{name}_ns"]),
            )
            if at_ns >= 0 and true_ns >= 0:
                assert at_ns - early_ns <= true_ns <= at_ns, name


@pytest.mark.parametrize("with_records", [True, False], ids=["polled", "proc"])
@settings(max_examples=60, deadline=None)
@given(events=traces(), pace_ms=PACES)
def test_how_it_ended_is_right_or_unknown(with_records: bool, events: Events, pace_ms: list[int]) -> None:
    truth = exact(events)
    for row in rows_of_batches(polled(events, looks(pace_ms), with_records)):
        assert row["close_reason"] in (truth[int(row["lport"])]["close_reason"], CloseReason.UNKNOWN)


@settings(max_examples=60, deadline=None)
@given(traces(), PACES)
def test_bytes_of_what_ended_are_right(events: Events, pace_ms: list[int]) -> None:
    truth = exact(events)
    for row in rows_of_batches(polled(events, looks(pace_ms), with_records=True)):
        if row["closed_ns"] >= 0 and row["established_ns"] >= 0:
            true = truth[int(row["lport"])]
            assert (row["bytes_received"], row["bytes_acked"]) == (true["bytes_received"], true["bytes_acked"])


@settings(max_examples=60, deadline=None)
@given(traces(), PACES)
def test_time_never_steps_back_between_looks(events: Events, pace_ms: list[int]) -> None:
    reached_ns = 0
    for batch in polled(events, looks(pace_ms), with_records=True):
        assert not len(batch) or int(batch.events["ts_ns"].min()) >= reached_ns
        reached_ns = max(reached_ns, batch.until_ns)


def apart(events: Events) -> Events:
    """With an address of its own for each endpoint, by which looks tell them apart."""
    moved = events.copy()
    moved["daddr"][:, 13] = moved["endpoint_id"]
    return moved


def through_looks(rule: str, period_ms: int, with_records: bool) -> tuple[Verdict, Verdict]:
    """What is found in a tale itself, and through looks at it."""
    tale = TALES[rule]()
    until_ns = START_NS + int(tale.until_s * SECOND)
    times_ns = [*range(START_NS, until_ns, period_ms * MS), until_ns]
    events = apart(tale.events)
    whole = judge_batches([EventBatch(events, "ebpf", 1, until_ns=until_ns)], tale.settings, tale.roles)
    source = "polled" if with_records else "proc"
    return whole, judge_batches(polled(events, times_ns, with_records), tale.settings, tale.roles, source, period_ms * MS)


@pytest.mark.parametrize("rule", sorted(set(TALES) - NEEDS_ERRNO))
@pytest.mark.slow
def test_with_records_and_quick_looks_the_same_rules_speak(rule: str) -> None:
    whole, found = through_looks(rule, 50, with_records=True)
    assert found.rules == whole.rules - NEEDS_ERRNO - TOO_SHORT.get(rule, set())


@pytest.mark.parametrize("rule", sorted(NEEDS_ERRNO))
def test_a_rule_that_needs_what_no_look_shows_abstains_and_says_so(rule: str) -> None:
    _, found = through_looks(rule, 50, with_records=True)
    assert not found.of(rule)
    assert "sk_err" in found.abstained[rule]


@pytest.mark.parametrize("rule", sorted(TALES))
@pytest.mark.parametrize(
    ("period_ms", "with_records"), [(450, True), pytest.param(50, False, marks=pytest.mark.slow), (450, False)]
)
def test_nothing_is_found_through_looks_that_is_not_in_the_trace(rule: str, period_ms: int, with_records: bool) -> None:
    whole, found = through_looks(rule, period_ms, with_records)
    assert found.rules <= whole.rules


@pytest.mark.parametrize("with_records", [True, False], ids=["polled", "proc"])
def test_handshakes_that_came_to_nothing_are_unanswered_where_it_is_sure(with_records: bool) -> None:
    """No look shows why they ended; that nothing was ever acknowledged shows in their records, and in no picture."""
    story = Story()
    for number in range(4):
        story.connection(0.3 * number, "aborted", life_s=0.005)
    times_ns = range(START_NS, START_NS + 8 * SECOND, 50 * MS)
    found = judge_batches(polled(story.events(), times_ns, with_records), source="polled", resolution_ns=50 * MS)
    assert bool(found.of("unreachable")) is with_records


@pytest.mark.parametrize("received", [3_000_000, 150], ids=["a download", "as little"])
def test_a_visit_that_may_be_the_rest_of_somebody_s_is_no_refusal(received: int) -> None:
    """A poller knows the owner of some of a pull's connections only."""
    nobody = EventFlag.OWNER | EventFlag.HAS_TASK | EventFlag.HAS_CGROUP
    story = Story()
    for start_s in (0, 10, 20):
        for offset_s, size in ((0, 103), (0.02, 1500), (0.05, 3_000_000)):
            story.connection(start_s + offset_s, received=size, acked=200 + size % 97, comm=b"skopeo", pid=70 + start_s)
    story.connection(30, received=103, acked=206, comm=b"skopeo", pid=77)
    story.connection(30.02, received=received, acked=400, without=nobody)
    found = judge_batches([EventBatch(story.events(), "polled", 50 * MS, until_ns=START_NS + 40 * SECOND)])
    assert bool(found.of("rate-limit")) is (received < 1000)
