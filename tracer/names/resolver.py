"""One look-up of a name: the hosts file, then DNS as this host is set up for it, bounded in time.

dnspython checks that an answer comes from the server that was asked, has the identifier and the question of the query, and is
well formed; what fails that is as if it had never come. What an answer says is for `records.answer_of` to judge.
"""

from __future__ import annotations

import io
import ipaddress
import time
from collections.abc import Sequence
from pathlib import Path

import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rdataclass
import dns.rdatatype
import dns.resolver

from tracer.names.hosts import HostsFile
from tracer.names.records import CHAIN_MAX, Answer, Record, answer_of, failed, joined
from tracer.names.system_files import HOSTS_PATH, RESOLV_CONF_PATH, read_text
from tracer.text import printable

LIFETIME_S = 5.0
_A_SHARE = 0.6  # of the lifetime for IPv4, so that a server that swallows one type's questions is still asked the other's
_TIMEOUT_S = 5.0  # RES_TIMEOUT, resolv.h; dnspython's own is 2 s
_SERVERS_MAX = 3  # MAXNS, resolv.h
_NDOTS_MAX = 15  # RES_MAXNDOTS, resolv.h
_REASON_LENGTH_MAX = 120


class Resolver:
    """Looks names up; several threads may use it at once."""

    def __init__(
        self,
        *,
        nameservers: Sequence[tuple[str, int]] = (),
        hosts_path: Path = HOSTS_PATH,
        resolv_conf_path: Path = RESOLV_CONF_PATH,
        lifetime_s: float = LIFETIME_S,
    ) -> None:
        """Take the places.

        Args:
            nameservers: (address, port) of those to ask in place of the configured ones.
            hosts_path: the hosts file, read again when it changes.
            resolv_conf_path: read for each look-up, because networks come and go: name servers, search, ndots, timeout, rotate.
            lifetime_s: how long a look-up may take.
        """
        self._nameservers = tuple(nameservers)
        self._hosts = HostsFile(hosts_path)
        self._resolv_conf_path = resolv_conf_path
        self._lifetime_s = lifetime_s

    def look_up(self, name: str) -> Answer:
        """Everything a name has now; a failure is told in the answer's `problem`."""
        answer = self._hosts.look_up(name)
        if answer is not None:
            return answer
        began_s = time.monotonic()
        try:
            resolver = self._configured()
        except (dns.exception.DNSException, OSError, ValueError) as error:
            return failed(name, f"no name server is set up in {self._resolv_conf_path} ({_reason(error)})")
        parts: list[Answer] = []
        failures: list[str] = []
        for kind, share in (("A", _A_SHARE), ("AAAA", 1.0)):
            try:
                parts.append(self._follow(resolver, name, kind, began_s + share * self._lifetime_s))
            except dns.resolver.NXDOMAIN:
                failures.append("there is no such name (NXDOMAIN)")
                break
            except dns.exception.Timeout:
                failures.append(f"no name server answers within {self._lifetime_s:g} s")
            except (dns.exception.DNSException, OSError, ValueError) as error:
                failures.append(f"no name server gives an answer ({_reason(error)})")
        answer = joined(name, parts)
        problems = [answer.problem, self._hosts.problem]
        # One type that fails while the other is answered is how many servers treat names without IPv6.
        if not answer.addresses:
            problems += failures or ["it has no address"] * (not answer.problem)
        problem = "; ".join(dict.fromkeys(filter(None, problems)))
        return Answer(name, answer.addresses, answer.ttl_s, answer.cnames, printable(problem))

    def _configured(self) -> dns.resolver.Resolver:
        """A resolver as resolv.conf says.

        Raises:
            dns.exception.DNSException: there is no name server, or a domain in the file is none.
            OSError, ValueError: the file can't be meant.
        """
        if self._nameservers:
            resolver = dns.resolver.Resolver(configure=False)
            resolver.timeout = self._lifetime_s
            resolver.nameservers = [dns.nameserver.Do53Nameserver(address, port) for address, port in self._nameservers]
        else:
            text, problem = read_text(self._resolv_conf_path)
            if problem:
                raise ValueError(problem)
            resolver = dns.resolver.Resolver(io.StringIO(_with_addresses_only(text)))
            if "timeout:" not in text:
                resolver.timeout = _TIMEOUT_S
        # Of several servers the last gets its turn within the share; one that is slow gets all of it.
        attempt_s = self._lifetime_s * _A_SHARE / max(1, min(len(resolver.nameservers), _SERVERS_MAX))
        resolver.timeout = min(resolver.timeout, attempt_s) if resolver.timeout > 0 else attempt_s
        resolver.ndots = None if resolver.ndots is None else min(max(resolver.ndots, 0), _NDOTS_MAX)
        return resolver

    def _follow(self, resolver: dns.resolver.Resolver, name: str, kind: str, until_s: float) -> Answer:
        """Ask for one type of address, and again where an answer ends in an alias.

        Raises:
            dns.exception.DNSException: there is no answer.
        """
        asked, search = name, True
        parts: list[Answer] = []
        while len(parts) < CHAIN_MAX:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise dns.exception.Timeout
            got = resolver.resolve(asked, kind, lifetime=left_s, search=search, raise_on_no_answer=False)
            _ask_first(resolver, got)
            parts.append(answer_of(name, _text(got.qname), _records(got.response, kind)))
            passed = [cname for part in parts for cname in part.cnames]
            if parts[-1].addresses or parts[-1].problem or not parts[-1].cnames:
                return Answer(name, parts[-1].addresses, min(part.ttl_s for part in parts), tuple(passed), parts[-1].problem)
            if len(set(passed)) < len(passed):
                break
            asked, search = passed[-1] + ".", False
        return failed(name, "its aliases (CNAME) have no end")


def _with_addresses_only(text: str) -> str:
    """The file without name servers that are no addresses (for dnspython one spoils all), and those that glibc does not ask."""
    lines, servers = [], 0
    for line in text.splitlines():
        fields = line.split()
        if fields[:1] == ["nameserver"]:
            try:
                ipaddress.ip_address(fields[1] if len(fields) > 1 else "")
            except ValueError:
                continue
            servers += 1
            if servers > _SERVERS_MAX:
                continue
        lines.append(line)
    return "\n".join(lines)


def _ask_first(resolver: dns.resolver.Resolver, answered: dns.resolver.Answer) -> None:
    """Ask the server that answered before those that may not: the dead ones have had their time in this look-up."""
    address, port = answered.nameserver, answered.port

    def did_not_answer(server: str | dns.nameserver.Nameserver) -> bool:
        return (server, resolver.port) != (address, port) if isinstance(server, str) else str(server) != f"Do53:{address}@{port}"

    resolver.nameservers = sorted(resolver.nameservers, key=did_not_answer)


def _records(message: dns.message.Message, kind: str) -> list[Record]:
    """The addresses of one type, and the aliases, in an answer section."""
    records = []
    for rrset in message.answer:
        if rrset.rdclass != dns.rdataclass.IN:
            continue
        if rrset.rdtype == dns.rdatatype.CNAME:
            records += [Record(_text(rrset.name), rrset.ttl, _text(each.target)) for each in rrset]
        elif rrset.rdtype == dns.rdatatype.from_text(kind):
            records += [Record(_text(rrset.name), rrset.ttl, ipaddress.ip_address(each.address).packed) for each in rrset]
    return records


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _reason(error: Exception) -> str:
    """Why a look-up failed, in one line that is the same each time."""
    if isinstance(error, dns.resolver.NoNameservers):
        errors = error.kwargs.get("errors") or []
        error = errors[-1][3] if errors else error
        if isinstance(error, str):  # dnspython puts a response code here
            return error
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:_REASON_LENGTH_MAX]
