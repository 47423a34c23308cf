"""Windows: one network namespace, looked at through sock_diag or through /proc, and what is seen in it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime_ns
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fallback.counters import TcpCounters, parse_snmp
from fallback.diag_records import DIAG_DTYPE, DiagFlag, Records
from fallback.differ import Differ, Look, keys_of, sockets_of
from fallback.namespaces import Namespace, OpenProcess
from fallback.proc_net import read_tcp
from fallback.sock_diag import ALL_STATES, DestroyListener, Dumper
from fallback.sockets import Sockets
from fallback.watched import Watched
from fallback.ways import INBOUND
from tracer.errors import SourceError
from tracer.events import TcpState

_LISTEN = 1 << TcpState.LISTEN


@dataclass(frozen=True)
class Seen:
    """What one look through a window brought.

    Attributes:
        look: for the differ.
        lost: records of ended sockets that the kernel could not deliver, at least; in (lost_since_ns, look.taken_ns].
        opened: connections to any address that were seen for the first time, of `counted` that the kernel says were opened;
            both 0 where only watched ones are looked at.
        missed: connections that a new namespace had opened before it was looked at, to any address; those in the first look are
            among them.
        troubles: what went wrong, in words.
    """

    look: Look
    lost: int = 0
    lost_since_ns: int = 0
    opened: int = 0
    counted: int = 0
    missed: int = 0
    troubles: tuple[str, ...] = field(default=())


class Window(Protocol):
    """A namespace that can be looked at."""

    @property
    def namespace(self) -> Namespace:
        """Which one."""
        ...

    def stirred(self) -> bool:
        """Whether a connection was opened, or something ended, since the last look; cheap."""
        ...

    def drain(self) -> None:
        """Take what would be lost if it were left where it is until the next look. Raises SourceError if it can't be."""
        ...

    def look(self, differ: Differ) -> Seen:
        """See what is there. Raises SourceError if it can't be any more."""
        ...

    def watch(self, watched: Watched) -> None:
        """Look for these from now on."""
        ...

    def move(self, namespace: Namespace) -> None:
        """The same namespace, through another process."""
        ...

    def close(self) -> None:
        """Leave."""
        ...


def tcp_counters(proc_root: Path, namespace: Namespace) -> TcpCounters:
    """The kernel's totals of a namespace; all None where they can't be read."""
    with OpenProcess(proc_root, namespace.pid) as process:
        text = process.read("net/snmp") if process.netns == namespace.inode or not namespace.inode else None
    return parse_snmp(text or b"")


class _Opens:
    """Watches the kernel's count of connections opened in a namespace."""

    def __init__(self, proc_root: Path) -> None:
        self._proc_root = proc_root
        self._known: int | None = None

    def changed(self, namespace: Namespace) -> bool:
        """Whether it has changed since it was asked for last, or is not known."""
        before, self._known = self._known, tcp_counters(self._proc_root, namespace).active_opens
        return self._known is None or self._known != before


class DiagWindow:
    """sock_diag: dumps, and a record of every socket that ends."""

    def __init__(self, namespace: Namespace, watched: Watched, proc_root: Path, fresh: bool = False) -> None:
        """Open both sockets in the namespace.

        Args:
            namespace: which one, and the process to enter it through.
            watched: what to look for.
            proc_root: where /proc is.
            fresh: the namespace is new; how many connections it had before this is counted as missed.

        Raises:
            SourceError: sock_diag is not to be had, or the namespace can't be entered.
        """
        self.namespace = namespace
        self._watched = watched
        self._opens = _Opens(proc_root)
        self._unplaced = 0
        self._listening = np.zeros(0, np.uint16)  # ever: what was accepted on a port outlives its listener
        self._held: Records = np.zeros(0, DIAG_DTYPE)
        with _netns_of(proc_root, namespace) as netns_fd:
            self._listener = DestroyListener(netns_fd, watched.remotes)
            try:
                self._dumper = Dumper(netns_fd)
            except SourceError:
                self._listener.close()
                raise
        self._missed = (tcp_counters(proc_root, namespace).active_opens or 0) if fresh else 0

    def move(self, namespace: Namespace) -> None:
        """The same namespace, through another process: the sockets stay where they are."""
        self.namespace = namespace

    def close(self) -> None:
        """Leave."""
        self._listener.close()
        self._dumper.close()

    def watch(self, watched: Watched) -> None:
        """Look for these from now on.

        Raises:
            SourceError: the kernel takes no filter.
        """
        self._watched = watched
        self._listener.watch(watched.remotes)

    def fileno(self) -> int:
        """For poll(): readable when something ended."""
        return self._listener.fileno()

    def drain(self) -> None:
        """Take the records that wait, so that the kernel's queue has room.

        Raises:
            SourceError: the socket died.
        """
        self._listener.receive()

    def stirred(self) -> bool:
        """Whether a connection was opened, or something ended, or is left to be judged."""
        opened = self._opens.changed(self.namespace)
        return opened or bool(len(self._held)) or self._listener.holds or self._listener.pending()

    def look(self, differ: Differ) -> Seen:
        """Dump, and take the records of what ended.

        A record that came before the dump can be judged by it: what lingers is in it. One that came after it may belong to a
        socket that the dump shows alive, or that was opened behind its back, and waits for the next.

        Raises:
            SourceError: a socket died, or the kernel refuses.
        """
        before = self._listener.read()
        snapshot = self._dumper.dump(ALL_STATES & ~_LISTEN, self._watched.remotes)
        after = self._listener.read()
        picture = self._of_interest(snapshot.records, differ.cookies)
        alive = picture["cookie"][picture["state"] != TcpState.TIME_WAIT]
        late = self._of_interest(after.records, differ.cookies)
        judgeable = ~np.isin(late["cookie"], alive) & np.isin(late["cookie"], differ.cookies)
        ended = np.concatenate([self._held, self._of_interest(before.records, differ.cookies), late[judgeable]])
        self._held = late[~judgeable]
        lost = sum(each.overruns if each.lost is None else each.lost for each in (before, after))
        malformed = sum(each.malformed for each in (before, after)) + snapshot.malformed
        troubles = [f"{malformed} messages of sock_diag could not be read"] if malformed else []
        if snapshot.interrupted:
            troubles.append("the kernel's table of sockets changed under every dump; some may be missing in it")
        if self._unplaced:
            troubles.append(
                f"{self._unplaced} connections to watched addresses ended with their port unknown (a blocking connect that "
                "failed, or SO_LINGER 0); they are not shown"
            )
        times_ns = (snapshot.since_ns, snapshot.until_ns)
        look = Look(sockets_of(picture), *times_ns, picture, ended)
        missed, self._missed = self._missed, 0
        return Seen(look, lost, before.since_ns, missed=missed, troubles=tuple(troubles))

    def _of_interest(self, records: Records, cookies: NDArray[np.uint64]) -> Records:
        """Those to what is watched, or with these cookies, but for those that were opened from outside."""
        kept = self._watched.endpoint_ids(records["raddr"], records["rport"]) != 0
        kept |= np.isin(records["cookie"], cookies) & (records["cookie"] != 0)  # tcp_disconnect() clears the port
        portless = records["flags"] & np.uint32(DiagFlag.DISCONNECTED) != 0
        self._unplaced += int((~kept & portless & self._watched.has_address(records["raddr"])).sum())
        if kept.any() and any(remote.port == 0 for remote in self._watched.remotes):
            self._listening = np.union1d(self._listening, self._dumper.dump(_LISTEN).records["lport"])
            kept &= ~np.isin(records["lport"], self._listening)
        return np.asarray(records[kept], DIAG_DTYPE)


class _netns_of:  # noqa: N801 - a context manager, used as a function
    """An open descriptor of a namespace; None for this process' own."""

    def __init__(self, proc_root: Path, namespace: Namespace) -> None:
        self._path = None if namespace.pid is None else proc_root / str(namespace.pid) / "ns/net"
        self._inode = namespace.inode
        self._fd: int | None = None

    def __enter__(self) -> int | None:
        if self._path is None:
            return None
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            found = os.fstat(self._fd).st_ino
        except OSError as error:
            self.__exit__()
            raise SourceError(f"the network namespace of {self._path} can't be opened: {error.strerror}") from error
        if found != self._inode:
            self.__exit__()
            raise SourceError(f"{self._path} is another network namespace by now")
        return self._fd

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class ProcWindow:
    """/proc/net/tcp and tcp6: pictures, and the kernel's count of connections to measure them by."""

    def __init__(self, namespace: Namespace, watched: Watched, proc_root: Path, space: bytearray, fresh: bool = False) -> None:
        """Look once, to see whether it can be.

        Args:
            namespace: which one, and the process to see it through.
            watched: what to look for.
            proc_root: where /proc is.
            space: memory to read into, shared with other windows.
            fresh: the namespace is new, so that all its connections count.

        Raises:
            SourceError: neither file can be read.
        """
        self.namespace = namespace
        self._watched = watched
        self._proc_root = proc_root
        self._space = space
        self._opens = _Opens(proc_root)
        self._counted = -1
        self._listening = np.zeros(0, np.uint16)  # ever: what was accepted on a port outlives its listener
        self._keys: NDArray[np.uint64] | None = None
        self.look(Differ())
        self._keys, self._counted = (np.zeros(0, np.uint64), 0) if fresh else (None, -1)

    def move(self, namespace: Namespace) -> None:
        """The same namespace, through another process."""
        self.namespace = namespace

    def close(self) -> None:
        """Nothing is held open."""

    def drain(self) -> None:
        """Nothing is queued."""

    def watch(self, watched: Watched) -> None:
        """Look for these from now on."""
        self._watched = watched

    def stirred(self) -> bool:
        """Whether a connection was opened."""
        return self._opens.changed(self.namespace)

    def look(self, differ: Differ) -> Seen:
        """Read both files.

        Raises:
            SourceError: neither can be read.
        """
        opens = tcp_counters(self._proc_root, self.namespace).active_opens
        began_ns = clock_gettime_ns(CLOCK_BOOTTIME)
        picture = read_tcp(self._proc_root, self.namespace.pid, space=self._space)
        if not picture.files:
            reason = "; ".join(map(str, picture.troubles)) or "no such files"
            raise SourceError(f"the sockets of network namespace {self.namespace.inode} can't be read: {reason}")
        troubles = [str(trouble) for trouble in picture.troubles if trouble.errno != errno.ENOENT]
        if picture.malformed:
            troubles.append(f"{picture.malformed} lines of /proc/net/tcp or tcp6 could not be read")
        if not picture.columns_known:
            troubles.append("/proc/net/tcp has other columns than this version knows")
        self._listening = np.union1d(self._listening, picture.rows["lport"][picture.rows["state"] == TcpState.LISTEN])
        outbound = outbound_of(picture.rows, self._listening)
        opened, counted = self._census(outbound, opens)
        watched = self._watched.endpoint_ids(outbound["raddr"], outbound["rport"]) != 0
        return Seen(
            Look(outbound[watched], began_ns, clock_gettime_ns(CLOCK_BOOTTIME)),
            opened=opened,
            counted=counted,
            troubles=tuple(troubles),
        )

    def _census(self, rows: Sockets, opens: int | None) -> tuple[int, int]:
        """(connections seen for the first time, connections opened as the kernel counts) since the last look."""
        known, self._keys = self._keys, keys_of(rows)
        counted, self._counted = self._counted, -1 if opens is None else opens
        if known is None or opens is None or counted < 0:
            return 0, 0
        opened = max(opens - counted, 0)
        return min(int((~np.isin(self._keys, known)).sum()), opened), opened


def outbound_of(rows: Sockets, listening: NDArray[np.uint16]) -> Sockets:
    """Sockets that this side opened: not those that listen, and not those on a port that somebody listens, or listened, on."""
    return np.asarray(rows[~np.isin(rows["state"], INBOUND) & ~np.isin(rows["lport"], listening)], rows.dtype)


Opener = Callable[[Namespace], Window]


def open_window(namespace: Namespace, openers: Iterable[Opener]) -> Window:
    """A window to a namespace, by the first way that works.

    Raises:
        SourceError: none does; it says why the last one does not.
    """
    failed = SourceError("there is no way to look at sockets")
    for opener in openers:
        try:
            return opener(namespace)
        except SourceError as error:
            failed = error
    raise failed
