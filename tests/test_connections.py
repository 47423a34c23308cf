"""Connections: every documented rule by hand, and random traces against the naive reference, however they are cut."""

from __future__ import annotations

import errno
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import naive
from tests.traces import (
    LADDR,
    MS,
    NETNS,
    PATHS,
    RADDR,
    SECOND,
    SKADDR,
    START_NS,
    Life,
    as_dicts,
    assert_same_however_cut,
    build,
    event,
    garbage_of_seed,
    path,
    rows_of,
    sample,
    trace,
    trace_of_seed,
    traces,
    v4,
)
from tracer.connections import ConnectionTracker, Step
from tracer.events import EventBatch, EventFlag, Events, TcpState, is_opening
from tracer.rows import blank_connections

S = TcpState
Rows = list[dict[str, Any]]


def tracked(*events: np.void, losses: tuple[int, ...] = ()) -> tuple[Rows, Rows]:
    """(ended, open) after these events, fed in one piece (one per loss)."""
    tracker = ConnectionTracker()
    ended: Rows = []
    edges = [0, *losses, len(events)]
    for start, end in pairwise(edges):
        if start in losses:
            tracker.note_loss()
        ended += rows_of(tracker.feed(trace(*events[start:end])).ended)
    return ended, rows_of(tracker.open())


def only(rows: Rows) -> dict[str, Any]:
    assert len(rows) == 1
    return rows[0]


def ended(*events: np.void) -> dict[str, Any]:
    return only(tracked(*events)[0])


def opened(*events: np.void) -> dict[str, Any]:
    return only(tracked(*events)[1])


# --- one connection


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("peer", "peer"),
        ("peer-then-reset", "peer"),
        ("local", "local"),
        ("local-no-fin-wait2", "local"),
        ("closing", "local"),
        ("reset", "reset"),
        ("broken-pipe", "reset"),
        ("local-reset", "local-reset"),
        ("timed-out", "timeout"),
        ("refused", "refused"),
        ("timeout", "timeout"),
        ("unreachable", "unreachable"),
        ("aborted", "aborted"),
        ("simultaneous-open", "peer"),
    ],
)
def test_a_whole_life_has_its_close_reason(name: str, reason: str) -> None:
    assert ended(*path(name, range(100, 200, 10)))["close_reason"] == reason


def test_times_of_a_whole_life() -> None:
    row = ended(*path("local", (100, 130, 1130, 1140, 1200)))
    names = ("first_seen_ns", "opened_ns", "established_ns", "closed_ns", "connect_ns", "lifetime_ns", "last_ns")
    assert [row[name] for name in names] == [100, 100, 130, 1200, 30, 1100, 1200]


def test_time_in_each_state_is_from_its_first_to_its_last_event() -> None:
    states = ended(*path("local", (100, 130, 1130, 1140, 1200)))["state_ns"]
    known = {S(state).name: spent for state, spent in enumerate(states) if spent >= 0}
    assert known == {"SYN_SENT": 30, "ESTABLISHED": 1000, "FIN_WAIT1": 10, "FIN_WAIT2": 60}


def test_the_states_of_a_whole_life_add_up_to_its_lifetime() -> None:
    row = ended(*path("peer", (5, 17, 99, 1000, 1001)))
    assert sum(spent for spent in row["state_ns"] if spent > 0) == row["lifetime_ns"]


def test_the_owner_is_the_task_of_the_opening_and_not_of_later_events() -> None:
    row = ended(*path("peer", range(1, 6)))
    assert (row["pid"], row["comm"], row["cgroup_id"]) == (812, b"dockerd", 3001)


def test_without_its_opening_a_connection_has_no_owner() -> None:
    row = ended(*path("peer", range(1, 6))[1:])
    assert (row["pid"], row["comm"], row["cgroup_id"]) == (-1, b"", -1)


def test_an_opening_whose_task_was_not_read_has_no_owner() -> None:
    row = opened(event(S.CLOSE, S.SYN_SENT, 1, without=EventFlag.HAS_TASK))
    assert (row["pid"], row["comm"], row["cgroup_id"]) == (-1, b"", 3001)


def test_a_value_that_was_never_read_is_unknown_and_not_zero() -> None:
    row = ended(event(S.SYN_SENT, S.CLOSE, 1, flags=0))
    names = ("netns", "lport", "pid", "cgroup_id", "bytes_received", "bytes_acked", "retransmits", "srtt_us", "sk_err")
    assert [row[name] for name in names] == [-1] * len(names)
    assert row["laddr"] == bytes(16)


def test_the_ends_are_those_of_the_events() -> None:
    row = ended(*path("refused", (1, 2)))
    assert (row["laddr"], row["lport"], row["raddr"], row["rport"]) == (LADDR, 40_000, RADDR, 443)


def test_the_local_port_is_unknown_while_only_the_opening_was_seen() -> None:
    assert opened(event(S.CLOSE, S.SYN_SENT, 1))["lport"] == -1


def test_counters_are_the_last_ones_that_were_read() -> None:
    life = path("peer", range(1, 6))
    for number, made in enumerate(life):
        made["bytes_received"], made["retransmits"] = 10 * number, number
    life[-1]["flags"] &= ~np.uint32(EventFlag.HAS_RECEIVED)
    row = ended(*life)
    assert (row["bytes_received"], row["retransmits"]) == (30, 4)


def test_unread_bytes_and_idle_time_are_those_at_the_end_of_established() -> None:
    life = path("peer", range(1, 6))
    for number, made in enumerate(life):
        made["unread_bytes"], made["idle_ms"] = 100 + number, 200 + number
    row = ended(*life)
    assert (row["unread_bytes"], row["idle_ms"]) == (102, 202)


def test_sk_err_is_that_of_the_close_only() -> None:
    life = path("peer-then-reset", range(1, 5))
    life[2]["sk_err"] = errno.EPIPE
    assert ended(*life)["sk_err"] == errno.ECONNRESET
    assert opened(*life[:3])["sk_err"] == -1


def test_a_reset_after_the_peers_fin_does_not_revise_the_verdict() -> None:
    assert ended(*path("peer-then-reset", range(1, 5)))["close_reason"] == "peer"


def test_the_verdict_stands_when_the_next_event_is_in_another_batch() -> None:
    tracker = ConnectionTracker()
    life = path("peer-then-reset", range(1, 5))
    tracker.feed(trace(*life[:3]))
    assert only(rows_of(tracker.feed(trace(*life[3:])).ended))["close_reason"] == "peer"


def test_self_transitions_are_dropped() -> None:
    life = path("peer", (1, 2, 30, 40, 50))
    assert tracked(*life[:2], event(S.ESTABLISHED, S.ESTABLISHED, 9), *life[2:]) == tracked(*life)


# --- identity


def test_a_reused_socket_address_is_another_connection() -> None:
    ends, _ = tracked(*path("peer", range(1, 6)), *path("refused", (5, 6)))
    assert [(row["opened_ns"], row["close_reason"]) for row in ends] == [(1, "peer"), (5, "refused")]


def test_one_socket_address_in_two_network_namespaces_is_two_connections() -> None:
    life, other = path("local", (1, 3, 5, 7, 9)), path("peer", (2, 4, 6, 8, 10), netns=NETNS + 1)
    ends, _ = tracked(*(made for pair in zip(life, other, strict=True) for made in pair))
    assert [(row["netns"], row["close_reason"]) for row in ends] == [(NETNS, "local"), (NETNS + 1, "peer")]


def test_the_same_ends_at_two_socket_addresses_are_two_connections() -> None:
    _, still = tracked(*path("peer", (1, 2)), *path("peer", (3, 4), skaddr=SKADDR + 64))
    assert [row["skaddr"] for row in still] == [SKADDR, SKADDR + 64]


def test_an_opening_cuts_off_the_connection_before_it() -> None:
    ends, still = tracked(*path("peer", (1, 2)), event(S.CLOSE, S.SYN_SENT, 7))
    row = only(ends)
    assert (row["close_reason"], row["closed_ns"], row["lifetime_ns"], row["last_ns"]) == ("unknown", -1, -1, 2)
    assert only(still)["opened_ns"] == 7


def test_a_cut_off_connection_keeps_the_verdict_it_had() -> None:
    ends, _ = tracked(*path("peer", (1, 2, 3)), event(S.CLOSE, S.SYN_SENT, 7))
    assert (only(ends)["close_reason"], only(ends)["closed_ns"]) == ("peer", -1)


def test_an_event_of_an_earlier_state_is_another_connections() -> None:
    ends, still = tracked(*path("local", (1, 2, 3, 4)), event(S.SYN_SENT, S.ESTABLISHED, 9))
    assert only(ends)["last_state"] == S.FIN_WAIT2
    assert (only(still)["first_seen_ns"], only(still)["opened_ns"]) == (9, -1)


@pytest.mark.parametrize("other", [{"sport": 40_001}, {"daddr": v4("203.0.113.8")}, {"dport": 5000}])
def test_an_event_with_other_ends_after_missing_ones_is_another_connections(other: dict[str, Any]) -> None:
    ends, _ = tracked(*path("peer", (1, 2)), event(S.LAST_ACK, S.CLOSE, 9, **other))
    assert [(row["first_seen_ns"], row["close_reason"]) for row in ends] == [(1, "unknown"), (9, "peer")]


@pytest.mark.parametrize("other", [{"sport": 40_001}, {"daddr": v4("203.0.113.8")}, {"dport": 5000}])
def test_an_event_with_other_ends_is_another_connections_even_if_its_state_fits(other: dict[str, Any]) -> None:
    """The end of the first and the beginning of the second were lost: both were established then."""
    ends, still = tracked(*path("peer", (1, 2)), event(S.ESTABLISHED, S.CLOSE_WAIT, 9, **other))
    assert only(ends)["close_reason"] == "unknown"
    assert only(still)["first_seen_ns"] == 9


def test_the_local_port_that_tells_connections_apart_is_the_last_known_one() -> None:
    """A later event without a port does not make the connection forget it."""
    unread = event(S.ESTABLISHED, S.CLOSE_WAIT, 3, without=EventFlag.HAS_SPORT)
    ends, _ = tracked(*path("peer", (1, 2)), unread, event(S.LAST_ACK, S.CLOSE, 9, sport=40_001))
    assert [(row["lport"], row["first_seen_ns"]) for row in ends] == [(40_000, 1), (40_001, 9)]


def test_an_event_after_a_close_begins_a_connection() -> None:
    ends, _ = tracked(event(S.SYN_SENT, S.CLOSE, 1), event(S.LAST_ACK, S.CLOSE, 2))
    assert [row["first_seen_ns"] for row in ends] == [1, 2]


# --- holes


def test_a_connection_goes_on_over_missing_transitions_and_says_so() -> None:
    life = path("local", (100, 130, 1130, 1140, 1200))
    row = ended(*life[:2], life[4])
    assert (row["gap"], row["close_reason"], row["lifetime_ns"]) == (True, "local", 1100)


def test_the_time_over_a_gap_belongs_to_no_state() -> None:
    life = path("local", (100, 130, 1130, 1140, 1200))
    states = ended(*life[:2], life[4])["state_ns"]
    assert {S(state).name: spent for state, spent in enumerate(states) if spent >= 0} == {"SYN_SENT": 30}


def test_a_cut_off_connection_misses_its_end() -> None:
    ends, _ = tracked(*path("peer", (1, 2)), event(S.CLOSE, S.SYN_SENT, 7))
    assert only(ends)["gap"]


def test_a_whole_life_has_no_gap() -> None:
    assert not ended(*path("closing", range(1, 6)))["gap"]


def test_a_connection_first_seen_late_was_there_before() -> None:
    row = ended(*path("peer", range(1, 6))[2:])
    assert (row["preexisting"], row["opened_ns"], row["connect_ns"], row["lifetime_ns"]) == (1, -1, -1, -1)


def test_a_connection_whose_opening_was_seen_was_not_there_before() -> None:
    assert ended(*path("peer", range(1, 6)))["preexisting"] == 0


def test_after_a_loss_a_connection_first_seen_late_may_have_been_opened_in_the_gap() -> None:
    first, second = path("peer", range(1, 6))[2:], path("peer", range(11, 16), skaddr=SKADDR + 64)[2:]
    ends, _ = tracked(*first, *second, losses=(3,))
    assert [row["preexisting"] for row in ends] == [1, -1]


def test_after_a_loss_an_opening_that_was_seen_is_still_known() -> None:
    ends, _ = tracked(*path("refused", (1, 2)), *path("refused", (3, 4)), losses=(2,))
    assert [row["preexisting"] for row in ends] == [0, 0]


# --- from outside


@pytest.mark.parametrize("start", [0, 1])
def test_a_connection_first_seen_in_syn_recv_or_listen_is_not_reported(start: int) -> None:
    tracker = ConnectionTracker()
    step = tracker.feed(trace(*path("inbound", range(1, 6))[start:]))
    assert not len(step.ended)
    assert not len(step.change)
    assert tracker.inbound == 1


def test_an_open_connection_from_outside_is_not_reported() -> None:
    tracker = ConnectionTracker()
    tracker.feed(trace(*path("inbound", (1, 2))))
    assert not len(tracker.open())


def test_an_open_connection_from_outside_is_counted() -> None:
    """As the attribute says: connections from outside "that ended or are open"."""
    tracker = ConnectionTracker()
    tracker.feed(trace(*path("inbound", (1, 2))))
    assert tracker.inbound == 1


def test_a_listening_socket_is_no_connection() -> None:
    """With 0.0.0.0/0 watched, a listener's remote address 0.0.0.0 is."""
    ends, still = tracked(*path("listener", (1, 2), daddr=v4("0.0.0.0"), dport=0))
    assert not ends
    assert not still


def test_a_listening_socket_is_not_open() -> None:
    assert not tracked(*path("listener", (1,), daddr=v4("0.0.0.0"), dport=0))[1]


def test_a_simultaneous_open_is_our_own() -> None:
    assert ended(*path("simultaneous-open", range(1, 7)))["opened_ns"] == 1


# --- samples


def test_a_sample_brings_the_counters_of_an_open_connection() -> None:
    row = opened(*path("peer", (1, 2)), sample(S.ESTABLISHED, 50, bytes_received=9000, idle_ms=3, unread_bytes=5))
    assert (row["bytes_received"], row["idle_ms"], row["unread_bytes"], row["last_ns"]) == (9000, 3, 5, 50)


def test_a_sample_adds_the_time_so_far_to_its_state() -> None:
    row = opened(*path("peer", (1, 2)), sample(S.ESTABLISHED, 50), sample(S.ESTABLISHED, 70))
    assert row["state_ns"][S.ESTABLISHED] == 68


def test_samples_do_not_change_what_a_connection_comes_to() -> None:
    life = path("peer", (1, 2, 100, 110, 120))
    plain = ended(*life)
    assert ended(*life[:2], sample(S.ESTABLISHED, 50), *life[2:]) == plain


def test_a_sample_is_not_an_owner_of_anything() -> None:
    row = opened(*path("peer", (1, 2)), sample(S.ESTABLISHED, 50, pid=99, comm=b"regtrace", without=EventFlag(0)))
    assert row["pid"] == 812


@pytest.mark.parametrize(
    "events",
    [
        (sample(S.ESTABLISHED, 1),),
        (*path("peer", (1, 2, 3)), sample(S.ESTABLISHED, 4, bytes_received=77)),
        (*path("refused", (1, 2)), sample(S.SYN_SENT, 3)),
        (*path("refused", (1, 2)), sample(S.CLOSE, 3)),
        (*path("peer", (1, 2)), sample(S.ESTABLISHED, 4, skaddr=SKADDR + 64)),
        (*path("peer", (1, 2)), sample(S.ESTABLISHED, 4, daddr=v4("203.0.113.9"))),
        (*path("peer", (1, 2)), sample(S.ESTABLISHED, 4, sport=40_001)),
    ],
    ids=["no connection", "state left", "closed", "of a closed one", "other socket", "other peer", "other port"],
)
def test_a_sample_that_fits_no_connection_is_dropped_and_counted(events: tuple[np.void, ...]) -> None:
    tracker, without = ConnectionTracker(), ConnectionTracker()
    ends, same = tracker.feed(trace(*events)).ended, without.feed(trace(*events[:-1])).ended
    assert (rows_of(ends), rows_of(tracker.open())) == (rows_of(same), rows_of(without.open()))
    assert (tracker.orphan_samples, without.orphan_samples) == (1, 0)


# --- open ones


def test_an_open_connection_is_open() -> None:
    row = opened(*path("peer", (1, 2)))
    assert (row["close_reason"], row["closed_ns"], row["lifetime_ns"], row["connect_ns"]) == ("open", -1, -1, 1)


def test_what_an_established_connection_transferred_is_unknown_until_sampled() -> None:
    row = opened(*path("peer", (1, 2), bytes_received=0))
    assert (row["bytes_received"], row["bytes_acked"], row["retransmits"]) == (-1, -1, -1)


def test_what_a_connection_transferred_is_known_once_established_was_left() -> None:
    assert opened(*path("peer", (1, 2, 3), bytes_received=512))["bytes_received"] == 512


def test_asking_for_open_connections_changes_nothing() -> None:
    tracker = ConnectionTracker()
    tracker.feed(trace(*path("peer", (1, 2))))
    before = rows_of(tracker.open())
    tracker.open()["pid"] = 5
    assert rows_of(tracker.open()) == before
    assert only(rows_of(tracker.feed(trace(event(S.ESTABLISHED, S.CLOSE, 9))).ended))["close_reason"] == "local-reset"


def test_open_connections_are_in_the_order_of_their_first_event() -> None:
    events = [event(S.CLOSE, S.SYN_SENT, 10 + number, skaddr=SKADDR + 64 * (7 - number)) for number in range(7)]
    assert [row["first_seen_ns"] for row in tracked(*events)[1]] == list(range(10, 17))


def test_open_socket_addresses_are_those_of_open_connections() -> None:
    tracker = ConnectionTracker()
    tracker.feed(trace(*path("refused", (1, 2)), *path("peer", (3, 4), skaddr=SKADDR + 64)))
    assert tracker.open_skaddrs().tolist() == [SKADDR + 64]


def test_many_open_connections_are_all_kept() -> None:
    events = [event(S.CLOSE, S.SYN_SENT, number, skaddr=SKADDR + 64 * number) for number in range(1, 1500)]
    assert len(tracked(*events)[1]) == 1499


# --- steps


def test_connections_end_in_the_order_of_their_last_events() -> None:
    first, second = path("local", (1, 3, 4, 6, 20)), path("reset", (2, 5, 10), skaddr=SKADDR - 64)
    ends, _ = tracked(*sorted([*first, *second], key=lambda made: int(made["ts_ns"])))
    assert [row["closed_ns"] for row in ends] == [10, 20]


def test_a_step_counts_a_connection_in_and_out() -> None:
    step = ConnectionTracker().feed(trace(*path("refused", (1, 2), endpoint_id=3)))
    assert (step.endpoint_id.tolist(), step.change.tolist()) == ([3, 3], [1, -1])


def test_a_cut_off_connection_is_counted_out_before_the_next_is_counted_in() -> None:
    step = ConnectionTracker().feed(trace(*path("peer", (1, 2)), event(S.CLOSE, S.SYN_SENT, 7)))
    assert step.change.tolist() == [1, -1, 1]


def test_no_events_are_no_step() -> None:
    step = ConnectionTracker().feed(trace())
    assert (len(step.ended), len(step.endpoint_id), len(step.change)) == (0, 0, 0)


def test_is_opening_is_close_to_syn_sent_and_nothing_else() -> None:
    events = trace(*(event(old, new, 1) for old in TcpState for new in TcpState))
    found = events[is_opening(events)]
    assert [(made["old_state"], made["new_state"]) for made in found] == [(S.CLOSE, S.SYN_SENT)]


def test_of_a_blank_row_nothing_is_known() -> None:
    row = rows_of(blank_connections(1))[0]
    assert (row["pid"], row["lifetime_ns"], row["sk_err"], row["close_reason"]) == (-1, -1, -1, None)
    assert row["state_ns"] == [-1] * 13


# --- against the naive reference, and however cut


def whole(batches: list[EventBatch]) -> tuple[Rows, Rows, list[tuple[int, int]], int, int]:
    """Everything a tracker says about a trace."""
    tracker = ConnectionTracker()
    steps: list[Step] = []
    for batch in batches:
        if batch.lost:
            tracker.note_loss()
        steps.append(tracker.feed(batch.events))
    ends = [row for step in steps for row in rows_of(step.ended)]
    changes = [pair for step in steps for pair in zip(step.endpoint_id.tolist(), step.change.tolist(), strict=True)]
    return ends, rows_of(tracker.open()), changes, tracker.inbound, tracker.orphan_samples


def assert_as_naive(events: Events) -> None:
    expected = naive.connections(as_dicts(events))
    ends, still, changes, _, orphans = whole([EventBatch(events, "ebpf", 1)])
    assert ends == expected.ended
    assert still == expected.open
    assert orphans == expected.orphan_samples
    assert {endpoint: sum(by for at, by in changes if at == endpoint) for endpoint, _ in changes} == expected.open_now


@settings(max_examples=120, deadline=None)
@given(traces())
def test_whole_traces_agree_with_naive(events: Events) -> None:
    assert_as_naive(events)


@settings(max_examples=200, deadline=None)
@given(traces(holes=True))
def test_traces_with_holes_agree_with_naive(events: Events) -> None:
    assert_as_naive(events)


@pytest.mark.parametrize("holes", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_long_traces_agree_with_naive(seed: int, holes: float) -> None:
    assert_as_naive(trace_of_seed(seed, 400, holes))


@pytest.mark.parametrize("seed", range(8))
def test_garbage_agrees_with_naive(seed: int) -> None:
    assert_as_naive(garbage_of_seed(seed))


@settings(max_examples=60, deadline=None)
@given(traces(holes=True), st.integers(0, 99), st.booleans())
def test_connections_are_the_same_however_a_trace_is_cut(events: Events, seed: int, lossy: bool) -> None:
    losses = {len(events) // 2: 3} if lossy else {}
    assert_same_however_cut(whole, events, losses, seed)


@pytest.mark.parametrize("holes", [0.0, 0.3])
@pytest.mark.parametrize("seed", [4, 5])
def test_long_traces_are_the_same_however_cut(seed: int, holes: float) -> None:
    assert_same_however_cut(whole, trace_of_seed(seed, 150, holes), {200: 7}, seed)


@pytest.mark.parametrize("seed", range(6))
def test_garbage_is_the_same_however_cut(seed: int) -> None:
    assert_same_however_cut(whole, garbage_of_seed(seed, 150), seed=seed)


def test_open_connections_of_the_same_moment_are_in_the_same_order_however_cut() -> None:
    events = trace(*(event(S.CLOSE, S.SYN_SENT, 5, netns=netns) for netns in (NETNS, NETNS + 9)))
    assert_same_however_cut(whole, events)


def test_a_port_that_was_not_read_gives_the_same_however_cut() -> None:
    unread = event(S.ESTABLISHED, S.CLOSE_WAIT, 3, without=EventFlag.HAS_SPORT)
    assert_same_however_cut(whole, trace(*path("peer", (1, 2)), unread, event(S.LAST_ACK, S.CLOSE, 9, sport=40_001)))


def test_every_legal_path_in_turn_at_one_socket_ends_as_often() -> None:
    outgoing = [name for name in PATHS if name not in ("inbound", "listener")]
    events = build([Life(name, gaps_ns=(0, MS, SECOND)) for name in outgoing])
    assert len(ConnectionTracker().feed(events).ended) == len(outgoing)


def test_a_connection_not_heard_of_since_a_loss_may_have_ended() -> None:
    """Not open, which would be a guess: unknown, with a gap; an event after the loss settles it."""
    tracker = ConnectionTracker()
    tracker.feed(trace(*path("peer", (1, 2))))
    tracker.note_loss(5)
    row = only(rows_of(tracker.open()))
    assert (row["close_reason"], row["gap"]) == ("unknown", True)
    tracker.feed(trace(sample(S.ESTABLISHED, 7)))
    assert only(rows_of(tracker.open()))["close_reason"] == "open"


def test_failing_connects_without_a_port_are_not_taken_one_by_one() -> None:
    """Port exhaustion makes thousands a second; a connection with a port beside them must not slow them down."""
    tracker = ConnectionTracker()
    tracker.feed(trace(*path("peer", range(1, 6))))
    unbound = trace(event(S.SYN_SENT, S.CLOSE, 9, without=EventFlag.HAS_SPORT))
    assert not len(tracker._cuts(unbound))


# --- times that are known to lie in an interval


def polled(*steps: tuple[int, int]) -> ConnectionTracker | Any:
    """The transitions of "peer" at these (times, how much earlier), all fed at once; the row that came of it."""
    tracker = ConnectionTracker()
    step = tracker.feed(trace(*path("peer", [at_ns for at_ns, _ in steps])), np.array([early for _, early in steps], np.uint64))
    return step.ended[0] if len(step.ended) else tracker.open()[0]


def test_what_was_seen_in_one_look_has_no_known_length() -> None:
    row = polled((START_NS, MS), (START_NS, MS), (START_NS, MS), (START_NS, MS), (START_NS, MS))
    assert (row["connect_ns"], row["lifetime_ns"]) == (-1, -1)
    assert row["state_ns"].max() == -1
    assert (row["opened_early_ns"], row["established_early_ns"], row["closed_early_ns"]) == (MS, MS, MS)
    assert not row["gap"]


def test_what_was_seen_in_several_looks_has_a_length_and_bounds() -> None:
    row = polled((START_NS, MS), (START_NS, MS), (START_NS + SECOND, 2 * MS), (START_NS + SECOND, 2 * MS), (START_NS + SECOND, 0))
    assert (row["connect_ns"], row["lifetime_ns"], row["state_ns"][S.ESTABLISHED]) == (-1, SECOND, SECOND)
    assert (row["opened_early_ns"], row["closed_early_ns"]) == (MS, 0)


def test_an_open_connection_has_no_bounds_of_its_end() -> None:
    row = polled((START_NS, MS), (START_NS + SECOND, 2 * MS))
    assert (row["established_early_ns"], row["closed_early_ns"], row["connect_ns"]) == (2 * MS, 0, SECOND)


def test_exact_times_may_be_equal() -> None:
    row = polled((START_NS, 0), (START_NS, 0), (START_NS, 0), (START_NS, 0), (START_NS, 0))
    assert (row["connect_ns"], row["lifetime_ns"], row["state_ns"][S.ESTABLISHED]) == (0, 0, 0)
