"""`regtrace watch` against the real kernel: every kind of connection has its right row."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.live import connections, one, read_all, serving, since_the_start, summary, watching

pytestmark = pytest.mark.ebpf

TCPI_TOTAL_RETRANS = 100  # offset in struct tcp_info, include/uapi/linux/tcp.h
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


def answer(connection: socket.socket) -> None:
    """Read five bytes, answer a thousand, close."""
    connection.recv(5, socket.MSG_WAITALL)
    connection.sendall(b"x" * 1000)


def send_and_wait(connection: socket.socket) -> None:
    """Send 5,000 bytes, wait for the end, whatever it is."""
    connection.sendall(b"z" * 5000)
    with suppress(ConnectionResetError):
        read_all(connection)


def ask(port: int, host: str = "127.0.0.1") -> int:
    """Send five bytes, read to the end; the local port."""
    with socket.create_connection((host, port)) as client:
        client.sendall(b"hello")
        assert len(read_all(client)) == 1000
        return int(client.getsockname()[1])


def test_every_connection_is_one_line() -> None:
    """As many connection lines as connections, with their ports, owner, reason and payload bytes."""
    with serving(answer) as port, watching(f"127.0.0.1:{port}") as running:
        ports = [ask(port) for _ in range(50)]
        lines = running.stop()
    rows = connections(lines)
    assert sorted(row["lport"] for row in rows) == sorted(ports)
    assert {row["rport"] for row in rows} == {port}
    assert {(row["laddr"], row["raddr"]) for row in rows} == {("127.0.0.1", "127.0.0.1")}
    assert {row["pid"] for row in rows} == {os.getpid()}
    assert {row["comm"] for row in rows} == {Path("/proc/self/comm").read_text().strip()}
    assert {row["close_reason"] for row in rows} == {"peer"}
    assert {(row["bytes_received"], row["bytes_acked"]) for row in rows} == {(1000, 5)}
    assert {row["preexisting"] for row in rows} == {False}
    assert summary(lines)["lost"] == 0


def test_times_add_up() -> None:
    """Opened + connect = established; the states' times add up to the lifetime."""
    with serving(answer) as port, watching(f"127.0.0.1:{port}") as running:
        ask(port)
        row = one(running.stop())
    assert row["opened_ns"] + row["connect_ns"] == row["established_ns"]
    assert row["closed_ns"] - row["opened_ns"] == row["lifetime_ns"] == sum(row["states"].values())
    assert set(row["states"]) == {"SYN_SENT", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK"}


def test_wall_clock_is_right() -> None:
    """opened_at lies between the wall-clock times before and after the connection."""
    with serving(answer) as port, watching(f"127.0.0.1:{port}") as running:
        before = time.time_ns()
        ask(port)
        after = time.time_ns()
        row = one(running.stop())
    text, fraction = row["opened_at"].rstrip("Z").split(".")
    seconds = int(datetime.fromisoformat(text + "+00:00").timestamp())
    opened = seconds * 10**9 + int(fraction)
    error = running.start["clock_error_ns"]
    assert before - error <= opened <= after + error


def test_unrelated_traffic_is_absent() -> None:
    """Another port and another address of the same host give no line."""
    with serving(answer) as port, serving(answer) as other, watching(f"127.0.0.1:{port}") as running:
        ask(other)
        ask(port)
        ask(other)
        assert one(running.stop())["rport"] == port


def test_ipv6() -> None:
    with serving(answer, "::1") as port, watching(f"[::1]:{port}") as running:
        local = ask(port, "::1")
        row = one(running.stop())
    assert (row["laddr"], row["lport"], row["raddr"], row["rport"]) == ("::1", local, "::1", port)
    assert row["family"] == socket.AF_INET6


def test_v4_mapped_socket_matches_its_ipv4_endpoint() -> None:
    """An AF_INET6 socket that talks IPv4 is seen under the IPv4 address."""
    with serving(answer) as port, watching(f"127.0.0.1:{port}") as running:
        with socket.socket(socket.AF_INET6) as client:
            client.connect(("::ffff:127.0.0.1", port))
            client.sendall(b"hello")
            read_all(client)
        row = one(running.stop())
    assert (row["raddr"], row["family"]) == ("127.0.0.1", socket.AF_INET6)
    assert row["bytes_received"] == 1000


def test_local_close() -> None:
    """The side that closes first is named, and data that was read before counts."""

    def until_closed(connection: socket.socket) -> None:
        connection.sendall(b"y" * 10)
        read_all(connection)

    with serving(until_closed) as port, watching(f"127.0.0.1:{port}") as running:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.recv(10, socket.MSG_WAITALL)
        time.sleep(0.3)
        row = one(running.stop())
    assert row["close_reason"] == "local"
    assert (row["bytes_received"], row["bytes_acked"]) == (10, 0)


def test_refused() -> None:
    with socket.socket() as bound:  # bound and not listening
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with watching(f"127.0.0.1:{port}") as running:
            with socket.socket() as client, pytest.raises(ConnectionRefusedError):
                client.connect(("127.0.0.1", port))
            row = one(running.stop())
    assert (row["close_reason"], row["sk_err"]) == ("refused", errno.ECONNREFUSED)
    assert row["lport"] is not None
    assert row["established_ns"] is None
    assert row["connect_ns"] is None


def _full_listener() -> tuple[socket.socket, list[socket.socket]]:
    """A listener whose queue is full: further SYNs get no answer."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    waiting = [socket.create_connection(listener.getsockname())]
    return listener, waiting


def test_unanswered_syn_that_is_given_up_is_aborted() -> None:
    """The caller's dial timeout, not the kernel's: SYN_SENT -> CLOSE with no error."""
    listener, waiting = _full_listener()
    with ExitStack() as sockets:
        for opened in (listener, *waiting):
            sockets.enter_context(opened)
        port = listener.getsockname()[1]
        with watching(f"127.0.0.1:{port}") as running:
            with socket.socket() as client:
                client.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    client.connect(("127.0.0.1", port))
            row = one(since_the_start(running.stop()))
    assert (row["close_reason"], row["sk_err"]) == ("aborted", 0)
    assert row["lifetime_ns"] >= 450_000_000
    assert set(row["states"]) == {"SYN_SENT"}


def test_unanswered_syn_that_is_still_waiting_is_open_in_syn_sent() -> None:
    listener, waiting = _full_listener()
    with ExitStack() as sockets:
        for opened in (listener, *waiting):
            sockets.enter_context(opened)
        port = listener.getsockname()[1]
        with watching(f"127.0.0.1:{port}") as running:
            client = sockets.enter_context(socket.socket())
            client.setblocking(False)
            assert client.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS
            local = client.getsockname()[1]
            row = one(since_the_start(running.stop()))
    assert row["close_reason"] == "open"
    assert list(row["states"]) == ["SYN_SENT"]
    assert (row["lport"], row["pid"]) == (local, os.getpid())


@pytest.mark.slow
def test_syn_timeout() -> None:
    """The kernel gave up: ETIMEDOUT, with the SYN's retransmission counted."""
    listener, waiting = _full_listener()
    with ExitStack() as sockets:
        for opened in (listener, *waiting):
            sockets.enter_context(opened)
        port = listener.getsockname()[1]
        with watching(f"127.0.0.1:{port}") as running:
            with socket.socket() as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port))
                select.select([], [client], [], 30)  # a blocking connect() would clear the counters as it returns
                info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            row = one(since_the_start(running.stop()))
    total_retrans = struct.unpack_from("=I", info, TCPI_TOTAL_RETRANS)[0]
    assert (row["close_reason"], row["sk_err"], row["retransmits"]) == ("timeout", errno.ETIMEDOUT, total_retrans)
    assert total_retrans > 0


def test_close_with_unread_data_is_a_local_reset() -> None:
    """What the application never read is counted."""
    with serving(send_and_wait) as port, watching(f"127.0.0.1:{port}") as running:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.recv(1000, socket.MSG_WAITALL)
            time.sleep(0.2)
        row = one(running.stop())
    assert (row["close_reason"], row["sk_err"]) == ("local-reset", 0)
    assert (row["bytes_received"], row["unread_bytes"]) == (5000, 4000)


def test_reset_by_the_peer() -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(5, socket.MSG_WAITALL)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    with serving(reset) as port, watching(f"127.0.0.1:{port}") as running:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"hello")
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        row = one(running.stop())
    assert (row["close_reason"], row["sk_err"]) == ("reset", errno.ECONNRESET)
    assert row["bytes_acked"] == 5


def test_half_close() -> None:
    """This side says FIN first and goes on reading: local, with everything received."""

    def after_fin(connection: socket.socket) -> None:
        read_all(connection)
        connection.sendall(b"w" * 70_000)

    with serving(after_fin) as port, watching(f"127.0.0.1:{port}") as running:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            assert len(read_all(client)) == 70_000
        time.sleep(0.2)
        row = one(running.stop())
    assert row["close_reason"] == "local"
    assert (row["bytes_received"], row["bytes_acked"]) == (70_000, 5)
    assert "FIN_WAIT2" in row["states"]


def test_connection_left_open() -> None:
    """Open at the end: said so, with the bytes so far and the time in its state so far."""
    with (
        serving(send_and_wait) as port,
        watching(f"127.0.0.1:{port}") as running,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.sendall(b"hello")
        client.recv(1000, socket.MSG_WAITALL)
        time.sleep(0.5)
        lines = running.stop()
    row = one(lines)
    assert (row["close_reason"], row["closed_ns"], row["lifetime_ns"]) == ("open", None, None)
    assert (row["bytes_received"], row["bytes_acked"], row["unread_bytes"]) == (5000, 5, 4000)
    assert row["states"]["ESTABLISHED"] > 400_000_000
    assert summary(lines)["open"] == 1


def test_connection_opened_before_the_watch_is_preexisting() -> None:
    """Its owner is the process that has it; no opening time is made up for it."""
    with (
        serving(answer) as port,
        socket.create_connection(("127.0.0.1", port)) as client,
        watching(f"127.0.0.1:{port}") as running,
    ):
        client.sendall(b"hello")
        read_all(client)
        client.close()
        row = one(running.stop())
    assert (row["preexisting"], row["opened_ns"], row["pid"], row["lifetime_ns"]) == (True, None, os.getpid(), None)
    assert (row["close_reason"], row["bytes_received"]) == ("peer", 1000)


def test_process_that_forks_and_exits_at_once() -> None:
    """The owner is the process that called connect, though it is gone before anybody could look it up."""
    program = (
        "import os, socket, sys\n"
        "pid = os.fork()\n"
        "if pid: print(pid); os._exit(0)\n"
        "open('/proc/self/comm', 'w').write('gone-at-once')\n"
        "socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "os._exit(0)\n"
    )
    with serving(lambda connection: connection.close()) as port, watching(f"127.0.0.1:{port}") as running:
        done = subprocess.run([sys.executable, "-c", program, str(port)], capture_output=True, text=True, check=True)
        time.sleep(0.5)
        row = one(running.stop())
    assert (row["pid"], row["comm"]) == (int(done.stdout), "gone-at-once")


def test_other_network_namespace() -> None:
    """Traffic inside another namespace is seen, under that namespace's number."""
    if os.geteuid() != 0:
        skip_or_fail("a network namespace needs root")
    name = f"regtrace-test-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        program = (
            "import socket, threading, os\n"
            "l = socket.create_server(('127.0.0.1', 5000))\n"
            "t = threading.Thread(target=lambda: l.accept()[0].close()); t.start()\n"
            "c = socket.create_connection(('127.0.0.1', 5000)); c.recv(1); c.close(); t.join()\n"
            "print(os.stat('/proc/self/ns/net').st_ino)\n"
        )
        with watching("127.0.0.1:5000") as running:
            done = subprocess.run(
                ["ip", "netns", "exec", name, sys.executable, "-c", program], capture_output=True, text=True, check=True
            )
            row = one(running.stop())
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)
    assert row["netns"] == int(done.stdout) != Path("/proc/self/ns/net").stat().st_ino


def test_cidr_and_any_port() -> None:
    """A network with any port matches what is in it, and nothing else."""
    with serving(answer, "127.9.8.7") as inside, serving(answer) as outside, watching("127.9.0.0/16:*") as running:
        ask(inside, "127.9.8.7")
        ask(outside)
        row = one(running.stop())
    assert (row["raddr"], row["endpoint"]) == ("127.9.8.7", "127.9.0.0/16:*")


def test_the_most_specific_endpoint_names_the_connection() -> None:
    with serving(answer, "127.9.8.7") as port, watching("127.9.0.0/16:*", f"127.9.8.7:{port}") as running:
        ask(port, "127.9.8.7")
        row = one(running.stop())
    assert row["endpoint"] == f"127.9.8.7:{port}"


def test_capture_replays_to_the_same_lines(tmp_path: object) -> None:
    """`record --json` and `replay --json` of its capture: the same bytes, from both formats."""
    for suffix in (".arrows", ".jsonl"):
        path = f"{tmp_path}/trace{suffix}"
        with serving(answer) as port, watching(f"127.0.0.1:{port}", command=("record", path)) as running:
            for _ in range(20):
                ask(port)
            running.stop()
        replayed = subprocess.run(
            [sys.executable, "-m", "tracer", "replay", path, "--json"], capture_output=True, text=True, check=True
        )
        assert replayed.stdout == "".join(running.raw)


def test_the_watching_process_is_lean() -> None:
    """LLVM's memory went with the child that compiled, and the child is gone."""
    with serving(answer) as port, watching(f"127.0.0.1:{port}") as running:
        pid = running.process.pid
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        maps = Path(f"/proc/{pid}/maps").read_text()
        running.stop()
    resident_kb = int(status.split("VmRSS:")[1].split()[0])
    assert resident_kb <= 80_000
    assert "LLVM" not in maps
    assert "libbcc" not in maps
    assert children == ""


def test_a_socket_that_connects_again_makes_a_connection_each_time() -> None:
    """Two refused attempts and a good one on one socket: three rows, each with its owner and its own port."""
    with socket.socket() as bound, serving(answer) as port:
        bound.bind(("127.0.0.1", 0))
        closed = bound.getsockname()[1]
        with watching(f"127.0.0.1:{port}", f"127.0.0.1:{closed}") as running:
            with socket.socket() as client:
                for _ in range(2):
                    with pytest.raises(ConnectionRefusedError):
                        client.connect(("127.0.0.1", closed))
                client.connect(("127.0.0.1", port))
                local = client.getsockname()[1]
                client.sendall(b"hello")
                read_all(client)
            rows = connections(running.stop())
    assert [row["close_reason"] for row in rows] == ["refused", "refused", "peer"]
    assert {row["pid"] for row in rows} == {os.getpid()}
    assert [row["gap"] for row in rows] == [False] * 3
    assert rows[2]["lport"] == local
    assert all(row["lifetime_ns"] is not None for row in rows)


def test_a_hang_up_ends_it_with_a_summary() -> None:
    with serving(answer) as port, watching(f"127.0.0.1:{port}") as running:
        ask(port)
        assert summary(running.stop(signal.SIGHUP))["connections"] == 1
