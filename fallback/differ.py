"""From looks to transitions: what must have happened to the sockets of a network namespace between two looks at it. Pure.

Theory of operation. A look is a picture of the sockets that are there, and, where sock_diag tells of them, the records of those
that the kernel has freed since the last one. `fallback.ways` says which transitions lead from what was seen before to what is
seen now. What a picture shows happened in (last picture, this one], what a record shows in (last read, when it was read]: events
carry the latest time that is possible, and `early_ns` says how much earlier it may have been.

Sockets are told apart by their ends (namespace, addresses, ports); one on the same ends is another connection where its inode or
cookie is another, or its state can't follow. Each connection gets a number of its own for a socket address, so that nothing is
confused by reuse. What lingers in TIME_WAIT is remembered so that it is not taken for a new connection.

A socket that is in no picture any more and of which no record came may have been reset while its process still holds it, or the
record is on its way: where records come, it is given one more look.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fallback.diag_records import DiagFlag, Records
from fallback.sockets import SOCKET_DTYPE, Sockets, no_sockets
from fallback.steps import Differences, Steps
from fallback.ways import INBOUND, WAYS, end
from tracer.events import TcpState

S = TcpState
FIRST_NUMBER, NUMBER_STEP = 1 << 32, 64
"""Of made-up socket addresses: nothing like a kernel's, which begin with 0xffff."""
_N_STATES = 16
_HAS_WAY = np.zeros((_N_STATES, _N_STATES), bool)
for _first, _ends in WAYS.items():
    _HAS_WAY[_first, list(_ends)] = True
TIMER_TIME_WAIT = 3
_RECORD_DELAY_NS = 20_000_000
_TOLD_MAX = 1 << 14
_FIN_SEEN = (S.CLOSE_WAIT, S.LAST_ACK, S.CLOSING)


@dataclass(frozen=True)
class Look:
    """What was seen of a namespace.

    Attributes:
        sockets: SOCKET_DTYPE, those that are watched; those that listen or were opened from outside are passed over.
        began_ns, taken_ns: boottime at which the picture was begun, and at which it was complete: it is no snapshot, each
            socket was looked at at some time between.
        counters: DIAG_DTYPE, aligned with `sockets`; None where there are none (/proc).
        ended: DIAG_DTYPE: watched sockets that the kernel has freed and that were not in this picture any more. Each ended in
            its (since_ns, received_ns].
    """

    sockets: Sockets
    began_ns: int
    taken_ns: int
    counters: Records | None = None
    ended: Records | None = None


@dataclass(frozen=True)
class _Table:
    """The sockets of a picture, sorted by key. All arrays have shape (n_sockets,)."""

    rows: Sockets
    keys: NDArray[np.uint64]
    numbers: NDArray[np.uint64]
    seen_ns: NDArray[np.int64]  # boottime of the last picture that it was in
    missed: NDArray[np.bool_]  # it was not in the latest one

    def where(self, kept: NDArray[np.bool_]) -> _Table:
        return self.at(np.flatnonzero(kept))

    def at(self, index: NDArray[np.intp]) -> _Table:
        return _Table(*(column[index] for column in _columns(self)))


def _empty() -> _Table:
    return _Table(no_sockets(), np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, bool))


def numbers_from(first: int = FIRST_NUMBER) -> Callable[[int], NDArray[np.uint64]]:
    """Gives so many numbers for connections at each call, never one twice."""
    following = first

    def take(count: int) -> NDArray[np.uint64]:
        nonlocal following
        taken = following + NUMBER_STEP * np.arange(count, dtype=np.uint64)
        following += NUMBER_STEP * count
        return taken.astype(np.uint64)

    return take


class Differ:
    """Compares each look at a namespace with the one before.

    The first one is taken as it is: what is open then was opened before, and is told as adopted.
    """

    def __init__(self, numbers: Callable[[int], NDArray[np.uint64]] | None = None, with_records: bool = False) -> None:
        """Begin.

        Args:
            numbers: gives numbers to connections; differs of several namespaces share one.
            with_records: records of ended sockets come, so that a socket that is gone without one is waited for.
        """
        self._numbers = numbers or numbers_from()
        self._with_records = with_records
        self._before = _empty()
        self._began_ns = -1  # of the last picture, and of the one before
        self._began_before_ns = -1
        self._lingering: NDArray[np.uint64] = np.zeros(0, np.uint64)
        # What was told of without its record, by cookie, and what only lingered, by its ends: their records are no news.
        self._told: OrderedDict[int, None] = OrderedDict()
        self._told_ends: OrderedDict[int, None] = OrderedDict()
        self._widened = False

    def __len__(self) -> int:
        """Connections that are open, as far as is known."""
        return int((self._before.rows["state"] != S.TIME_WAIT).sum())

    @property
    def inodes(self) -> NDArray[np.uint64]:
        """Inodes of the sockets in the latest picture that have one."""
        inodes = self._before.rows["inode"]
        return np.asarray(inodes[inodes != 0], np.uint64)

    @property
    def cookies(self) -> NDArray[np.uint64]:
        """Cookies of the sockets that are open, as far as is known; 0 where a socket's is not."""
        return np.asarray(self._before.rows["cookie"], np.uint64)

    def end_all(self, now_ns: int) -> Differences:
        """The namespace is gone, and all in it; how its connections ended nobody knows."""
        steps = Steps()
        self._vanish(self._before, np.arange(len(self._before.keys)), steps, now_ns)
        self._before = _empty()
        return steps.differences()

    def begin_empty(self, at_ns: int) -> None:
        """There was nothing yet at a boottime: what the first look shows was opened since."""
        self._began_ns = self._began_before_ns = at_ns

    def without_records(self) -> None:
        """No records come: what is gone is not waited for."""
        self._with_records = False

    def note_quiet(self, until_ns: int) -> None:
        """Nothing was opened up to a boottime, as the kernel's counter says; for a namespace with nothing open."""
        if self._began_ns >= 0:
            self._began_ns = self._began_before_ns = max(self._began_ns, until_ns)

    def rewatch(self, is_watched: Callable[[Sockets], NDArray[np.bool_]]) -> None:
        """Other remotes are watched from now on: what is not any more is forgotten, what the next look shows was open before."""
        self._before = self._before.where(is_watched(self._before.rows))
        self._widened = True

    def take(self, look: Look, sampled: frozenset[int] = frozenset()) -> Differences:
        """The next look.

        Args:
            look: of the same namespace, and of all that is watched.
            sampled: numbers of connections whose counters are wanted; those that are established and have any are told.
        """
        now, counters = self._table(look)
        steps = Steps()
        settled = self._end(look, now, steps)
        now, counters = self._without_unexplained(now, counters, settled)
        if self._began_ns < 0:
            self._adopt(now, counters, steps, settled, look.taken_ns)
        else:
            if self._widened:
                self._widen(now, counters, steps, look.taken_ns)
            now = self._compare(now, counters, steps, settled, look.taken_ns)
            self._sample(now, counters, steps, sampled, look.taken_ns)
        self._before = now
        self._began_before_ns, self._began_ns = self._began_ns, look.began_ns
        return steps.differences()

    def _table(self, look: Look) -> tuple[_Table, Records | None]:
        """The picture in the order of its keys, its numbers not yet given, and its counters in the same order."""
        rows = look.sockets.copy()
        # A FIN_WAIT2 with the timer of TIME_WAIT is what the kernel has left of a socket that its process closed long ago.
        rows["state"][rows["timer"] == TIMER_TIME_WAIT] = S.TIME_WAIT
        index = np.flatnonzero(~np.isin(rows["state"], (*INBOUND, S.CLOSE)))
        keys = keys_of(rows[index])
        order = np.argsort(keys, kind="stable")
        index, keys = index[order], keys[order]
        if len(keys) > 1:  # /proc is no snapshot: a socket may be listed twice
            last = np.append(keys[1:] != keys[:-1], True)
            index, keys = index[last], keys[last]
        count = len(keys)
        table = _Table(rows[index], keys, np.zeros(count, np.uint64), np.full(count, look.began_ns), np.zeros(count, bool))
        return table, None if look.counters is None else look.counters[index]

    def _without_unexplained(
        self, now: _Table, counters: Records | None, settled: NDArray[np.uint64]
    ) -> tuple[_Table, Records | None]:
        """Where records come, what has just begun to linger waits for its own: it is left out of the picture once."""
        if not self._with_records:
            return now, counters
        lingers = now.rows["state"] == S.TIME_WAIT
        fresh = lingers & ~np.isin(now.keys, self._lingering) & ~np.isin(now.keys, settled)
        self._lingering = now.keys[lingers]
        if self._began_ns < 0 or not fresh.any():
            return now, counters
        return now.where(~fresh), None if counters is None else counters[~fresh]

    def _end(self, look: Look, now: _Table, steps: Steps) -> NDArray[np.uint64]:
        """Tell of the sockets that were freed; the keys of what lingers of them, which is nothing new."""
        if look.ended is None or not len(look.ended):
            return np.zeros(0, np.uint64)
        untold = ~np.isin(look.ended["cookie"], _as_array(self._told))
        untold &= ~np.isin(keys_of(sockets_of(look.ended)), _as_array(self._told_ends))
        records, before = look.ended[untold], self._before
        at, known = _find(before.rows["cookie"], records["cookie"])
        known &= records["cookie"] != 0
        rows = sockets_of(records)
        rows[known] = before.rows[at[known]]
        keys = keys_of(rows)
        lingers = np.isin(keys, now.keys[now.rows["state"] == S.TIME_WAIT])
        state = np.where(known, rows["state"], S.CLOSE)
        established = records["flags"] & np.uint32(DiagFlag.ESTABLISHED) != 0
        if self._began_ns < 0:  # nobody knows when they were opened
            state = np.where(established, S.ESTABLISHED, S.SYN_SENT)
        fin_acked = records["flags"] & np.uint32(DiagFlag.FIN_ACKED) != 0
        numbers = np.zeros(len(records), np.uint64)
        numbers[known] = before.numbers[at[known]]
        numbers[~known] = self._numbers(int((~known).sum()))
        # A record may wait in the kernel's queue, and a picture may have been taken around a short life.
        since_ns = records["since_ns"] - _RECORD_DELAY_NS
        seen_ns = np.full(len(records), max(self._began_before_ns, 0))
        seen_ns[known] = before.seen_ns[at[known]]
        received_ns = records["received_ns"]
        early_ns = np.maximum(received_ns - seen_ns, 0)
        last_early_ns = np.minimum(early_ns, np.maximum(received_ns - since_ns, 0))
        if self._began_before_ns < 0:
            early_ns = last_early_ns
        code = ((state.astype(np.int64) * 2 + established) * 2 + fin_acked) * 2 + lingers
        for each in np.unique(code).tolist():
            own = np.flatnonzero(code == each)
            first = S(each >> 3)
            way = end(first, bool(each & 4), bool(each & 2), bool(each & 1))
            fin_counted = np.isin(rows["state"][own], _FIN_SEEN) & known[own]
            group = (rows[own], numbers[own], first, way, received_ns[own], early_ns[own])
            steps.add(*group, last_early_ns=last_early_ns[own], counters=records[own], fin_counted=fin_counted)
        left = np.ones(len(before.keys), bool)
        left[at[known]] = False
        self._before = before.where(left)
        return keys[lingers]

    def _adopt(self, now: _Table, counters: Records | None, steps: Steps, settled: NDArray[np.uint64], taken_ns: int) -> None:
        """What is open at the first look."""
        self._tell_open(now, counters, steps, ~np.isin(now.keys, settled), taken_ns)

    def _widen(self, now: _Table, counters: Records | None, steps: Steps, taken_ns: int) -> None:
        """What is seen for the first time since more is watched; it is as if it had been there before."""
        new = ~np.isin(now.keys, self._before.keys)
        self._tell_open(now, counters, steps, new, taken_ns)
        self._before = _joined(self._before, now.where(new))
        self._widened = False

    def _tell_open(self, now: _Table, counters: Records | None, steps: Steps, wanted: NDArray[np.bool_], taken_ns: int) -> None:
        """Adopt those that are wanted and don't linger only; all of them get numbers."""
        now.numbers[wanted] = self._numbers(int(wanted.sum()))
        live = (now.rows["state"] != S.TIME_WAIT) & wanted
        for state in np.unique(now.rows["state"][live]).tolist():
            own = np.flatnonzero(live & (now.rows["state"] == state))
            group = (
                now.rows[own],
                now.numbers[own],
                S(state),
                (S(state),),
                np.full(len(own), taken_ns),
                np.zeros(len(own), np.int64),
            )
            steps.add(*group, counters=None if counters is None else counters[own], adopted=True)

    def _compare(self, now: _Table, counters: Records | None, steps: Steps, settled: NDArray[np.uint64], taken_ns: int) -> _Table:
        """What changed between the pictures; the table to compare the next one with."""
        before = self._before
        at, had = _find(before.keys, now.keys)
        other = had.copy()
        other[had] = _differ(before.rows[at[had]], now.rows[had])
        old_state = np.where(had, before.rows["state"][at] if len(before.keys) else S.CLOSE, S.CLOSE)
        new_state = now.rows["state"]
        seen = ~np.isin(now.keys, settled)
        goes_on = had & ~other & (_HAS_WAY[old_state, new_state] | (old_state == new_state))
        now.numbers[had] = before.numbers[at[had]]
        gone = np.flatnonzero(~np.isin(before.keys, now.keys, assume_unique=True) & (before.rows["state"] != S.TIME_WAIT))
        waiting = gone[~before.missed[gone]] if self._with_records else gone[:0]
        # what is over comes first: others have its ends now
        over = np.concatenate([at[had & ~goes_on & seen], np.setdiff1d(gone, waiting, assume_unique=True)])
        self._vanish(before, over, steps, taken_ns)
        opened = seen & ~goes_on & _HAS_WAY[S.CLOSE, new_state]
        now.numbers[opened] = self._numbers(int(opened.sum()))
        changed = seen & goes_on & (old_state != new_state)
        first = np.where(opened, S.CLOSE, old_state)
        code = np.where(opened | changed, first.astype(np.int64) * _N_STATES + new_state, -1)
        for each in np.unique(code[code >= 0]).tolist():
            states = S(each // _N_STATES), S(each % _N_STATES)
            own = np.flatnonzero(code == each)
            since_ns = np.where(opened[own], self._began_ns, before.seen_ns[at[own]] if len(before.keys) else 0)
            own_counters = None if counters is None else counters[own]
            if states[1] is S.TIME_WAIT:
                _remember(self._told_ends, now.keys[own])
            else:
                for key in now.keys[own].tolist():
                    self._told_ends.pop(key, None)  # another connection on the same ends, whose record is news
            times = (np.full(len(own), taken_ns), taken_ns - since_ns)
            way = WAYS[states[0]][states[1]]
            steps.add(now.rows[own], now.numbers[own], states[0], way, *times, counters=own_counters)
        missed = replace(before.at(waiting), missed=np.ones(len(waiting), bool))
        return _joined(now, missed) if len(waiting) else now

    def _vanish(self, before: _Table, index: NDArray[np.intp], steps: Steps, taken_ns: int) -> None:
        """They are gone; nothing says how they ended."""
        index = index[before.rows["state"][index] != S.TIME_WAIT]
        for state in np.unique(before.rows["state"][index]).tolist():
            own = index[before.rows["state"][index] == state]
            early_ns = taken_ns - before.seen_ns[own]
            _remember(self._told, before.rows["cookie"][own])
            steps.add(before.rows[own], before.numbers[own], S(state), (S.CLOSE,), np.full(len(own), taken_ns), early_ns)

    @staticmethod
    def _sample(now: _Table, counters: Records | None, steps: Steps, sampled: frozenset[int], taken_ns: int) -> None:
        """The counters of established connections that are wanted."""
        if not sampled:
            return
        index = np.flatnonzero((now.rows["state"] == S.ESTABLISHED) & ~now.missed)
        index = index[[int(number) in sampled for number in now.numbers[index]]] if len(index) else index
        if len(index):
            in_picture = np.flatnonzero(~now.missed)
            own = None if counters is None else counters[np.searchsorted(in_picture, index)]
            times = (np.full(len(index), taken_ns), np.zeros(len(index), np.int64))
            steps.add(now.rows[index], now.numbers[index], S.ESTABLISHED, (S.ESTABLISHED,), *times, counters=own, sample=True)


def _as_array(known: OrderedDict[int, None]) -> NDArray[np.uint64]:
    return np.fromiter(known, np.uint64, len(known))


def _remember(known: OrderedDict[int, None], values: NDArray[np.uint64]) -> None:
    """Up to _TOLD_MAX of them, the latest."""
    known.update(dict.fromkeys(values[values != 0].tolist()))
    while len(known) > _TOLD_MAX:
        known.popitem(last=False)


def _columns(table: _Table) -> tuple[NDArray[Any], ...]:
    return table.rows, table.keys, table.numbers, table.seen_ns, table.missed


def _joined(one: _Table, other: _Table) -> _Table:
    """Two tables as one, sorted by key; they have no key in common."""
    columns = [np.concatenate(each) for each in zip(_columns(one), _columns(other), strict=True)]
    order = np.argsort(columns[1], kind="stable")
    return _Table(*(column[order] for column in columns))


def _find(known: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """For each wanted value, an index at which it is among the known (in any order), and whether it is there at all."""
    if not len(known):
        return np.zeros(len(wanted), np.intp), np.zeros(len(wanted), bool)
    order = np.argsort(known, kind="stable")
    at = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(known) - 1)]
    return at, known[at] == wanted


def _differ(one: Sockets, other: Sockets) -> NDArray[np.bool_]:
    """Whether two sockets on the same ends can't be one: they have an inode or cookie each, and not the same.

    One that its process has closed has no inode any more; TIME_WAIT has another cookie than the socket it was.
    """
    differ = np.zeros(len(one), bool)
    for field in ("inode", "cookie"):
        mine, others = one[field], other[field]
        unlike = (mine != others) & (mine != 0) & (others != 0)
        if field == "cookie":
            unlike &= (one["state"] != S.TIME_WAIT) & (other["state"] != S.TIME_WAIT)
        differ |= unlike
    return differ


def sockets_of(records: Records) -> Sockets:
    """sock_diag's records as rows of a picture."""
    rows = np.zeros(len(records), SOCKET_DTYPE)
    for field in ("inode", "cookie", "laddr", "raddr", "uid", "retransmits", "lport", "rport", "family", "state", "timer"):
        rows[field] = records[field]
    rows["rx_queue"] = records["unread_bytes"]
    return rows


def keys_of(rows: Sockets) -> NDArray[np.uint64]:
    """A 64-bit hash of each socket's addresses and ports, shape (n_sockets,)."""
    keys = rows["lport"].astype(np.uint64) << np.uint64(16) | rows["rport"].astype(np.uint64)
    with np.errstate(over="ignore"):
        for part in _words(rows["laddr"], rows["raddr"]):
            keys = (keys ^ part) * np.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> np.uint64(29)
    return keys


def _words(*addresses: NDArray[np.uint8]) -> Iterator[NDArray[np.uint64]]:
    """Addresses, shape (n, 16) bytes, as two words each."""
    for address in addresses:
        words = np.ascontiguousarray(address).view(np.uint64).reshape(len(address), 2)
        yield words[:, 0]
        yield words[:, 1]
