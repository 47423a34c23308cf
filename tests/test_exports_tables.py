"""Tables in other tools: Parquet by polars and DuckDB, CSV by pandas, captures as they are by both; numbers are the trace's."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.ipc
import pytest
from hypothesis import HealthCheck, given, settings

from tests.test_exports_perfetto import HOSTILE, hostile
from tests.traces import LADDR, RADDR, START_NS, event, path, trace, trace_of_seed, traces
from tests.whole import CLOCK, HEADER, collected_events, collected_of, collected_replay
from tracer.captures import create_trace
from tracer.collected.collector import Collected
from tracer.collected.tables import Kind, Table, table_of
from tracer.events import EventBatch, EventFlag, Events, TcpState, valid
from tracer.exports import export
from tracer.lifecycle import REASON_NAMES, STATE_NAMES
from tracer.options import TABLES

Rows = list[dict[str, Any]]
PARQUET_TYPES = {
    Kind.INTEGER: pl.Int64, Kind.UNSIGNED: pl.UInt64, Kind.NUMBER: pl.Float64, Kind.TRUTH: pl.Boolean, Kind.TEXT: pl.String,
    Kind.TIME: pl.Datetime("ns", "UTC"),
}  # fmt: skip


def written(collected: Collected, to: str, what: str = "connections") -> bytes:
    stream = io.BytesIO()
    export(collected, to, what, stream)
    return stream.getvalue()


def plain(table: Table) -> Rows:
    """Rows with plain values; times are ns since 1970."""
    columns = [column.objects() for column in table.values()]
    return [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]


def plain_frame(frame: pl.DataFrame) -> Rows:
    """The same of what a reader gives."""
    times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime)]
    return frame.with_columns(pl.col(name).dt.epoch("ns") for name in times).to_dicts()


def by_polars(content: bytes, _: Path) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(content))


def by_duckdb(content: bytes, folder: Path) -> pl.DataFrame:
    file = folder / "table.parquet"
    file.write_bytes(content)
    with duckdb.connect() as connection:
        frame = pl.from_arrow(connection.read_parquet(str(file)).to_arrow_table())
    assert isinstance(frame, pl.DataFrame)
    return frame


readers = pytest.mark.parametrize("read", [by_polars, by_duckdb])


@readers
@pytest.mark.parametrize("what", TABLES)
@pytest.mark.parametrize("name", ["lab-skopeo-429-kept", "lost-events", "missing-syn", "lab-loop-refused"])
def test_parquet_of_a_replay_reads_back(
    read: Callable[[bytes, Path], pl.DataFrame], what: str, name: str, tmp_path: Path
) -> None:
    collected = collected_replay(name)
    assert plain_frame(read(written(collected, "parquet", what), tmp_path)) == plain(table_of(collected, what))


@settings(max_examples=25)
@given(traces(holes=True))
def test_parquet_of_small_traces_reads_back(events: Events) -> None:
    collected = collected_events(events)
    for what in TABLES:
        assert plain_frame(by_polars(written(collected, "parquet", what), Path())) == plain(table_of(collected, what))


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=traces(holes=True))
def test_duckdb_reads_small_traces_back(events: Events, tmp_path: Path) -> None:
    collected = collected_events(events)
    assert plain_frame(by_duckdb(written(collected, "parquet"), tmp_path)) == plain(table_of(collected, "connections"))


def test_numbers_of_parquet_are_those_of_the_connections() -> None:
    collected = collected_events(trace_of_seed(3, 120, 0.05))
    frame = pl.read_parquet(io.BytesIO(written(collected, "parquet")))
    rows = collected.rows
    for name in ("lifetime_ns", "bytes_received", "bytes_acked", "retransmits", "srtt_us", "pid", "opened_ns", "closed_ns"):
        assert frame[name].to_list() == [None if value < 0 else value for value in rows[name].tolist()], name
    assert frame["close_reason"].to_list() == [REASON_NAMES[reason] for reason in rows["close_reason"]]
    assert frame["ESTABLISHED_state_ns"].to_list() == [
        None if value < 0 else value for value in rows["state_ns"][:, TcpState.ESTABLISHED].tolist()
    ]


@pytest.mark.parametrize("what", TABLES)
def test_types_are_those_of_the_columns_in_full_and_empty_tables(what: str) -> None:
    for collected in (collected_replay("lab-skopeo-429-kept"), collected_of(header=HEADER)):
        schema = pl.read_parquet_schema(io.BytesIO(written(collected, "parquet", what)))
        assert dict(schema) == {name: PARQUET_TYPES[column.kind] for name, column in table_of(collected, what).items()}


@readers
def test_a_cgroup_id_is_unsigned(read: Callable[[bytes, Path], pl.DataFrame], tmp_path: Path) -> None:
    largest = (1 << 64) - 1
    collected = collected_events(trace(*path("peer", [START_NS] * 5, cgroup_id=largest)))
    frame = read(written(collected, "parquet", "transitions"), tmp_path)
    assert frame["cgroup_id"].to_list() == [largest] * 5
    assert read(written(collected, "parquet"), tmp_path).schema["cgroup_id"] == pl.UInt64


@readers
def test_times_are_exact_to_the_nanosecond(read: Callable[[bytes, Path], pl.DataFrame], tmp_path: Path) -> None:
    collected = collected_events(trace(*path("peer", [START_NS + 123_456_789] * 5)))
    frame = read(written(collected, "parquet"), tmp_path)
    assert plain_frame(frame)[0]["opened_at"] == START_NS + 123_456_789 + CLOCK.offset_ns


def test_without_a_clock_there_are_no_times_of_day() -> None:
    collected = collected_events(trace(*path("peer", [START_NS] * 5)), replace(HEADER, clock=None))
    frame = pl.read_parquet(io.BytesIO(written(collected, "parquet")))
    assert frame["opened_at"].to_list() == [None]
    assert frame["opened_ns"].to_list() == [START_NS]


def test_parquet_says_what_holds_for_the_whole_trace() -> None:
    events = EventBatch(trace(*path("peer", [START_NS] * 5)), "ebpf", 1)
    lost = EventBatch(trace(), "ebpf", 1, 7, START_NS, START_NS + 5)
    content = written(collected_of(events, lost, truncated="it was cut off"), "parquet")
    told = pl.read_parquet_metadata(io.BytesIO(content))
    expected = {"source": "ebpf", "resolution_ns": "1", "lost": "7", "coverage": "unknown", "truncated": "it was cut off"}
    assert {name: told[f"regtrace.{name}"] for name in expected} == expected
    assert {"regtrace.host", "regtrace.kernel", "regtrace.version", "regtrace.clock_offset_ns"} <= set(told)


@readers
def test_hostile_text_reads_back_as_it_was(read: Callable[[bytes, Path], pl.DataFrame], tmp_path: Path) -> None:
    frame = read(written(hostile(), "parquet"), tmp_path)
    label = HOSTILE.replace("\ud800", r"\ud800") + ":443"  # no UTF-8 has a lone surrogate
    assert (frame["endpoint"][0], frame["cmdline"][0], frame["container"][0]) == (label, "\x1b]0;x\x07", "\u202e" + "c" * 64)
    assert frame["comm"][0] == "\x1b[2J\\xff"


def by_pandas(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content), dtype_backend="numpy_nullable")


@pytest.mark.parametrize("name", ["lab-skopeo-429-kept", "lost-events", "missing-syn", "lab-loop-refused"])
def test_csv_reads_back_by_pandas(name: str) -> None:
    collected = collected_replay(name)
    for what in TABLES:
        table = table_of(collected, what)
        frame = by_pandas(written(collected, "csv", what))
        assert list(frame.columns) == list(table)
        for column in table.values():
            if column.kind is Kind.TEXT:
                continue
            values = frame[column.name]
            if column.kind is Kind.TIME and column.known.any():
                values = pd.to_datetime(values)
                assert [None if pd.isna(each) else each.value for each in values] == column.objects()
            else:
                assert [None if pd.isna(each) else each for each in values] == column.objects(), column.name


def test_csv_of_hostile_text_is_no_formula_and_encodes() -> None:
    facts_label = "=cmd|'/c calc'!A1"
    events = trace(*path("peer", [START_NS] * 5))
    collected = collected_events(events, replace(HEADER, endpoints={1: facts_label}))
    assert by_pandas(written(collected, "csv"))["endpoint"][0] == "'" + facts_label
    assert b"\\ud800" in written(hostile(), "csv")


def test_csv_ends_lines_as_the_standard_says() -> None:
    content = written(collected_events(trace(*path("peer", [START_NS] * 5))), "csv")
    assert content.count(b"\r\n") == content.count(b"\n") == 2


def capture(folder: Path, events: Events, early_ns: np.ndarray) -> Path:
    """A capture of these events, and of a loss behind them."""
    file = folder / "trace.arrows"
    writer = create_trace(file, HEADER, force=True)
    writer.write(EventBatch(events.copy(), "ebpf", 1, early_ns=early_ns))
    writer.write(EventBatch(events[:0].copy(), "ebpf", 1, 9, START_NS, START_NS + 5))
    writer.close()
    return file


def capture_by_polars(file: Path) -> pl.DataFrame:
    return pl.read_ipc_stream(file)


def capture_by_duckdb(file: Path) -> pl.DataFrame:
    with file.open("rb") as stream, pyarrow.ipc.open_stream(stream) as reader:
        table = reader.read_all()
    with duckdb.connect() as connection:
        connection.register("capture", table)
        frame = pl.from_arrow(connection.sql("select * from capture").to_arrow_table())
    assert isinstance(frame, pl.DataFrame)
    return frame


capture_readers = pytest.mark.parametrize("read", [capture_by_polars, capture_by_duckdb])


@capture_readers
@pytest.mark.parametrize("seed", range(2))
def test_a_capture_is_read_as_it_is(read: Callable[[Path], pl.DataFrame], seed: int, tmp_path: Path) -> None:
    events = trace_of_seed(seed, 60)
    early_ns = np.arange(len(events)).astype(np.uint64)
    frame = read(capture(tmp_path, events, early_ns))
    found = frame.filter(pl.col("kind").is_in([0, 1, 5]))  # transitions, samples, sockets that were found open
    assert len(found) == len(events)
    for name in (
        "ts_ns",
        "skaddr",
        "bytes_received",
        "retransmits",
        "pid",
        "netns",
        "old_state",
        "new_state",
        "sk_err",
        "cgroup_id",
    ):
        known = valid(events, name).tolist()
        expected = [value if have else None for value, have in zip(events[name].tolist(), known, strict=True)]
        assert found[name].to_list() == expected, name
    assert found["early_ns"].to_list() == early_ns.tolist()
    assert frame.filter(pl.col("lost") > 0)["lost"].to_list() == [9]


@capture_readers
def test_addresses_and_names_of_a_capture_are_bytes(read: Callable[[Path], pl.DataFrame], tmp_path: Path) -> None:
    events = trace(*path("peer", [START_NS] * 5, comm=b"\xff odd"))
    frame = read(capture(tmp_path, events, np.zeros(5, np.uint64)))
    assert frame["daddr"][1] == RADDR
    assert (frame["saddr"][0], frame["saddr"][1]) == (None, LADDR)
    assert frame["comm"][1] == b"\xff odd"


def test_the_schema_of_a_capture_names_states_and_flags(tmp_path: Path) -> None:
    events = trace(event(TcpState.CLOSE, TcpState.SYN_SENT, START_NS))
    with capture(tmp_path, events, np.zeros(1, np.uint64)).open("rb") as stream, pyarrow.ipc.open_stream(stream) as reader:
        metadata = {name.decode(): value.decode() for name, value in (reader.schema.metadata or {}).items()}
        assert isinstance(reader.schema, pa.Schema)
    assert all(name in metadata["regtrace.states"] for name in STATE_NAMES)
    assert all(str(flag.name) in metadata["regtrace.flags"] for flag in EventFlag)
