"""Turning registry names into addresses, once: hosts file first, then DNS with the host's own resolvers."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from tracer.errors import ResolveError

LIFETIME_S = 5.0
HOSTS_PATH = Path("/etc/hosts")
_LOOPBACK = ("127.0.0.1", "::1")  # RFC 6761, section 6.3


def resolve(host: str, hosts_path: Path = HOSTS_PATH) -> list[str]:
    """The addresses of a name: IPv4 and IPv6, without repeats.

    Raises:
        ResolveError: there is no address, or no resolver answers within LIFETIME_S.
    """
    addresses = hosts_addresses(_hosts_text(hosts_path), host)
    if not addresses and (host == "localhost" or host.endswith(".localhost")):
        addresses = list(_LOOPBACK)
    return addresses or _dns_addresses(host)


def hosts_addresses(text: str, host: str) -> list[str]:
    """The addresses a hosts file gives a name; malformed lines are passed over."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        fields = line.partition("#")[0].split()
        if len(fields) > 1 and host.lower() in (name.lower() for name in fields[1:]):
            try:
                found[str(ipaddress.ip_address(fields[0].partition("%")[0]))] = None
            except ValueError:
                continue
    return list(found)


def _hosts_text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _dns_addresses(host: str) -> list[str]:
    import dns.exception
    import dns.resolver

    try:
        resolver = dns.resolver.Resolver()
    except dns.exception.DNSException as error:
        raise ResolveError(f"{host} can't be resolved: {_reason(error)}; check /etc/resolv.conf, or give an address") from error
    found: dict[str, None] = {}
    failure: dns.exception.DNSException | None = None
    for record_type in ("A", "AAAA"):
        try:
            answer = resolver.resolve(host, record_type, lifetime=LIFETIME_S, search=True)
        except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN) as error:
            failure = failure or error
        except dns.exception.DNSException as error:
            failure = error
            break  # no resolver answers: asking for the other type would only wait again
        else:
            found.update(dict.fromkeys(str(record) for record in answer))
    if not found:
        reason = _reason(failure) if failure else "no address"
        raise ResolveError(f"{host} can't be resolved: {reason}; check the name and /etc/resolv.conf, or give an address")
    return list(found)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
