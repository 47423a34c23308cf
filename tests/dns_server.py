"""A DNS server on loopback, UDP and TCP, that answers each name as told: well, badly, late or never."""

from __future__ import annotations

import heapq
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Query = dns.message.Message
Reply = bytes | tuple[float, bytes]
"""What to send, or in how many seconds to send what."""
Treatment = Callable[[Query, bool], Iterable[Reply]]
"""(the query, whether it came by TCP) -> replies, none or several."""


class DnsServer:
    """Serves in a thread of its own.

    Attributes:
        zone: how to treat names, in lower case; others are told that they don't exist.
        asked: (name, type) of each query, in order.
        port: the same for UDP and TCP.
    """

    def __init__(self, zone: dict[str, Treatment] | None = None, port: int = 0, host: str = "127.0.0.1") -> None:
        self.zone = dict(zone or {})
        self.asked: list[tuple[str, str]] = []
        self._udp, self._tcp = _bound(host, port)
        self.host, self.port = host, self._udp.getsockname()[1]
        self._late: list[tuple[float, int, bytes, object]] = []
        self._stopped, self._stop = socket.socketpair()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def close(self) -> None:
        self._stop.close()
        self._thread.join()
        for each in (self._udp, self._tcp, self._stopped):
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for each in (self._udp, self._tcp, self._stopped):
                selector.register(each, selectors.EVENT_READ)
            while True:
                wait_s = max(self._late[0][0] - time.monotonic(), 0) if self._late else None
                ready = {key.fileobj for key, _ in selector.select(wait_s)}
                if self._stopped in ready:
                    return
                if self._udp in ready:
                    self._by_udp()
                if self._tcp in ready:
                    self._by_tcp()
                while self._late and self._late[0][0] <= time.monotonic():
                    _, _, reply, peer = heapq.heappop(self._late)
                    self._send(reply, peer)

    def _by_udp(self) -> None:
        wire, peer = self._udp.recvfrom(65535)
        for reply in self._replies(wire, tcp=False):
            if isinstance(reply, bytes):
                self._send(reply, peer)
            else:
                heapq.heappush(self._late, (time.monotonic() + reply[0], len(self.asked), reply[1], peer))

    def _send(self, reply: bytes, peer: object) -> None:
        with suppress(OSError):  # whoever asked may be gone
            self._udp.sendto(reply, peer)  # type: ignore[arg-type]

    def _by_tcp(self) -> None:
        connection, _ = self._tcp.accept()
        with connection, suppress(OSError):
            connection.settimeout(5)
            length = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))[0]
            for reply in self._replies(connection.recv(length, socket.MSG_WAITALL), tcp=True):
                assert isinstance(reply, bytes)
                connection.sendall(struct.pack("!H", len(reply)) + reply)

    def _replies(self, wire: bytes, *, tcp: bool) -> Iterable[Reply]:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        self.asked.append((name, dns.rdatatype.to_text(question.rdtype)))
        return self.zone.get(name, error("NXDOMAIN"))(query, tcp)


def _bound(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Sockets for UDP and TCP with the same port; for port 0 one that is free for both."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for attempts_left in reversed(range(20)):
        udp, tcp = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            udp.bind((host, port))
            tcp.bind((host, udp.getsockname()[1]))
            tcp.listen()
        except OSError:
            udp.close()
            tcp.close()
            if port or not attempts_left:
                raise
        else:
            return udp, tcp
    raise AssertionError


def response(query: Query, *records: str) -> dns.message.Message:
    """A response with records as "name ttl type value" in its answer section."""
    made = dns.message.make_response(query)
    made.flags |= dns.flags.RA
    sets: dict[tuple[str, int, str], list[str]] = {}
    for record in records:
        name, ttl_s, kind, value = record.split()
        sets.setdefault((name, int(ttl_s), kind), []).append(value)
    made.answer += [dns.rrset.from_text(name, ttl_s, "IN", kind, *values) for (name, ttl_s, kind), values in sets.items()]
    return made


def of_type(query: Query, *addresses: str) -> list[str]:
    """Those of the type that was asked for."""
    wants_v6 = query.question[0].rdtype == dns.rdatatype.AAAA
    return [address for address in addresses if (":" in address) == wants_v6]


def address_records(query: Query, addresses: Iterable[str], ttl_s: int, owner: str = "") -> list[str]:
    question = query.question[0]
    name, kind = owner or question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
    return [f"{name} {ttl_s} {kind} {address}" for address in of_type(query, *addresses)]


def answers(*addresses: str, ttl_s: int = 30) -> Treatment:
    """These addresses, of the type that was asked for."""
    return lambda query, tcp: [response(query, *address_records(query, addresses, ttl_s)).to_wire()]


def rotating(*groups: tuple[str, ...], ttl_s: int = 30) -> Treatment:
    """Another group of addresses each time that a type is asked for."""
    turns: dict[int, int] = {}

    def treat(query: Query, tcp: bool) -> list[Reply]:
        kind = query.question[0].rdtype
        turn = turns[kind] = turns.get(kind, -1) + 1
        return [response(query, *address_records(query, groups[turn % len(groups)], ttl_s)).to_wire()]

    return treat


def through(*names: str, addresses: tuple[str, ...], ttls_s: tuple[int, ...]) -> Treatment:
    """A chain of aliases in one answer, with a TTL for each and the last for the addresses."""

    def treat(query: Query, tcp: bool) -> list[Reply]:
        owners = [query.question[0].name.to_text(), *names]
        links = [f"{owner} {ttl_s} CNAME {target}" for owner, target, ttl_s in zip(owners, names, ttls_s, strict=False)]
        return [response(query, *links, *address_records(query, addresses, ttls_s[-1], names[-1])).to_wire()]

    return treat


def records(*lines: str) -> Treatment:
    """These records, whatever they are, as "name ttl type value"."""
    return lambda query, tcp: [response(query, *lines).to_wire()]


def error(rcode: str) -> Treatment:
    def treat(query: Query, tcp: bool) -> list[Reply]:
        made = response(query)
        made.set_rcode(dns.rcode.from_text(rcode))
        return [made.to_wire()]

    return treat


def by_type(v4: Treatment, v6: Treatment) -> Treatment:
    return lambda query, tcp: (v6 if query.question[0].rdtype == dns.rdatatype.AAAA else v4)(query, tcp)


def truncated(then: Treatment) -> Treatment:
    """Nothing but TC=1 by UDP; the treatment by TCP."""

    def treat(query: Query, tcp: bool) -> Iterable[Reply]:
        if tcp:
            return then(query, tcp)
        made = response(query)
        made.flags |= dns.flags.TC
        return [made.to_wire()]

    return treat


def never(query: Query, tcp: bool) -> list[Reply]:
    return []


def late(delay_s: float, then: Treatment) -> Treatment:
    return lambda query, tcp: [(delay_s, reply) for reply in then(query, tcp) if isinstance(reply, bytes)]


def many(n_addresses: int, ttl_s: int = 30) -> Treatment:
    """So many IPv4 addresses in one answer; 64 KiB hold 4,095."""

    def treat(query: Query, tcp: bool) -> list[Reply]:
        question = query.question[0]
        made = response(query)
        if question.rdtype == dns.rdatatype.A:
            texts = [f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}" for at in range(n_addresses)]
            made.answer.append(dns.rrset.from_text(question.name, ttl_s, "IN", "A", *texts))
        return [made.to_wire(max_size=65535)]

    return treat


def garbage(query: Query, tcp: bool) -> list[Reply]:
    """Bytes that are no message, with the right identifier."""
    return [struct.pack("!H", query.id) + b"\x81\x80\xff\xff\xff\xff" + b"\xc0\x0c" * 40]


def poisoned(with_address: str, then: Treatment) -> Treatment:
    """Before the true reply, those of an attacker: a wrong identifier, another question, no question."""

    def treat(query: Query, tcp: bool) -> Iterable[Reply]:
        question = query.question[0]
        forged = response(query, *address_records(query, [with_address], 3600))
        forged.id ^= 1
        other = dns.message.make_query("other.example.", question.rdtype)
        other.id = query.id
        elsewhere = response(other, *address_records(query, [with_address], 3600))
        unasked = response(query, *address_records(query, [with_address], 3600))
        unasked.question = []
        return [forged.to_wire(), elsewhere.to_wire(), unasked.to_wire(), *then(query, tcp)]

    return treat
