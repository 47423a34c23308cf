"""Which endpoint a remote address and port belong to: the kernel's look-up, played by this test, against the obvious rule."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpf import watch_map
from bpf.watch_map import PORT_KEY, PREFIX_KEY, PREFIX_VALUE, WatchEntry, WatchMap
from tracer.errors import SourceError

MAPPED = bytes(10) + b"\xff\xff"


class FakeMap:
    """A kernel map in memory."""

    def __init__(self) -> None:
        self.content: dict[bytes, bytes] = {}

    def update(self, key: bytes, value: bytes) -> None:
        self.content[key] = value

    def delete(self, key: bytes) -> None:
        self.content.pop(key, None)

    def close(self) -> None:
        self.content.clear()


def lookup(prefixes: FakeMap, ports: FakeMap, address: bytes, port: int) -> int:
    """What tcp_states.c does: longest prefix, then its port, then its default."""
    best, found = -1, None
    for key, value in prefixes.content.items():
        bits, prefix = PREFIX_KEY.unpack(key)
        if bits > best and watch_map.masked(address, bits).address == prefix:
            best, found = bits, PREFIX_VALUE.unpack(value)
    if found is None:
        return 0
    listed = ports.content.get(PORT_KEY.pack(found[0], port))
    return int(struct.unpack("=I", listed)[0]) if listed else int(found[1])


def obvious(entries: list[WatchEntry], address: bytes, port: int) -> int:
    """The most specific entry that matches; a port beats any; the first of equals."""

    def covers(entry: WatchEntry) -> bool:
        return watch_map.masked(entry.address, entry.prefix_bits) == watch_map.masked(address, entry.prefix_bits)

    matching = [entry for entry in entries if entry.port in (0, port) and covers(entry)]
    ranked = sorted(matching, key=lambda entry: (-entry.prefix_bits, entry.port == 0))
    return ranked[0].endpoint_id if ranked else 0


def v4(address: int) -> bytes:
    return MAPPED + address.to_bytes(4, "big")


addresses = st.integers(0, 15).map(lambda low: v4(0x0A000000 + low))
entry_lists = st.lists(
    st.tuples(addresses, st.sampled_from([96, 104, 120, 124, 126, 127, 128]), st.sampled_from([0, 80, 443, 5000])), max_size=8
).map(lambda parts: [WatchEntry(*part, number + 1) for number, part in enumerate(parts)])


@settings(deadline=None, max_examples=200)
@given(st.lists(entry_lists, min_size=1, max_size=4), addresses, st.sampled_from([80, 443, 5000, 9]))
def test_lookup_is_the_obvious_rule_after_any_changes(changes: list[list[WatchEntry]], address: bytes, port: int) -> None:
    prefixes, ports = FakeMap(), FakeMap()
    watched = WatchMap(prefixes, ports)  # type: ignore[arg-type]
    for entries in changes:
        watched.replace(entries)
        assert lookup(prefixes, ports, address, port) == obvious(entries, address, port)


def test_nothing_of_old_entries_stays() -> None:
    """The maps do not fill up with what is no longer watched."""
    prefixes, ports = FakeMap(), FakeMap()
    watched = WatchMap(prefixes, ports)  # type: ignore[arg-type]
    for number in range(100):
        watched.replace([WatchEntry(v4(number), 128, 443, 1)])
    assert (len(prefixes.content), len(ports.content)) == (1, 1)


def test_too_many_entries_are_refused_before_anything_changes() -> None:
    prefixes, ports = FakeMap(), FakeMap()
    watched = WatchMap(prefixes, ports)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="wider CIDR"):
        watched.replace(WatchEntry(v4(number), 128, 443, 1) for number in range(watch_map.PREFIXES_MAX + 1))
    assert not prefixes.content


def test_a_refusal_of_the_kernel_says_so() -> None:
    class Full(FakeMap):
        def update(self, key: bytes, value: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SourceError, match="No space left"):
        WatchMap(Full(), FakeMap()).replace([WatchEntry(v4(1), 128, 0, 1)])  # type: ignore[arg-type]
