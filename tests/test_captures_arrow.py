"""Captures as Arrow streams: other readers see the same values, and no damage does more than a clear refusal."""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import struct
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import nanoarrow as na
import numpy as np
import pytest
from nanoarrow.ipc import StreamWriter

from tests.test_captures import ALL_FLAGS, HEADER, batch_of, events_of, lines_of, losses_of, notes_of, read, write
from tracer.captures import FORMAT_VERSION, create_trace, open_trace
from tracer.errors import CaptureError, TracerError
from tracer.events import EVENT_DTYPE, FIELD_FLAGS, EventFlag

METADATA = {
    "format": str(FORMAT_VERSION), "version": "0.1.0", "source": "ebpf", "why": "a test", "resolution_ns": "1", "host": "h",
    "kernel": "k", "endpoints": '{"1": "a:443"}', "settings": "{}",
}  # fmt: skip
APART_S = 120
APART_BYTES = 4 << 30


def capture_bytes(path: Path) -> bytes:
    loss = {"lost": 3, "lost_since_ns": 1, "lost_until_ns": 2}
    return write(path, [batch_of(events_of(4)), batch_of(events_of(5), **loss, endpoints=((3, "x:1"),))]).read_bytes()


def stream(path: Path, columns: dict[str, na.Schema], metadata: dict[str, str]) -> Path:
    """An Arrow stream of no rows with any columns and any metadata."""
    schema = na.c_schema(na.struct(columns)).modify(metadata={f"regtrace.{name}": value for name, value in metadata.items()})
    with StreamWriter.from_path(str(path)) as writer:
        writer.write_stream(na.c_array_stream([], schema=schema))
    return path


def our_columns(path: Path) -> dict[str, na.Schema]:
    """The columns of a capture of ours."""
    trace: Any = na.ArrayStream.from_path(str(write(path, [])))
    with trace:
        return {field.name: field for field in trace.schema.fields}


Change = list[tuple[int, int]]
"""(offset, byte) of each byte changed together."""


def damage(path: Path, changes: list[Change], first: int) -> list[str]:
    """Replay a capture with each change in turn; every exception that is not ours. `path`.at counts them."""
    resource.setrlimit(resource.RLIMIT_AS, (APART_BYTES, APART_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    original = path.read_bytes()
    wrong = []
    for number, change in enumerate(changes[first:], first):
        path.with_suffix(".at").write_text(str(number))
        damaged = bytearray(original)
        for offset, value in change:
            damaged[offset] = value
        path.with_suffix(".damaged").write_bytes(damaged)
        try:
            for line in lines_of(path.with_suffix(".damaged")):
                json.loads(line)
        except TracerError:
            continue
        except Exception as error:  # noqa: BLE001 - that is the question
            wrong.append(f"{change}: {error!r}"[:200])
    return wrong


def apart(path: Path, changes: list[Change]) -> list[str]:
    """`damage` in processes of their own, because native code may crash them; a crash is in the list too."""
    wrong: list[str] = []
    first = 0
    while first < len(changes):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                return wrong + pool.submit(damage, path, changes, first).result(timeout=APART_S)
            except BrokenProcessPool:
                last = int(path.with_suffix(".at").read_text())
                wrong += [f"{changes[last]}: the process crashed"]
                first = last + 1
    return wrong


class TestDamage:
    def test_any_few_bytes_changed_are_refused_or_read_as_valid_events(self, tmp_path: Path) -> None:
        path = tmp_path / "a.arrows"
        size, seeded = len(capture_bytes(path)), random.Random(1)
        changes = [[(seeded.randrange(size), seeded.randrange(256)) for _ in range(1 + number % 4)] for number in range(400)]
        assert apart(path, changes) == []

    @pytest.mark.slow
    @pytest.mark.parametrize("value", [0x00, 0x7F, 0xFF])
    def test_every_single_byte_changed_is_refused_or_read_as_valid_events(self, value: int, tmp_path: Path) -> None:
        path = tmp_path / "a.arrows"
        size = len(capture_bytes(path))
        assert apart(path, [[(offset, value)] for offset in range(size)]) == []

    @pytest.mark.parametrize("length", [0, 1, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
    @pytest.mark.parametrize("message", [0, 1])
    def test_a_wrong_length_of_a_message_is_refused_or_reported(self, message: int, length: int, tmp_path: Path) -> None:
        path = tmp_path / "a.arrows"
        content = capture_bytes(path)
        at = [place for place in range(0, len(content), 8) if content[place : place + 4] == b"\xff" * 4][message] + 4
        path.write_bytes(content[:at] + struct.pack("<I", length) + content[at + 4 :])
        try:
            _, truncated = read(path)
        except CaptureError:
            return
        assert truncated

    @pytest.mark.parametrize("claimed", [2**20, 2**33, 2**40, 2**62, 2**63 - 1, -1])
    def test_a_huge_claimed_length_within_a_message_is_refused_or_reported(self, claimed: int, tmp_path: Path) -> None:
        path = tmp_path / "a.arrows"
        content = capture_bytes(path)
        wrong = []
        start = content.index(b"\xff\xff\xff\xff", 8)
        for at in range(start + 8, start + 8 + struct.unpack_from("<I", content, start + 4)[0], 8):
            path.write_bytes(content[:at] + struct.pack("<q", claimed) + content[at + 8 :])
            try:
                read(path)
            except CaptureError:
                continue
            except Exception as error:  # noqa: BLE001 - that is the question
                wrong.append(f"{at}: {error!r}")
        assert wrong == []

    def test_bytes_after_the_end_mark_are_refused_or_reported(self, tmp_path: Path) -> None:
        path = tmp_path / "a.arrows"
        path.write_bytes(capture_bytes(path) + b"and more")
        try:
            _, truncated = read(path)
        except CaptureError:
            return
        assert truncated

    def test_a_state_that_no_tcp_has_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.arrows", [batch_of(events_of(64, new_state=7, old_state=11))])
        content = path.read_bytes()
        path.write_bytes(content.replace(b"\x0b" * 64, b"\x0d" * 64))
        with pytest.raises(CaptureError, match="old_state"):
            read(path)


class TestSchema:
    def test_another_format_version_is_refused_with_both_versions(self, tmp_path: Path) -> None:
        path = stream(tmp_path / "a.arrows", our_columns(tmp_path / "b.arrows"), METADATA | {"format": "99", "version": "9.9"})
        with pytest.raises(CaptureError, match=rf"format 99, this regtrace reads {FORMAT_VERSION}.*9\.9"):
            open_trace(path)

    def test_a_stream_of_our_columns_and_metadata_is_taken(self, tmp_path: Path) -> None:
        path = stream(tmp_path / "a.arrows", our_columns(tmp_path / "b.arrows"), METADATA)
        trace = open_trace(path)
        trace.close()
        assert trace.header.endpoints == {1: "a:443"}

    def test_an_additional_column_does_no_harm(self, tmp_path: Path) -> None:
        columns = {"new": na.Schema(na.Type.INT64), **our_columns(tmp_path / "b.arrows")}
        trace = open_trace(stream(tmp_path / "a.arrows", columns, METADATA))
        trace.close()
        assert trace.header.source == "ebpf"

    @pytest.mark.parametrize("column", ["kind", "ts_ns", "comm", "saddr", "note"])
    def test_a_missing_column_is_named(self, column: str, tmp_path: Path) -> None:
        columns = our_columns(tmp_path / "b.arrows")
        del columns[column]
        with pytest.raises(CaptureError, match=f"no column {column}"):
            open_trace(stream(tmp_path / "a.arrows", columns, METADATA))

    @pytest.mark.parametrize("column", ["kind", "ts_ns", "comm", "saddr", "note"])
    def test_a_column_of_another_type_is_named(self, column: str, tmp_path: Path) -> None:
        columns = our_columns(tmp_path / "b.arrows") | {column: na.Schema(na.Type.DOUBLE)}
        with pytest.raises(CaptureError, match=f"column {column}"):
            open_trace(stream(tmp_path / "a.arrows", columns, METADATA))

    def test_a_stream_that_is_no_capture_is_told_so(self, tmp_path: Path) -> None:
        with pytest.raises(CaptureError, match="no capture"):
            open_trace(stream(tmp_path / "a.arrows", {"x": na.Schema(na.Type.INT64)}, {}))

    @pytest.mark.parametrize("name", ["version", "source", "why", "resolution_ns", "host", "kernel", "endpoints", "settings"])
    def test_missing_metadata_is_refused(self, name: str, tmp_path: Path) -> None:
        metadata = {key: value for key, value in METADATA.items() if key != name}
        with pytest.raises(CaptureError, match="header"):
            open_trace(stream(tmp_path / "a.arrows", our_columns(tmp_path / "b.arrows"), metadata))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"resolution_ns": "soon"},
            {"resolution_ns": "1.5"},
            {"resolution_ns": "9" * 5000},
            {"endpoints": "["},
            {"endpoints": "[]"},
            {"endpoints": "null"},
            {"endpoints": '{"one": "a:443"}'},
            {"endpoints": "[" * 100_000},
            {"settings": "3"},
            {"clock_offset_ns": "1"},
            {"clock_offset_ns": "x", "clock_error_ns": "1"},
        ],
        ids=lambda wrong: repr(wrong)[:40],
    )
    def test_metadata_that_means_nothing_is_refused(self, wrong: dict[str, str], tmp_path: Path) -> None:
        with pytest.raises(CaptureError):
            open_trace(stream(tmp_path / "a.arrows", our_columns(tmp_path / "b.arrows"), METADATA | wrong))


class TestPlace:
    def test_a_loss_between_two_batches_of_one_flush_stays_between_them(self, tmp_path: Path) -> None:
        batches = [batch_of(events_of(3)), batch_of(events_of(2), lost=7, lost_since_ns=10, lost_until_ns=20)]
        writer = create_trace(tmp_path / "a.arrows", HEADER)
        for batch in batches:
            writer.write(batch)
        writer.close()
        assert losses_of(read(tmp_path / "a.arrows")[0]) == [(3, 7, 10, 20)]

    def test_an_endpoint_learnt_together_with_a_loss_stays_before_its_events(self, tmp_path: Path) -> None:
        second = batch_of(events_of(2), lost=7, lost_since_ns=10, lost_until_ns=20, endpoints=((3, "x:1"), (4, "y:2")))
        found, _ = read(write(tmp_path / "a.arrows", [batch_of(events_of(3)), second]))
        assert (losses_of(found), notes_of(found)) == ([(3, 7, 10, 20)], [(3, 3, "x:1"), (3, 4, "y:2")])

    def test_a_loss_after_the_last_event_is_not_forgotten(self, tmp_path: Path) -> None:
        batches = [batch_of(events_of(3)), batch_of(events_of(0), lost=1, lost_since_ns=5, lost_until_ns=6)]
        assert losses_of(read(write(tmp_path / "a.arrows", batches))[0]) == [(3, 1, 5, 6)]

    def test_what_a_loss_row_claims_is_checked(self, tmp_path: Path) -> None:
        marker = 0x1122_3344_5566_7788
        batch = batch_of(events_of(3), lost=1, lost_since_ns=marker, lost_until_ns=marker + 1)
        path = write(tmp_path / "a.arrows", [batch])
        path.write_bytes(path.read_bytes().replace(struct.pack("<Q", marker), struct.pack("<Q", marker + 2)))
        with pytest.raises(CaptureError, match="lost"):
            read(path)


class TestOtherReaders:
    def _frame(self, path: Path) -> Any:
        polars = pytest.importorskip("polars", reason="polars is not installed")
        return polars.read_ipc_stream(path)

    def test_polars_reads_every_value(self, tmp_path: Path) -> None:
        events = events_of(12, idle_ms=2**32 - 1, bytes_received=2**64 - 1, comm=b"\xff\xfe")
        frame = self._frame(write(tmp_path / "a.arrows", [batch_of(events)]))
        for name in EVENT_DTYPE.names or ():
            if name == "reserved":
                continue
            wanted = (
                [row.tobytes() for row in events[name]] if name.endswith("addr") and name[0] != "s" else events[name].tolist()
            )
            wanted = [row.tobytes() for row in events[name]] if name in ("saddr", "daddr") else wanted
            assert frame[name].to_list() == wanted, name

    def test_polars_sees_null_where_nothing_is_known(self, tmp_path: Path) -> None:
        flags = [int(ALL_FLAGS & ~(EventFlag.SAMPLE | EventFlag.ADOPTED)), 0, int(EventFlag.HAS_TASK)]
        frame = self._frame(write(tmp_path / "a.arrows", [batch_of(events_of(3, flags=flags))]))
        for name, flag in FIELD_FLAGS.items():
            assert frame[name].is_null().to_list() == [not value & flag for value in flags], name

    def test_polars_sees_no_null_in_what_is_always_known(self, tmp_path: Path) -> None:
        frame = self._frame(write(tmp_path / "a.arrows", [batch_of(events_of(3, flags=0))]))
        always = (
            "kind",
            "ts_ns",
            "skaddr",
            "endpoint_id",
            "flags",
            "dport",
            "family",
            "old_state",
            "new_state",
            "daddr",
            "early_ns",
        )
        assert {name: frame[name].null_count() for name in always} == dict.fromkeys(always, 0)

    def test_polars_sees_losses_and_notes_as_rows_of_their_own_kind(self, tmp_path: Path) -> None:
        batch = batch_of(events_of(2), lost=7, lost_since_ns=10, lost_until_ns=20, endpoints=((3, "x:1"),))
        frame = self._frame(write(tmp_path / "a.arrows", [batch]))
        seen = frame.select("kind", "ts_ns", "lost", "since_ns").rows()[:2]
        assert (frame["kind"].to_list(), seen[1]) == ([3, 2, 0, 0], (2, 20, 7, 10))

    def test_polars_reads_several_flushes_as_one_table(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.arrows", [batch_of(events_of(3)), batch_of(events_of(5)), batch_of(events_of(1))])
        assert self._frame(path)["ts_ns"].to_list() == [batch["ts_ns"] for n in (3, 5, 1) for batch in events_of(n)]

    def test_the_schema_says_what_the_numbers_of_states_and_flags_mean(self, tmp_path: Path) -> None:
        trace: Any = na.ArrayStream.from_path(str(write(tmp_path / "a.arrows", [], replace(HEADER, clock=None))))
        with trace:
            found = {key.decode(): value.decode() for key, value in na.c_schema(trace.schema).metadata.items()}
        assert json.loads(found["regtrace.states"])["2"] == "SYN_SENT"
        assert json.loads(found["regtrace.flags"]) == {flag.name: flag.value for flag in EventFlag}


def test_events_read_are_read_only(tmp_path: Path) -> None:
    found, _ = read(write(tmp_path / "a.arrows", [batch_of(events_of(2))]))
    with pytest.raises(ValueError, match="read-only"):
        found[0].events["ts_ns"] = np.uint64(1)
