"""When each connection was there, and in which state. Pure.

A stay in a state begins with the transition into it and ends with the one out of it. Where transitions are missing between two
that were seen, nobody knows when the connection was in which state, and there is no stay. What a connection was in when it was
found open, or is in when the trace ends, is known from its row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.collected.belonging import connection_of
from tracer.collected.collector import Collected
from tracer.events import TcpState
from tracer.lifecycle import CloseReason
from tracer.rows import Connections
from tracer.segments import take

Times = NDArray[np.int64]


@dataclass(frozen=True)
class Stays:
    """Half-open intervals of boottime.

    Attributes:
        start_ns, end_ns: int64, shape (n_connections,): from when a connection was first seen until it ended, was last heard of
            (its end was not seen), or the trace ended (it was still open).
        connection: shape (n_stays,), index into the connections, rising.
        state: shape (n_stays,), TcpState.
        state_start_ns, state_end_ns: int64, shape (n_stays,): within their connection, one after the other.
    """

    start_ns: Times
    end_ns: Times
    connection: NDArray[np.intp]
    state: NDArray[np.intp]
    state_start_ns: Times
    state_end_ns: Times


@dataclass(frozen=True)
class _Seen:
    """Transitions, those of one connection side by side and in their order.

    Attributes:
        connection: shape (n,), whose each is, rising.
        old, new: shape (n,), states.
        ts_ns: shape (n,), never stepping back within a connection.
        follows: shape (n,): it is not the first of its connection.
    """

    connection: NDArray[np.intp]
    old: NDArray[np.intp]
    new: NDArray[np.intp]
    ts_ns: Times
    follows: NDArray[np.bool_]


def stays_of(collected: Collected, end_ns: int) -> Stays:
    """The stays of all connections.

    Args:
        collected: with its transitions.
        end_ns: boottime of the end of the trace.
    """
    rows = collected.rows
    first_ns = rows["first_seen_ns"].astype(np.int64)
    last_ns = np.maximum(np.where(rows["closed_ns"] >= 0, rows["closed_ns"], rows["last_ns"]), first_ns)
    until_ns = np.where(rows["close_reason"] == CloseReason.OPEN, np.maximum(last_ns, end_ns), last_ns)
    seen = _seen(collected)
    pieces = [_found(rows, seen), _between(seen), _left(rows, seen, until_ns)]
    connection, state, start_ns, stop_ns = (np.concatenate(each) for each in zip(*pieces, strict=True))
    order = np.argsort(connection, kind="stable")  # pieces of one connection are in their order
    connection, state = connection[order], state[order]
    start_ns = np.clip(start_ns[order], first_ns[connection], until_ns[connection])
    stop_ns = np.clip(stop_ns[order], start_ns, until_ns[connection])
    return Stays(first_ns, until_ns, connection, state, start_ns, stop_ns)


def _seen(collected: Collected) -> _Seen:
    owners = connection_of(collected)
    position = np.flatnonzero(owners >= 0)
    position = position[np.argsort(owners[position], kind="stable")]
    events, connection = take(collected.events, position), owners[position].astype(np.intp)
    follows = np.zeros(len(connection), bool)
    follows[1:] = connection[1:] == connection[:-1]
    ts_ns = events["ts_ns"].astype(np.int64)
    # No kernel's times step back at one socket, but a capture may have been made by anybody.
    while (back := np.flatnonzero(follows[1:] & (ts_ns[1:] < ts_ns[:-1])) + 1).size:
        ts_ns[back] = ts_ns[back - 1]
    return _Seen(connection, events["old_state"].astype(np.intp), events["new_state"].astype(np.intp), ts_ns, follows)


Piece = tuple[NDArray[np.intp], NDArray[np.intp], Times, Times]
"""(connection, state, start, end) of stays."""


def _found(rows: Connections, seen: _Seen) -> Piece:
    """In what they were found open, until their first transition."""
    first = np.flatnonzero(~seen.follows)
    connection, state = seen.connection[first], seen.old[first]
    first_ns, ts_ns = rows["first_seen_ns"][connection], seen.ts_ns[first]
    known = (first_ns < ts_ns) & (rows["state_ns"][connection, state] >= 0)
    return connection[known], state[known], first_ns[known], ts_ns[known]


def _between(seen: _Seen) -> Piece:
    """Between two transitions that fit together."""
    enters = np.flatnonzero(seen.follows[1:] & (seen.new[:-1] == seen.old[1:]))
    return seen.connection[enters], seen.new[enters], seen.ts_ns[enters], seen.ts_ns[enters + 1]


def _left(rows: Connections, seen: _Seen, until_ns: Times) -> Piece:
    """In what they were after the last transition that was seen, unless that was their end."""
    index = np.flatnonzero((rows["closed_ns"] < 0) & (rows["last_state"] != TcpState.CLOSE))
    state = rows["last_state"][index].astype(np.intp)
    start_ns = rows["last_ns"][index] - np.maximum(rows["state_ns"][index, state], 0)
    last = np.searchsorted(seen.connection, index, "right") - 1
    if len(seen.connection):
        entered = (seen.connection[last] == index) & (last >= 0) & (seen.new[last] == state)
        start_ns = np.where(entered, seen.ts_ns[last], start_ns)
    return index, state, start_ns, until_ns[index]
