"""What is watched, as rows are compared with it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fallback.netlink import Remote

_ADDRESS_BITS = 128


class Watched:
    """Remote sides and the endpoint that each belongs to.

    Where several match, the most specific prefix wins, at the same prefix a port wins over any port, and then the first one: as
    in the kernel's map of the BPF program.

    Attributes:
        remotes: what the kernel may be told to look for.
    """

    def __init__(self, entries: Iterable[tuple[Remote, int]] = ()) -> None:
        """Take (remote, endpoint id) pairs; ids begin with 1."""
        ordered = sorted(entries, key=lambda entry: (-entry[0].prefix_bits, entry[0].port == 0))
        self.remotes = tuple(remote for remote, _ in ordered)
        exact: dict[bytes, int] = {}
        self._others: list[tuple[Remote, int]] = []
        for remote, endpoint_id in ordered:
            if remote.prefix_bits == _ADDRESS_BITS and remote.port:
                exact.setdefault(remote.address + remote.port.to_bytes(2, "big"), endpoint_id)
            else:
                self._others.append((remote, endpoint_id))
        keys = sorted(exact)
        # Of fixed length: that numpy ignores zero bytes at the end of an S18 makes no two of them equal that are not.
        self._keys = np.array(keys, "S18")
        self._ids = np.array([exact[key] for key in keys], np.uint32)

    def __len__(self) -> int:
        return len(self.remotes)

    def has_address(self, raddr: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which addresses, shape (n, 16), are watched on any port: bool, shape (n,)."""
        found = np.zeros(len(raddr), bool)
        if len(raddr):
            for address, bits in {(remote.address, remote.prefix_bits) for remote in self.remotes}:
                found |= _matches(raddr, Remote(address, bits))
        return found

    def endpoint_ids(self, raddr: NDArray[np.uint8], rport: NDArray[np.uint16]) -> NDArray[np.uint32]:
        """The endpoint of each remote side.

        Args:
            raddr: addresses in network order, IPv4 as v4-mapped, shape (n, 16).
            rport: ports in host order, shape (n,); 0 is a port that is not known, and no endpoint's.

        Returns:
            Endpoint ids, shape (n,); 0 where it is not watched.
        """
        found = np.zeros(len(rport), np.uint32)
        if len(self._keys):
            wanted = np.empty((len(rport), 18), np.uint8)
            wanted[:, :16], wanted[:, 16:] = raddr, rport.astype(">u2").view(np.uint8).reshape(len(rport), 2)
            keys = wanted.view("S18")[:, 0]
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            found = np.where(self._keys[at] == keys, self._ids[at], found)
        for remote, endpoint_id in self._others:
            left = np.flatnonzero(found == 0)
            matches = _matches(raddr[left], remote) & ((rport[left] == remote.port) | (remote.port == 0))
            found[left[matches]] = endpoint_id
        found[rport == 0] = 0
        return found


def _matches(raddr: NDArray[np.uint8], remote: Remote) -> NDArray[np.bool_]:
    """Which addresses, shape (n, 16), lie in a prefix: bool, shape (n,)."""
    whole, bits = divmod(remote.prefix_bits, 8)
    prefix = np.frombuffer(remote.address, np.uint8)
    matches = (raddr[:, :whole] == prefix[:whole]).all(axis=1)
    if bits:
        mask = np.uint8(0xFF00 >> bits & 0xFF)
        matches &= (raddr[:, whole] ^ prefix[whole]) & mask == 0
    return np.asarray(matches, bool)
