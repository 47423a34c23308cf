"""Proxies out of environment variables. Pure.

Go, which the engines are written in, knows HTTP_PROXY, HTTPS_PROXY and NO_PROXY in both cases; ALL_PROXY is curl's and skopeo's
plug-ins'. What NO_PROXY excepts is connected to directly and found where it is configured; only "*" says that no proxy is used.
"""

from __future__ import annotations

from collections.abc import Mapping

from tracer.discovery.found import Reading
from tracer.discovery.gathering import Gathering
from tracer.roles import Role

PROXY_NAMES = tuple(written for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") for written in (name, name.lower()))
_NO_PROXY_NAMES = ("NO_PROXY", "no_proxy")
VARIABLES = (*PROXY_NAMES, *_NO_PROXY_NAMES)


def take_proxy(gathering: Gathering, value: object, key: str) -> None:
    """Add a proxy; without a scheme it is meant as http. An empty value says that there is none."""
    if value is not None and value != "":
        gathering.take(value, key, Role.PROXY, scheme="http")


def take_proxies(gathering: Gathering, variables: Mapping[str, str]) -> None:
    """Add the proxies that a process with these variables uses."""
    if any(variables.get(name, "").strip() == "*" for name in _NO_PROXY_NAMES):
        return
    for name in PROXY_NAMES:
        take_proxy(gathering, variables.get(name), name)


def parse_environment(variables: Mapping[str, str], place: str) -> Reading:
    """The proxies in an environment; nothing but VARIABLES is looked at."""
    gathering = Gathering(place)
    take_proxies(gathering, variables)
    return gathering.reading()


def parse_environ(content: str) -> dict[str, str]:
    """VARIABLES in a /proc/PID/environ: NAME=VALUE, each ended by a NUL. Everything else is passed over unkept."""
    wanted = {}
    for entry in content.split("\0"):
        name, equals, value = entry.partition("=")
        if equals and name in VARIABLES:
            wanted[name] = value
    return wanted
