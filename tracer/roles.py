"""What an endpoint is for: known from its name, or said by the user. Pure.

Roles help rules to tell apart what the sockets alone can't: a token server from a registry, a mirror from the registry behind
it. An endpoint whose role is not known is treated as a registry's API; nothing is guessed from its address.
"""

from __future__ import annotations

from enum import Enum

from tracer.errors import UsageError


class Role(Enum):
    """The values are the names in configuration and captures."""

    UNKNOWN = "unknown"
    API = "api"
    AUTH = "auth"
    BLOB = "blob"
    MIRROR = "mirror"
    PROXY = "proxy"
    PRIVATE = "private"


_HOSTS = {
    # docs.docker.com, "Allow list", 2026-06: API, token server and blob hosts of Docker Hub
    "registry-1.docker.io": Role.API,
    "auth.docker.io": Role.AUTH,
    "production.cloudfront.docker.com": Role.BLOB,
    "production.cloudflare.docker.com": Role.BLOB,
    "ghcr.io": Role.API,
    "pkg-containers.githubusercontent.com": Role.BLOB,
    "quay.io": Role.API,
    "registry.k8s.io": Role.API,
    "mcr.microsoft.com": Role.API,
    "gcr.io": Role.API,
    "storage.googleapis.com": Role.BLOB,
    "public.ecr.aws": Role.API,
    "registry.gitlab.com": Role.API,
}
_SUFFIXES = {
    ".r2.cloudflarestorage.com": Role.BLOB,
    ".cdn.quay.io": Role.BLOB,
    ".data.mcr.microsoft.com": Role.BLOB,
    ".blob.core.windows.net": Role.BLOB,
}
_QUAY_CDN = ("cdn.quay.io", "cdn01.quay.io", "cdn02.quay.io", "cdn03.quay.io")
_COMPANIONS = {
    "registry-1.docker.io": ("auth.docker.io", "production.cloudfront.docker.com", "production.cloudflare.docker.com"),
    "ghcr.io": ("pkg-containers.githubusercontent.com",),
    "quay.io": _QUAY_CDN,
    "gcr.io": ("storage.googleapis.com",),
}


def companions(host: str) -> tuple[str, ...]:
    """The token server and blob hosts that go with a well-known registry's API; none for every other host.

    Only whole names that serve little else: gitlab.com hands out tokens, but most of what goes there is git.
    """
    return _COMPANIONS.get(host, ())


def role_of(label: str) -> Role:
    """The role of a well-known registry host, told by its label; UNKNOWN for every other."""
    host = label.rpartition(":")[0]
    if host in _QUAY_CDN:
        return Role.BLOB
    known = _HOSTS.get(host)
    if known is not None:
        return known
    return next((role for suffix, role in _SUFFIXES.items() if host.endswith(suffix)), Role.UNKNOWN)


def parse_role(text: str) -> Role:
    """A role by its name.

    Raises:
        UsageError: there is no such role.
    """
    try:
        return Role(text)
    except ValueError:
        allowed = ", ".join(role.value for role in Role if role is not Role.UNKNOWN)
        raise UsageError(f"{text!r} is no role: expected one of {allowed}") from None
