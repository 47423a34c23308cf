"""A server process that is waited for until it listens, and ended by its own pid."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

START_S = 30.0
STOP_S = 10.0
_LOG_TAIL_CHARS = 800
_VERSION = re.compile(r"\d+\.\d+[\w.+-]*")
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """For `preexec_fn`: a lab that is killed leaves nothing behind.

    The kernel means the parent's thread, so only what the main thread starts may use it.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port(address: str) -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as free:
        free.bind((address, 0))
        port: int = free.getsockname()[1]
        return port


def listens(address: str, port: int) -> bool:
    """Whether somebody listens there (IPv4).

    Read from /proc, because a connection made to find out would be in the trace, and in the server's counters.
    """
    wanted = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1] == wanted and row[3] == _LISTEN for row in rows)


def version_of(program: str) -> dict[str, str]:
    """{program: version}, as it says itself."""
    option = "-v" if program in ("haproxy", "nginx") else "--version"
    done = subprocess.run([program, option], capture_output=True, text=True)
    found = _VERSION.search(done.stdout + done.stderr)
    return {program: found[0] if found else "unknown"}


class Daemon:
    """A program that serves on one address and port, with its log in a file.

    Attributes:
        address: the IPv4 address it listens on.
        port: and the port.
    """

    def __init__(self, command: list[str], address: str, port: int, log: Path) -> None:
        """Describe it; `with` or `start` starts it."""
        self.address = address
        self.port = port
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def program(self) -> str:
        """Its name."""
        return self._command[0]

    @property
    def host(self) -> str:
        """ADDRESS:PORT, as in a reference or an endpoint."""
        return f"{self.address}:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it accepts connections.

        Raises:
            RuntimeError: it ended or does not listen in time; the message has the end of its log.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call; the lab's threads do nothing but read
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if listens(self.address, self.port):
                return
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"{self._command[0]} does not listen on {self.host}: {self.log()[-_LOG_TAIL_CHARS:]}")

    def stop(self) -> None:
        """End it, by force if it does not want to."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)  # a frozen process takes no SIGTERM
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait(STOP_S)

    def kill(self) -> None:
        """As the kernel does when memory is short: no farewell, its connections are reset or closed by the kernel."""
        os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait(STOP_S)

    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None) -> None:
        self.stop()
