"""The decision which source to take: from a capable host, one capability taken away at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bpf.support import CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, EbpfSupport, effective_capabilities, find_bcc, may_trace
from bpf.syscall import possible_cpus
from tracer.endpoints import parse_endpoint
from tracer.errors import SourceError
from tracer.main import SOURCES
from tracer.source import WANTED, Choice, HostSupport, choose_source, open_source, resolve_endpoints, watched_text


def capable_host() -> HostSupport:
    return HostSupport(EbpfSupport(True, True, "/usr/lib/python3/dist-packages/bcc", None, 4_000_000))


@pytest.mark.parametrize("wanted", WANTED)
def test_a_capable_host_gets_ebpf(wanted: str) -> None:
    assert choose_source(capable_host(), wanted).source == "ebpf"


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize(
    ("lacking", "reason", "remedy"),
    [
        ({"privileged": False}, "needs root", "sudo"),
        ({"btf": False}, "/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"),
        ({"bcc_dir": None}, "bcc is not installed", "apt install python3-bpfcc"),
        ({"ring_buffer_error": "Operation not permitted"}, "Operation not permitted", "5.8"),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(wanted: str, lacking: dict[str, object], reason: str, remedy: str) -> None:
    host = HostSupport(replace(capable_host().ebpf, **lacking))  # type: ignore[arg-type]
    choice = choose_source(host, wanted)
    assert choice.source is None
    assert reason in choice.why
    assert remedy in choice.remedy


def test_no_source_is_an_error_with_why_and_remedy() -> None:
    with pytest.raises(SourceError, match="because; do that"):
        open_source(capable_host(), Choice(None, "because", "do that"))


@pytest.mark.parametrize(
    ("capabilities", "may"),
    [
        (0, False),
        (1 << CAP_BPF, False),
        (1 << CAP_PERFMON, False),
        (1 << CAP_BPF | 1 << CAP_PERFMON, True),
        (1 << CAP_SYS_ADMIN, True),
    ],
)
def test_capabilities_that_allow_tracing(capabilities: int, may: bool) -> None:
    assert may_trace(capabilities) is may


@pytest.mark.parametrize(
    ("status", "mask"),
    [("Name:\tx\nCapEff:\t000001ffffffffff\n", 0x1FFFFFFFFFF), ("", 0), ("CapEff:\n", 0), ("CapEff:\tzz\n", 0)],
)
def test_capabilities_from_proc_status(status: str, mask: int) -> None:
    assert effective_capabilities(status) == mask


def test_another_package_named_bcc_is_not_taken(tmp_path: Path) -> None:
    """Only the one that has libbcc.py, the distribution's."""
    (tmp_path / "other" / "bcc").mkdir(parents=True)
    (tmp_path / "other" / "bcc" / "__init__.py").touch()
    right = tmp_path / "right" / "bcc"
    right.mkdir(parents=True)
    (right / "libbcc.py").touch()
    assert find_bcc((str(tmp_path / "other" / "bcc"), str(tmp_path / "r*t" / "bcc"))) == str(right)


@pytest.mark.parametrize(("text", "count"), [("0\n", 1), ("0-3\n", 4), ("0-1,4-7\n", 8)])
def test_possible_cpus(text: str, count: int) -> None:
    assert possible_cpus(text) == count


def test_possible_cpus_of_nonsense_is_an_error() -> None:
    with pytest.raises(SourceError):
        possible_cpus("many")


def test_endpoints_are_numbered_from_one_without_repeats() -> None:
    numbered = resolve_endpoints(map(parse_endpoint, ["10.0.0.1", "10.0.0.1:443", "10.0.0.0/8:80"]))
    assert {number: members[0].label for number, members in numbered.items()} == {1: "10.0.0.1:443", 2: "10.0.0.0/8:80"}


def test_a_name_becomes_its_addresses_under_its_own_label() -> None:
    numbered = resolve_endpoints([parse_endpoint("localhost:5000")])
    assert {member.label for member in numbered[1]} == {"localhost:5000"}
    assert "127.0.0.1" in {str(member.network.network_address) for member in numbered[1] if member.network}
    assert "127.0.0.1" in watched_text(numbered)[0]


def test_the_command_line_offers_what_can_be_chosen() -> None:
    """Written twice, so that --help need not import numpy."""
    assert SOURCES == WANTED
