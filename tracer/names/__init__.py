"""Names of registries: their addresses now, kept up while a trace runs, from look-ups and from answers seen on this host."""

from __future__ import annotations

from pathlib import Path

from tracer.errors import ResolveError
from tracer.names.hosts import hosts_addresses
from tracer.names.system_files import HOSTS_PATH, RESOLV_CONF_PATH

__all__ = ["hosts_addresses", "resolve"]


def resolve(host: str, hosts_path: Path = HOSTS_PATH, resolv_conf_path: Path = RESOLV_CONF_PATH) -> list[str]:
    """The addresses of a name, once: IPv4 and IPv6, without repeats.

    Raises:
        ResolveError: there is no address, or no resolver answers in time.
    """
    from tracer.names.resolver import Resolver

    answer = Resolver(hosts_path=hosts_path, resolv_conf_path=resolv_conf_path).look_up(host)
    if not answer.addresses:
        raise ResolveError(
            f"{host} can't be resolved: {answer.problem}; check the name and {resolv_conf_path}, or give an address"
        )
    return list(answer.addresses)
