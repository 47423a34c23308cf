"""Which connections of a host's are wanted, and as which endpoints. Pure: names are given with their addresses, not looked up."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tracer.endpoints import ANY_PORT, Endpoint, network_label, parse_endpoint, prefix_of
from tracer.errors import UsageError
from tracer.events import Events
from tracer.watchlist import WatchList

DEFAULT_PORTS = (443, 80, 5000)
"""HTTPS, HTTP, and what registries without TLS listen on."""
_OTHERS_MAX = 1 << 14
_KNOWN_MAX = 1 << 18
_BITS = 128


class Selection:
    """What is wanted: endpoints by address, and every address at some ports.

    Attributes:
        watched: the endpoints; those of ports are added as they appear.
        others: remote ends that are not wanted, with their number of transitions; not all of them, if there are many.
    """

    def __init__(self, registries: Sequence[str], ports: Iterable[int]) -> None:
        """Specifications and ports; where there are neither, DEFAULT_PORTS.

        Raises:
            UsageError: a specification can't be parsed, or is a name without an address.
        """
        self.watched = WatchList()
        self.others: Counter[tuple[bytes, int]] = Counter()
        for text in registries:
            _add(self.watched, text)
        self.ports = frozenset(ports) or (frozenset() if registries else frozenset(DEFAULT_PORTS))
        self._prefixes = sorted(self._watched_prefixes(), key=lambda found: (-found[1], found[2] == ANY_PORT))
        self._numbers: dict[tuple[bytes, int], int] = {}

    def _watched_prefixes(self) -> Iterable[tuple[int, int, int, int]]:
        """(address as a number, bits, port, endpoint id) of what was named."""
        for number, members in self.watched.watch().items():
            for endpoint in members:
                if endpoint.network is not None:
                    packed, bits = prefix_of(endpoint.network)
                    yield int.from_bytes(packed, "big") >> (_BITS - bits), bits, endpoint.port, number

    def endpoints(self, events: Events) -> NDArray[np.uint32]:
        """The endpoint id of each event, shape (n_events,); 0: it is not wanted."""
        remotes = list(zip((address.tobytes() for address in events["daddr"]), events["dport"].tolist(), strict=True))
        numbers = self._numbers
        if len(numbers) > _KNOWN_MAX:
            numbers.clear()
        found = np.zeros(len(events), np.uint32)
        for index, remote in enumerate(remotes):
            number = numbers.get(remote)
            if number is None:
                number = numbers[remote] = self._number(*remote)
            if number:
                found[index] = number
            elif remote in self.others or len(self.others) < _OTHERS_MAX:
                self.others[remote] += 1
        return found

    def _number(self, address: bytes, port: int) -> int:
        value = int.from_bytes(address, "big")
        for prefix, bits, wanted_port, number in self._prefixes:
            if wanted_port in (ANY_PORT, port) and value >> (_BITS - bits) == prefix:
                return number
        if port not in self.ports:
            return 0
        ip = ipaddress.IPv6Address(address)
        network = ipaddress.ip_network(ip.ipv4_mapped or ip)
        return self.watched.add(Endpoint(f"{network_label(network)}:{port}", None, network, port), origin=f"remote port {port}")

    def texts(self) -> list[str]:
        """What is wanted, for people."""
        ports = ", ".join(map(str, sorted(self.ports)))
        return [*self.watched.texts(), *([f"every address at port {ports}"] if ports else [])]


def _add(watched: WatchList, text: str) -> None:
    """Take a specification: an address, a network, or NAME=ADDRESS[:PORT]."""
    name, equals, place = text.rpartition("=")
    endpoint = parse_endpoint(place)
    if endpoint.network is None:
        raise UsageError(
            f"registry {text!r}: names are not looked up for an import; give the address too, as NAME=ADDRESS[:PORT]"
        )
    if not equals:
        watched.add(endpoint, origin="--registry")
        return
    port = "*" if endpoint.port == ANY_PORT else endpoint.port
    named = parse_endpoint(f"{name}:{port}")
    if named.host is None:
        raise UsageError(f"registry {text!r}: {name!r} is no name: expected NAME=ADDRESS[:PORT]")
    watched.add(named, origin="--registry")
    single = endpoint.network.prefixlen == endpoint.network.max_prefixlen
    watched.change(named.host, str(endpoint.network.network_address if single else endpoint.network), True, 0)
