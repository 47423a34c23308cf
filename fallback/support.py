"""What this host and process offer for polling, as facts; deciding is somebody else's work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fallback import sock_diag
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
    return {
        "sock_diag": support.sock_diag or True,
        "proc_net_tcp": support.proc or True,
        "network_namespaces_seen": len(walked.found),
        "processes_out_of_sight": "others are hidden (hidepid)" if walked.hidden else walked.denied,
    }
