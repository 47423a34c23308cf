"""The programs that are measured: regtrace, and the tools of the field beside it, each doing the same job.

The peers get the same filter as regtrace (TCP, one remote port), print the transitions' states, and write to where regtrace
writes. They print a line per transition, regtrace one per connection: that is what each does by default.
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import IO

from tests.bench.machine import wait_for_program
from tests.bench.processes import Child

TCPSTATES, BPFTRACE = "tcpstates", "bpftrace"
PEERS = (TCPSTATES, BPFTRACE)
_PATHS = {TCPSTATES: "/usr/sbin/tcpstates", BPFTRACE: "bpftrace"}
_PACKAGES = {TCPSTATES: "libbpf-tools", BPFTRACE: "bpftrace"}
_SCRIPT = (
    "tracepoint:sock:inet_sock_set_state {filter} {{ "
    'printf("%llu %p %d %s %d -> %d %s:%d\\n", nsecs, args->skaddr, pid, comm, args->oldstate, args->newstate, '
    "ntop(args->daddr), args->dport); }}"
)
_SETTLE_S = 0.3


def missing(peer: str) -> str | None:
    """What to say where a peer is not installed; None if it is."""
    return None if shutil.which(_PATHS[peer]) else f"{peer} is missing (package {_PACKAGES[peer]})"


def peer_command(peer: str, ports: list[int] | None) -> list[str]:
    """How a peer is called: on connections to these remote ports, or on everything (None)."""
    if peer == TCPSTATES:
        return [_PATHS[peer], *(["-D", ",".join(map(str, ports))] if ports else [])]
    wanted = " || ".join(f"args->dport == {port}" for port in ports or ())
    return [
        _PATHS[peer],
        "-e",
        _SCRIPT.format(filter=f"/args->protocol == 6 && ({wanted})/" if ports else "/args->protocol == 6/"),
    ]


def start_peer(peer: str, ports: list[int] | None, stdout: IO[bytes] | None = None) -> Child:
    """Start a peer and wait until it is attached.

    Raises:
        RuntimeError: it does not start.
    """
    return _attached(Child(peer_command(peer, ports), stdout=stdout))


def regtrace_command(*arguments: str) -> list[str]:
    """How regtrace is called: from this checkout, by this interpreter."""
    return [sys.executable, "-m", "tracer", *arguments]


def start_regtrace(*arguments: str, stdout: IO[bytes] | None = None) -> Child:
    """Start a live command and wait until it is attached.

    Raises:
        RuntimeError: it does not start.
    """
    return _attached(Child(regtrace_command(*arguments), stdout=stdout))


def _attached(child: Child) -> Child:
    try:
        wait_for_program(child.pid)
        time.sleep(_SETTLE_S)
        if not child.alive:
            raise RuntimeError(f"{child.name} ended: {child.complaints()}")
    except BaseException as error:
        child.stop()
        if isinstance(error, TimeoutError):
            raise RuntimeError(f"{error}: {child.complaints()}") from error
        raise
    return child
