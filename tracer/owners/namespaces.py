"""Names of network namespaces, as an operator knows them: the host's, those of `ip netns`, and those of containers."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from tracer.owners.owner import UNKNOWN
from tracer.owners.processes import parse_netns_link

HOST = "host"
OWN = "own"
CONTAINER = "container"
REFRESH_NS = 1_000_000_000
_NAMES_MAX = 4096


class NamespaceNames:
    """Names by inode; looked up again at most once a second, because names come and go and inodes are used again."""

    def __init__(self, proc_root: Path = Path("/proc"), run_netns: Path = Path("/run/netns")) -> None:
        self._proc_root = proc_root
        self._run_netns = run_netns
        self._host = self._own = UNKNOWN
        self._names: dict[int, str] = {}
        self._looked_ns: int | None = None

    def name_of(self, inode: int, *, in_container: bool, now_ns: int) -> str:
        """The name of a network namespace, "" where none is known.

        "host" is that of process 1; then one in /run/netns; "own" that of this process, where process 1 may not be seen or has
        another; "container" any other one of a container.

        Args:
            inode: of the namespace; -1 unknown.
            in_container: whether the process it was seen at is in a container.
            now_ns: of any clock that does not go back.
        """
        if inode == UNKNOWN:
            return ""
        if self._looked_ns is None or now_ns - self._looked_ns >= REFRESH_NS:
            self._looked_ns = now_ns
            self._host, self._own = self._inode_of("1"), self._inode_of("self")
            self._names = self._named()
        if inode == self._host:
            return HOST
        if inode in self._names:
            return self._names[inode]
        if inode == self._own:
            return OWN
        return CONTAINER if in_container else ""

    def _inode_of(self, process: str) -> int:
        try:
            return parse_netns_link(str((self._proc_root / process / "ns/net").readlink()))
        except OSError:
            return UNKNOWN

    def _named(self) -> dict[int, str]:
        names: dict[int, str] = {}
        try:
            # A name that is no mount (any more) is an ordinary file, whose inode may be a namespace's by chance.
            device = (self._proc_root / "self/ns/net").stat().st_dev
            with os.scandir(os.fsencode(self._run_netns)) as entries:
                for entry in islice(entries, _NAMES_MAX):
                    # Not entry.inode(): that is the file's below the mount.
                    status = _status(entry.path)
                    if status is not None and status.st_dev == device:
                        names.setdefault(status.st_ino, entry.name.decode("utf-8", "backslashreplace"))
        except OSError:
            return names  # there is no such folder before the first `ip netns add`
        return names


def _status(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - pathlib takes no bytes
    except OSError:
        return None
