"""Endpoint specifications: what they mean, what is refused, and their prefixes in the watch map."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces import v4
from tracer.endpoints import ANY_PORT, DEFAULT_PORT, network_label, parse_endpoint, prefix_of
from tracer.errors import UsageError


@pytest.mark.parametrize(
    ("spec", "label", "host", "port"),
    [
        ("ghcr.io", "ghcr.io:443", "ghcr.io", 443),
        ("ghcr.io:443", "ghcr.io:443", "ghcr.io", 443),
        ("registry.example:5000", "registry.example:5000", "registry.example", 5000),
        ("registry.example:*", "registry.example:*", "registry.example", ANY_PORT),
        ("localhost:1", "localhost:1", "localhost", 1),
        ("localhost:65535", "localhost:65535", "localhost", 65535),
        ("Registry-1.Docker.IO", "registry-1.docker.io:443", "registry-1.docker.io", 443),
        ("a_b.example", "a_b.example:443", "a_b.example", 443),
        ("_http._tcp.example", "_http._tcp.example:443", "_http._tcp.example", 443),
        ("xn--bcher-kva.example", "xn--bcher-kva.example:443", "xn--bcher-kva.example", 443),
        ("Bücher.example:5000", "xn--bcher-kva.example:5000", "xn--bcher-kva.example", 5000),
        ("3com.example", "3com.example:443", "3com.example", 443),
        ("1.2.3.example", "1.2.3.example:443", "1.2.3.example", 443),
        ("  ghcr.io:443\n", "ghcr.io:443", "ghcr.io", 443),
        ("host:0443", "host:443", "host", 443),
        ("a." * 126 + "a", "a." * 126 + "a:443", "a." * 126 + "a", 443),
        ("a" * 63 + ".example", "a" * 63 + ".example:443", "a" * 63 + ".example", 443),
    ],
)
def test_a_name_is_kept_to_be_resolved(spec: str, label: str, host: str, port: int) -> None:
    made = parse_endpoint(spec)
    assert (made.label, made.host, made.network, made.port) == (label, host, None, port)


def test_a_name_is_resolved_without_its_final_dot() -> None:
    assert parse_endpoint("registry.example.").host == "registry.example"


@pytest.mark.parametrize(
    ("spec", "label", "network", "port"),
    [
        ("203.0.113.7", "203.0.113.7:443", "203.0.113.7/32", 443),
        ("203.0.113.7:5000", "203.0.113.7:5000", "203.0.113.7/32", 5000),
        ("203.0.113.7:*", "203.0.113.7:*", "203.0.113.7/32", ANY_PORT),
        ("203.0.113.7/32", "203.0.113.7:443", "203.0.113.7/32", 443),
        ("10.0.0.0/8", "10.0.0.0/8:443", "10.0.0.0/8", 443),
        ("10.0.0.0/8:*", "10.0.0.0/8:*", "10.0.0.0/8", ANY_PORT),
        ("10.1.2.3/8:80", "10.0.0.0/8:80", "10.0.0.0/8", 80),
        ("0.0.0.0/0:*", "0.0.0.0/0:*", "0.0.0.0/0", ANY_PORT),
        ("::1", "[::1]:443", "::1/128", 443),
        ("[::1]", "[::1]:443", "::1/128", 443),
        ("[::1]:443", "[::1]:443", "::1/128", 443),
        ("[::1]:*", "[::1]:*", "::1/128", ANY_PORT),
        ("[2001:DB8:0:0::7]:5000", "[2001:db8::7]:5000", "2001:db8::7/128", 5000),
        ("2001:db8::/32", "[2001:db8::/32]:443", "2001:db8::/32", 443),
        ("[2001:db8::]/32:443", "[2001:db8::/32]:443", "2001:db8::/32", 443),
        ("[2001:db8::]/32", "[2001:db8::/32]:443", "2001:db8::/32", 443),
        ("[2001:db8::/32]:5000", "[2001:db8::/32]:5000", "2001:db8::/32", 5000),
        ("[::]/0:*", "[::/0]:*", "::/0", ANY_PORT),
        ("::ffff:1.2.3.4", "1.2.3.4:443", "1.2.3.4/32", 443),
        ("[::ffff:1.2.3.4]:5000", "1.2.3.4:5000", "1.2.3.4/32", 5000),
        ("::ffff:1.2.3.4/120", "1.2.3.0/24:443", "1.2.3.0/24", 443),
    ],
)
def test_an_address_or_prefix_is_a_network(spec: str, label: str, network: str, port: int) -> None:
    made = parse_endpoint(spec)
    assert (made.label, made.host, made.network, made.port) == (label, None, ipaddress.ip_network(network), port)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        " ",
        ":",
        ":443",
        "*",
        "*:443",
        "/",
        "/24",
        ".",
        "..",
        "host name",
        "host..example",
        ".example",
        "-a.example",
        "a-.example",
        "a" * 64 + ".example",
        "a." * 127 + "a",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.4.",
        "256.1.1.1",
        "1.2.3.04",
        "443",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "10.0.0.0/8/8",
        "host.example/8",
        "https://ghcr.io",
        "ghcr.io/library/alpine",
        "user@ghcr.io",
        "::1::",
        "1:2:3",
        "2001:db8::/129",
        "2001:db8::/32:443",
        "ghcr.io:443:443",
        "[]",
        "[]:443",
        "[::1",
        "[::1:443",
        "::1]:443",
        "[::1]443",
        "[::1]x:443",
        "[ghcr.io]:443",
        "[203.0.113.7]:443",
        "[2001:db8::]/32x:443",
        "[[::1]]:443",
        "registry\u200b.example",
        "ｇｈｃｒ.io",
        "１.2.3.4",
        "gh\x00cr.io",
        "gh\x1b[31mcr.io",
    ],
)
def test_what_is_no_endpoint_is_refused_with_what_was_expected(spec: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse_endpoint(spec)


@pytest.mark.parametrize(
    "port", ["", "0", "65536", "70000", "-1", "+1", " 443", "443 x", "4_43", "https", "**", "٤٤٣", "²", "0x50", "4" * 5000]
)
@pytest.mark.parametrize("host", ["host", "203.0.113.7", "10.0.0.0/8", "[::1]", "[2001:db8::]/32"])
def test_what_is_no_port_is_refused_with_what_was_expected(host: str, port: str) -> None:
    with pytest.raises(UsageError, match=r"is no port: expected 1\.\.65535"):
        parse_endpoint(f"{host}:{port}")


def test_an_error_shows_a_control_character_escaped() -> None:
    with pytest.raises(UsageError) as raised:
        parse_endpoint("a\x1b[2Jb")
    assert "\x1b" not in str(raised.value)


@given(st.text(max_size=30))
def test_any_text_is_an_endpoint_or_a_usage_error(text: str) -> None:
    try:
        made = parse_endpoint(text)
    except UsageError:
        return
    assert (made.host is None) != (made.network is None)
    assert made.port == ANY_PORT or 1 <= made.port <= 65535


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


@given(ADDRESSES, st.integers(1, 65535))
def test_a_label_is_a_specification_of_the_same_endpoint(address: ipaddress.IPv4Address, port: int) -> None:
    shown = f"[{address}]" if address.version == 6 else str(address)
    made = parse_endpoint(f"{shown}:{port}")
    assert parse_endpoint(made.label) == made


@given(ADDRESSES, st.data())
def test_a_label_of_a_prefix_is_a_specification_of_the_same_endpoint(address: ipaddress.IPv4Address, data: st.DataObject) -> None:
    bits = data.draw(st.integers(0, address.max_prefixlen))
    made = parse_endpoint(f"{address}/{bits}")
    assert parse_endpoint(made.label) == made


def test_the_default_port_is_that_of_https() -> None:
    assert DEFAULT_PORT == 443


@pytest.mark.parametrize(
    ("network", "address", "bits"),
    [
        ("203.0.113.7/32", v4("203.0.113.7"), 128),
        ("10.0.0.0/8", v4("10.0.0.0"), 104),
        ("0.0.0.0/0", v4("0.0.0.0"), 96),
        ("::1/128", bytes(15) + b"\x01", 128),
        ("2001:db8::/32", b"\x20\x01\x0d\xb8" + bytes(12), 32),
        ("::/0", bytes(16), 0),
    ],
)
def test_a_prefix_has_ipv4_in_its_mapped_form(network: str, address: bytes, bits: int) -> None:
    assert prefix_of(ipaddress.ip_network(network)) == (address, bits)


@pytest.mark.parametrize(
    ("network", "label"),
    [("10.0.0.0/8", "10.0.0.0/8"), ("10.0.0.1/32", "10.0.0.1"), ("::1/128", "[::1]"), ("2001:db8::/32", "[2001:db8::/32]")],
)
def test_a_networks_label_has_its_prefix_unless_it_is_one_address(network: str, label: str) -> None:
    assert network_label(ipaddress.ip_network(network)) == label
