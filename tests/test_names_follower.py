"""tracer.names.follower: whatever the resolver does, nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import dns_server
from tests.dns_server import DnsServer
from tracer.names.book import NAMES_MAX, NameBook
from tracer.names.follower import THREAD_NAME, NameFollower
from tracer.names.records import Answer
from tracer.names.resolver import Resolver

NAME = "registry.example"
PATIENCE_S = 20.0
AT_ONCE_S = 1.0  # far more than it takes, far less than a look-up hangs


def found(name: str) -> Answer:
    return Answer(name, ("10.0.0.1",), 30)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hanging look-ups wait for; no thread of theirs is left behind."""
    event = threading.Event()
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(PATIENCE_S)
    assert THREAD_NAME not in [thread.name for thread in threading.enumerate()]


@pytest.fixture
def hanging(gate: threading.Event) -> Callable[[str], Answer]:
    """A look-up that hangs for names that begin with "dead"."""

    def look_up(name: str) -> Answer:
        if name.startswith("dead"):
            gate.wait(PATIENCE_S)
        return found(name)

    return look_up


def took_s(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def test_names_that_were_asked_for_are_answered_once() -> None:
    with NameFollower(found) as follower:
        follower.ask(["a.example", "b.example", "a.example"])
        assert follower.wait(PATIENCE_S)
        assert {answer.name for answer in follower.answers()} == {"a.example", "b.example"}
        assert follower.answers() == []


def test_asking_and_collecting_never_wait_for_a_look_up(hanging: Callable[[str], Answer]) -> None:
    with NameFollower(hanging) as follower:
        assert took_s(lambda: follower.ask(["dead.example"])) < AT_ONCE_S
        assert took_s(lambda: follower.ask(["dead.example"])) < AT_ONCE_S
        assert took_s(follower.answers) < AT_ONCE_S


def test_a_name_that_is_being_looked_up_is_not_looked_up_twice(gate: threading.Event) -> None:
    called: list[str] = []

    def look_up(name: str) -> Answer:
        called.append(name)
        gate.wait(PATIENCE_S)
        return found(name)

    with NameFollower(look_up) as follower:
        for _ in range(5):
            follower.ask([NAME])
        gate.set()
        assert follower.wait(PATIENCE_S)
    assert called == [NAME]


def test_twenty_dead_names_do_not_hold_up_another(hanging: Callable[[str], Answer]) -> None:
    with NameFollower(hanging) as follower:
        follower.ask([*(f"dead{at}.example" for at in range(20)), NAME])
        deadline_s = time.monotonic() + PATIENCE_S
        answers: list[Answer] = []
        while not answers and time.monotonic() < deadline_s:
            answers = follower.answers()
            time.sleep(0.005)
        assert answers == [found(NAME)]


def test_closing_does_not_wait_for_a_look_up_that_hangs(hanging: Callable[[str], Answer]) -> None:
    follower = NameFollower(hanging)
    follower.ask([f"dead{at}.example" for at in range(20)])
    assert took_s(follower.close) < AT_ONCE_S


def test_after_closing_nobody_is_told_anything(hanging: Callable[[str], Answer], gate: threading.Event) -> None:
    follower = NameFollower(hanging)
    follower.ask(["dead.example"])
    follower.close()
    gate.set()
    follower.ask([NAME])
    follower.wait(0.1)
    assert follower.answers() == []


def test_waiting_ends_at_its_deadline(hanging: Callable[[str], Answer]) -> None:
    with NameFollower(hanging) as follower:
        follower.ask(["dead.example", NAME])
        assert took_s(lambda: follower.wait(0.1)) < AT_ONCE_S
        assert not follower.wait(0)


def test_waiting_without_a_question_ends_at_once() -> None:
    with NameFollower(found) as follower:
        assert follower.wait(PATIENCE_S)


def test_no_more_look_ups_run_at_once_than_allowed(gate: threading.Event) -> None:
    running: list[str] = []

    def look_up(name: str) -> Answer:
        running.append(name)
        gate.wait(PATIENCE_S)
        return found(name)

    with NameFollower(look_up, workers_max=3) as follower:
        follower.ask(f"n{at}.example" for at in range(10))
        deadline_s = time.monotonic() + PATIENCE_S
        while len(running) < 3 and time.monotonic() < deadline_s:
            time.sleep(0.005)
        follower.wait(0.05)
        assert len(running) == 3
        gate.set()
        assert follower.wait(PATIENCE_S)
        assert len(follower.answers()) == 10


def test_no_more_names_than_a_book_holds_wait(hanging: Callable[[str], Answer], gate: threading.Event) -> None:
    with NameFollower(hanging, workers_max=1) as follower:
        follower.ask(f"dead{at}.example" for at in range(2 * NAMES_MAX))
        gate.set()
        assert follower.wait(PATIENCE_S)
        assert len(follower.answers()) == NAMES_MAX


@pytest.mark.usefixtures("gate")
def test_a_thread_without_work_ends() -> None:
    with NameFollower(found) as follower:
        follower.ask([NAME])
        assert follower.wait(PATIENCE_S)
        deadline_s = time.monotonic() + PATIENCE_S
        while THREAD_NAME in [thread.name for thread in threading.enumerate()] and time.monotonic() < deadline_s:
            time.sleep(0.005)
        assert THREAD_NAME not in [thread.name for thread in threading.enumerate()]


def test_where_no_thread_can_be_started_names_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with NameFollower(found) as follower:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            follower.ask(["a.example", "b.example"])
        assert [answer.problem for answer in follower.answers()] == ["it can't be looked up: can't start new thread"] * 2
        follower.ask([NAME])
        assert follower.wait(PATIENCE_S)
        assert follower.answers() == [found(NAME)]


def test_a_look_up_that_breaks_off_is_a_failure_and_the_next_is_made() -> None:
    def breaks(name: str) -> Answer:
        if name.startswith("bad"):
            raise RuntimeError("the test's own")
        return found(name)

    with NameFollower(breaks, workers_max=1) as follower:
        follower.ask(["bad.example"])
        assert follower.wait(PATIENCE_S)
        assert [answer.problem for answer in follower.answers()] == ["its look-up broke off: RuntimeError"]
        follower.ask([NAME])
        assert follower.wait(PATIENCE_S)
        assert follower.answers() == [found(NAME)]


# --- with a book and a real server ---


def follow(book: NameBook, follower: NameFollower, now_ns: int) -> None:
    """One round of what the event loop does, at a time that is played."""
    follower.ask(book.due(now_ns))
    assert follower.wait(PATIENCE_S)
    for answer in follower.answers():
        book.take(answer, now_ns)


@pytest.mark.usefixtures("gate")
def test_a_name_that_rotates_and_fails_in_every_way_loses_nothing(tmp_path: Path) -> None:
    treatments = [
        dns_server.answers("10.0.0.1", "2001:db8::1", ttl_s=10),
        dns_server.error("NXDOMAIN"),
        dns_server.error("SERVFAIL"),
        dns_server.never,
        dns_server.garbage,
        dns_server.poisoned("10.66.6.6", dns_server.error("SERVFAIL")),
        dns_server.records("other.example. 5 A 10.66.6.6"),
        dns_server.records(f"{NAME}. 5 CNAME {NAME}."),
        dns_server.truncated(dns_server.garbage),
        dns_server.answers(),
        dns_server.rotating(("10.0.0.2",), ttl_s=10),
    ]
    book = NameBook([NAME])
    with DnsServer() as server:
        resolver = Resolver(nameservers=[server.address], hosts_path=tmp_path / "none", lifetime_s=0.4)
        with NameFollower(resolver.look_up) as follower:
            for turn, treatment in enumerate(treatments):
                server.zone[NAME] = treatment
                follow(book, follower, turn * 60_000_000_000)
                assert {"10.0.0.1", "2001:db8::1"} <= set(book.addresses(NAME))
    assert set(book.addresses(NAME)) == {"10.0.0.1", "2001:db8::1", "10.0.0.2"}


@pytest.mark.usefixtures("gate")
def test_a_server_that_never_answers_stalls_neither_questions_nor_the_end(tmp_path: Path) -> None:
    names = [f"n{at}.example" for at in range(20)]
    with DnsServer(dict.fromkeys(names, dns_server.never)) as server:
        follower = NameFollower(Resolver(nameservers=[server.address], hosts_path=tmp_path / "none", lifetime_s=2.5).look_up)
        assert took_s(lambda: follower.ask(names)) < AT_ONCE_S
        assert took_s(follower.answers) < AT_ONCE_S
        assert not follower.wait(0.1)
        assert took_s(follower.close) < AT_ONCE_S


@pytest.mark.usefixtures("gate")
def test_a_moved_name_is_followed_when_its_ttl_is_over(tmp_path: Path) -> None:
    book = NameBook([NAME])
    with DnsServer({NAME: dns_server.answers("10.0.0.1", ttl_s=20)}) as server:
        resolver = Resolver(nameservers=[server.address], hosts_path=tmp_path / "none")
        with NameFollower(resolver.look_up) as follower:
            follow(book, follower, 0)
            server.zone[NAME] = dns_server.answers("10.0.0.2", ttl_s=20)
            follow(book, follower, 19_999_999_999)
            before = book.addresses(NAME)
            follow(book, follower, 20_000_000_000)
    assert (before, book.addresses(NAME)) == (("10.0.0.1",), ("10.0.0.2", "10.0.0.1"))
