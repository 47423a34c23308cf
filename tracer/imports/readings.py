"""What a line of another tool's output says: a transition, a loss, nothing of interest. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple, Protocol

from tracer.events import TcpState

SECOND_NS, MICROSECOND_NS = 1_000_000_000, 1_000
_CACHED = 1 << 16
_COMM_BYTES = 15  # TASK_COMM_LEN without its end
_STATES = {prefix + state.name.encode(): int(state) for state in TcpState for prefix in (b"", b"TCP_")}
_ADDRESS = re.compile(rb"[0-9A-Fa-f:.]{2,45}")
_LOSS = re.compile(
    rb"(?:WARNING: )?(?:Possibly )?lost (?P<first>\d{1,15}) (?:samples|events)(?: on CPU ?#?\d{1,6})?"  # bcc, libbpf, bpftrace
    rb"|CPU:\d{1,6} \[(?:LOST )?(?P<second>\d{1,15}) EVENTS(?: DROPPED)?\]"  # trace_pipe, trace-cmd
    rb"|CPU:\d{1,6} \[LOST EVENTS\]",
    re.IGNORECASE,
)
_CHATTER = re.compile(rb"\s*(?:#.*|Attaching \d+ probes?\.\.\.|Attached \d+ probes?|Tracing .*Hit Ctrl-C.*)?", re.DOTALL)


class Transition(NamedTuple):
    """One line.

    Attributes:
        old, new: TcpState.
        laddr, raddr: 16 bytes, IPv4 as v4-mapped; all zero (or v4-mapped zero) is unknown.
        lport, rport: 0 unknown.
        skaddr: the socket's kernel address; 0: the format does not show it.
        pid: who was running; -1 unknown.
        comm: its name, b"" unknown.
        at_ns: time since some beginning; None: not shown.
        day_ns: time of day in ns, of the host's own time zone; -1: not shown.
        exact_ns: how exact that time is; 0 without one.
        span_ns: time since the transition before of the same socket; -1: not shown.
        sk_err, netns, cgroup_id: -1 not shown.
    """

    old: int
    new: int
    laddr: bytes
    lport: int
    raddr: bytes
    rport: int
    skaddr: int = 0
    pid: int = -1
    comm: bytes = b""
    at_ns: int | None = None
    day_ns: int = -1
    exact_ns: int = 0
    span_ns: int = -1
    sk_err: int = -1
    netns: int = -1
    cgroup_id: int = -1


class Lost(NamedTuple):
    """The tool says that it lost events; at least so many."""

    events: int


class Passed(NamedTuple):
    """A line that belongs there and is no transition of TCP: a heading, a comment, another protocol, another event."""


Reading = Transition | Lost | Passed | None
"""None: the line can't be understood."""
PASSED = Passed()


class Parser(Protocol):
    """Understands the lines of one format, one after the other."""

    def parse(self, line: bytes) -> Reading:
        """What a line says, given without its end."""
        ...


def aside(line: bytes) -> Reading:
    """What a line says that is none of a format's own: that events were lost, or nothing of interest; else None."""
    stripped = line.strip()
    found = _LOSS.fullmatch(stripped)
    if found is not None:
        return Lost(int(found["first"] or found["second"] or 1))
    return PASSED if _CHATTER.fullmatch(stripped) else None


@lru_cache(_CACHED)
def address(text: bytes) -> bytes | None:
    """16 bytes of an address, IPv4 as v4-mapped; None: it is none."""
    if not _ADDRESS.fullmatch(text):
        return None
    try:
        ip = ip_address(text.decode("ascii"))
    except ValueError:
        return None
    return ip.packed if isinstance(ip, IPv6Address) else bytes(10) + b"\xff\xff" + ip.packed


def state(text: bytes) -> int | None:
    """A state by its name, with or without TCP_ before it; None: there is none of that name."""
    return _STATES.get(text)


def comm_of(text: bytes) -> bytes:
    """A process name, no longer than the kernel's, and ended where that would end."""
    return text[:_COMM_BYTES].partition(b"\0")[0]


def day_ns(text: bytes) -> int:
    """HH:MM:SS, with or without a fraction, as ns since midnight."""
    hours, minutes, seconds = text.split(b":")
    return (int(hours) * 3600 + int(minutes) * 60) * SECOND_NS + decimal_ns(seconds)


def decimal_ns(text: bytes) -> int:
    """A decimal number of seconds as ns; digits beyond are dropped."""
    whole, _, fraction = text.partition(b".")
    sign = -1 if whole.startswith(b"-") else 1
    return int(whole) * SECOND_NS + sign * int(fraction[:9].ljust(9, b"0"))
