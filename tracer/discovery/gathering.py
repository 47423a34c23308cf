"""What one file says, put together piece by piece: endpoints, and a line for each thing that is wrong. Pure.

Places are told by key and position, never by what stands there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tracer.discovery.addresses import Address, AddressError, parse_address
from tracer.discovery.documents import DocumentError
from tracer.discovery.found import FOUND_MAX, Found, Reading
from tracer.roles import Role, companions, role_of
from tracer.text import printable

PROBLEMS_MAX = 20


class Gathering:
    """One file's endpoints and problems, both bounded; what was left out is counted."""

    def __init__(self, place: str) -> None:
        """Begin.

        Args:
            place: how the file is called on the host.
        """
        self._place = printable(place)
        self._found: list[Found] = []
        self._problems: list[str] = []
        self._n_left_out = 0
        self._n_more_problems = 0

    def reading(self) -> Reading:
        """All that was gathered."""
        problems = list(self._problems)
        if self._n_more_problems:
            problems.append(f"{self._place}: {self._n_more_problems} more problems")
        if self._n_left_out:
            problems.append(f"{self._place}: {self._n_left_out} entries are left out: it names more than {FOUND_MAX} endpoints")
        return Reading(tuple(self._found), tuple(problems))

    def problem(self, key: str, why: str) -> None:
        """Note what is wrong with a key; "" says the whole file."""
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(f"{self._place}: {key} {why}" if key else f"{self._place}: {why}")
        else:
            self._n_more_problems += 1

    def document(self, parse: Callable[[str], dict[str, Any]], text: str) -> dict[str, Any]:
        """The content of a file; empty, with the problem noted, where it can't be parsed."""
        try:
            return parse(text)
        except DocumentError as error:
            self.problem("", str(error))
            return {}

    def table(self, parent: Mapping[str, Any], *keys: str) -> dict[str, Any]:
        """The table below some keys; empty where there is none, with a problem where something else is."""
        at: Any = parent
        for depth, key in enumerate(keys, 1):
            at = self.as_table(at.get(key), ".".join(keys[:depth]))
        return at

    def as_table(self, value: object, key: str) -> dict[str, Any]:
        """A value as a table; empty where it is none, with a problem where it is something else."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problem(key, "is no table")
            return {}
        return value

    def items(self, values: object, key: str) -> Iterator[tuple[int, Any]]:
        """(position from 1, value) of a list, until there are endpoints enough; a problem where it is no list."""
        if values is None:
            return
        if not isinstance(values, list):
            self.problem(key, "is no list")
            return
        for position, value in enumerate(values, 1):
            if len(self._found) >= FOUND_MAX:
                self._n_left_out += len(values) - position + 1
                return
            yield position, value

    def tables(self, parent: Mapping[str, Any], key: str, *, within: str = "") -> Iterator[tuple[int, Any, Any]]:
        """(position from 1, name, content) of what stands in a table under names of its own, until there are endpoints enough."""
        below = self.as_table(parent.get(key), within + key)
        for position, name in self.items(list(below), within + key):
            yield position, name, below[name]

    def address(self, value: object, key: str, entry: int = 0) -> Address | None:
        """What a value names; None, with the problem noted, if nothing.

        Args:
            value: from the file, of any type.
            key: where it stands.
            entry: position there, from 1; 0: it is no list.
        """
        where = f"{key}, entry {entry}" if entry else key
        if not isinstance(value, str):
            self.problem(where, "is no text")
            return None
        try:
            return parse_address(value)
        except AddressError as error:
            self.problem(where, str(error))
            return None

    def take(
        self, value: object, key: str, role: Role, *, entry: int = 0, of: str = "", scheme: str = "https", insecure: bool = False
    ) -> None:
        """Add what a value names, if it names anything.

        Args:
            value: from the file, of any type.
            key: where it stands.
            role: what it is for, unless its name is well known.
            entry: position there, from 1; 0: it is no list.
            of: registry that it is a mirror of; what stands for itself is none.
            scheme: what is meant where none is written.
            insecure: whether port 80 is asked too where neither scheme nor port is written.
        """
        address = self.address(value, key, entry)
        if address is not None:
            self.add(address, key, role, of=of, scheme=scheme, insecure=insecure)

    def add(self, address: Address, key: str, role: Role, *, of: str = "", scheme: str = "https", insecure: bool = False) -> None:
        """Add an address, with the token server and blob hosts of a well-known registry."""
        if role is Role.MIRROR and address.registry == of:
            role, of = Role.PRIVATE, ""
        for spec in address.specs(scheme, insecure=insecure):
            self.add_spec(spec, key, role, of)
            if role is not Role.PROXY:
                for host in companions(spec.removesuffix(":443")):
                    self.add_spec(f"{host}:443", key, Role.UNKNOWN)

    def add_spec(self, spec: str, key: str, role: Role, of: str = "") -> None:
        """Add an endpoint; a well-known name has its own role, unless it is used as a proxy."""
        if len(self._found) >= FOUND_MAX:
            self._n_left_out += 1
            return
        known = role_of(spec)
        if role is not Role.PROXY and known is not Role.UNKNOWN:
            role = known
        self._found.append(Found(spec, role, f"{self._place}: {key}", of))

    def take_all(self, values: object, key: str, role: Role, *, of: str = "", scheme: str = "https") -> None:
        """Add what the texts of a list name."""
        for entry, value in self.items(values, key):
            self.take(value, key, role, entry=entry, of=of, scheme=scheme)
