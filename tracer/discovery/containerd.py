"""containerd's files: config.toml in its versions 1 to 3, and the folder of registries with its hosts.toml. Pure.

containerd docs/hosts.md and docs/cri/registry.md. Whatever version a file says it is, each plug-in is looked for under all
its names: a file that was half migrated still shows what was meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracer.discovery.documents import parse_toml
from tracer.discovery.found import ANY_REGISTRY, Reading
from tracer.discovery.gathering import Gathering
from tracer.roles import Role

DEFAULT_FOLDER = "/etc/containerd/certs.d"
_DEFAULT_NAME = "_default"
_CRI_PLUGINS = ("cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images")
_TRANSFER_PLUGIN = "io.containerd.transfer.v1.local"
# host_port_ stands for host:port on file systems without colons.
_WITH_PORT = re.compile(r"(.+)_(\d{1,5})_")


@dataclass(frozen=True)
class ContainerdFile:
    """What a config.toml says.

    Attributes:
        reading: the registries in it.
        imports: patterns of further files, absolute or relative to this one's folder.
        folders: absolute paths of folders of registries.
    """

    reading: Reading
    imports: tuple[str, ...]
    folders: tuple[str, ...]


def parse_containerd(text: str, place: str) -> ContainerdFile:
    """The registries in a config.toml, and where else to look."""
    gathering = Gathering(place)
    content = gathering.document(parse_toml, text)
    folders: list[str] = []
    for plugin in _CRI_PLUGINS:
        registry = gathering.table(content, "plugins", plugin, "registry")
        folders += _folders(gathering, registry, "registry.config_path")
        _take_registry(gathering, registry)
    folders += _folders(gathering, gathering.table(content, "plugins", _TRANSFER_PLUGIN), f"{_TRANSFER_PLUGIN}.config_path")
    imports = [value for _, value in gathering.items(content.get("imports"), "imports")]
    if not all(isinstance(value, str) for value in imports):
        gathering.problem("imports", "holds something other than texts")
    return ContainerdFile(
        gathering.reading(), tuple(value for value in imports if isinstance(value, str)), tuple(dict.fromkeys(folders))
    )


def _folders(gathering: Gathering, table: Mapping[str, Any], key: str) -> list[str]:
    value = table.get("config_path")
    if value is None:
        return []
    if not isinstance(value, str):
        gathering.problem(key, "is no text")
        return []
    return [folder for folder in value.split(":") if folder.startswith("/")]


def _take_registry(gathering: Gathering, registry: Mapping[str, Any]) -> None:
    """The deprecated way: registries within config.toml."""
    for entry, name, table in gathering.tables(registry, "mirrors", within="registry."):
        take_mirrors(gathering, name, table, "registry.mirrors", entry)
    for key in ("configs", "auths"):
        for entry, name, _ in gathering.tables(registry, key, within="registry."):
            if name != ANY_REGISTRY:
                gathering.take(name, f"registry.{key}", Role.PRIVATE, entry=entry)


def take_mirrors(gathering: Gathering, name: object, table: object, key: str, entry: int) -> None:
    """Add the endpoints of a registry's mirrors, and the registry itself, for it is asked when they fail.

    Args:
        gathering: of the file.
        name: of the registry; "*" is any.
        table: what stands below the name.
        key: where the name stands.
        entry: position there, from 1.
    """
    of = ANY_REGISTRY if name == ANY_REGISTRY else ""
    address = None if of else gathering.address(name, key, entry)
    if address is not None:
        gathering.add(address, key, Role.PRIVATE)
        of = address.registry
    endpoints = gathering.as_table(table, f"{key}, entry {entry}").get("endpoint")
    gathering.take_all(endpoints, f"{key} endpoint", Role.MIRROR, of=of)


def parse_hosts(text: str | None, place: str, folder: str) -> Reading:
    """The registry that a folder is called after, and those that its hosts.toml names instead.

    Args:
        text: of hosts.toml; None: the folder has none, and holds certificates for the registry itself.
        place: how hosts.toml, or the folder, is called on the host.
        folder: the folder's own name.
    """
    gathering = Gathering(place)
    content = {} if text is None else gathering.document(parse_toml, text)
    with_port = _WITH_PORT.fullmatch(folder)
    name = f"{with_port[1]}:{with_port[2]}" if with_port else folder
    own = None if name == _DEFAULT_NAME else gathering.address(name, "name of the folder")
    of = ANY_REGISTRY if name == _DEFAULT_NAME else own.registry if own else ""
    for entry, host, _ in gathering.tables(content, "host"):
        gathering.take(host, "host", Role.MIRROR, entry=entry, of=of)
    if content.get("server") not in (None, ""):
        gathering.take(content["server"], "server", Role.MIRROR, of=of)
    elif own is not None:
        gathering.add(own, "name of the folder", Role.PRIVATE)
    return gathering.reading()
