"""What the clients share."""

from __future__ import annotations

import base64
import re
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.lab.daemon import die_with_parent
from tests.lab.traffic import Told, ended_by_lab, now_ns

STOP_S = 20.0
_LAST_LINES = 5
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+)?")
# The tracer's host may have proxies, a CA and registry credentials in its environment; the lab has none of them.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


__all__ = ["NOBODY", "Client", "Credentials", "Told", "last_lines", "missing_programs", "split_reference", "stop"]


class Credentials(NamedTuple):
    """A made-up user for the lab's own servers; a token takes the place of both where a client can be given one."""

    user: str = ""
    password: str = ""
    token: str = ""

    @property
    def basic(self) -> str:
        """As in an auth file."""
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


NOBODY = Credentials()


def missing_programs() -> list[str]:
    """Which of the clients' programs are not installed."""
    names = ("skopeo", "containerd", "ctr", "dockerd", "docker", "curl", "unshare")
    return [name for name in names if shutil.which(name, path=_PATH) is None]


def split_reference(reference: str) -> tuple[str, str, str]:
    """The host (with port), the repository and the tag of `host:port/name:tag`."""
    host, _, rest = reference.partition("/")
    name, _, tag = rest.rpartition(":")
    assert host and name and tag, f"not host/name:tag: {reference}"
    return host, name, tag


class Client(ABC):
    """A program that pulls.

    Args:
        ca: the certificate of the authority that signed the registry's. Without it the registry is spoken to without TLS.
        credentials: given to the program in the way its users do.
    """

    def __init__(self, *, ca: Path | None = None, credentials: Credentials = NOBODY) -> None:
        self.ca = ca
        self.credentials = credentials

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
        self.environment = {"PATH": _PATH, "HOME": str(self.folder), "TMPDIR": str(self.folder), "LANG": "C.UTF-8"}
        if self.ca is not None:
            self.environment["SSL_CERT_FILE"] = str(self.ca)
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @abstractmethod
    def pull(self, reference: str, timeout_s: float = 120) -> Told:
        """Pull `host:port/name:tag` once, to the end or to `timeout_s`."""

    @abstractmethod
    def forget(self, reference: str) -> None:
        """Remove the image and all its content, so that the next pull is whole."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Of each program that takes part, by name."""

    def version_of(self, *command: str) -> str:
        said = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout
        match = _VERSION.search(said)
        return match[0] if match else said.strip()

    def tell(self, command: Sequence[str | Path], timeout_s: float) -> Told:
        """Run a command as a user would, who sees the last lines of its errors at its end."""
        started_ns = now_ns()
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=self.environment,
            text=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call; the lab's threads do nothing but wait
        )
        try:
            _, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            told_ns = now_ns()
            stop(process, signal.SIGINT)  # like the user's own Ctrl-C: what it holds (a lease, a partial layer) is given back
            process.communicate()
            told = Told(False, f"still trying when the lab ended it after {timeout_s:g} s", started_ns, told_ns)
            assert ended_by_lab(told)
            return told
        told_ns = now_ns()
        ok = process.returncode == 0
        return Told(ok, "" if ok else last_lines(errors) or f"exit code {process.returncode}", started_ns, told_ns)


def last_lines(text: str) -> str:
    """The end of what a program said."""
    return "\n".join(text.strip().splitlines()[-_LAST_LINES:])


def stop(process: subprocess.Popen[str], first: signal.Signals) -> None:
    """End a process: asked first, then made to."""
    process.send_signal(first)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
