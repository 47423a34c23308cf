"""The eBPF source: events of watched sockets, exact to the nanosecond, with what was lost counted."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path

from bpf.clients import CLIENT, CLIENT_KEY, FOLLOWING, Clients
from bpf.loader import RING_BYTES, Loaded, load
from bpf.ring import MappedRing
from bpf.support import EbpfSupport
from bpf.syscall import BpfMap, link_is_attached, possible_cpus, test_run_raw_tracepoint
from bpf.watch_map import PORT_KEY, PORT_VALUE, PREFIX_KEY, PREFIX_VALUE, WatchEntry, WatchMap
from tracer.errors import SourceError
from tracer.events import EventBatch

RESOLUTION_NS = 1
_ENOTSUPP = 524  # include/linux/errno.h; the kernel's own, without a name in Python
_LOSS = struct.Struct("=QQ")  # struct tcp_loss
_CHECK_NS = 1_000_000_000
_ZERO_KEY = b"\0\0\0\0"


class EbpfSource:
    """An attached program and its ring.

    Attributes:
        name: "ebpf", the value of `source` in every output.
        resolution_ns: 1.
        missing: kernel members that could not be found; their fields are invalid in every event.
    """

    name = "ebpf"
    resolution_ns = RESOLUTION_NS

    def __init__(self, support: EbpfSupport, ring_bytes: int = RING_BYTES) -> None:
        """Compile, attach, map.

        Raises:
            SourceError: any of it failed.
        """
        loaded = load(support, ring_bytes)
        self.missing = loaded.missing
        try:
            self._take(loaded)
        except BaseException:
            for fd in loaded.fds.values():
                close_if_open(fd)
            raise

    def _take(self, loaded: Loaded) -> None:
        fds = loaded.fds
        cpus = possible_cpus(Path("/sys/devices/system/cpu/possible").read_text())
        self._link_fds = (fds["nested_link"], fds["link"])
        self._sample_fd, self.program_fd = fds["sample"], fds["program"]
        self._loss = BpfMap(fds["loss"], 4, _LOSS.size * cpus)
        self._watch = WatchMap(
            BpfMap(fds["watch_prefixes"], PREFIX_KEY.size, PREFIX_VALUE.size),
            BpfMap(fds["watch_ports"], PORT_KEY.size, PORT_VALUE.size),
        )
        self._clients = Clients(BpfMap(fds["following"], 4, FOLLOWING.size), BpfMap(fds["clients"], CLIENT_KEY.size, CLIENT.size))
        try:
            self._ring = MappedRing(fds["events"], loaded.ring_bytes)
        except OSError as error:
            raise SourceError(f"the ring buffer can't be mapped: {error.strerror}") from error
        self._lost = self._checked_ns = 0
        self._read_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def watch(self, entries: Iterable[WatchEntry]) -> None:
        """Watch these addresses and no others, from now on; connections to those that stay are not interrupted.

        Raises:
            SourceError: more than the kernel's map holds.
        """
        self._watch.replace(entries)

    def follow(self, clients: Iterable[tuple[int, bytes]] = ()) -> None:
        """Tell of what clients of the watched addresses connect to elsewhere, too, with endpoint id 0.

        Args:
            clients: (cgroup id, comm) of owners that have a connection to a watched address open already.

        Raises:
            SourceError: the kernel refuses.
        """
        self._clients.follow(clients, time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def read(self) -> EventBatch:
        """Everything there is now; does not wait.

        Raises:
            SourceError: the ring is not ours, or the program is not attached any more.
        """
        # The loss counter is read first: what is lost while we drain belongs to the next batch's interval.
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        lost = 0
        last_lost_ns = 0
        for cpu_lost, cpu_last_ns in _LOSS.iter_unpack(self._loss.lookup(_ZERO_KEY)):
            lost += cpu_lost
            last_lost_ns = max(last_lost_ns, cpu_last_ns)
        events = self._ring.reader.read()
        if now_ns - self._checked_ns >= _CHECK_NS:
            self._checked_ns = now_ns
            if not all(link_is_attached(fd) for fd in self._link_fds):
                raise SourceError("the BPF program is not attached any more")
        new_lost, self._lost = lost - self._lost, lost
        since_ns, self._read_ns = self._read_ns, now_ns
        if not new_lost:
            return EventBatch(events, self.name, self.resolution_ns)
        return EventBatch(
            events,
            self.name,
            self.resolution_ns,
            lost=new_lost,
            lost_since_ns=since_ns,
            lost_until_ns=max(last_lost_ns, since_ns) + 1,
        )

    def sample(self, skaddrs: Iterable[int]) -> bool:
        """Have the counters of these open sockets read; they come with the next `read`, flagged SAMPLE.

        Returns:
            False where this kernel can't (before 5.10).

        Raises:
            SourceError: the kernel refuses for another reason.
        """
        try:
            for skaddr in skaddrs:
                test_run_raw_tracepoint(self._sample_fd, skaddr)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, _ENOTSUPP):
                return False
            raise SourceError(f"open sockets can't be sampled: {error.strerror}") from error
        return True

    def close(self) -> None:
        """Detach the program and free its memory."""
        for fd in self._link_fds:
            close_if_open(fd)
        os.close(self._sample_fd)
        os.close(self.program_fd)
        self._ring.close()
        self._loss.close()
        self._watch.close()
        self._clients.close()


def close_if_open(fd: int) -> None:
    """Close a descriptor that may be closed already."""
    try:
        os.close(fd)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
