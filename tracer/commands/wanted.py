"""What a command is asked to watch: endpoints that were named, or else those that this host's engines are configured to use."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping

from tracer.discovery.addresses import HUB_HOST
from tracer.endpoints import Endpoint, parse_endpoint
from tracer.errors import UsageError
from tracer.facts import fact_json
from tracer.roles import Role, companions
from tracer.text import printable
from tracer.watchlist import WatchList

NAMED = "--registry"
_HUB_ALIASES = ("docker.io", "index.docker.io")


def wanted(options: argparse.Namespace, warn: Callable[[str], None], roles: Mapping[str, Role]) -> WatchList:
    """The endpoints to watch.

    Args:
        options: with `registry` and `hub`.
        warn: told what is wrong with this host's configuration, line by line.
        roles: what endpoints are for, by label, as somebody said; that wins.

    Raises:
        UsageError: an endpoint can't be parsed, or there is none.
    """
    found = WatchList()
    for spec in options.registry:
        for endpoint in _hosts_of(parse_endpoint(spec)):
            found.add(endpoint, role=roles.get(endpoint.label, Role.UNKNOWN), origin=NAMED)
    if options.registry:
        return found
    return _discovered(options.hub, warn, roles)


def _hosts_of(endpoint: Endpoint) -> Iterable[Endpoint]:
    """The endpoint itself; of Docker Hub's name in images, which serves nothing, the hosts that do."""
    if endpoint.host not in _HUB_ALIASES:
        return (endpoint,)
    return (parse_endpoint(f"{host}:443") for host in (HUB_HOST, *companions(HUB_HOST)))


def _discovered(hub: bool, warn: Callable[[str], None], roles: Mapping[str, Role]) -> WatchList:
    from tracer.discovery.host import discover

    discovery = discover(hub=hub)
    for problem in discovery.problems:
        warn(problem)
    found = WatchList()
    for each in discovery.found:
        endpoint = parse_endpoint(each.spec)
        network = endpoint.network
        if network is not None and network.prefixlen < network.max_prefixlen:
            warn(f"{each.spec} ({each.origin}) is not watched: not all in it is a registry; name those that are with --registry")
            continue
        role = roles.get(endpoint.label, each.role)
        found.add(endpoint, role=role, origin=each.origin, mirror_of=each.mirror_of)
        if each.role is Role.PROXY:
            warn(f"{each.spec} is a proxy ({each.origin}): registries behind it can't be told apart")
    if not len(found):
        raise UsageError(
            "no registry to watch: none is configured on this host; name one with --registry HOST[:PORT], or leave out --no-hub"
        )
    return found


def print_list(found: WatchList, as_json: bool) -> None:
    """Show what would be watched, what it is for, and where that is from."""
    known = found.known().values()
    if as_json:
        sys.stdout.write("".join(json.dumps(fact_json(fact)) + "\n" for fact in known))
        return
    width = max((len(printable(fact.label)) for fact in known), default=0)
    for fact in known:
        mirrored = f"mirror of {fact.mirror_of}; " if fact.mirror_of else ""
        sys.stdout.write(f"{printable(fact.label):<{width}}  {fact.role.value:<8} {printable(mirrored + fact.origin)}\n")
