"""The load: connect and close on loopback, as fast as the machine can or at a given rate, bounded in time and in count.

Servers listen on 127.0.0.2 and clients come from 127.0.0.1, so a watch on 127.0.0.2:PORT matches the client's sockets and not
the server's. A connection is connect(), wait for the end of file, close(): the server closes first, which leaves TIME_WAIT on the
server's side, where it keeps no client port busy. The listening sockets live as long as the benchmark, so that the same
28,000 pairs of ports come again and a new connection takes its predecessor's TIME_WAIT over: their number stays below
`tcp_max_tw_buckets` however long it runs. A watched connection makes five transitions:
CLOSE -> SYN_SENT -> ESTABLISHED -> CLOSE_WAIT -> LAST_ACK -> CLOSE.

A pair is one client process and one server process, and the two wait for each other. One pair leaves about half of two cores
idle; one pair a core leaves none.

Run as `python load.py serve FD HOLD_S | client PORT SECONDS RATE COUNT_MAX`, so that neither numpy nor the tracer is in its way.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

if __package__:
    from tests.bench.processes import Child

ADDRESS = "127.0.0.2"
CLIENT_ADDRESS = "127.0.0.1"
TRANSITIONS_PER_CONNECTION = 5
CONNECT_TIMEOUT_S = 10.0
COUNT_MAX = 2_000_000
_BLOCK = 32  # connections between two looks at the clock
_PACE_S = 0.002


@dataclass(frozen=True)
class LoadResult:
    """What the clients made together.

    Attributes:
        made: connections.
        failed: connects that gave an error.
        seconds_s: from the first client's start to the last one's end.
        busy: share of all cores that was not idle meanwhile, 0..1.
    """

    made: int
    failed: int
    seconds_s: float
    busy: float

    @property
    def per_s(self) -> float:
        """Connections per second."""
        return self.made / self.seconds_s if self.seconds_s else 0.0


def cpu_ticks() -> tuple[int, int]:
    """(all, idle) clock ticks of all cores since boot."""
    with open("/proc/stat", encoding="ascii") as file:  # noqa: PTH123 - the client processes import as little as they can
        ticks = [int(value) for value in file.readline().split()[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


class Servers:
    """Listening sockets, each with a process that accepts and closes."""

    def __init__(self, pairs: int, hold_s: float = 0.0) -> None:
        """Start them.

        Args:
            pairs: how many.
            hold_s: each keeps a connection open that long before it closes it, one after the other.
        """
        self._children: list[Child] = []
        self.ports: list[int] = []
        try:
            for _ in range(pairs):
                with socket.socket() as listener:
                    listener.bind((ADDRESS, 0))
                    listener.listen(1024)
                    self.ports.append(listener.getsockname()[1])
                    arguments = [sys.executable, "-I", "-S", __file__, "serve", str(listener.fileno()), f"{hold_s}"]
                    self._children.append(Child(arguments, pass_fds=[listener.fileno()]))
        except BaseException:
            self.close()
            raise

    def registry_options(self, ports: list[int] | None = None) -> list[str]:
        """--registry for all servers."""
        return [word for port in ports or self.ports for word in ("--registry", f"{ADDRESS}:{port}")]

    def close(self) -> None:
        """End the processes."""
        for child in self._children:
            child.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def run_load(
    ports: list[int], seconds_s: float, rate_per_s: float = 0.0, on_poll: Callable[[], None] | None = None
) -> LoadResult:
    """Run one client a port until the time is over.

    Args:
        ports: of the servers.
        seconds_s: how long.
        rate_per_s: connections per second of all clients together; 0 as fast as they can.
        on_poll: called about every 20 ms meanwhile.
    """
    share = rate_per_s / len(ports)
    words = [f"{seconds_s}", f"{share}", f"{COUNT_MAX // len(ports)}"]
    clients: list[Child] = []
    try:
        for port in ports:
            clients.append(Child([sys.executable, "-I", "-S", __file__, "client", str(port), *words], pipe=True))
        for client in clients:
            client.read_line(CONNECT_TIMEOUT_S)  # it is ready
        before = cpu_ticks()
        for client in clients:
            client.write_line("go")
        results = []
        for client in clients:
            deadline_s = time.monotonic() + seconds_s + CONNECT_TIMEOUT_S
            while (line := client.poll_line(0.02)) is None:
                if on_poll is not None:
                    on_poll()
                if time.monotonic() > deadline_s:
                    raise TimeoutError("a client of the load did not end")
            results.append(json.loads(line))
        after = cpu_ticks()
    finally:
        for client in clients:
            client.stop()
    total = max(1, after[0] - before[0])
    return LoadResult(
        sum(result["made"] for result in results),
        sum(result["failed"] for result in results),
        max(result["ended_s"] for result in results) - min(result["started_s"] for result in results),
        1 - (after[1] - before[1]) / total,
    )


def start_continuous(port: int, seconds_s: float, rate_per_s: float) -> Child:
    """A client in the background, at a steady rate, until it is stopped or the time is over."""
    words = [str(port), f"{seconds_s}", f"{rate_per_s}", str(COUNT_MAX)]
    client = Child([sys.executable, "-I", "-S", __file__, "client", *words], pipe=True)
    client.read_line(CONNECT_TIMEOUT_S)
    client.write_line("go")
    return client


def _serve(fd: int, hold_s: float) -> None:
    listener = socket.socket(fileno=fd)
    accept = listener._accept  # type: ignore[attr-defined]  # a bare descriptor: no object per connection
    while True:
        connection = accept()[0]
        if hold_s:
            time.sleep(hold_s)
        os.close(connection)


def _connect(target: tuple[str, int]) -> bool:
    """One connection; whether it worked."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        try:
            client.connect(target)
            client.recv(1)
        except OSError:
            return False
    return True


def _client(port: int, seconds_s: float, rate_per_s: float, count_max: int) -> None:
    target = (ADDRESS, port)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        return
    made = failed = 0
    started_s = now_s = time.monotonic()
    end_s = started_s + seconds_s
    while now_s < end_s and made + failed < count_max:
        due = _BLOCK if not rate_per_s else int((now_s - started_s) * rate_per_s) - made - failed
        for _ in range(due):
            if _connect(target):
                made += 1
            else:
                failed += 1
        if rate_per_s:
            time.sleep(_PACE_S)
        now_s = time.monotonic()
    result = {"made": made, "failed": failed, "started_s": started_s, "ended_s": time.monotonic()}
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(int(sys.argv[2]), float(sys.argv[3]))
    else:
        _client(int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
