"""The kernel's own form of `inet_sock_set_state`, as trace_pipe, trace, trace-cmd report and perf script print it. Pure.

    COMM-TID [(TGID)] [CPU] [FLAGS] SECONDS: inet_sock_set_state: family=.. protocol=.. sport=.. dport=.. saddr=.. daddr=..
        saddrv6=.. daddrv6=.. oldstate=TCP_.. newstate=TCP_..

perf writes the thread after spaces and `sock:` before the name. The socket's address is not among the fields. The number behind
the name is a thread's; the process's is shown with the option record-tgid only. COMM may hold anything; what follows it can't.
"""

from __future__ import annotations

import re

from tracer.imports.readings import (
    MICROSECOND_NS,
    PASSED,
    Reading,
    Transition,
    address,
    aside,
    comm_of,
    decimal_ns,
    state,
)  # fmt: skip

_WHEN = rb"\[\d{1,5}\] +(?:[^\s:]{4,8} +)?(?P<at>\d{1,10}\.\d{6,9}): +"
_FTRACE = rb"(?P<comm>.*)-(?P<tid>\d{1,10}) +(?:\( *(?P<tgid>\d{1,10}|-+)\) +)?" + _WHEN
_PERF = rb"(?P<perf_comm>.*) +(?:(?P<perf_pid>\d{1,10})/ *)?(?P<perf_tid>\d{1,10}) +" + _WHEN.replace(b"<at>", b"<perf_at>")
_FIELDS = (
    rb"(?:sock:)?inet_sock_set_state: +family=(?P<family>\S+) protocol=(?P<protocol>\S+) sport=(?P<lport>\d{1,5})"
    rb" dport=(?P<rport>\d{1,5}) saddr=(?P<laddr>\S+) daddr=(?P<raddr>\S+) saddrv6=(?P<laddr6>\S+) daddrv6=(?P<raddr6>\S+)"
    rb" oldstate=(?P<old>\S+) newstate=(?P<new>\S+)\s*"
)
_LINE = re.compile(rb"(?:" + _FTRACE + rb"|" + _PERF + rb")" + _FIELDS, re.DOTALL)
_OTHER = re.compile(rb"(?:" + _FTRACE + rb"|" + _PERF + rb")" + rb"[\w:.]+: .*", re.DOTALL)
_NAME = b"inet_sock_set_state: "
_NO_NAME = re.compile(rb"<\.\.\.>|:-?\d+")
"""What ftrace and perf write where they have not kept the name."""


class FtraceText:
    """See above."""

    def parse(self, line: bytes) -> Reading:
        """What a line says."""
        found = _LINE.fullmatch(line)
        if found is None:
            if _NAME not in line and _OTHER.fullmatch(line):
                return PASSED
            return aside(line)
        if found["protocol"] != b"IPPROTO_TCP":
            return PASSED
        return _transition(found)


def _transition(found: re.Match[bytes]) -> Reading:
    six = b"6" if found["family"] == b"AF_INET6" else b""
    local, remote = address(found["laddr6" if six else "laddr"]), address(found["raddr6" if six else "raddr"])
    before, after = state(found["old"]), state(found["new"])
    ports = int(found["lport"]), int(found["rport"])
    tgid = found["tgid"] if found["tgid"] and found["tgid"].isdigit() else None
    task = int(tgid or found["tid"] or found["perf_pid"] or found["perf_tid"])
    if local is None or remote is None or before is None or after is None or max(ports) > 0xFFFF or task > 0xFFFF_FFFF:
        return None
    comm = found["perf_comm"].strip(b" ") if found["comm"] is None else found["comm"].lstrip(b" ")
    return Transition(
        before,
        after,
        local,
        ports[0],
        remote,
        ports[1],
        pid=task,
        comm=b"" if _NO_NAME.fullmatch(comm) else comm_of(comm),
        at_ns=decimal_ns(found["at"] or found["perf_at"]),
        exact_ns=MICROSECOND_NS,
    )
