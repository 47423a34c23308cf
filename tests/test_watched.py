"""What is watched: the same answer as the BPF program's map gives, whatever overlaps."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bpf.watch_map import WatchEntry, masked, port_tables
from fallback.netlink import Remote
from fallback.watched import Watched
from tests.traces import v4

ADDRESSES = [v4(f"10.{a}.{b}.{c}") for a in (0, 1) for b in (0, 7) for c in (0, 255)]
ADDRESSES += [ipaddress.IPv6Address(text).packed for text in ("2001:db8::", "2001:db8::1:0", "2001:db9::")]
PORTS = (80, 443, 256, 5000)
ENTRIES = st.lists(
    st.tuples(st.sampled_from(ADDRESSES), st.sampled_from([0, 32, 97, 104, 112, 119, 120, 128]), st.sampled_from([0, *PORTS])),
    max_size=12,
)


def endpoints(entries: Sequence[tuple[bytes, int, int]]) -> list[int]:
    """The endpoint of every address and port, as the source finds it."""
    watched = Watched((Remote(*masked(address, bits), port), number) for number, (address, bits, port) in enumerate(entries, 1))
    every = [(address, port) for address in ADDRESSES for port in PORTS]
    raddr = np.array([list(address) for address, _ in every], np.uint8)
    return watched.endpoint_ids(raddr, np.array([port for _, port in every], np.uint16)).tolist()


def by_the_map(entries: Sequence[tuple[bytes, int, int]]) -> list[int]:
    """The same by the content of the kernel's maps: the longest prefix, then its ports."""
    tables = port_tables(WatchEntry(*entry, number) for number, entry in enumerate(entries, 1))
    found = []
    for address in ADDRESSES:
        fitting = [prefix for prefix in tables if masked(address, prefix.prefix_bits) == prefix]
        table = tables[max(fitting, key=lambda prefix: prefix.prefix_bits)] if fitting else {}
        found += [table.get(port, table.get(0, 0)) for port in PORTS]
    return found


@given(ENTRIES)
def test_looks_and_the_bpf_program_watch_the_same(entries: list[tuple[bytes, int, int]]) -> None:
    assert endpoints(entries) == by_the_map(entries)


def test_a_port_that_is_not_known_is_nobody_s() -> None:
    watched = Watched([(Remote(v4("10.0.0.0"), 104, 0), 1)])
    raddr = np.array([list(v4("10.1.2.3"))] * 2, np.uint8)
    assert watched.endpoint_ids(raddr, np.array([0, 443], np.uint16)).tolist() == [0, 1]


def test_nothing_is_watched_by_nothing() -> None:
    assert endpoints([]) == [0] * len(ADDRESSES) * len(PORTS)
