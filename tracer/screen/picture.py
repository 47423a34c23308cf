"""The picture: all that is shown at a moment, as values. Pure; drawing it is another matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.analysis import Analysis
from tracer.findings import Finding
from tracer.owners.register import OwnerRegister
from tracer.rows import Connections
from tracer.screen.controls import Controls
from tracer.screen.gauges import Gauges, Meter
from tracer.screen.journal import Journal, Pages
from tracer.screen.matching import matching
from tracer.screen.moments import Moments
from tracer.summary import Summary
from tracer.text import printable

ROWS = 200
"""Open connections of which a picture may show rows: more than any terminal has lines."""
_FAILED = 2  # in churn.SIDES


@dataclass(frozen=True)
class Picture:
    """All that is shown.

    Attributes:
        now_ns: boottime: of now, or event time in a replay; -1 before the first event.
        moments: how times are shown.
        headline: without endpoints; with the findings that are open.
        labels: of endpoints by id.
        gauges: of all endpoints that match the filter.
        open: the oldest ROWS connections that are open and match the filter, the oldest first.
        open_matching: how many there are in all that match.
        pages: the journal's.
        owners: those of the analysis.
    """

    now_ns: int
    moments: Moments
    headline: Summary
    labels: dict[int, str]
    gauges: Gauges
    open: Connections
    open_matching: int
    pages: Pages
    owners: OwnerRegister

    def label(self, endpoint_id: int) -> str:
        """An endpoint's, safe for a terminal."""
        return printable(self.labels.get(endpoint_id, f"endpoint {endpoint_id}"))


def take_picture(analysis: Analysis, meter: Meter, journal: Journal, moments: Moments, now_ns: int, text: str) -> Picture:
    """The picture of a moment.

    Args:
        analysis: of the trace.
        meter: the one that heard of all connections that ended.
        journal: of the trace.
        moments: how times are shown.
        now_ns: boottime; -1 before the first event.
        text: what endpoint, owner or container must contain; "" shows all.
    """
    gauges = meter.read(analysis, now_ns)
    columns = analysis.open_columns("endpoint_id", "pid", "comm", "first_seen_ns", "skaddr")
    wanted = _rows_that_match(columns, analysis, text)
    if text:
        matched = {number for number, label in analysis.endpoints.items() if text.casefold() in label.casefold()}
        matched |= set(np.unique(columns["endpoint_id"][wanted]).tolist())
        gauges = gauges.take(np.flatnonzero(np.isin(gauges.endpoint_id, list(matched))))
    rows = _oldest(analysis, columns["first_seen_ns"][wanted], columns["skaddr"][wanted])
    return Picture(
        now_ns,
        moments,
        analysis.headline(),
        dict(analysis.endpoints),
        gauges,
        rows,
        int(wanted.sum()),
        journal.pages(),
        analysis.owners,
    )


def _rows_that_match(columns: dict[str, NDArray[np.generic]], analysis: Analysis, text: str) -> NDArray[np.bool_]:
    count = len(columns["endpoint_id"])
    if not text:
        return np.ones(count, bool)
    rows = np.zeros(count, [(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        rows[name] = column
    return matching(rows, analysis, text)


def _oldest(analysis: Analysis, first_seen_ns: NDArray[np.int64], skaddr: NDArray[np.uint64]) -> Connections:
    """The oldest, at most ROWS, of connections that were first seen at these times on these sockets."""
    oldest = np.argpartition(first_seen_ns, ROWS - 1)[:ROWS] if len(first_seen_ns) > ROWS else np.arange(len(first_seen_ns))
    times, sockets = first_seen_ns[oldest], skaddr[oldest]
    return analysis.open_where(lambda rows: np.isin(rows["skaddr"], sockets) & np.isin(rows["first_seen_ns"], times))[:ROWS]


def arranged(gauges: Gauges, controls: Controls) -> Gauges:
    """In the order that is chosen; endpoints of which nothing was seen last, each part by name where the order says no more."""
    names = np.array([str(label).casefold() for label in gauges.label], np.str_)
    largest: NDArray[np.float64] = np.zeros(len(gauges))
    if controls.sort == "open":
        largest = gauges.stages.sum(axis=1).astype(np.float64)
    elif controls.sort == "opens/s":
        largest = np.nan_to_num(gauges.opens_per_s)
    elif controls.sort == "failures":
        largest = gauges.sides[:, _FAILED].astype(np.float64)
    return gauges.take(np.lexsort((names, -largest, quiet(gauges))))


def quiet(gauges: Gauges) -> NDArray[np.bool_]:
    """Where nothing was seen of an endpoint: shape (n_endpoints,)."""
    return ~gauges.stages.any(axis=1) & ~gauges.opens.any(axis=1) & (gauges.p50_ns < 0)


def by_importance(findings: tuple[Finding, ...]) -> list[Finding]:
    """The most severe first, of those the oldest."""
    return sorted(findings, key=lambda finding: (-finding.severity, finding.episode))
