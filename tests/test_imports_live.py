"""The real tools beside regtrace itself: what is imported from them are the same connections, as far as they show them."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import skip_or_fail
from tests.live import PATIENCE_S, watching
from tests.test_main import regtrace
from tracer.imports.bpftrace import PROGRAM

pytestmark = [pytest.mark.slow, pytest.mark.ebpf]
TOOLS = {
    "tcpstates": ("tcpstates", "stdbuf", "-oL", "tcpstates", "-T"),
    "bpftrace": ("bpftrace", "bpftrace", "-B", "line", "-e", PROGRAM),
}
"""By name: the program that must be there, and how it is called."""
AS_TOLD = {
    "tcpstates": {"peer": "peer", "local": "local", "reset": "unknown", "local-reset": "unknown"},
    "bpftrace": {"peer": "peer", "local": "local", "reset": "reset", "local-reset": "local-reset"},
}
"""What becomes of a close reason: the columns of tcpstates have no error."""


class Tool:
    """A tool that writes lines, in a mount namespace with a tracefs of its own."""

    def __init__(self, command: tuple[str, ...]) -> None:
        mounting = 'mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; exec "$@"'
        self.process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", mounting, "sh", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.lines: list[bytes] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    def stop(self) -> list[bytes]:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(PATIENCE_S)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.lines


@contextmanager
def serving_every_end() -> Iterator[int]:
    """A server on loopback that ends connections as it is told; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=answer, args=(server.accept()[0],)).start()

        def answer(client: socket.socket) -> None:
            with client, suppress(OSError):
                wish = client.recv(100)
                if wish == b"reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif wish != b"peer":
                    client.recv(100)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def connect(port: int, end: bytes) -> int:
    """One connection that ends so; its local port."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        own: int = client.getsockname()[1]
        client.sendall(end)
        if end in (b"peer", b"reset"):
            with suppress(OSError):
                client.recv(100)
        time.sleep(0.02)
        if end == b"local-reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return own


def connections(trace: Path) -> dict[int, dict[str, Any]]:
    """By local port."""
    replayed = regtrace("replay", str(trace), "--json")
    assert replayed.returncode == 0, replayed.stderr
    lines = map(json.loads, replayed.stdout.splitlines())
    return {line["lport"]: line for line in lines if line["type"] == "connection"}


@pytest.mark.parametrize("name", TOOLS)
def test_what_is_imported_is_what_regtrace_records(name: str, tmp_path: Path) -> None:
    needed, *command = TOOLS[name]
    if shutil.which(needed) is None:
        skip_or_fail(f"{needed} is not installed")
    own, text, theirs = tmp_path / "own.arrows", tmp_path / "states.txt", tmp_path / "theirs.arrows"
    with serving_every_end() as port:
        tool = Tool(tuple(command))
        try:
            until_s = time.monotonic() + PATIENCE_S
            while not any(str(port).encode() in line for line in list(tool.lines)) and time.monotonic() < until_s:
                connect(port, b"local")
                time.sleep(0.2)
            with watching(f"127.0.0.1:{port}", command=("record", str(own))):
                ports = [connect(port, end) for end in (b"peer", b"local", b"reset", b"local-reset") for _ in range(3)]
                time.sleep(1)
        finally:
            text.write_bytes(b"".join(tool.stop()))
    imported = regtrace("import", str(text), "-o", str(theirs), "--registry", f"127.0.0.1:{port}")
    assert imported.returncode == 0, imported.stderr
    recorded, told = connections(own), connections(theirs)
    assert set(ports) <= recorded.keys() & told.keys()
    for each in ports:
        one, other = recorded[each], told[each]
        assert other["close_reason"] == AS_TOLD[name][one["close_reason"]]
        assert (other["pid"], other["comm"]) == (one["pid"], one["comm"][:10] if name == "tcpstates" else one["comm"])
        assert abs(one["lifetime_ns"] - other["lifetime_ns"]) < 5_000_000
        assert abs(one["connect_ns"] - other["connect_ns"]) < 5_000_000
