"""What goes wrong, on purpose: packets dropped or answered with a reset, a server that freezes, a port nobody listens on.

Firewall rules are made in the network namespace of this process, which must be the lab's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TABLE = "lab"
_POLL_S = 0.005


def _nft(commands: str) -> None:
    done = subprocess.run(["nft", "-f", "-"], input=commands, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nft: {done.stderr.strip()} in {commands}")


@contextmanager
def firewall(match: str, verdict: str) -> Iterator[None]:
    """One rule on what comes in.

    Args:
        match: in nft's words, such as `ip daddr 127.0.1.1 tcp dport 5000`.
        verdict: `drop`, `reject with tcp reset`, `reject with icmp type host-unreachable`.
    """
    _nft(
        f"add table inet {_TABLE}\n"
        f"add chain inet {_TABLE} in {{ type filter hook input priority 0; }}\n"
        f"add rule inet {_TABLE} in {match} {verdict}\n"
    )
    try:
        yield
    finally:
        _nft(f"delete table inet {_TABLE}\n")


def to(address: str, port: int) -> str:
    """The match for what is sent to a server."""
    return f"ip daddr {address} tcp dport {port}"


@contextmanager
def syn_dropped(address: str, port: int) -> Iterator[None]:
    """Nobody gets a new connection there, nor hears why."""
    with firewall(f"{to(address, port)} tcp flags & (syn | ack) == syn", "drop"):
        yield


def reset_established(address: str, port: int) -> int:
    """Reset all connections to a server, as a middlebox that lost its state does; returns how many there were.

    Both ends are told: the kernel destroys the server's sockets and sends the client a reset.
    """
    shown = ["ss", "--no-header", "-tn", "state", "established", "src", f"{address}:{port}"]
    count = len(subprocess.run(shown, capture_output=True, text=True, check=True).stdout.splitlines())
    subprocess.run([*shown[:1], "-K", *shown[1:]], capture_output=True, check=True)
    return count


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that stops where it is: its kernel keeps its connections alive, nothing more is sent."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def link_rate(mbit_per_s: int) -> Iterator[None]:
    """The namespace's loopback becomes a slow line, for all of its connections together."""
    shape = f"rate {mbit_per_s}mbit burst 128k latency 100ms"
    subprocess.run(["tc", "qdisc", "add", "dev", "lo", "root", "tbf", *shape.split()], check=True)
    try:
        yield
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)


def loopback_bytes() -> int:
    """What the namespace's loopback has carried so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    raise RuntimeError("no lo in /proc/net/dev")


def wait_for_bytes(more: int, timeout_s: float = 30) -> None:
    """Return when so many more bytes have gone over loopback.

    Raises:
        TimeoutError: they have not.
    """
    start, deadline = loopback_bytes(), time.monotonic() + timeout_s
    while loopback_bytes() - start < more:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{loopback_bytes() - start} of {more} bytes in {timeout_s} s")
        time.sleep(_POLL_S)
