"""What uses a registry besides single pulls: shell loops, tag checks, slow readers. All of it real programs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.lab.daemon import STOP_S, die_with_parent

_ENDED_BY_LAB = "still trying when the lab ended it"
_ACCEPT = "Accept: application/vnd.oci.image.manifest.v1+json"


class Told(NamedTuple):
    """How a pull ended for its user.

    Attributes:
        ok: it came through.
        text: what the user was told.
        started_ns: CLOCK_BOOTTIME before it began.
        told_ns: and when the user knew.
    """

    ok: bool
    text: str
    started_ns: int
    told_ns: int


def now_ns() -> int:
    """CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def ended_by_lab(told: Told) -> bool:
    """Whether the user had not been told anything yet."""
    return told.text.startswith(_ENDED_BY_LAB)


class Running:
    """A client that runs, in a session of its own. Its user is told by the first line on its standard error.

    Attributes:
        pid: of it.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._started_ns = now_ns()
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call; the lab's threads do nothing but read
        )
        self.pid = self._process.pid
        self._said: list[tuple[int, str]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append((now_ns(), line.strip()))

    def wait(self, timeout_s: float = 120) -> Told:
        """Its end; by force after that time."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return Told(False, f"{_ENDED_BY_LAB} after {timeout_s:g} s", self._started_ns, now_ns())
        self._close()
        told_ns, _ = self._said[0] if self._said else (now_ns(), "")
        text = self._said[-1][1] if self._said else f"exit code {code}"
        return Told(code == 0, "" if code == 0 else text, self._started_ns, told_ns)

    def _close(self) -> None:
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGCONT)
            os.killpg(self.pid, signal.SIGKILL)  # its own session: a script's commands go with it
        self._process.wait(STOP_S)
        self._close()


def skopeo_command(host: str, target: Path, *, image: str = "demo", verify: bool = False) -> list[str]:
    """A pull with skopeo into a folder. Without `verify` it tries TLS first and then plain HTTP."""
    check = "true" if verify else "false"
    source = f"docker://{host}/{image}:latest"
    return ["skopeo", "--insecure-policy", "copy", f"--src-tls-verify={check}", source, f"dir:{target}"]


def skopeo_pull(host: str, target: Path, *, image: str = "demo", verify: bool = False, timeout_s: float = 120) -> Told:
    """Pull into a folder that is not there yet, and drop what came."""
    try:
        return Running(skopeo_command(host, target, image=image, verify=verify)).wait(timeout_s)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def inspect_command(host: str, image: str = "demo") -> list[str]:
    """What a tool does that looks for a new version: tags and manifest, no layers."""
    return ["skopeo", "inspect", "--no-tags", "--tls-verify=false", f"docker://{host}/{image}:latest"]


def head_command(host: str, image: str = "demo", times: int = 1, every_s: float = 1.0, *, tls: bool = False) -> list[str]:
    """curl, asking for the manifest's digest; several times over one connection as long as the server keeps it."""
    scheme = "https" if tls else "http"
    url = f"{scheme}://{host}/v2/{image}/manifests/latest"
    rate = f"{max(1, round(3600 / every_s))}/h"
    return ["curl", "-skSIf", "--max-time", "20", "-H", _ACCEPT, *(("--rate", rate) if times > 1 else ()), *([url] * times)]


def run(command: Sequence[str], timeout_s: float = 120) -> Told:
    """Run a client to its end."""
    return Running(command).wait(timeout_s)


def get_command(url: str, *options: str) -> list[str]:
    """curl, taking one thing over one connection."""
    return ["curl", "-sSf", "-o", "/dev/null", "-H", _ACCEPT, *options, url]


def starve(client: Running, on_s: float, off_s: float, timeout_s: float) -> None:
    """Let a client run only by turns until it ends, as one that waits for a slow disk, or has little of a processor."""
    deadline = time.monotonic() + timeout_s
    while client.runs() and time.monotonic() < deadline:
        os.kill(client.pid, signal.SIGSTOP)
        time.sleep(off_s)
        os.kill(client.pid, signal.SIGCONT)
        time.sleep(on_s)


class ShellLoop:
    """`while :; do COMMAND; sleep PAUSE; done` in a shell, as cron jobs, entry points and CI scripts have it.

    Each round writes a line with its exit status; `results` has them with the time at which the line came.
    """

    def __init__(self, command: Sequence[str], pause_s: float, log: Path, clean: Path | None = None) -> None:
        """Start it.

        Args:
            command: each round's.
            pause_s: between one's end and the next one's start.
            log: where its error messages go, and the exit statuses.
            clean: folder that each round's pull goes to, removed after each.
        """
        quoted = " ".join(f"'{part}'" for part in command)
        remove = f"rm -rf '{clean}'; " if clean else ""
        # EPOCHREALTIME is bash's; boottime is worked out at the end, because no shell can read it.
        script = f"while :; do b=$EPOCHREALTIME; {quoted} >/dev/null 2>>'{log}.err'; s=$?; "
        script += f"echo \"$b $EPOCHREALTIME $s\" >>'{log}'; {remove}sleep {pause_s}; done"
        log.touch()
        self._log = log
        self._process = subprocess.Popen(["bash", "-c", script], stdin=subprocess.DEVNULL, start_new_session=True)

    def stop(self) -> None:
        """End the shell and what it runs (its own session)."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_S)

    def results(self) -> list[Told]:
        """The rounds that ended."""
        offset_ns = time.time_ns() - now_ns()
        errors = Path(f"{self._log}.err")
        lines = errors.read_text(errors="replace").strip().splitlines() if errors.exists() else []
        text = lines[0] if lines else "exit status without a message"
        found = []
        for row in self._log.read_text().splitlines():
            began, told, status = row.split()
            times = [int(value.replace(".", "").replace(",", "")) * 1000 - offset_ns for value in (began, told)]
            found.append(Told(status == "0", "" if status == "0" else text, times[0], times[1]))
        return found


@contextmanager
def looping(command: Sequence[str], pause_s: float, log: Path, clean: Path | None = None) -> Iterator[ShellLoop]:
    """A loop that is ended whatever happens."""
    loop = ShellLoop(command, pause_s, log, clean)
    try:
        yield loop
    finally:
        loop.stop()
