"""What an answer says, whoever read it: aliases followed to their end, addresses that can be connected to. Pure.

The resolver's answers and those overheard go through the same `answer_of`, so that nothing counts in one that doesn't in the
other: only addresses of the name that was asked for, or of a name its aliases lead to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tracer.text import printable

CHAIN_MAX = 16
"""Aliases followed; resolvers stop at 8 (BIND before 9.19) to 17, and dnspython at 16."""
_TTL_S_MAX = (1 << 31) - 1  # RFC 2181, section 8: more is to be read as 0
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


@dataclass(frozen=True)
class Answer:
    """What one look-up of a name came to.

    Attributes:
        name: what was asked for: lower case, without the dot of the root.
        addresses: IPv4 and IPv6 in canonical text, v4-mapped ones as IPv4, each once, in the answer's order; none: it failed.
        ttl_s: how long this may be relied on: the least of all records that led to it; 0 if there are none.
        cnames: the names its aliases led through, in their order.
        problem: what went wrong, in part or altogether; "" if nothing did.
    """

    name: str
    addresses: tuple[str, ...]
    ttl_s: int
    cnames: tuple[str, ...] = ()
    problem: str = ""


class Record(NamedTuple):
    """One resource record of an answer.

    Attributes:
        name: whose it is, lower case.
        ttl_s: as it was sent, 32 bits.
        value: 4 or 16 bytes of an address, or the name that an alias leads to, lower case.
    """

    name: str
    ttl_s: int
    value: bytes | str


def answer_of(name: str, asked: str, records: Iterable[Record]) -> Answer:
    """Follow the aliases from the name that was asked for, and take the addresses at their end.

    Args:
        name: the name as the watch list has it; it goes into the answer.
        asked: the name in the question, which a search list may have made longer.
        records: of the answer section, of one type of address, and aliases; those of other names are passed over.
    """
    aliases: dict[str, Record] = {}
    at_name: dict[str, list[Record]] = {}
    for record in records:
        if isinstance(record.value, str):
            aliases[record.name] = record
        else:
            at_name.setdefault(record.name, []).append(record)
    chain, ttls_s = [asked], []
    while chain[-1] not in at_name and chain[-1] in aliases:
        alias = aliases[chain[-1]]
        if len(chain) > CHAIN_MAX:  # in a circle, most likely
            return Answer(name, (), 0, tuple(chain[1:]), "its aliases (CNAME) have no end")
        chain.append(str(alias.value))
        ttls_s.append(alias.ttl_s)
    found = at_name.get(chain[-1], [])
    addresses, problem = connectable(ipaddress.ip_address(record.value) for record in found)
    ttls_s += [record.ttl_s for record in found]
    ttl_s = min((ttl_s if ttl_s <= _TTL_S_MAX else 0 for ttl_s in ttls_s), default=0)
    return Answer(name, addresses, ttl_s, tuple(chain[1:]), problem)


def connectable(addresses: Iterable[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> tuple[tuple[str, ...], str]:
    """(addresses in canonical text, each once, "" or what was left out); nobody has a TCP connection to those left out."""
    kept: dict[str, None] = {}
    refused: dict[str, None] = {}
    for address in addresses:
        ip = (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
        text = str(ip).partition("%")[0]
        (refused if ip.is_unspecified or ip.is_multicast or ip == _BROADCAST else kept)[text] = None
    if not refused:
        return tuple(kept), ""
    return tuple(kept), f"addresses that are nobody's are ignored ({min(refused)}{' and others' if len(refused) > 1 else ''})"


def joined(name: str, answers: Iterable[Answer]) -> Answer:
    """The answers for both types of address as one; its TTL is the least of those that have addresses."""
    parts = list(answers)
    return Answer(
        name,
        tuple(dict.fromkeys(address for part in parts for address in part.addresses)),
        min((part.ttl_s for part in parts if part.addresses), default=0),
        tuple(dict.fromkeys(cname for part in parts for cname in part.cnames)),
        "; ".join(dict.fromkeys(part.problem for part in parts if part.problem)),
    )


def failed(name: str, problem: str) -> Answer:
    """An answer without addresses, and why."""
    return Answer(name, (), 0, (), printable(problem))
