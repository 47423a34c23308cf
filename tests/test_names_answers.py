"""tracer.names.answers: the real answers of a server on port 53, in a network namespace of its own, and nothing else."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Container
from pathlib import Path

import dns.message
import pytest

from tests import dns_server
from tests.conftest import skip_or_fail
from tests.dns_server import DnsServer
from tests.test_names_packets import ipv4, udp
from tracer.errors import SourceError
from tracer.names.answers import PACKETS_MAX, AnswerWatcher
from tracer.names.book import NameBook
from tracer.names.records import Answer
from tracer.names.resolver import Resolver

NAME = "registry.example"
A, C = "10.0.0.1", "2001:db8::3"
PATIENCE_S = 20.0
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, UP = 0x8914, 0x49  # up, loopback, running
ROOT = Path(__file__).resolve().parent.parent


def in_a_namespace(work: Callable[[], None]) -> None:
    """Run it in a thread with a network namespace of its own, in which lo is up; the sockets it makes live there."""
    if os.geteuid():
        skip_or_fail("a network namespace needs root")
    failed: list[BaseException] = []
    libc = ctypes.CDLL(None, use_errno=True)

    def enter_and_work() -> None:
        try:
            if libc.unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            with socket.socket() as control:
                fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", UP))
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the test's own thread
            failed.append(error)

    thread = threading.Thread(target=enter_and_work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def read_until(
    watcher: AnswerWatcher, enough: Callable[[list[Answer]], bool], wanted: Container[str] | None = None
) -> list[Answer]:
    """What was seen until it is enough, or patience ends."""
    seen: list[Answer] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while not enough(seen) and time.monotonic() < deadline_s:
        seen += watcher.read(wanted)
        time.sleep(0.005)
    return seen + watcher.read(wanted)


def looked_up(server: DnsServer, name: str = NAME) -> Answer:
    return Resolver(nameservers=[server.address], hosts_path=Path("/nonexistent")).look_up(name)


@pytest.mark.parametrize("host", ["127.0.0.53", "::1"])
def test_each_answer_to_a_look_up_on_this_host_is_seen_once(host: str) -> None:
    def work() -> None:
        zone = {NAME: dns_server.through("edge.example.", addresses=(A, C), ttls_s=(40, 20))}
        with AnswerWatcher() as watcher, DnsServer(zone, 53, host) as server:
            looked_up(server)
            seen = read_until(watcher, lambda answers: len(answers) >= 2)
        assert seen == [Answer(NAME, (A,), 20, ("edge.example",)), Answer(NAME, (C,), 20, ("edge.example",))]

    in_a_namespace(work)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_answer_by_tcp_is_seen(host: str) -> None:
    def work() -> None:
        with AnswerWatcher() as watcher, DnsServer({NAME: dns_server.truncated(dns_server.many(500))}, 53, host) as server:
            looked_up(server)
            seen = read_until(watcher, bool)
        assert [len(answer.addresses) for answer in seen] == [500]

    in_a_namespace(work)


def test_an_answer_as_long_as_a_datagram_can_be_is_seen() -> None:
    def work() -> None:
        with AnswerWatcher() as watcher, DnsServer({NAME: dns_server.many(4000)}, 53) as server:
            looked_up(server)
            seen = read_until(watcher, bool)
        assert [len(answer.addresses) for answer in seen] == [4000]

    in_a_namespace(work)


def test_only_answers_with_addresses_from_port_53_for_wanted_names_are_seen() -> None:
    def work() -> None:
        zone = {
            NAME: dns_server.answers(A),
            "other.example": dns_server.answers(A),
            "failing.example": dns_server.error("SERVFAIL"),
            "garbage.example": dns_server.garbage,
        }
        wanted = {NAME, "failing.example", "garbage.example", "none.example"}
        with AnswerWatcher() as watcher, DnsServer(zone, 53) as server, DnsServer(zone, 5353) as elsewhere:
            looked_up(elsewhere)
            for name in ("other.example", "failing.example", "none.example", NAME):
                looked_up(server, name)
            seen = read_until(watcher, bool, wanted)
        assert seen == [Answer(NAME, (A,), 30)]

    in_a_namespace(work)


def test_what_was_passed_over_is_there_for_who_wants_everything_at_the_next_call() -> None:
    def work() -> None:
        with AnswerWatcher() as watcher, DnsServer({NAME: dns_server.answers(A)}, 53) as server:
            looked_up(server)
            assert watcher.read({"other.example"}) == []
            assert watcher.read() == [Answer(NAME, (A,), 30)]
            assert watcher.read() == []

    in_a_namespace(work)


def test_what_was_passed_over_twice_is_gone() -> None:
    def work() -> None:
        with AnswerWatcher() as watcher, DnsServer({NAME: dns_server.answers(A)}, 53) as server:
            looked_up(server)
            assert [watcher.read({"other.example"}) for _ in range(2)] == [[], []]
            assert watcher.read() == []

    in_a_namespace(work)


def test_other_packets_do_not_reach_the_watcher() -> None:
    def work() -> None:
        with AnswerWatcher() as watcher, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for port in (53, 443, 5353):  # to port 53 is a query, not an answer
                sender.sendto(b"x", ("127.0.0.1", port))
            for each in watcher._sockets:
                with pytest.raises(BlockingIOError):
                    each.recv(1)

    in_a_namespace(work)


@pytest.mark.parametrize(("destination", "n_seen"), [(bytes(6), 1), (b"\x02" * 6, 0)], ids=["this host", "another"])
def test_answers_to_other_hosts_that_a_sniffer_lets_in_are_not_seen(destination: bytes, n_seen: int) -> None:
    def work() -> None:
        query = dns.message.make_query(NAME, "A")
        (reply,) = dns_server.answers(A)(query, False)
        assert isinstance(reply, bytes)
        with AnswerWatcher() as watcher, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind(("lo", 0))
            sender.send(destination + bytes(6) + b"\x08\0" + ipv4(udp(reply)))
            time.sleep(0.05)
            assert len(watcher.read()) == n_seen

    in_a_namespace(work)


def test_what_came_before_the_watcher_is_not_seen_and_what_comes_after_is() -> None:
    def work() -> None:
        with DnsServer({NAME: dns_server.answers(A)}, 53) as server:
            looked_up(server)
            with AnswerWatcher() as watcher:
                assert watcher.read() == []
                looked_up(server)
                assert len(read_until(watcher, bool)) == 1

    in_a_namespace(work)


def flood(n_packets: int, treatment: dns_server.Treatment | None = None) -> None:
    """So many answers from 127.0.0.1:53, to nobody."""
    (reply,) = (treatment or dns_server.answers(A))(dns.message.make_query(NAME, "A"), False)
    assert isinstance(reply, bytes)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 53))
        for _ in range(n_packets):
            sender.sendto(reply, ("127.0.0.1", 4711))


def test_one_read_takes_a_bounded_number_of_packets() -> None:
    def work() -> None:
        with AnswerWatcher() as watcher:
            flood(PACKETS_MAX)
            assert 0 < len(watcher.read()) < PACKETS_MAX
            assert watcher.dropped == 0

    in_a_namespace(work)


def test_one_read_takes_a_bounded_number_of_bytes_and_the_next_the_rest() -> None:
    def work() -> None:
        with AnswerWatcher(receive_bytes=1 << 24) as watcher:
            flood(8, dns_server.many(4000))
            counts = [len(watcher.read()) for _ in range(4)]
        assert counts == [3, 3, 2, 0]

    in_a_namespace(work)


def test_a_book_learns_what_this_hosts_programs_are_told_of_its_names_only() -> None:
    def work() -> None:
        book = NameBook([NAME])
        zone = {NAME: dns_server.answers(A, C), "other.example": dns_server.answers("10.0.0.9")}
        with AnswerWatcher() as watcher, DnsServer(zone, 53) as server:
            looked_up(server, "other.example")
            looked_up(server)
            for answer in read_until(watcher, lambda answers: len(answers) >= 2, book):
                book.take(answer, 0, overheard=True)
        assert book.addresses(NAME) == (A, C)

    in_a_namespace(work)


def test_packets_that_the_kernel_has_no_room_for_are_counted() -> None:
    def work() -> None:
        with AnswerWatcher(receive_bytes=4096) as watcher:
            flood(500)
            n_seen = len(watcher.read())
            assert watcher.dropped == 500 - n_seen

    in_a_namespace(work)


def test_a_closed_watcher_sees_nothing() -> None:
    watcher_and_answers: list[list[Answer]] = []

    def work() -> None:
        watcher = AnswerWatcher()
        watcher.close()
        watcher_and_answers.append(watcher.read())

    in_a_namespace(work)
    assert watcher_and_answers == [[]]


WITHOUT_PRIVILEGE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from tracer.errors import SourceError
from tracer.names.answers import AnswerWatcher
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    AnswerWatcher()
except SourceError as error:
    print(error)
"""


def test_without_the_privilege_the_error_says_what_why_and_what_to_do() -> None:
    if os.geteuid():
        with pytest.raises(SourceError, match="CAP_NET_RAW"):
            AnswerWatcher()
        return
    done = subprocess.run([sys.executable, "-c", WITHOUT_PRIVILEGE, str(ROOT)], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(
        "DNS answers on this host can't be seen: Operation not permitted; this needs root or CAP_NET_RAW"
    )
    assert done.stderr == ""
