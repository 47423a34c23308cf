"""Facts about this host that decide whether the program can be loaded: features are probed, versions never compared."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bpf import syscall
from bpf.attach import BTF_PATH
from bpf.btf import Btf, BtfError
from bpf.layout import kernel_layout

CLOCK_MONOTONIC_COARSE = 6  # include/uapi/linux/time.h; its resolution is the length of a jiffy

# bits of enum capability, include/uapi/linux/capability.h
CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 21, 38, 39
_CAPABILITIES = (("CAP_SYS_ADMIN", CAP_SYS_ADMIN), ("CAP_PERFMON", CAP_PERFMON), ("CAP_BPF", CAP_BPF))

# enum bpf_prog_type, include/uapi/linux/bpf.h
_TRACING_TYPES = {2: "kprobe", 5: "tracepoint", 7: "perf_event", 17: "raw_tracepoint", 26: "tracing"}

# Where distributions put the Python part of bcc. PyPI's "bcc" is another program and has no libbcc.py.
_BCC_PLACES = (
    "/usr/lib/python3/dist-packages/bcc",
    "/usr/lib/python3*/site-packages/bcc",
    "/usr/lib64/python3*/site-packages/bcc",
    "/usr/local/lib/python3*/dist-packages/bcc",
    "/usr/local/lib/python3*/site-packages/bcc",
)


@dataclass(frozen=True)
class EbpfSupport:
    """What eBPF needs, as found.

    Attributes:
        privileged: this process may load tracing programs (CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN).
        btf: the kernel describes its structures in /sys/kernel/btf/vmlinux.
        bcc_dir: the folder of the distribution's bcc package; None if there is none.
        ring_buffer_error: why a ring buffer map can't be had; None if it can, or if the process may not try.
        jiffy_ns: length of a jiffy in ns.
    """

    privileged: bool
    btf: bool
    bcc_dir: str | None
    ring_buffer_error: str | None
    jiffy_ns: int


def effective_capabilities(status: str) -> int:
    """The CapEff mask out of the text of /proc/self/status; 0 where it is missing or malformed."""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            try:
                return int(line.split()[1], 16)
            except (IndexError, ValueError):
                return 0
    return 0


def may_trace(capabilities: int) -> bool:
    """Whether a capability mask allows loading tracing programs."""
    both = 1 << CAP_BPF | 1 << CAP_PERFMON
    return bool(capabilities & 1 << CAP_SYS_ADMIN) or capabilities & both == both


def find_bcc(places: tuple[str, ...] = _BCC_PLACES) -> str | None:
    """The folder of the distribution's bcc package, looked for outside the virtual environment too."""
    patterns = [*places, *(f"{entry}/bcc" for entry in sys.path if entry.startswith("/usr/"))]
    for pattern in patterns:
        for found in sorted(Path("/").glob(pattern.lstrip("/")), reverse=True):
            if (found / "libbcc.py").is_file():
                return str(found)
    return None


def _capabilities() -> int:
    try:
        return effective_capabilities(Path("/proc/self/status").read_text())
    except OSError:
        return 0


def probe() -> EbpfSupport:
    """Look at this host and this process. Never raises."""
    privileged = may_trace(_capabilities())
    return EbpfSupport(
        privileged=privileged,
        btf=os.access(BTF_PATH, os.R_OK),
        bcc_dir=find_bcc(),
        ring_buffer_error=syscall.ring_buffer_error() if privileged else None,
        jiffy_ns=round(time.clock_getres(CLOCK_MONOTONIC_COARSE) * 1e9),
    )


def describe(support: EbpfSupport) -> dict[str, object]:
    """Facts for people: name to value, None where unknown. Never raises."""
    return {
        "capabilities": [name for name, bit in _CAPABILITIES if _capabilities() & 1 << bit],
        "may_load_bpf": support.privileged,
        "btf": str(BTF_PATH) if support.btf else False,
        "kernel_members_missing": _missing_members(support) if support.btf else None,
        "ring_buffer": (support.ring_buffer_error or True) if support.privileged else None,
        "jiffy_ns": support.jiffy_ns,
        "bcc": support.bcc_dir or False,
        "bpf_tracers_loaded": _tracers(),
    }


def _missing_members(support: EbpfSupport) -> list[str] | None:
    try:
        layout = kernel_layout(Btf(BTF_PATH.read_bytes()), support.jiffy_ns)
    except (OSError, BtfError):
        return None
    return [*layout.missing_required, *layout.missing_optional]


def _tracers() -> list[str] | None:
    """BPF programs of tracing types that are loaded now, other tracers' included; None if this process may not look."""
    try:
        programs = syscall.loaded_programs()
    except OSError:
        return None
    return [
        f"{name or 'unnamed'} ({_TRACING_TYPES[kind]}, id {number})" for number, kind, name in programs if kind in _TRACING_TYPES
    ]
