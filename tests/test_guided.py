"""A guided source: names that move are followed at a real DNS server, what is watched follows, and reads never wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.dns_server import DnsServer, answers, error, late, never, poisoned, rotating
from tests.traces import SECOND, S, event, trace
from tracer.endpoints import parse_endpoint
from tracer.errors import ResolveError
from tracer.events import EventBatch, no_events
from tracer.facts import AddressFact, EndpointFact
from tracer.guided import GuidedSource
from tracer.names import book
from tracer.names.resolver import Resolver
from tracer.owners.book import OwnerBook
from tracer.owners.owner import OwnerDetail
from tracer.watchlist import Watch, WatchList

NAME = "registry.test"
FIRST, OTHER = "10.0.0.1", "10.0.0.2"
PATIENCE_S = 10.0
READ_MAX_S = 0.5
"""Many times what a read takes; far less than a resolver waits."""


class Played:
    """A source that gives what it is given."""

    name, resolution_ns = "ebpf", 1

    def __init__(self) -> None:
        self.watched: list[Watch] = []
        self.batches: list[EventBatch] = []
        self.closed = False

    def watch(self, endpoints: Watch) -> None:
        self.watched.append(endpoints)

    def start(self) -> None:
        assert self.watched, "it is told what to watch before it starts"

    def read(self, *, at_once: bool = False) -> EventBatch:
        return self.batches.pop(0) if self.batches else EventBatch(no_events(), self.name, 1)

    def follow(self, clients: Iterable[tuple[int, bytes]]) -> None:
        pass

    def sample(self, skaddrs: Iterable[int]) -> bool:
        return True

    def warnings(self) -> list[str]:
        return []

    def lacks(self) -> list[str]:
        return []

    def close(self) -> None:
        self.closed = True

    def addresses(self) -> set[str]:
        """What is watched now."""
        return {str(member.network).partition("/")[0] for members in self.watched[-1].values() for member in members}


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer({NAME: answers(FIRST, ttl_s=1)}) as running:
        yield running


@pytest.fixture(autouse=True)
def _short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A floor of a second, so that a test need not wait for five."""
    monkeypatch.setattr(book, "TTL_S_MIN", 1)


@contextmanager
def guided(server: DnsServer, tmp_path: Path, *specs: str, must_resolve: bool = True) -> Iterator[tuple[GuidedSource, Played]]:
    wanted, played = WatchList(), Played()
    for spec in specs or (NAME,):
        wanted.add(parse_endpoint(spec), origin="a test")
    resolver = Resolver(nameservers=(server.address,), hosts_path=tmp_path / "none", resolv_conf_path=tmp_path / "none")
    own = {"look_up": resolver.look_up, "owners": OwnerBook(tmp_path / "none")}
    source = GuidedSource(lambda: played, wanted, learn=False, must_resolve=must_resolve, **own)
    try:
        yield source, played
    finally:
        source.close()
        assert played.closed or not played.watched


def until(source: GuidedSource, done: Callable[[], bool]) -> list[Any]:
    """Read until something is so; the facts that came meanwhile. No read may wait."""
    facts: list[Any] = []
    deadline_s = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline_s, "it never came to be so"
        started_s = time.monotonic()
        facts += source.read().facts
        assert time.monotonic() - started_s < READ_MAX_S
        time.sleep(0.02)
    return facts


def for_a_while(source: GuidedSource, seconds: float) -> list[Any]:
    end_s = time.monotonic() + seconds
    return until(source, lambda: time.monotonic() >= end_s)


def test_names_are_watched_at_their_addresses_from_the_start(server: DnsServer, tmp_path: Path) -> None:
    with guided(server, tmp_path) as (source, played):
        source.start()
        assert played.addresses() == {FIRST}
        assert source.read().facts[:1] == (EndpointFact(1, f"{NAME}:443", origin="a test"),)


def test_what_is_watched_follows_a_name_within_a_ttl_and_keeps_what_it_had(server: DnsServer, tmp_path: Path) -> None:
    with guided(server, tmp_path) as (source, played):
        source.start()
        source.read()
        server.zone[NAME] = answers(OTHER, ttl_s=1)
        started_s = time.monotonic()
        (fact,) = until(source, lambda: OTHER in played.addresses())
        assert time.monotonic() - started_s < 3
        assert played.addresses() == {FIRST, OTHER}
        assert isinstance(fact, AddressFact)
        assert (fact.address, fact.added) == (OTHER, True)


def test_an_address_goes_after_its_grace(server: DnsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "GRACE_S", 1)
    with guided(server, tmp_path) as (source, played):
        source.start()
        server.zone[NAME] = answers(OTHER, ttl_s=1)
        facts = until(source, lambda: played.addresses() == {OTHER})
        assert [fact.added for fact in facts if isinstance(fact, AddressFact) and fact.address == FIRST] == [True, False]


def test_all_addresses_of_a_rotating_name_are_collected(server: DnsServer, tmp_path: Path) -> None:
    groups = [(f"10.0.1.{number}",) for number in range(3)]
    server.zone[NAME] = rotating(*groups, ttl_s=1)
    with guided(server, tmp_path) as (source, played):
        source.start()
        until(source, lambda: played.addresses() == {address for (address,) in groups})


@pytest.mark.parametrize("treatment", [error("NXDOMAIN"), error("SERVFAIL"), never], ids=["nxdomain", "servfail", "never"])
def test_nothing_watched_is_lost_through_a_failure_that_is_told_once(server: DnsServer, tmp_path: Path, treatment: Any) -> None:
    with guided(server, tmp_path) as (source, played):
        source.start()
        server.zone[NAME] = treatment
        warnings: list[str] = []

        def told() -> bool:
            warnings.extend(source.warnings())
            return bool(warnings)

        until(source, told)
        for_a_while(source, 1.5)
        assert played.addresses() == {FIRST}
        assert len(warnings + source.warnings()) == 1
        assert "the addresses it had stay watched" in warnings[0]


def test_nothing_unrelated_is_watched(server: DnsServer, tmp_path: Path) -> None:
    server.zone[NAME] = poisoned("10.9.9.9", answers(FIRST, ttl_s=1))
    with guided(server, tmp_path) as (source, played):
        source.start()
        for_a_while(source, 2.5)
        assert played.addresses() == {FIRST}


def test_a_slow_resolver_does_not_hold_up_the_start_and_its_answer_counts_later(server: DnsServer, tmp_path: Path) -> None:
    server.zone["slow.test"] = late(2.2, answers(OTHER, ttl_s=30))
    with guided(server, tmp_path, NAME, "slow.test") as (source, played):
        started_s = time.monotonic()
        source.start()
        assert time.monotonic() - started_s < 2.5
        assert played.addresses() == {FIRST}
        until(source, lambda: played.addresses() == {FIRST, OTHER})


def test_a_name_alone_without_an_address_ends_the_start_with_the_reason(server: DnsServer, tmp_path: Path) -> None:
    server.zone[NAME] = error("NXDOMAIN")
    with guided(server, tmp_path) as (source, _), pytest.raises(ResolveError, match=f"{NAME}.*give an address"):
        source.start()


def test_names_that_nobody_typed_may_get_their_addresses_later(server: DnsServer, tmp_path: Path) -> None:
    server.zone[NAME] = error("SERVFAIL")
    with guided(server, tmp_path, must_resolve=False) as (source, played):
        source.start()
        assert played.addresses() == set()
        server.zone[NAME] = answers(FIRST, ttl_s=1)
        until(source, lambda: played.addresses() == {FIRST})


def test_one_name_without_an_address_beside_others_is_a_warning(server: DnsServer, tmp_path: Path) -> None:
    with guided(server, tmp_path, "absent.test", NAME) as (source, played):
        source.start()
        assert played.addresses() == {FIRST}
        assert [line for line in source.warnings() if "absent.test" in line]


def test_owners_are_told_with_the_events_they_are_of(server: DnsServer, tmp_path: Path) -> None:
    with guided(server, tmp_path) as (source, played):
        source.start()
        source.read()
        opening = event(S.CLOSE, S.SYN_SENT, time.clock_gettime_ns(time.CLOCK_BOOTTIME), pid=4_000_000)
        played.batches.append(EventBatch(trace(opening), "ebpf", 1))
        batch = source.read()
        assert [fact.pid for fact in batch.facts if isinstance(fact, OwnerDetail)] == [4_000_000]
        assert len(batch) == 1
        again = event(S.CLOSE, S.SYN_SENT, int(opening["ts_ns"]) + SECOND // 2, pid=4_000_000)
        played.batches.append(EventBatch(trace(again), "ebpf", 1))
        assert source.read().facts == ()
