"""The table of TCP's life cycle and what each transition says about who ended a connection."""

from __future__ import annotations

import errno
from itertools import product

import numpy as np
import pytest

from tests import naive
from tests.traces import PATHS
from tracer.events import N_STATES, EventFlag, TcpState
from tracer.lifecycle import (
    KNOWN,
    KNOWN_TRANSITIONS,
    RANK,
    REASON_BY_ERRNO,
    REASON_BY_TRANSITION,
    REASON_NAMES,
    STATE_NAMES,
    CloseReason,
    close_reasons,
)

S = TcpState


def reason(old: TcpState, new: TcpState, sk_err: int | None = 0) -> CloseReason:
    known = np.array([sk_err is not None])
    states = np.array([old], np.uint8), np.array([new], np.uint8)
    return CloseReason(int(close_reasons(*states, np.array([sk_err or 0], np.uint32), known)[0]))


@pytest.mark.parametrize("name", PATHS)
def test_every_step_of_a_legal_life_is_known(name: str) -> None:
    assert all(KNOWN[old, new] for old, new, _ in PATHS[name])


@pytest.mark.parametrize(
    ("old", "new"),
    [(S.ESTABLISHED, S.SYN_SENT), (S.CLOSE, S.ESTABLISHED), (S.CLOSE_WAIT, S.FIN_WAIT1), (S.FIN_WAIT2, S.TIME_WAIT)],
)
def test_transitions_that_linux_does_not_make_are_not_known(old: TcpState, new: TcpState) -> None:
    assert not KNOWN[old, new]


def test_no_state_is_followed_by_itself() -> None:
    assert not KNOWN.diagonal().any()


def test_the_table_says_the_same_as_the_set() -> None:
    assert {(int(old), int(new)) for old, new in np.argwhere(KNOWN)} == {(int(old), int(new)) for old, new in KNOWN_TRANSITIONS}


def test_time_wait_is_in_no_known_transition() -> None:
    assert not KNOWN[S.TIME_WAIT].any()
    assert not KNOWN[:, S.TIME_WAIT].any()


def test_no_known_transition_of_an_outgoing_connection_goes_backwards() -> None:
    outgoing = [pair for pair in KNOWN_TRANSITIONS if S.LISTEN not in pair and pair[0] != S.CLOSE]
    assert all(RANK[old] < RANK[new] for old, new in outgoing)


@pytest.mark.parametrize("table", [KNOWN, REASON_BY_TRANSITION, REASON_BY_ERRNO])
def test_tables_are_frozen(table: np.ndarray) -> None:
    with pytest.raises(ValueError, match="read-only"):
        table[0, 0] = 1


def test_state_names_are_those_of_the_states() -> None:
    assert list(STATE_NAMES) == ["", *(state.name for state in sorted(TcpState))]


def test_reason_names_are_the_outputs_contract() -> None:
    documented = "undecided open peer local reset local-reset refused timeout unreachable aborted unknown"
    assert list(REASON_NAMES) == documented.split()


@pytest.mark.parametrize(
    ("old", "new", "sk_err", "expected"),
    [
        (S.ESTABLISHED, S.CLOSE_WAIT, 0, CloseReason.PEER),
        (S.ESTABLISHED, S.FIN_WAIT1, 0, CloseReason.LOCAL),
        (S.ESTABLISHED, S.CLOSE, errno.ECONNRESET, CloseReason.RESET),
        (S.ESTABLISHED, S.CLOSE, errno.EPIPE, CloseReason.RESET),
        (S.ESTABLISHED, S.CLOSE, 0, CloseReason.LOCAL_RESET),
        (S.ESTABLISHED, S.CLOSE, errno.ECONNABORTED, CloseReason.LOCAL_RESET),
        (S.ESTABLISHED, S.CLOSE, errno.ETIMEDOUT, CloseReason.TIMEOUT),
        (S.ESTABLISHED, S.CLOSE, errno.EHOSTUNREACH, CloseReason.UNREACHABLE),
        (S.ESTABLISHED, S.CLOSE, errno.ECONNREFUSED, CloseReason.UNKNOWN),
        (S.SYN_SENT, S.CLOSE, errno.ECONNREFUSED, CloseReason.REFUSED),
        (S.SYN_SENT, S.CLOSE, errno.ETIMEDOUT, CloseReason.TIMEOUT),
        (S.SYN_SENT, S.CLOSE, errno.EHOSTUNREACH, CloseReason.UNREACHABLE),
        (S.SYN_SENT, S.CLOSE, errno.ENETUNREACH, CloseReason.UNREACHABLE),
        (S.SYN_SENT, S.CLOSE, 0, CloseReason.ABORTED),
        (S.SYN_SENT, S.CLOSE, errno.ECONNABORTED, CloseReason.ABORTED),
        (S.SYN_SENT, S.CLOSE, errno.EINVAL, CloseReason.UNKNOWN),
        (S.SYN_RECV, S.CLOSE, errno.ECONNREFUSED, CloseReason.REFUSED),
    ],
)
def test_a_transition_decides_the_close_reason(old: TcpState, new: TcpState, sk_err: int, expected: CloseReason) -> None:
    assert reason(old, new, sk_err) is expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (S.CLOSE, S.SYN_SENT),
        (S.SYN_SENT, S.ESTABLISHED),
        (S.SYN_SENT, S.SYN_RECV),
        (S.SYN_RECV, S.ESTABLISHED),
        (S.LISTEN, S.CLOSE),
    ],
)
def test_transitions_that_end_nothing_are_undecided(old: TcpState, new: TcpState) -> None:
    assert reason(old, new) is CloseReason.UNDECIDED


@pytest.mark.parametrize("old", [S.SYN_SENT, S.ESTABLISHED])
@pytest.mark.parametrize("sk_err", [None, 256, 2**32 - 1])
def test_without_a_known_errno_a_straight_close_is_unknown(old: TcpState, sk_err: int | None) -> None:
    assert reason(old, S.CLOSE, sk_err) is CloseReason.UNKNOWN


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        (S.CLOSE_WAIT, CloseReason.PEER),
        (S.LAST_ACK, CloseReason.PEER),
        (S.FIN_WAIT1, CloseReason.LOCAL),
        (S.FIN_WAIT2, CloseReason.LOCAL),
        (S.CLOSING, CloseReason.LOCAL),
    ],
)
def test_a_close_whose_decision_was_not_seen_is_told_by_the_state_it_led_to(old: TcpState, expected: CloseReason) -> None:
    assert reason(old, S.CLOSE, errno.ECONNRESET) is expected


def test_all_transitions_and_errnos_agree_with_naive() -> None:
    cases = list(product(range(1, N_STATES), range(1, N_STATES), [*range(140), 255, 256, 70_000], (False, True)))
    old, new, sk_err, known = (np.array(column) for column in zip(*cases, strict=True))
    found = close_reasons(old.astype(np.uint8), new.astype(np.uint8), sk_err.astype(np.uint32), known)
    for case, made in zip(cases, found.tolist(), strict=True):
        flags = int(EventFlag.HAS_SK_ERR) if case[3] else 0
        expected = naive.verdict({"old_state": case[0], "new_state": case[1], "sk_err": case[2], "flags": flags})
        assert REASON_NAMES[made] == (expected or "undecided"), case
