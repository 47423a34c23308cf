"""Whose a socket is: the process that holds its inode open, found in /proc/PID/fd.

Theory of operation. Nothing leads from a socket to its process; the only way is to look at every descriptor of every process.
So only the few inodes that are wanted are looked for, where they most likely are: processes that owned wanted sockets before,
then those that are new since the last search, then the rest; among each, the highest pid first. The search ends with the last
one found.

A process is (pid, start time): pids are used again. While a process is looked at, its directory is held open, and a descriptor of
it never leads to a later process of the same pid.
"""

from __future__ import annotations

import errno
import os
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fallback.namespaces import DENIED, GONE, Trouble, pids_in

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ_BYTES = 1 << 16
# In /proc/PID/stat behind the ")" of the name, which may itself hold blanks and brackets: field 22 is the 20th from there.
_START_AFTER_NAME = 19
CAPACITY_SOCKETS = 1 << 16
CAPACITY_PROCESSES = 1 << 10
UNKNOWN_CGROUP = -1


@dataclass(frozen=True)
class Owner:
    """A process when it was found to hold a socket.

    Attributes:
        pid: its number, as seen from the pid namespace of /proc.
        start_ticks: when it began, in USER_HZ ticks since boot; with the pid, it is one process for good.
        comm: the name of its first thread, raw, at most 15 bytes; other threads and later execs may have others.
        cgroup_id: inode of its directory in cgroup v2, the same as bpf_get_current_cgroup_id; -1: not known.
    """

    pid: int
    start_ticks: int
    comm: bytes
    cgroup_id: int


@dataclass(frozen=True)
class Owners:
    """The answer to one search.

    Attributes:
        found: owner by inode. Of several processes that share a socket it is one.
        missing: wanted inodes nobody was seen to hold: the socket was closed meanwhile, or belongs to a process that may not be
            looked at.
        n_searched: processes whose descriptors were looked at.
        denied: processes that were passed and may not be looked at (others', without root).
        vanished: processes that ended meanwhile.
        troubles: what else could not be read.
    """

    found: dict[int, Owner]
    missing: frozenset[int]
    n_searched: int
    denied: int
    vanished: int
    troubles: tuple[Trouble, ...]


class OwnerFinder:
    """Searches, and remembers what it found: at most `capacity` sockets, the longest unused forgotten first."""

    def __init__(
        self, proc_root: Path = Path("/proc"), *, cgroup_root: Path | None = None, capacity: int = CAPACITY_SOCKETS
    ) -> None:
        """Take the places.

        Args:
            proc_root: where /proc is.
            cgroup_root: where the root of cgroup v2 is mounted; None: looked up in /proc/self/mountinfo.
            capacity: sockets to remember; 0 remembers none.
        """
        self._proc_root = proc_root
        self._cgroups = _Cgroups(proc_root, cgroup_root)
        self._capacity = capacity
        self._known: OrderedDict[int, Owner] = OrderedDict()
        self._owned_before: OrderedDict[int, None] = OrderedDict()
        self._seen: frozenset[int] = frozenset()

    def find(self, wanted: Iterable[int], *, everywhere: bool = True) -> Owners:
        """Look for the owners of sockets; inode 0 (nobody's socket) is left out.

        A remembered owner is given as long as its process lives, without looking whether it still holds the socket.

        Args:
            wanted: inodes.
            everywhere: look at every process; else at those that owned wanted sockets before, and at new ones. A socket that was
                closed meanwhile is looked for in vain, everywhere.
        """
        search = _Search(self._proc_root, self._cgroups, {int(inode) for inode in wanted} - {0})
        self._recall(search)
        if search.missing:
            try:
                pids = set(pids_in(self._proc_root))
            except OSError as error:
                search.note(self._proc_root, error)
            else:
                for pid in self._in_order(pids, everywhere):
                    if not search.missing:
                        break
                    search.look_at(pid)
                self._seen = frozenset(pids)
        self._remember(search.found)
        return Owners(
            search.found, frozenset(search.missing), search.n_searched, search.denied, search.vanished, tuple(search.troubles)
        )

    def forget(self, inodes: Iterable[int]) -> None:
        """Sockets that are no more: their inodes may be used again, by others."""
        for inode in inodes:
            self._known.pop(int(inode), None)

    def __len__(self) -> int:
        return len(self._known)

    def _recall(self, search: _Search) -> None:
        alive: dict[tuple[int, int], bool] = {}
        for inode in sorted(search.missing & self._known.keys()):
            owner = self._known[inode]
            process = (owner.pid, owner.start_ticks)
            if process not in alive:
                alive[process] = search.start_of(owner.pid) == owner.start_ticks
            if alive[process]:
                search.take(inode, owner)
            else:
                del self._known[inode]

    def _in_order(self, pids: set[int], everywhere: bool) -> list[int]:
        before = [pid for pid in reversed(self._owned_before) if pid in pids]
        rest = sorted(pids.difference(before, () if everywhere else self._seen), reverse=True)
        # A stable sort: the new ones first, each kind still from the highest pid on.
        return before + sorted(rest, key=self._seen.__contains__)

    def _remember(self, found: dict[int, Owner]) -> None:
        for inode, owner in found.items():
            self._known[inode] = owner
            self._known.move_to_end(inode)
            self._owned_before[owner.pid] = None
            self._owned_before.move_to_end(owner.pid)
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)
        while len(self._owned_before) > CAPACITY_PROCESSES:
            self._owned_before.popitem(last=False)


class _Search:
    """One search: what is still missing, what was found, what went wrong."""

    def __init__(self, proc_root: Path, cgroups: _Cgroups, wanted: set[int]) -> None:
        self._proc_root = proc_root
        self._cgroups = cgroups
        self.missing = wanted
        self.found: dict[int, Owner] = {}
        self.n_searched = self.denied = self.vanished = 0
        self.troubles: list[Trouble] = []

    def take(self, inode: int, owner: Owner) -> None:
        self.missing.discard(inode)
        self.found[inode] = owner

    def start_of(self, pid: int) -> int | None:
        """When the process that has this pid now began; None: there is none, or it can't be told."""
        try:
            stat = parse_stat((self._proc_root / str(pid) / "stat").read_bytes())
        except OSError as error:
            if error.errno not in GONE:
                self.note(self._proc_root / str(pid), error)
            return None
        return stat[1] if stat else None

    def look_at(self, pid: int) -> None:
        """Look for what is missing among a process' descriptors."""
        path = self._proc_root / str(pid)
        try:
            process_fd = os.open(path, _DIRECTORY)
            try:
                held = self._held(process_fd)
                self.n_searched += 1
                if held:
                    owner = self._owner(pid, process_fd)
                    for inode in held:
                        self.take(inode, owner)
            finally:
                os.close(process_fd)
        except OSError as error:
            self.note(path, error)

    def note(self, path: Path, error: OSError) -> None:
        if error.errno in GONE:
            self.vanished += 1
        elif error.errno in DENIED:
            self.denied += 1
        else:
            self.troubles.append(Trouble(str(path), error.errno or errno.EIO))

    def _held(self, process_fd: int) -> set[int]:
        """Those of the missing inodes that a process holds.

        Raises:
            OSError: its descriptors may not be looked at, or it ended.
        """
        held: set[int] = set()
        # Links are compared as they are, which spares reading a number out of each (a tenth of the time).
        links = {f"socket:[{inode}]": inode for inode in self.missing}
        directory_fd = os.open("fd", _DIRECTORY, dir_fd=process_fd)
        try:
            with os.scandir(directory_fd) as entries:
                names = [entry.name for entry in entries]
            for name in names:
                try:
                    inode = links.get(os.readlink(name, dir_fd=directory_fd))
                except OSError as error:
                    if error.errno in GONE:  # closed meanwhile, as is normal
                        continue
                    raise
                if inode is not None:
                    held.add(inode)
                    if len(held) == len(links):
                        break
        finally:
            os.close(directory_fd)
        return held

    def _owner(self, pid: int, process_fd: int) -> Owner:
        """Who a process is.

        Raises:
            OSError: it ended, or /proc says nothing sensible of it (EINVAL).
        """
        stat = parse_stat(_read(process_fd, "stat"))
        if stat is None:
            raise OSError(errno.EINVAL, f"/proc/{pid}/stat has another form than proc_pid_stat(5) says")
        comm, start_ticks = stat
        return Owner(pid, start_ticks, comm, self._cgroups.id_of(process_fd))


class _Cgroups:
    """Ids of cgroups by path. Paths are used again by new cgroups (a service restarted), so no id is remembered."""

    def __init__(self, proc_root: Path, root: Path | None) -> None:
        self._proc_root = proc_root
        self._mount: tuple[str, str] | None = None if root is None else (str(root), "/")
        self._looked = root is not None

    def id_of(self, process_fd: int) -> int:
        """The cgroup v2 of a process; UNKNOWN_CGROUP where it is none, is outside what is mounted here, or may not be seen."""
        if not self._looked:
            self._looked = True
            try:
                self._mount = parse_cgroup_mount((self._proc_root / "self/mountinfo").read_bytes())
            except OSError:
                self._mount = None  # it stays unknown, which every answer then says
        if self._mount is None:
            return UNKNOWN_CGROUP
        mount_point, mounted = self._mount
        try:
            path = parse_cgroup(_read(process_fd, "cgroup"))
            if path is None or ".." in path.split("/"):
                return UNKNOWN_CGROUP
            below = _below(path, mounted)
            return UNKNOWN_CGROUP if below is None else Path(mount_point + below).stat().st_ino
        except (OSError, ValueError):  # ValueError: a NUL in the path
            return UNKNOWN_CGROUP


def _below(path: str, mounted: str) -> str | None:
    """The path from the mounted cgroup on; None if it is not below it."""
    if mounted == "/":
        return path
    if path == mounted or path.startswith(mounted + "/"):
        return path[len(mounted) :]
    return None


def _read(directory_fd: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        return os.read(fd, _READ_BYTES)
    finally:
        os.close(fd)


def parse_stat(text: bytes) -> tuple[bytes, int] | None:
    """The name and the start time (USER_HZ ticks since boot) in a /proc/PID/stat; None if it has another form."""
    before, bracket, rest = text.partition(b"(")
    name, closing, fields = rest.rpartition(b")")
    values = fields.split()
    if not (bracket and closing and before.strip().isdigit() and len(values) > _START_AFTER_NAME):
        return None
    start = values[_START_AFTER_NAME]
    return (name, int(start)) if start.isdigit() and len(start) <= 20 else None


def parse_cgroup(text: bytes) -> str | None:
    """The path in cgroup v2 in a /proc/PID/cgroup, from the root of the reader's cgroup namespace; None where it has none."""
    for line in text.split(b"\n"):
        if line.startswith(b"0::/"):
            return os.fsdecode(line[len(b"0::") :])
    return None


def parse_cgroup_mount(text: bytes) -> tuple[str, str] | None:
    """Where a /proc/PID/mountinfo says cgroup v2 is: the mount point, and which cgroup is mounted there; None: nowhere.

    Of several mounts it is the one that shows most: the root, or else the highest.
    """
    mounts = []
    for line in text.split(b"\n"):
        left, dash, right = line.partition(b" - ")
        fields = left.split(b" ")
        if dash and right.startswith(b"cgroup2 ") and len(fields) >= 5:
            mounts.append((_unescaped(fields[4]), _unescaped(fields[3])))
    return min(mounts, key=lambda mount: (mount[1].rstrip("/").count("/"), mount), default=None)


def _unescaped(field: bytes) -> str:
    """Blanks, tabs, newlines and backslashes are octal in mountinfo."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 0xFF]), field))
