"""Replay: how many transitions a second the analysis takes, alone and as the whole command, beside polars on one query.

Everything runs on one core: numpy does here anyway, polars is told to (POLARS_MAX_THREADS=1).
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.peers import regtrace_command
from tests.bench.processes import Child
from tests.bench.synthetic import CONNECTIONS_PER_S, ENDPOINTS, batches, synthetic_events
from tests.bench.table import Row, Sample, ratios
from tracer.analysis import Analysis
from tracer.captures import TraceHeader, create_trace, open_trace
from tracer.clock import ClockOffset
from tracer.events import EventBatch, Events
from tracer.pipeline import POLL_S
from tracer.rules.settings import RuleSettings

REACH_PER_S = 3e6
LIVE_EVENTS = int(10_000 * 5 * POLL_S)
"""What one poll of the ring brings at 10,000 connections/s."""
_TIMEOUT_S = 120.0
_QUERY = Path(__file__).with_name("lifetimes_polars.py")
_NAMES = (
    "analysis",
    "analysis with rules",
    "analysis with all rules",
    "analysis, live batches",
    "read",
    "replay",
    "replay --json",
    "polars",
    "polars process",
)


def _timed(count: int, work: Callable[[], object]) -> float:
    """Transitions per second."""
    started_s = time.perf_counter()
    work()
    return count / (time.perf_counter() - started_s)


def _analyse(pieces: list[EventBatch], settings: RuleSettings | None = None) -> None:
    analysis = Analysis("ebpf", 1, ENDPOINTS, settings)
    for batch in pieces:
        analysis.feed(batch)
    analysis.close()
    analysis.summary()


def _read(path: Path) -> None:
    trace = open_trace(path)
    try:
        for _ in trace.batches():
            pass
    finally:
        trace.close()


def _write(path: Path, pieces: Iterator[EventBatch]) -> None:
    header = TraceHeader("ebpf", "made up", 1, "bench", "none", ClockOffset(1_700_000_000_000_000_000, 100), ENDPOINTS)
    writer = create_trace(path, header, force=True)
    for batch in pieces:
        writer.write(batch)
        writer.flush()
    writer.close()


def _run(command: list[str]) -> None:
    with Child(command) as child:
        if child.wait(_TIMEOUT_S):
            raise RuntimeError(f"{child.name} failed: {child.complaints()}")


def _polars(path: Path) -> dict[str, float]:
    environment = {"POLARS_MAX_THREADS": "1"}
    with Child([sys.executable, str(_QUERY), str(path)], pipe=True, environment=environment) as child:
        found: dict[str, float] = json.loads(child.read_line(_TIMEOUT_S))
        child.wait(_TIMEOUT_S)
        found["process_s"] = time.monotonic() - child.spawned_s
    return found


def measure_replay(transitions: int, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Row 6: transitions per second of the analysis alone and of `regtrace replay`.

    Args:
        transitions: in the trace.
        rounds: each measures everything once.
        say: progress.
    """
    say(f"making a trace of {transitions:,} transitions")
    events = synthetic_events(transitions)
    samples = {name: Sample("/s") for name in _NAMES}
    has_polars = importlib.util.find_spec("polars") is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "synthetic.arrows")
        _write(path, batches(events))
        for number in range(rounds):
            say(f"replay, round {number + 1} of {rounds}")
            _round(events, path, samples, has_polars)
        size_bytes = path.stat().st_size
    return _rows(samples, len(events), size_bytes, has_polars)


def _round(events: Events, path: Path, samples: dict[str, Sample], has_polars: bool) -> None:
    count = len(events)
    whole, live = list(batches(events)), list(batches(events, LIVE_EVENTS))
    samples["analysis"].add(_timed(count, lambda: _analyse(whole)))
    samples["analysis with rules"].add(_timed(count, lambda: _analyse(whole, RuleSettings())))
    samples["analysis with all rules"].add(_timed(count, lambda: _analyse(whole, RuleSettings("all", benign=True))))
    samples["analysis, live batches"].add(_timed(count, lambda: _analyse(live, RuleSettings())))
    samples["read"].add(_timed(count, lambda: _read(path)))
    samples["replay"].add(_timed(count, lambda: _run(regtrace_command("replay", str(path)))))
    samples["replay --json"].add(_timed(count, lambda: _run(regtrace_command("replay", "--json", str(path)))))
    if has_polars:
        took = _polars(path)
        samples["polars"].add(count / took["warm_s"])
        samples["polars process"].add(count / (took["process_s"] - took["first_s"]))  # the query runs twice: one of them


def _rows(samples: dict[str, Sample], count: int, size_bytes: int, has_polars: bool) -> list[Row]:
    absent = "polars is missing (pip install -e .[bench])"
    rows = []
    for what, own, other, shown in (
        (
            "analysis of a trace in memory, evidence rules on",
            "analysis with rules",
            "polars",
            "polars, lifetimes only, from the file",
        ),
        ("whole `regtrace replay` of an .arrows file", "replay", "polars process", "polars, lifetimes only, whole process"),
    ):
        extra = {
            "analysis with rules": ("analysis with all rules", "analysis", "analysis, live batches", "read"),
            "replay": ("replay --json",),
        }[own]
        notes = {
            "analysis with all rules": "all rules",
            "analysis": "no rules",
            "analysis, live batches": f"in batches of {LIVE_EVENTS:,}",
            "read": "reading the file alone",
        }
        also = "; ".join(f"{notes.get(name, name)} {samples[name].text()}" for name in extra)
        rows.append(
            Row(
                f"{what}, transitions/s ({count:,} at {CONNECTIONS_PER_S:,} connections/s, {size_bytes / 1e6:.0f} MB)",
                ">= 3 M/s",
                f"{samples[own].text()}; {also}",
                f"{shown}: {samples[other].text()}" if has_polars else absent,
                f"{ratios(samples[own], samples[other]).text()} of polars" if has_polars else "-",
                samples[own].median >= REACH_PER_S,
                {name: samples[name] for name in (own, *extra, other)},
            )
        )
    return rows
