"""Docker's files: the daemon's configuration, and the names that clients have credentials for. Pure.

daemon.json: docs.docker.com, "dockerd". Files of credentials are Docker's config.json and containers-auth.json(5), which has the
same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracer.discovery.addresses import HUB_NAME, parse_network
from tracer.discovery.documents import parse_json
from tracer.discovery.found import Reading
from tracer.discovery.gathering import Gathering
from tracer.discovery.proxies import take_proxy
from tracer.roles import Role


def parse_daemon(text: str, place: str) -> Reading:
    """The mirrors of Docker Hub, insecure registries and proxies in a daemon.json."""
    gathering = Gathering(place)
    content = gathering.document(parse_json, text)
    gathering.take_all(content.get("registry-mirrors"), "registry-mirrors", Role.MIRROR, of=HUB_NAME)
    for entry, value in gathering.items(content.get("insecure-registries"), "insecure-registries"):
        take_insecure(gathering, value, "insecure-registries", entry)
    proxies = gathering.table(content, "proxies")
    for key in ("http-proxy", "https-proxy"):
        take_proxy(gathering, proxies.get(key), f"proxies.{key}")
    return gathering.reading()


def take_insecure(gathering: Gathering, value: object, key: str, entry: int = 0) -> None:
    """Add an insecure registry: host[:port], or a CIDR, whose registries may have any port."""
    network = parse_network(value) if isinstance(value, str) else None
    if network is not None:
        gathering.add_spec(network, key, Role.PRIVATE)
    else:
        gathering.take(value, key, Role.PRIVATE, entry=entry, insecure=True)


def parse_credentials(text: str, place: str) -> Reading:
    """The registries that a config.json or auth.json has credentials or helpers for: only their names are looked at.

    Somebody logs into them: they are private, unless their names are known for something else.
    """
    gathering = Gathering(place)
    names: Mapping[str, Any] = gathering.document(parse_json, text)
    for key in ("auths", "credHelpers"):
        for entry, name, _ in gathering.tables(names, key):
            gathering.take(name, key, Role.PRIVATE, entry=entry)
    return gathering.reading()
