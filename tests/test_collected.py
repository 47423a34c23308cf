"""A trace in arrays and as tables: the same as its lines say, value by value, and however it was read."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from tests.replays import folders, trace_of
from tests.traces import assert_same_however_cut, traces
from tracer.analysis import Analysis
from tracer.collected.collector import Collected, Collector
from tracer.collected.tables import STATE_COLUMNS, Kind, Table, chosen, connection_table, finding_table, transition_table
from tracer.commands.reading import collect
from tracer.errors import CaptureError
from tracer.events import EventBatch, Events
from tracer.header import TraceHeader

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = argparse.Namespace(rules=None, config=None, benign=False)
FEW = [folder for at, folder in enumerate(folders()) if at % 40 == 0 or not (folder / "label.json").exists()]
HEADER = TraceHeader("ebpf", "", 1, endpoints={1: "registry.example:443"})


def said(folder: Path) -> list[dict[str, Any]]:
    """The lines of a replay."""
    command = [sys.executable, "-m", "tracer", "replay", str(trace_of(folder)), "--json", "--transitions"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module", params=FEW, ids=lambda folder: folder.name)
def both(request: pytest.FixtureRequest) -> tuple[Collected, list[dict[str, Any]]]:
    return collect(OPTIONS, trace_of(request.param), with_events=True), said(request.param)


def of(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["type"] == kind]


def rows_of(table: Table) -> list[dict[str, Any]]:
    columns = {name: column.objects() for name, column in table.items() if column.kind is not Kind.TIME}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def flat(line: dict[str, Any]) -> dict[str, Any]:
    """A connection's line with its states as columns have them."""
    spent = {f"{state}_state_ns": value for state, value in line["states"].items()}
    return {name: value for name, value in line.items() if name not in ("type", "states", "opened_at", "closed_at")} | spent


def test_every_connection_is_there_with_the_values_of_its_line(both: tuple[Collected, list[dict[str, Any]]]) -> None:
    """Of connections that began at one moment the order is not said."""
    collected, lines = both
    table = rows_of(connection_table(collected))
    expected = [flat(line) for line in of(lines, "connection")]
    assert [row["first_seen_ns"] for row in table] == sorted(line["first_seen_ns"] for line in expected)
    by_identity = {(row["skaddr"], row["first_seen_ns"], row["netns"]): row for row in table}
    assert len(by_identity) == len(expected)
    for line in expected:
        row = by_identity[line["skaddr"], line["first_seen_ns"], line["netns"]]
        missing = {name for name in line if name not in row}
        assert missing <= {name for _, name in STATE_COLUMNS}
        assert {name: row.get(name) for name in line} == line


def test_every_transition_is_there_with_the_values_of_its_line(both: tuple[Collected, list[dict[str, Any]]]) -> None:
    collected, lines = both
    expected = [{name: value for name, value in line.items() if name not in ("type", "at")} for line in of(lines, "transition")]
    assert rows_of(transition_table(collected)) == expected


def test_every_episode_is_there_as_its_last_line_says(both: tuple[Collected, list[dict[str, Any]]]) -> None:
    collected, lines = both
    last = {line["episode"]: line for line in of(lines, "finding")}
    for row in rows_of(finding_table(collected)):
        line = last.pop(row["episode"])
        same = set(row) - {"evidence", "suspects"}
        assert {name: row[name] for name in same} == {name: line[name] for name in same}
        assert json.loads(row["evidence"]) == line["evidence"]
    assert not last


def test_every_severity_of_an_episode_is_there_with_its_time(both: tuple[Collected, list[dict[str, Any]]]) -> None:
    collected, lines = both
    told: dict[int, list[tuple[int, str]]] = {}
    for line in of(lines, "finding"):
        before = told.setdefault(line["episode"], [])
        if not before or before[-1][1] != line["severity"]:
            before.append((line["ts_ns"], line["severity"]))
    assert {number: [(at, each.text) for at, each in kept] for number, kept in collected.severities.items()} == told


def test_wall_clock_times_are_those_of_the_lines(both: tuple[Collected, list[dict[str, Any]]]) -> None:
    collected, lines = both
    at = transition_table(collected)["at"]
    told = [f"{np.datetime64(value, 'ns')}Z" if value is not None else None for value in at.objects()]
    assert told == [line["at"] for line in of(lines, "transition")]


def gathered(batches: list[EventBatch]) -> tuple[bytes, bytes]:
    analysis = Analysis("ebpf", 1, HEADER.endpoints)
    collector = Collector(with_events=True)
    collector.start(HEADER)
    for batch in batches:
        collector.batch(batch, analysis.feed(batch), analysis)
    collector.finish(analysis, None)
    return collector.collected.rows.tobytes(), collector.collected.events.tobytes()


@given(traces())
def test_it_does_not_depend_on_how_the_trace_was_read(events: Events) -> None:
    assert_same_however_cut(gathered, events)


def test_chosen_rows_keep_their_columns() -> None:
    collected = collect(OPTIONS, trace_of(folders()[2]))
    table = connection_table(collected)
    few = chosen(table, np.array([3, 1]))
    assert list(few) == list(table)
    assert rows_of(few) == [rows_of(table)[3], rows_of(table)[1]]


def test_events_are_kept_only_if_they_are_wanted() -> None:
    assert len(collect(OPTIONS, trace_of(folders()[2])).events) == 0


def test_a_trace_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CaptureError):
        collect(OPTIONS, tmp_path / "none.arrows")
