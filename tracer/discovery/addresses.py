"""How configurations write down a host: URL, host with port or path, address, CIDR. Pure.

Reasons never quote what they are about: a URL may hold a password wherever it is mistyped.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from tracer.endpoints import parse_endpoint
from tracer.errors import UsageError

DEFAULT_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
HUB_HOST = "registry-1.docker.io"
HUB_NAME = "docker.io"
_HUB_NAMES = {HUB_NAME, "index.docker.io", HUB_HOST}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_TEXT_LENGTH_MAX = 4096
_HOST_LENGTH_MAX = 253
"""RFC 1035; also keeps the quadratic encoder of names in other scripts to short ones."""


class AddressError(ValueError):
    """A text names no host that could be watched; the message says why, to be put behind a place."""


@dataclass(frozen=True)
class Address:
    """A host as it was written down.

    Attributes:
        host: lower case, other scripts as A-labels, no final dot; IPv6 without brackets.
        port: 1..65535; None where none is written.
        scheme: one of DEFAULT_PORTS; "" where none is written.
    """

    host: str
    port: int | None
    scheme: str

    @property
    def registry(self) -> str:
        """What the registry is called in configurations: docker.io is Docker Hub under all its names.

        Every other is its host, with the port unless it is that of https.
        """
        if self.host in _HUB_NAMES:
            return HUB_NAME
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return shown if self.port in (None, 443) else f"{shown}:{self.port}"

    def specs(self, scheme: str = "https", *, insecure: bool = False) -> tuple[str, ...]:
        """Endpoint specifications of what is connected to.

        Args:
            scheme: what is meant where none is written.
            insecure: where neither scheme nor port is written, clients that may do without TLS ask port 80 after port 443.

        Raises:
            AddressError: the host is neither a name nor an address.
        """
        host = HUB_HOST if self.host in _HUB_NAMES else self.host
        ports = [self.port or DEFAULT_PORTS[self.scheme or scheme]]
        if insecure and self.port is None and not self.scheme and 80 not in ports:
            ports.append(80)
        shown = f"[{host}]" if ":" in host else host
        try:
            return tuple(parse_endpoint(f"{shown}:{port}").label for port in ports)
        except UsageError:
            raise AddressError("names no host") from None


def parse_address(text: str) -> Address:
    """Take scheme, host and port out of a text; user, password, path and query are dropped.

    Raises:
        AddressError: it names no host.
    """
    text = text.strip()
    if not text:
        raise AddressError("is empty")
    if len(text) > _TEXT_LENGTH_MAX:
        raise AddressError(f"is longer than {_TEXT_LENGTH_MAX} characters")
    if not text.isprintable():
        raise AddressError("holds control characters")
    written = _SCHEME.match(text)
    scheme = written[1].lower() if written else ""
    if scheme and scheme not in DEFAULT_PORTS:
        raise AddressError("has a scheme other than http, https and socks")
    rest = text[written.end() if written else 0 :]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, _, located = authority.rpartition("@")
    if not user and "@" in rest:  # what seems to be the host is then likely a name, and the port a password's beginning
        raise AddressError("has a user or password with a /, ? or # that is not percent-encoded")
    host, port = _split(located)
    address = Address(_host(host), _port(port), scheme)
    address.specs()
    return address


def parse_network(text: str) -> str | None:
    """The specification of a CIDR with any port; None if it is none."""
    if "/" not in text or len(text) > _HOST_LENGTH_MAX:
        return None
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
        return parse_endpoint(f"[{network}]:*" if network.version == 6 else f"{network}:*").label
    except (ValueError, UsageError):
        return None


def _split(authority: str) -> tuple[str, str]:
    """(host, port or "")."""
    if authority.startswith("["):
        host, bracket, port = authority[1:].partition("]")
        if not bracket or (port and not port.startswith(":")) or ":" not in host:
            raise AddressError("has brackets around something other than an IPv6 address")
        return host, port[1:]
    if authority.count(":") > 1:  # a bare IPv6 address has no port
        return authority, ""
    host, _, port = authority.partition(":")
    return host, port


def _port(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise AddressError("has a port that is none of 1..65535")
    return int(text)


def _host(text: str) -> str:
    if not text.removesuffix("."):
        raise AddressError("names no host")
    if len(text.removesuffix(".")) > _HOST_LENGTH_MAX:
        raise AddressError(f"has a host name of more than {_HOST_LENGTH_MAX} characters")
    if ":" in text:
        try:
            return str(ipaddress.IPv6Address(text))
        except ValueError:
            raise AddressError("has more colons than a port needs, and is no IPv6 address") from None
    if not text.isascii():
        try:
            text = text.encode("idna").decode("ascii")
        except UnicodeError:
            raise AddressError("has a host name that can't be written in ASCII (IDNA)") from None
    return text.lower().removesuffix(".")
