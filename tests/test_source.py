"""The decision which source to take: from a capable host, one capability taken away at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bpf.support import CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, EbpfSupport, effective_capabilities, find_bcc, may_trace
from bpf.syscall import possible_cpus
from fallback.support import PollingSupport
from tracer.errors import SourceError
from tracer.options import SOURCES
from tracer.source import WANTED, Choice, HostSupport, choose_source, open_source

CAPABLE = EbpfSupport(True, True, "/usr/lib/python3/dist-packages/bcc", None, 4_000_000)
LACKING = (
    ({"privileged": False}, "needs root", "sudo"),
    ({"btf": False}, "/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"),
    ({"bcc_dir": None}, "bcc is not installed", "apt install python3-bpfcc"),
    ({"ring_buffer_error": "Operation not permitted"}, "Operation not permitted", "5.8"),
)


def host(sock_diag: str | None = None, proc: str | None = None, **lacking: object) -> HostSupport:
    """A host that can do everything but what is said."""
    return HostSupport(replace(CAPABLE, **lacking), PollingSupport(sock_diag, proc))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "source"), [("auto", "ebpf"), ("ebpf", "ebpf"), ("polled", "polled"), ("proc", "proc")], ids=WANTED
)
def test_a_capable_host_gets_what_is_wanted_and_the_best_where_nothing_is(wanted: str, source: str) -> None:
    assert choose_source(host(), wanted).source == source


@pytest.mark.parametrize(("lacking", "reason", "remedy"), LACKING)
def test_ebpf_is_not_replaced_where_it_is_wanted(lacking: dict[str, object], reason: str, remedy: str) -> None:
    choice = choose_source(host(**lacking), "ebpf")
    assert choice.source is None
    assert reason in choice.why
    assert remedy in choice.remedy


@pytest.mark.parametrize(("lacking", "reason", "remedy"), LACKING)
def test_without_ebpf_the_next_best_is_taken_with_why_and_what_to_do(
    lacking: dict[str, object], reason: str, remedy: str
) -> None:
    choice = choose_source(host(**lacking), "auto")
    assert choice.source == "polled"
    assert reason in choice.why
    assert remedy in choice.remedy


def test_without_sock_diag_proc_is_left() -> None:
    choice = choose_source(host(sock_diag="seccomp forbids it", privileged=False), "auto")
    assert choice.source == "proc"
    assert "seccomp forbids it" in choice.why


def test_where_nothing_can_be_used_every_reason_is_said() -> None:
    choice = choose_source(host(sock_diag="seccomp forbids it", proc="not mounted", privileged=False), "auto")
    assert choice.source is None
    for reason in ("needs root", "seccomp forbids it", "not mounted"):
        assert reason in choice.why


@pytest.mark.parametrize(("wanted", "lacking"), [("polled", {"sock_diag": "no module"}), ("proc", {"proc": "not mounted"})])
def test_what_is_forced_and_can_t_be_is_no_source(wanted: str, lacking: dict[str, str]) -> None:
    choice = choose_source(host(**lacking), wanted)
    assert choice.source is None
    assert next(iter(lacking.values())) in choice.why


def test_no_source_is_an_error_with_why_and_remedy() -> None:
    with pytest.raises(SourceError, match="because; do that"):
        open_source(host(), Choice(None, "because", "do that"))


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


def test_the_command_line_offers_what_can_be_chosen() -> None:
    """Written twice, so that --help need not import numpy."""
    assert SOURCES == WANTED
