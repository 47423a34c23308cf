"""What the kernel says about processes, BPF programs and this machine."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import os
import platform
import struct
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bpf.syscall import bpf

TRACEFS = Path("/sys/kernel/tracing")
_STATS_SYSCTL = Path("/proc/sys/kernel/bpf_stats_enabled")
_PROG_LOAD, _RAW_TRACEPOINT_OPEN, _ENABLE_STATS = 5, 17, 32  # enum bpf_cmd
_PROG_TYPE_RAW_TRACEPOINT = 17
_RETURN_0 = struct.pack("=BBhi", 0xB7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0)  # r0 = 0; exit
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_SETTLED_POLLS = 5
_POLL_S = 0.05


class ProgramStats(NamedTuple):
    """What bpf_stats counted: `run_time_ns` over `run_count` runs."""

    run_time_ns: int
    run_count: int

    def since(self, before: ProgramStats) -> ProgramStats:
        """The difference."""
        return ProgramStats(self.run_time_ns - before.run_time_ns, self.run_count - before.run_count)

    @property
    def mean_ns(self) -> float:
        """Per run, in ns."""
        return self.run_time_ns / self.run_count if self.run_count else float("nan")


class Memory(NamedTuple):
    """Of a process, in MB (10^6 bytes): resident now, most so far, and resident with shared pages divided by their users."""

    rss_mb: float
    peak_mb: float
    pss_mb: float


@contextlib.contextmanager
def bpf_stats() -> Iterator[None]:
    """Have the kernel time BPF programs: by a descriptor, which ends with this process; else by the sysctl, restored."""
    try:
        fd, _ = bpf(_ENABLE_STATS, struct.pack("=I", 0))
    except OSError:
        before = _STATS_SYSCTL.read_text()
        _STATS_SYSCTL.write_text("1")
        try:
            yield
        finally:
            _STATS_SYSCTL.write_text(before)
        return
    try:
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def tracefs() -> Iterator[str | None]:
    """Mount tracefs if nobody has, and unmount it afterwards. Yields why that failed, or None."""
    if (TRACEFS / "events").is_dir():
        yield None
        return
    mounted = subprocess.run(["mount", "-t", "tracefs", "tracefs", str(TRACEFS)], capture_output=True, text=True)
    try:
        yield None if mounted.returncode == 0 else f"tracefs can't be mounted: {mounted.stderr.strip()}"
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(TRACEFS)], capture_output=True)


class FloorProgram:
    """`return 0` on the same tracepoint: what bpf_stats shows for a program that does nothing, its two clock reads."""

    def __init__(self) -> None:
        code = ctypes.create_string_buffer(_RETURN_0, len(_RETURN_0))
        licence = ctypes.create_string_buffer(b"GPL")
        name = ctypes.create_string_buffer(b"inet_sock_set_state")
        attr = struct.pack("=IIQQIIQII16s", _PROG_TYPE_RAW_TRACEPOINT, 2, ctypes.addressof(code), ctypes.addressof(licence),
                           0, 0, 0, 0, 0, b"bench_floor")  # fmt: skip
        self._fd, _ = bpf(_PROG_LOAD, attr)
        try:
            self._link_fd, _ = bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QI", ctypes.addressof(name), self._fd))
        except OSError:
            os.close(self._fd)
            raise

    def stats(self) -> ProgramStats:
        """So far."""
        return fd_stats(self._fd)

    def close(self) -> None:
        """Detach it."""
        os.close(self._link_fd)
        os.close(self._fd)


def fd_stats(fd: int, pid: int | None = None) -> ProgramStats:
    """Of one program, by a descriptor of this or another process."""
    fields = _fdinfo(Path(f"/proc/{pid or 'self'}/fdinfo/{fd}"))
    return ProgramStats(int(fields.get("run_time_ns", 0)), int(fields.get("run_cnt", 0)))


def _fdinfo(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def programs(pid: int) -> dict[str, ProgramStats]:
    """The BPF programs that a process holds, by program id."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for path in Path(f"/proc/{pid}/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError):
                fields = _fdinfo(path)
                if "prog_type" in fields:
                    found[fields["prog_id"]] = ProgramStats(int(fields.get("run_time_ns", 0)), int(fields.get("run_cnt", 0)))
    return found


def program_stats(pid: int) -> ProgramStats:
    """Of all programs that a process holds together."""
    found = programs(pid).values()
    return ProgramStats(sum(stats.run_time_ns for stats in found), sum(stats.run_count for stats in found))


def wait_for_program(pid: int, timeout_s: float = 20.0) -> None:
    """Wait until a process has held the same BPF programs for a quarter of a second: tools probe features with others first.

    Raises:
        TimeoutError: it has none in time.
    """
    deadline_s = time.monotonic() + timeout_s
    held: set[str] = set()
    same = 0
    while same < _SETTLED_POLLS:
        now = set(programs(pid))
        same = same + 1 if now and now == held else 0
        held = now
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"process {pid} attached no BPF program within {timeout_s:g} s")
        time.sleep(_POLL_S)


def cpu_s(pid: int) -> float:
    """User and system time of a process and its threads so far, in s, exact to a clock tick (10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def memory(pid: int) -> Memory:
    """Of a process."""
    status = _fdinfo(Path(f"/proc/{pid}/status"))
    rollup = _fdinfo(Path(f"/proc/{pid}/smaps_rollup"))
    return Memory(*(int(text.split()[0]) * 1024 / 1e6 for text in (status["VmRSS"], status["VmHWM"], rollup["Pss"])))


def children(pid: int) -> list[int]:
    """Processes whose parent this one is."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def _tool_version(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "missing"
    return (done.stdout.strip() or done.stderr.strip()).splitlines()[0] if done.returncode == 0 else "unknown"


def facts() -> dict[str, str]:
    """What the numbers depend on."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    try:
        polars = version("polars")
    except PackageNotFoundError:
        polars = "missing"
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kernel": f"{platform.release()} {platform.machine()}",
        "cores": f"{os.cpu_count()} x {models[0] if models else 'unknown'}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "polars": polars,
        "tcpstates": _tool_version(["/usr/sbin/tcpstates", "--version"]),
        "bpftrace": _tool_version(["bpftrace", "--version"]),
    }
