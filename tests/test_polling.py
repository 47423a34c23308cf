"""The polling sources on a real kernel, as their users meet them: `regtrace watch --source polled` and `proc`."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from fallback import netlink, sock_diag
from fallback.netlink import Remote
from fallback.owners import OwnerFinder, Owners
from fallback.source import PollingSource
from tests.live import PATIENCE_S, ROOT, Watching, connections, one, ordinary_user, serving, since_the_start, summary
from tracer.events import is_opening

REASON = sock_diag.probe()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"sock_diag: {REASON}")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it acts as another user, or makes namespaces")
REQUEST, ANSWER = b"q" * 80, b"a" * 5000
QUICK_S = 0.05
"""Nothing is looked at more often."""
SLOW_S = 1.5
"""Longer than looks are apart on a machine that is not overloaded."""


def answer(connection: socket.socket) -> None:
    """A server that closes first."""
    connection.recv(1 << 16)
    connection.sendall(ANSWER)


def answer_and_wait(connection: socket.socket) -> None:
    """A server that lets its client close first."""
    answer(connection)
    connection.recv(1 << 16)


def ask(port: int, host: str = "127.0.0.1") -> socket.socket:
    client = socket.create_connection((host, port))
    client.sendall(REQUEST)
    left = len(ANSWER)
    while left:
        left -= len(client.recv(left))
    return client


def watching(source: str, port: int, *more: str) -> Watching:
    return Watching("watch", "--json", "--transitions", "--source", source, f"--registry=127.0.0.1:{port}", *more)


@pytest.fixture(params=["polled", "proc"])
def source(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_was_open_before_is_adopted_with_its_owner(source: str) -> None:
    with serving(answer_and_wait) as port, ask(port) as client:
        local = client.getsockname()[1]
        row = one(watching(source, port).stop())
    assert (row["lport"], row["pid"], row["preexisting"], row["opened_ns"]) == (local, os.getpid(), True, None)
    assert row["comm"] == Path("/proc/self/comm").read_text().strip()


@pytest.mark.slow
def test_a_connection_that_lives_long_enough_is_seen_with_its_owner(source: str) -> None:
    with serving(answer_and_wait) as port:
        running = watching(source, port)
        with ask(port):
            time.sleep(SLOW_S)
        time.sleep(SLOW_S)
        row = one(running.stop())
    assert (row["pid"], row["preexisting"]) == (os.getpid(), False)
    assert abs(row["lifetime_ns"] / 1e9 - SLOW_S) <= (row["opened_early_ns"] + row["closed_early_ns"]) / 1e9 + QUICK_S


def test_a_side_that_closed_first_is_named_where_something_lingers_or_was_seen_to_wait() -> None:
    with serving(answer_and_wait) as port:
        running = watching("polled", port)
        for _ in range(20):
            ask(port).close()
        time.sleep(0.5)
        reasons = [row["close_reason"] for row in connections(running.stop())]
    assert len(reasons) == 20
    assert set(reasons) <= {"local", "unknown"}
    assert "local" in reasons


def test_a_peer_that_closed_first_is_named_where_its_fin_was_seen() -> None:
    with serving(answer) as port:
        running = watching("polled", port)
        with ask(port):
            time.sleep(SLOW_S)
        time.sleep(0.5)
        row = one(running.stop())
    assert (row["close_reason"], row["bytes_received"]) == ("peer", len(ANSWER))


def test_a_connection_shorter_than_any_look_is_a_row_with_bounds_and_bytes() -> None:
    with serving(answer) as port:
        running = watching("polled", port)
        before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        with ask(port) as client:
            assert client.recv(1) == b""
        after_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        time.sleep(0.5)
        row = one(running.stop())
    assert row["opened_ns"] - row["opened_early_ns"] <= before_ns
    assert row["closed_ns"] >= after_ns - 10_000_000
    assert row["lifetime_ns"] is None or row["lifetime_ns"] > 0
    assert abs(row["bytes_received"] - len(ANSWER)) <= 1
    assert row["bytes_acked"] == len(REQUEST)


def test_a_refusal_is_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = watching("polled", port)
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
        time.sleep(0.3)
    time.sleep(0.5)
    assert one(running.stop())["close_reason"] == "refused"


def test_a_handshake_that_goes_on_is_open_in_syn_sent(source: str) -> None:
    """A full backlog answers nobody."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        try:
            for client in waiting:
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port))
            time.sleep(0.2)
            running = watching(source, port)
            lines = running.stop()
        finally:
            for client in waiting:
                client.close()
    assert any(list(row["states"]) == ["SYN_SENT"] and row["close_reason"] == "open" for row in connections(lines))


def test_the_summary_says_how_many_of_the_connections_were_seen(source: str) -> None:
    with serving(answer) as port:
        running = watching(source, port)
        for _ in range(30):
            ask(port).close()
        time.sleep(SLOW_S)
        lines = running.stop()
    told = summary(lines)
    assert told["source"] == source
    assert told["connections_counted"] >= 30
    assert 0 <= told["coverage"] <= 1
    if source == "polled":
        assert told["coverage"] == 1.0
        assert len(connections(lines)) == 30


def test_the_summary_has_the_totals_of_the_kernel(source: str) -> None:
    with serving(answer_and_wait) as port:
        running = watching(source, port)
        for _ in range(30):
            ask(port).close()
        time.sleep(SLOW_S)
        told = summary(running.stop())["kernel"]
    assert told["since_start"]["active_opens"] >= 30
    assert told["most"]["time_wait"] >= 30


@pytest.mark.parametrize("suffix", [".arrows", ".jsonl"])
@pytest.mark.slow
def test_a_replay_says_what_was_said_live(source: str, suffix: str, tmp_path: Path) -> None:
    trace = tmp_path / f"t{suffix}"
    with serving(answer) as port, ask(port):
        command = ("record", str(trace), "--json", "--transitions", "--source", source, f"--registry=127.0.0.1:{port}")
        running = Watching(*command)
        for _ in range(5):
            ask(port).close()
        with ask(port):
            time.sleep(SLOW_S)
        lines = running.stop()
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "replay", "--json", "--transitions", str(trace)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    again = [json.loads(line) for line in done.stdout.splitlines()]
    for kind in ("transition", "adopted", "connection", "finding", "summary"):
        assert [line for line in again if line["type"] == kind] == [line for line in lines if line["type"] == kind], kind


def test_ebpf_knows_the_owner_of_what_was_open_before_and_how_it_goes_on() -> None:
    if os.geteuid() or os.environ.get("REGTRACE_REQUIRE_EBPF") is None:
        pytest.skip("needs eBPF, which CI requires")
    with serving(answer_and_wait) as port:
        client = ask(port)
        local = client.getsockname()[1]
        running = watching("ebpf", port)
        client.close()
        row = one(running.stop())
    assert (row["lport"], row["pid"], row["preexisting"], row["close_reason"]) == (local, os.getpid(), True, "local")
    assert row["bytes_received"] == len(ANSWER)
    assert int(row["skaddr"], 16) > 1 << 48


def test_records_that_did_not_fit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue of a few records, and nobody who reads it; records without a port are lost with ours, whosever they are."""
    made = 300
    monkeypatch.setattr(
        netlink, "set_receive_bytes", lambda sock, _: sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
    )
    with serving(answer) as port:
        source = PollingSource("polled")
        try:
            source.watch([(Remote(netlink.V4_MAPPED + bytes([127, 0, 0, 1]), 128, port), 1)])
            source.start()
            source.read()
            for _ in range(made):
                ask(port).close()
            time.sleep(0.2)
            batches = [source.read(at_once=True) for _ in range(4)]
        finally:
            source.close()
    told = sum(int(is_opening(batch.events).sum()) for batch in batches)
    lost = sum(batch.lost for batch in batches)
    assert told < made <= told + lost
    assert sum(batch.counted for batch in batches) - sum(batch.opened for batch in batches) == lost


# --- as nobody, and where something is forbidden


MANY = 1000
MANY_CLIENT = """
import socket, sys, time
for _ in range(int(sys.argv[2])):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as client:
        client.sendall(b"q")
        client.recv(1)
"""


def as_nobody(source: str, port: int, **more: Any) -> Watching:
    """A watch by an ordinary user."""
    python, options = ordinary_user()
    return Watching("watch", "--json", "--source", source, f"--registry=127.0.0.1:{port}", python=python, **options, **more)


@needs_root
def test_an_ordinary_user_sees_every_connection_of_a_millisecond() -> None:
    def treat(connection: socket.socket) -> None:
        connection.recv(1)
        time.sleep(0.001)
        connection.sendall(b"a")

    with serving(treat) as port:
        running = as_nobody("polled", port)
        subprocess.run([sys.executable, "-c", MANY_CLIENT, str(port), str(MANY)], check=True, timeout=PATIENCE_S)
        time.sleep(0.5)
        lines = running.stop()
    told = summary(lines)
    assert len(connections(lines)) + told["lost"] >= MANY
    assert len(connections(lines)) >= 0.99 * MANY
    assert "owners are known of this user's own processes only" in lines[0]["why"]


def forbid_netlink() -> None:
    """Let seccomp refuse socket(AF_NETLINK), as a container's profile may."""
    number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
    load, jump_equal, give_back = 0x20, 0x15, 0x06
    eperm, allow = 0x00050000 | 1, 0x7FFF0000
    steps = ((load, 0, 0, 0), (jump_equal, 0, 3, number), (load, 0, 0, 16), (jump_equal, 0, 1, socket.AF_NETLINK))
    steps += ((give_back, 0, 0, eperm), (give_back, 0, 0, allow))
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    code = ctypes.create_string_buffer(program, len(program))
    libc = ctypes.CDLL(None, use_errno=True)
    filled = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, filled, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


@needs_root
def test_where_seccomp_forbids_netlink_proc_is_left_and_it_says_why() -> None:
    with serving(answer_and_wait) as port, ask(port):
        running = as_nobody("auto", port, preexec_fn=forbid_netlink)
        lines = running.stop()
    assert lines[0]["source"] == "proc"
    assert "seccomp" in lines[0]["why"]
    assert len(connections(lines)) == 1


@needs_root
def test_where_proc_hides_processes_it_says_so_and_sees_connections_all_the_same() -> None:
    with serving(answer_and_wait) as port, ask(port):
        python, options = ordinary_user()
        command = f"{python} -m tracer watch --json --source polled --registry=127.0.0.1:{port} --duration 1"
        shell = f"mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid=65534 --regid=65534 --clear-groups {command}"
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", shell],
            capture_output=True, text=True, cwd="/", env=options["env"], timeout=PATIENCE_S,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert "hidepid" in lines[0]["why"]
    row = one(lines)
    assert (row["pid"], row["preexisting"]) == (None, True)


# --- network namespaces


INSIDE = """
import os, socket, subprocess, sys, time
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], os.stat("/proc/self/ns/net").st_ino, flush=True)
sys.stdin.readline()
with socket.create_connection(server.getsockname()) as client:
    accepted, _ = server.accept()
    client.sendall(b"12345")
    accepted.recv(5)
    time.sleep(float(sys.argv[1]))
    accepted.close()
    client.recv(1)
print("done", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def inside() -> Iterator[subprocess.Popen[str]]:
    """A process in a network namespace of its own."""
    command = ["unshare", "--net", sys.executable, "-c", INSIDE, str(SLOW_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        with suppress(BrokenPipeError), closing(process.stdin):
            process.stdin.write("\n")
        process.wait(PATIENCE_S)


@needs_root
@pytest.mark.slow
def test_a_connection_in_another_network_namespace_is_seen_with_its_owner(source: str, inside: subprocess.Popen[str]) -> None:
    assert inside.stdin is not None
    assert inside.stdout is not None
    port, netns = map(int, inside.stdout.readline().split())
    running = watching(source, port)
    inside.stdin.write("\n")
    inside.stdin.flush()
    inside.stdout.readline()
    time.sleep(SLOW_S)
    (row,) = connections(since_the_start(running.stop()))
    assert (row["netns"], row["pid"]) == (netns, inside.pid)
    if source == "polled":
        assert row["bytes_acked"] == 5


@needs_root
@pytest.mark.slow
def test_where_a_namespace_may_not_be_entered_it_is_seen_through_proc_and_that_is_said(inside: subprocess.Popen[str]) -> None:
    assert inside.stdin is not None
    assert inside.stdout is not None
    port, netns = map(int, inside.stdout.readline().split())
    command = ["setpriv", "--bounding-set=-sys_admin,-bpf,-perfmon", sys.executable, "-m", "tracer", "watch", "--json"]
    with subprocess.Popen(
        [*command, f"--registry=127.0.0.1:{port}"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        start = json.loads(running.stdout.readline())
        inside.stdin.write("\n")
        inside.stdin.flush()
        inside.stdout.readline()
        time.sleep(2 * SLOW_S)
        running.terminate()
        out, err = running.communicate(timeout=PATIENCE_S)
    assert start["source"] == "polled"
    assert f"network namespace {netns} is seen through /proc alone" in err
    assert [row["netns"] for row in connections([json.loads(line) for line in out.splitlines()])] == [netns]


@needs_root
@pytest.mark.slow
def test_connections_end_with_their_namespace(source: str, inside: subprocess.Popen[str]) -> None:
    assert inside.stdin is not None
    assert inside.stdout is not None
    port, _ = map(int, inside.stdout.readline().split())
    running = watching(source, port)
    inside.stdin.write("\n")
    inside.stdin.flush()
    time.sleep(SLOW_S / 2)
    inside.kill()
    inside.wait()
    time.sleep(2 * SLOW_S)
    lines = running.stop()
    assert summary(lines)["open"] == 0
    assert all(row["close_reason"] != "open" for row in connections(lines))


@needs_root
@pytest.mark.slow
def test_a_namespace_that_begins_while_it_is_watched_counts(source: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = watching(source, port)
    code = INSIDE.replace('127.0.0.1", 0', f'127.0.0.1", {port}')
    with subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", code, str(3 * SLOW_S)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.write("\n\n")
        process.stdin.flush()
        process.stdout.readline()
        time.sleep(SLOW_S)
        lines = running.stop()
        process.kill()
    (row,) = connections(lines)
    assert (row["preexisting"], row["pid"]) == (False, process.pid)
    assert summary(lines)["connections_counted"] == 1


@needs_root
def test_a_namespace_that_ends_while_it_is_watched_is_no_trouble(source: str, inside: subprocess.Popen[str]) -> None:
    assert inside.stdin is not None
    assert inside.stdout is not None
    port, _ = map(int, inside.stdout.readline().split())
    running = watching(source, port)
    inside.kill()
    inside.wait()
    time.sleep(SLOW_S)
    assert summary(running.stop())["source"] == source
    assert "Traceback" not in running.stderr


def test_a_search_of_all_processes_is_paid_for_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere: list[bool] = []
    find = OwnerFinder.find

    def slow(finder: OwnerFinder, wanted: list[int], **how: bool) -> Owners:
        everywhere.append(how.get("everywhere", True))
        if everywhere[-1]:
            spin_until = time.thread_time_ns() + 500_000_000  # each look pays for as much as it costs itself: far less
            while time.thread_time_ns() < spin_until:
                pass
        return find(finder, wanted, **how)

    monkeypatch.setattr(OwnerFinder, "find", slow)
    source = PollingSource("polled")
    with serving(answer_and_wait) as port, closing(source):
        source.watch([(Remote(netlink.V4_MAPPED + bytes([127, 0, 0, 1]), 128, port), 1)])
        source.start()
        for _ in range(12):
            with ask(port):
                source.read(at_once=True)
    assert everywhere[0] is True
    assert everywhere.count(True) <= 2
    assert len(everywhere) >= 8
