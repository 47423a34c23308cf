"""Processes of the benchmark: each is ended by its own pid, whatever happens, and dies with the benchmark if that is killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_PR_SET_PDEATHSIG = 1
_STOP_S = 5.0
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """A process in a group of its own, so that Ctrl-C reaches the benchmark only, which then ends it.

    Attributes:
        pid: of the process.
        spawned_s: time.monotonic() just before it was started.
    """

    def __init__(
        self,
        command: list[str],
        *,
        pipe: bool = False,
        stdout: IO[bytes] | None = None,
        pass_fds: list[int] | None = None,
        environment: dict[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        """Start it.

        Args:
            command: program and arguments.
            pipe: standard input and output are pipes, for `read_line` and `write_line`.
            stdout: where its output goes otherwise; None is /dev/null.
            pass_fds: descriptors it inherits.
            environment: added to the benchmark's.
            user: whose process it is, and the group of that number; None is the benchmark's own.

        Raises:
            OSError: it can't be started.
        """
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - as long as this object
        self._pending = b""
        self.spawned_s = time.monotonic()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipe else stdout or subprocess.DEVNULL,
            stderr=self._stderr,
            pass_fds=pass_fds or (),
            process_group=0,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - the benchmark has no threads
            bufsize=0,
            env=os.environ | (environment or {}),
            cwd=None if user is None else "/",
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def write_line(self, text: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())

    def poll_line(self, timeout_s: float) -> str | None:
        """The next line, or None if there is none in time.

        Raises:
            RuntimeError: it ended before.
        """
        assert self._process.stdout is not None
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([self._process.stdout], [], [], left_s)[0]:
                return None
            piece = os.read(self._process.stdout.fileno(), 1 << 16)
            if not piece:
                raise RuntimeError(f"{self.name} ended: {self.complaints()}")
            self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode("utf-8", "replace")

    def read_line(self, timeout_s: float) -> str:
        """The next line.

        Raises:
            RuntimeError: it ended before.
            TimeoutError: there was none in time.
        """
        line = self.poll_line(timeout_s)
        if line is None:
            raise TimeoutError(f"{self.name} printed nothing within {timeout_s:g} s: {self.complaints()}")
        return line

    def wait_for_line(self, wanted: Callable[[str], bool], timeout_s: float) -> float:
        """Seconds from the start of the process until it printed a line that is wanted.

        Raises:
            RuntimeError: it ended before.
            TimeoutError: it printed none in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while not wanted(self.read_line(max(0.01, deadline_s - time.monotonic()))):
            pass
        return time.monotonic() - self.spawned_s

    @property
    def name(self) -> str:
        """Of the program."""
        return Path(str(self._process.args[0])).name if isinstance(self._process.args, list) else "process"

    def complaints(self) -> str:
        """What it wrote to standard error, at most the last 2,000 characters, in one line."""
        self._stderr.seek(0)
        return " ".join(self._stderr.read().decode("utf-8", "replace").split())[-2000:]

    def wait(self, timeout_s: float) -> int:
        """Wait for its end and return its exit code.

        Raises:
            TimeoutError: it did not end in time.
        """
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} did not end within {timeout_s:g} s") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = _STOP_S) -> int:
        """End it, gently first, and return its exit code. Its output is read and dropped meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        deadline_s = time.monotonic() + timeout_s
        while self.alive and time.monotonic() < deadline_s:
            stdout = self._process.stdout
            if stdout is not None and select.select([stdout], [], [], 0.01)[0]:
                os.read(stdout.fileno(), 1 << 16)
            elif stdout is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.05)
        if self.alive:
            self._process.kill()
        code = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def cost_of_program(command: list[str]) -> tuple[float, float]:
    """Run a program to its end, its output to /dev/null.

    Returns:
        (user and system time with its start, wall time), in s.
    """
    actions = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    started_s = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    _, _, used = os.wait4(pid, 0)
    return used.ru_utime + used.ru_stime, time.perf_counter() - started_s
