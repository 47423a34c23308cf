"""When each connection was in each state, out of its row alone. Pure.

A row has how long a connection stayed in each state, and some moments: first seen, established, closed, last heard of. A TCP
connection is in a state at most once, and always further along its life, so that stays follow each other: one begins where
the stay before it ends. That fails only where transitions are missing between two stays; what comes behind such a hole is
placed from its other end, and a stay that has no fixed end is left out rather than guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.events import N_STATES, TcpState
from tracer.lifecycle import RANK, CloseReason
from tracer.rows import Connections

STATES = tuple(int(state) for state in np.argsort(RANK[1:], kind="stable") + 1 if state != TcpState.CLOSE)
"""In the order of a life; after CLOSE there is nothing to show."""
_PLACE = {state: place for place, state in enumerate(STATES)}
_ESTABLISHED = _PLACE[int(TcpState.ESTABLISHED)]
_LEAVING = [place for place, state in enumerate(STATES) if RANK[state] == RANK[TcpState.FIN_WAIT1]]
_LEFT = [place for place, state in enumerate(STATES) if RANK[state] > RANK[TcpState.FIN_WAIT1]]
Times = NDArray[np.int64]


@dataclass(frozen=True)
class Stays:
    """Half-open intervals of boottime.

    Attributes:
        start_ns, end_ns: int64, shape (n_connections,): from when a connection was first seen until it ended, was last heard of
            (its end was not seen), or the trace ended (it was still open).
        state_start_ns, state_end_ns: int64, shape (n_connections, len(STATES)): within these, one after the other; -1 in both
            where the connection never was in the state, or nobody knows when.
    """

    start_ns: Times
    end_ns: Times
    state_start_ns: Times
    state_end_ns: Times


def stays_of(rows: Connections, end_ns: int) -> Stays:
    """The stays of connections in a trace that ends at `end_ns`."""
    first_ns = rows["first_seen_ns"].astype(np.int64)
    last_ns = np.maximum(np.where(rows["closed_ns"] >= 0, rows["closed_ns"], rows["last_ns"]), first_ns)
    is_open = rows["close_reason"] == CloseReason.OPEN
    until_ns = np.where(is_open, max(end_ns, int(last_ns.max(initial=0))), last_ns)
    spent_ns = rows["state_ns"][:, STATES]
    starts_ns = _starts(rows, spent_ns, first_ns, last_ns)
    ends_ns = np.where(starts_ns >= 0, starts_ns + spent_ns, -1)
    _place_current(rows, is_open, starts_ns, ends_ns, until_ns)
    return Stays(first_ns, until_ns, *_in_order(starts_ns, ends_ns, first_ns, until_ns))


def _starts(rows: Connections, spent_ns: Times, first_ns: Times, last_ns: Times) -> Times:
    """Where each known stay begins, shape (n, len(STATES)); -1 where it can't be placed."""
    known = spent_ns >= 0
    length_ns = np.where(known, spent_ns, 0)
    stacked_ns = first_ns[:, None] + np.cumsum(length_ns, axis=1) - length_ns
    starts_ns = np.full(spent_ns.shape, -1, np.int64)
    before = slice(0, _ESTABLISHED)
    starts_ns[:, before] = stacked_ns[:, before]
    opened = rows["opened_ns"] >= 0
    unopened_ns = np.where(opened | known[:, before].any(axis=1), -1, first_ns)  # it begins in the first state that is known
    established_ns = np.where(rows["established_ns"] >= 0, rows["established_ns"], unopened_ns)
    starts_ns[:, _ESTABLISHED] = established_ns
    data_end_ns = np.where(
        known[:, _ESTABLISHED],
        np.where(established_ns >= 0, established_ns + length_ns[:, _ESTABLISHED], -1),
        unopened_ns,
    )
    starts_ns[:, _LEAVING] = data_end_ns[:, None]
    leaving_ns = length_ns[:, _LEAVING].sum(axis=1)
    left = known[:, _LEAVING].any(axis=1)
    for place in _LEFT:
        from_end_ns = last_ns - length_ns[:, place]
        starts_ns[:, place] = np.where(left & (data_end_ns >= 0), data_end_ns + leaving_ns, from_end_ns)
    whole = length_ns.sum(axis=1) == last_ns - first_ns
    starts_ns = np.where(whole[:, None], stacked_ns, starts_ns)
    return np.where(known, starts_ns, -1)


def _place_current(rows: Connections, is_open: NDArray[np.bool_], starts_ns: Times, ends_ns: Times, until_ns: Times) -> None:
    """What was not seen to end is in its last state until it was last heard of; what is open, until the end of the trace."""
    place_of = np.full(N_STATES, -1, np.intp)
    place_of[list(STATES)] = np.arange(len(STATES))
    place = place_of[rows["last_state"]]
    index = np.flatnonzero((rows["closed_ns"] < 0) & (place >= 0))
    place = place[index]
    spent_ns = np.maximum(rows["state_ns"][index, rows["last_state"][index]], 0)
    known = is_open[index] | (rows["state_ns"][index, rows["last_state"][index]] >= 0)
    index, place, spent_ns = index[known], place[known], spent_ns[known]
    starts_ns[index, place] = rows["last_ns"][index] - spent_ns
    ends_ns[index, place] = until_ns[index]


def _in_order(starts_ns: Times, ends_ns: Times, first_ns: Times, until_ns: Times) -> tuple[Times, Times]:
    """One after the other and within the connection, whatever a trace says that no kernel made."""
    there = starts_ns >= 0
    reached_ns = first_ns.copy()
    for place in range(len(STATES)):
        own = there[:, place]
        starts_ns[:, place] = np.where(own, np.clip(starts_ns[:, place], reached_ns, until_ns), -1)
        ends_ns[:, place] = np.where(own, np.clip(ends_ns[:, place], starts_ns[:, place], until_ns), -1)
        reached_ns = np.maximum(reached_ns, ends_ns[:, place])
    return starts_ns, ends_ns
