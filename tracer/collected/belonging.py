"""Belonging: which connection each transition of a whole trace is of. Pure.

A transition says at which socket address it happened, and the slab hands the address of a closed socket to the very next one. So
the transitions of an address are cut into *lives*, where one opens, follows a CLOSE, or can't belong to the one before, as
`tracer.connections` cuts them. A life is of the row that was first seen at its first transition. Where a row began without one
(a socket that was found open), each transition is of the last row that had begun at that address by then.

Where another source went on, a connection has had another address before: those lives are found by the moment at which the
connection was first seen, or by its ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.adoption import ends_of_events, ends_of_rows
from tracer.collected.collector import Collected
from tracer.connections import IS_INBOUND
from tracer.events import Events, TcpState, is_opening, valid
from tracer.lifecycle import RANK
from tracer.rows import Connections
from tracer.segments import group_starts, halves, stable_order, take

NOBODY = -1
_NETNS_SHIFT = np.uint64(48)  # kernel addresses share their top 16 bits


@dataclass(frozen=True)
class _Lives:
    """Transitions by address, in the order of the trace within each, and where lives begin among them.

    Attributes:
        position: shape (n,), where each stands in the trace.
        keys: shape (n,), one number for (netns, skaddr).
        ts_ns: shape (n,).
        start: shape (n_lives,), index of each life's first transition.
        life: shape (n,), whose each is.
        inbound: shape (n_lives,), opened from outside, so that it has no row.
    """

    position: NDArray[np.intp]
    keys: NDArray[np.uint64]
    ts_ns: NDArray[np.int64]
    start: NDArray[np.intp]
    life: NDArray[np.intp]
    inbound: NDArray[np.bool_]


def connection_of(collected: Collected) -> NDArray[np.int64]:
    """Whose each transition is.

    Args:
        collected: with its transitions.

    Returns:
        Index into `collected.rows`, shape (n_transitions,); NOBODY for what belongs to none: connections from outside, and
        transitions from a state to itself.
    """
    events, rows = collected.events, collected.rows
    found = np.full(len(events), NOBODY, np.int64)
    position = np.flatnonzero(events["old_state"] != events["new_state"])
    if not position.size or not len(rows):
        return found
    event_keys, row_keys = _keys(events, rows)
    position = position[stable_order(event_keys[position])]
    by_address = take(events, position)
    lives = _lives(by_address, event_keys[position], position)
    owners = _by_address(lives, rows, row_keys)
    owners[~_same_ends(by_address, rows, owners)] = NOBODY
    _add_moved(owners, lives, events, rows)
    found[position] = owners
    return found


def _keys(events: Events, rows: Connections) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """One number for (netns, skaddr) of each transition and row; an unknown namespace is namespace 0."""
    netns = np.concatenate([np.where(valid(events, "netns"), events["netns"].astype(np.int64), 0), np.maximum(rows["netns"], 0)])
    number = np.unique(netns, return_inverse=True)[1].astype(np.uint64)
    keys = np.concatenate([events["skaddr"], rows["skaddr"]]) ^ (number << _NETNS_SHIFT)
    return keys[: len(events)], keys[len(events) :]


def _lives(events: Events, keys: NDArray[np.uint64], position: NDArray[np.intp]) -> _Lives:
    begins = group_starts(keys) | is_opening(events)
    old, before = events["old_state"][1:], events["new_state"][:-1]
    begins[1:] |= (before == TcpState.CLOSE) | ((old != before) & (RANK[old] < RANK[before]))
    remote = halves(events, "daddr")
    begins[1:] |= (remote[1:] != remote[:-1]).any(axis=1) | (events["dport"][1:] != events["dport"][:-1])
    begins |= _other_port(events, begins)
    start = np.flatnonzero(begins)
    first = take(events, start)
    inbound = IS_INBOUND[first["old_state"]] | (first["new_state"] == TcpState.LISTEN)
    return _Lives(position, keys, events["ts_ns"].astype(np.int64), start, np.cumsum(begins) - 1, inbound)


def _other_port(events: Events, begins: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a local port differs from the last one that was known in the same life: shape (n,)."""
    index = np.arange(len(events))
    known = valid(events, "sport")
    last = np.maximum.accumulate(np.where(known, index, NOBODY))
    last[1:], last[0] = last[:-1].copy(), NOBODY
    begun = np.maximum.accumulate(np.where(begins, index, 0))
    return known & ~begins & (last >= begun) & (events["sport"][np.maximum(last, 0)] != events["sport"])


def _by_address(lives: _Lives, rows: Connections, row_keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Index of the row of each transition, shape (n,), NOBODY where no row was at its address then."""
    order = np.lexsort((rows["first_seen_ns"], row_keys))  # stable: rows of one address and moment stay in their order
    first_ns, keys = rows["first_seen_ns"][order], row_keys[order]
    addresses, moments = np.unique(keys), np.unique(first_ns)
    width = len(moments) + 1
    row_place = np.searchsorted(addresses, keys) * width + np.searchsorted(moments, first_ns) + 1
    address = np.searchsorted(addresses, lives.keys)
    there = addresses[np.minimum(address, len(addresses) - 1)] == lives.keys
    place = address * width + np.searchsorted(moments, lives.ts_ns, side="right")
    latest = np.searchsorted(row_place, place, side="right") - 1
    started = _rows_started(lives, place[lives.start], row_place, first_ns, there[lives.start])
    # What comes before the next life at the address is not of the row that begins there, even in the same nanosecond.
    following = np.append(started[1:], NOBODY)
    same_address = np.append(lives.keys[lives.start[1:]] == lives.keys[lives.start[:-1]], False)
    most = np.where(same_address & (following >= 0), following - 1, len(rows))
    chosen = np.maximum(np.minimum(latest, most[lives.life]), started[lives.life])
    fits = there & (chosen >= 0)
    chosen = np.maximum(chosen, 0)
    fits &= (keys[chosen] == lives.keys) & (lives.ts_ns <= rows["last_ns"][order][chosen])
    fits &= ~lives.inbound[lives.life] | (first_ns[chosen] > lives.ts_ns[lives.start][lives.life])
    return np.where(fits, order[chosen], NOBODY)


def _same_ends(events: Events, rows: Connections, owners: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each transition has the ends of its row, as far as they are known: shape (n,). No connection changes its own."""
    same = events["dport"] == np.maximum(rows["rport"], 0)[owners]
    lport = rows["lport"][owners]
    same &= ~valid(events, "sport") | (lport < 0) | (events["sport"] == lport)
    return same & (halves(events, "daddr") == halves(rows, "raddr")[owners]).all(axis=1)


def _rows_started(
    lives: _Lives,
    place: NDArray[np.int64],
    row_place: NDArray[np.int64],
    first_ns: NDArray[np.int64],
    there: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """The sorted row that was first seen at each life's first transition, shape (n_lives,); NOBODY: none was.

    Where several lives at an address begin at one moment, so do as many rows, in the same order.
    """
    outbound = np.flatnonzero(~lives.inbound & there)
    own = place[outbound]
    by_place = np.argsort(own, kind="stable")
    run_start = np.flatnonzero(np.append(True, own[by_place][1:] != own[by_place][:-1])) if len(own) else np.zeros(0, np.intp)
    nth = np.zeros(len(own), np.int64)
    nth[by_place] = np.arange(len(own)) - np.repeat(run_start, np.diff(np.append(run_start, len(own))))
    row = np.searchsorted(row_place, own, side="left") + nth
    within = np.minimum(row, len(row_place) - 1)
    exact = (row < len(row_place)) & (row_place[within] == own) & (first_ns[within] == lives.ts_ns[lives.start[outbound]])
    started = np.full(len(lives.start), NOBODY, np.int64)
    started[outbound[exact]] = row[exact]
    return started


def _add_moved(owners: NDArray[np.int64], lives: _Lives, events: Events, rows: Connections) -> None:
    """Find the rows of lives that were at another address than their row is now; there are few, and mostly none."""
    unclaimed = np.ones(len(lives.start), bool)
    unclaimed[lives.life[owners >= 0]] = False
    unclaimed &= ~lives.inbound
    if not unclaimed.any():
        return
    begun = np.zeros(len(rows), bool)
    claimed = owners >= 0
    begun[owners[claimed][lives.ts_ns[claimed] == rows["first_seen_ns"][owners[claimed]]]] = True
    candidates = np.flatnonzero(~begun)
    by_moment = {_moment(row): index for index, row in zip(candidates.tolist(), rows[candidates], strict=True)}
    by_ends = {ends: index for index, ends in zip(candidates.tolist(), ends_of_rows(rows[candidates]), strict=True) if ends}
    edges = np.append(lives.start, len(lives.life))
    for life in np.flatnonzero(unclaimed).tolist():
        within = slice(int(edges[life]), int(edges[life + 1]))
        own = events[lives.position[within]]
        first = own[0]
        row = by_moment.get((int(first["ts_ns"]), int(first["dport"]), first["daddr"].tobytes()))
        if row is None:
            row = next((by_ends[ends] for ends in ends_of_events(own) if ends in by_ends), None)
        if row is not None:
            times_ns = lives.ts_ns[within]
            in_time = (times_ns >= rows["first_seen_ns"][row]) & (times_ns <= rows["last_ns"][row])
            owners[within] = np.where(in_time, row, NOBODY)


def _moment(row: np.void) -> tuple[int, int, bytes]:
    """When a connection was first seen, and with whom."""
    return int(row["first_seen_ns"]), max(int(row["rport"]), 0), row["raddr"].tobytes()
