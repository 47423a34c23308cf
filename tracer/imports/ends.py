"""Sockets whose kernel addresses are not shown: told apart by their two ends. Pure.

At CLOSE -> SYN_SENT the local port is not chosen yet. Which of several openings to one endpoint a handshake then belongs to can't
be seen; they are joined in their order, which is right where handshakes take about equally long, and counted. Where different
programs wait at the same time, whose connection it is stays unknown.
"""

from __future__ import annotations

from typing import NamedTuple

from tracer.events import EventFlag, Events, TcpState
from tracer.lifecycle import RANK

_SOCKETS_MAX = 1 << 18
_OWNER = int(EventFlag.OWNER)
_RANKS = RANK.tolist()
_CLOSE, _SYN_SENT = int(TcpState.CLOSE), int(TcpState.SYN_SENT)


class _Waiting(NamedTuple):
    """An opening whose port is not known."""

    number: int
    local: bytes
    pid: int
    comm: bytes
    block: int
    position: int


class Ends:
    """Gives numbers to sockets, in place of their addresses.

    Attributes:
        by_order: connections that were joined with one of several openings.
    """

    def __init__(self) -> None:
        self.by_order = 0
        self._count = 0
        self._block = 0
        self._known: dict[tuple[bytes, int, bytes, int], tuple[int, int]] = {}  # number and state by both ends
        self._waiting: dict[tuple[bytes, int], list[_Waiting]] = {}  # by remote end
        self._waiting_count = 0

    def number(self, events: Events) -> None:
        """Fill in `skaddr` of the next events, in the order of time; an owner that may be another's is cleared."""
        self._block += 1
        flags = events["flags"].tolist()
        numbers = []
        columns = zip(
            (local.tobytes() for local in events["saddr"]),
            events["sport"].tolist(),
            (remote.tobytes() for remote in events["daddr"]),
            events["dport"].tolist(),
            events["old_state"].tolist(),
            events["new_state"].tolist(),
            events["pid"].tolist(),
            events["comm"].tolist(),
            strict=True,
        )
        for index, (local, lport, remote, rport, old, new, pid, comm) in enumerate(columns):
            opening = (old, new) == (_CLOSE, _SYN_SENT)
            if opening and not lport:
                self._count += 1
                self._wait((remote, rport), _Waiting(self._count, local, pid, comm, self._block, index))
                numbers.append(self._count)
                continue
            ends = (local, lport, remote, rport)
            known = self._known.get(ends) if lport else None
            if known is not None and (opening or _RANKS[old] < _RANKS[known[1]]):
                known = None  # another connection with the same ends
            if known is None:
                number = self._found(ends, pid, flags) if old == _SYN_SENT else 0
                if not number:
                    self._count += 1
                    number = self._count
            else:
                number = known[0]
            self._keep(ends, number, new)
            numbers.append(number)
        events["skaddr"], events["flags"] = numbers, flags

    def _wait(self, remote: tuple[bytes, int], opening: _Waiting) -> None:
        self._waiting.setdefault(remote, []).append(opening)
        self._waiting_count += 1
        while self._waiting_count > _SOCKETS_MAX:
            oldest = next(iter(self._waiting))
            self._waiting_count -= len(self._waiting.pop(oldest))

    def _found(self, ends: tuple[bytes, int, bytes, int], pid: int, flags: list[int]) -> int:
        """The number of the opening that a transition out of SYN_SENT belongs to; 0: it was not seen."""
        local, lport, remote, rport = ends
        openings = self._waiting.get((remote, rport), [])
        fitting = [each for each in openings if each.local == local or not any(each.local[12:])]
        if not lport:  # it failed before it had a port, in the context of its caller
            fitting = [each for each in fitting if each.pid == pid][-1:] or fitting
        if not fitting:
            return 0
        if len(fitting) > 1:
            self.by_order += 1
            if len({each.comm for each in fitting}) > 1:
                for each in fitting:
                    if each.block == self._block:
                        flags[each.position] &= ~_OWNER
        openings.remove(fitting[0])
        self._waiting_count -= 1
        if not openings:
            del self._waiting[remote, rport]
        return fitting[0].number

    def _keep(self, ends: tuple[bytes, int, bytes, int], number: int, state: int) -> None:
        self._known.pop(ends, None)
        if state != _CLOSE and ends[1]:
            self._known[ends] = number, state
            if len(self._known) > _SOCKETS_MAX:
                del self._known[next(iter(self._known))]
