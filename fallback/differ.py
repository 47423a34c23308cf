"""From pictures to transitions: what must have happened to a socket between two looks at it. Pure.

Theory of operation. A picture shows states, not transitions. Where a socket's state changed, the transitions that can't have
been skipped are made up for: ESTABLISHED then LAST_ACK was CLOSE_WAIT in between; one that is new and in CLOSE_WAIT was opened,
established, and closed by the peer. Where there is more than one way (ESTABLISHED, then TIME_WAIT: by FIN_WAIT2 or by CLOSING;
ESTABLISHED, then nothing: by anybody), the step in doubt is left out, and how the connection ended stays unknown. All of it
happened in (previous picture, this picture]: events carry the time of this picture, and `early_ns` says how much earlier it may
have been. TIME_WAIT is an end, as it is for the hook in the kernel, and what lingers in it is remembered so that it is not taken
for a new connection.

A connection is told from the next one on the same ports by its inode, and by states that never follow each other. Each gets
a number of its own for a socket address, so that nothing is confused by reuse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fallback.sockets import Sockets, no_sockets
from tracer.events import EVENT_DTYPE, EventFlag, Events, TcpState

S = TcpState
_FIRST_NUMBER, _NUMBER_STEP = 1 << 32, 64
"""Of made-up socket addresses: nothing like a kernel's, which begin with 0xffff."""
_INBOUND = (S.LISTEN, S.SYN_RECV, S.NEW_SYN_RECV)
_NEXT: dict[TcpState, dict[TcpState, tuple[TcpState, ...]]] = {
    # from: {to: the states on the way, the last one included}; what is not there needs another connection
    S.CLOSE: {
        S.SYN_SENT: (S.SYN_SENT,),
        S.ESTABLISHED: (S.SYN_SENT, S.ESTABLISHED),
        S.CLOSE_WAIT: (S.SYN_SENT, S.ESTABLISHED, S.CLOSE_WAIT),
        S.LAST_ACK: (S.SYN_SENT, S.ESTABLISHED, S.CLOSE_WAIT, S.LAST_ACK),
        S.FIN_WAIT1: (S.SYN_SENT, S.ESTABLISHED, S.FIN_WAIT1),
        S.FIN_WAIT2: (S.SYN_SENT, S.ESTABLISHED, S.FIN_WAIT1, S.FIN_WAIT2),
        S.CLOSING: (S.SYN_SENT, S.ESTABLISHED, S.FIN_WAIT1, S.CLOSING),
        S.TIME_WAIT: (S.SYN_SENT, S.ESTABLISHED, S.FIN_WAIT1, S.CLOSE),
    },
    S.SYN_SENT: {
        S.ESTABLISHED: (S.ESTABLISHED,),
        S.CLOSE_WAIT: (S.ESTABLISHED, S.CLOSE_WAIT),
        S.LAST_ACK: (S.ESTABLISHED, S.CLOSE_WAIT, S.LAST_ACK),
        S.FIN_WAIT1: (S.ESTABLISHED, S.FIN_WAIT1),
        S.FIN_WAIT2: (S.ESTABLISHED, S.FIN_WAIT1, S.FIN_WAIT2),
        S.CLOSING: (S.ESTABLISHED, S.FIN_WAIT1, S.CLOSING),
        S.TIME_WAIT: (S.ESTABLISHED, S.FIN_WAIT1, S.CLOSE),
    },
    S.ESTABLISHED: {
        S.CLOSE_WAIT: (S.CLOSE_WAIT,),
        S.LAST_ACK: (S.CLOSE_WAIT, S.LAST_ACK),
        S.FIN_WAIT1: (S.FIN_WAIT1,),
        S.FIN_WAIT2: (S.FIN_WAIT1, S.FIN_WAIT2),
        S.CLOSING: (S.FIN_WAIT1, S.CLOSING),
        S.TIME_WAIT: (S.FIN_WAIT1, S.CLOSE),
    },
    S.CLOSE_WAIT: {S.LAST_ACK: (S.LAST_ACK,)},
    S.FIN_WAIT1: {S.FIN_WAIT2: (S.FIN_WAIT2,), S.CLOSING: (S.CLOSING,), S.TIME_WAIT: (S.CLOSE,)},
    S.FIN_WAIT2: {S.TIME_WAIT: (S.CLOSE,)},
    S.CLOSING: {S.TIME_WAIT: (S.CLOSE,)},
}


@dataclass(frozen=True)
class Differences:
    """What happened between two pictures.

    Attributes:
        events: EVENT_DTYPE, shape (n_events,), in the order of each connection's life; `endpoint_id` 0 and without an owner.
        early_ns: uint64, shape (n_events,): how much earlier each may have happened.
        inodes: uint64, shape (n_events,): the socket's inode, to find its owner by; 0 unknown.
    """

    events: Events
    early_ns: NDArray[np.uint64]
    inodes: NDArray[np.uint64]


class Differ:
    """Compares each picture with the one before.

    The first picture is taken as it is: what is open then was opened before, and its first transition will say so.
    """

    def __init__(self) -> None:
        self._before: Sockets = no_sockets()
        self._keys: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._numbers: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._taken_ns = -1
        self._next_number = _FIRST_NUMBER

    def __len__(self) -> int:
        """Sockets in the latest picture."""
        return len(self._before)

    def take(self, picture: Sockets, taken_ns: int) -> Differences:
        """The next picture, of the same namespaces as the one before.

        Args:
            picture: SOCKET_DTYPE, the watched sockets; those that listen or were opened from outside are passed over.
            taken_ns: boottime at which it was begun.
        """
        picture = picture[~np.isin(picture["state"], _INBOUND)]
        keys = _keys(picture)
        order = np.argsort(keys, kind="stable")
        picture, keys = picture[order], keys[order]
        if len(keys) > 1 and (keys[1:] == keys[:-1]).any():  # /proc is no snapshot: a socket may be listed twice
            last = np.append(keys[1:] != keys[:-1], True)
            picture, keys = picture[last], keys[last]
        first = self._taken_ns < 0
        steps = [] if first else self._compare(picture, keys)
        numbers = self._numbers_for(picture, keys, steps, first)
        self._before, self._keys, self._numbers = picture, keys, numbers
        early_ns = 0 if first else max(taken_ns - self._taken_ns, 0)
        self._taken_ns = taken_ns
        return _differences(steps, taken_ns, early_ns)

    def _compare(self, picture: Sockets, keys: NDArray[np.uint64]) -> list[_Step]:
        """What changed; sockets that are as they were cost no Python."""
        before, known = self._before, self._keys
        at = np.minimum(np.searchsorted(known, keys), max(len(known) - 1, 0))
        had = known[at] == keys if len(known) else np.zeros(len(keys), bool)
        same = had.copy()
        same[had] = (before["state"][at[had]] == picture["state"][had]) & ~_other_inode(
            before["inode"][at[had]], picture["inode"][had]
        )
        steps = []
        for index in np.flatnonzero(~same).tolist():
            row = picture[index]
            old = before[int(at[index])] if had[index] else None
            number = int(self._numbers[int(at[index])]) if had[index] else 0
            steps += self._changed(old, number, row, index)
        gone = np.flatnonzero(~np.isin(known, keys, assume_unique=True))
        steps += [
            _Step(before[index], int(self._numbers[index]), (S(int(before["state"][index])), S.CLOSE), -1)
            for index in gone.tolist()
            if before["state"][index] != S.TIME_WAIT
        ]
        return steps

    def _changed(self, old: Sockets | None, number: int, row: Sockets, index: int) -> list[_Step]:
        """The steps of one socket that is new or not as it was."""
        new_state = S(int(row["state"]))
        if old is None:
            return self._opened(row, new_state, index)
        old_state = S(int(old["state"]))
        way = _NEXT.get(old_state, {}).get(new_state)
        if way is not None and not _other_inode(old["inode"], row["inode"]):
            return [_Step(row, number, (old_state, *way), index)]
        ended = [] if old_state is S.TIME_WAIT else [_Step(old, number, (old_state, S.CLOSE), -1)]
        return ended + self._opened(row, new_state, index)

    def _opened(self, row: Sockets, state: TcpState, index: int) -> list[_Step]:
        way = _NEXT[S.CLOSE].get(state)
        if way is None:  # CLOSE: bound and not connected
            return []
        return [_Step(row, self._new_number(), (S.CLOSE, *way), index)]

    def _new_number(self) -> int:
        number = self._next_number
        self._next_number += _NUMBER_STEP
        return number

    def _numbers_for(self, picture: Sockets, keys: NDArray[np.uint64], steps: list[_Step], first: bool) -> NDArray[np.uint64]:
        """The number of each socket of a picture: as before, or its new one."""
        numbers = np.zeros(len(keys), np.uint64)
        if first:
            numbers[:] = [self._new_number() for _ in range(len(keys))]
            return numbers
        if len(self._keys):
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            numbers = np.where(self._keys[at] == keys, self._numbers[at], numbers)
        for step in steps:
            if step.index >= 0:
                numbers[step.index] = step.number
        return numbers


@dataclass(frozen=True)
class _Step:
    """A way that one connection went: its row, its number, the states in order, its place in the new picture (-1: not in it)."""

    row: Sockets
    number: int
    states: tuple[TcpState, ...]
    index: int


def _other_inode(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether two sockets can't be one: both have an inode, and not the same; one that its process has closed has none."""
    return np.asarray((one != other) & (one != 0) & (other != 0), bool)


def _keys(picture: Sockets) -> NDArray[np.uint64]:
    """A 64-bit hash of each socket's namespace, addresses and ports, shape (n_sockets,)."""
    keys = picture["netns"].astype(np.uint64)
    ports = picture["lport"].astype(np.uint64) << np.uint64(16) | picture["rport"].astype(np.uint64)
    local = np.ascontiguousarray(picture["laddr"]).view(np.uint64).reshape(len(picture), 2)
    remote = np.ascontiguousarray(picture["raddr"]).view(np.uint64).reshape(len(picture), 2)
    with np.errstate(over="ignore"):
        for part in (local[:, 0], local[:, 1], remote[:, 0], remote[:, 1], ports):
            keys = (keys ^ part) * np.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> np.uint64(29)
    return keys


def _differences(steps: list[_Step], taken_ns: int, early_ns: int) -> Differences:
    """Ways as events: all at the time of the picture."""
    made = [(step, old, new) for step in steps for old, new in zip(step.states[:-1], step.states[1:], strict=True)]
    events = np.zeros(len(made), EVENT_DTYPE)
    inodes = np.zeros(len(made), np.uint64)
    for event, (step, old, new) in zip(events, made, strict=True):
        row = step.row
        event["ts_ns"], event["skaddr"], event["netns"] = taken_ns, step.number, row["netns"]
        event["saddr"], event["daddr"], event["family"] = row["laddr"], row["raddr"], row["family"]
        event["sport"], event["dport"] = row["lport"], row["rport"]
        event["old_state"], event["new_state"] = old, new
        flags = EventFlag.HAS_SADDR | (EventFlag.HAS_NETNS if row["netns"] else EventFlag(0))
        flags |= EventFlag.HAS_SPORT if row["lport"] else EventFlag(0)
        if (old, new) == (S.ESTABLISHED, S.CLOSE_WAIT) and row["state"] == S.CLOSE_WAIT and row["rx_queue"]:
            event["unread_bytes"] = row["rx_queue"] - 1  # the FIN, which nobody has read, counts as a byte
            flags |= EventFlag.HAS_UNREAD
        event["flags"] = flags
    if made:
        inodes[:] = [int(step.row["inode"]) for step, _, _ in made]
    return Differences(events, np.full(len(made), early_ns, np.uint64), inodes)
