"""Has the program compiled and attached by a child, and takes over its file descriptors.

The descriptors keep the program alive; closing them, or dying in any way, detaches it. Nothing is pinned.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bpf.attach import FDS
from bpf.clients import CLIENT_NS, CLIENTS_MAX, FOLLOWED_MAX, FOLLOWED_PER_OPENING
from bpf.support import EbpfSupport
from bpf.watch_map import PORTS_MAX, PREFIXES_MAX
from tracer.errors import SourceError

ROOT = Path(__file__).resolve().parent.parent
RING_BYTES = 8 << 20
"""58,254 events: more than a second of what one busy machine makes (50,000 events/s at 10,000 connections/s)."""
COMPILE_TIMEOUT_S = 60.0
FOLLOWING = {
    "CLIENTS_MAX": CLIENTS_MAX,
    "CLIENT_NS": CLIENT_NS,
    "FOLLOWED_MAX": FOLLOWED_MAX,
    "FOLLOWED_PER_OPENING": FOLLOWED_PER_OPENING,
}
"""What the program is told of `bpf.clients`."""
_REPLY_BYTES = 1 << 16
_DIAGNOSTICS_BYTES = 1 << 20
_CHILD = "import sys; sys.path.insert(0, sys.argv.pop(1)); from bpf.attach import main; sys.exit(main(sys.argv[1:]))"
_ADVICE = {
    "bcc": "reinstall the distribution's package (Debian: apt install python3-bpfcc)",
    "btf": "use a kernel built with CONFIG_DEBUG_INFO_BTF",
    "compile": "report it with the output of 'regtrace doctor'",
    "load": "report it with the output of 'regtrace doctor'",
    "attach": "check that no security policy (lockdown, LSM) forbids BPF tracing",
}


@dataclass(frozen=True)
class Loaded:
    """An attached program: one descriptor per name, owned by whoever holds this.

    Attributes:
        fds: by name, as in `bpf.attach.FDS`.
        missing: kernel members that could not be found; their fields are flagged invalid in every event.
        ring_bytes: size of the ring's data area.
    """

    fds: dict[str, int]
    missing: tuple[str, ...]
    ring_bytes: int


def load(support: EbpfSupport, ring_bytes: int = RING_BYTES) -> Loaded:
    """Compile and attach the program.

    Args:
        support: what was probed; `bcc_dir` must be set.
        ring_bytes: size of the ring, a power of two and a multiple of the page size.

    Raises:
        SourceError: with the stage that failed, the reason and what to do.
    """
    if support.bcc_dir is None:
        raise SourceError("bcc is not installed")
    settings = {
        "RING_PAGES": ring_bytes // os.sysconf("SC_PAGE_SIZE"),
        "WATCH_PREFIXES_MAX": PREFIXES_MAX,
        "WATCH_PORTS_MAX": PORTS_MAX,
        "JIFFY_NS": support.jiffy_ns,
    } | FOLLOWING
    ours, theirs = socket.socketpair()
    # -I and -S: no user site, no environment, no cwd on the path of a process that runs as root.
    command = [sys.executable, "-I", "-S", "-c", _CHILD, str(ROOT), str(theirs.fileno()), support.bcc_dir]
    # A file and not a pipe: diagnostics of any length can't block the child.
    with ours, tempfile.TemporaryFile() as diagnostics:
        child = subprocess.Popen(
            [*command, json.dumps(settings)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=diagnostics,
            pass_fds=[theirs.fileno()],
            cwd="/",  # ours may have been removed
            process_group=0,  # Ctrl-C is for us to handle: a child that died of it would look like a failure
        )
        try:
            theirs.close()
            reply, fds = _receive(ours, child, diagnostics)
        finally:
            child.kill()  # it has answered, or never will
            child.wait()
    return Loaded(dict(zip(FDS, fds, strict=True)), tuple(reply["missing"]), ring_bytes)


def _receive(ours: socket.socket, child: subprocess.Popen[bytes], diagnostics: IO[bytes]) -> tuple[dict[str, Any], list[int]]:
    """The child's answer and its descriptors.

    Raises:
        SourceError: it says no, or nothing.
    """
    ours.settimeout(COMPILE_TIMEOUT_S)
    try:
        message, fds, _, _ = socket.recv_fds(ours, _REPLY_BYTES, len(FDS))
    except TimeoutError:
        raise SourceError(
            f"compiling the BPF program took more than {COMPILE_TIMEOUT_S:.0f} s; is this machine overloaded?"
        ) from None
    if not message:
        child.wait(COMPILE_TIMEOUT_S)
        raise SourceError(f"the process that compiles the BPF program died: {_last_lines(diagnostics)}")
    reply = json.loads(message)
    if not reply["ok"]:
        child.wait(COMPILE_TIMEOUT_S)
        raise _refusal(reply["stage"], reply["error"], _last_lines(diagnostics))
    if len(fds) != len(FDS):
        for fd in fds:
            os.close(fd)
        raise SourceError("too few file descriptors are free; raise the limit (ulimit -n)")
    return reply, list(fds)


def _refusal(stage: str, error: str, details: str) -> SourceError:
    return SourceError(f"{stage} of the BPF program failed: {error}{f' ({details})' if details else ''}; {_ADVICE[stage]}")


def _last_lines(diagnostics: IO[bytes]) -> str:
    """The first error of the compiler and the last lines, in one line."""
    diagnostics.seek(0)
    lines = diagnostics.read(_DIAGNOSTICS_BYTES).decode("utf-8", "replace").strip().splitlines()
    first = [line for line in lines if "error:" in line][:1]
    return " | ".join(line.strip() for line in dict.fromkeys(first + lines[-3:]))
