"""Owners that are known, found again by a connection's pid and time. Pure: live and in replays the same.

Pids are used again, and a process may change its cgroup and its program. So one pid may have several details; a connection is
given the latest that had begun when it was opened and fits its cgroup.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import numpy as np

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
    """Who opened each connection; one that was open before is its holder's. A busy host has many of few."""
    details: list[OwnerDetail | None] = [None] * len(rows)
    if not len(owners):
        return details
    opened_ns = np.where(rows["opened_ns"] >= 0, rows["opened_ns"], rows["first_seen_ns"])
    order = np.lexsort((opened_ns, rows["cgroup_id"], rows["pid"]))
    pids, cgroups, times_ns = (column[order].tolist() for column in (rows["pid"], rows["cgroup_id"], opened_ns))
    edges = [at for at in range(1, len(rows)) if pids[at] != pids[at - 1] or cgroups[at] != cgroups[at - 1]]
    for start, end in pairwise([0, *edges, len(rows)] if len(rows) else []):
        if pids[start] < 0:
            continue
        first, last = (owners.find(pids[at], times_ns[at], cgroups[at]) for at in (start, end - 1))
        for at, index in enumerate(order[start:end].tolist(), start):
            details[index] = first if first is last else owners.find(pids[at], times_ns[at], cgroups[at])
    return details
