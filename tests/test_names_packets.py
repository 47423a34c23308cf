"""tracer.names.packets: DNS messages in packets; what is cut off, in pieces or something else has none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.names.packets import dns_messages

MESSAGE = b"a message of DNS"
UDP, TCP = 17, 6


def udp(payload: bytes = MESSAGE, source: int = 53) -> bytes:
    return struct.pack("!HHHH", source, 40000, 8 + len(payload), 0) + payload


def tcp(payload: bytes, source: int = 53, options: bytes = b"") -> bytes:
    header_words = 5 + len(options) // 4
    return struct.pack("!HHIIBBHHH", source, 40000, 1, 1, header_words << 4, 0x18, 512, 0, 0) + options + payload


def with_length(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


def ipv4(payload: bytes, protocol: int = UDP, *, options: bytes = b"", fragment: int = 0x4000) -> bytes:
    header_words = 5 + len(options) // 4
    total = header_words * 4 + len(payload)
    fixed = struct.pack(
        "!BBHHHBBH4s4s", 0x40 | header_words, 0, total, 1, fragment, 64, protocol, 0, b"\x0a\0\0\1", b"\x0a\0\0\2"
    )
    return fixed + options + payload


def ipv6(payload: bytes, protocol: int = UDP) -> bytes:
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, 64, bytes(15) + b"\1", bytes(15) + b"\2") + payload


def extended(n_extensions: int, payload: bytes, protocol: int = UDP) -> bytes:
    """An IPv6 packet with so many destination options in front of its payload."""
    chain = b"".join(struct.pack("!BB", 60 if at + 1 < n_extensions else protocol, 0) + bytes(6) for at in range(n_extensions))
    return ipv6(chain + payload, 60 if n_extensions else protocol)


@pytest.mark.parametrize(
    "packet",
    [
        ipv4(udp()),
        ipv4(udp(), options=bytes(40)),
        ipv4(udp(), fragment=0),
        ipv4(udp()) + b"padding of Ethernet",
        ipv6(udp()),
        ipv6(udp()) + bytes(7),
        extended(1, udp()),
        extended(5, udp()),
        ipv4(tcp(with_length(MESSAGE)), TCP),
        ipv4(tcp(with_length(MESSAGE), options=bytes(40)), TCP),
        ipv6(tcp(with_length(MESSAGE)), TCP),
        ipv4(tcp(with_length(MESSAGE) + b"\xff\xffbegins only"), TCP),
    ],
)
def test_a_whole_message_is_found(packet: bytes) -> None:
    assert dns_messages(packet) == [MESSAGE]


def test_several_messages_of_a_segment_are_found() -> None:
    assert dns_messages(ipv4(tcp(with_length(b"one") + with_length(b"two")), TCP)) == [b"one", b"two"]


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45",
        b"\x00" * 60,
        ipv4(udp(source=5353)),
        ipv6(udp(source=5353)),
        ipv4(tcp(with_length(MESSAGE), source=443), TCP),
        ipv4(udp(), 1),
        ipv4(udp(), fragment=0x2000),
        ipv4(udp(), fragment=0x0001),
        ipv6(struct.pack("!BBHI", UDP, 0, 0, 1) + udp(), 44),
        ipv4(udp(b"")),
        ipv4(tcp(b""), TCP),
        ipv4(tcp(with_length(MESSAGE)[:-1]), TCP),
        ipv4(tcp(b"\0\0" * 100), TCP),
        ipv4(udp())[:-1],
        ipv6(udp())[:-1],
        b"\x4f" + ipv4(udp())[1:30],
        b"\x41" + ipv4(udp())[1:],
        extended(200, udp()),
        ipv6(b"", 60),
    ],
)
def test_anything_else_has_no_message(packet: bytes) -> None:
    assert dns_messages(packet) == []


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(
        [ipv4(udp()), ipv6(udp()), extended(2, udp()), ipv4(tcp(with_length(MESSAGE)), TCP), b"\x45" * 80, b"\x60" * 80]
    ),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 255)), max_size=6),
    st.integers(0, 60),
)
def test_no_bytes_raise_anything_and_messages_are_parts_of_the_packet(
    packet: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    mutilated = bytearray(packet)
    for at, value in changes:
        mutilated[at % len(packet)] = value
    packet = bytes(mutilated[: len(mutilated) - cut])
    for message in dns_messages(packet):
        assert message
        assert message in packet
