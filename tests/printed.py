"""Events as other tools print them: the same format strings, so that an import can be compared with what was printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tracer.events import EventFlag, Events, TcpState, is_transition
from tracer.lifecycle import STATE_NAMES
from tracer.text import address_text

SECOND = 1_000_000_000
_HEADING = "SKADDR           C-PID C-COMM     LADDR           LPORT RADDR           RPORT OLDSTATE    -> NEWSTATE    MS"
_WIDE_HEADING = _HEADING.replace("COMM     LADDR", "COMM           IP LADDR")
_CSV_HEADING = "SKADDR,C-PID,C-COMM,IP,LADDR,LPORT,RADDR,RPORT,OLDSTATE,NEWSTATE,MS"
Printer = Callable[[Events], list[bytes]]


def only_transitions(events: Events) -> Events:
    """What such tools see: transitions that change something."""
    return events[is_transition(events) & (events["old_state"] != events["new_state"])]


def spans_ms(events: Events) -> list[float]:
    """The MS column: time since the transition before on the socket; 0 where there was none, or it was its end."""
    last: dict[int, int] = {}
    found = []
    for event in events:
        at_ns, skaddr = int(event["ts_ns"]), int(event["skaddr"])
        found.append((at_ns - last.get(skaddr, at_ns)) // 1000 / 1000)
        last[skaddr] = at_ns
        if event["new_state"] == TcpState.CLOSE:
            del last[skaddr]
    return found


def _fields(events: Events) -> Iterator[tuple[np.void, str, str, int, str, str, float]]:
    """Event, local address, remote address, local port, states, MS."""
    for event, span_ms in zip(events, spans_ms(events), strict=True):
        local = address_text(event["saddr"].tobytes()) or "0.0.0.0"
        port = int(event["sport"]) if event["flags"] & EventFlag.HAS_SPORT else 0
        old, new = STATE_NAMES[event["old_state"]], STATE_NAMES[event["new_state"]]
        yield event, local, address_text(event["daddr"].tobytes()) or "0.0.0.0", port, old, new, span_ms


def clock_text(at_ns: int) -> str:
    """strftime("%H:%M:%S") of a host whose clock began at midnight of day 0."""
    seconds = at_ns // SECOND
    return f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def tcpstates(
    events: Events, *, wide: bool = False, csv: bool = False, time: bool = False, since: bool = False, pid_width: int = 5
) -> list[bytes]:
    """Bcc's tcpstates; with `pid_width` 7 libbpf-tools', which has no `csv` and no `since`."""
    lines = [(_CSV_HEADING if csv else _WIDE_HEADING if wide else _HEADING).encode()]
    for event, local, remote, port, old, new, span_ms in _fields(events):
        at_ns, comm = int(event["ts_ns"]), event["comm"]
        separator = b"," if csv else b" "
        line = b""
        if time:
            line += clock_text(at_ns).encode() + separator
        if since:
            line += (b"%.6f" if csv else b"%-9.6f") % (at_ns / SECOND) + separator
        family = b"6" if b":" in remote.encode() else b"4"
        ends = (local.encode(), port, remote.encode(), int(event["dport"]))
        states = (old.encode(), new.encode(), span_ms)
        if csv:
            line += b"%x,%d,%s,%s,%s,%d,%s,%d,%s,%s,%.3f" % (event["skaddr"], event["pid"], comm, family, *ends, *states)
        elif wide:
            pid = b"%d" % event["pid"]
            row = (event["skaddr"], pid.ljust(pid_width), comm, family, *ends, *states)
            line += b"%-16x %s %-16s %-2s %-26s %-5d %-26s %-5d %-11s -> %-11s %.3f" % row
        else:
            row = (event["skaddr"], (b"%d" % event["pid"]).ljust(pid_width), comm, *ends, *states)
            line += b"%-16x %s %-10.10s %-15s %-5d %-15s %-5d %-11s -> %-11s %.3f" % row
        lines.append(line)
    return lines


def ftrace(events: Events, *, perf: bool = False) -> list[bytes]:
    """trace_pipe, or perf script."""
    lines = []
    for event, local, remote, port, old, new, _ in _fields(events):
        at = f"{event['ts_ns'] // SECOND}.{event['ts_ns'] % SECOND // 1000:06}".encode()
        pid = event["pid"]
        head = (
            b"%16s %5d [000] %s: sock:" % (event["comm"], pid, at)
            if perf
            else b"%16s-%-7d [000] ..s2. %s: " % (event["comm"], pid, at)
        )
        six = ":" in remote
        plain = "saddr=127.0.0.6 daddr=127.0.0.6" if six else f"saddr={local} daddr={remote}"
        mapped = ("", "") if six else ("::ffff:", "::ffff:")
        family = "AF_INET6" if six else "AF_INET"
        fields = (
            f"inet_sock_set_state: family={family} protocol=IPPROTO_TCP sport={port} dport={event['dport']} {plain} "
            f"saddrv6={mapped[0]}{local} daddrv6={mapped[1]}{remote} oldstate=TCP_{old} newstate=TCP_{new}"
        )
        lines.append(head + fields.encode())
    return lines


def key_value(events: Events) -> list[bytes]:
    """What `regtrace import --program` prints."""
    lines = []
    for event, local, remote, port, _, _, _ in _fields(events):
        words = (
            f"ns={event['ts_ns']} sk={event['skaddr']:x} netns={event['netns']} pid={event['pid']} old={event['old_state']} "
            f"new={event['new_state']} sk_err={event['sk_err']} laddr={local} lport={port} raddr={remote} rport={event['dport']}"
        )
        lines.append(words.encode() + b" comm=" + event["comm"])
    return lines
