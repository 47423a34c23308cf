"""Endpoints: what a user may ask to watch, parsed. Pure: turning names into addresses is `tracer.names`' work."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from tracer.errors import UsageError

DEFAULT_PORT = 443
ANY_PORT = 0
_FORMS = "expected HOST[:PORT], IP[:PORT], CIDR[:PORT] or [v6]:PORT (PORT may be * for any; default 443)"
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
# [2001:db8::1]:443, [2001:db8::]/32:443, [2001:db8::/32]:443
_BRACKETED = re.compile(r"\[([^\[\]]*:[^\[\]]*)\](/\d+)?(?::(.*))?", re.DOTALL)
_HOST_LENGTH_MAX = 253
_MAPPED_BITS = 96

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Endpoint:
    """One thing to watch.

    Attributes:
        label: how it is called in every output: the specification with its port written out.
        host: a DNS name still to be resolved; None if `network` is given.
        network: an address (a network of one) or a CIDR; None for a name.
        port: 1..65535, or ANY_PORT.
    """

    label: str
    host: str | None
    network: Network | None
    port: int


def parse_endpoint(text: str) -> Endpoint:
    """Parse one endpoint specification.

    Raises:
        UsageError: it can't be parsed; the message says what was expected.
    """
    spec = text.strip()
    if "@" in spec or "://" in spec:  # it may hold a password: it is not repeated
        raise UsageError(f"a registry is no URL: leave out scheme, user and path; {_FORMS}")
    try:
        host, port_text = _split(spec)
    except ValueError:
        raise UsageError(f"registry {text!r} is no endpoint: {_FORMS}") from None
    port = _port(port_text, text)
    shown_port = "*" if port == ANY_PORT else str(port)
    try:
        network: Network = ipaddress.ip_network(host, strict=False)
    except ValueError:
        name = _host_name(host)
        if name is None:
            raise UsageError(f"registry {text!r} is no endpoint: {_FORMS}") from None
        return Endpoint(f"{name}:{shown_port}", name, None, port)
    if isinstance(network, ipaddress.IPv6Network):
        network = _unmapped(network)
    return Endpoint(f"{network_label(network)}:{shown_port}", None, network, port)


def is_name(text: str) -> bool:
    """Whether it is a name that has to be resolved, and neither an address nor a network."""
    try:
        return parse_endpoint(text).host == text
    except UsageError:
        return False


def is_wide(label: str) -> bool:
    """Whether a label is of a network, or of an address or name with any port."""
    return "/" in label or label.endswith(":*")


def network_label(network: Network) -> str:
    """An address or CIDR as in a label: a single address without its prefix length, IPv6 in brackets."""
    single = network.prefixlen == network.max_prefixlen
    shown = str(network.network_address) if single else str(network)
    return f"[{shown}]" if network.version == 6 else shown


def prefix_of(network: Network) -> tuple[bytes, int]:
    """(16 bytes, number of leading bits) of a network, IPv4 in its v4-mapped form."""
    packed = network.network_address.packed
    if len(packed) == 4:
        return b"\0" * 10 + b"\xff\xff" + packed, _MAPPED_BITS + network.prefixlen
    return packed, network.prefixlen


def _split(spec: str) -> tuple[str, str | None]:
    """(host, port or None)."""
    bracketed = _BRACKETED.fullmatch(spec)
    if bracketed:
        inside, bits, port = bracketed.groups()
        return inside + (bits or ""), port
    if "[" in spec:
        raise ValueError(spec)
    if spec.count(":") > 1:  # a bare IPv6 address or network has no port
        return spec, None
    host, colon, port = spec.partition(":")
    return host, port if colon else None


def _port(port_text: str | None, text: str) -> int:
    if port_text is None:
        return DEFAULT_PORT
    if port_text == "*":
        return ANY_PORT
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 and 1 <= int(port_text) <= 65535):
        raise UsageError(f"registry {text!r}: {port_text!r} is no port: expected 1..65535, or * for any")
    return int(port_text)


def _host_name(host: str) -> str | None:
    """A name as DNS has it: lower case, without the dot of the root, letters beyond ASCII as A-labels; None: it is none."""
    if not host.isascii():
        try:
            encoded = host.encode("idna")
            if encoded.decode("idna") != host.lower():  # it only looks like another one
                return None
        except UnicodeError:
            return None
        host = encoded.decode("ascii")
    return host.lower().removesuffix(".") if _is_host_name(host) else None


def _is_host_name(host: str) -> bool:
    name = host.removesuffix(".")
    labels = name.split(".")
    # A name whose last label is a number is a mistyped address, not a name (WHATWG URL, RFC 3696).
    plausible = 0 < len(name) <= _HOST_LENGTH_MAX and not labels[-1].isdigit()
    return plausible and all(_LABEL.fullmatch(label) for label in labels)


def _unmapped(network: ipaddress.IPv6Network) -> Network:
    mapped = network.network_address.ipv4_mapped
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
