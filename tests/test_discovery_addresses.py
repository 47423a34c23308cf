"""tracer.discovery.addresses and found: what a host is written like, and what becomes of the same one found twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.discovery.addresses import AddressError, parse_address, parse_network
from tracer.discovery.found import FOUND_MAX, PROBLEMS_MAX, Found, Reading, discovery, merged
from tracer.endpoints import parse_endpoint
from tracer.roles import Role


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("registry.example.com", "registry.example.com:443"),
        ("registry.example.com:5000", "registry.example.com:5000"),
        ("registry.example.com/team/app", "registry.example.com:443"),
        ("https://registry.example.com/v2/", "registry.example.com:443"),
        ("http://registry.example.com", "registry.example.com:80"),
        ("HTTP://Registry.Example.COM.:8080/x?y#z", "registry.example.com:8080"),
        ("https://registry.example.com?x=1", "registry.example.com:443"),
        ("https://user:dummy@registry.example.com", "registry.example.com:443"),
        ("https://user:d@mmy@registry.example.com:5000", "registry.example.com:5000"),
        ("user@registry.example.com", "registry.example.com:443"),
        ("socks5://registry.example.com", "registry.example.com:1080"),
        ("registry.example.com:", "registry.example.com:443"),
        ("localhost:5000", "localhost:5000"),
        ("10.1.2.3", "10.1.2.3:443"),
        ("10.1.2.3:5000", "10.1.2.3:5000"),
        ("[fd00::1]:5000", "[fd00::1]:5000"),
        ("[fd00::1]", "[fd00::1]:443"),
        ("fd00::1", "[fd00::1]:443"),
        ("http://[FD00::1]/", "[fd00::1]:80"),
        ("https://[::ffff:10.1.2.3]:5000", "10.1.2.3:5000"),
        ("bücher.example", "xn--bcher-kva.example:443"),
        ("  registry.example.com\n", "registry.example.com:443"),
        ("docker.io", "registry-1.docker.io:443"),
        ("https://index.docker.io/v1/", "registry-1.docker.io:443"),
        ("a." * 126 + "a", "a." * 126 + "a:443"),
    ],
)  # fmt: skip
def test_a_host_is_taken_out_of_how_it_is_written(text: str, spec: str) -> None:
    assert parse_address(text).specs() == (spec,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("https://", "names no host"),
        ("https://user:dummy@", "names no host"),
        (".", "names no host"),
        ("unix:///run/mirror.sock", "scheme"),
        ("ftp://registry.example.com", "scheme"),
        ("registry.example.com:0", "port"),
        ("registry.example.com:65536", "port"),
        ("registry.example.com:5000x", "port"),
        ("registry.example.com:٤٤٣", "port"),
        ("registry\x1b[31m.example", "control characters"),
        ("registry\0.example", "control characters"),
        ("registry\ud800.example", "control characters"),
        ("two words", "names no host"),
        ("*.example.com", "names no host"),
        ("10.1.2", "names no host"),
        ("a" * 64 + ".example", "names no host"),
        ("a." * 127 + "a", "253"),
        ("ü" * 64 + ".example", "IDNA"),
        ("http://user:80/dummy@proxy.example.com", "percent-encoded"),
        ("[fd00::1", "brackets"),
        ("[registry.example.com]", "brackets"),
        ("[fd00::1]x", "brackets"),
        ("fd00::zz", "colons"),
        ("fd00::1:2:3:4:5:6:7:8:9", "colons"),
        ("a" * 5000, "4096"),
    ],
)  # fmt: skip
def test_what_names_no_host_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(AddressError, match=reason):
        parse_address(text)


@given(st.text(max_size=40) | st.from_regex(r"(https?://)?([a-z]*:[a-z]*@)?[\[\]a-zé.:0-9*-]{0,20}(:[0-9]{0,6})?(/.*)?"))
def test_every_text_is_an_endpoint_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressError:
        return
    for spec in address.specs(insecure=True):
        assert parse_endpoint(spec).label == spec


@given(
    st.text(max_size=20), st.sampled_from(["", "https://", "http://", "unix://"]), st.sampled_from(["", "@", ":", "@a b", "/"])
)
def test_a_reason_never_quotes_the_text(text: str, before: str, behind: str) -> None:
    marked = f"{before}mArKeD{text}{behind}"
    try:
        parse_address(marked)
    except AddressError as error:
        assert "mArKeD" not in str(error)


def test_an_insecure_registry_without_a_port_is_asked_without_tls_too() -> None:
    assert parse_address("plain.example").specs(insecure=True) == ("plain.example:443", "plain.example:80")


@pytest.mark.parametrize("text", ["plain.example:5000", "http://plain.example:5000"])
def test_an_insecure_registry_with_a_port_is_asked_there_only(text: str) -> None:
    assert parse_address(text).specs(insecure=True) == ("plain.example:5000",)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("quay.io/team", "quay.io"),
        ("r.example:443", "r.example"),
        ("r.example:5000", "r.example:5000"),
        ("[fd00::1]:5000", "[fd00::1]:5000"),
    ],
)
def test_a_registry_has_one_name_however_it_is_written(text: str, name: str) -> None:
    assert parse_address(text).registry == name


@pytest.mark.parametrize(
    ("text", "spec"),
    [("10.0.0.0/8", "10.0.0.0/8:*"), ("10.1.2.3/8", "10.0.0.0/8:*"), ("fd00::/8", "[fd00::/8]:*"), ("10.1.2.3/32", "10.1.2.3:*")],
)
def test_a_cidr_is_watched_with_any_port(text: str, spec: str) -> None:
    assert parse_network(text) == spec


@pytest.mark.parametrize(
    "text", ["", "10.1.2.3", "registry.example/8", "10.0.0.0/33", "10.0.0.0/8/8", "/", "\0/8", "1" * 300 + "/8"]
)
def test_what_is_no_cidr_is_none(text: str) -> None:
    assert parse_network(text) is None


# --- merging ---


def test_one_entry_is_left_of_the_same_spec_with_all_its_origins() -> None:
    twice = [Found("a.example:443", Role.PRIVATE, "one"), Found("a.example:443", Role.PRIVATE, "two")]
    assert merged([*twice, twice[0]]) == (Found("a.example:443", Role.PRIVATE, "one; two"),)


@pytest.mark.parametrize(
    ("roles", "best"),
    [
        ((Role.UNKNOWN, Role.PRIVATE), Role.PRIVATE),
        ((Role.PRIVATE, Role.MIRROR, Role.UNKNOWN), Role.MIRROR),
        ((Role.MIRROR, Role.PROXY), Role.PROXY),
        ((Role.UNKNOWN, Role.API), Role.API),
        ((Role.BLOB, Role.AUTH), Role.AUTH),
    ],
)
def test_the_role_that_says_most_is_kept(roles: tuple[Role, ...], best: Role) -> None:
    for order in (roles, roles[::-1]):
        assert [one.role for one in merged(Found("a.example:443", role, "x") for role in order)] == [best]


def test_a_mirror_of_several_registries_names_them_all_and_one_of_any_says_so() -> None:
    two = [Found("m.example:443", Role.MIRROR, "x", of) for of in ("docker.io", "", "quay.io")]
    assert [one.mirror_of for one in merged(two)] == ["docker.io, quay.io"]
    assert [one.mirror_of for one in merged([*two, Found("m.example:443", Role.MIRROR, "x", "*")])] == ["*"]


def test_endpoints_and_problems_are_bounded_and_what_is_left_out_is_counted() -> None:
    many = tuple(Found(f"a{number}.example:443", Role.PRIVATE, "x") for number in range(FOUND_MAX + 7))
    lines = tuple(f"problem {number}" for number in range(PROBLEMS_MAX + 7))
    result = discovery(Reading(many, lines), ())
    assert result.found == many[:FOUND_MAX]
    assert result.problems[0] == f"7 endpoints are left out: more than {FOUND_MAX} are configured"
    assert (len(result.problems), result.problems[-1]) == (PROBLEMS_MAX, "9 more problems")


def test_lines_are_there_once_and_safe_to_show() -> None:
    result = discovery(Reading((), ("a\x1b[31m", "a\x1b[31m")), ("/etc/\x07", "/etc/\x07"))
    assert (result.problems, result.looked_at) == (("a\\x1b[31m",), ("/etc/\\x07",))
