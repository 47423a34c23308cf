"""Anonymous traces: addresses and names replaced, each always by the same stand-in, so that what happened stays readable.

Times, states, ports and counters stay. Names of well-known registry clients stay too: which client it was is what a capture
is sent for, and it identifies nobody.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tracer.clients import FAMILIES
from tracer.events import EventBatch, Events
from tracer.header import ROLES, RULES, TraceHeader

KNOWN_CLIENTS = frozenset(FAMILIES) | frozenset(
    (
        b"buildah", b"buildkitd", b"containerd", b"cri-o", b"crictl", b"crio", b"ctr", b"curl", b"docker", b"dockerd", b"helm",
        b"kaniko", b"kubelet", b"nerdctl", b"oras", b"podman", b"regctl", b"skopeo",
    )
)  # fmt: skip
_V4_PREFIX = bytes(10) + b"\xff\xff" + b"\xc6\x12"  # 198.18.0.0/15, RFC 2544: for tests, routed nowhere
_V4_PRIVATE_PREFIX = bytes(10) + b"\xff\xff" + b"\x0a\x00"  # 10.0.0.0/16: what was private stays so, as rules ask for it
_V6_PREFIX = b"\x20\x01\x0d\xb8" + bytes(8)  # 2001:db8::/32, RFC 3849: for documentation
_RELEASE = re.compile(r"^(\d+\.\d+).*")  # what follows the second number says who built it, and for what machine
_V4_MAPPED = bytes(10) + b"\xff\xff"


class Anonymiser:
    """Replaces, remembering what by what."""

    def __init__(self) -> None:
        self._addresses: dict[bytes, bytes] = {bytes(16): bytes(16)}
        self._comms: dict[bytes, bytes] = {}
        self._numbers: dict[str, dict[int, int]] = {"skaddr": {}, "cgroup_id": {}, "netns": {}}

    def header(self, header: TraceHeader) -> TraceHeader:
        """The header without host and names; labels keep their number and port, the kernel its version."""
        endpoints = {number: self._label(number, label) for number, label in header.endpoints.items()}
        kernel = " ".join(_RELEASE.sub(r"\1", word) for word in header.kernel.split())
        why = f"recorded from {header.source} and anonymised"
        settings = {name: header.settings[name] for name in (ROLES, RULES) if name in header.settings} | {"anonymised": "yes"}
        return replace(header, host="", kernel=kernel, why=why, endpoints=endpoints, settings=settings)

    def batch(self, batch: EventBatch) -> EventBatch:
        """The batch with stand-ins."""
        events = batch.events.copy()
        for field in ("saddr", "daddr"):
            events[field] = self._replaced_addresses(events[field])
        for field, numbers in self._numbers.items():
            events[field] = _renumbered(events[field], numbers)
        self._replace_comms(events)
        endpoints = tuple((number, self._label(number, label)) for number, label in batch.endpoints)
        return replace(batch, events=events, endpoints=endpoints)

    def _label(self, number: int, label: str) -> str:
        port = label.rpartition(":")[2]
        known = port == "*" or (port.isascii() and port.isdigit())
        return f"registry-{number}:{port}" if known else f"registry-{number}"

    def _replaced_addresses(self, column: NDArray[np.uint8]) -> NDArray[np.uint8]:
        unique, inverse = np.unique(column, axis=0, return_inverse=True)
        stand_ins = [self._address(row.tobytes()) for row in unique]
        joined = np.frombuffer(b"".join(stand_ins), np.uint8).reshape(len(unique), 16)
        return joined[inverse.reshape(-1)]

    def _address(self, address: bytes) -> bytes:
        known = self._addresses.get(address)
        if known is None:
            number = len(self._addresses)
            mapped = address.startswith(_V4_MAPPED) and number < 1 << 16
            known = (
                (_V4_PRIVATE_PREFIX if _is_private(address) else _V4_PREFIX) + number.to_bytes(2, "big")
                if mapped
                else _V6_PREFIX + number.to_bytes(4, "big")
            )
            self._addresses[address] = known
        return known

    def _replace_comms(self, events: Events) -> None:
        unique, inverse = np.unique(events["comm"], return_inverse=True)
        for comm in unique.tolist():
            if comm and comm not in KNOWN_CLIENTS:
                self._comms.setdefault(comm, b"process-%d" % (len(self._comms) + 1))
        events["comm"] = np.array([self._comms.get(comm, comm) for comm in unique.tolist()], "S16")[inverse]


def _is_private(address: bytes) -> bool:
    """Whether a v4-mapped address is of RFC 1918."""
    first, second = address[12], address[13]
    return first == 10 or (first == 172 and 16 <= second < 32) or (first == 192 and second == 168)


def _renumbered(column: NDArray[np.unsignedinteger], numbers: dict[int, int]) -> NDArray[np.int64]:
    """Each value by its rank of first appearance, from 1; 0 stays."""
    unique, first, inverse = np.unique(column, return_index=True, return_inverse=True)
    for value in unique[np.argsort(first)].tolist():
        if value:
            numbers.setdefault(value, len(numbers) + 1)
    return np.array([numbers.get(value, 0) for value in unique.tolist()], np.int64)[inverse]
