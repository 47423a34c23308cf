"""fallback.namespaces: each network namespace once, in a made-up /proc and in the kernel's."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fallback.namespaces import Namespace, NamespaceFinder, OpenProcess
from fallback.proc_net import read_tcp
from tests.conftest import skip_or_fail

ROOT = Path(__file__).resolve().parent.parent
PROC = Path("/proc")
NOBODY = 65534

LISTENER = """
import fcntl, socket, struct, sys
control = socket.socket()
fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 0x49))  # SIOCSIFFLAGS: up, loopback, running
listener = socket.socket()
listener.bind(("127.0.0.1", 4711))
listener.listen()
print("ready", flush=True)
sys.stdin.read()
"""


def _process(root: Path, pid: int | str, netns: int | None) -> None:
    (root / str(pid) / "ns").mkdir(parents=True, exist_ok=True)
    link = root / str(pid) / "ns/net"
    link.unlink(missing_ok=True)
    if netns is not None:
        link.symlink_to(f"net:[{netns}]")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Namespace 100 with this process (20) and 1; 200 with 30 and 31; 300 with 40."""
    for pid, netns in ((1, 100), (20, 100), ("self", 100), (30, 200), (31, 200), (40, 300)):
        _process(tmp_path, pid, netns)
    (tmp_path / "net").mkdir()
    (tmp_path / "sys").mkdir()
    return tmp_path


@contextmanager
def _other_namespace() -> Iterator[int]:
    """The pid of a process that listens on 127.0.0.1:4711 of a network namespace of its own."""
    if os.geteuid():
        skip_or_fail("a network namespace needs root")
    command = ["unshare", "-n", sys.executable, "-c", LISTENER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            skip_or_fail("unshare -n does not work here")
        yield child.pid
        child.communicate(timeout=20)


def test_each_namespace_is_found_once_with_the_own_one_first(proc: Path) -> None:
    found = NamespaceFinder(proc).refresh()
    assert found.found == (Namespace(100, None), Namespace(200, 30), Namespace(300, 40))
    assert (found.denied, found.vanished, found.hidden, found.troubles) == (0, 0, False, ())


def test_a_namespace_keeps_its_process_while_it_lives_there(proc: Path) -> None:
    finder = NamespaceFinder(proc)
    finder.refresh()
    _process(proc, 29, 200)
    assert Namespace(200, 30) in finder.refresh().found


def test_a_namespace_whose_process_ended_is_seen_through_another(proc: Path) -> None:
    finder = NamespaceFinder(proc)
    finder.refresh()
    _process(proc, 30, None)
    walked = finder.refresh()
    assert Namespace(200, 31) in walked.found
    assert walked.vanished == 1


def test_this_process_moving_to_a_known_namespace_does_not_double_it(proc: Path) -> None:
    finder = NamespaceFinder(proc)
    finder.refresh()
    _process(proc, "self", 200)
    assert finder.refresh().found == (Namespace(200, None), Namespace(100, 1), Namespace(300, 40))


def test_processes_that_may_not_be_looked_at_are_counted(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readlink = Path.readlink

    def refusing(path: Path) -> Path:
        if path.parts[-3] in ("31", "40"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return readlink(path)

    monkeypatch.setattr(Path, "readlink", refusing)
    walked = NamespaceFinder(proc).refresh()
    assert walked.found == (Namespace(100, None), Namespace(200, 30))
    assert walked.denied == 2


def test_a_link_that_is_no_namespace_is_a_trouble_and_the_walk_goes_on(proc: Path) -> None:
    (proc / "30/ns/net").unlink()
    (proc / "30/ns/net").symlink_to("net:[many]")
    walked = NamespaceFinder(proc).refresh()
    assert Namespace(200, 31) in walked.found
    assert [(Path(trouble.path).parts[-3], trouble.errno) for trouble in walked.troubles] == [("30", errno.EINVAL)]


def test_without_process_1_others_are_hidden(proc: Path) -> None:
    (proc / "1/ns/net").unlink()
    (proc / "1/ns").rmdir()
    (proc / "1").rmdir()
    assert NamespaceFinder(proc).refresh().hidden is True


def test_a_missing_proc_is_said_and_leaves_the_own_namespace_unknown(tmp_path: Path) -> None:
    walked = NamespaceFinder(tmp_path / "none").refresh()
    assert (walked.found, walked.hidden) == ((Namespace(0, None),), None)
    assert [trouble.errno for trouble in walked.troubles] == [errno.ENOENT] * 2


def test_a_process_reused_pid_is_not_read_through_an_open_directory(proc: Path) -> None:
    (proc / "30/stat").write_bytes(b"first")
    with OpenProcess(proc, 30) as process:
        (proc / "30").rename(proc / "old")
        _process(proc, 30, 200)
        (proc / "30/stat").write_bytes(b"second")
        assert process.read("stat") == b"first"


def test_the_kernel_names_the_own_namespace_first() -> None:
    walked = NamespaceFinder().refresh()
    assert walked.found[0] == Namespace(Path("/proc/self/ns/net").stat().st_ino, None)
    assert len({namespace.inode for namespace in walked.found}) == len(walked.found)


def test_another_namespace_is_found_and_its_sockets_are_read_through_its_process() -> None:
    with _other_namespace() as pid:
        inode = Path(f"/proc/{pid}/ns/net").stat().st_ino
        assert Namespace(inode, pid) in NamespaceFinder().refresh().found
        rows = read_tcp(PROC, pid).rows
    assert [(int(row["lport"]), int(row["netns"])) for row in rows] == [(4711, inode)]


def test_sockets_of_another_namespace_are_not_in_the_own_picture() -> None:
    with _other_namespace() as pid, socket.create_server(("127.0.0.1", 0)) as here:
        own, other = read_tcp(PROC).rows, read_tcp(PROC, pid).rows
        inode = os.fstat(here.fileno()).st_ino
    assert inode in own["inode"]
    assert inode not in other["inode"]
    assert not set(own["inode"].tolist()) & set(other["inode"].tolist())


def test_a_namespace_is_gone_with_its_last_process() -> None:
    finder = NamespaceFinder()
    with _other_namespace() as pid:
        inode = Path(f"/proc/{pid}/ns/net").stat().st_ino
        finder.refresh()
    assert inode not in {namespace.inode for namespace in finder.refresh().found}
    assert {trouble.errno for trouble in read_tcp(PROC, pid).troubles} <= {errno.ENOENT, errno.ESRCH}


def test_a_zombie_has_no_namespace_and_no_sockets() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        picture = read_tcp(PROC, child)
    finally:
        os.waitpid(child, 0)
    assert (len(picture.rows), picture.netns, picture.files) == (0, 0, ())


WALK = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from fallback.namespaces import NamespaceFinder
walked = NamespaceFinder().refresh()
print(json.dumps([len(walked.found), walked.denied, walked.hidden]))
"""


def _as_nobody(*before: str) -> str:
    """What the walk of a user without rights finds: [namespaces, denied, hidden]."""
    if os.geteuid():
        skip_or_fail("becoming another user needs root")
    # Imports come before the change of user: nobody may not read everybody's checkout.
    program = WALK.replace("os.setgroups", "import fallback.namespaces\nos.setgroups")
    command = [*before, sys.executable, "-c", program, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_root_others_are_counted_as_denied_and_the_own_namespace_is_seen() -> None:
    namespaces, denied, hidden = _as_nobody().strip("[]").split(", ")
    assert (namespaces, hidden) == ("1", "false")
    assert int(denied) > 0


def test_with_hidden_processes_it_is_said_that_they_are_hidden() -> None:
    if os.geteuid():
        skip_or_fail("mounting /proc needs root")
    mount = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
    probe = subprocess.run(["unshare", "-m", "sh", "-c", mount, "-", "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"/proc can't be mounted here: {probe.stderr}")
    assert _as_nobody("unshare", "-m", "sh", "-c", mount, "-") == "[1, 0, true]"
