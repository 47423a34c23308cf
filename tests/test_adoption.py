"""Connections that were open before: found by a snapshot, and going on under the address that the kernel shows later."""

from __future__ import annotations

from tests.traces import MS, SECOND, START_NS, S, event, path, trace, v4
from tracer.adoption import with_found
from tracer.connections import ConnectionTracker
from tracer.events import EventFlag
from tracer.lifecycle import REASON_NAMES

NUMBER = 1 << 32
"""What a snapshot calls a socket."""
OWNED = EventFlag.ADOPTED | EventFlag.OWNER


def adopted(state: S, ts_ns: int, **fields: object) -> object:
    values = {"skaddr": NUMBER, "pid": 77, "comm": b"dockerd", "cgroup_id": 5, "also": OWNED} | fields
    return event(state, state, ts_ns, **values)


def test_a_socket_that_was_found_open_is_a_connection_with_its_owner() -> None:
    tracker = ConnectionTracker()
    step = tracker.feed(trace(adopted(S.ESTABLISHED, START_NS)))
    (row,) = tracker.open()
    assert (row["pid"], row["comm"], row["preexisting"], row["opened_ns"]) == (77, b"dockerd", 1, -1)
    assert step.change.tolist() == [1]


def test_it_was_open_before_even_where_events_were_lost() -> None:
    tracker = ConnectionTracker()
    tracker.note_loss(START_NS)
    tracker.feed(trace(adopted(S.ESTABLISHED, START_NS + 1)))
    assert tracker.open()["preexisting"].tolist() == [1]


def test_it_goes_on_under_the_address_of_its_socket() -> None:
    tracker = ConnectionTracker()
    tracker.feed(trace(adopted(S.ESTABLISHED, START_NS)))
    life = path("peer", [0, 0, START_NS + SECOND, START_NS + SECOND + MS, START_NS + SECOND + 2 * MS])[2:]
    steps = [tracker.feed(trace(each)) for each in life]
    (row,) = steps[-1].ended
    assert (row["pid"], row["skaddr"], REASON_NAMES[row["close_reason"]]) == (77, life[0]["skaddr"], "peer")
    assert row["state_ns"][S.ESTABLISHED] == SECOND
    assert not len(tracker.open())


def test_another_connection_with_other_ends_does_not_take_it() -> None:
    tracker = ConnectionTracker()
    tracker.feed(trace(adopted(S.ESTABLISHED, START_NS)))
    tracker.feed(trace(event(S.ESTABLISHED, S.CLOSE_WAIT, START_NS + SECOND, sport=40_001)))
    assert sorted(tracker.open()["pid"].tolist()) == [-1, 77]


def test_a_socket_whose_connection_is_known_already_is_not_counted_again() -> None:
    tracker = ConnectionTracker()
    tracker.feed(trace(*path("peer", [START_NS, START_NS + MS])))
    step = tracker.feed(trace(adopted(S.ESTABLISHED, START_NS + 2 * MS)))
    assert len(tracker.open()) == 1
    assert not len(step.change)


def test_it_is_known_even_where_both_come_at_once() -> None:
    tracker = ConnectionTracker()
    tracker.feed(trace(*path("peer", [START_NS, START_NS + MS]), adopted(S.ESTABLISHED, START_NS + 2 * MS)))
    assert tracker.open()["preexisting"].tolist() == [0]


def test_a_later_connection_on_the_same_ends_is_another_one() -> None:
    tracker = ConnectionTracker()
    tracker.feed(trace(adopted(S.ESTABLISHED, START_NS)))
    ended = tracker.feed(trace(event(S.ESTABLISHED, S.CLOSE, START_NS + MS, skaddr=NUMBER))).ended
    tracker.feed(trace(*path("peer", [START_NS + 2 * MS, START_NS + 3 * MS])))
    assert len(ended) == 1
    assert tracker.open()["preexisting"].tolist() == [0]


def test_a_source_s_first_events_follow_what_was_found_open_and_goes_on() -> None:
    life = path("peer", [0, 0, START_NS, START_NS + MS, START_NS + 2 * MS])[2:]
    found = trace(adopted(S.ESTABLISHED, START_NS + MS))
    events = with_found(found, trace(*life))
    (row,) = ConnectionTracker().feed(events).ended
    assert (row["pid"], REASON_NAMES[row["close_reason"]], row["preexisting"]) == (77, "peer", 1)


def test_what_is_established_among_the_first_events_is_not_found_again() -> None:
    life = path("peer", [START_NS, START_NS + MS])
    assert len(with_found(trace(adopted(S.ESTABLISHED, START_NS + MS)), trace(*life))) == len(life)


def test_an_attempt_under_way_is_not_found_again() -> None:
    life = path("peer", [START_NS])
    assert len(with_found(trace(adopted(S.SYN_SENT, START_NS + MS)), trace(*life))) == len(life)


def test_what_is_silent_is_found_behind_the_first_events() -> None:
    other = path("peer", [START_NS + SECOND], daddr=v4("192.0.2.9"))
    events = with_found(trace(adopted(S.ESTABLISHED, START_NS)), trace(*other))
    assert events["skaddr"].tolist()[-1] == NUMBER
    assert events["ts_ns"].tolist() == sorted(events["ts_ns"].tolist())


def test_after_a_switch_a_row_goes_on_under_the_new_source_s_number() -> None:
    tracker = ConnectionTracker()
    tracker.feed(trace(*path("peer", [START_NS, START_NS + MS])))
    tracker.note_loss(START_NS + SECOND)
    tracker.note_switch()
    step = tracker.feed(trace(adopted(S.CLOSE_WAIT, START_NS + SECOND)))
    (row,) = tracker.open()
    assert (row["skaddr"], row["opened_ns"], row["comm"], bool(row["gap"])) == (NUMBER, START_NS, b"dockerd", True)
    assert not len(step.change)
    ended = tracker.feed(trace(event(S.CLOSE_WAIT, S.CLOSE, START_NS + 2 * SECOND, skaddr=NUMBER))).ended
    assert ended["opened_ns"].tolist() == [START_NS]
