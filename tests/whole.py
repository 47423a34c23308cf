"""Whole traces in arrays, to test what looks at all of one at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.replays import REPLAYS, trace_of
from tracer.captures import open_trace
from tracer.clock import ClockOffset
from tracer.collected.collector import Collected, Collector
from tracer.events import EventBatch, Events
from tracer.header import TraceHeader
from tracer.pipeline import Stop, run_replay
from tracer.rules.settings import RuleSettings

CLOCK = ClockOffset(1_700_000_000_000_000_000, 5)
LABELS = {1: "registry-1.docker.io:443", 2: "auth.docker.io:443", 5: "[2001:db8::5]:5000"}
HEADER = TraceHeader("ebpf", "asked for", 1, "host", "6.1", CLOCK, LABELS)


def collected_of(*batches: EventBatch, header: TraceHeader = HEADER, truncated: str | None = None) -> Collected:
    """What is collected of these batches, with transitions; no rules run."""
    collector = Collector(with_events=True)
    run_replay(iter(batches), header, [collector], Stop(), lambda: truncated)
    return collector.collected


def collected_events(events: Events, header: TraceHeader = HEADER) -> Collected:
    """The same of one batch that a source without loss delivered."""
    return collected_of(EventBatch(events.copy(), header.source, header.resolution_ns), header=header)


def collected_file(path: Path, settings: RuleSettings | None = None) -> Collected:
    """What is collected of a capture, with transitions and the findings of all rules."""
    trace = open_trace(path)
    collector = Collector(with_events=True)
    try:
        batches = trace.batches()
        run_replay(
            batches, trace.header, [collector], Stop(), lambda: trace.truncated, settings=settings or RuleSettings("evidence")
        )
    finally:
        trace.close()
    return collector.collected


def collected_replay(name: str) -> Collected:
    """What is collected of one of the replays."""
    return collected_file(trace_of(REPLAYS / name))


def replay_names(*stems: str) -> Sequence[str]:
    """The replays whose names begin with one of these."""
    return [path.name for path in sorted(REPLAYS.iterdir()) if path.is_dir() and path.name.startswith(stems)]
