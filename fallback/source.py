"""The polling source: the sockets of every network namespace that may be seen, looked at as often as a CPU budget allows.

"polled" looks through sock_diag, and through /proc only where that is not to be had; "proc" through /proc alone. Both give the
batches that eBPF gives, with times that are known to lie in an interval.
"""

from __future__ import annotations

import os
import resource
import select
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime_ns, thread_time_ns

import numpy as np
from numpy.typing import NDArray

from fallback.counters import kernel_counts, read_counters
from fallback.differ import Differ, numbers_from
from fallback.namespaces import Namespace, NamespaceFinder, Namespaces
from fallback.netlink import Remote
from fallback.owners import Owner, OwnerFinder
from fallback.steps import Differences
from fallback.watched import Watched
from fallback.windows import DiagWindow, Opener, ProcWindow, Seen, Window, open_window
from tracer.errors import SourceError
from tracer.events import EventBatch, EventFlag, Events, KernelCounts, is_adopted, is_opening, no_events

POLLED, PROC = "polled", "proc"
CPU_SHARE = 0.02
"""Of one core: what looking may cost."""
PERIOD_NS = 50_000_000
"""Nothing is looked at more often."""
NAMESPACES_NS = 1_000_000_000
"""How often new network namespaces are looked for, if the budget allows."""
NAMESPACES_SHARE = 0.25
"""Of the budget, what looking for namespaces may take."""
NAMESPACES_MAX = 1024
COUNTS_NS = 1_000_000_000
"""How often the kernel's own totals are read; that takes 0.2 ms."""
_SPARE_DESCRIPTORS = 64
_AROUND_NS = 300_000
"""What a look costs beside itself: waking up, and the reads between."""
_WARNINGS_MAX = 100
_INITIAL_BYTES = 1 << 18


@dataclass
class _View:
    """A namespace, how it is seen, and what was."""

    window: Window | None
    differ: Differ
    inodes: frozenset[int] = frozenset()
    refused: Namespace | None = None
    quiet_ns: int = 0


class PollingSource:
    """See above.

    Attributes:
        name: "polled" or "proc", the value of `source` in every output.
    """

    def __init__(
        self,
        name: str,
        proc_root: Path = Path("/proc"),
        cpu_share: float = CPU_SHARE,
        numbers: Callable[[int], NDArray[np.uint64]] | None = None,
    ) -> None:
        """Take the places; nothing is looked at before `start`. `numbers` gives sockets theirs; None: from the first on."""
        self.name = name
        self._proc_root = proc_root
        self._cpu_share = cpu_share
        self._finder = NamespaceFinder(proc_root)
        self._owners = OwnerFinder(proc_root)
        self._views: dict[int, _View] = {}
        self._watched = Watched()
        self._numbers = numbers or numbers_from()
        self._space = bytearray(_INITIAL_BYTES)
        self._sampled: set[int] = set()
        self._pending: list[EventBatch] = []
        self._warned: set[str] = set()
        self._warnings: list[str] = []
        self._due_ns = self._walk_due_ns = self._until_ns = self._spent_ns = self._counts_due_ns = 0
        self._debt_ns = self._searched_ns = 0
        self._poll = select.poll()
        self._queues: dict[int, _View] = {}  # by descriptor
        self._parts: list[Differences] = []
        self._known: frozenset[int] = frozenset()  # namespaces, at the last walk
        self._walked_ns = self._lost = 0
        self._rewatched = False
        self._nothing = EventBatch(no_events(), name, PERIOD_NS)
        self._walked = Namespaces((), 0, 0, None, ())

    @property
    def resolution_ns(self) -> int:
        """How exact times are at best; each event says how exact its own is."""
        return PERIOD_NS

    def watch(self, entries: Iterable[tuple[Remote, int]]) -> None:
        """Watch these (remote, endpoint id) pairs and no others, from the next look on.

        Raises:
            SourceError: the kernel takes no filter.
        """
        self._watched = Watched(entries)
        self._rewatched = True
        for view in self._views.values():
            if view.window is not None:
                view.window.watch(self._watched)
            view.differ.rewatch(lambda rows: self._watched.endpoint_ids(rows["raddr"], rows["rport"]) != 0)

    def start(self) -> None:
        """Look for the first time: what is open now was opened before.

        Raises:
            SourceError: not even this process' own namespace can be seen.
        """
        self._walk(clock_gettime_ns(CLOCK_BOOTTIME))
        if all(view.window is None for view in self._views.values()):
            raise SourceError("; ".join(self._warnings) or "no network namespace can be seen")
        self._pending = [self._look(at_once=True)]

    def read(self, *, at_once: bool = False) -> EventBatch:
        """What was seen since the last time; does not wait.

        Args:
            at_once: look now, whatever the budget says: it is the last time, or somebody waits.

        Raises:
            SourceError: this process' own namespace can't be looked at any more.
        """
        now_ns = clock_gettime_ns(CLOCK_BOOTTIME)
        if self._pending:
            return self._pending.pop()
        started_ns = thread_time_ns()
        if now_ns < self._due_ns and not at_once:
            self._drain()
            self._spent_ns += thread_time_ns() - started_ns
            return self._nothing
        if now_ns >= self._walk_due_ns:
            self._walk(now_ns)
        batch = self._look(at_once)
        self._pay(thread_time_ns() - started_ns + self._spent_ns + _AROUND_NS, now_ns)
        self._nothing = self._batch(no_events(), np.zeros(0, np.uint64))
        return batch

    def _pay(self, cost_ns: int, now_ns: int) -> None:
        """Wait for the next look until this one, and what was spent since the last, is paid for.

        A search of all processes for owners may cost as much as thirty looks: it is paid for by and by.
        """
        searched_ns, self._searched_ns, self._spent_ns = self._searched_ns, 0, 0
        self._debt_ns += searched_ns
        cost_ns -= searched_ns
        paid_ns = min(self._debt_ns, cost_ns)
        self._debt_ns -= paid_ns
        self._due_ns = now_ns + max(PERIOD_NS // 2, int((cost_ns + paid_ns) / self._cpu_share))

    def _drain(self) -> None:
        """Take records before their queues are full: an ordinary user's holds 330."""
        for fd, _ in self._poll.poll(0):
            view = self._queues[fd]
            if view.window is not None:
                try:
                    view.window.drain()
                except SourceError as error:
                    self._lose(view, error)

    def sample(self, skaddrs: Iterable[int]) -> bool:
        """Have the counters of these connections told with the next look; /proc has none but unread bytes."""
        self._sampled.update(skaddrs)
        return True

    def warnings(self) -> list[str]:
        """What went wrong since the last time, each thing once."""
        told, self._warnings = self._warnings, []
        return told

    def lacks(self) -> list[str]:
        """What this process may not see, in words."""
        lacking = []
        if self._walked.denied:
            processes = "1 process" if self._walked.denied == 1 else f"{self._walked.denied} processes"
            lacking.append(f"{processes} of others, and what network namespaces they are in, are out of sight")
        elif self._walked.hidden:
            lacking.append("/proc hides other users' processes (hidepid)")
        if os.geteuid():
            lacking.append("owners are known of this user's own processes only")
        return lacking

    def close(self) -> None:
        """Leave every namespace."""
        for view in self._views.values():
            self._close(view)
        self._views = {}

    def _batch(self, events: Events, early_ns: NDArray[np.uint64]) -> EventBatch:
        return EventBatch(events, self.name, self.resolution_ns, early_ns=early_ns, until_ns=self._until_ns)

    def _warn(self, text: str, kind: str | None = None) -> None:
        """Say something once; `kind` is what tells it from others, where the text has numbers in it."""
        if (kind or text) not in self._warned and len(self._warned) < _WARNINGS_MAX:
            self._warned.add(kind or text)
            self._warnings.append(text)

    def _openers(self, fresh: bool) -> list[Opener]:
        def through_proc(namespace: Namespace) -> Window:
            return ProcWindow(namespace, self._watched, self._proc_root, self._space, fresh)

        def through_diag(namespace: Namespace) -> Window:
            return DiagWindow(namespace, self._watched, self._proc_root, fresh)

        return [through_proc] if self.name == PROC else [through_diag, through_proc]

    def _walk(self, now_ns: int) -> None:
        """Find the namespaces there are, and open or close windows."""
        started_ns = thread_time_ns()
        self._walked = walked = self._finder.refresh()
        cost_ns = thread_time_ns() - started_ns
        self._walk_due_ns = now_ns + max(NAMESPACES_NS, int(cost_ns / self._cpu_share / NAMESPACES_SHARE))
        for trouble in walked.troubles:
            self._warn(f"network namespaces: {trouble}", "walk")
        most = _namespaces_max()
        # Those that are seen already go on to be seen, whatever others make.
        kept_first = sorted(walked.found, key=lambda namespace: namespace.pid is not None and namespace.inode not in self._views)
        found = {namespace.inode: namespace for namespace in kept_first[:most]}
        if len(walked.found) > most:
            self._warn(f"{len(walked.found)} network namespaces are more than are watched ({most})", "many namespaces")
        for inode in [inode for inode in self._views if inode not in found]:
            self._end(inode)
        for inode, namespace in found.items():
            view = self._views.get(inode)
            if view is None:
                fresh = self._walked_ns > 0 and inode not in self._known
                view = self._views[inode] = _View(None, Differ(self._numbers, self.name == POLLED))
                if fresh:
                    view.differ.begin_empty(self._walked_ns)
                self._open(view, namespace, fresh)
            elif view.window is None:
                self._open(view, namespace, fresh=False)
            elif view.window.namespace != namespace:  # the process it was seen through has ended or moved
                view.window.move(namespace)
        self._known = frozenset(found)
        self._walked_ns = now_ns

    def _open(self, view: _View, namespace: Namespace, fresh: bool) -> None:
        if view.refused == namespace:
            return
        try:
            window = open_window(namespace, self._openers(fresh))
        except SourceError as error:
            view.refused = namespace  # through another process it may be seen
            self._warn(f"a network namespace can't be seen: {error}", "unseen namespace")
            return
        view.window, view.refused = window, None
        if isinstance(window, DiagWindow):
            self._queues[window.fileno()] = view
            self._poll.register(window.fileno(), select.POLLIN)
        elif self.name == POLLED:
            view.differ.without_records()
            self._warn(f"network namespace {namespace.inode} is seen through /proc alone: sock_diag can't be used in it")

    def _close(self, view: _View) -> None:
        if isinstance(view.window, DiagWindow):
            self._poll.unregister(view.window.fileno())
            del self._queues[view.window.fileno()]
        if view.window is not None:
            view.window.close()
        view.window = None

    def _end(self, inode: int) -> None:
        """A namespace has no process any more: what its queue holds is told, and then all that was open in it has ended."""
        view = self._views.pop(inode)
        now_ns = clock_gettime_ns(CLOCK_BOOTTIME)
        if isinstance(view.window, DiagWindow):
            with suppress(SourceError):
                for _ in range(2):  # what was gone waits for its record once
                    seen = view.window.look(view.differ)
                    self._lost += seen.lost
                    self._parts.append(self._named(inode, view.differ.take(seen.look)))
        self._close(view)
        self._owners.forget(view.inodes)
        self._parts.append(self._named(inode, view.differ.end_all(max(now_ns, clock_gettime_ns(CLOCK_BOOTTIME)))))

    def _look(self, at_once: bool) -> EventBatch:
        """Look through every window where something may have changed."""
        opened = counted = 0
        lost, self._lost = self._lost, 0
        lost_since_ns = self._until_ns if lost else 0
        before_ns = clock_gettime_ns(CLOCK_BOOTTIME)
        sampled = frozenset(self._sampled)
        for inode, view in list(self._views.items()):
            if view.window is None:
                continue
            quiet_ns = clock_gettime_ns(CLOCK_BOOTTIME)
            if not (view.window.stirred() or len(view.differ) or at_once or self._rewatched):
                # What the check before this one did not see had not begun then; a record may be a little late.
                view.differ.note_quiet(view.quiet_ns)
                view.quiet_ns = quiet_ns
                continue
            view.quiet_ns = 0
            try:
                seen = view.window.look(view.differ)
            except SourceError as error:
                self._lose(view, error)
                continue
            differences = view.differ.take(seen.look, sampled)
            self._parts.append(self._named(inode, differences))
            self._forget(view)
            # Of watched connections, all are seen but those whose records could not be delivered.
            told = int(is_opening(differences.events).sum())
            opened += seen.opened if seen.counted else told
            counted += seen.counted or max(told, seen.missed) + seen.lost
            if seen.lost:
                lost_since_ns = min(lost_since_ns or seen.lost_since_ns, seen.lost_since_ns)
                lost += seen.lost
            self._tell(seen)
        self._sampled -= sampled
        self._rewatched = False
        self._until_ns = before_ns
        batch = self._gathered()
        if lost:
            batch = replace(batch, lost=lost, lost_since_ns=lost_since_ns, lost_until_ns=clock_gettime_ns(CLOCK_BOOTTIME))
        return replace(batch, opened=opened, counted=counted, kernel=self._kernel(before_ns, at_once))

    def _kernel(self, now_ns: int, at_once: bool) -> KernelCounts | None:
        """The kernel's own totals of this process' namespace, from time to time."""
        if now_ns < self._counts_due_ns and not at_once:
            return None
        self._counts_due_ns = now_ns + COUNTS_NS
        return kernel_counts(read_counters(self._proc_root))

    def _gathered(self) -> EventBatch:
        """What was seen through all windows, in the order of time."""
        parts, self._parts = self._parts, []
        events = np.concatenate([no_events(), *(each.events for each in parts)])
        early_ns = np.concatenate([np.zeros(0, np.uint64), *(each.early_ns for each in parts)])
        order = np.argsort(events["ts_ns"], kind="stable")
        return self._batch(events[order], early_ns[order])

    def _tell(self, seen: Seen) -> None:
        for trouble in seen.troubles:
            self._warn(trouble, trouble.lstrip("0123456789"))

    def _lose(self, view: _View, error: SourceError) -> None:
        """A namespace can't be looked at any more: its process ended, or it did; without our own there is nothing."""
        if view.window is not None and view.window.namespace.pid is None:
            raise error
        self._close(view)
        self._walk_due_ns = 0  # it may be seen through another process; what is known of its sockets stays

    def _named(self, inode: int, differences: Differences) -> Differences:
        """With what only the reader knows: endpoint, namespace and owner."""
        events = differences.events
        events["endpoint_id"] = self._watched.endpoint_ids(events["daddr"], events["dport"])
        if inode:
            events["netns"] = inode
            events["flags"] |= np.uint32(EventFlag.HAS_NETNS)
        asked = np.flatnonzero((is_opening(events) | is_adopted(events)) & (differences.inodes != 0))
        if os.geteuid():  # the sockets of others would be looked for in vain
            asked = asked[differences.uids[asked] == os.geteuid()]
        if len(asked):
            found = self._find_owners(differences.inodes[asked].tolist())
            for index, number in zip(asked.tolist(), differences.inodes[asked].tolist(), strict=True):
                if number in found:
                    _set_owner(events[index], found[number])
        return differences

    def _find_owners(self, inodes: list[int]) -> dict[int, Owner]:
        """The owners of sockets, looked for everywhere if the last time is paid for."""
        if self._debt_ns or self._searched_ns:
            return self._owners.find(inodes, everywhere=False).found
        started_ns = thread_time_ns()
        found = self._owners.find(inodes).found
        self._searched_ns = thread_time_ns() - started_ns
        return found

    def _forget(self, view: _View) -> None:
        """Inodes of sockets that are gone are used again, by others."""
        inodes = frozenset(view.differ.inodes.tolist())
        self._owners.forget(view.inodes - inodes)
        view.inodes = inodes


def _namespaces_max() -> int:
    """How many namespaces there are descriptors for: two each, and some to look up owners with."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return NAMESPACES_MAX if soft < 0 else max(1, min(NAMESPACES_MAX, (soft - _SPARE_DESCRIPTORS) // 2))


def _set_owner(event: Events, owner: Owner) -> None:
    event["pid"], event["comm"] = owner.pid, owner.comm
    flags = EventFlag.OWNER | EventFlag.HAS_TASK
    if owner.cgroup_id >= 0:
        event["cgroup_id"] = owner.cgroup_id
        flags |= EventFlag.HAS_CGROUP
    event["flags"] |= np.uint32(flags)
