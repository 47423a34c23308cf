"""Network namespaces, found through the processes in them, and the files /proc shows of a process.

A namespace is known by the inode of /proc/PID/ns/net. Its sockets are read through any process in it, so one that lives is
chosen for each. Pids are used again by other processes; a descriptor of the directory /proc/PID is not: it belongs to one
process for good, and is empty once that ended. So everything about a process is read below such a descriptor.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_NETNS_LINK = re.compile(r"net:\[(\d{1,19})\]")
_PID = re.compile(r"[1-9]\d{0,9}")
GONE = frozenset({errno.ENOENT, errno.ESRCH})
DENIED = frozenset({errno.EACCES, errno.EPERM})
_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Trouble:
    """Something that could not be read.

    Attributes:
        path: which file.
        errno: what the kernel said; EINVAL for a link that is none to a namespace, ESTALE for a process that changed its
            namespace meanwhile.
    """

    path: str
    errno: int

    def __str__(self) -> str:
        return f"{self.path}: {os.strerror(self.errno)}"


@dataclass(frozen=True)
class Namespace:
    """A network namespace and a process to see it through; pid None: this process itself."""

    inode: int
    pid: int | None


@dataclass(frozen=True)
class Namespaces:
    """What a walk found.

    Attributes:
        found: each namespace once, this process' own one first, then by inode.
        denied: processes whose namespace may not be looked at (other users', without root). Theirs may be further ones.
        vanished: processes that ended during the walk, or were zombies, which have no namespace.
        hidden: process 1 is not listed: /proc is mounted so that others' processes are invisible (hidepid=2); how many, nobody
            knows. None: nothing could be listed.
        troubles: what else went wrong: a /proc that can't be listed, an own namespace that can't be told.
    """

    found: tuple[Namespace, ...]
    denied: int
    vanished: int
    hidden: bool | None
    troubles: tuple[Trouble, ...]


class OpenProcess:
    """A process' directory in /proc, held open. Troubles are collected, not raised.

    Attributes:
        netns: inode of its network namespace when it was opened; 0 where it may not be known.
        troubles: what could not be read so far.
    """

    def __init__(self, proc_root: Path, pid: int | None) -> None:
        """Name the process; pid None is this one, whose files are below the root itself."""
        self._path = proc_root if pid is None else proc_root / str(pid)
        self._link = "self/ns/net" if pid is None else "ns/net"
        self._fd = -1
        self.netns = 0
        self.troubles: list[Trouble] = []

    def __enter__(self) -> Self:
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self._note(".", error.errno)
            return self
        self.netns = self._netns_now()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read_into(self, name: str, space: bytearray) -> int | None:
        """Read a file of the process to its end.

        Args:
            name: below its directory, such as "net/tcp". It is taken from the namespace `netns`, or not at all.
            space: takes the bytes; it grows where they don't fit.

        Returns:
            How many bytes were read; None where that did not go to the end.
        """
        if self._fd < 0:
            return None
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            self._note(name, error.errno)
            return None
        try:
            # The file is bound to a namespace when it is opened. If the process is in the same one before and after, it is that.
            if self.netns and self._netns_now() != self.netns:
                self._note(name, errno.ESTALE)
                return None
            return _read_all(fd, space)
        except OSError as error:
            self._note(name, error.errno)
            return None
        finally:
            os.close(fd)

    def read(self, name: str) -> bytes | None:
        """A small file of the process."""
        space = bytearray(_READ_BYTES)
        n_bytes = self.read_into(name, space)
        return None if n_bytes is None else bytes(memoryview(space)[:n_bytes])

    def _netns_now(self) -> int:
        try:
            return _netns_of(os.readlink(self._link, dir_fd=self._fd))
        except OSError as error:
            self._note(self._link, error.errno)
            return 0

    def _note(self, name: str, number: int | None) -> None:
        self.troubles.append(Trouble(os.path.normpath(self._path / name), number or errno.EIO))


def _read_all(fd: int, space: bytearray) -> int:
    """Read to the end of file; the kernel gives a page a call of /proc/net files, however much is asked for."""
    n_bytes = 0
    while True:
        if len(space) - n_bytes < _READ_BYTES:
            space.extend(bytes(max(len(space), _READ_BYTES)))
        with memoryview(space) as view:
            while len(view) - n_bytes >= _READ_BYTES:
                n_read = os.readv(fd, [view[n_bytes:]])
                if n_read == 0:
                    return n_bytes
                n_bytes += n_read


def _netns_of(link: str) -> int:
    """The inode in "net:[4026531833]".

    Raises:
        OSError: EINVAL, it says something else.
    """
    match = _NETNS_LINK.fullmatch(link)
    if match is None:
        raise OSError(errno.EINVAL, f"not a network namespace: {link}")
    return int(match[1])


def pids_in(proc_root: Path) -> Iterator[int]:
    """The processes a /proc lists, in no order.

    Raises:
        OSError: it can't be listed.
    """
    with os.scandir(proc_root) as entries:
        for entry in entries:
            if _PID.fullmatch(entry.name):
                yield int(entry.name)


class NamespaceFinder:
    """Finds the network namespaces that have processes in them, and remembers which process it saw each through."""

    def __init__(self, proc_root: Path = Path("/proc")) -> None:
        self._proc_root = proc_root
        self._chosen: dict[int, int] = {}

    def refresh(self) -> Namespaces:
        """Walk all processes. A namespace keeps the process it was seen through; a new one gets that of the lowest number.

        Namespaces that live without a process (a bind mount, an open descriptor), or that only a further thread of a process is
        in, are not found.
        """
        own, own_troubles = self._own()
        troubles = list(own_troubles)
        chosen: dict[int, int] = {}
        denied = vanished = 0
        hidden = None
        try:
            # Lowest first: what was started with the machine mostly lives longest.
            pids = sorted(pids_in(self._proc_root))
        except OSError as error:
            pids = []
            troubles.append(Trouble(str(self._proc_root), error.errno or errno.EIO))
        else:
            hidden = 1 not in pids  # every pid namespace has one
        for pid in pids:
            try:
                inode = self._netns_at(str(pid))
            except OSError as error:
                if error.errno in GONE:
                    vanished += 1
                elif error.errno in DENIED:
                    denied += 1
                else:
                    troubles.append(Trouble(f"{self._proc_root}/{pid}/ns/net", error.errno or errno.EIO))
                continue
            if inode not in chosen or self._chosen.get(inode) == pid:
                chosen[inode] = pid
        self._chosen = chosen
        others = [Namespace(inode, pid) for inode, pid in sorted(chosen.items()) if inode != own]
        return Namespaces(_own_first(own, others), denied, vanished, hidden, tuple(troubles))

    def _own(self) -> tuple[int, tuple[Trouble, ...]]:
        """Inode of this process' namespace; 0 and why, where it can't be told."""
        try:
            return self._netns_at("self"), ()
        except OSError as error:
            return 0, (Trouble(f"{self._proc_root}/self/ns/net", error.errno or errno.EIO),)

    def _netns_at(self, process: str) -> int:
        """The namespace of a process.

        Raises:
            OSError: it may not be known.
        """
        return _netns_of(str((self._proc_root / process / "ns/net").readlink()))


def _own_first(own: int, others: list[Namespace]) -> tuple[Namespace, ...]:
    """The own one has inode 0 where it can't be told; its sockets can be read all the same."""
    return (Namespace(own, None), *others)
