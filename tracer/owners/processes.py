"""One living process, read below a descriptor of its directory in /proc.

Pids are used again; a descriptor of /proc/PID is not: it belongs to one process for good, and is empty once that ended. So what
is read through it is never a mixture of two; that the start time is read first and last does not take the kernel's word for it.
Every read is bounded, and none waits: a FIFO in the place of a file is empty.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tracer.owners.cgroups import parse_cgroup
from tracer.owners.masking import masked
from tracer.owners.owner import UNKNOWN

CMDLINE_BYTES_MAX = 4096
_READ_BYTES_MAX = 1 << 14
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# In /proc/PID/stat behind the ")" of the name, which may itself hold blanks and brackets: field 22 is the 20th from there.
_START_AFTER_NAME = 19
_NETNS_LINK = re.compile(r"net:\[(\d{1,19})\]")
_UID = re.compile(rb"^Uid:\s+\d+\s+(\d{1,10})\s", re.MULTILINE)
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_BOOTTIME_NS_MAX = 1 << 62


@dataclass(frozen=True)
class Process:
    """What /proc shows of a process; what may not be read is unknown.

    Attributes:
        pid: its number, as seen from the pid namespace of /proc.
        started_ns: boottime at which it began, rounded down to a tick of USER_HZ.
        comm: the name of its first thread, raw.
        cmdline: as in `OwnerDetail`; secrets are gone.
        cgroups: paths of its cgroups, what tells most first; empty: unknown.
        netns: inode of its network namespace; -1 unknown.
        uid: its effective user; -1 unknown.
    """

    pid: int
    started_ns: int
    comm: bytes
    cmdline: str
    cgroups: tuple[str, ...]
    netns: int
    uid: int


def read_process(pid: int, proc_root: Path = Path("/proc")) -> Process | None:
    """Read all of a process.

    Returns:
        None: there is none of this pid, it may not be seen at all, or another took its place meanwhile.
    """
    try:
        process_fd = os.open(proc_root / str(pid), _DIRECTORY)
    except OSError:
        return None
    try:
        began = parse_stat(_read(process_fd, "stat"))
        if began is None:
            return None
        process = Process(
            pid=pid,
            started_ns=began[1],
            comm=began[0],
            cmdline=masked(parse_cmdline(_read(process_fd, "cmdline", CMDLINE_BYTES_MAX + 1))),
            cgroups=parse_cgroup(_read(process_fd, "cgroup")),
            netns=_netns(process_fd),
            uid=parse_uid(_read(process_fd, "status")),
        )
        ended = parse_stat(_read(process_fd, "stat"))
        return process if ended is None or ended[1] == began[1] else None
    finally:
        os.close(process_fd)


def read_stat(pid: int, proc_root: Path = Path("/proc")) -> tuple[bytes, int] | None:
    """The name and the start (boottime, ns) of the process that has this pid now; None: there is none, or it may not be seen."""
    try:
        fd = os.open(proc_root / str(pid) / "stat", _FILE)
    except OSError:
        return None
    try:
        return parse_stat(os.read(fd, _READ_BYTES_MAX))
    except OSError:
        return None
    finally:
        os.close(fd)


def parse_stat(text: bytes, tick_ns: int = TICK_NS) -> tuple[bytes, int] | None:
    """The name and the start (boottime, ns) in a /proc/PID/stat; None if it has another form."""
    before, bracket, rest = text.partition(b"(")
    name, closing, behind = rest.rpartition(b")")
    values = behind.split()
    if not (bracket and closing and before.strip().isdigit() and len(values) > _START_AFTER_NAME):
        return None
    ticks = values[_START_AFTER_NAME]
    if not ticks.isdigit() or len(ticks) > 19:
        return None
    return name, min(int(ticks) * tick_ns, _BOOTTIME_NS_MAX)


def parse_cmdline(text: bytes) -> list[bytes]:
    """The arguments in a /proc/PID/cmdline; of one that was cut at CMDLINE_BYTES_MAX the last is replaced by an ellipsis.

    Half a secret is not always known as one.
    """
    if len(text) <= CMDLINE_BYTES_MAX:
        # A process that writes its own title may leave NULs behind it.
        return text.rstrip(b"\0").split(b"\0") if text.strip(b"\0") else []
    whole, _, _ = text.rpartition(b"\0")
    return [*(whole.split(b"\0") if whole else ()), "…".encode()]


def parse_uid(text: bytes) -> int:
    """The effective user in a /proc/PID/status; -1 if it is not there."""
    found = _UID.search(text)
    return int(found[1]) if found else UNKNOWN


def parse_netns_link(text: str) -> int:
    """The inode in what /proc/PID/ns/net links to; -1 if it is no network namespace."""
    found = _NETNS_LINK.fullmatch(text)
    return int(found[1]) if found and int(found[1]) < 1 << 63 else UNKNOWN


def _netns(process_fd: int) -> int:
    try:
        return parse_netns_link(os.readlink("ns/net", dir_fd=process_fd))
    except OSError:
        return UNKNOWN


def _read(process_fd: int, name: str, limit_bytes: int = _READ_BYTES_MAX) -> bytes:
    """The beginning of a file; empty where it can't be read."""
    try:
        fd = os.open(name, _FILE, dir_fd=process_fd)
    except OSError:
        return b""
    try:
        return os.read(fd, limit_bytes)
    except OSError:
        return b""
    finally:
        os.close(fd)
