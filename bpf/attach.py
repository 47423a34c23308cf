"""The compiling child: builds the program with bcc, attaches it, hands the file descriptors over and exits.

LLVM's memory goes with this process; the watching one never loads it. Runs as `python -I`, with the standard library and
the distribution's bcc only, so it imports neither numpy nor the rest of regtrace. The one module that imports bcc.

Protocol, on the socket whose number is the first argument: one JSON object, `{"ok": true, ...}` with the file descriptors
beside it in the order of `FDS`, or `{"ok": false, "stage": ..., "error": ...}`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from bpf.btf import Btf, BtfError
from bpf.layout import TRACEPOINT, kernel_layout

HERE = Path(__file__).resolve().parent
MAPS = ("loss", "watch_prefixes", "watch_ports", "following", "clients")
FDS = ("link", "nested_link", "sample", "events", *MAPS, "program")
BTF_PATH = Path("/sys/kernel/btf/vmlinux")
PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


class AttachError(Exception):
    """A step failed; `stage` names it for the parent."""

    def __init__(self, stage: str, error: str) -> None:
        super().__init__(error)
        self.stage = stage


def import_bcc(package_dir: str) -> ModuleType:
    """Import the distribution's bcc from its folder, without putting the folder's neighbours on the path.

    Raises:
        AttachError: the package can't be imported (its shared library is missing, for example).
    """
    spec = importlib.util.spec_from_file_location(
        "bcc", Path(package_dir, "__init__.py"), submodule_search_locations=[package_dir]
    )
    if spec is None or spec.loader is None:
        raise AttachError("bcc", f"{package_dir} is no Python package")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, OSError, AttributeError, SyntaxError) as error:
        raise AttachError("bcc", f"{package_dir} can't be imported: {error}") from error
    return module


def _macros(settings: dict[str, int]) -> tuple[dict[str, int], tuple[str, ...]]:
    try:
        layout = kernel_layout(Btf(BTF_PATH.read_bytes()), settings["JIFFY_NS"])
    except (OSError, BtfError) as error:
        raise AttachError("btf", f"{BTF_PATH}: {error}") from error
    if layout.missing_required:
        raise AttachError("btf", f"this kernel's BTF lacks {', '.join(layout.missing_required)}")
    return settings | layout.macros, layout.missing_optional


def attach(bcc: ModuleType, macros: dict[str, int]) -> tuple[Any, list[int]]:
    """Compile and attach.

    Returns:
        The BPF object, which owns the descriptors, and the descriptors in the order of `FDS`.

    Raises:
        AttachError: the compiler, the verifier or the kernel said no.
    """
    cflags = [f"-I{HERE}", *(f"-D{name}={value}" for name, value in macros.items())]
    try:
        # bcc hands diagnostics to stderr, which the parent reads.
        bpf = bcc.BPF(text=(HERE / "tcp_states.c").read_bytes(), cflags=cflags)
    except Exception as error:
        raise AttachError("compile", str(error)) from error
    try:
        program = bpf.load_func(b"tcp_states", bcc.BPF.RAW_TRACEPOINT)
        nested = bpf.load_func(b"tcp_states_nested", bcc.BPF.RAW_TRACEPOINT)
        sample = bpf.load_func(b"tcp_sample", bcc.BPF.RAW_TRACEPOINT)
    except Exception as error:
        raise AttachError("load", str(error)) from error
    links = []
    for attached in (program, nested):  # in this order: the kernel calls them in the order of their registration
        link = bcc.lib.bpf_attach_raw_tracepoint(attached.fd, TRACEPOINT.encode())
        if link < 0:
            raise AttachError("attach", f"raw tracepoint {TRACEPOINT}: {os.strerror(ctypes.get_errno())}")
        links.append(link)
    maps = [bpf[name.encode()].get_fd() for name in MAPS]
    # bcc's table object of a ring buffer would set up a consumer of its own: only its descriptor is wanted.
    events = bcc.lib.bpf_table_fd(bpf.module, b"events")
    return bpf, [*links, sample.fd, events, *maps, program.fd]


def main(arguments: list[str]) -> int:
    """Entry point of the child: socket number, the bcc package's folder, settings as JSON."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # LLVM returns to Python only at its end; die at once instead
    # A parent that is killed while we compile must not leave us behind.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    channel = socket.socket(fileno=int(arguments[0]))
    fds: list[int] = []
    keep: object = None
    try:
        os.environ["BCC_KERNEL_SOURCE"] = str(HERE)  # bcc asks for include/ below it: our stand-in headers
        bcc = import_bcc(arguments[1])
        macros, missing = _macros(json.loads(arguments[2]))
        keep, fds = attach(bcc, macros)  # bcc's object closes the descriptors when it goes
        reply: dict[str, Any] = {"ok": True, "missing": missing}
    except AttachError as error:
        reply = {"ok": False, "stage": error.stage, "error": str(error)}
    with contextlib.suppress(OSError):  # the parent gave up: then nobody needs the answer
        socket.send_fds(channel, [json.dumps(reply).encode()], fds)
    del keep
    sys.stderr.flush()
    os._exit(0)  # skip bcc's clean-up, which takes longer than the kernel's own
