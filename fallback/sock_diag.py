"""sock_diag: every TCP socket that ended (destroy multicast, no privilege needed), and those that are open (dumps)."""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from fallback import netlink
from fallback.diag_records import DIAG_DTYPE, INET_DIAG_INFO, SOCK_DIAG_BY_FAMILY, Records, parse_datagrams, parse_messages
from fallback.netlink import Bytes, Indexes, Remote
from tracer.errors import SourceError
from tracer.events import TcpState

RECEIVE_BYTES: Final = 16 << 20  # 26,000 messages of 1,280 bytes: two seconds at 10,000 a second (the kernel doubles it)
READ_BATCHES_MAX: Final = 64  # a read ends, even where messages come faster than they are taken
DUMP_TRIES, DUMP_TIMEOUT_S, PROBE_TIMEOUT_MS = 3, 10.0, 500
OPEN_STATES: Final = sum(1 << state for state in TcpState if state not in (TcpState.LISTEN, TcpState.TIME_WAIT, TcpState.CLOSE))
ALL_STATES: Final = sum(1 << state for state in TcpState)
_GROUPS: Final = 1 << (1 - 1) | 1 << (3 - 1)  # SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY
_TCPDIAG_GETSOCK, _REQ_BYTECODE = 18, 1
_REQUEST: Final = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2: family, protocol, extensions, states, an empty socket id
_REQUEST_BOTH: Final = struct.Struct("=BxxB48xI4x")  # struct inet_diag_req: family, extensions, an empty socket id, states
_NOT_KNOWN: Final = (errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP, errno.EPERM)
_ROWS_MAX: Final = 4096  # of 1 kB each, not parsed yet
_DUMP_BUFFER_BYTES: Final = 1 << 16  # twice what the kernel makes at once


@dataclass(frozen=True)
class Destroyed:
    """What one read of the multicast brought.

    Attributes:
        records: in order of arrival. They ended in their (since_ns, received_ns], but for the delay of the kernel's work queue.
        overruns: how often the kernel said ENOBUFS.
        lost: messages dropped in (since_ns, until_ns] of those that the filter lets through; None where the kernel does not count
            them (before 4.12) and overruns is not 0.
        malformed: messages that could not be parsed.
        since_ns, until_ns: boottime of the last read that left nothing behind, and of the end of this one.
    """

    records: Records
    overruns: int
    lost: int | None
    malformed: int
    since_ns: int
    until_ns: int


@dataclass(frozen=True)
class Snapshot:
    """Sockets of both families; `interrupted` says that the kernel's tables changed under every try, so some may be missing.

    Sockets were looked at one after the other in [since_ns, until_ns), boottime; records' `received_ns` is until_ns.
    """

    records: Records
    interrupted: bool
    malformed: int
    since_ns: int
    until_ns: int


class _Taken(NamedTuple):
    """Datagrams as they were received together: uint8 (n, slot_bytes), int64 (n,), and the interval in which they came."""

    rows: Bytes
    lengths: Indexes
    since_ns: int
    received_ns: int


class DestroyListener:
    """Joins sock_diag's destroy groups of one network namespace. To be closed."""

    def __init__(self, netns_fd: int | None = None, remotes: Sequence[Remote] = (), receive_bytes: int = RECEIVE_BYTES) -> None:
        """Join.

        Args:
            netns_fd: an open /proc/PID/ns/net (CAP_SYS_ADMIN); None for the caller's own.
            remotes: what the kernel shall let through; everything, with listeners and sockets never connected, if there
                are none, or too many for its filters (over 100 with an optmem_max of 20,480), so the caller looks again.
            receive_bytes: of the queue; an unprivileged one is cut down to net.core.rmem_max, usually 330 messages.

        Raises:
            SourceError: no sock_diag, or the namespace can't be entered.
        """
        self._sock = netlink.open_netlink(_GROUPS, netns_fd, receive_bytes, netlink.destroy_filter(remotes))
        self.receive_bytes = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self._receiver = netlink.BatchReceiver(self._sock)
        self._poll = select.poll()
        self._poll.register(self._sock, select.POLLIN)
        self._dropped = netlink.dropped(self._sock)
        self._since_ns = self._read_since_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._taken: list[_Taken] = []
        self._parsed: list[Records] = []
        self._rows_taken = self._overruns = self._malformed = 0

    def fileno(self) -> int:
        """For poll(): readable when something ended."""
        return self._sock.fileno()

    def pending(self) -> bool:
        """Whether a record waits to be read."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        """Leave."""
        self._sock.close()

    def watch(self, remotes: Sequence[Remote]) -> None:
        """Replace what the kernel lets through, at once and without a gap.

        Raises:
            SourceError: the kernel takes no filter.
        """
        netlink.attach_filter(self._sock, netlink.destroy_filter(remotes))

    @property
    def holds(self) -> bool:
        """Whether records were received that are not read yet."""
        return bool(self._taken)

    def receive(self) -> None:
        """Take what waits out of the kernel's queue, for the next `read`; never waits, and costs a tenth of reading.

        Raises:
            SourceError: the socket died.
        """
        since_ns, started_ns = self._since_ns, time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for _ in range(READ_BATCHES_MAX):
            got = self._receiver.receive()
            self._overruns += got.overrun
            if got.empty:
                self._since_ns = started_ns
                break
            if len(got.lengths):
                now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                self._taken.append(_Taken(got.rows.copy(), got.lengths, since_ns, now_ns))
                self._rows_taken += len(got.lengths)
                if self._rows_taken >= _ROWS_MAX:
                    self._parse()

    def read(self) -> Destroyed:
        """All that ended since the last read; never waits.

        Raises:
            SourceError: the socket died.
        """
        since_ns = self._read_since_ns
        self.receive()
        self._read_since_ns = self._since_ns
        self._parse()
        records = np.concatenate([np.zeros(0, DIAG_DTYPE), *self._parsed])
        overruns, malformed = self._overruns, self._malformed
        self._parsed, self._overruns, self._malformed = [], 0, 0
        lost = self._lost(overruns)  # before the clock: what is lost later belongs to the next interval
        return Destroyed(records, overruns, lost, malformed, since_ns, time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def _parse(self) -> None:
        """Many at once: a numpy call costs as much for one as for a hundred."""
        taken, self._taken, self._rows_taken = self._taken, [], 0
        if not taken:
            return
        counts = [len(each.lengths) for each in taken]
        parsed, wrong = parse_datagrams(
            np.concatenate([each.rows for each in taken]),
            np.concatenate([each.lengths for each in taken]),
            np.repeat([each.since_ns for each in taken], counts),
            np.repeat([each.received_ns for each in taken], counts),
        )
        self._parsed.append(parsed)
        self._malformed += wrong

    def _lost(self, overruns: int) -> int | None:
        before, self._dropped = self._dropped, netlink.dropped(self._sock)
        if before is None or self._dropped is None:
            return None if overruns else 0
        return (self._dropped - before) & 0xFFFFFFFF


class Dumper:
    """Asks for the sockets of one network namespace, again and again. To be closed."""

    def __init__(self, netns_fd: int | None = None) -> None:
        """Open.

        Args:
            netns_fd: an open /proc/PID/ns/net (CAP_SYS_ADMIN); None for the caller's own.

        Raises:
            SourceError: no sock_diag, or the namespace can't be entered.
        """
        self._sock = netlink.open_netlink(0, netns_fd, _DUMP_BUFFER_BYTES)
        self._sock.settimeout(DUMP_TIMEOUT_S)
        self._buffer = bytearray(_DUMP_BUFFER_BYTES)
        self._sequence = 0
        self._both_at_once = True

    def close(self) -> None:
        """Leave."""
        self._sock.close()

    def dump(self, states_mask: int = OPEN_STATES, remotes: Sequence[Remote] = ()) -> Snapshot:
        """The sockets in some states, to some remotes (to all if there are none, or too many to tell the kernel).

        Raises:
            SourceError: the kernel refuses (no tcp_diag module, seccomp), or does not answer.
        """
        bytecode = netlink.dump_filter(remotes)
        try:
            for _ in range(DUMP_TRIES):
                snapshot = self._dump_once(states_mask, bytecode)
                if not snapshot.interrupted:
                    break
        except OSError as error:  # TimeoutError is one
            raise SourceError(f"the dump of TCP sockets by sock_diag failed: {error.strerror or error}") from error
        return snapshot

    def _dump_once(self, states_mask: int, bytecode: bytes) -> Snapshot:
        since_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if self._both_at_once:
            # The older request walks the kernel's table once for both families; the newer one takes a walk for each.
            try:
                body = _REQUEST_BOTH.pack(socket.AF_INET, 1 << (INET_DIAG_INFO - 1), states_mask & 0xFFFFFFFF)
                return self._ask([(_TCPDIAG_GETSOCK, body)], bytecode, since_ns)
            except OSError as error:
                if error.errno not in _NOT_KNOWN:
                    raise
                self._both_at_once = False
        families = (socket.AF_INET, socket.AF_INET6)
        bodies = [
            _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), states_mask & 0xFFFFFFFF) for family in families
        ]
        return self._ask([(SOCK_DIAG_BY_FAMILY, body) for body in bodies], bytecode, since_ns)

    def _ask(self, requests: list[tuple[int, bytes]], bytecode: bytes, since_ns: int) -> Snapshot:
        parts: list[Records] = []
        malformed, interrupted = 0, False
        condition = netlink.ATTRIBUTE.pack(netlink.ATTRIBUTE.size + len(bytecode), _REQ_BYTECODE) + bytecode if bytecode else b""
        for kind, body in requests:
            self._sequence += 1
            for answer in netlink.request_dump(self._sock, kind, self._sequence, body + condition, self._buffer):
                starts = np.array([message.start for message in answer.found], np.int64)
                sizes = np.array([message.length for message in answer.found], np.int64)
                records, wrong = parse_messages(np.frombuffer(self._buffer, np.uint8), starts, sizes)
                parts.append(records)
                malformed += answer.malformed + wrong
                interrupted |= answer.interrupted
        until_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        records = np.concatenate(parts)
        records["received_ns"] = until_ns
        return Snapshot(records, interrupted, malformed, since_ns, until_ns)


def dump(states_mask: int = OPEN_STATES, remotes: Sequence[Remote] = (), netns_fd: int | None = None) -> Snapshot:
    """One dump; see `Dumper`.

    Raises:
        SourceError: as there.
    """
    with closing(Dumper(netns_fd)) as dumper:
        return dumper.dump(states_mask, remotes)


def probe(netns_fd: int | None = None) -> str | None:
    """Why sock_diag can't be used here; None if both halves answer: a dump, and the end of a socket of our own."""
    try:
        dump(1 << TcpState.LISTEN, netns_fd=netns_fd)
        with closing(DestroyListener(netns_fd, receive_bytes=1 << 16)) as listener:
            if netns_fd is not None:
                return None  # a socket made here would end here, not there
            # A sandbox may take the subscription and never send anything.
            socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
            poll = select.poll()
            poll.register(listener.fileno(), select.POLLIN)
            return None if poll.poll(PROBE_TIMEOUT_MS) else "sock_diag does not report the end of sockets"
    except SourceError as error:
        return str(error)
    except OSError as error:
        return f"no TCP socket can be made to try sock_diag with: {error.strerror}"
