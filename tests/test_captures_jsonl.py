"""Captures as JSON lines: little is needed by hand, nothing is invented, and a wrong line is named."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.test_captures import batch_of, events_of, lines_of, read, rows_of, write
from tracer.captures import FORMAT_VERSION, open_trace
from tracer.errors import CaptureError, TracerError
from tracer.events import TcpState

MINIMAL = {
    "type": "transition",
    "ts_ns": 1000,
    "skaddr": "0xffff888000001000",
    "raddr": "192.0.2.1",
    "old": "CLOSE",
    "new": "SYN_SENT",
}
START = {"type": "start", "format": FORMAT_VERSION, "version": "0.1.0", "source": "ebpf", "resolution_ns": 1, "endpoints": []}
UNKNOWN = (
    "laddr", "lport", "rport", "pid", "comm", "container", "opened_at", "established_ns", "closed_ns", "closed_at", "connect_ns",
    "lifetime_ns", "bytes_received", "bytes_acked", "retransmits", "srtt_us", "unread_bytes", "idle_ms", "sk_err", "netns",
    "cgroup_id",
)  # fmt: skip
"""What a connection of which only the opening line is known can't know."""


def text(*lines: dict[str, Any] | str) -> str:
    return "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)


def capture(tmp_path: Path, *lines: dict[str, Any] | str) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text(text(*lines), "utf-8", "surrogatepass")
    return path


def connection(tmp_path: Path, *lines: dict[str, Any] | str) -> dict[str, Any]:
    """The one connection of a trace."""
    found = [json.loads(line) for line in lines_of(capture(tmp_path, *lines))]
    (only,) = [line for line in found if line["type"] == "connection"]
    return only


class TestByHand:
    @pytest.mark.parametrize("field", UNKNOWN)
    def test_what_a_minimal_line_does_not_say_is_null(self, field: str, tmp_path: Path) -> None:
        assert connection(tmp_path, MINIMAL)[field] is None

    def test_what_a_minimal_line_says_is_in_the_connection(self, tmp_path: Path) -> None:
        found = connection(tmp_path, MINIMAL)
        said = {
            "raddr": "192.0.2.1",
            "opened_ns": 1000,
            "close_reason": "open",
            "preexisting": False,
            "skaddr": MINIMAL["skaddr"],
        }
        assert {name: found[name] for name in said} == said

    def test_an_endpoint_will_do_instead_of_an_address(self, tmp_path: Path) -> None:
        line = {name: value for name, value in MINIMAL.items() if name != "raddr"} | {"endpoint": "registry.example:443"}
        found = connection(tmp_path, line)
        assert (found["endpoint"], found["raddr"]) == ("registry.example:443", None)

    def test_the_reason_of_an_end_without_sk_err_is_unknown(self, tmp_path: Path) -> None:
        ended = MINIMAL | {"ts_ns": 2000, "old": "SYN_SENT", "new": "CLOSE"}
        assert connection(tmp_path, MINIMAL, ended)["close_reason"] == "unknown"

    def test_an_errno_may_be_given_by_name(self, tmp_path: Path) -> None:
        ended = MINIMAL | {"ts_ns": 2000, "old": "SYN_SENT", "new": "CLOSE", "sk_err": "ECONNREFUSED"}
        assert connection(tmp_path, MINIMAL, ended)["close_reason"] == "refused"

    def test_zero_is_a_value_and_not_unknown(self, tmp_path: Path) -> None:
        found = connection(tmp_path, MINIMAL | {"pid": 0, "comm": "swapper", "bytes_acked": 0, "retransmits": 0})
        assert (found["pid"], found["comm"], found["bytes_acked"], found["retransmits"]) == (0, "swapper", 0, 0)

    def test_a_socket_address_may_be_a_number(self, tmp_path: Path) -> None:
        assert connection(tmp_path, MINIMAL | {"skaddr": 4096})["skaddr"] == "0x1000"

    def test_comments_and_empty_lines_are_passed_over(self, tmp_path: Path) -> None:
        commented = capture(tmp_path, "# why", "", "   ", MINIMAL, "  # \u00fc {", MINIMAL | {"ts_ns": 2000})
        assert sum(map(len, read(commented)[0])) == 2

    def test_results_among_the_lines_are_passed_over(self, tmp_path: Path) -> None:
        results = [{"type": "connection", "endpoint": "x"}, {"type": "finding"}, {"type": "summary"}]
        assert sum(map(len, read(capture(tmp_path, START, MINIMAL, *results))[0])) == 1

    def test_windows_line_ends_do_no_harm(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(text(START, MINIMAL).replace("\n", "\r\n").encode())
        assert sum(map(len, read(path)[0])) == 1

    def test_a_last_line_without_line_feed_counts(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text(text(MINIMAL, MINIMAL).rstrip("\n"))
        assert sum(map(len, read(path)[0])) == 2

    def test_a_hand_written_trace_needs_no_end_mark(self, tmp_path: Path) -> None:
        assert read(capture(tmp_path, MINIMAL))[1] is None

    def test_the_kept_output_of_a_watch_is_whole_at_its_summary(self, tmp_path: Path) -> None:
        assert read(capture(tmp_path, START, MINIMAL, {"type": "summary"}))[1] is None

    def test_the_kept_output_of_a_watch_without_its_summary_is_cut(self, tmp_path: Path) -> None:
        assert "no end mark" in (read(capture(tmp_path, START, MINIMAL))[1] or "")

    def test_a_transition_without_type_is_not_dropped_in_silence(self, tmp_path: Path) -> None:
        line = {name: value for name, value in MINIMAL.items() if name != "type"}
        try:
            found, _ = read(capture(tmp_path, line))
        except CaptureError:
            return
        assert sum(map(len, found)) == 1

    @pytest.mark.parametrize("state", list(TcpState), ids=lambda state: state.name)
    def test_every_state_may_be_written(self, state: TcpState, tmp_path: Path) -> None:
        found, _ = read(capture(tmp_path, MINIMAL | {"new": state.name}))
        assert found[0].events["new_state"].tolist() == [int(state)]

    def test_two_labels_never_share_an_endpoint(self, tmp_path: Path) -> None:
        start = START | {"endpoints": [{"id": 1, "endpoint": "a:443"}, {"id": 1, "endpoint": "b:443"}]}
        lines = [MINIMAL | {"endpoint": "a:443"}, MINIMAL | {"endpoint": "b:443", "skaddr": "0x2"}]
        try:
            found = [json.loads(line) for line in lines_of(capture(tmp_path, start, *lines))]
        except CaptureError:
            return
        assert {line["endpoint"] for line in found if line["type"] == "connection"} == {"a:443", "b:443"}


WRONG: dict[str, dict[str, Any] | str] = {
    "state that does not exist": MINIMAL | {"new": "ESTABLISHD"},
    "state in small letters": MINIMAL | {"new": "established"},
    "state as a number": MINIMAL | {"new": 1},
    "state null": MINIMAL | {"new": None},
    "state missing": {name: value for name, value in MINIMAL.items() if name != "old"},
    "state a list": MINIMAL | {"old": ["CLOSE"]},
    "time missing": {name: value for name, value in MINIMAL.items() if name != "ts_ns"},
    "time negative": MINIMAL | {"ts_ns": -1},
    "time a fraction": MINIMAL | {"ts_ns": 1.5},
    "time a string": MINIMAL | {"ts_ns": "1000"},
    "time null": MINIMAL | {"ts_ns": None},
    "time true": MINIMAL | {"ts_ns": True},
    "time not a number": json.dumps(MINIMAL).replace("1000,", "NaN,"),
    "time infinite": json.dumps(MINIMAL).replace("1000,", "Infinity,"),
    "time of 1e999": json.dumps(MINIMAL).replace("1000,", "1e999,"),
    "time beyond 64 bits": MINIMAL | {"ts_ns": 2**64},
    "time of 10000 digits": json.dumps(MINIMAL).replace("1000,", "9" * 10_000 + ","),
    "socket missing": {name: value for name, value in MINIMAL.items() if name != "skaddr"},
    "socket no number": MINIMAL | {"skaddr": "0xzz"},
    "socket negative": MINIMAL | {"skaddr": -1},
    "socket beyond 64 bits": MINIMAL | {"skaddr": "0x" + "f" * 17},
    "socket a fraction": MINIMAL | {"skaddr": 1.5},
    "port 70000": MINIMAL | {"rport": 70000},
    "port negative": MINIMAL | {"lport": -1},
    "port a fraction": MINIMAL | {"rport": 1.5},
    "port a string": MINIMAL | {"lport": "https"},
    "address that is none": MINIMAL | {"raddr": "192.0.2.256"},
    "address with a port": MINIMAL | {"laddr": "192.0.2.1:443"},
    "address a number": MINIMAL | {"raddr": 3221225985},
    "address a list": MINIMAL | {"raddr": []},
    "address a name": MINIMAL | {"raddr": "registry.example"},
    "address empty": MINIMAL | {"laddr": ""},
    "pid negative": MINIMAL | {"pid": -5},
    "pid a fraction": MINIMAL | {"pid": 1.5},
    "counter beyond 64 bits": MINIMAL | {"bytes_received": 2**70},
    "counter an object": MINIMAL | {"bytes_acked": {}},
    "errno that does not exist": MINIMAL | {"sk_err": "ENOSUCH"},
    "errno a fraction": MINIMAL | {"sk_err": 1.5},
    "family a string": MINIMAL | {"family": "inet"},
    "early negative": MINIMAL | {"early_ns": -1},
    "early beyond 64 bits": MINIMAL | {"early_ns": 2**64},
    "early infinite": json.dumps(MINIMAL)[:-1] + ', "early_ns": 1e999}',
    "loss without interval": {"type": "loss", "lost": 3},
    "loss negative": {"type": "loss", "lost": -3, "since_ns": 1, "ts_ns": 2},
    "loss null": {"type": "loss", "lost": None, "since_ns": 1, "ts_ns": 2},
    "loss infinite": '{"type": "loss", "lost": 1e999, "since_ns": 1, "ts_ns": 2}',
    "loss not a number": '{"type": "loss", "lost": NaN, "since_ns": 1, "ts_ns": 2}',
    "a list": "[]",
    "a number": "3",
    "no JSON": "oops",
    "half an object": '{"type": "transition"',
    "two objects": "{} {}",
    "not UTF-8": json.dumps(MINIMAL).replace("192.0.2.1", "\udcff"),
    "deep nesting": '{"x": ' + "[" * 100_000,
    "deep nesting, closed": '{"x": ' + "[" * 50_000 + "]" * 50_000 + "}",
    "17 MB line": json.dumps(MINIMAL | {"note": "x" * (17 << 20)}),
}


class TestBadValues:
    @pytest.mark.parametrize("line", WRONG.values(), ids=WRONG.keys())
    def test_a_wrong_line_is_refused(self, line: dict[str, Any] | str, tmp_path: Path) -> None:
        path = capture(tmp_path, MINIMAL, line, MINIMAL)
        with pytest.raises(CaptureError):
            read(path)

    @pytest.mark.parametrize(
        "name", ["state that does not exist", "time negative", "port 70000", "address that is none", "no JSON"]
    )
    def test_the_number_of_a_wrong_line_is_said(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(CaptureError, match=r"a\.jsonl, line 4: "):
            read(capture(tmp_path, MINIMAL, "# counted too", MINIMAL, WRONG[name], MINIMAL))

    @pytest.mark.parametrize("name", [name for name in WRONG if not name.startswith(("deep", "17 MB", "not UTF-8"))])
    def test_a_wrong_last_line_is_refused_too(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(CaptureError):
            read(capture(tmp_path, MINIMAL, WRONG[name]))

    @pytest.mark.parametrize(
        "line",
        [
            '{"type": "transition", "ts_ns": 1, "ts_ns": 2, "skaddr": 1, "raddr": "::1", "old": "CLOSE", "new": "SYN_SENT"}',
            json.dumps(MINIMAL | {"comm": "\ud800"}),
            json.dumps(MINIMAL | {"endpoint": "\ud800"}),
            json.dumps(MINIMAL | {"endpoint": {"a": 1}}),
            json.dumps(MINIMAL | {"comm": "x" * 100}),
            json.dumps(MINIMAL | {"comm": 5}),
            json.dumps(MINIMAL | {"raddr": "fe80::1%eth0"}),
            json.dumps(MINIMAL | {"ts_ns": 2**64 - 1}),
            json.dumps(MINIMAL | {"ts_ns": 2**63}),
            json.dumps(MINIMAL | {"ts_ns": 2**62}),
            json.dumps(MINIMAL | {"cgroup_id": 2**64 - 1, "pid": 1, "bytes_received": 2**64 - 1}),
            json.dumps(MINIMAL | {"sk_err": 2**32 - 1, "old": "ESTABLISHED", "new": "CLOSE"}),
            json.dumps(MINIMAL | {"owner": "maybe"}),
            '{"type": ["transition"]}',
            '{"type": null}',
            '{"type": "endpoint"}',
            '{"type": "endpoint", "id": -1, "endpoint": "x"}',
            '{"type": "endpoint", "id": 1099511627776, "endpoint": "x"}\n' + json.dumps(MINIMAL | {"endpoint": "x"}),
            '{"type": "loss", "lost": 1, "since_ns": 0, "ts_ns": 1%s}' % ("0" * 40),
            '{"type": "end"}',
        ],
        ids=lambda line: line[:60] if len(line) < 200 else line[:20],
    )
    def test_an_odd_line_is_refused_or_analysed_and_nothing_else(self, line: str, tmp_path: Path) -> None:
        try:
            lines = lines_of(capture(tmp_path, START, MINIMAL, line, MINIMAL | {"ts_ns": 3000}))
        except TracerError:
            return
        assert all(isinstance(json.loads(line), dict) for line in lines)

    @pytest.mark.parametrize(
        "change",
        [
            {"format": 99},
            {"format": None},
            {"format": "1"},
            {"endpoints": 5},
            {"endpoints": {"1": "a"}},
            {"endpoints": [{"id": 1}]},
            {"endpoints": [{"id": "x", "endpoint": "a"}]},
            {"endpoints": [[]]},
            {"settings": [1]},
            {"settings": "x"},
            {"resolution_ns": "x"},
            {"clock_offset_ns": "x"},
            {"clock_offset_ns": []},
            {"clock_offset_ns": 2**70},
            {"clock_offset_ns": float("inf")},
            {"resolution_ns": float("inf")},
            {"resolution_ns": float("nan")},
        ],
        ids=repr,
    )
    def test_a_start_line_that_means_nothing_is_refused(self, change: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(CaptureError):
            lines_of(capture(tmp_path, START | change, MINIMAL))

    def test_another_format_version_is_refused_with_both_versions(self, tmp_path: Path) -> None:
        with pytest.raises(CaptureError, match=rf"format 99, this regtrace reads {FORMAT_VERSION}.*9\.9"):
            open_trace(capture(tmp_path, START | {"format": 99, "version": "9.9"}))


def test_any_bytes_changed_are_refused_or_analysed(tmp_path: Path) -> None:
    loss = {"lost": 3, "lost_since_ns": 1, "lost_until_ns": 2}
    path = write(tmp_path / "a.jsonl", [batch_of(events_of(3)), batch_of(events_of(2), **loss, endpoints=((3, "x:1"),))])
    original, seeded, wrong = path.read_bytes(), random.Random(2), []
    for number in range(1500):
        damaged = bytearray(original)
        for _ in range(1 + number % 4):
            damaged[seeded.randrange(len(damaged))] = seeded.choice(b'\0\n"\\{}[],:-.0123456789eE\xff\x80 tfn')
        path.write_bytes(damaged)
        try:
            lines_of(path)
        except TracerError:
            continue
        except Exception as error:  # noqa: BLE001 - that is the question
            wrong.append(repr(error))
    assert wrong == []


def test_every_line_of_a_capture_is_one_json_object(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [batch_of(events_of(5, comm=b'\n"\x1b\xff'))])
    assert all(isinstance(json.loads(line), dict) for line in path.read_bytes().splitlines())


def test_a_capture_with_comments_put_in_reads_the_same(tmp_path: Path) -> None:
    batches = [batch_of(events_of(4))]
    path = write(tmp_path / "a.jsonl", batches)
    path.write_text(path.read_text().replace("\n", "\n# a remark\n\n"))
    assert rows_of(read(path)[0]) == rows_of(batches)
