"""fallback.counters: the kernel's totals, from real files, broken ones, and while connections are made."""

from __future__ import annotations

import errno
import socket
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallback.counters import (
    Counters,
    SocketCounts,
    TcpCounters,
    kernel_counts,
    parse_snmp,
    parse_sockstat,
    read_counters,
)  # fmt: skip
from tracer.events import KernelCounts

PROC = Path("/proc")
NET = Path(__file__).parent / "fixtures/proc/net"
SNMP = (NET / "snmp").read_bytes()
SOCKSTAT = (NET / "sockstat").read_bytes()
SOCKSTAT6 = (NET / "sockstat6").read_bytes()


def test_the_counters_of_a_real_file_are_found_by_name() -> None:
    assert parse_snmp(SNMP) == TcpCounters(
        active_opens=7, passive_opens=6, attempt_fails=0, estab_resets=0, curr_estab=8, in_segs=33, out_segs=30, retrans_segs=3,
        out_rsts=0,
    )  # fmt: skip


def test_the_sockets_of_a_real_file_are_found_by_name() -> None:
    assert parse_sockstat(SOCKSTAT, SOCKSTAT6) == SocketCounts(inuse=8, inuse6=4, orphan=0, tw=3, alloc=10014, mem_pages=0)


def test_a_trace_keeps_sockets_of_both_families_and_what_went_wrong() -> None:
    told = kernel_counts(Counters(1, parse_snmp(SNMP), parse_sockstat(SOCKSTAT, SOCKSTAT6), ()))
    assert told == KernelCounts(
        in_use=12, time_wait=3, orphans=0, active_opens=7, attempt_fails=0, segments_sent_again=3, resets_sent=0
    )


def test_a_trace_keeps_what_can_not_be_read_as_unknown() -> None:
    assert kernel_counts(Counters(1, parse_snmp(b""), parse_sockstat(b""), ())) == KernelCounts()


def test_columns_in_another_order_change_nothing() -> None:
    text = b"Tcp: Further PassiveOpens ActiveOpens\nTcp: 1 2 3\n"
    assert parse_snmp(text) == TcpCounters(active_opens=3, passive_opens=2)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"Tcp: ActiveOpens\n",
        b"Tcp: ActiveOpens PassiveOpens\nTcp: 1\n",
        b"Tcp: ActiveOpens\nTcp: 1\nTcp: 2\n",
        b"Tcp: ActiveOpens\nTcp: x\n",
        b"Tcp: ActiveOpens\nTcp: -1\n",
        b"Tcp: ActiveOpens ActiveOpens\nTcp: 1 2\n",
        b"Udp: ActiveOpens\nUdp: 1\n",
    ],
)
def test_counters_that_can_not_be_known_are_none(text: bytes) -> None:
    assert parse_snmp(text) == TcpCounters()


def test_a_garbled_number_hides_no_other() -> None:
    assert parse_snmp(b"Tcp: ActiveOpens PassiveOpens\nTcp: 1x 5\n") == TcpCounters(passive_opens=5)


@pytest.mark.parametrize("text", [b"", b"TCP: inuse\n", b"TCP: inuse x\n", b"TCP: inuse 1\nTCP: inuse 2\n", b"UDP: inuse 1\n"])
def test_sockets_that_can_not_be_known_are_none(text: bytes) -> None:
    assert parse_sockstat(text) == SocketCounts()


def test_without_ipv6_only_its_sockets_are_none() -> None:
    assert parse_sockstat(SOCKSTAT) == SocketCounts(inuse=8, inuse6=None, orphan=0, tw=3, alloc=10014, mem_pages=0)


def test_a_file_cut_off_gives_each_counter_as_it_was_or_none() -> None:
    counters, sockets = asdict(parse_snmp(SNMP)), asdict(parse_sockstat(SOCKSTAT))
    for length in range(len(SNMP)):
        cut = asdict(parse_snmp(SNMP[:length]))
        assert all(value in (None, counters[name]) for name, value in cut.items())
    for length in range(len(SOCKSTAT)):
        cut = asdict(parse_sockstat(SOCKSTAT[:length]))
        assert all(value in (None, sockets[name]) for name, value in cut.items())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*SNMP.split(), b"Tcp:", b" ", b"\n", b"TCP:", b"TCP6:"]) | st.binary(max_size=5), max_size=60))
def test_any_bytes_give_counters_that_are_counts_or_none(pieces: list[bytes]) -> None:
    text = b" ".join(pieces)
    values = [*asdict(parse_snmp(text)).values(), *asdict(parse_sockstat(text, text)).values()]
    assert all(value is None or value >= 0 for value in values)


def test_a_connection_moves_the_kernels_counters() -> None:
    before = read_counters(PROC).tcp
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(50):
            with socket.create_connection(listener.getsockname()):
                listener.accept()[0].close()
    after = read_counters(PROC).tcp
    assert before.active_opens is not None
    assert after.active_opens is not None
    assert after.active_opens - before.active_opens >= 50


def test_open_sockets_are_in_the_kernels_count() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        inuse = read_counters(PROC).sockets.inuse
    assert inuse is not None
    assert inuse >= 3


def test_the_counters_name_their_namespace() -> None:
    assert read_counters(PROC).netns == Path("/proc/self/ns/net").stat().st_ino


def test_a_process_that_is_gone_has_unknown_counters_and_a_trouble(tmp_path: Path) -> None:
    counters = read_counters(tmp_path, 5)
    assert (counters.tcp, counters.sockets) == (TcpCounters(), SocketCounts())
    assert [trouble.errno for trouble in counters.troubles] == [errno.ENOENT]


def test_a_file_that_is_missing_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/sockstat").write_bytes(SOCKSTAT)
    counters = read_counters(tmp_path)
    assert (counters.tcp.active_opens, counters.sockets.inuse) == (None, 8)
    assert {Path(trouble.path).name for trouble in counters.troubles} == {"net", "snmp", "sockstat6"}
