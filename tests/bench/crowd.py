"""A crowd: established loopback sockets that do nothing, for a look at sockets to find in its way.

Both ends are in the same network namespace, so a connection is two sockets in every picture, and takes two descriptors. Helper
processes hold them; each has a listener on a loopback address of its own, so that ports do not run out. They close with RST
(SO_LINGER 0): no TIME_WAIT is left for the next measurement to find.

Run as `python crowd.py ADDRESS CONNECTIONS`: prints {"port", "made"} and holds them until standard input ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import struct
import sys
from types import TracebackType
from typing import Self

if __package__:
    from tests.bench.processes import Child

CONNECTIONS_PER_PROCESS = 12_500
_PROCESSES_MAX = 32
_BYTES_PER_SOCKET = 8_000  # of kernel memory, rounded up
_SPARE_FDS = 64
_READY_S = 60.0
_LINGER_0 = struct.pack("=ii", 1, 0)


class Crowd:
    """So many sockets, or as many as the limits of descriptors and memory allow.

    Attributes:
        remotes: ADDRESS:PORT of the listeners, one a process.
        sockets: that were made, twice the connections.
    """

    def __init__(self, sockets: int, network: int) -> None:
        """Make them.

        Args:
            sockets: how many; both ends count.
            network: second byte of their addresses, 127.network.N.1; one for each crowd of a time.
        """
        self._children: list[Child] = []
        self.remotes: list[str] = []
        self.sockets = 0
        left = min(sockets, _memory_bytes() // 2 // _BYTES_PER_SOCKET) // 2
        try:
            while left > 0 and len(self._children) < _PROCESSES_MAX:
                address = f"127.{network}.{len(self._children)}.1"
                share = min(left, CONNECTIONS_PER_PROCESS)
                child = Child([sys.executable, "-I", "-S", __file__, address, str(share)], pipe=True)
                self._children.append(child)
                told = json.loads(child.read_line(_READY_S))
                self.remotes.append(f"{address}:{told['port']}")
                self.sockets += 2 * told["made"]
                left -= told["made"]  # fewer than asked where the limit of descriptors can't be raised: another one goes on
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes and with them the sockets."""
        for child in self._children:
            child.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _memory_bytes() -> int:
    """Of memory that may be had without swapping; 0 if not known."""
    with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 - the helpers import as little as they can
        lines = dict(line.split(":") for line in file)
    return int(lines.get("MemAvailable", "0 kB").split()[0]) * 1024


def _descriptors(wanted: int) -> int:
    """How many descriptors this process may have, raised to what is wanted as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limits in ((wanted, max(wanted, hard)), (min(wanted, hard), hard)):
        if soft < wanted:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                soft = limits[0]
    return soft


def _hold(address: str, connections: int) -> None:
    allowed = (_descriptors(2 * connections + _SPARE_FDS) - _SPARE_FDS) // 2
    held: list[socket.socket] = []
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen(16)
        target = listener.getsockname()
        made = 0
        for _ in range(min(connections, allowed)):
            client = socket.create_connection(target)
            held += (client, listener.accept()[0])
            for end in held[-2:]:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
            made += 1
        sys.stdout.write(json.dumps({"port": target[1], "made": made}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
    os._exit(0)  # the kernel closes faster than the interpreter


if __name__ == "__main__":
    _hold(sys.argv[1], int(sys.argv[2]))
