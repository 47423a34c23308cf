"""fallback.owners: who holds a socket, in a made-up /proc and in the kernel's."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallback.owners import UNKNOWN_CGROUP, Owner, OwnerFinder, parse_cgroup, parse_cgroup_mount, parse_stat
from tests.conftest import skip_or_fail

ROOT = Path(__file__).resolve().parent.parent
STAT = b"%d (%b) S 1 %d %d 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 %d 1000 100 18446744073709551615\n"
MOUNTINFO = b"24 1 0:20 / %b rw,relatime shared:5 - cgroup2 cgroup2 rw,nsdelegate\n"

HOLDER = """
import os, socket, sys
opened = socket.socket()
print(os.fstat(opened.fileno()).st_ino, flush=True)
sys.stdin.read()
"""


def _process(proc: Path, pid: int, inodes: tuple[int, ...] = (), *, comm: bytes = b"pull", start: int = 0) -> Path:
    path = proc / str(pid)
    (path / "fd").mkdir(parents=True)
    (path / "stat").write_bytes(STAT % (pid, comm, pid, pid, start or pid * 10))
    (path / "cgroup").write_bytes(b"1:name=systemd:/x\n0::/slice/unit\n")
    (path / "fd/0").symlink_to("/dev/null")
    for at, inode in enumerate(inodes, 3):
        (path / f"fd/{at}").symlink_to(f"socket:[{inode}]")
    return path


def _end(proc: Path, pid: int) -> None:
    (proc / str(pid)).rename(proc / f"ended-{pid}-{len(list(proc.iterdir()))}")


def _searched(
    proc: Path, finder: OwnerFinder, wanted: set[int], monkeypatch: pytest.MonkeyPatch, everywhere: bool = True
) -> list[int]:
    """The pids that were looked at, in their order."""
    opened: list[int] = []
    real = os.open

    def noting(path: str | Path, flags: int, **more: int) -> int:
        if isinstance(path, Path) and path.parent == proc:
            opened.append(int(path.name))
        return real(path, flags, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", noting)
        finder.find(wanted, everywhere=everywhere)
    return opened


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """10 holds socket 1000, 20 nothing, 30 holds 3000 and 3001."""
    root = tmp_path / "proc"
    _process(root, 10, (1000,))
    _process(root, 20)
    _process(root, 30, (3000, 3001), comm=b"a) (b", start=777)
    return root


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    (tmp_path / "cgroups/slice/unit").mkdir(parents=True)
    (tmp_path / "other").mkdir()  # where a path with ".." would lead
    return tmp_path / "cgroups"


# --- searching ---


def test_each_wanted_socket_is_found_with_its_process(proc: Path, cgroups: Path) -> None:
    cgroup_id = (cgroups / "slice/unit").stat().st_ino
    owners = OwnerFinder(proc, cgroup_root=cgroups).find([1000, 3001])
    assert owners.found == {1000: Owner(10, 100, b"pull", cgroup_id), 3001: Owner(30, 777, b"a) (b", cgroup_id)}
    assert (owners.missing, owners.denied, owners.vanished, owners.troubles) == (frozenset(), 0, 0, ())


def test_a_socket_nobody_holds_is_missing(proc: Path) -> None:
    owners = OwnerFinder(proc).find([1000, 5])
    assert (set(owners.found), owners.missing, owners.n_searched) == ({1000}, {5}, 3)


def test_inode_0_is_nobodys_and_not_looked_for(proc: Path) -> None:
    owners = OwnerFinder(proc).find([0])
    assert (owners.found, owners.missing, owners.n_searched) == ({}, frozenset(), 0)


def test_the_search_ends_with_the_last_one_found(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _searched(proc, OwnerFinder(proc), {3000, 3001}, monkeypatch) == [30]


def test_owners_before_come_first_then_new_ones_then_the_rest(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finder = OwnerFinder(proc)
    finder.find([1000])
    _process(proc, 15)
    _process(proc, 5)
    assert _searched(proc, finder, {4}, monkeypatch) == [10, 15, 5, 30, 20]


def test_not_everywhere_is_owners_before_and_new_ones(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finder = OwnerFinder(proc)
    finder.find([1000])
    _process(proc, 15)
    assert _searched(proc, finder, {3000}, monkeypatch, everywhere=False) == [10, 15]
    assert _searched(proc, finder, {3000}, monkeypatch, everywhere=False) == [10]
    assert _searched(proc, finder, {3000}, monkeypatch) == [10, 30]


def test_what_was_found_is_remembered_without_a_search(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finder = OwnerFinder(proc)
    first = finder.find([1000, 3000])
    assert _searched(proc, finder, {1000, 3000}, monkeypatch) == []
    assert finder.find([1000, 3000]).found == first.found


def test_a_process_that_got_the_pid_of_an_owner_is_not_taken_for_it(proc: Path) -> None:
    finder = OwnerFinder(proc)
    finder.find([1000])
    _end(proc, 10)
    _process(proc, 10, comm=b"other", start=5555)
    owners = finder.find([1000])
    assert (owners.found, owners.missing) == ({}, {1000})


def test_a_socket_passed_to_another_process_is_found_there_once_the_owner_ended(proc: Path) -> None:
    finder = OwnerFinder(proc)
    finder.find([1000])
    _end(proc, 10)
    _process(proc, 40, (1000,))
    assert finder.find([1000]).found[1000].pid == 40


def test_what_is_forgotten_is_searched_again(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finder = OwnerFinder(proc)
    finder.find([1000])
    finder.forget([1000, 99])
    assert _searched(proc, finder, {1000}, monkeypatch) == [10]


@pytest.mark.parametrize("capacity", [0, 1, 2])
def test_no_more_sockets_are_remembered_than_allowed(proc: Path, capacity: int) -> None:
    finder = OwnerFinder(proc, capacity=capacity)
    assert len(finder.find([1000, 3000, 3001]).found) == 3
    assert len(finder) == capacity


def test_the_longest_unused_socket_is_forgotten_first(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finder = OwnerFinder(proc, capacity=2)
    for inode in (1000, 3000, 1000, 3001):
        finder.find([inode])
    assert _searched(proc, finder, {1000}, monkeypatch) == []
    assert _searched(proc, finder, {3000}, monkeypatch) != []


def test_a_process_whose_descriptors_may_not_be_seen_is_denied_and_the_search_goes_on(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refusing(path: str | Path, flags: int, **more: int) -> int:
        if path == "fd" and Path(f"/proc/self/fd/{more['dir_fd']}").readlink() == proc / "30":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, **more)

    monkeypatch.setattr(os, "open", refusing)
    owners = OwnerFinder(proc).find([3000])
    assert (owners.denied, owners.missing, owners.n_searched) == (1, {3000}, 2)


def test_a_process_that_ends_between_its_descriptors_and_its_name_leaves_the_socket_missing(proc: Path) -> None:
    (proc / "10/stat").unlink()
    owners = OwnerFinder(proc).find([1000, 3000])
    assert (set(owners.found), owners.missing, owners.vanished) == ({3000}, {1000}, 1)


def test_a_stat_of_another_form_is_a_trouble(proc: Path) -> None:
    (proc / "10/stat").write_bytes(b"nonsense")
    owners = OwnerFinder(proc).find([1000])
    assert (owners.missing, [trouble.errno for trouble in owners.troubles]) == ({1000}, [errno.EINVAL])


def test_a_missing_proc_leaves_all_missing(tmp_path: Path) -> None:
    owners = OwnerFinder(tmp_path / "none").find([1])
    assert (owners.found, owners.missing) == ({}, {1})


# --- cgroups ---


def _cgroup_of_10(proc: Path, root: Path | None = None) -> int:
    return OwnerFinder(proc, cgroup_root=root).find([1000]).found[1000].cgroup_id


def _mountinfo(proc: Path, text: bytes) -> None:
    (proc / "self").mkdir()
    (proc / "self/mountinfo").write_bytes(text)


def test_the_mount_of_cgroups_is_looked_up(proc: Path, cgroups: Path) -> None:
    _mountinfo(proc, b"25 1 0:21 / /sys rw - sysfs sysfs rw\n" + MOUNTINFO % os.fsencode(cgroups))
    assert _cgroup_of_10(proc) == (cgroups / "slice/unit").stat().st_ino


def test_a_mount_of_a_part_of_the_cgroups_is_read_from_that_part_on(proc: Path, cgroups: Path) -> None:
    _mountinfo(proc, (MOUNTINFO % os.fsencode(cgroups / "slice")).replace(b" / ", b" /slice ", 1))
    assert _cgroup_of_10(proc) == (cgroups / "slice/unit").stat().st_ino


@pytest.mark.parametrize("text", [b"", b"9:memory:/x\n", b"0::/../other\n", b"0::/slice/gone (deleted)\n", b"0::/sli\0ce\n"])
def test_a_cgroup_that_can_not_be_seen_is_unknown(proc: Path, cgroups: Path, text: bytes) -> None:
    (proc / "10/cgroup").write_bytes(text)
    assert _cgroup_of_10(proc, cgroups) == UNKNOWN_CGROUP


def test_a_cgroup_outside_the_part_that_is_mounted_is_unknown(proc: Path, cgroups: Path) -> None:
    _mountinfo(proc, (MOUNTINFO % os.fsencode(cgroups)).replace(b" / ", b" /sli ", 1))
    assert _cgroup_of_10(proc) == UNKNOWN_CGROUP


def test_without_cgroups_of_version_2_the_cgroup_is_unknown(proc: Path) -> None:
    assert _cgroup_of_10(proc) == UNKNOWN_CGROUP


def test_a_new_cgroup_of_an_old_path_has_its_own_id(proc: Path, cgroups: Path) -> None:
    finder = OwnerFinder(proc, cgroup_root=cgroups)
    finder.find([1000])
    (cgroups / "slice/unit").rename(cgroups / "slice/before")
    (cgroups / "slice/unit").mkdir()
    assert finder.find([3000]).found[3000].cgroup_id == (cgroups / "slice/unit").stat().st_ino


# --- parsing ---


@pytest.mark.parametrize("comm", [b"curl", b"", b") S 1 2", b"a b", b"\xff\n("])
def test_a_name_of_any_bytes_is_read_from_stat(comm: bytes) -> None:
    assert parse_stat(STAT % (7, comm, 7, 7, 12345)) == (comm, 12345)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([b"7 ", b"(", b")", b" 1", b" S", b"0::/", b"a", b"\n", b" - cgroup2 "]) | st.binary(max_size=4)))
def test_any_bytes_are_parsed_or_refused(pieces: list[bytes]) -> None:
    text = b"".join(pieces)
    stat = parse_stat(text)
    assert stat is None or stat[1] >= 0
    path = parse_cgroup(text)
    assert path is None or path.startswith("/")
    parse_cgroup_mount(text)


def test_of_several_mounts_the_one_of_the_root_is_taken() -> None:
    part = (MOUNTINFO % b"/a").replace(b" / ", b" /part ", 1)
    assert parse_cgroup_mount(part + MOUNTINFO % rb"/with\040blank" + part) == ("/with blank", "/")


# --- the kernel ---


def test_a_socket_of_this_process_is_found_with_its_name() -> None:
    with socket.socket() as opened:
        owner = OwnerFinder().find([os.fstat(opened.fileno()).st_ino]).found[os.fstat(opened.fileno()).st_ino]
    assert (owner.pid, owner.comm) == (os.getpid(), Path("/proc/self/comm").read_bytes().removesuffix(b"\n"))


def test_a_socket_of_another_process_is_found_and_missing_once_it_ended() -> None:
    finder = OwnerFinder()
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        inode = int(child.stdout.readline())
        assert finder.find([inode]).found[inode].pid == child.pid
        child.communicate(timeout=20)
    assert finder.find([inode]).missing == {inode}


def _kernels_cgroup_id(path: Path) -> int:
    """The id as the kernel gives it in a file handle (name_to_handle_at), which is what BPF programs see."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = (ctypes.c_uint32 * 34)(128)  # struct file_handle: bytes, type, and the handle itself
    mount_id = ctypes.c_int()
    if libc.name_to_handle_at(-100, os.fsencode(path), handle, ctypes.byref(mount_id), 0):
        pytest.skip(f"no file handles of cgroups: {os.strerror(ctypes.get_errno())}")
    return handle[2] | handle[3] << 32


def test_the_cgroup_is_the_one_the_kernel_knows_by_that_id() -> None:
    mount = parse_cgroup_mount(Path("/proc/self/mountinfo").read_bytes())
    if os.geteuid() or mount is None:
        skip_or_fail("making a cgroup needs root and cgroup v2")
    cgroup = Path(mount[0]) / f"regtrace-test-{os.getpid()}"
    try:
        cgroup.mkdir()
    except OSError as error:
        pytest.skip(f"cgroups can't be made here: {error}")
    try:
        with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            inode = int(child.stdout.readline())
            (cgroup / "cgroup.procs").write_text(str(child.pid))
            found = OwnerFinder().find([inode]).found[inode]
            expected = _kernels_cgroup_id(cgroup)
            child.communicate(timeout=20)
    finally:
        cgroup.rmdir()
    assert found.cgroup_id == expected


AS_NOBODY = """
import json, os, socket, sys
sys.path.insert(0, sys.argv[1])
from fallback.owners import OwnerFinder
os.setgroups([]); os.setgid(65534); os.setuid(65534)
own = socket.socket()
inode = os.fstat(own.fileno()).st_ino
first = OwnerFinder().find([inode])
second = OwnerFinder().find([int(sys.argv[2])])
print(json.dumps([sorted(first.found) == [inode], sorted(second.missing), second.denied]))
"""


def test_without_root_own_sockets_are_found_and_others_are_counted_as_denied() -> None:
    if os.geteuid():
        skip_or_fail("becoming another user needs root")
    with socket.socket() as others:
        inode = os.fstat(others.fileno()).st_ino
        # A process that changed its user is not dumpable, but its own descriptors it may always see.
        command = [sys.executable, "-c", AS_NOBODY, str(ROOT), str(inode)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    own_found, missing, denied = json.loads(done.stdout)
    assert (own_found, missing) == (True, [inode])
    assert denied > 0
