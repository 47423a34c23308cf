"""tracer.owners.processes and namespaces: the kernel's processes, and a /proc that is made up, or hostile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import skip_or_fail
from tracer.clock import boottime_ns
from tracer.owners.namespaces import REFRESH_NS, NamespaceNames
from tracer.owners.processes import (
    CMDLINE_BYTES_MAX,
    TICK_NS,
    parse_cmdline,
    parse_netns_link,
    parse_stat,
    parse_uid,
    read_process,
    read_stat,
)

STAT = b"%d (%b) S 1 %d %d 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 %d 1000 100 18446744073709551615\n"
PROGRAM = "import sys; print(flush=True); sys.stdin.read()"
WAITING = (sys.executable, "-c", PROGRAM)


@contextmanager
def waiting(*command: str) -> Iterator[int]:
    """A process that lives as long as the block; its pid."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            yield child.pid
        finally:
            child.communicate(timeout=30)


def played(proc: Path, pid: int, *, start: int = 100, comm: bytes = b"pull", cmdline: bytes = b"pull\0x\0") -> Path:
    path = proc / str(pid)
    (path / "ns").mkdir(parents=True)
    (path / "stat").write_bytes(STAT % (pid, comm, pid, pid, start))
    (path / "cmdline").write_bytes(cmdline)
    (path / "cgroup").write_bytes(b"0::/system.slice/pull.service\n")
    (path / "status").write_bytes(b"Name:\tpull\nUid:\t1000\t1001\t1002\t1003\nGid:\t1\t1\t1\t1\n")
    (path / "ns/net").symlink_to("net:[4026531840]")
    return path


# --- the kernel's ---


def test_a_living_process_is_read_whole() -> None:
    before_ns = boottime_ns()
    with waiting(*WAITING, "--password", "hunter2", "https://bob:pw@h/") as pid:
        process = read_process(pid)
        assert process is not None
        assert (
            process.cmdline
            == f"{sys.executable} -c 'import sys; print(flush=True); sys.stdin.read()' --password *** https://***@h/"
        )
        assert before_ns - TICK_NS <= process.started_ns <= boottime_ns()
        assert process.comm == Path(f"/proc/{pid}/comm").read_bytes().removesuffix(b"\n")
        assert process.netns == Path("/proc/self/ns/net").stat().st_ino
        assert process.uid == os.geteuid()
        assert read_stat(pid) == (process.comm, process.started_ns)


def test_a_process_that_has_ended_is_none() -> None:
    with waiting(*WAITING) as pid:
        pass
    assert read_process(pid) is None
    assert read_stat(pid) is None


def test_a_zombie_has_a_start_and_no_command_line() -> None:
    child = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        process = read_process(child.pid)
    finally:
        child.wait()
    assert process is not None
    assert (process.comm, process.cmdline, process.netns) == (b"true", "", -1)


def test_a_kernel_thread_has_no_command_line() -> None:
    process = read_process(2)
    if process is None or process.comm != b"kthreadd":
        skip_or_fail("kernel threads are seen from the first pid namespace only")
    assert process.cmdline == ""


def test_a_command_line_of_megabytes_is_cut_before_a_secret_that_may_be_half() -> None:
    arguments = ["x" * 100_000] * 20
    with waiting(*WAITING, "word", *arguments) as pid:
        process = read_process(pid)
    assert process is not None
    assert process.cmdline.endswith(" word …")


def test_a_process_of_another_user_is_read_with_its_user() -> None:
    if os.geteuid():
        skip_or_fail("becoming another user needs root")
    program = f"import os; os.setgroups([]); os.setresuid(65534, 65533, 65534); {PROGRAM}"
    with waiting(sys.executable, "-c", program) as pid:
        process = read_process(pid)
    assert process is not None
    assert process.uid == 65533


def test_no_descriptor_is_left_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for pid in (os.getpid(), 1, 999_999_999):
        read_process(pid)
        read_stat(pid)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- played ---


def test_a_played_process_is_read_whole(tmp_path: Path) -> None:
    played(tmp_path, 7, start=123)
    process = read_process(7, tmp_path)
    assert process is not None
    assert (process.started_ns, process.comm, process.cmdline) == (123 * TICK_NS, b"pull", "pull x")
    assert (process.cgroups, process.netns, process.uid) == (("/system.slice/pull.service",), 4026531840, 1001)


@pytest.mark.parametrize("name", ["cmdline", "cgroup", "status", "ns/net"])
@pytest.mark.parametrize("instead", ["missing", "directory", "fifo", "link", "empty"])
def test_what_can_not_be_read_is_unknown_and_the_rest_is_read(tmp_path: Path, name: str, instead: str) -> None:
    path = played(tmp_path, 7) / name
    path.unlink()
    if instead == "directory":
        path.mkdir()
    elif instead == "fifo":
        os.mkfifo(path)
    elif instead == "link":
        path.symlink_to("/etc/hostname")
    elif instead == "empty":
        path.touch()
    process = read_process(7, tmp_path)
    assert process is not None
    shown = {"cmdline": process.cmdline, "cgroup": process.cgroups, "status": process.uid, "ns/net": process.netns}
    unknown = {"cmdline": "", "cgroup": (), "status": -1, "ns/net": -1}
    whole = {"cmdline": "pull x", "cgroup": ("/system.slice/pull.service",), "status": 1001, "ns/net": 4026531840}
    assert shown == whole | {name: unknown[name]}


@pytest.mark.parametrize("instead", ["missing", "fifo", "nonsense"])
def test_without_a_start_there_is_no_process(tmp_path: Path, instead: str) -> None:
    path = played(tmp_path, 7) / "stat"
    path.unlink()
    if instead == "fifo":
        os.mkfifo(path)
    elif instead == "nonsense":
        path.write_bytes(b"7 (x) S 1")
    assert read_process(7, tmp_path) is None
    assert read_stat(7, tmp_path) is None


def _when_read(monkeypatch: pytest.MonkeyPatch, name: str, happens: object) -> None:
    """Let something happen as soon as a file has been opened."""
    real = os.open

    def opening(path: str | Path, flags: int, **more: int) -> int:
        fd = real(path, flags, **more)
        if path == name:
            assert callable(happens)
            happens()
        return fd

    monkeypatch.setattr(os, "open", opening)


def test_a_process_that_ends_while_it_is_read_is_not_mixed_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = played(tmp_path, 7, start=100)

    def replace() -> None:
        if not (tmp_path / "gone").exists():
            path.rename(tmp_path / "gone")
            played(tmp_path, 7, start=900, cmdline=b"other\0")

    _when_read(monkeypatch, "stat", replace)
    process = read_process(7, tmp_path)
    assert process is not None
    assert (process.started_ns, process.cmdline) == (100 * TICK_NS, "pull x")


def test_a_start_that_changes_while_it_is_read_is_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = played(tmp_path, 7, start=100)
    _when_read(monkeypatch, "status", lambda: (path / "stat").write_bytes(STAT % (7, b"other", 7, 7, 900)))
    assert read_process(7, tmp_path) is None


def test_a_process_that_ends_half_way_keeps_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = played(tmp_path, 7)
    _when_read(monkeypatch, "cmdline", lambda: shutil.rmtree(path))
    process = read_process(7, tmp_path)
    assert process is not None
    assert (process.comm, process.cmdline, process.uid) == (b"pull", "pull x", -1)


# --- parsing ---


@pytest.mark.parametrize("comm", [b"curl", b"", b") S 1 2", b"a b", b"\xff\n("])
def test_a_name_of_any_bytes_is_read_from_stat(comm: bytes) -> None:
    assert parse_stat(STAT % (7, comm, 7, 7, 12345), tick_ns=10) == (comm, 123450)


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        (b"", []),
        (b"\0\0", []),
        (b"a\0", [b"a"]),
        (b"a\0\0b\0", [b"a", b"", b"b"]),
        (b"nginx: worker process\0\0\0\0", [b"nginx: worker process"]),
        (b"title without an end", [b"title without an end"]),
        (b"a\0" + b"s" * CMDLINE_BYTES_MAX, [b"a", "…".encode()]),
        (b"s" * (CMDLINE_BYTES_MAX + 1), ["…".encode()]),
    ],
)
def test_a_command_line_is_split_at_its_nuls(text: bytes, argv: list[bytes]) -> None:
    assert parse_cmdline(text) == argv


@pytest.mark.parametrize("text", ["net:[4026531840", "mnt:[1]", "net:[-1]", "/etc/passwd", "net:[99999999999999999999]", ""])
def test_a_link_to_no_network_namespace_is_unknown(text: str) -> None:
    assert parse_netns_link(text) == -1


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([b"7 ", b"(", b")", b" 1", b" S", b"Uid:\t", b"1\t", b"\n", b"\0"]) | st.binary(max_size=4)).map(
        b"".join
    )
)
def test_any_bytes_are_parsed_or_refused(text: bytes) -> None:
    stat = parse_stat(text)
    assert stat is None or stat[1] >= 0
    assert parse_uid(text) >= -1
    assert b"\0" not in b"".join(parse_cmdline(text))


# --- network namespaces ---


@pytest.fixture
def named() -> Iterator[tuple[str, int]]:
    """A network namespace with a name of its own, and its inode."""
    if os.geteuid():
        skip_or_fail("making a network namespace needs root")
    name = f"regtrace-{os.getpid()}-{time.monotonic_ns()}"
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=20)
    try:
        yield name, Path(f"/run/netns/{name}").stat().st_ino
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True, timeout=20)


def test_the_hosts_namespace_is_that_of_the_first_process(tmp_path: Path) -> None:
    for process, inode in (("1", 5), ("self", 6)):
        (tmp_path / process / "ns").mkdir(parents=True)
        (tmp_path / process / "ns/net").symlink_to(f"net:[{inode}]")
    names = NamespaceNames(tmp_path, tmp_path / "none")
    assert [names.name_of(inode, in_container=True, now_ns=0) for inode in (5, 6, 7)] == ["host", "own", "container"]


def test_a_process_in_a_named_namespace_has_its_name(named: tuple[str, int]) -> None:
    name, inode = named
    with waiting("ip", "netns", "exec", name, *WAITING) as pid:
        process = read_process(pid)
    assert process is not None
    assert process.netns == inode
    assert NamespaceNames().name_of(process.netns, in_container=False, now_ns=0) == name


def test_a_namespace_without_a_name_is_a_containers_or_unknown() -> None:
    if os.geteuid():
        skip_or_fail("making a network namespace needs root")
    with waiting("unshare", "--net", *WAITING) as pid:
        process = read_process(pid)
    assert process is not None
    assert process.netns not in (-1, Path("/proc/self/ns/net").stat().st_ino)
    names = NamespaceNames()
    shown = [names.name_of(process.netns, in_container=in_container, now_ns=0) for in_container in (True, False)]
    assert shown == ["container", ""]


def test_an_unknown_namespace_has_no_name() -> None:
    assert NamespaceNames().name_of(-1, in_container=True, now_ns=0) == ""


def test_names_are_looked_up_again_once_a_second(named: tuple[str, int]) -> None:
    name, inode = named
    names = NamespaceNames()
    assert names.name_of(inode, in_container=False, now_ns=0) == name
    other = f"{name}-2"
    subprocess.run(["ip", "netns", "add", other], check=True, timeout=20)
    try:
        added = Path(f"/run/netns/{other}").stat().st_ino
        assert names.name_of(added, in_container=False, now_ns=REFRESH_NS - 1) == ""
        assert names.name_of(added, in_container=False, now_ns=REFRESH_NS) == other
    finally:
        subprocess.run(["ip", "netns", "delete", other], check=True, timeout=20)


def test_a_name_left_without_a_namespace_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "left").touch()
    inode = (tmp_path / "left").stat().st_ino
    assert NamespaceNames(run_netns=tmp_path).name_of(inode, in_container=False, now_ns=0) == ""


def test_where_the_first_process_may_not_be_seen_this_ones_is_called_its_own(tmp_path: Path) -> None:
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/net").symlink_to("net:[77]")
    assert NamespaceNames(tmp_path, tmp_path / "none").name_of(77, in_container=False, now_ns=0) == "own"


def test_a_name_of_any_bytes_is_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff\x1b")).symlink_to("/proc/self/ns/uts")
    inode = Path("/proc/self/ns/uts").stat().st_ino
    assert NamespaceNames(run_netns=tmp_path).name_of(inode, in_container=False, now_ns=0) == "a\\xff\x1b"


def test_a_process_renamed_by_itself_is_read_with_any_bytes() -> None:
    program = f"import ctypes; ctypes.CDLL(None).prctl(15, b'a) \\x1b\\xff(', 0, 0, 0); {PROGRAM}"
    with waiting(sys.executable, "-c", program) as pid:
        process = read_process(pid)
    assert process is not None
    assert process.comm == b"a) \x1b\xff("
