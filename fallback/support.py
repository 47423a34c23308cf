"""What this host and process offer for polling, as facts; deciding is somebody else's work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fallback import sock_diag
from fallback.counters import read_counters
from fallback.namespaces import NamespaceFinder
from fallback.proc_net import read_tcp


@dataclass(frozen=True)
class PollingSupport:
    """Facts; None: it can be used.

    Attributes:
        sock_diag: why sock_diag can't be used.
        proc: why /proc/net/tcp can't be read.
    """

    sock_diag: str | None
    proc: str | None


def probe(proc_root: Path = Path("/proc")) -> PollingSupport:
    """Look at this host and this process. Never raises."""
    picture = read_tcp(proc_root)
    reason = None if picture.files else "; ".join(map(str, picture.troubles)) or f"{proc_root}/net/tcp does not exist"
    return PollingSupport(sock_diag.probe(), reason)


def describe(support: PollingSupport, proc_root: Path = Path("/proc")) -> dict[str, object]:
    """Facts for people: name to value. Never raises."""
    walked = NamespaceFinder(proc_root).refresh()
    totals = read_counters(proc_root)
    return {
        "sock_diag": support.sock_diag or True,
        "proc_net_tcp": support.proc or True,
        "network_namespaces_seen": len(walked.found),
        "processes_out_of_sight": "others are hidden (hidepid)" if walked.hidden else walked.denied,
        "tcp_sockets_in_use": totals.sockets.inuse,
        "tcp_sockets_time_wait": totals.sockets.tw,
        "tcp_sockets_orphaned": totals.sockets.orphan,
        "tcp_active_opens": totals.tcp.active_opens,
        "tcp_attempt_fails": totals.tcp.attempt_fails,
        "tcp_estab_resets": totals.tcp.estab_resets,
    }
