"""A host of its own in namespaces of its own: a resolver, a registry, a host that serves its blobs, and regtrace beside them.

Run as `unshare --net --mount python -m tests.small_host SOURCE`. The registry's name moves to another address while it is
watched; its blobs come from a host that is in no list, and that others on this host talk to as well. What regtrace said is
printed, then a line "facts" with what was really done.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.dns_server import DnsServer, answers

REGISTRY, CDN, OTHER = "registry.test", "blobs-7.cdn.test", "elsewhere.test"
FIRST, SECOND, BLOBS = "127.0.1.1", "127.0.1.2", "127.0.2.1"
API_PORT, BLOB_PORT = 5000, 8443
TTL_S = 5
BLOB_BYTES = 300_000
PATIENCE_S = 20.0
_PULL = """
import socket, sys, time
def fetch(name, port, least):
    with socket.create_connection((name, port), timeout=5) as client:
        client.sendall(b"GET\\n")
        got = 0
        while got < least:
            got += len(client.recv(65536))
        return client.getpeername()[0]
open("/proc/self/comm", "w").write(sys.argv[1])
if "api" in sys.argv[2:]:
    fetch("registry.test", 5000, 100)
fetch("blobs-7.cdn.test", 8443, 300000)
time.sleep(0.3)  # a process is looked at within milliseconds of its first connection
"""


def serve(host: str, port: int, answer: bytes, pause_s: float) -> None:
    """Answer each connection, with a pause in the middle."""
    server = socket.create_server((host, port))

    def one(client: socket.socket) -> None:
        with client:
            client.recv(100)
            client.sendall(answer[: len(answer) // 2])
            time.sleep(pause_s)
            client.sendall(answer[len(answer) // 2 :])

    def accept() -> None:
        while True:
            threading.Thread(target=one, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def pull(comm: str, *what: str) -> int:
    """A client in a process of its own; its pid."""
    process = subprocess.Popen([sys.executable, "-c", _PULL, comm, *what])
    assert process.wait(PATIENCE_S) == 0
    return process.pid


def main() -> int:
    """See above."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        for path, text in (
            ("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1\n"),
            ("/etc/hosts", "127.0.0.1 localhost\n"),
        ):
            own = Path(folder, Path(path).name)
            own.write_text(text)
            subprocess.run(["mount", "--bind", own, path], check=True)
        zone = {REGISTRY: answers(FIRST, ttl_s=TTL_S), CDN: answers(BLOBS, ttl_s=TTL_S), OTHER: answers("127.0.3.1")}
        with DnsServer(zone, port=53) as server:
            return act(server)


def act(server: DnsServer) -> int:
    """What happens on this host."""
    for address in (FIRST, SECOND):
        serve(address, API_PORT, b"a" * 200, 0.0)
    # A poller adopts the first one if it lives until the next look; the program follows it even if it is over in a moment.
    serve(BLOBS, BLOB_PORT, b"b" * BLOB_BYTES, 0.0 if sys.argv[1] == "ebpf" else 0.6)
    command = [sys.executable, "-m", "tracer", "watch", "--json", "--source", sys.argv[1], "--registry", f"{REGISTRY}:{API_PORT}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        sys.stdout.write(watch.stdout.readline())
        other = pull("bystander")  # it talks to the blobs' host before and after, and to no registry
        first = pull("skopeo", "api")
        second = pull("skopeo", "api")
        server.zone[REGISTRY] = answers(SECOND, ttl_s=TTL_S)
        time.sleep(TTL_S + 1.0)
        moved = pull("skopeo", "api")
        again = pull("bystander")
        time.sleep(0.5)
        watch.send_signal(signal.SIGINT)
        for line in watch.stdout:
            sys.stdout.write(line)
    pids = {"first": first, "second": second, "moved": moved, "bystanders": [other, again]}
    sys.stdout.write(json.dumps({"type": "facts", **pids}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # servers' threads wait for clients for ever


if __name__ == "__main__":
    sys.exit(main())
