"""The lines of `--json`: the contract's fields, null for what is unknown, and no byte of a name that breaks a line."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_captures import ALL_FLAGS, HEADER, batch_of, events_of
from tracer.analysis import Analysis
from tracer.clock import ClockOffset
from tracer.events import EVENT_DTYPE, EventBatch, EventFlag
from tracer.lines import batch_lines, connection_lines, endpoint_line, loss_line, start_line, summary_line, transition_lines
from tracer.text import comm_bytes

CONTRACT = {
    "start": ("version", "source", "why", "resolution_ns", "host", "kernel", "endpoints"),
    "transition": ("ts_ns", "at", "skaddr", "endpoint", "laddr", "lport", "raddr", "rport", "old", "new", "pid", "comm"),
    "connection": (
        "endpoint", "laddr", "lport", "raddr", "rport", "pid", "comm", "container", "opened_at", "opened_ns", "connect_ns",
        "lifetime_ns", "close_reason", "bytes_received", "bytes_acked", "retransmits", "states", "preexisting",
    ),
    "summary": (
        "source", "resolution_ns", "events", "lost", "connections", "open", "coverage", "abstained", "endpoints",
    ),
}  # fmt: skip
"""Field names that scripts and dashboards rely on."""
HOSTILE = [
    b"\x1b[2J\x1b]0;title\x07", b'"},{"x":"', b"back\\slash", b"\\x41", b"\\u0041", b"two\nlines\r\n", b"\xff\xfe\xfd", b"\xc3(",
    b"\xed\xa0\x80", "\u2028\u2029\u0085".encode(), "na\u00efve".encode(), b"\x7f\x00\x01", b"", b" ", b"{{}}", b"{0}", b"%s",
]  # fmt: skip


def lines(*batches: EventBatch, clock: ClockOffset | None = HEADER.clock) -> list[str]:
    """Everything that --json --transitions writes for these batches."""
    analysis = Analysis(HEADER.source, HEADER.resolution_ns, HEADER.endpoints)
    written = [start_line(replace(HEADER, clock=clock))]
    for batch in batches:
        ended = analysis.feed(batch).ended
        written += batch_lines(batch, analysis.endpoints, clock, samples=True)
        written += connection_lines(ended, analysis.endpoints, clock)
    written += connection_lines(analysis.open(), analysis.endpoints, clock)
    return [*written, summary_line(analysis.summary(), clock)]


def objects(*batches: EventBatch, clock: ClockOffset | None = HEADER.clock) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in lines(*batches, clock=clock)]


def of_type(kind: str, *batches: EventBatch, clock: ClockOffset | None = HEADER.clock) -> list[dict[str, Any]]:
    return [line for line in objects(*batches, clock=clock) if line["type"] == kind]


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind, fields in CONTRACT.items() for field in fields])
def test_a_line_has_the_field_of_the_contract(kind: str, field: str) -> None:
    found = of_type(kind, batch_of(events_of(6)))
    assert found
    assert all(field in line for line in found)


def test_no_line_has_the_same_field_twice() -> None:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in found}) == len(found)
        return dict(found)

    for line in lines(batch_of(events_of(6))):
        json.loads(line, object_pairs_hook=pairs)


def test_the_start_is_first_and_the_summary_last() -> None:
    kinds = [line["type"] for line in objects(batch_of(events_of(6)))]
    assert (kinds[0], kinds[-1], kinds.count("start"), kinds.count("summary")) == ("start", "summary", 1, 1)


@pytest.mark.parametrize(
    ("field", "flag"),
    [
        ("laddr", EventFlag.HAS_SADDR), ("lport", EventFlag.HAS_SPORT), ("pid", EventFlag.HAS_TASK), ("comm", EventFlag.HAS_TASK),
        ("cgroup_id", EventFlag.HAS_CGROUP), ("netns", EventFlag.HAS_NETNS), ("bytes_received", EventFlag.HAS_RECEIVED),
        ("bytes_acked", EventFlag.HAS_ACKED), ("srtt_us", EventFlag.HAS_SRTT), ("retransmits", EventFlag.HAS_RETRANSMITS),
        ("unread_bytes", EventFlag.HAS_UNREAD), ("idle_ms", EventFlag.HAS_IDLE), ("sk_err", EventFlag.HAS_SK_ERR),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["transition", "connection"])
def test_a_field_whose_flag_is_missing_is_null(kind: str, field: str, flag: EventFlag) -> None:
    flags = ALL_FLAGS & ~(EventFlag.SAMPLE | EventFlag.ADOPTED | flag)
    assert {line[field] for line in of_type(kind, batch_of(events_of(4, flags=int(flags))))} == {None}


def test_a_value_of_zero_is_not_null() -> None:
    events = events_of(4, bytes_received=0, retransmits=0, sk_err=0)
    found = of_type("connection", batch_of(events))
    assert [(line["bytes_received"], line["retransmits"], line["sk_err"]) for line in found] == [(0, 0, 0)]


@pytest.mark.parametrize("field", ["closed_ns", "closed_at", "lifetime_ns", "sk_err"])
def test_what_an_open_connection_can_not_know_is_null(field: str) -> None:
    assert [line[field] for line in of_type("connection", batch_of(events_of(2)))] == [None]


@pytest.mark.parametrize("field", ["opened_ns", "opened_at", "connect_ns", "lifetime_ns", "pid", "comm"])
def test_what_was_before_the_first_event_is_null(field: str) -> None:
    assert [line[field] for line in of_type("connection", batch_of(events_of(4)[1:].copy()))] == [None]


@pytest.mark.parametrize(("kind", "field"), [("transition", "at"), ("connection", "opened_at"), ("summary", "last_at")])
def test_without_a_clock_there_is_no_time_of_day(kind: str, field: str) -> None:
    assert {line[field] for line in of_type(kind, batch_of(events_of(4)), clock=None)} == {None}


def test_times_of_day_are_rfc_3339_with_nanoseconds() -> None:
    events = events_of(1, ts_ns=1_000_000_123)
    assert of_type("transition", batch_of(events))[0]["at"] == "2023-11-14T22:13:21.000000123Z"


def test_an_empty_trace_has_no_first_and_last_time() -> None:
    (summary,) = of_type("summary")
    assert [summary[name] for name in ("first_ns", "first_at", "last_ns", "last_at")] == [None] * 4


def test_a_loss_makes_the_coverage_unknown() -> None:
    (summary,) = of_type("summary", batch_of(events_of(4), lost=1, lost_since_ns=1, lost_until_ns=2))
    assert (summary["lost"], summary["coverage"]) == (1, None)


def test_addresses_of_ipv4_are_not_shown_as_mapped() -> None:
    (line,) = of_type("connection", batch_of(events_of(4)))
    assert (line["laddr"], line["raddr"]) == ("192.0.2.1", "198.51.100.7")


def test_addresses_of_ipv6_are_shown_short() -> None:
    address = np.frombuffer(bytes.fromhex("20010db8" + "00" * 11 + "01"), np.uint8)
    assert of_type("connection", batch_of(events_of(4, daddr=address)))[0]["raddr"] == "2001:db8::1"


def test_the_largest_numbers_stay_exact() -> None:
    events = events_of(1, skaddr=2**64 - 1, bytes_received=2**64 - 1, cgroup_id=2**64 - 1, netns=2**32 - 1)
    (line,) = of_type("transition", batch_of(events))
    found = (int(line["skaddr"], 16), line["bytes_received"], line["cgroup_id"], line["netns"])
    assert found == (2**64 - 1, 2**64 - 1, 2**64 - 1, 2**32 - 1)


@pytest.mark.parametrize("comm", HOSTILE, ids=repr)
def test_a_hostile_process_name_breaks_no_line(comm: bytes) -> None:
    for line in lines(batch_of(events_of(4, comm=comm))):
        assert line.isascii()
        assert line.isprintable()


@pytest.mark.parametrize("comm", HOSTILE, ids=repr)
@pytest.mark.parametrize("kind", ["transition", "connection"])
def test_a_hostile_process_name_comes_back_byte_for_byte(kind: str, comm: bytes) -> None:
    events = events_of(4, comm=comm)
    wanted = events["comm"][0]
    assert {comm_bytes(line["comm"]) for line in of_type(kind, batch_of(events))} == {wanted}


@given(raw=st.binary(max_size=16))
def test_any_process_name_comes_back_byte_for_byte(raw: bytes) -> None:
    events = np.zeros(1, EVENT_DTYPE)
    events["comm"], events["old_state"], events["new_state"], events["flags"] = raw, 7, 2, int(EventFlag.HAS_TASK)
    (line,) = transition_lines(batch_of(events), {}, None)
    assert comm_bytes(json.loads(line)["comm"]) == raw.rstrip(b"\0")


@given(label=st.text())
def test_any_label_comes_back_and_breaks_no_line(label: str) -> None:
    text = endpoint_line(1, label)
    assert (text.isprintable(), json.loads(text)["endpoint"]) == (True, label)


@given(label=st.text())
def test_any_label_in_a_connection_breaks_no_line(label: str) -> None:
    analysis = Analysis("ebpf", 1, {1: label})
    (line,) = connection_lines(analysis.feed(batch_of(events_of(4))).ended, analysis.endpoints, None)
    assert (line.isprintable(), json.loads(line)["endpoint"]) == (True, label)


def test_a_loss_is_a_half_open_interval_with_its_count() -> None:
    line = json.loads(loss_line(batch_of(events_of(0), lost=5, lost_since_ns=10, lost_until_ns=20)))
    assert line == {"type": "loss", "lost": 5, "since_ns": 10, "ts_ns": 20}


def test_samples_are_no_transitions() -> None:
    flags = int(EventFlag.SAMPLE)
    batch = batch_of(events_of(3, flags=[0, flags, 0], old_state=1, new_state=1))
    assert len(transition_lines(batch, {}, None)) == 2


def test_the_states_of_a_connection_add_up_to_its_lifetime() -> None:
    (line,) = of_type("connection", batch_of(events_of(4)))
    assert sum(line["states"].values()) == line["lifetime_ns"]


def test_the_state_that_an_open_connection_is_in_has_no_time_yet() -> None:
    (line,) = of_type("connection", batch_of(events_of(2)))
    assert line["states"] == {"SYN_SENT": 1_000_000, "ESTABLISHED": None}
