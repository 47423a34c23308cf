"""Anonymous traces: addresses and names replaced, each always by the same stand-in, so that what happened stays readable.

Times, states, ports and counters stay. Names of well-known registry clients stay too: which client it was is what a capture
is sent for, and it identifies nobody.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tracer.clients import FAMILIES
from tracer.endpoints import prefix_of
from tracer.events import EventBatch, Events
from tracer.facts import AddressFact, EndpointFact, Fact
from tracer.header import ROLES, RULES, TraceHeader
from tracer.owners.owner import OwnerDetail
from tracer.text import address_text

KNOWN_CLIENTS = frozenset(FAMILIES) | frozenset(
    (
        b"buildah", b"buildkitd", b"containerd", b"cri-o", b"crictl", b"crio", b"ctr", b"curl", b"docker", b"dockerd", b"helm",
        b"kaniko", b"kubelet", b"nerdctl", b"oras", b"podman", b"regctl", b"skopeo",
    )
)  # fmt: skip
KNOWN_UNITS = frozenset(
    f"{name}.service"
    for name in ("buildkit", "containerd", "crio", "docker", "k3s", "k3s-agent", "kubelet", "podman", "rke2-agent", "rke2-server")
)
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
        self._names: dict[str, dict[str, str]] = {}  # by kind
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
        facts = tuple(map(self._fact, batch.facts))
        switched = "the source before it died" if batch.switched else ""
        return replace(batch, events=events, endpoints=endpoints, facts=facts, switched=switched)

    def _fact(self, fact: Fact) -> Fact:
        if isinstance(fact, EndpointFact):
            label = self._label(fact.endpoint_id, fact.label)
            return EndpointFact(
                fact.endpoint_id, label, fact.role, "learnt" if fact.learnt else "", fact.mirror_of and "*", fact.learnt
            )
        if isinstance(fact, AddressFact):
            network = ipaddress.ip_network(fact.address)
            stand_in = address_text(self._address(prefix_of(network)[0]))
            return replace(fact, address=str(stand_in))
        return self._owner(fact)

    def _owner(self, owner: OwnerDetail) -> OwnerDetail:
        """What stays is what kind of thing it is in: the runtime, a well-known service, the host's namespace."""
        unit = owner.unit if owner.unit in KNOWN_UNITS else self._name("unit", owner.unit)
        netns_name = (
            owner.netns_name if owner.netns_name in ("host", "own", "container") else self._name("netns", owner.netns_name)
        )
        return OwnerDetail(
            pid=owner.pid,
            started_ns=owner.started_ns,
            comm=self._comm(owner.comm),
            cgroup_id=self._number("cgroup_id", owner.cgroup_id),
            container=self._name("container", owner.container),
            runtime=owner.runtime,
            pod=self._name("pod", owner.pod),
            unit=unit,
            netns=self._number("netns", owner.netns),
            netns_name=netns_name,
        )

    def _name(self, kind: str, name: str) -> str:
        """The same stand-in for the same name; nothing for none."""
        names = self._names.setdefault(kind, {})
        return names.setdefault(name, f"{kind}-{len(names) + 1}") if name else ""

    def _number(self, field: str, value: int) -> int:
        """As in events; 0 and unknown stay."""
        numbers = self._numbers[field]
        return numbers.setdefault(value, len(numbers) + 1) if value > 0 else value

    def _comm(self, comm: bytes) -> bytes:
        if not comm or comm in KNOWN_CLIENTS:
            return comm
        return self._comms.setdefault(comm[:15], b"process-%d" % (len(self._comms) + 1))

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
        events["comm"] = np.array([self._comm(comm) for comm in unique.tolist()], "S16")[inverse]


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
