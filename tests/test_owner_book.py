"""tracer.owners.book and cgroup_tree: processes in cgroups and namespaces of their own, ended ones, and pids used again."""

from __future__ import annotations

import os
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
from tests.test_owner_processes import STAT, WAITING, played, waiting
from tracer.clock import boottime_ns
from tracer.owners.book import LOOK_AGAIN_NS, OwnerBook
from tracer.owners.cgroup_tree import WALK_DIRECTORIES_MAX, WALK_EVERY_NS, CgroupTree
from tracer.owners.cgroups import cgroup2_mount
from tracer.owners.owner import OwnerDetail
from tracer.owners.processes import TICK_NS

ROOT = Path(__file__).resolve().parent.parent
ID = "a1" * 32
NOW = 1_000_000 * TICK_NS


def _mount() -> Path:
    mount = cgroup2_mount(Path("/proc/self/mountinfo").read_bytes())
    if os.geteuid() or mount is None:
        skip_or_fail("making a cgroup needs root and cgroup v2")
    return Path(os.fsdecode(mount[0]))


@contextmanager
def _cgroup(parent: Path, *names: str) -> Iterator[Path]:
    """A cgroup below a folder of its own, removed again."""
    made: list[Path] = []
    path = parent
    try:
        for name in (f"regtrace-test-{os.getpid()}-{time.monotonic_ns()}", *names):
            path /= name
            try:
                path.mkdir()
            except OSError as error:
                skip_or_fail(f"cgroups can't be made here: {error}")
            made.append(path)
        yield path
    finally:
        for path in reversed(made):
            path.rmdir()


def _below_mount(path: Path) -> str:
    return "/" + str(path.relative_to(_mount()))


# --- the tree ---


@pytest.mark.parametrize("by_handle", [True, False])
def test_a_cgroup_has_its_path(by_handle: bool) -> None:
    with _cgroup(_mount(), "with blank", f"docker-{ID}.scope") as path:
        tree = CgroupTree(by_handle=by_handle)
        assert tree.path_of(path.stat().st_ino, 0) == _below_mount(path)
        assert tree.path_of(_mount().stat().st_ino, 0) == "/"


@pytest.mark.parametrize("by_handle", [True, False])
def test_the_path_of_a_cgroup_that_is_gone_is_remembered(by_handle: bool) -> None:
    tree = CgroupTree(by_handle=by_handle)
    with _cgroup(_mount()) as path:
        cgroup_id = path.stat().st_ino
        assert tree.path_of(cgroup_id, 0) == _below_mount(path)
        shown = _below_mount(path)
    assert tree.path_of(cgroup_id, 10 * WALK_EVERY_NS) == shown
    assert CgroupTree(by_handle=by_handle).path_of(cgroup_id, 0) == ""


@pytest.mark.parametrize("by_handle", [True, False])
@pytest.mark.parametrize("cgroup_id", [-1, 0, 1 << 63, (1 << 64) - 1, 1 << 70])
def test_an_id_of_no_cgroup_has_no_path(by_handle: bool, cgroup_id: int) -> None:
    assert CgroupTree(by_handle=by_handle).path_of(cgroup_id, 0) == ""


def test_asking_the_kernel_leaves_no_descriptor_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    tree = CgroupTree()
    for cgroup_id in (_mount().stat().st_ino, 1 << 40):
        tree.path_of(cgroup_id, 0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


AS_CONFINED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from tracer.owners.cgroup_tree import CgroupTree
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(CgroupTree().path_of(int(sys.argv[2]), 0))
"""


def test_without_the_capability_the_tree_is_walked() -> None:
    with _cgroup(_mount()) as path:
        command = [sys.executable, "-c", AS_CONFINED, str(ROOT), str(path.stat().st_ino)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.stdout.strip(), done.stderr) == (_below_mount(path), "")


def test_a_part_of_the_cgroups_that_is_mounted_has_whole_paths(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "part/web.service").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(f"1 1 0:1 /system.slice {tmp_path}/part rw - cgroup2 cgroup2 rw\n")
    tree = CgroupTree(tmp_path / "proc", by_handle=False)
    assert tree.path_of((tmp_path / "part/web.service").stat().st_ino, 0) == "/system.slice/web.service"


def test_a_tree_is_walked_in_pieces_once_a_second(tmp_path: Path) -> None:
    for number in range(WALK_DIRECTORIES_MAX + 1):
        (tmp_path / f"{number}").mkdir()
    tree = CgroupTree(root=tmp_path, by_handle=False)
    assert tree.path_of(1 << 60, 0) == ""
    (tmp_path / "0/late").mkdir()
    late = (tmp_path / "0/late").stat().st_ino
    shown = [tree.path_of(late, at) for at in (WALK_EVERY_NS - 1, *range(WALK_EVERY_NS, 6 * WALK_EVERY_NS, WALK_EVERY_NS))]
    assert (shown[0], shown[-1]) == ("", "/0/late")


def test_without_cgroups_of_version_2_nothing_is_known(tmp_path: Path) -> None:
    tree = CgroupTree(tmp_path)
    assert (tree.mounted, tree.path_of(1, 0)) == (False, "")


# --- processes of the kernel ---


def test_a_process_in_a_containers_cgroup_is_that_containers() -> None:
    with (
        _cgroup(_mount(), "system.slice", f"docker-{ID}.scope") as path,
        waiting("unshare", "--net", *WAITING, "--token", "x") as pid,
    ):
        (path / "cgroup.procs").write_text(str(pid))
        (detail,) = OwnerBook().resolve([(pid, path.stat().st_ino, boottime_ns())], boottime_ns())
        (path.parents[2] / "cgroup.procs").write_text(str(pid))
    assert (detail.container, detail.runtime, detail.netns_name) == (ID, "docker", "container")
    assert detail.cgroup == _below_mount(path)
    assert detail.cmdline.endswith("--token ***")


def test_a_container_that_only_version_1_shows_is_found() -> None:
    hierarchy = Path("/sys/fs/cgroup/pids")
    if os.geteuid() or not (hierarchy / "cgroup.procs").exists():
        pytest.skip("this host has no cgroups of version 1")
    with _cgroup(hierarchy, "docker", ID) as path, waiting(*WAITING) as pid:
        (path / "cgroup.procs").write_text(str(pid))
        (detail,) = OwnerBook().resolve([(pid, -1, boottime_ns())], boottime_ns())
        (hierarchy / "cgroup.procs").write_text(str(pid))
    assert (detail.container, detail.runtime) == (ID, "docker")


def test_a_process_that_has_ended_is_known_by_its_cgroup() -> None:
    with _cgroup(_mount(), "kubepods", f"pod{ID[:32]}", f"crio-{ID}") as path:
        with waiting(*WAITING) as pid:
            (path / "cgroup.procs").write_text(str(pid))
            opened_ns = boottime_ns()
        cgroup_id = path.stat().st_ino
        (detail,) = OwnerBook().resolve([(pid, cgroup_id, opened_ns)], boottime_ns())
    assert detail == OwnerDetail(
        pid, cgroup_id=cgroup_id, cgroup=_below_mount(path), container=ID, runtime="cri-o", pod=ID[:32]
    )  # fmt: skip


def test_a_pid_that_is_used_again_is_another_process() -> None:
    if os.geteuid():
        skip_or_fail("choosing a pid needs root")
    # In a pid namespace of its own, where nobody else takes the pid: what ns_last_pid holds plus one is the next.
    done = subprocess.run(
        ["unshare", "--pid", "--mount-proc", "--fork", sys.executable, "-c", REUSING, str(ROOT)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.stderr, done.stdout.split("\n")) == ("", ["True", "first", "None", "second", ""])


REUSING = """
import subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from tracer.clock import boottime_ns
from tracer.owners.book import LOOK_AGAIN_NS, OwnerBook

def begun(word):
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write("499")
    child = subprocess.Popen([sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", word],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    return child

def last_word(detail):
    return detail and (detail.cmdline.split()[-1] if detail.cmdline else None)

book = OwnerBook()
child = begun("first")
first_ns = boottime_ns()
book.resolve([(child.pid, -1, first_ns)], boottime_ns())
child.communicate()
between_ns = boottime_ns()
time.sleep(0.05)  # several ticks of the clock that starts are told in
other = begun("second")
second_ns = boottime_ns()
print(other.pid == child.pid)
book.resolve([(other.pid, -1, second_ns)], second_ns + LOOK_AGAIN_NS)
print(last_word(book.detail_for(child.pid, first_ns)))
fresh = OwnerBook()
fresh.resolve([(other.pid, -1, between_ns)], boottime_ns())
print(last_word(fresh.detail_for(other.pid, between_ns)))
print(last_word(book.detail_for(other.pid, second_ns)))
other.communicate()
"""


def test_a_living_process_is_told_once_until_it_changes() -> None:
    program = "import os, sys; print(flush=True); os.read(0, 3); os.execvp('cat', ['cat'])"
    book = OwnerBook()
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        now_ns = boottime_ns()
        wanted = [(child.pid, -1, now_ns)]
        assert len(book.resolve(wanted * 3, now_ns)) == 1
        assert book.resolve(wanted, now_ns + 5 * LOOK_AGAIN_NS) == []
        child.stdin.write(b"go\necho\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"echo\n"
        (detail,) = book.resolve(wanted, now_ns + 9 * LOOK_AGAIN_NS)
        child.communicate(timeout=20)
    assert (detail.comm, detail.cmdline, book.detail_for(child.pid, now_ns)) == (b"cat", "cat", detail)


# --- played ---


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """10 is a service's, 20 a container's; cgroup v2 is beside it, without containers."""
    played(tmp_path / "proc", 1, start=0)
    played(tmp_path / "proc", 10, start=100)
    (played(tmp_path / "proc", 20, start=100, cmdline=b"pull\0-v\0") / "cgroup").write_bytes(
        f"4:pids:/docker/{ID}\n0::/\n".encode()
    )
    (tmp_path / "cgroup/system.slice/web.service").mkdir(parents=True)
    return tmp_path / "proc"


def _book(proc: Path, **more: int) -> OwnerBook:
    tree = CgroupTree(root=proc.parent / "cgroup", by_handle=False)
    return OwnerBook(proc, run_netns=proc.parent / "none", tree=tree, **more)


def test_details_come_in_the_order_in_which_they_were_asked_for(proc: Path) -> None:
    details = _book(proc).resolve([(20, -1, NOW), (10, -1, NOW), (20, -1, NOW)], NOW)
    assert [(detail.pid, detail.container, detail.unit) for detail in details] == [(20, ID, ""), (10, "", "pull.service")]


def test_the_cgroup_of_the_connection_comes_before_that_of_the_process(proc: Path) -> None:
    cgroup_id = (proc.parent / "cgroup/system.slice/web.service").stat().st_ino
    details = _book(proc).resolve([(10, cgroup_id, NOW), (20, cgroup_id, NOW)], NOW)
    assert [(detail.container, detail.unit) for detail in details] == [("", "web.service"), (ID, "")]


def test_a_process_that_began_after_the_connection_is_not_taken_for_its_owner(proc: Path) -> None:
    cgroup_id = (proc.parent / "cgroup/system.slice/web.service").stat().st_ino
    (detail,) = _book(proc).resolve([(10, cgroup_id, 100 * TICK_NS - 1)], NOW)
    assert detail == OwnerDetail(10, cgroup_id=cgroup_id, cgroup="/system.slice/web.service", unit="web.service")


def test_both_owners_of_a_pid_keep_their_connections(proc: Path) -> None:
    book = _book(proc)
    book.resolve([(10, -1, 200 * TICK_NS)], NOW)
    (proc / "10/stat").write_bytes(STAT % (10, b"other", 10, 10, 500))
    (proc / "10/cmdline").write_bytes(b"other\0")
    assert [detail.comm for detail in book.resolve([(10, -1, 600 * TICK_NS)], NOW + LOOK_AGAIN_NS)] == [b"other"]
    shown = [book.detail_for(10, at * TICK_NS) for at in (99, 200, 600)]
    assert [detail and detail.cmdline for detail in shown] == [None, "pull x", "other"]


def test_a_known_process_that_has_ended_keeps_its_detail(proc: Path) -> None:
    book = _book(proc)
    (detail,) = book.resolve([(10, -1, NOW)], NOW)
    (proc / "10").rename(proc / "ended")
    assert book.resolve([(10, -1, NOW + 1)], NOW + LOOK_AGAIN_NS) == []
    assert book.detail_for(10, NOW + 1) == detail


def test_the_kernel_and_unknown_processes_are_passed_over(proc: Path) -> None:
    assert _book(proc).resolve([(0, 1, NOW), (-1, 1, NOW)], NOW) == []


def test_more_processes_than_one_call_may_look_at_wait_for_the_next(proc: Path) -> None:
    book = _book(proc, looks_per_call=1)
    first = book.resolve([(10, -1, NOW), (20, -1, NOW)], NOW)
    assert [[detail.pid for detail in details] for details in (first, book.resolve([], NOW), book.resolve([], NOW))] == [
        [10],
        [20],
        [],
    ]


def test_a_call_without_time_makes_one_look(proc: Path) -> None:
    book = _book(proc, budget_ns=0)
    first = book.resolve([(10, -1, NOW), (20, -1, NOW)], NOW)
    assert [[detail.pid for detail in details] for details in (first, book.resolve([], NOW), book.resolve([], NOW))] == [
        [10],
        [20],
        [],
    ]


def test_what_can_not_wait_is_counted_and_told(proc: Path) -> None:
    book = _book(proc, looks_per_call=0)
    book.resolve(((pid, -1, NOW) for pid in range(1, 20_000)), NOW)
    assert book.skipped == 19_999 - 8192
    assert [line for line in book.troubles if str(book.skipped) in line]


def test_of_more_pids_than_are_remembered_the_oldest_is_forgotten(proc: Path) -> None:
    book = _book(proc, capacity=1)
    book.resolve([(10, -1, NOW), (20, -1, NOW)], NOW)
    assert [book.detail_for(pid, NOW) is None for pid in (10, 20)] == [True, False]


def test_troubles_say_what_keeps_owners_unknown(tmp_path: Path) -> None:
    troubles = OwnerBook(tmp_path).troubles
    assert len(troubles) == 2
    assert all("\n" not in line for line in troubles)


def test_a_whole_proc_is_no_trouble(proc: Path) -> None:
    assert _book(proc).troubles == ()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([-1, 0, 1, 2, 4_000_000]), st.sampled_from([-1, 0, 1, 7, 1 << 63]), st.integers(-1, 1 << 62)),
        max_size=20,
    ),
    st.integers(0, 1 << 62),
)
def test_every_connection_of_a_process_is_resolved_whatever_is_asked(wanted: list[tuple[int, int, int]], now_ns: int) -> None:
    book = OwnerBook()
    for detail in book.resolve(wanted, now_ns):
        assert OwnerDetail.from_json(detail.to_json()) == detail
    for pid, cgroup_id, opened_ns in wanted:
        known = book.detail_for(pid, opened_ns, cgroup_id)
        assert known is None or known.started_ns <= opened_ns
