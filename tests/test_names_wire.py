"""tracer.names.wire: what dnspython makes of a message is made of it, and no bytes do harm."""

from __future__ import annotations

import ipaddress
import struct
import time
from collections.abc import Sequence
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests import dns_server
from tracer.names.records import Answer, connectable
from tracer.names.wire import parse_message

NAME = "registry.example"
HEADER = struct.pack("!HHHHHH", 1, 0x8180, 1, 1, 0, 0)
QUESTION = b"\x08registry\x07example\0" + struct.pack("!HH", 1, 1)


def message(*records: str, name: str = NAME, kind: str = "A") -> dns.message.Message:
    return dns_server.response(dns.message.make_query(name, kind, id=1), *records)


def dnspython_says(wire: bytes) -> tuple[str, list[str], int, list[str]] | None:
    """(name, addresses, TTL, aliases) as dnspython reads a message; None if it refuses it or finds no address."""
    try:
        read = dns.message.from_wire(wire)
        assert isinstance(read, dns.message.QueryMessage)
        chain = read.resolve_chaining()
    except (dns.exception.DNSException, AssertionError, ValueError):
        return None
    question = read.question[0]
    if read.rcode() != dns.rcode.NOERROR or chain.answer is None or question.rdtype not in (1, 28) or question.rdclass != 1:
        return None
    aliases = [rrset[0].target.to_text(True).lower() for rrset in chain.cnames]
    addresses = [each.address for each in chain.answer]
    return question.name.to_text(True).lower(), addresses, chain.minimum_ttl, aliases


def has_rival_aliases(wire: bytes) -> bool:
    """Whether a name has two different aliases, which nothing says how to read."""
    records = dns.message.from_wire(wire, one_rr_per_rrset=True).answer
    owners = [rrset.name for rrset in records if rrset.rdtype == dns.rdatatype.CNAME]
    return len(owners) > len(set(owners))


def said(answer: Answer | None) -> Any:
    return answer and (answer.name, list(answer.addresses), answer.ttl_s, list(answer.cnames))


def test_an_answer_has_the_addresses_behind_the_aliases() -> None:
    lines = [f"{NAME}. 30 CNAME edge.example.", "edge.example. 20 A 10.0.0.1", "edge.example. 20 A 10.0.0.2"]
    assert parse_message(message(*lines).to_wire(want_shuffle=False)) == Answer(
        NAME, ("10.0.0.1", "10.0.0.2"), 20, ("edge.example",)
    )


def test_addresses_of_ipv6_are_read_where_they_were_asked_for() -> None:
    made = message(f"{NAME}. 30 AAAA 2001:db8::1", f"{NAME}. 30 A 10.0.0.1", kind="AAAA")
    assert said(parse_message(made.to_wire())) == (NAME, ["2001:db8::1"], 30, [])


def test_records_of_other_names_and_other_sections_do_not_count() -> None:
    made = message(f"{NAME}. 30 A 10.0.0.1", "bank.example. 30 A 10.9.9.9")
    made.additional += message(f"{NAME}. 30 A 10.8.8.8").answer
    assert said(parse_message(made.to_wire())) == (NAME, ["10.0.0.1"], 30, [])


def test_names_are_the_same_in_upper_case() -> None:
    wire = message(f"{NAME}. 30 A 10.0.0.1").to_wire().replace(b"registry", b"ReGiStRy")
    assert said(parse_message(wire, {NAME})) == (NAME, ["10.0.0.1"], 30, [])


def test_names_that_nobody_wants_are_passed_over() -> None:
    assert parse_message(message(f"{NAME}. 30 A 10.0.0.1").to_wire(), {"other.example"}) is None


@pytest.mark.parametrize("rcode", ["NXDOMAIN", "SERVFAIL", "REFUSED"])
def test_an_error_is_no_answer(rcode: str) -> None:
    made = message(f"{NAME}. 30 A 10.0.0.1")
    made.set_rcode(dns.rcode.from_text(rcode))
    assert parse_message(made.to_wire()) is None


@pytest.mark.parametrize("kind", ["TXT", "ANY", "CNAME", "PTR"])
def test_other_questions_are_of_no_interest(kind: str) -> None:
    made = message(f"{NAME}. 30 A 10.0.0.1")
    made.question[0].rdtype = dns.rdatatype.from_text(kind)
    assert parse_message(made.to_wire()) is None


def test_a_query_is_no_answer() -> None:
    made = message(f"{NAME}. 30 A 10.0.0.1")
    made.flags &= ~dns.flags.QR
    assert parse_message(made.to_wire()) is None


def test_an_answer_without_addresses_is_none() -> None:
    assert parse_message(message(f"{NAME}. 30 CNAME edge.example.").to_wire()) is None


def test_the_fullest_answer_is_read() -> None:
    (wire,) = dns_server.many(4000)(dns.message.make_query(NAME, "A"), True)
    assert isinstance(wire, bytes)
    answer = parse_message(wire)
    assert answer is not None
    assert len(answer.addresses) == 4000


def test_a_truncated_response_counts_if_its_records_are_whole() -> None:
    made = message(f"{NAME}. 30 A 10.0.0.1")
    made.flags |= dns.flags.TC
    assert said(parse_message(made.to_wire())) == (NAME, ["10.0.0.1"], 30, [])
    assert parse_message(made.to_wire()[:-1]) is None


POINTERS = {
    "itself": b"\xc0\x22",
    "forward": b"\xc0\xff" + bytes(300),
    "its own middle": b"\x01a\x01b\xc0\x24",
    "nowhere": b"\xc0",
    "reserved": b"\x40a",
    "label cut off": b"\x3fabc",
    "no root": b"\x01a",
    "too long": b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\0",
}


@pytest.mark.parametrize("name", POINTERS.values(), ids=POINTERS.keys())
def test_names_that_are_none_make_no_answer(name: bytes) -> None:
    assert parse_message(HEADER + QUESTION + name + struct.pack("!HHIH", 1, 1, 30, 4) + b"\x0a\0\0\1") is None


def test_a_name_that_is_too_long_with_what_it_points_to_makes_no_answer() -> None:
    long = b"".join(b"\x3c" + bytes([letter]) * 60 for letter in b"abcd") + b"\0"
    question = long + struct.pack("!HH", 1, 1)
    alias = b"\xc0\x0c" + struct.pack("!HHIH", 5, 1, 30, 23) + b"\x14" + b"x" * 20 + b"\xc0\x0c"
    address = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 30, 4) + b"\x0a\0\0\1"
    assert parse_message(HEADER + question + address) is not None
    assert parse_message(HEADER[:6] + b"\0\2" + HEADER[8:] + question + address + alias) is None


def test_an_address_of_another_length_makes_no_answer() -> None:
    assert parse_message(HEADER + QUESTION + b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 30, 5) + b"\x0a\0\0\1\1") is None


def test_pointers_to_pointers_cost_little() -> None:
    begin = len(HEADER + QUESTION) + 12
    chain = b"\xc0\x0c" + b"".join(struct.pack("!H", 0xC000 | at) for at in range(begin, 0x3F00, 2))
    last = begin + len(chain) - 2
    records = b"".join(struct.pack("!HHHIH", 0xC000 | last - at % 64 * 2, 99, 1, 30, 0) for at in range(4000))
    head = struct.pack("!HHHHHH", 1, 0x8180, 1, 4001, 0, 0) + QUESTION
    wire = head + b"\xc0\x0c" + struct.pack("!HHIH", 99, 1, 30, len(chain)) + chain + records
    began_s = time.perf_counter()
    assert parse_message(wire) is None
    assert time.perf_counter() - began_s < 1


LABELS = st.sampled_from(["a", "B", "registry", "x" * 63, "_tcp", "0", r"\.", r"\000", r"\255", r"\@"])
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(lambda labels: ".".join(labels) + ".")


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Responses of a few names with aliases and addresses among each other, asked for or not."""
    names: Sequence[str] = draw(st.lists(NAMES, min_size=2, max_size=5, unique_by=str.lower))
    kind = draw(st.sampled_from(["A", "AAAA"]))
    aliases = draw(st.dictionaries(st.sampled_from(names), st.sampled_from(names), max_size=4))
    lines = [f"{name} {draw(st.integers(0, 2**31 - 1))} CNAME {target}" for name, target in aliases.items()]
    for name in names:
        ttl_s = draw(st.integers(0, 2**31 - 1))
        lines += [f"{name} {ttl_s} A 10.0.0.{at}" for at in range(draw(st.integers(0, 2)))]
        lines += [f"{name} {ttl_s} AAAA 2001:db8::{at + 1}" for at in range(draw(st.integers(0, 2)))]
    made = message(*draw(st.permutations(lines)), name=names[0], kind=kind)
    made.additional += message(f"{names[0]} 1 A 10.9.9.9").answer
    return made.to_wire(want_shuffle=False)


@settings(max_examples=300, deadline=None)
@given(messages())
def test_what_dnspython_reads_is_read(wire: bytes) -> None:
    assert said(parse_message(wire)) == dnspython_says(wire)


@settings(max_examples=200, deadline=None)
@given(messages(), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), st.sampled_from([0, 0, 0, 1, 20]))
def test_where_dnspython_reads_a_mutilated_message_the_same_is_read(
    wire: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    mutilated = bytearray(wire)
    for at, value in changes:
        mutilated[at % len(wire)] = value
    wire = bytes(mutilated[: len(mutilated) - cut])
    ours, theirs = parse_message(wire), dnspython_says(wire)
    assume(theirs is not None and not has_rival_aliases(wire))
    assert theirs is not None
    name, addresses, ttl_s, aliases = theirs
    usable, _ = connectable(ipaddress.ip_address(address) for address in addresses)
    assert said(ours) == ((name, list(usable), ttl_s, aliases) if usable else None)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda rest: HEADER + QUESTION + rest))
def test_no_bytes_raise_anything(wire: bytes) -> None:
    answer = parse_message(wire)
    assert answer is None or answer.addresses
