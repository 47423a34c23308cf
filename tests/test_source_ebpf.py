"""The eBPF source in this process: the watch map while it runs, overflow with forced loss, and nothing left behind."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bpf.ring import RECORD_DTYPE
from bpf.source import EbpfSource
from bpf.support import probe
from bpf.syscall import loaded_programs
from bpf.watch_map import WatchEntry
from tests.live import read_all, serving
from tracer.analysis import Analysis
from tracer.events import EventBatch, TcpState
from tracer.lifecycle import CloseReason

pytestmark = pytest.mark.ebpf

SMALL_RING_BYTES = 4096
SMALL_RING_EVENTS = SMALL_RING_BYTES // RECORD_DTYPE.itemsize
TRANSITIONS = 5  # of a connection that the peer closes first


def mapped(address: str) -> bytes:
    return bytes(10) + b"\xff\xff" + socket.inet_aton(address)


def entry(port: int, endpoint_id: int = 1) -> WatchEntry:
    return WatchEntry(mapped("127.0.0.1"), 128, port, endpoint_id)


@pytest.fixture
def source() -> Iterator[EbpfSource]:
    opened = EbpfSource(probe())
    yield opened
    opened.close()


@pytest.fixture
def small_source() -> Iterator[EbpfSource]:
    """With a ring of one page."""
    opened = EbpfSource(probe(), SMALL_RING_BYTES)
    yield opened
    opened.close()


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def connect(port: int, times: int = 1) -> None:
    for _ in range(times):
        with socket.create_connection(("127.0.0.1", port)) as client:
            read_all(client)


def close_at_once(connection: socket.socket) -> None:
    connection.close()


def settled(source: EbpfSource) -> EventBatch:
    time.sleep(0.1)  # a close may still be under way in softirq
    return source.read()


def test_nothing_is_watched_before_it_is_said(source: EbpfSource) -> None:
    with serving(close_at_once) as port:
        connect(port, 3)
    assert len(settled(source)) == 0


def test_the_watch_map_changes_while_running(source: EbpfSource) -> None:
    """Added, kept and removed entries take effect at once, without loading the program again."""
    program = source.program_fd
    with serving(close_at_once) as first, serving(close_at_once) as second:
        seen = []
        for entries in ([entry(first, 1)], [entry(first, 1), entry(second, 2)], [entry(second, 2)], []):
            source.watch(entries)
            connect(first)
            connect(second)
            seen.append(sorted(set(settled(source).events["endpoint_id"].tolist())))
    assert seen == [[1], [1, 2], [2], []]
    assert source.program_fd == program


def test_an_address_that_stays_is_watched_while_the_map_changes(source: EbpfSource) -> None:
    """Not one transition of a kept entry is missed through many changes."""
    with serving(close_at_once) as port:
        for number in range(200):
            source.watch([entry(port), entry(1 + number, 2)])
            connect(port)
        batch = settled(source)
    assert batch.lost == 0
    assert int((batch.events["new_state"] == TcpState.SYN_SENT).sum()) == 200


def test_overflow_is_counted_exactly(small_source: EbpfSource) -> None:
    """Events delivered and events lost are together all there were."""
    connections = 40
    with serving(close_at_once) as port:
        small_source.watch([entry(port)])
        connect(port, connections)
        batch = settled(small_source)
    assert len(batch) == SMALL_RING_EVENTS
    assert batch.lost == connections * TRANSITIONS - SMALL_RING_EVENTS
    assert small_source.read().lost == 0


def test_the_interval_of_a_loss_holds_it(small_source: EbpfSource) -> None:
    """It begins no earlier than the read before, and ends after the last lost event but before now."""
    with serving(close_at_once) as port:
        small_source.watch([entry(port)])
        small_source.read()
        before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        connect(port, 40)
        batch = settled(small_source)
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert abs(batch.lost_since_ns - before_ns) < 100_000_000
    assert int(batch.events["ts_ns"][-1]) < batch.lost_until_ns <= now_ns


def test_nothing_is_wrong_after_an_overflow(small_source: EbpfSource) -> None:
    """Connections after the gap have their exact rows; those in it are not claimed to be whole; all is said."""
    analysis = Analysis("ebpf", 1, {1: "registry"})
    with serving(close_at_once) as port:
        small_source.watch([entry(port)])
        connect(port, 40)
        analysis.feed(settled(small_source))
        rows = []
        for _ in range(10):
            connect(port)
            rows.append(analysis.feed(settled(small_source)).ended)
    after = np.concatenate(rows)
    is_whole = (after["close_reason"] == CloseReason.PEER) & (after["opened_ns"] >= 0) & ~after["gap"]
    whole, cut = after[is_whole], after[~is_whole]
    assert len(whole) == 10
    assert (whole["state_ns"].clip(0).sum(axis=1) == whole["lifetime_ns"]).all()
    cut = np.concatenate([cut, analysis.open()])  # by another one on its socket address, or by nothing yet
    assert len(cut) == 1
    assert cut["gap"].all()
    assert (cut["close_reason"] != CloseReason.OPEN).all()
    assert (cut["lifetime_ns"] == -1).all()
    assert analysis.summary().lost == 40 * TRANSITIONS - SMALL_RING_EVENTS
    assert analysis.summary().coverage is None


def test_a_sample_tells_the_counters_of_an_open_connection(source: EbpfSource) -> None:
    """No transition is made, and yet what was received is known."""
    with serving(lambda connection: connection.sendall(b"x" * 777)) as port:
        source.watch([entry(port)])
        analysis = Analysis("ebpf", 1, {1: "registry"})
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.recv(777, socket.MSG_WAITALL)
            analysis.feed(settled(source))
            assert source.sample(analysis.open_skaddrs())
            batch = source.read()
    assert batch.events["bytes_received"].tolist() == [777]


def test_a_sample_of_an_address_that_is_no_socket_gives_nothing(source: EbpfSource) -> None:
    """Addresses are hostile too: nothing faults, nothing is reported."""
    source.watch([WatchEntry(bytes(16), 0, 0, 1)])
    assert source.sample([0, 1, 0xDEAD_BEEF, 0xFFFF_8880_0000_0000, 2**64 - 1])
    assert len(source.read()) == 0


def test_closing_leaves_no_program_and_no_descriptor() -> None:
    fds = open_descriptors()
    source = EbpfSource(probe())
    fdinfo = Path(f"/proc/self/fdinfo/{source.program_fd}").read_text()
    number = int(fdinfo.split("prog_id:")[1].split()[0])
    assert number in {loaded for loaded, _, _ in loaded_programs()}
    source.close()
    deadline = time.monotonic() + 10
    while number in {loaded for loaded, _, _ in loaded_programs()} and time.monotonic() < deadline:
        time.sleep(0.05)  # the kernel frees programs after a grace period
    assert number not in {loaded for loaded, _, _ in loaded_programs()}
    assert open_descriptors() == fds
