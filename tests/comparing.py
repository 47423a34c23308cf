"""What the tests of comparisons share: whole traces out of stories, replays, halves of replays and looks."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np

from tests.looks import polled
from tests.replays import REPLAYS, trace_of
from tests.stories import LABELS, Story
from tests.traces import START_NS
from tracer.captures import open_trace
from tracer.collected.collector import Collected, Collector
from tracer.commands.output import settings_for
from tracer.comparison.compared import Comparison
from tracer.comparison.difference import Difference
from tracer.events import EventBatch, Events
from tracer.header import TraceHeader, roles_text
from tracer.pipeline import Stop, run_replay
from tracer.roles import Role
from tracer.rules.settings import RuleSettings

PERIOD_NS = 250_000_000
OPTIONS = argparse.Namespace(config=None, rules=None, benign=False)


def collected_of(
    batches: Iterable[EventBatch],
    source: str = "ebpf",
    resolution_ns: int = 1,
    labels: dict[int, str] | None = None,
    roles: dict[int, Role] | None = None,
) -> Collected:
    """A trace of these batches, judged by the evidence rules."""
    settings = {"roles": roles_text(roles)} if roles else {}
    header = TraceHeader(source, "", resolution_ns, endpoints=dict(LABELS if labels is None else labels), settings=settings)
    return _followed(batches, header, RuleSettings("evidence"))


def _followed(batches: Iterable[EventBatch], header: TraceHeader, settings: RuleSettings) -> Collected:
    collector = Collector()
    run_replay(batches, header, [collector], Stop(), lambda: None, settings=settings)
    return collector.collected


def whole(events: Events, **options: object) -> Collected:
    """A trace that came in one batch."""
    return collected_of([EventBatch(events.copy(), "ebpf", 1)], **options)  # type: ignore[arg-type]


def looked_at(events: Events) -> Collected:
    """The same trace as the polling source sees it."""
    count = int(events["ts_ns"].max() - START_NS) // PERIOD_NS + 20
    times_ns = (START_NS + PERIOD_NS * np.arange(1, count)).tolist()
    return collected_of(polled(events, times_ns, with_records=True), "polled", PERIOD_NS)


@cache
def replay(name: str) -> Collected:
    """A replay of the repository, as `diff` reads it."""
    trace = open_trace(trace_of(REPLAYS / name))
    try:
        return _followed(trace.batches(), trace.header, settings_for(OPTIONS, trace.header))
    finally:
        trace.close()


def halves(name: str) -> tuple[Collected, Collected]:
    """A replay cut in two at the middle of its time."""
    trace = open_trace(trace_of(REPLAYS / name))
    try:
        batches = list(trace.batches())
    finally:
        trace.close()
    times_ns = np.concatenate([batch.events["ts_ns"] for batch in batches]).astype(np.int64)
    middle_ns = int(times_ns.min() + times_ns.max()) // 2
    settings = settings_for(OPTIONS, trace.header)
    first, second = (_followed(_half(batches, middle_ns, late), trace.header, settings) for late in (False, True))
    return first, second


def _half(batches: Sequence[EventBatch], middle_ns: int, late: bool) -> Iterator[EventBatch]:
    for batch in batches:
        kept = (batch.events["ts_ns"].astype(np.int64) >= middle_ns) == late
        until_ns = batch.until_ns if late else min(batch.until_ns, middle_ns)
        early_ns = None if batch.early_ns is None else batch.early_ns[kept]
        yield replace(batch, events=batch.events[kept], early_ns=early_ns, until_ns=until_ns)


def pulls(
    count: int = 30,
    seed: int = 1,
    *,
    every_s: float = 1.0,
    connect_s: float = 0.01,
    size: int = 1_000_000,
    kind: str = "local",
    failing: float = 0.0,
    comm: bytes = b"dockerd",
    **options: object,
) -> Events:
    """Visits at a steady pace, of two connections each, with some noise; a share of the visits fails as `kind` says."""
    random = Random(seed)
    story = Story()
    for number in range(count):
        bad = random.random() < failing
        for part in range(2):
            spread = random.lognormvariate(0, 0.2)
            story.connection(
                number * every_s + 0.02 * part,
                kind if bad else "local",
                connect_s=connect_s * spread,
                life_s=3 * connect_s * spread + 0.05 * random.random(),
                received=round(size * random.lognormvariate(0, 0.2)),
                acked=300,
                comm=comm,
                **options,  # type: ignore[arg-type]
            )
    return story.events()


def moved(found: Difference) -> set[str]:
    """Names of the metrics that moved."""
    return {each.metric.name for each in found.moved}


def of_metric(found: Difference, name: str, kind: str = "endpoint") -> Comparison:
    """The one comparison of a metric."""
    (only,) = (each for each in found.comparisons if each.metric.name == name and each.scope.kind == kind)
    return only
