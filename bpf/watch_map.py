"""Which remote addresses the program watches, as the content of its two maps, changed while it runs and without a gap.

The kernel makes one longest-prefix look-up per transition. The most specific prefix alone would hide a wider one that
names another port, so each prefix's list of ports is made complete here: it inherits what the prefixes around it say.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from bpf.syscall import BpfMap
from tracer.errors import SourceError

PREFIXES_MAX = 16384
PORTS_MAX = 65536
PREFIX_KEY = struct.Struct("=I16s")  # struct watch_prefix_key
PREFIX_VALUE = struct.Struct("=II")  # struct watch_prefix
PORT_KEY = struct.Struct("=II")  # struct watch_port_key
PORT_VALUE = struct.Struct("=I")
_ADDRESS_BITS = 128


class WatchEntry(NamedTuple):
    """One thing to watch.

    Attributes:
        address: 16 bytes, network order; IPv4 v4-mapped.
        prefix_bits: how many leading bits count, 0..128 (IPv4 prefixes from 96).
        port: 1..65535, or 0 for any.
        endpoint_id: what matching events carry; at least 1.
    """

    address: bytes
    prefix_bits: int
    port: int
    endpoint_id: int


class Prefix(NamedTuple):
    """A prefix of the kernel's map: masked address and number of bits."""

    address: bytes
    prefix_bits: int


def masked(address: bytes, prefix_bits: int) -> Prefix:
    """The prefix with the bits behind it cleared."""
    keep = (1 << _ADDRESS_BITS) - (1 << (_ADDRESS_BITS - prefix_bits))
    return Prefix((int.from_bytes(address, "big") & keep).to_bytes(16, "big"), prefix_bits)


def port_tables(entries: Iterable[WatchEntry]) -> dict[Prefix, dict[int, int]]:
    """For each prefix, the endpoint of every port a connection to it may match (0: any other port).

    Where two entries say the same prefix and port, the first one wins; a more specific prefix wins over a wider one, and
    at the same prefix a port wins over "any".
    """
    own: dict[Prefix, dict[int, int]] = {}
    for entry in entries:
        own.setdefault(masked(entry.address, entry.prefix_bits), {}).setdefault(entry.port, entry.endpoint_id)
    lengths = sorted({prefix.prefix_bits for prefix in own})
    tables: dict[Prefix, dict[int, int]] = {}
    for prefix in sorted(own, key=lambda prefix: prefix.prefix_bits):
        table: dict[int, int] = {}
        for bits in lengths:
            if bits > prefix.prefix_bits:
                break
            inner = own.get(masked(prefix.address, bits))
            if inner is None:
                continue
            if 0 in inner:
                table.clear()  # any port of the more specific prefix hides every port of the wider ones
            table.update(inner)
        tables[prefix] = table
    return tables


class WatchMap:
    """The two kernel maps, and what is in them."""

    def __init__(self, prefixes: BpfMap, ports: BpfMap) -> None:
        self._prefixes = prefixes
        self._ports = ports
        self._installed: dict[Prefix, tuple[int, dict[int, int]]] = {}  # prefix -> (prefix id, ports)
        self._last_prefix_id = 0

    def replace(self, entries: Iterable[WatchEntry]) -> None:
        """Watch these and nothing else.

        Ports are written under a prefix id of their own before the prefix points to them, and old ones are removed
        afterwards: an address that stays is watched at every moment.

        Raises:
            SourceError: more prefixes or ports than the maps hold, or the kernel refuses.
        """
        wanted = port_tables(entries)
        if len(wanted) > PREFIXES_MAX or sum(map(len, wanted.values())) * 2 > PORTS_MAX:
            raise SourceError(
                f"{len(wanted)} prefixes with {sum(map(len, wanted.values()))} ports are more than the kernel's map holds "
                f"({PREFIXES_MAX} prefixes, {PORTS_MAX // 2} ports); watch a wider CIDR instead"
            )
        stale: list[tuple[int, dict[int, int]]] = []
        try:
            for prefix, table in wanted.items():
                old = self._installed.get(prefix)
                if old is not None and old[1] == table:
                    continue
                if old is not None:
                    stale.append(old)
                self._install(prefix, table)
            for prefix in [prefix for prefix in self._installed if prefix not in wanted]:
                self._prefixes.delete(PREFIX_KEY.pack(prefix.prefix_bits, prefix.address))
                stale.append(self._installed.pop(prefix))
            for prefix_id, table in stale:
                for port in table:
                    if port:
                        self._ports.delete(PORT_KEY.pack(prefix_id, port))
        except OSError as error:
            raise SourceError(f"the kernel's map of watched addresses can't be changed: {error.strerror}") from error

    def _install(self, prefix: Prefix, table: dict[int, int]) -> None:
        self._last_prefix_id += 1
        for port, endpoint_id in table.items():
            if port:
                self._ports.update(PORT_KEY.pack(self._last_prefix_id, port), PORT_VALUE.pack(endpoint_id))
        self._prefixes.update(
            PREFIX_KEY.pack(prefix.prefix_bits, prefix.address), PREFIX_VALUE.pack(self._last_prefix_id, table.get(0, 0))
        )
        self._installed[prefix] = (self._last_prefix_id, dict(table))

    def close(self) -> None:
        """Give the maps back."""
        self._prefixes.close()
        self._ports.close()
