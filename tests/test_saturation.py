"""As many connections as this machine can make: not one is missed, and each row is exact."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.live import connections, summary, watching

pytestmark = [pytest.mark.ebpf, pytest.mark.slow]

CONNECTIONS = 40_000

# A server and a client process, as fast as they can. The server closes first, so that TIME_WAIT is on its side and client
# ports are free again; addresses of 127.0.0.0/8 in turn, so that ports don't run out.
LOAD = """
import os, socket, sys
listener = socket.create_server(("0.0.0.0", 0), backlog=4096)
port = listener.getsockname()[1]
count = int(sys.argv[1])
print(port, flush=True)
sys.stdin.readline()
if os.fork() == 0:
    for _ in range(count):
        accepted, _ = listener.accept()
        accepted.sendall(b"12345678")
        accepted.close()
    os._exit(0)
for number in range(count):
    client = socket.socket()
    client.connect((f"127.0.0.{1 + number % 4}", port))
    while client.recv(64):
        pass
    client.close()
os.wait()
print(os.getpid(), flush=True)
"""


def test_exact_at_saturation() -> None:
    load = subprocess.Popen(
        [sys.executable, "-c", LOAD, str(CONNECTIONS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert load.stdin is not None
    assert load.stdout is not None
    with load, load.stdin, load.stdout:
        port = int(load.stdout.readline())
        with watching(*(f"127.0.0.{host}:{port}" for host in (1, 2, 3, 4))) as running:
            load.stdin.write("\n")
            load.stdin.flush()
            pid = int(load.stdout.readline())
            lines = running.stop()
    rows = connections(lines)
    assert summary(lines)["lost"] == 0
    assert len(rows) == CONNECTIONS
    assert {row["pid"] for row in rows} == {pid} != {os.getpid()}
    assert {row["close_reason"] for row in rows} == {"peer"}
    assert {(row["bytes_received"], row["bytes_acked"]) for row in rows} == {(8, 0)}
    assert len({(row["raddr"], row["lport"], row["opened_ns"]) for row in rows}) == CONNECTIONS
