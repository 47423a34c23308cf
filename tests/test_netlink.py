"""Netlink: messages walked whatever the bytes, filters equal to what they say, datagrams received whole or not at all."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback import netlink
from fallback.netlink import HEADER, Remote
from tracer.errors import SourceError

V4 = netlink.V4_MAPPED


def packed(address: str) -> bytes:
    ip = ipaddress.ip_address(address)
    return ip.packed if ip.version == 6 else V4 + ip.packed


def message(body: bytes = b"", kind: int = 20, flags: int = 0, sequence: int = 1, length: int | None = None) -> bytes:
    size = HEADER.size + len(body)
    return HEADER.pack(size if length is None else length, kind, flags, sequence, 0) + body + bytes(-size % 4)


def destroyed(family: int, remote: bytes, port: int) -> bytes:
    """The head of a destroy message: all that the filter looks at."""
    address = remote[12:] + bytes(12) if family == socket.AF_INET else remote
    return message(struct.pack("!BBBBHH16s16s", family, 7, 0, 0, 1, port, bytes(16), address) + bytes(32))


def run_bpf(code: bytes, data: bytes) -> int:
    """A classic BPF program, step by step: the slow reference."""
    program = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    at = accumulator = 0
    while True:
        op, yes, no, k = program[at]
        at += 1
        if op == 0x06:
            return int(k)
        if op in (0x20, 0x28, 0x30):
            size = {0x20: 4, 0x28: 2, 0x30: 1}[op]
            accumulator = int.from_bytes(data[k : k + size], "big")
        elif op == 0x54:
            accumulator &= k
        elif op == 0x05:
            at += k
        else:
            assert op == 0x15
            at += yes if accumulator == k else no


def matches(remotes: list[Remote], address: bytes, port: int) -> bool:
    """What a filter means; a port of 0 was cleared by the kernel and passes."""
    bits = "".join(f"{byte:08b}" for byte in address)
    return any(
        bits.startswith("".join(f"{byte:08b}" for byte in remote.address)[: remote.prefix_bits])
        and (remote.port == 0 or port in (0, remote.port))
        for remote in remotes
    )


ADDRESSES = st.sampled_from(
    [packed(text) for text in ("10.0.0.1", "10.0.0.2", "10.1.0.1", "192.0.2.9", "2001:db8::1", "2001:db8::2", "2001:db9::1")]
)
REMOTES = st.builds(
    Remote, ADDRESSES, st.sampled_from([0, 1, 32, 64, 80, 90, 96, 97, 104, 112, 127, 128]), st.sampled_from([0, 443, 5000])
)


@given(st.lists(REMOTES, min_size=1, max_size=6), ADDRESSES, st.sampled_from([0, 443, 5000, 80]))
def test_the_filter_lets_through_what_matches_any_remote(remotes: list[Remote], address: bytes, port: int) -> None:
    families = [socket.AF_INET, socket.AF_INET6] if address.startswith(V4) else [socket.AF_INET6]
    for family in families:
        assert bool(run_bpf(netlink.destroy_filter(remotes), destroyed(family, address, port))) == matches(remotes, address, port)


@pytest.mark.parametrize("remotes", [[], [Remote(packed("2001:db8::1"))] * 1000], ids=["none", "too many"])
def test_a_filter_that_can_not_be_lets_all_through(remotes: list[Remote]) -> None:
    assert run_bpf(netlink.destroy_filter(remotes), destroyed(socket.AF_INET, packed("10.0.0.1"), 443))
    assert netlink.dump_filter(remotes * 4) == b""


def test_the_kernel_takes_filters_of_a_hundred_remotes() -> None:
    remotes = [Remote(packed(f"2001:db8::{number:x}"), 128, 443) for number in range(100)]
    with netlink.open_netlink(0, None, 4096) as opened:
        assert netlink.attach_filter(opened, netlink.destroy_filter(remotes))


def test_a_filter_that_the_kernel_refuses_is_replaced_by_one_that_lets_all_through() -> None:
    with netlink.open_netlink(0, None, 4096) as opened:
        assert not netlink.attach_filter(opened, struct.pack("=HBBI", 0x05, 0, 0, 99))


def test_messages_of_one_datagram_are_walked_in_order() -> None:
    found = list(netlink.messages(memoryview(message(b"abc") + message(b"", kind=3))))
    assert [(each.start, each.length, each.type) for each in found] == [(0, 19, 20), (20, 16, 3)]


@pytest.mark.parametrize("length", [0, 15, 17, 0x7FFFFFFF, 0xFFFFFFFF])
def test_an_impossible_length_ends_the_walk_and_is_told(length: int) -> None:
    found = list(netlink.messages(memoryview(message() + message(length=length))))
    assert [each.length for each in found] == [16, 0]


@given(st.binary(max_size=200))
def test_any_bytes_can_be_walked(data: bytes) -> None:
    for each in netlink.messages(memoryview(data)):
        assert 0 <= each.start <= each.start + each.length <= len(data)


@given(st.binary(max_size=80), st.integers(0, 90), st.integers(0, 3))
def test_an_attribute_found_lies_in_the_message(data: bytes, start: int, wanted: int) -> None:
    found = netlink.find_attribute(memoryview(data), start, wanted)
    assert found is None or (start + 4 <= found[0] and found[0] + found[1] <= len(data))


def test_unknown_and_nested_attributes_are_passed_over() -> None:
    data = struct.pack("=HH4s", 7, 99, b"abc") + struct.pack("=HH4s", 8, 2 | 0x8000, b"info")
    assert netlink.find_attribute(memoryview(data), 0, 2) == (12, 4)


def test_an_error_message_raises_what_the_kernel_said() -> None:
    with pytest.raises(FileNotFoundError):
        netlink.read_answer(memoryview(message(struct.pack("=i", -2), kind=2)), 1)


def test_an_error_cut_short_ends_the_dump() -> None:
    assert netlink.read_answer(memoryview(message(kind=2)), 1).done


def test_an_interrupted_dump_is_told() -> None:
    answer = netlink.read_answer(memoryview(message(b"body", flags=netlink.NLM_F_DUMP_INTR)), 1)
    assert answer.interrupted
    assert len(answer.found) == 1


def test_answers_to_other_requests_are_passed_over() -> None:
    assert netlink.read_answer(memoryview(message(struct.pack("=i", -2), kind=2, sequence=7)), 1) == ([], 0, False, False)


@given(st.binary(max_size=100))
def test_any_answer_is_read_or_an_os_error(data: bytes) -> None:
    try:
        answer = netlink.read_answer(memoryview(data), 0)
    except OSError:
        return
    assert all(each.start + each.length <= len(data) for each in answer.found)


def test_datagrams_too_long_or_not_from_the_kernel_count_as_empty() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        right.setblocking(False)
        receiver = netlink.BatchReceiver(right, slots=4, slot_bytes=64)
        for size in (16, 64, 65, 1):
            left.send(b"x" * size)
        got = receiver.receive()
        assert got.lengths.tolist() == [16, 64, 0, 1]
        assert (got.rows[0, :16] == ord("x")).all()
        assert receiver.receive().empty


def test_a_closed_socket_is_a_source_error() -> None:
    opened = netlink.open_netlink(0, None, 4096)
    receiver = netlink.BatchReceiver(opened)
    opened.close()
    with pytest.raises(SourceError, match="Bad file descriptor"):
        receiver.receive()


def test_a_namespace_that_can_not_be_entered_is_a_source_error() -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(SourceError, match="can't enter the network namespace"):
            netlink.open_netlink(0, null, 4096)
    finally:
        os.close(null)


def test_dump_bytecode_jumps_stay_within_it() -> None:
    code = netlink.dump_filter([Remote(packed("10.0.0.0"), 104, 443), Remote(packed("::"), 0), Remote(packed("2001:db8::1"))])
    at, ends = 0, []
    while at < len(code):
        _, step, otherwise = struct.unpack_from("=BBH", code, at)
        ends.append(at + otherwise)
        at += step
    assert at == len(code)
    assert max(ends) == len(code) + 4
    assert np.all(np.array(ends) % 4 == 0)
