"""Other tools' lines: their true output is understood to the last line, whatever processes call themselves."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import printed
from tests.printed import Printer
from tests.traces import MS, S, event, trace, v4
from tracer.events import Events
from tracer.imports.formats import FORMATS, format_named, told
from tracer.imports.readings import PASSED, Lost, Reading, Transition, address

SAMPLES = sorted((Path(__file__).parent / "imports").glob("*.txt"))
"""True output of the tools, of connections between addresses for documentation."""
V4, V6 = address(b"198.18.0.1"), address(b"2001:db8::1")
PRINTERS: dict[str, tuple[str, Printer]] = {
    "narrow": ("tcpstates", printed.tcpstates),
    "narrow -tT": ("tcpstates", lambda events: printed.tcpstates(events, time=True, since=True)),
    "wide": ("tcpstates", lambda events: printed.tcpstates(events, wide=True)),
    "wide libbpf": ("tcpstates", lambda events: printed.tcpstates(events, wide=True, pid_width=7, time=True)),
    "csv": ("tcpstates-csv", lambda events: printed.tcpstates(events, csv=True)),
    "csv -stT": ("tcpstates-csv", lambda events: printed.tcpstates(events, csv=True, time=True, since=True)),
    "ftrace": ("ftrace", printed.ftrace),
    "perf": ("ftrace", lambda events: printed.ftrace(events, perf=True)),
    "key=value": ("bpftrace", printed.key_value),
}
HOSTILE = [
    b"Web Content", b"1 4", b"foo 4", b"foo 6", b"a,b", b"1,4,::1,1,::1,1", b"5000 443 CLOSE", b"-> CLOSE 0.000", b"x-1 [000]",
    b"comm=x old=7", b"<idle>", b"\x1b[2J", b"\xff\xfe", b"4", b"::1 1 ::1 1", b"10:00:00", b"a=b raddr=::1",
]  # fmt: skip
names = st.one_of(st.sampled_from(HOSTILE), st.binary(max_size=15).map(lambda comm: comm.translate(None, b"\0\n\r")))


def lines_of(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().split(b"\n") if line]


def parsed(path: Path) -> list[Reading]:
    found = told(lines_of(path))
    assert found is not None
    parser = found.parser()
    return [parser.parse(line) for line in lines_of(path)]


def one_of(comm: bytes, **fields: object) -> Events:
    return trace(event(S.SYN_SENT, S.ESTABLISHED, 5 * MS, comm=comm, **fields))


def shown(comm: bytes, name: str) -> bytes:
    """What a tool's line can tell of a name: the padding beside it is no part of it."""
    kept = comm[:10] if name.startswith("narrow") else comm
    if name.startswith(("narrow", "wide", "perf")):
        return kept.strip(b" ")
    return kept.lstrip(b" ") if name == "ftrace" else kept


NO_NAMES = re.compile(rb" *(<\.\.\.>|:-?\d+) *")
"""What ftrace and perf write where they know none."""


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_line_of_true_output_is_understood(path: Path) -> None:
    assert None not in parsed(path)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_format_of_true_output_is_told_by_its_lines(path: Path) -> None:
    expected = {"bcc": "tcpstates", "libbpf": "tcpstates", "ftrace": "ftrace", "perf": "ftrace", "bpftrace": "bpftrace"}[
        path.stem.split("-")[0]
    ]
    if "_s" in path.stem:
        expected = "tcpstates-csv"
    found = told(lines_of(path))
    assert found is not None
    assert found.name == expected


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_both_families_and_spaced_names_are_read_out_of_true_output(path: Path) -> None:
    transitions = [found for found in parsed(path) if isinstance(found, Transition)]
    assert {found.raddr for found in transitions} >= {V4, V6}
    comms = {found.comm for found in transitions}
    assert b"dockerd" in comms
    if path.stem != "ftrace-trace":  # in which the kernel remembered one name a process
        assert any(comm.startswith(b"5000 443 C") for comm in comms)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_true_output_opens_connections_without_a_port_and_closes_them_with_one(path: Path) -> None:
    transitions = [found for found in parsed(path) if isinstance(found, Transition)]
    opened = [found for found in transitions if (found.old, found.new) == (S.CLOSE, S.SYN_SENT)]
    assert len(opened) > 5
    assert {found.lport for found in opened} == {0}
    assert all(found.lport for found in transitions if found.new == S.CLOSE)


@pytest.mark.parametrize("name", PRINTERS)
@settings(max_examples=30)
@given(comm=names, pid=st.integers(0, 4_194_304))
def test_a_name_that_looks_like_columns_changes_nothing_but_itself(name: str, comm: bytes, pid: int) -> None:
    format_name, print_lines = PRINTERS[name]
    parser = format_named(format_name).parser()
    made = one_of(comm, pid=pid)
    found = [parser.parse(line) for line in print_lines(made)][-1]
    assert isinstance(found, Transition), print_lines(made)
    assert (found.old, found.new, found.lport, found.rport, found.pid) == (S.SYN_SENT, S.ESTABLISHED, 40_000, 443, pid)
    assert (found.laddr, found.raddr) == (made["saddr"].tobytes(), made["daddr"].tobytes())
    unknown = name in ("ftrace", "perf") and NO_NAMES.fullmatch(comm)
    assert found.comm == (b"" if unknown else shown(comm, name))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("comm", [b"plain", b"Web Conten", b"1 4", b"foo 4", b"a 6", b"4"])
@pytest.mark.parametrize("pid", [1, 4_194_304])
def test_columns_are_told_from_wide_ones_without_their_heading(wide: bool, comm: bytes, pid: int) -> None:
    line = printed.tcpstates(one_of(comm, pid=pid), wide=wide)[-1]
    found = format_named("tcpstates").parser().parse(line)
    assert isinstance(found, Transition)
    assert found.comm == comm


@pytest.mark.parametrize("each", FORMATS, ids=lambda each: each.name)
@settings(max_examples=30)
@given(line=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_no_line_raises(each: object, line: bytes) -> None:
    for known in FORMATS:
        assert known.parser().parse(line) is None or isinstance(known.parser().parse(line), (Transition, Lost, type(PASSED)))


@pytest.mark.parametrize("name", PRINTERS)
@settings(max_examples=30)
@given(data=st.data())
def test_no_damaged_line_raises(name: str, data: st.DataObject) -> None:
    format_name, print_lines = PRINTERS[name]
    line = bytearray(print_lines(one_of(b"dockerd"))[-1])
    for _ in range(data.draw(st.integers(1, 4))):
        line[data.draw(st.integers(0, len(line) - 1))] = data.draw(st.integers(0, 255))
    found = format_named(format_name).parser().parse(bytes(line))
    if isinstance(found, Transition):
        assert found.pid < 1 << 32
        assert max(found.lport, found.rport) < 1 << 16
        assert found.skaddr < 1 << 64
        assert 1 <= found.old <= 12
        assert 1 <= found.new <= 12


@pytest.mark.parametrize(
    ("line", "lost"),
    [
        (b"Possibly lost 44278 samples", 44278),
        (b"lost 12 events on CPU #3", 12),
        (b"Lost 7 events", 7),
        (b"WARNING: Lost 9 events", 9),
        (b"CPU:1 [LOST 123 EVENTS]", 123),
        (b"CPU:0 [56 EVENTS DROPPED]", 56),
        (b"CPU:2 [LOST EVENTS]", 1),
    ],
)
@pytest.mark.parametrize("each", FORMATS, ids=lambda each: each.name)
def test_what_a_tool_says_of_its_losses_is_counted(each: object, line: bytes, lost: int) -> None:
    for known in FORMATS:
        assert known.parser().parse(line) == Lost(lost)


def test_other_events_and_other_protocols_are_passed_over() -> None:
    parser = format_named("ftrace").parser()
    other = b"  dockerd-55 [001] ..... 46360.852498: sched_switch: prev_comm=a oldstate=TCP_CLOSE"
    mptcp = printed.ftrace(one_of(b"x"))[0].replace(b"IPPROTO_TCP", b"IPPROTO_MPTCP")
    assert (parser.parse(other), parser.parse(mptcp)) == (PASSED, PASSED)


def test_a_name_that_ftrace_did_not_keep_is_unknown() -> None:
    found = format_named("ftrace").parser().parse(printed.ftrace(one_of(b"<...>", pid=9))[0])
    assert isinstance(found, Transition)
    assert (found.comm, found.pid) == (b"", 9)


def test_a_process_is_preferred_to_its_thread_where_both_are_shown() -> None:
    line = printed.ftrace(one_of(b"dockerd", pid=9))[0].replace(b"-9       [", b"-9       (   77) [")
    found = format_named("ftrace").parser().parse(line)
    assert isinstance(found, Transition)
    assert found.pid == 77


@pytest.mark.parametrize(
    "line",
    [
        b"old=7 new=2 laddr=::1 lport=1",  # no remote end
        b"old=7 new=2 raddr=::1 rport=443",  # no socket and no local end
        b"old=7 new=13 sk=1 raddr=::1 rport=443",
        b"old=7 new=NEVER sk=1 raddr=::1 rport=443",
        b"old=7 new=2 sk=1 raddr=here rport=443",
        b"old=7 new=2 sk=1 raddr=::1 rport=65536",
        b"old=7 new=2 sk=zz raddr=::1 rport=443",
        b"old=7 new=2 sk=1 raddr=::1 rport=443 pid=-1",
        b"old=7 new=2 sk=1 raddr=::1 rport=443 time=25:00:00",
        b"ns=99999999999999999999 old=7 new=2 sk=1 raddr=::1 rport=443",
    ],
)
def test_a_line_of_keys_that_lacks_what_it_needs_is_not_understood(line: bytes) -> None:
    assert format_named("bpftrace").parser().parse(line) is None


def test_keys_may_have_the_names_of_the_tracepoint_and_states_their_own() -> None:
    ends = b"saddr=198.18.0.1, sport=0, daddr=198.18.0.9 dport=443"
    line = b"time=10:20:30 skaddr=0xffff8880 oldstate=TCP_CLOSE newstate=SYN_SENT, " + ends
    found = format_named("bpftrace").parser().parse(line)
    assert isinstance(found, Transition)
    assert (found.old, found.new, found.skaddr, found.rport) == (S.CLOSE, S.SYN_SENT, 0xFFFF8880, 443)
    assert (found.raddr, found.pid) == (v4("198.18.0.9"), -1)
    assert found.day_ns == np.int64(10 * 3600 + 20 * 60 + 30) * 1_000_000_000
