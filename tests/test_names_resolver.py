"""tracer.names.resolver: look-ups at a real server that answers well, badly, late or never."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import dns_server
from tests.dns_server import DnsServer, Treatment
from tracer.names.records import Answer
from tracer.names.resolver import Resolver

NAME = "registry.example"
A, B, C, EVIL = "10.0.0.1", "10.0.0.2", "2001:db8::3", "10.66.6.6"


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer() as running:
        yield running


@pytest.fixture
def resolver(server: DnsServer, tmp_path: Path) -> Resolver:
    """Asks the test's server only, 1 s at most, and has no hosts file."""
    return Resolver(nameservers=[server.address], hosts_path=tmp_path / "hosts", lifetime_s=1.0)


def test_both_types_of_address_are_found_with_the_least_ttl(server: DnsServer, resolver: Resolver) -> None:
    server.zone[NAME] = dns_server.by_type(dns_server.answers(A, B, ttl_s=40), dns_server.answers(C, ttl_s=30))
    answer = resolver.look_up(NAME)
    assert (set(answer.addresses), answer.ttl_s, answer.problem) == ({A, B, C}, 30, "")


def test_a_name_of_one_type_only_is_no_problem(server: DnsServer, resolver: Resolver) -> None:
    server.zone[NAME] = dns_server.answers(C)
    assert resolver.look_up(NAME) == Answer(NAME, (C,), 30)


def test_a_name_server_of_ipv6_is_asked(tmp_path: Path) -> None:
    with DnsServer({NAME: dns_server.answers(A)}, host="::1") as server:
        assert Resolver(nameservers=[server.address], hosts_path=tmp_path / "hosts").look_up(NAME).addresses == (A,)


def test_aliases_in_one_answer_are_followed(server: DnsServer, resolver: Resolver) -> None:
    server.zone[NAME] = dns_server.through("a.example.", "b.example.", addresses=(A, C), ttls_s=(50, 20, 40))
    assert resolver.look_up(NAME) == Answer(NAME, (A, C), 20, ("a.example", "b.example"))


def test_an_alias_without_its_addresses_is_asked_about(server: DnsServer, resolver: Resolver) -> None:
    server.zone[NAME] = dns_server.records(f"{NAME}. 7 CNAME edge.example.")
    server.zone["edge.example"] = dns_server.answers(A, ttl_s=30)
    assert resolver.look_up(NAME) == Answer(NAME, (A,), 7, ("edge.example",))


@pytest.mark.parametrize(
    "zone",
    [
        {NAME: dns_server.records(f"{NAME}. 9 CNAME {NAME}.")},
        {NAME: dns_server.records(f"{NAME}. 9 CNAME a.example.", f"a.example. 9 CNAME {NAME}.")},
        {
            NAME: dns_server.records(f"{NAME}. 9 CNAME a.example."),
            "a.example": dns_server.records(f"a.example. 9 CNAME {NAME}."),
        },
    ],
    ids=["itself", "in one answer", "in several answers"],
)
def test_aliases_in_a_circle_end_in_a_problem(server: DnsServer, resolver: Resolver, zone: dict[str, Treatment]) -> None:
    server.zone = zone
    answer = resolver.look_up(NAME)
    assert answer.addresses == ()
    assert answer.problem
    assert len(server.asked) < 10


def test_a_truncated_answer_is_asked_for_by_tcp(server: DnsServer, resolver: Resolver) -> None:
    server.zone[NAME] = dns_server.truncated(dns_server.answers(A))
    assert resolver.look_up(NAME).addresses == (A,)


def test_four_thousand_addresses_come_by_tcp(server: DnsServer, resolver: Resolver) -> None:
    server.zone[NAME] = dns_server.truncated(dns_server.many(4000))
    assert len(resolver.look_up(NAME).addresses) == 4000


# --- what does not belong there ---


def test_forged_answers_are_passed_over_for_the_true_one(server: DnsServer, resolver: Resolver) -> None:
    server.zone[NAME] = dns_server.poisoned(EVIL, dns_server.answers(A))
    assert resolver.look_up(NAME).addresses == (A,)


def test_forged_answers_alone_add_nothing(server: DnsServer, resolver: Resolver) -> None:
    server.zone[NAME] = dns_server.poisoned(EVIL, dns_server.never)
    answer = resolver.look_up(NAME)
    assert answer.addresses == ()
    assert answer.problem


def test_records_of_other_names_and_in_other_sections_add_nothing(server: DnsServer, resolver: Resolver) -> None:
    def treat(query: dns_server.Query, tcp: bool) -> list[dns_server.Reply]:
        made = dns_server.response(query, f"{NAME}. 30 A {A}", f"bank.example. 1 A {EVIL}")
        made.additional += dns_server.response(query, f"{NAME}. 1 A {EVIL}").answer
        return [made.to_wire()]

    server.zone[NAME] = treat
    assert resolver.look_up(NAME) == Answer(NAME, (A,), 30)


def test_addresses_that_are_nobodys_are_ignored_and_said(server: DnsServer, resolver: Resolver) -> None:
    server.zone[NAME] = dns_server.answers("0.0.0.0", A, "255.255.255.255")
    answer = resolver.look_up(NAME)
    assert answer.addresses == (A,)
    assert "0.0.0.0" in answer.problem


def test_an_ignored_address_is_said_though_the_other_type_is_answered(server: DnsServer, resolver: Resolver) -> None:
    server.zone[NAME] = dns_server.answers("0.0.0.0", C)
    answer = resolver.look_up(NAME)
    assert answer.addresses == (C,)
    assert "0.0.0.0" in answer.problem


# --- failures ---


@pytest.mark.parametrize(
    ("treatment", "problem"),
    [
        (dns_server.error("NXDOMAIN"), "no such name"),
        (dns_server.error("SERVFAIL"), "SERVFAIL"),
        (dns_server.error("REFUSED"), "REFUSED"),
        (dns_server.answers(), "no address"),
        (dns_server.never, "no name server answers"),
        (dns_server.garbage, "no name server answers"),
        (dns_server.truncated(dns_server.garbage), "no name server"),
        (dns_server.truncated(dns_server.never), "no name server"),
    ],
)
def test_a_failure_is_one_line_and_comes_in_time(
    server: DnsServer, resolver: Resolver, treatment: Treatment, problem: str
) -> None:
    server.zone[NAME] = treatment
    began_s = time.monotonic()
    answer = resolver.look_up(NAME)
    assert time.monotonic() - began_s < 5
    assert (answer.addresses, answer.ttl_s) == ((), 0)
    assert problem in answer.problem
    assert "\n" not in answer.problem


@pytest.mark.parametrize(
    "v4", [dns_server.error("SERVFAIL"), dns_server.never, dns_server.garbage], ids=["fails", "hangs", "raves"]
)
def test_a_server_that_fails_for_ipv4_alone_still_gives_ipv6(server: DnsServer, resolver: Resolver, v4: Treatment) -> None:
    server.zone[NAME] = dns_server.by_type(v4, dns_server.answers(C))
    assert resolver.look_up(NAME) == Answer(NAME, (C,), 30)


def test_a_server_that_does_not_know_ipv6_is_no_problem(server: DnsServer, resolver: Resolver) -> None:
    server.zone[NAME] = dns_server.by_type(dns_server.answers(A), dns_server.error("NOTIMP"))
    assert resolver.look_up(NAME) == Answer(NAME, (A,), 30)


def test_a_dead_first_server_leaves_time_for_the_second(server: DnsServer, tmp_path: Path) -> None:
    server.zone[NAME] = dns_server.answers(A, C)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        both = [silent.getsockname(), server.address]
        assert Resolver(nameservers=both, hosts_path=tmp_path / "hosts").look_up(NAME).addresses == (A, C)
        silent.setblocking(False)
        silent.recv(512)
        with pytest.raises(BlockingIOError):  # for the second type the one that answers was asked first
            silent.recv(512)


def test_an_answer_that_comes_late_but_in_time_counts(server: DnsServer, resolver: Resolver) -> None:
    server.zone[NAME] = dns_server.late(0.1, dns_server.answers(A))
    assert resolver.look_up(NAME).addresses == (A,)


@pytest.mark.parametrize("name", ["", ".", "a..b", "x" * 64 + ".example", "a." * 200, "\udcff.example", "ü" * 70, "a b\0"])
def test_a_name_that_is_none_is_a_problem(resolver: Resolver, name: str) -> None:
    answer = resolver.look_up(name)
    assert answer.addresses == ()
    assert answer.problem.isprintable()


# --- how the host is set up ---


def configured(tmp_path: Path, text: str | bytes) -> Resolver:
    path = tmp_path / "resolv.conf"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Resolver(hosts_path=tmp_path / "hosts", resolv_conf_path=path, lifetime_s=0.5)


@pytest.mark.parametrize(
    "text",
    ["", "nameserver\n", "nameserver none\nnameserver https://dns.example/\n", b"\xff\0\n" * 100, "search " + "x" * 80 + "\n"],
)
def test_a_configuration_without_a_name_server_is_one_line(tmp_path: Path, text: str | bytes) -> None:
    answer = configured(tmp_path, text).look_up(NAME)
    assert re.fullmatch(r"no name server is set up in \S+/resolv\.conf \(.+\)", answer.problem)


def test_no_configuration_at_all_is_one_line(tmp_path: Path) -> None:
    answer = Resolver(hosts_path=tmp_path / "hosts", resolv_conf_path=tmp_path / "none").look_up(NAME)
    assert re.fullmatch(r"no name server is set up in \S+/none \(.+\)", answer.problem)


def settings_of(tmp_path: Path, text: str) -> tuple[list[str], list[str], int | None, float]:
    """(name servers, search list, ndots, time-out in s) that a look-up would use."""
    (tmp_path / "resolv.conf").write_text(text)
    made = Resolver(hosts_path=tmp_path / "none", resolv_conf_path=tmp_path / "resolv.conf")._configured()
    return [str(each) for each in made.nameservers], [each.to_text() for each in made.search], made.ndots, made.timeout


def test_the_hosts_name_servers_search_list_and_options_are_used(tmp_path: Path) -> None:
    text = (
        "nameserver 10.0.0.53\nnameserver 2001:db8::53\nnameserver junk\nsearch a.example b.example\noptions ndots:3 timeout:1\n"
    )
    servers, search, ndots, timeout_s = settings_of(tmp_path, text)
    assert (servers, search) == (["10.0.0.53", "2001:db8::53"], ["a.example.", "b.example."])
    assert (ndots, timeout_s) == (3, 1)


@pytest.mark.parametrize(("n_servers", "timeout_s"), [(1, 3.0), (2, 1.5), (3, 1.0)])
def test_each_of_several_name_servers_gets_its_turn(tmp_path: Path, n_servers: int, timeout_s: float) -> None:
    text = "".join(f"nameserver 10.0.0.{number}\n" for number in range(1, n_servers + 1))
    assert settings_of(tmp_path, text)[3] == pytest.approx(timeout_s)


@pytest.mark.parametrize(
    "options", ["timeout:0", "timeout:-1", "timeout:99999", "timeout:x", "ndots:-1", "ndots:99999", "ndots:"]
)
def test_options_that_can_not_be_meant_are_bounded(tmp_path: Path, options: str) -> None:
    _, _, ndots, timeout_s = settings_of(tmp_path, f"nameserver 10.0.0.53\noptions {options}\n")
    assert 0 < timeout_s <= 3
    assert ndots is None or 0 <= ndots <= 15


def test_no_more_name_servers_are_asked_than_the_c_library_asks(tmp_path: Path) -> None:
    assert len(settings_of(tmp_path, "nameserver 10.0.0.53\n" * 50)[0]) == 3


def test_a_changed_configuration_is_seen(tmp_path: Path) -> None:
    resolver = configured(tmp_path, "nameserver 10.0.0.53\n")
    (tmp_path / "resolv.conf").write_text("nameserver 10.0.0.54\n")
    assert [str(each) for each in resolver._configured().nameservers] == ["10.0.0.54"]


def test_the_search_list_makes_a_short_name_long(server: DnsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.zone["registry.corp.example"] = dns_server.answers(A)
    resolver = configured(tmp_path, f"nameserver {server.host}\nsearch void.example corp.example\n")
    made = resolver._configured()
    made.port = server.port
    monkeypatch.setattr(resolver, "_configured", lambda: made)
    assert resolver.look_up("registry") == Answer("registry", (A,), 30)


def test_the_hosts_file_comes_first(server: DnsServer, tmp_path: Path) -> None:
    server.zone[NAME] = dns_server.answers(A)
    (tmp_path / "hosts").write_text(f"{B} {NAME}\n")
    answer = Resolver(nameservers=[server.address], hosts_path=tmp_path / "hosts").look_up(NAME)
    assert (answer, server.asked) == (Answer(NAME, (B,), 0), [])
