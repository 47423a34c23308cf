"""registries.conf of podman, CRI-O, skopeo and buildah, in both its versions. Pure.

containers-registries.conf(5) and containers-registries.conf.d(5); the first version is in the former's oldest editions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracer.discovery.documents import parse_toml
from tracer.discovery.found import Reading, joined
from tracer.discovery.gathering import Gathering
from tracer.roles import Role

_SEARCH = "unqualified-search-registries"


def parse_registries(files: Sequence[tuple[str, str]]) -> Reading:
    """The registries that several files name together.

    A registry's whole entry is replaced by one with the same prefix in a later file, and so is the list that is searched.

    Args:
        files: (text, place) in the order in which they are read.
    """
    gatherings: list[Gathering] = []
    search: tuple[Gathering, object] | None = None
    entries: dict[str, tuple[Gathering, dict[str, Any]]] = {}
    for text, place in files:
        gathering = Gathering(place)
        gatherings.append(gathering)
        content = gathering.document(parse_toml, text)
        if content.get(_SEARCH) is not None:
            search = gathering, content[_SEARCH]
        for entry, table in gathering.items(content.get("registry"), "registry"):
            prefix = _prefix(gathering, table, entry)
            if prefix is not None:
                entries[prefix] = gathering, table
        _take_first_version(gathering, content)
    if search is not None:
        search[0].take_all(search[1], _SEARCH, Role.UNKNOWN)
    for prefix, (gathering, table) in entries.items():
        if table.get("blocked") is not True:
            _take_registry(gathering, prefix, table)
    return joined(gathering.reading() for gathering in gatherings)


def _prefix(gathering: Gathering, table: object, entry: int) -> str | None:
    """What a registry's entry is about; None, with the problem noted, if it does not say."""
    where = f"registry, entry {entry}"
    if not isinstance(table, dict):
        gathering.problem(where, "is no table")
        return None
    named = [table.get(key) or "" for key in ("prefix", "location")]
    if not all(isinstance(name, str) for name in named):
        gathering.problem(where, "has a prefix or location that is no text")
        return None
    prefix = named[0] or named[1]
    if not prefix:
        gathering.problem(where, "has neither prefix nor location")
        return None
    return str(prefix)


def _take_registry(gathering: Gathering, prefix: str, table: dict[str, Any]) -> None:
    insecure = table.get("insecure") is True
    location = table.get("location") or prefix
    # A prefix may be a namespace, or *.example.com, which is no host.
    wild = "*." if prefix.startswith("*.") else ""
    named = gathering.address(prefix.removeprefix(wild), "registry prefix")
    of = wild + named.registry if named else ""
    if location != prefix or (named is not None and not wild):
        gathering.take(location, "registry location", Role.MIRROR if of else Role.PRIVATE, of=of, insecure=insecure)
    for entry, mirror in gathering.items(table.get("mirror"), "registry.mirror"):
        if not isinstance(mirror, dict):
            gathering.problem(f"registry.mirror, entry {entry}", "is no table")
            continue
        insecure = mirror.get("insecure") is True
        gathering.take(mirror.get("location"), "registry.mirror", Role.MIRROR, entry=entry, of=of, insecure=insecure)


def _take_first_version(gathering: Gathering, content: dict[str, Any]) -> None:
    """[registries.search], [registries.insecure] and [registries.block], each with a list of hosts."""
    lists = gathering.table(content, "registries")
    named = {key: gathering.table(lists, key).get("registries") for key in ("search", "insecure", "block")}
    blocked = {value for _, value in gathering.items(named["block"], "registries.block") if isinstance(value, str)}
    for key, role in (("search", Role.UNKNOWN), ("insecure", Role.PRIVATE)):
        for entry, value in gathering.items(named[key], f"registries.{key}"):
            if not (isinstance(value, str) and value in blocked):
                gathering.take(value, f"registries.{key}", role, entry=entry, insecure=key == "insecure")
