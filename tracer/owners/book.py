"""Whose connections are: details of processes, looked up while they live and kept when they are gone.

Theory of operation. Events come in batches, some milliseconds after they happened. For a pid that is not known, the process is
read in one look (100 µs); one that has ended leaves its cgroup's id (15 to 25 µs), which names its container or service. A
process is (pid, start): one that began after a connection was opened has the pid of another, which is gone. One that began before
may still be another than the one that is known, and a known one may have become another program or moved to another cgroup: so a
pid that goes on to open connections is looked at again once a second (its stat: 15 µs), and read again where that shows anything
new.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tracer.owners.cgroup_tree import CgroupTree
from tracer.owners.cgroups import container_of, most_telling, unit_of
from tracer.owners.namespaces import NamespaceNames
from tracer.owners.owner import UNKNOWN, OwnerDetail
from tracer.owners.processes import Process, read_process, read_stat
from tracer.owners.register import CAPACITY_PIDS, OwnerRegister

LOOKS_PER_CALL = 500
BUDGET_NS = 60_000_000  # the ring holds more than a second; a command line made to be slow takes 11 ms
WAITING_MAX = 1 << 13
LOOK_AGAIN_NS = 1_000_000_000

Wanted = tuple[int, int, int]
"""(pid, cgroup id or -1, when the connection was opened: boottime, ns)."""


class OwnerBook:
    """Details of the processes that open connections; a look at each, and bounded memory."""

    def __init__(
        self,
        proc_root: Path = Path("/proc"),
        *,
        run_netns: Path = Path("/run/netns"),
        tree: CgroupTree | None = None,
        capacity: int = CAPACITY_PIDS,
        looks_per_call: int = LOOKS_PER_CALL,
        budget_ns: int = BUDGET_NS,
    ) -> None:
        """Take the places.

        Args:
            proc_root: where /proc is.
            run_netns: where network namespaces have names.
            tree: the cgroups; None: those that /proc/self/mountinfo shows.
            capacity: pids to remember.
            looks_per_call: processes to look at in one `resolve`; more wait for the next.
            budget_ns: after how long `resolve` begins no further look.
        """
        self._proc_root = proc_root
        self._tree = tree or CgroupTree(proc_root)
        self._namespaces = NamespaceNames(proc_root, run_netns)
        self._register = OwnerRegister(capacity)
        self._capacity = max(1, capacity)
        self._looks_per_call = looks_per_call
        self._budget_ns = budget_ns
        self._looked_ns: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._waiting: OrderedDict[tuple[int, int], int] = OrderedDict()
        self.skipped = 0

    @property
    def troubles(self) -> tuple[str, ...]:
        """What keeps owners unknown, a line each."""
        troubles = []
        if read_stat(1, self._proc_root) is None:
            troubles.append(
                f"{self._proc_root} hides others' processes: their command lines stay unknown; run as root of the host"
            )
        if not self._tree.mounted:
            troubles.append("no cgroup v2 is mounted: containers of processes that ended stay unknown")
        if self.skipped:
            troubles.append(f"{self.skipped} owners were not looked up: processes began faster than they can be looked at")
        return tuple(troubles)

    def resolve(self, wanted: Iterable[Wanted], now_ns: int) -> list[OwnerDetail]:
        """Look up who opened connections; call it with none to go on with those that wait.

        Args:
            wanted: one for each connection; pids that are not known (-1) or the kernel's (0) are passed over. Once WAITING_MAX
                processes wait, further ones are counted in `skipped`.
            now_ns: boottime.

        Returns:
            Details that are new or have changed, in the order in which they were asked for.
        """
        for pid, cgroup_id, opened_ns in wanted:
            if pid > 0 and self._is_due((pid, cgroup_id, opened_ns), now_ns):
                if (pid, cgroup_id) in self._waiting or len(self._waiting) < WAITING_MAX:
                    self._waiting[pid, cgroup_id] = opened_ns
                else:
                    self.skipped += 1
        found: list[OwnerDetail] = []
        looks = 0
        ends_ns = time.monotonic_ns() + self._budget_ns
        while self._waiting and looks < self._looks_per_call and (not looks or time.monotonic_ns() < ends_ns):
            (pid, cgroup_id), opened_ns = self._waiting.popitem(last=False)
            one = pid, cgroup_id, opened_ns
            if self._is_due(one, now_ns):
                looks += 1
                detail = self._look(one, now_ns)
                if detail is not None:
                    found.append(detail)
        return found

    def detail_for(self, pid: int, opened_ns: int, cgroup_id: int = UNKNOWN) -> OwnerDetail | None:
        """Who opened a connection, as far as it was looked up; None: nothing is known."""
        return self._register.find(pid, opened_ns, cgroup_id)

    def _is_due(self, one: Wanted, now_ns: int) -> bool:
        pid, cgroup_id, opened_ns = one
        looked_ns = self._looked_ns.get((pid, cgroup_id))
        recently = looked_ns is not None and now_ns - looked_ns < LOOK_AGAIN_NS
        return not recently or self._register.find(pid, opened_ns, cgroup_id) is None

    def _look(self, one: Wanted, now_ns: int) -> OwnerDetail | None:
        pid, cgroup_id, opened_ns = one
        self._note_look(pid, cgroup_id, now_ns)
        known = self._register.find(pid, opened_ns, cgroup_id)
        if known is not None and known.started_ns != UNKNOWN:
            now = read_stat(pid, self._proc_root)
            # Of one that ended since, the last connections are its own as far as anybody can tell.
            if now is None or now == (known.comm, known.started_ns):
                return None
        process = read_process(pid, self._proc_root)
        if process is not None and process.started_ns > opened_ns:
            process = None
        if known is not None and process is None:
            return None
        detail = self._detail(one, process, now_ns)
        if detail == known:
            return None
        self._register.add(detail)
        return detail

    def _note_look(self, pid: int, cgroup_id: int, now_ns: int) -> None:
        self._looked_ns[pid, cgroup_id] = now_ns
        self._looked_ns.move_to_end((pid, cgroup_id))
        while len(self._looked_ns) > self._capacity:
            self._looked_ns.popitem(last=False)

    def _detail(self, one: Wanted, process: Process | None, now_ns: int) -> OwnerDetail:
        pid, cgroup_id, _ = one
        where = self._tree.path_of(cgroup_id, now_ns)
        # Of equals the cgroup in which it connected comes first: it may have moved since.
        paths = most_telling(([where] if where else []) + list(process.cgroups if process else ()))
        path = paths[0] if paths else ""
        container = container_of(path)
        detail = OwnerDetail(pid=pid, cgroup_id=cgroup_id, cgroup=path, unit=unit_of(path))
        if container:
            detail = replace(detail, container=container.id, runtime=container.runtime, pod=container.pod)
        if process is None:
            return detail
        name = self._namespaces.name_of(process.netns, in_container=container is not None, now_ns=now_ns)
        return replace(
            detail,
            started_ns=process.started_ns,
            comm=process.comm,
            cmdline=process.cmdline,
            netns=process.netns,
            netns_name=name,
            uid=process.uid,
        )
