"""When connections were in which state: what any two transitions say that fit together, and nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import naive
from tests.traces import (
    LADDR,
    MS,
    NETNS,
    SECOND,
    START_NS,
    as_dicts,
    event,
    garbage_of_seed,
    path,
    sample,
    trace,
    trace_of_seed,
    traces,
)
from tests.whole import HEADER, collected_events, collected_of
from tracer.collected.collector import Collected
from tracer.events import EventBatch, EventFlag, Events, TcpState
from tracer.exports.stays import Stays, stays_of

S = TcpState
Stay = tuple[int, int, int]
"""(state, start, end)."""
LATER_NS = 10_000 * SECOND


def told(stays: Stays, index: int) -> list[Stay]:
    """The stays of one connection, but for those without a length."""
    own = np.flatnonzero(stays.connection == index)
    spans = zip(*(each[own].tolist() for each in (stays.state, stays.state_start_ns, stays.state_end_ns)), strict=True)
    return [stay for stay in spans if stay[1] < stay[2]]


def histories(events: Events) -> dict[tuple[int, int, int, int], list[list[naive.Event]]]:
    """The transitions of each connection, by (first seen, socket, namespace, endpoint), one event after the other."""
    found: dict[tuple[int, int, int, int], list[list[naive.Event]]] = {}
    at_socket: dict[tuple[int, int], naive.Row] = {}
    for each in as_dicts(events):
        key = (each["netns"], each["skaddr"])
        row = at_socket.get(key)
        if naive.is_sample(each):
            if row is not None and row["last_state"] == each["old_state"] and not naive.of_another_socket(row, each):
                naive.update(row, each)
            continue
        if each["old_state"] == each["new_state"]:
            continue
        if row is None or row["last_state"] == S.CLOSE or not naive.belongs(row, each):
            row = at_socket[key] = naive.begin(each, False) | {"seen": []}
            if not row["inbound"]:
                found.setdefault((each["ts_ns"], each["skaddr"], each["netns"], each["endpoint_id"]), []).append(row["seen"])
        row["seen"].append(each)
        naive.update(row, each)
    return found


def true_stays(seen: list[naive.Event], end_ns: int) -> list[Stay]:
    """Of one connection, out of its transitions."""
    stays = [
        (before["new_state"], before["ts_ns"], after["ts_ns"])
        for before, after in itertools.pairwise(seen)
        if before["new_state"] == after["old_state"]
    ]
    last = seen[-1]
    if last["new_state"] != S.CLOSE:
        stays.append((last["new_state"], last["ts_ns"], end_ns))
    return [stay for stay in stays if stay[1] < stay[2]]


def check(events: Events) -> int:
    """Compare all connections of a trace with what its transitions say; how many there were."""
    collected = collected_events(events)
    stays = stays_of(collected, LATER_NS)
    remaining = histories(events)
    for index, row in enumerate(collected.rows):
        key = (int(row["first_seen_ns"]), int(row["skaddr"]), int(max(row["netns"], 0)), int(row["endpoint_id"]))
        seen = remaining[key].pop(0)
        end_ns = LATER_NS if row["closed_ns"] < 0 and row["close_reason"] == 1 else int(row["last_ns"])
        assert told(stays, index) == true_stays(seen, end_ns), index
    return len(collected.rows)


def assert_nested(stays: Stays) -> None:
    """Every stay lies within its connection, after the one before."""
    assert (stays.start_ns <= stays.end_ns).all()
    assert (stays.state_start_ns <= stays.state_end_ns).all()
    assert (stays.state_start_ns >= stays.start_ns[stays.connection]).all()
    assert (stays.state_end_ns <= stays.end_ns[stays.connection]).all()
    same = stays.connection[1:] == stays.connection[:-1]
    assert (np.diff(stays.connection) >= 0).all()
    assert (stays.state_start_ns[1:][same] >= stays.state_end_ns[:-1][same]).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("holes", [0.0, 0.1])
def test_stays_are_those_of_the_transitions(seed: int, holes: float) -> None:
    assert check(trace_of_seed(seed, 100, holes)) > 50


@given(traces(holes=True))
def test_stays_of_small_traces_are_those_of_the_transitions(events: Events) -> None:
    check(events)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_stays_nest_whatever_a_trace_says(seed: int) -> None:
    assert_nested(stays_of(collected_events(garbage_of_seed(seed, 60)), LATER_NS))


def adopted(state: TcpState, ts_ns: int, **fields: int) -> np.void:
    """A socket that was found open."""
    return event(state, state, ts_ns, also=EventFlag.ADOPTED, without=EventFlag.HAS_TASK | EventFlag.HAS_CGROUP, **fields)


def stays_at(*events: np.void) -> tuple[Collected, Stays]:
    collected = collected_events(trace(*events))
    return collected, stays_of(collected, LATER_NS)


def test_what_was_found_open_was_in_that_state_until_its_first_transition() -> None:
    leaving = event(S.ESTABLISHED, S.CLOSE_WAIT, START_NS + 5 * SECOND, sport=40_000)
    _, stays = stays_at(adopted(S.ESTABLISHED, START_NS), leaving)
    assert told(stays, 0) == [
        (S.ESTABLISHED, START_NS, START_NS + 5 * SECOND),
        (S.CLOSE_WAIT, START_NS + 5 * SECOND, LATER_NS),
    ]


def test_what_was_found_open_and_never_moved_is_in_that_state_all_the_time() -> None:
    _, stays = stays_at(adopted(S.ESTABLISHED, START_NS), sample(S.ESTABLISHED, START_NS + SECOND))
    assert told(stays, 0) == [(S.ESTABLISHED, START_NS, LATER_NS)]


def test_what_was_found_in_another_state_than_it_left_was_in_neither_for_long() -> None:
    leaving = event(S.CLOSE_WAIT, S.LAST_ACK, START_NS + 5 * SECOND, sport=40_000)
    _, stays = stays_at(adopted(S.ESTABLISHED, START_NS), leaving)
    assert told(stays, 0) == [(S.LAST_ACK, START_NS + 5 * SECOND, LATER_NS)]


def test_a_connection_that_may_have_ended_unseen_ends_with_its_last_event() -> None:
    events = trace(*path("peer", [START_NS, START_NS + MS]))
    nothing = events[:0]
    late = EventBatch(nothing, "ebpf", 1, 3, START_NS + SECOND, START_NS + 2 * SECOND)
    collected = collected_of(EventBatch(events, "ebpf", 1), late)
    stays = stays_of(collected, LATER_NS)
    assert stays.end_ns.tolist() == [START_NS + MS]
    assert told(stays, 0) == [(S.SYN_SENT, START_NS, START_NS + MS)]


def test_a_connection_goes_on_over_a_change_of_source() -> None:
    opened = trace(*path("peer", [START_NS, START_NS + MS], saddr=LADDR))
    opened["sport"][1] = 40_000
    skaddr = int(opened["skaddr"][0]) + 0x4000
    found = trace(adopted(S.ESTABLISHED, START_NS + 3 * SECOND, skaddr=skaddr, sport=40_000, netns=NETNS))
    last = trace(event(S.ESTABLISHED, S.CLOSE_WAIT, START_NS + 5 * SECOND, skaddr=skaddr, sport=40_000))
    collected = collected_of(
        EventBatch(opened, "ebpf", 1),
        EventBatch(found, "polled", 50 * MS, 0, START_NS + SECOND, START_NS + 3 * SECOND, switched="it died"),
        EventBatch(last, "polled", 50 * MS),
    )
    assert len(collected.rows) == 1
    stays = stays_of(collected, LATER_NS)
    states = [state for state, _, _ in told(stays, 0)]
    assert states == [S.SYN_SENT, S.ESTABLISHED, S.CLOSE_WAIT]
    assert_nested(stays)


def test_times_that_step_back_do_not_make_stays_of_negative_length() -> None:
    collected, stays = stays_at(*path("peer", [START_NS + 9, START_NS + 5, START_NS + 7, START_NS + 2, START_NS + 20]))
    assert len(collected.rows) == 1
    assert_nested(stays)


def test_an_empty_trace_has_no_stays() -> None:
    stays = stays_of(collected_of(header=HEADER), 0)
    assert (len(stays.start_ns), len(stays.connection)) == (0, 0)
