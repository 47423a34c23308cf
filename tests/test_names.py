"""Names into addresses: the hosts file first, DNS bounded in time, errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracer.errors import ResolveError
from tracer.names import hosts_addresses, resolve

HOSTS = """
127.0.0.1 localhost
10.1.2.3  registry.example Registry-Alias   # comment
::1 localhost ip6-localhost
fe80::1%eth0 scoped.example
not-an-address registry.example
10.1.2.4 registry.example
10.1.2.3 registry.example
"""


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("registry.example", ["10.1.2.3", "10.1.2.4"]),
        ("REGISTRY-ALIAS", ["10.1.2.3"]),
        ("localhost", ["127.0.0.1", "::1"]),
        ("scoped.example", ["fe80::1"]),
        ("comment", []),
        ("absent", []),
    ],
)
def test_hosts_file(name: str, addresses: list[str]) -> None:
    assert hosts_addresses(HOSTS, name) == addresses


def test_hosts_file_wins_over_dns(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(HOSTS)
    assert resolve("registry.example", tmp_path / "hosts") == ["10.1.2.3", "10.1.2.4"]


def test_localhost_needs_no_file(tmp_path: Path) -> None:
    assert resolve("localhost", tmp_path / "absent") == ["127.0.0.1", "::1"]


def test_a_name_without_address_is_an_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ResolveError, match=r"does-not-exist\.invalid can't be resolved: .+ give an address"):
        resolve("does-not-exist.invalid", tmp_path / "absent")


def test_no_resolver_configuration_is_an_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ResolveError, match=r"no name server is set up in .+; check the name and .+/absent"):
        resolve("registry.example", tmp_path / "absent", tmp_path / "absent")
