"""The watch list: endpoints with what is known of them, and the addresses behind their names. Pure.

Numbers are given from 1 and never change; addresses come and go. An endpoint that was learnt is watched like any other, and what
is not its business is left out by `tracer.learner`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from tracer.endpoints import ANY_PORT, Endpoint, Network, network_label
from tracer.facts import AddressFact, EndpointFact, Fact
from tracer.roles import Role, role_of

NETWORKS_MAX = 8192
"""Addresses and networks in all: half of what the kernel's map of prefixes holds."""

Watch = dict[int, tuple[Endpoint, ...]]
"""What is watched, by endpoint id: the endpoint itself, or for a name one for each address."""


class WatchList:
    """See above."""

    def __init__(self) -> None:
        self._endpoints: dict[int, Endpoint] = {}
        self._known: dict[int, EndpointFact] = {}
        self._numbers: dict[str, int] = {}  # by label
        self._networks: dict[int, dict[Network, None]] = {}  # of endpoints with names
        self._facts: list[Fact] = []
        self._problems: list[str] = []
        self._count = 0
        self._full = False

    def add(
        self, endpoint: Endpoint, *, role: Role = Role.UNKNOWN, origin: str = "", mirror_of: str = "", learnt: bool = False
    ) -> int:
        """Watch an endpoint; its number. One of the same label keeps its number and what was known of it."""
        known = self._numbers.get(endpoint.label)
        if known is not None:
            return known
        number = self._numbers[endpoint.label] = len(self._numbers) + 1
        said = role if role is not Role.UNKNOWN else role_of(endpoint.label)
        self._endpoints[number] = endpoint
        self._known[number] = EndpointFact(number, endpoint.label, said, origin, mirror_of, learnt)
        self._facts.append(self._known[number])
        if endpoint.network is not None:
            self._count += 1
            self._facts.append(AddressFact(number, _text(endpoint.network), True, 0))
        return number

    def __len__(self) -> int:
        return len(self._endpoints)

    def labels(self) -> dict[int, str]:
        """By number."""
        return {number: endpoint.label for number, endpoint in self._endpoints.items()}

    def known(self) -> dict[int, EndpointFact]:
        """What is known of each endpoint, by number."""
        return dict(self._known)

    def names(self) -> list[str]:
        """The names that have to be resolved."""
        return list(dict.fromkeys(endpoint.host for endpoint in self._endpoints.values() if endpoint.host is not None))

    def covers(self, address: str) -> bool:
        """Whether an address is one of an endpoint's, or lies in a network that is watched; False for what is no address."""
        try:
            network: Network = ipaddress.ip_network(address)
        except ValueError:
            return False
        if any(network in networks for networks in self._networks.values()):
            return True
        listed = (endpoint.network for endpoint in self._endpoints.values() if endpoint.network is not None)
        return any(each.version == network.version and network.subnet_of(each) for each in listed)  # type: ignore[arg-type]

    def number_at(self, address: str, port: int) -> int | None:
        """The endpoint that has this address by its name, with this port or any; None: none has."""
        network: Network = ipaddress.ip_network(address)
        for number, networks in self._networks.items():
            if network in networks and self._endpoints[number].port in (port, ANY_PORT):
                return number
        return None

    def change(self, name: str, address: str, added: bool, at_ns: int) -> bool:
        """A name got or lost an address, at a boottime in ns; whether what is watched has changed."""
        network: Network = ipaddress.ip_network(address)
        changed = False
        for number, endpoint in self._endpoints.items():
            if endpoint.host != name:
                continue
            networks = self._networks.setdefault(number, {})
            if added == (network in networks):
                continue
            if added and self._count >= NETWORKS_MAX:
                self._say_full()
                continue
            if added:
                networks[network] = None
            else:
                del networks[network]
            self._count += 1 if added else -1
            self._facts.append(AddressFact(number, address, added, at_ns))
            changed = True
        return changed

    def watch(self) -> Watch:
        """What to watch now."""
        return {number: tuple(self._members(number, endpoint)) for number, endpoint in self._endpoints.items()}

    def _members(self, number: int, endpoint: Endpoint) -> Iterable[Endpoint]:
        if endpoint.network is not None:
            return (endpoint,)
        return (Endpoint(endpoint.label, endpoint.host, network, endpoint.port) for network in self._networks.get(number, ()))

    def has_addresses(self) -> bool:
        """Whether anything can be seen at all."""
        return self._count > 0

    def without_address(self) -> list[str]:
        """Labels of names that have no address."""
        return [
            endpoint.label
            for number, endpoint in self._endpoints.items()
            if endpoint.network is None and not self._networks.get(number)
        ]

    def facts(self) -> tuple[Fact, ...]:
        """What became known since the last call."""
        told, self._facts = self._facts, []
        return tuple(told)

    def problems(self) -> list[str]:
        """What went wrong since the last call, a line each."""
        told, self._problems = self._problems, []
        return told

    def texts(self) -> list[str]:
        """One line for each endpoint, for people: its label, and the addresses behind a name."""
        lines = []
        for number, endpoint in self._endpoints.items():
            shown = ", ".join(map(network_label, self._networks.get(number, ())))
            lines.append(endpoint.label + (f" ({shown})" if shown else ""))
        return lines

    def _say_full(self) -> None:
        if not self._full:
            self._full = True
            self._problems.append(f"only {NETWORKS_MAX} addresses are watched; further ones of names are not")


def _text(network: Network) -> str:
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if single else str(network)


def any_port(name: str, addresses: Iterable[str]) -> tuple[Endpoint, ...]:
    """A name's addresses with every port."""
    return tuple(Endpoint(f"{name}:*", name, ipaddress.ip_network(address), ANY_PORT) for address in addresses)
