"""tracer.names.records: aliases are followed, and nothing counts that they don't lead to."""

from __future__ import annotations

import ipaddress
from itertools import pairwise

import pytest

from tracer.names.records import CHAIN_MAX, Answer, Record, answer_of, failed, joined

NAME = "registry.example"


def v4(name: str, address: str, ttl_s: int = 60) -> Record:
    return Record(name, ttl_s, ipaddress.ip_address(address).packed)


def alias(name: str, target: str, ttl_s: int = 60) -> Record:
    return Record(name, ttl_s, target)


def test_addresses_are_those_at_the_end_of_the_aliases_with_the_least_ttl() -> None:
    records = [v4("b.example", "10.0.0.1", 40), alias("a.example", "b.example", 20), alias(NAME, "a.example", 30)]
    assert answer_of(NAME, NAME, records) == Answer(NAME, ("10.0.0.1",), 20, ("a.example", "b.example"))


def test_records_that_no_alias_leads_to_do_not_count() -> None:
    records = [v4(NAME, "10.0.0.1", 50), v4("bank.example", "10.9.9.9", 1), alias("bank.example", NAME, 1)]
    assert answer_of(NAME, NAME, records) == Answer(NAME, ("10.0.0.1",), 50)


def test_the_answer_bears_the_watched_name_though_the_search_list_made_another_of_it() -> None:
    assert answer_of("registry", NAME, [v4(NAME, "10.0.0.1")]).name == "registry"


@pytest.mark.parametrize("length", [1, 2, CHAIN_MAX, 200])
def test_aliases_in_a_circle_are_a_problem(length: int) -> None:
    names = [NAME, *(f"n{at}.example" for at in range(length - 1))]
    records = [alias(name, names[(at + 1) % length]) for at, name in enumerate(names)]
    answer = answer_of(NAME, NAME, records)
    assert (answer.addresses, answer.problem) == ((), "its aliases (CNAME) have no end")


@pytest.mark.parametrize(("length", "followed"), [(CHAIN_MAX, True), (CHAIN_MAX + 1, False)])
def test_a_chain_of_aliases_is_followed_so_far(length: int, followed: bool) -> None:
    names = [NAME, *(f"n{at}.example" for at in range(length))]
    records = [alias(name, target) for name, target in pairwise(names)]
    assert bool(answer_of(NAME, NAME, [*records, v4(names[-1], "10.0.0.1")]).addresses) is followed


@pytest.mark.parametrize("nobodys", ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1", "::ffff:0.0.0.0"])
def test_addresses_that_are_nobodys_are_left_out_and_said(nobodys: str) -> None:
    answer = answer_of(NAME, NAME, [v4(NAME, nobodys), v4(NAME, "10.0.0.1")])
    assert answer.addresses == ("10.0.0.1",)
    assert "ignored" in answer.problem


def test_addresses_are_canonical_and_each_once() -> None:
    addresses = ["::ffff:10.0.0.1", "10.0.0.1", "2001:DB8:0::1", "127.0.0.1"]
    assert answer_of(NAME, NAME, [v4(NAME, each) for each in addresses]).addresses == ("10.0.0.1", "2001:db8::1", "127.0.0.1")


@pytest.mark.parametrize(("ttl_s", "read"), [(0, 0), (2**31 - 1, 2**31 - 1), (2**31, 0), (2**32 - 1, 0)])
def test_a_ttl_of_more_than_31_bits_is_0(ttl_s: int, read: int) -> None:
    assert answer_of(NAME, NAME, [v4(NAME, "10.0.0.1", ttl_s)]).ttl_s == read


def test_answers_for_both_types_are_joined_with_the_least_ttl_of_those_that_have_addresses() -> None:
    parts = [
        Answer(NAME, ("10.0.0.1",), 60, ("a.example",)),
        failed(NAME, "SERVFAIL"),
        Answer(NAME, ("::1",), 50, ("a.example",)),
    ]
    assert joined(NAME, parts) == Answer(NAME, ("10.0.0.1", "::1"), 50, ("a.example",), "SERVFAIL")


def test_a_problem_is_fit_for_a_terminal() -> None:
    assert failed(NAME, "\x1b[2J").problem == r"\x1b[2J"
