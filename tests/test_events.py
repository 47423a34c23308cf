"""Events and batches: what a batch refuses, and what is valid of an event. The layout is compared in test_wire.py."""

from __future__ import annotations

import numpy as np
import pytest

from tests.traces import event, trace
from tracer.errors import SourceError
from tracer.events import EVENT_DTYPE, FIELD_FLAGS, N_STATES, EventBatch, EventFlag, TcpState, no_events, valid

S = TcpState


def batch(*events: np.void, **fields: object) -> EventBatch:
    return EventBatch(trace(*events), "ebpf", 1, **fields)


def one() -> np.void:
    return event(S.SYN_SENT, S.ESTABLISHED, 5)


def test_a_batch_has_the_length_of_its_events() -> None:
    assert len(batch(one(), one())) == 2


def test_the_events_of_a_batch_are_frozen() -> None:
    with pytest.raises(ValueError, match="read-only"):
        batch(one()).events["ts_ns"] = 1


def test_a_batch_without_a_loss_lost_nothing() -> None:
    made = batch(one())
    assert (made.lost, made.lost_since_ns, made.lost_until_ns, made.early_ns, made.endpoints) == (0, 0, 0, None, ())


@pytest.mark.parametrize("events", [np.zeros(3, "u8"), np.zeros((2, 2), EVENT_DTYPE), np.zeros((), EVENT_DTYPE)])
def test_what_is_no_row_of_events_is_no_batch(events: np.ndarray) -> None:
    with pytest.raises(SourceError, match="not events"):
        EventBatch(events, "ebpf", 1)


@pytest.mark.parametrize("field", ["old_state", "new_state"])
@pytest.mark.parametrize("state", [0, N_STATES, 255])
def test_a_state_that_no_tcp_has_is_refused_with_its_place(field: str, state: int) -> None:
    wrong = one()
    wrong[field] = state
    with pytest.raises(SourceError, match=rf"\[1\] have a {field} .*\[{state}\]"):
        batch(one(), wrong)


@pytest.mark.parametrize("state", TcpState)
def test_every_state_of_the_kernel_is_taken(state: TcpState) -> None:
    assert len(batch(event(state, S.CLOSE, 1), event(S.CLOSE, state, 2))) == 2


@pytest.mark.parametrize(("lost", "since_ns", "until_ns"), [(-1, 0, 1), (3, 0, 0), (3, 5, 5), (3, 6, 5)])
def test_a_loss_has_a_count_and_an_interval(lost: int, since_ns: int, until_ns: int) -> None:
    with pytest.raises(SourceError, match="lost"):
        batch(one(), lost=lost, lost_since_ns=since_ns, lost_until_ns=until_ns)


def test_a_loss_may_come_without_events() -> None:
    assert batch(lost=2, lost_since_ns=1, lost_until_ns=2).lost == 2


def test_each_event_has_its_early_ns() -> None:
    with pytest.raises(SourceError, match="2 early_ns for 1 events"):
        batch(one(), early_ns=np.zeros(2, np.uint64))


def test_no_events_are_an_empty_array_of_events() -> None:
    assert (no_events().dtype, no_events().shape) == (EVENT_DTYPE, (0,))


@pytest.mark.parametrize(("field", "flag"), FIELD_FLAGS.items())
def test_a_field_is_valid_where_its_flag_is_set_and_nowhere_else(field: str, flag: EventFlag) -> None:
    every = int(sum(EventFlag))
    events = trace(*(event(S.SYN_SENT, S.CLOSE, 1, flags=flags) for flags in (0, int(flag), every & ~int(flag), every)))
    assert valid(events, field).tolist() == [False, True, False, True]


def test_fields_without_a_flag_are_always_valid() -> None:
    events = trace(event(S.SYN_SENT, S.CLOSE, 1, flags=0))
    unflagged = set(EVENT_DTYPE.names or ()) - set(FIELD_FLAGS) - {"flags", "reserved"}
    assert unflagged == {"ts_ns", "skaddr", "daddr", "dport", "family", "old_state", "new_state", "endpoint_id"}
    assert all(valid(events, field).all() for field in unflagged)


def test_flags_are_different_bits() -> None:
    assert int(sum(EventFlag)) == (1 << len(EventFlag)) - 1


def test_states_fill_their_axis() -> None:
    assert [int(state) for state in sorted(TcpState)] == list(range(1, N_STATES))
