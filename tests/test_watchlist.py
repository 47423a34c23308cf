"""The watch list: numbers that stay, addresses that come and go, and what is told of both."""

from __future__ import annotations

import pytest

from tracer import watchlist
from tracer.endpoints import parse_endpoint
from tracer.facts import AddressFact, EndpointFact
from tracer.roles import Role
from tracer.watchlist import WatchList


def listed(*specs: str) -> WatchList:
    made = WatchList()
    for spec in specs:
        made.add(parse_endpoint(spec), origin="a test")
    return made


def watched(made: WatchList) -> dict[int, set[str]]:
    """Addresses by number."""
    return {number: {str(member.network) for member in members} for number, members in made.watch().items()}


def test_endpoints_are_numbered_from_one_without_repeats() -> None:
    made = listed("10.0.0.1", "10.0.0.1:443", "10.0.0.0/8:80")
    assert made.labels() == {1: "10.0.0.1:443", 2: "10.0.0.0/8:80"}


def test_a_name_is_watched_at_its_addresses_under_its_own_label() -> None:
    made = listed("registry.example:5000")
    made.change("registry.example", "10.0.0.1", True, 7)
    made.change("registry.example", "fd00::1", True, 7)
    assert watched(made) == {1: {"10.0.0.1/32", "fd00::1/128"}}
    assert {(member.label, member.port) for member in made.watch()[1]} == {("registry.example:5000", 5000)}
    assert made.texts() == ["registry.example:5000 (10.0.0.1, [fd00::1])"]


def test_an_address_that_went_is_watched_no_more() -> None:
    made = listed("registry.example")
    made.change("registry.example", "10.0.0.1", True, 7)
    made.change("registry.example", "10.0.0.1", False, 9)
    assert watched(made) == {1: set()}


@pytest.mark.parametrize(("added", "times"), [(True, 2), (False, 1)])
def test_what_changes_nothing_is_no_change(added: bool, times: int) -> None:
    made = listed("registry.example")
    changes = [made.change("registry.example", "10.0.0.1", added, 7) for _ in range(times)]
    assert changes[-1] is False


def test_two_ports_of_a_name_share_its_addresses() -> None:
    made = listed("registry.example:443", "registry.example:5000")
    made.change("registry.example", "10.0.0.1", True, 7)
    assert watched(made) == {1: {"10.0.0.1/32"}, 2: {"10.0.0.1/32"}}
    assert made.names() == ["registry.example"]


def test_names_without_an_address_are_told() -> None:
    made = listed("registry.example", "other.example")
    assert not made.has_addresses()
    made.change("other.example", "10.0.0.1", True, 7)
    assert made.has_addresses()
    assert made.without_address() == ["registry.example:443"]


def test_facts_are_told_once_in_their_order() -> None:
    made = WatchList()
    made.add(parse_endpoint("mirror.example"), role=Role.MIRROR, origin="a file", mirror_of="*")
    made.change("mirror.example", "10.0.0.1", True, 7)
    assert made.facts() == (
        EndpointFact(1, "mirror.example:443", Role.MIRROR, "a file", "*"),
        AddressFact(1, "10.0.0.1", True, 7),
    )
    assert made.facts() == ()


def test_an_address_of_the_list_is_told_from_the_start() -> None:
    made = listed("10.0.0.0/8:5000", "192.0.2.7")
    told = [fact for fact in made.facts() if isinstance(fact, AddressFact)]
    assert told == [AddressFact(1, "10.0.0.0/8", True, 0), AddressFact(2, "192.0.2.7", True, 0)]


@pytest.mark.parametrize(
    ("address", "covered"),
    [("10.1.2.3", True), ("192.0.2.7", True), ("192.0.2.8", False), ("203.0.113.5", True), ("::1", False), ("a.example", False)],
)
def test_what_is_watched_already_is_known_by_address(address: str, covered: bool) -> None:
    made = listed("10.0.0.0/8:5000", "192.0.2.7", "registry.example")
    made.change("registry.example", "203.0.113.5", True, 7)
    assert made.covers(address) is covered


def test_a_well_known_host_has_its_role_unless_it_was_said() -> None:
    made = listed("auth.docker.io", "10.0.0.1")
    assert {number: fact.role for number, fact in made.known().items()} == {1: Role.AUTH, 2: Role.UNKNOWN}


def test_no_more_addresses_are_watched_than_the_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchlist, "NETWORKS_MAX", 3)
    made = listed("10.0.0.0/24", "registry.example")
    for last in range(5):
        made.change("registry.example", f"10.1.0.{last}", True, 7)
    assert len(watched(made)[2]) == 2
    assert len(made.problems()) == 1
    made.change("registry.example", "10.1.0.0", False, 8)
    made.change("registry.example", "10.1.0.4", True, 9)
    assert watched(made)[2] == {"10.1.0.1/32", "10.1.0.4/32"}
    assert made.problems() == []
