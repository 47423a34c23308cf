"""Owners that are known, found again by a connection's pid and time. Pure: live and in replays the same.

Pids are used again, and a process may change its cgroup and its program. So one pid may have several details; a connection is
given the latest that had begun when it was opened and fits its cgroup.
"""

from __future__ import annotations

from collections import OrderedDict

from tracer.owners.owner import UNKNOWN, OwnerDetail
from tracer.rows import Connections

CAPACITY_PIDS = 1 << 14
DETAILS_PER_PID = 8


class OwnerRegister:
    """Details by pid: of at most `capacity` pids, the longest unused forgotten first, and of each the latest few."""

    def __init__(self, capacity: int = CAPACITY_PIDS) -> None:
        self._capacity = max(1, capacity)
        self._by_pid: OrderedDict[int, list[OwnerDetail]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_pid)

    def add(self, detail: OwnerDetail) -> None:
        """Remember; what is added later goes before what was added earlier for the same process."""
        known = self._by_pid.setdefault(detail.pid, [])
        known.append(detail)
        del known[:-DETAILS_PER_PID]
        self._by_pid.move_to_end(detail.pid)
        while len(self._by_pid) > self._capacity:
            self._by_pid.popitem(last=False)

    def find(self, pid: int, opened_ns: int, cgroup_id: int = UNKNOWN) -> OwnerDetail | None:
        """Who opened a connection.

        Args:
            pid: of the process that called connect().
            opened_ns: when, in boottime; no process that began later is given.
            cgroup_id: where, -1 unknown: then it may be any.
        """
        best: OwnerDetail | None = None
        for detail in self._by_pid.get(pid, ()):
            fits = detail.started_ns <= opened_ns and (UNKNOWN in (cgroup_id, detail.cgroup_id) or cgroup_id == detail.cgroup_id)
            if fits and (best is None or detail.started_ns >= best.started_ns):
                best = detail
        if best is not None:
            self._by_pid.move_to_end(pid)
        return best


def details_of(rows: Connections, owners: OwnerRegister) -> list[OwnerDetail | None]:
    """Who opened each connection; one that was open before is its holder's."""
    if not len(owners):
        return [None] * len(rows)
    columns = ("pid", "cgroup_id", "opened_ns", "first_seen_ns")
    return [
        owners.find(pid, opened_ns if opened_ns >= 0 else first_seen_ns, cgroup_id) if pid >= 0 else None
        for pid, cgroup_id, opened_ns, first_seen_ns in zip(*(rows[name].tolist() for name in columns), strict=True)
    ]
