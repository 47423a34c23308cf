"""The columns of `tcpstates`, as bcc and libbpf-tools print them, narrow or wide, with -T or -t. Pure.

    [TIME] [TIME(s)] SKADDR PID COMM [IP] LADDR LPORT RADDR RPORT OLDSTATE -> NEWSTATE MS

Columns are divided by spaces, and COMM may hold anything, spaces and numbers included. What stands before it and what stands
behind it can't, so a line is read from both ends. Only the IP column of -w may be taken for the end of a name: it is told by
the heading, or by its place.
"""

from __future__ import annotations

import re

from tracer.imports.readings import (
    MICROSECOND_NS,
    PASSED,
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

TIME = rb"(?P<day>(?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60))"
SINCE = rb"(?P<since>-?\d{1,10}\.\d{6})"
SKADDR, PID = rb"(?P<skaddr>[0-9a-f]{1,16})", rb"(?P<pid>\d{1,10})"
STATE, PORT, MS = rb"[A-Z_0-9]{1,16}", rb"\d{1,5}", rb"\d{1,12}\.\d{3}"
_LINE = re.compile(
    rb"(?:%b +)?(?:%b +)?%b +%b(?P<before> +)(?P<comm>.*?)(?P<pad> +)"
    rb"(?P<laddr>\S+) +(?P<lport>%b) +(?P<raddr>\S+) +(?P<rport>%b) +(?P<old>%b) +-> +(?P<new>%b) +(?P<ms>%b) *"
    % (TIME, SINCE, SKADDR, PID, PORT, PORT, STATE, STATE, MS),
    re.DOTALL,
)
_WITH_IP = re.compile(rb"(?:(?P<comm>.*) )?(?P<ip>[46])", re.DOTALL)
_HEADING = re.compile(rb"(?:TIME\S* +)*SKADDR +(?:C-)?PID +(?:C-)?COMM +(?P<ip>IP +)?LADDR .*")
_GAP_WIDE = 20
"""From the end of the pid to LADDR: 22 columns or more with -w, 18 or fewer without."""


class TcpstatesText:
    """See above."""

    def __init__(self) -> None:
        self._has_ip: bool | None = None  # as the heading says

    def parse(self, line: bytes) -> Reading:
        """What a line says."""
        found = _LINE.fullmatch(line)
        if found is None:
            heading = _HEADING.fullmatch(line)
            if heading is None:
                return aside(line)
            self._has_ip = heading["ip"] is not None
            return PASSED
        return transition(found, self._comm(found))

    def _comm(self, found: re.Match[bytes]) -> bytes:
        comm = found["comm"]
        with_ip = _WITH_IP.fullmatch(comm)
        if with_ip is None or self._has_ip is False:
            return comm
        wide = found.start("laddr") - found.end("pid") >= _GAP_WIDE and len(found["pad"]) == len("  ")
        family = b"6" if b":" in found["laddr"] else b"4"
        if self._has_ip or (wide and with_ip["ip"] == family):
            return (with_ip["comm"] or b"").rstrip(b" ")
        return comm


def transition(found: re.Match[bytes], comm: bytes) -> Reading:
    """The transition of a line whose columns were found; None where one of them can't be."""
    since, day, skaddr, pid, laddr, lport, raddr, rport, old, new, milliseconds = found.group(
        "since", "day", "skaddr", "pid", "laddr", "lport", "raddr", "rport", "old", "new", "ms"
    )
    local, remote, before, after = address(laddr), address(raddr), state(old), state(new)
    ports = int(lport), int(rport)
    task = int(pid)
    if local is None or remote is None or before is None or after is None or max(ports) > 0xFFFF or task > 0xFFFF_FFFF:
        return None
    return Transition(
        before,
        after,
        local,
        ports[0],
        remote,
        ports[1],
        int(skaddr, 16),
        task,
        comm_of(comm),
        None if since is None else decimal_ns(since),
        -1 if day is None else day_ns(day),
        MICROSECOND_NS if since is not None else SECOND_NS if day is not None else 0,
        decimal_ns(milliseconds) // 1000,
    )
