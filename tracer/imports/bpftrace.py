"""Lines of `key=value`, as a program for bpftrace (or whatever else) prints them, and the program that prints all of them. Pure.

Values hold no spaces; `comm` comes last and takes the rest of the line, whatever it holds. A line needs `old`, `new`, `raddr`,
`rport`, and `sk` or `laddr` and `lport`. Keys that are not known are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from tracer.imports.readings import (
    MICROSECOND_NS,
    SECOND_NS,
    Reading,
    Transition,
    address,
    aside,
    comm_of,
    day_ns,
    decimal_ns,
    state,
)  # fmt: skip

T = TypeVar("T")

PROGRAM = """// Prints the transitions of every TCP socket for `regtrace import`. Run it as root: bpftrace FILE > states.txt
// Needs tracefs; where it is not mounted: mount -t tracefs tracefs /sys/kernel/tracing
tracepoint:sock:inet_sock_set_state
/args->protocol == 6/
{
    $sk = (struct sock *)args->skaddr;
    printf("ns=%llu sk=%llx netns=%u cgroup=%llu pid=%d old=%d new=%d sk_err=%d ",
        nsecs, args->skaddr, $sk->__sk_common.skc_net.net->ns.inum, cgroup, pid,
        args->oldstate, args->newstate, $sk->sk_err);
    printf("laddr=%s lport=%d raddr=%s rport=%d comm=%s\\n",
        ntop(args->saddr_v6), args->sport, ntop(args->daddr_v6), args->dport, comm);
}
"""
"""Needs a kernel with BTF for `netns` and `sk_err`; without it, leave these two out of the first printf."""

_ALIASES = {
    b"saddr": b"laddr", b"sport": b"lport", b"daddr": b"raddr", b"dport": b"rport", b"oldstate": b"old", b"newstate": b"new",
    b"skaddr": b"sk", b"sock": b"sk", b"nsecs": b"ns", b"ts_ns": b"ns", b"cgroup_id": b"cgroup",
}  # fmt: skip
_DAY = re.compile(rb"(?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d{1,9})?")
_SECONDS = re.compile(rb"\d{1,10}\.\d{1,9}")
_HEX = re.compile(rb"(?:0x)?([0-9a-fA-F]{1,16})")
_COMM = re.compile(rb"(?:^| )comm=")


class BpftraceText:
    """See above."""

    def parse(self, line: bytes) -> Reading:
        """What a line says."""
        head, comm = line, b""
        found = _COMM.search(line)
        if found is not None:
            head, comm = line[: found.start()], line[found.end() :]
        values = {}
        for word in head.split():
            key, equals, value = word.partition(b"=")
            if equals:
                values[_ALIASES.get(key, key)] = value.rstrip(b",")
        if b"old" not in values or b"new" not in values:
            return aside(line)
        try:
            return _transition(values, comm_of(comm))
        except ValueError:
            return None


def _transition(values: dict[bytes, bytes], comm: bytes) -> Transition:
    """The transition of a line's values.

    Raises:
        ValueError: one is missing, or can't be.
    """
    at_ns, time_of_day_ns, exact_ns = _times(values)
    pid = _number(values, b"pid", 1 << 32)
    made = Transition(
        _state(values[b"old"]),
        _state(values[b"new"]),
        _needed(address, values.get(b"laddr", b"::")),
        max(_number(values, b"lport", 1 << 16), 0),
        _needed(address, values.get(b"raddr", b"")),
        _number(values, b"rport", 1 << 16),
        _socket(values.get(b"sk")),
        pid,
        comm if pid >= 0 else b"",
        at_ns,
        time_of_day_ns,
        exact_ns,
        sk_err=_number(values, b"sk_err", 1 << 32),
        netns=_number(values, b"netns", 1 << 32),
        cgroup_id=_number(values, b"cgroup", 1 << 63),
    )
    if made.rport < 0 or not (made.skaddr or {b"laddr", b"lport"} <= values.keys()):
        raise ValueError("the ends are not known")
    return made


def _times(values: dict[bytes, bytes]) -> tuple[int | None, int, int]:
    """(at_ns, day_ns, exact_ns) of a line."""
    if b"ns" in values:
        return _number(values, b"ns", 1 << 62), -1, 1
    text = values.get(b"time")
    if text is None:
        return None, -1, 0
    if _DAY.fullmatch(text):
        return None, day_ns(text), MICROSECOND_NS if b"." in text else SECOND_NS
    if _SECONDS.fullmatch(text):
        return decimal_ns(text), -1, MICROSECOND_NS
    raise ValueError("no time")


def _number(values: dict[bytes, bytes], key: bytes, limit: int) -> int:
    """A whole number below a limit; -1 where the key is missing."""
    text = values.get(key)
    if text is None:
        return -1
    if not text.isdigit() or len(text) > len(str(limit)) or int(text) >= limit:
        raise ValueError("no such number")
    return int(text)


def _state(text: bytes) -> int:
    if text.isdigit() and len(text) <= 2 and 1 <= int(text) <= 12:
        return int(text)
    return _needed(state, text)


def _socket(text: bytes | None) -> int:
    if text is None:
        return 0
    found = _HEX.fullmatch(text)
    if found is None:
        raise ValueError("no kernel address")
    return int(found[1], 16)


def _needed(read: Callable[[bytes], T | None], text: bytes) -> T:
    value = read(text)
    if value is None:
        raise ValueError("it can't be read")
    return value
