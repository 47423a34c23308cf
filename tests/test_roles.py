"""What endpoints are for: well-known names, and nothing guessed from others."""

from __future__ import annotations

import pytest

from tracer.errors import UsageError
from tracer.roles import Role, companions, parse_role, role_of


@pytest.mark.parametrize(
    ("label", "role"),
    [
        ("registry-1.docker.io:443", Role.API),
        ("auth.docker.io:443", Role.AUTH),
        ("production.cloudfront.docker.com:443", Role.BLOB),
        ("ghcr.io:443", Role.API),
        ("quay.io:443", Role.API),
        ("cdn01.quay.io:443", Role.BLOB),
        ("eastus.data.mcr.microsoft.com:443", Role.BLOB),
        ("registry-1.docker.io:5000", Role.API),
        ("registry-1.docker.io:*", Role.API),
    ],
)
def test_well_known_hosts_have_their_role(label: str, role: Role) -> None:
    assert role_of(label) is role


@pytest.mark.parametrize(
    "label",
    [
        "", ":443", "registry.example:443", "10.0.0.1:443", "[2001:db8::1]:443", "10.0.0.0/8:*", "notauth.docker.io:443",
        "auth.docker.io.example:443", "data.mcr.microsoft.com.evil.example:443", "docker.io", "endpoint 3",
    ],
)  # fmt: skip
def test_nothing_is_guessed_of_other_endpoints(label: str) -> None:
    assert role_of(label) is Role.UNKNOWN


@pytest.mark.parametrize("role", list(Role))
def test_a_role_is_parsed_by_its_name(role: Role) -> None:
    assert parse_role(role.value) is role


@pytest.mark.parametrize("text", ["", "API", "Auth", "mirrors", " api", "\x1b[31m", "0"])
def test_what_is_no_role_is_said_with_what_is(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_role(text)
    assert all(role.value in str(caught.value) for role in Role if role is not Role.UNKNOWN)


@pytest.mark.parametrize("host", ["registry-1.docker.io", "ghcr.io", "quay.io", "gcr.io"])
def test_companions_of_a_registry_are_known_token_and_blob_hosts(host: str) -> None:
    assert {role_of(f"{companion}:443") for companion in companions(host)} <= {Role.AUTH, Role.BLOB}
    assert companions(host)


@pytest.mark.parametrize("host", ["", "registry.example", "auth.docker.io", "docker.io"])
def test_other_hosts_have_no_companions(host: str) -> None:
    assert companions(host) == ()
