"""BuildKit's buildkitd.toml. Pure. docs.docker.com, "buildkitd.toml"."""

from __future__ import annotations

from typing import Any

from tracer.discovery.documents import parse_toml
from tracer.discovery.found import Reading
from tracer.discovery.gathering import Gathering
from tracer.roles import Role


def parse_buildkit(text: str, place: str) -> Reading:
    """The registries that have a table of their own, and their mirrors."""
    gathering = Gathering(place)
    content = gathering.document(parse_toml, text)
    registries = gathering.table(content, "registry")
    for entry, name, value in gathering.tables(content, "registry"):
        table = gathering.as_table(value, f"registry, entry {entry}")
        address = gathering.address(name, "registry", entry)
        if address is not None:
            insecure = table.get("insecure") is True
            gathering.add(address, "registry", Role.PRIVATE, scheme=_scheme(table), insecure=insecure)
        for position, mirror in gathering.items(table.get("mirrors"), "registry.mirrors"):
            # How a mirror is spoken to is said in a table of its own.
            of_mirror = registries.get(mirror) if isinstance(mirror, str) else None
            of = address.registry if address else ""
            gathering.take(mirror, "registry.mirrors", Role.MIRROR, entry=position, of=of, scheme=_scheme(of_mirror))
    return gathering.reading()


def _scheme(table: Any) -> str:
    return "http" if isinstance(table, dict) and table.get("http") is True else "https"
