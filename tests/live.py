"""A running `regtrace` and the traffic it watches, for tests against the real kernel."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0
NOBODY = 65534

Line = dict[str, Any]


class Watching:
    """A `regtrace watch --json` (or another command) that has said it is taking events."""

    def __init__(self, *arguments: str, python: str = sys.executable, **options: Any) -> None:
        """Start it; `options` are of Popen."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [python, "-m", "tracer", *arguments], **pipes, **({"cwd": ROOT} | options)
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        if not first:
            _, stderr = self.process.communicate(timeout=PATIENCE_S)
            raise AssertionError(f"no start line: {stderr}")
        self.start: Line = json.loads(first)
        self.raw: list[str] = [first]
        # Read all the time: a full pipe would stop the tracer.
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.raw.extend(self.process.stdout)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> list[Line]:
        """End it, and return all its lines."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(PATIENCE_S)
        self._reader.join()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.stderr = self.process.stderr.read()
        self.process.stderr.close()
        assert self.process.returncode == 0, self.stderr
        return [json.loads(line) for line in self.raw]


def ordinary_user() -> tuple[str, dict[str, Any]]:
    """A Python that a user without any privilege may run regtrace with, and the options of Popen that make it that user's."""
    paths = os.pathsep.join([str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))])
    variables = {**os.environ, "HOME": "/", "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    options: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/", "env": variables}
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}"):  # the one that runs this test may be private to root
        with suppress(OSError):
            done = subprocess.run([python, "-m", "tracer", "--version"], capture_output=True, timeout=PATIENCE_S, **options)
            if done.returncode == 0:
                return python, options
    pytest.skip("no Python and repository that another user may read")


@contextmanager
def watching(*specs: str, command: tuple[str, ...] = ("watch",)) -> Iterator[Watching]:
    """Watch these registries; if the test did not stop it, it is stopped."""
    running = Watching(*command, "--json", *(f"--registry={spec}" for spec in specs))
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


def connections(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line["type"] == "connection"]


def summary(lines: list[Line]) -> Line:
    assert lines[-1]["type"] == "summary"
    return lines[-1]


def since_the_start(lines: list[Line]) -> list[Line]:
    """Without the connections that were open before."""
    return [line for line in lines if line["type"] != "connection" or line["preexisting"] is False]


def one(lines: list[Line]) -> Line:
    """The only connection."""
    found = connections(lines)
    assert len(found) == 1, found
    return found[0]


class Server:
    """Accepts on a loopback address and treats each connection as told, in a thread."""

    def __init__(self, treat: Callable[[socket.socket], None], host: str = "127.0.0.1", backlog: int = 1024) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, 0))
        self._listener.listen(backlog)
        self.port: int = self._listener.getsockname()[1]
        self._treat = treat
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            with accepted:
                self._treat(accepted)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


@contextmanager
def serving(treat: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Iterator[int]:
    """A server's port."""
    server = Server(treat, host)
    try:
        yield server.port
    finally:
        server.close()


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)
