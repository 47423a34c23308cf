"""The kernel's own totals of TCP, to measure a picture by: /proc/net/snmp and sockstat. Reading is not parsing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fallback.namespaces import OpenProcess, Trouble
from tracer.events import KernelCounts

_NUMBER = re.compile(rb"-?\d{1,20}")


@dataclass(frozen=True)
class TcpCounters:
    """The line "Tcp:" of /proc/net/snmp: one namespace, IPv4 and IPv6 together, since it was made. None: the kernel does not say.

    Attributes:
        active_opens: connections begun here (CLOSE -> SYN_SENT).
        passive_opens: connections begun by others (LISTEN -> SYN_RECV).
        attempt_fails: connections that failed before they were established.
        estab_resets: ESTABLISHED or CLOSE_WAIT straight to CLOSE.
        curr_estab: now in ESTABLISHED or CLOSE_WAIT.
        in_segs, out_segs: segments received, and sent without those sent again.
        retrans_segs: segments sent again.
        out_rsts: segments with RST sent.
    """

    active_opens: int | None = None
    passive_opens: int | None = None
    attempt_fails: int | None = None
    estab_resets: int | None = None
    curr_estab: int | None = None
    in_segs: int | None = None
    out_segs: int | None = None
    retrans_segs: int | None = None
    out_rsts: int | None = None


@dataclass(frozen=True)
class SocketCounts:
    """The lines "TCP:" of /proc/net/sockstat and "TCP6:" of sockstat6, now. None: the kernel does not say.

    Attributes:
        inuse: IPv4 sockets of the namespace, in any state that has a full socket.
        inuse6: the same of IPv6.
        orphan: sockets no process holds any more; of the whole machine.
        tw: TIME_WAIT of the namespace, IPv4 and IPv6.
        alloc: TCP sockets that have memory; of the whole machine.
        mem_pages: memory of their buffers, in pages; of the whole machine.
    """

    inuse: int | None = None
    inuse6: int | None = None
    orphan: int | None = None
    tw: int | None = None
    alloc: int | None = None
    mem_pages: int | None = None


@dataclass(frozen=True)
class Counters:
    """The totals of one namespace.

    Attributes:
        netns: its inode; 0 where it may not be known.
        tcp: all None where the file could not be read.
        sockets: all None where the file could not be read.
        troubles: what could not be read. A "sockstat6" that does not exist (ENOENT) means a host without IPv6.
    """

    netns: int
    tcp: TcpCounters
    sockets: SocketCounts
    troubles: tuple[Trouble, ...]


def parse_snmp(text: bytes) -> TcpCounters:
    """The TCP counters of a /proc/net/snmp, found by the names in the line above them; what is missing or garbled is None."""
    lines = [line.split() for line in _complete_lines(text) if line.startswith(b"Tcp: ")]
    if len(lines) != 2 or len(lines[0]) != len(lines[1]):
        return TcpCounters()
    named = _by_name(lines[0][1:], lines[1][1:])
    return TcpCounters(
        active_opens=named.get(b"ActiveOpens"),
        passive_opens=named.get(b"PassiveOpens"),
        attempt_fails=named.get(b"AttemptFails"),
        estab_resets=named.get(b"EstabResets"),
        curr_estab=named.get(b"CurrEstab"),
        in_segs=named.get(b"InSegs"),
        out_segs=named.get(b"OutSegs"),
        retrans_segs=named.get(b"RetransSegs"),
        out_rsts=named.get(b"OutRsts"),
    )


def parse_sockstat(text: bytes, text6: bytes = b"") -> SocketCounts:
    """The TCP sockets of a /proc/net/sockstat and sockstat6; what is missing or garbled is None."""
    named = _pairs(text, b"TCP: ")
    return SocketCounts(
        inuse=named.get(b"inuse"),
        inuse6=_pairs(text6, b"TCP6: ").get(b"inuse"),
        orphan=named.get(b"orphan"),
        tw=named.get(b"tw"),
        alloc=named.get(b"alloc"),
        mem_pages=named.get(b"mem"),
    )


def _complete_lines(text: bytes) -> list[bytes]:
    """The lines without the last one if that was cut off, perhaps within a number."""
    return text.split(b"\n")[:-1]


def _pairs(text: bytes, start: bytes) -> dict[bytes, int]:
    """The names and numbers that alternate in the only line that begins so."""
    lines = [line.split()[1:] for line in _complete_lines(text) if line.startswith(start)]
    if len(lines) != 1 or len(lines[0]) % 2:
        return {}
    return _by_name(lines[0][::2], lines[0][1::2])


def _by_name(names: list[bytes], values: list[bytes]) -> dict[bytes, int]:
    """Numbers by name, without what is no number of a count, and without names that stand there twice."""
    return {
        name: int(value)
        for name, value in zip(names, values, strict=True)
        if _NUMBER.fullmatch(value) and int(value) >= 0 and names.count(name) == 1
    }


def read_counters(proc_root: Path, pid: int | None = None) -> Counters:
    """The totals of a namespace.

    Args:
        proc_root: where /proc is.
        pid: a process in the namespace; None: this process.

    Returns:
        What could be read; a process that ended or may not be looked at is a trouble, as for `proc_net.read_tcp`.
    """
    with OpenProcess(proc_root, pid) as process:
        snmp = process.read("net/snmp")
        sockstat = process.read("net/sockstat")
        sockstat6 = process.read("net/sockstat6")
    return Counters(
        process.netns, parse_snmp(snmp or b""), parse_sockstat(sockstat or b"", sockstat6 or b""), tuple(process.troubles)
    )


def kernel_counts(counters: Counters) -> KernelCounts:
    """What a trace keeps of them."""
    tcp, sockets = counters.tcp, counters.sockets
    in_use = None if sockets.inuse is None else sockets.inuse + (sockets.inuse6 or 0)
    kept = (in_use, sockets.tw, sockets.orphan, tcp.active_opens, tcp.attempt_fails, tcp.retrans_segs, tcp.out_rsts)
    return KernelCounts(*(-1 if count is None else count for count in kept))
