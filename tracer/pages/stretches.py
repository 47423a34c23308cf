"""Connections as stretches of time: what state each was in when. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.events import N_STATES, TcpState
from tracer.lifecycle import RANK, STATE_NAMES, CloseReason
from tracer.pages.span import Span
from tracer.rows import Connections

UNSEEN = 0
"""A stretch of which the state is not known; no TcpState has this number."""
STATE_ORDER = (UNSEEN, *(int(state) for state in np.argsort(RANK[1:], kind="stable") + 1))
"""States in the order of a life."""
_HANDSHAKE = (TcpState.SYN_SENT, TcpState.SYN_RECV, TcpState.NEW_SYN_RECV)
_LATER = tuple(state for state in STATE_ORDER[1:] if state not in (*_HANDSHAKE, TcpState.LISTEN, TcpState.CLOSE))


@dataclass(frozen=True)
class Stretches:
    """What connections were in when, by connection and time.

    Attributes:
        connection: index into the rows, intp, shape (n_stretches,).
        state: TcpState or UNSEEN, uint8, shape (n_stretches,).
        start_ns, end_ns: boottime, half-open, int64, shape (n_stretches,); those of one connection follow each other.
    """

    connection: NDArray[np.intp]
    state: NDArray[np.uint8]
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]


def state_name(state: int) -> str:
    """A state as charts name it."""
    return STATE_NAMES[state] or "not seen"


def bounds(rows: Connections, span: Span) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """From when to when each connection is drawn: (start_ns, end_ns), shape (n_connections,).

    What was open before begins with the span, what is still open ends with it.
    """
    start_ns = np.where(rows["opened_ns"] >= 0, rows["opened_ns"], rows["first_seen_ns"])
    start_ns = np.where(rows["preexisting"] == 1, span.begin_ns, start_ns)
    end_ns = np.where(rows["closed_ns"] >= 0, rows["closed_ns"], rows["last_ns"])
    end_ns = np.where(rows["close_reason"] == CloseReason.OPEN, span.end_ns, end_ns)
    return start_ns, np.maximum(start_ns, end_ns)


def stretches(rows: Connections, span: Span) -> Stretches:
    """The states of each connection over its time; every connection has a stretch, if need be one without length.

    Rows know how long each state lasted, and a life passes them in one order: the handshake is laid from its beginning
    on, the rest back from its end. What remains between them was not seen.
    """
    start_ns, end_ns = bounds(rows, span)
    spent_ns = np.maximum(rows["state_ns"], 0)
    still = np.flatnonzero(rows["close_reason"] == CloseReason.OPEN)
    spent_ns[still, rows["last_state"][still]] += np.maximum(end_ns[still] - rows["last_ns"][still], 0)
    begun = np.where(rows["opened_ns"] >= 0, 1, 0)
    starts, ends = np.zeros((N_STATES, len(rows)), np.int64), np.zeros((N_STATES, len(rows)), np.int64)
    at_ns = start_ns.copy()
    for state in _HANDSHAKE:
        starts[state] = at_ns
        at_ns = np.minimum(at_ns + spent_ns[:, state] * begun, end_ns)
        ends[state] = at_ns
    until_ns = end_ns.copy()
    later = _LATER if not len(rows) or begun.all() else (*_HANDSHAKE, *_LATER)
    for number in reversed(later):
        back_ns = spent_ns[:, number] * (1 - begun) if number in _HANDSHAKE else spent_ns[:, number]
        from_ns = np.maximum(until_ns - back_ns, at_ns)
        laid = back_ns > 0
        starts[number] = np.where(laid, from_ns, starts[number])
        ends[number] = np.where(laid, until_ns, ends[number])
        until_ns = from_ns
    starts[UNSEEN], ends[UNSEEN] = at_ns, until_ns
    return _kept(rows, starts, ends, end_ns)


def _kept(rows: Connections, starts: NDArray[np.int64], ends: NDArray[np.int64], end_ns: NDArray[np.int64]) -> Stretches:
    """The stretches that have a length, and one for each connection that has none."""
    state, connection = np.nonzero(ends > starts)
    without = np.setdiff1d(np.arange(len(rows)), connection)
    connection = np.concatenate([connection, without])
    state = np.concatenate([state, rows["last_state"][without]])
    start_ns = np.concatenate([starts[ends > starts], end_ns[without]])
    until_ns = np.concatenate([ends[ends > starts], end_ns[without]])
    order = np.lexsort((start_ns, connection))
    return Stretches(connection[order], state[order].astype(np.uint8), start_ns[order], until_ns[order])
