"""Whose each transition is: the tracker, asked event by event, is the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.looks import polled
from tests.traces import (
    MS,
    NETNS,
    SECOND,
    SKADDR,
    START_NS,
    Life,
    build,
    event,
    garbage_of_seed,
    path,
    trace,
    trace_of_seed,
    traces,
)
from tests.whole import collected_events, collected_of, collected_replay
from tracer.collected.belonging import NOBODY, connection_of
from tracer.collected.collector import Collected
from tracer.connections import ConnectionTracker
from tracer.events import EventBatch, EventFlag, Events, TcpState, is_transition, valid

S = TcpState


def asked_one_by_one(events: Events) -> list[int]:
    """Index of the row of each transition, as the tracker has it after each event."""
    tracker = ConnectionTracker()
    current: dict[tuple[int, int], int] = {}
    begun, ended, serials = 0, [], []
    for one, netns_known in zip(range(len(events)), valid(events, "netns").tolist(), strict=True):
        own = events[one : one + 1]
        key = (int(own["skaddr"][0]), int(own["netns"][0]) if netns_known else 0)
        step = tracker.feed(own)
        closed = [row for row in step.ended if row["last_state"] == S.CLOSE and row["last_ns"] == own["ts_ns"][0]]
        cut_off = len(step.ended) - len(closed)
        if cut_off:
            ended.append((current.pop(key), int(step.ended[0]["first_seen_ns"])))
        if (step.change > 0).any():
            current[key], begun = begun, begun + 1
        moved = own["old_state"][0] != own["new_state"][0]
        serials.append(current.get(key, NOBODY) if moved else NOBODY)
        if closed:
            ended.append((current.pop(key), int(closed[0]["first_seen_ns"])))
    ended += [(current[(int(row["skaddr"]), max(int(row["netns"]), 0))], int(row["first_seen_ns"])) for row in tracker.open()]
    index = {serial: at for at, (serial, _) in enumerate(sorted(ended, key=lambda entry: entry[1]))}
    return [index.get(serial, NOBODY) for serial in np.array(serials)[is_transition(events)].tolist()]


@settings(max_examples=80, deadline=None)
@given(events=st.one_of(traces(), traces(holes=True)))
def test_each_transition_is_of_the_row_that_the_tracker_put_it_into(events: Events) -> None:
    made = collected_events(events)
    # Parts of lives that begin in one nanosecond at one address are told apart by samples alone, which are no transitions.
    assume(len(np.unique(made.rows[["netns", "skaddr", "first_seen_ns"]])) == len(made.rows))
    assert connection_of(made).tolist() == asked_one_by_one(events)


@pytest.mark.parametrize(("seed", "holes"), [(1, 0.0), (2, 0.1), (3, 0.3)])
def test_long_traces_with_many_lives_at_an_address_agree_too(seed: int, holes: float) -> None:
    events = trace_of_seed(seed, 120, holes)
    assert connection_of(collected_events(events)).tolist() == asked_one_by_one(events)


def test_an_address_that_is_used_again_in_the_same_nanosecond_is_another_connections() -> None:
    first = path("refused", [START_NS, START_NS + MS])
    second = path("peer", [START_NS + MS + each for each in range(5)])
    assert connection_of(collected_events(trace(*first, *second))).tolist() == [0, 0, 1, 1, 1, 1, 1]


def test_connections_that_all_happen_in_one_nanosecond_are_told_apart() -> None:
    lives = [path("refused", [START_NS, START_NS]) for _ in range(3)]
    assert connection_of(collected_events(trace(*(each for life in lives for each in life)))).tolist() == [0, 0, 1, 1, 2, 2]


def test_one_address_in_two_namespaces_is_two_sockets() -> None:
    ours = path("refused", [START_NS, START_NS + 2])
    theirs = path("refused", [START_NS + 1, START_NS + 3], netns=NETNS + 1)
    assert connection_of(collected_events(trace(ours[0], theirs[0], ours[1], theirs[1]))).tolist() == [0, 1, 0, 1]


def test_what_came_from_outside_is_nobodys() -> None:
    events = build([Life("peer"), Life("inbound"), Life("peer")])
    assert connection_of(collected_events(events)).tolist() == asked_one_by_one(events)
    assert NOBODY in connection_of(collected_events(events)).tolist()


def test_a_transition_to_the_same_state_is_nobodys() -> None:
    steps = path("peer", [START_NS + each for each in range(5)])
    events = trace(*steps[:2], event(S.ESTABLISHED, S.ESTABLISHED, START_NS + 1), *steps[2:])
    assert connection_of(collected_events(events)).tolist() == [0, 0, NOBODY, 0, 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_transitions_that_no_tcp_makes_are_never_given_to_a_connection_of_another_time_or_address(seed: int) -> None:
    made = collected_events(garbage_of_seed(seed))
    owners = connection_of(made)
    own = owners >= 0
    rows = made.rows[owners[own]]
    assert (rows["skaddr"] == made.events["skaddr"][own]).all()
    assert (rows["first_seen_ns"] <= made.events["ts_ns"][own].astype(np.int64)).all()
    assert (made.events["ts_ns"][own].astype(np.int64) <= rows["last_ns"]).all()


def adopted_then_closed(skaddr: int) -> tuple[EventBatch, EventBatch]:
    """A socket found open, at an address that is a stand-in; later its transitions at its own."""
    found = event(S.ESTABLISHED, S.ESTABLISHED, START_NS, skaddr=SKADDR, also=EventFlag.ADOPTED)
    rest = path("peer", [START_NS + SECOND + each for each in range(5)], skaddr=skaddr)[2:]
    return EventBatch(trace(found), "ebpf", 1), EventBatch(trace(*rest), "ebpf", 1)


@pytest.mark.parametrize("skaddr", [SKADDR, SKADDR + 0x40_0000])
def test_a_socket_that_was_found_open_has_the_transitions_that_came_later(skaddr: int) -> None:
    assert connection_of(collected_of(*adopted_then_closed(skaddr))).tolist() == [0, 0, 0]


def test_a_connection_keeps_its_transitions_over_a_change_of_source() -> None:
    life = path("peer", [START_NS + each * SECOND for each in range(5)])
    for each in life[3:]:
        each["skaddr"] = 77
    times = {"lost_since_ns": START_NS + 2 * SECOND, "lost_until_ns": START_NS + 2 * SECOND + 1}
    found = event(S.CLOSE_WAIT, S.CLOSE_WAIT, START_NS + 2 * SECOND + 1, skaddr=77, also=EventFlag.ADOPTED)
    after = EventBatch(trace(found, *life[3:]), "polled", 50 * MS, switched="ebpf died", **times)
    made = collected_of(EventBatch(trace(*life[:3]), "ebpf", 1), after)
    assert len(made.rows) == 1
    assert connection_of(made).tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("name", ["registry-pull", "missing-syn", "lost-events", "lab-loop-429", "lab-dockerd-stalled"])
def test_in_a_real_trace_every_connection_gets_its_first_and_its_last_transition(name: str) -> None:
    made = collected_replay(name)
    first_ns, last_ns = bounds_of(made)
    opened, closed = made.rows["opened_ns"] >= 0, made.rows["closed_ns"] >= 0
    assert (first_ns[opened] == made.rows["opened_ns"][opened]).all()
    assert (last_ns[closed] == made.rows["closed_ns"][closed]).all()
    assert opened.any()


@pytest.mark.parametrize("with_records", [True, False])
@pytest.mark.parametrize("seed", [0])
def test_in_what_a_poller_makes_of_a_trace_too(seed: int, with_records: bool) -> None:
    looks_ns = (START_NS + np.cumsum(np.random.default_rng(seed).integers(1, 300, 200)) * MS).tolist()
    made = collected_of(*polled(trace_of_seed(seed, 60), looks_ns, with_records))
    first_ns, last_ns = bounds_of(made)
    opened, closed = made.rows["opened_ns"] >= 0, made.rows["closed_ns"] >= 0
    assert (first_ns[opened] == made.rows["opened_ns"][opened]).all()
    assert (last_ns[closed] == made.rows["closed_ns"][closed]).all()
    assert (connection_of(made) >= 0).all()
    assert closed.sum() > 3


def bounds_of(made: Collected) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Time of the first and the last transition of each connection, -1 where it has none."""
    bounds = np.full((2, len(made.rows)), -1, np.int64)
    for owner, ts_ns in zip(connection_of(made).tolist(), made.events["ts_ns"].tolist(), strict=True):
        if owner != NOBODY:
            bounds[0, owner] = ts_ns if bounds[0, owner] < 0 else bounds[0, owner]
            bounds[1, owner] = ts_ns
    return bounds[0], bounds[1]


def test_a_trace_without_transitions_has_nobody() -> None:
    assert connection_of(collected_of()).tolist() == []
