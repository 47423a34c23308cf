"""The numbers that charts show, as rows for Vega: plain dictionaries under short names. Pure.

Texts in them are safe to show (`text.printable`) and are data only: no name of a field, no expression is ever made of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tracer.churn import SIDES
from tracer.collected.collector import Collected
from tracer.findings import FindingState
from tracer.pages.counts import distributions, edges, mean_open, most_open, turnover
from tracer.pages.layout import CHOSEN, MARKED_REASONS, Layout, Rows, laid_out
from tracer.pages.span import Span, long_text
from tracer.pages.stretches import bounds, state_name, stretches
from tracer.rows import Connections
from tracer.text import duration_text
from tracer.verdict import endpoint_label, verdict_of

FINDINGS_MAX = 12
"""Bands in a chart; all findings are in the table."""
_MARGIN_SHARE = 0.008


@dataclass(frozen=True)
class Figures:
    """What is drawn of one trace.

    Attributes:
        span: of the time axis.
        datasets: rows by name.
        states: names of the states that occur in lanes or counts, in the order of a life.
        reasons: close reasons that are marked in the lanes.
        lanes_px: height of the lanes.
        lanes_text: what the lanes show, in words.
        episodes: how many findings there are, with those that have no band.
    """

    span: Span
    datasets: dict[str, Rows]
    states: tuple[str, ...]
    reasons: tuple[str, ...]
    lanes_px: int
    lanes_text: str
    episodes: int


def figures_of(collected: Collected, span: Span) -> Figures:
    """The numbers of all charts of a trace."""
    rows = collected.rows
    found = stretches(rows, span)
    lanes = laid_out(collected, span)
    lane_rows, ends = lanes.stretches(found), lanes.ends()
    average = mean_open(found, span)
    bands = _findings(collected, span)
    states = tuple(state_name(state) for state in average)
    datasets = {
        "span": _axis(span),
        "findings": bands,
        "shades": _shades(bands),
        "connections": lanes.connections(),
        "stretches": lane_rows,
        "ends": ends,
        "groups": lanes.labels(),
        "open": _open(average, span),
        "peaks": _peaks(rows, span),
        "turnover": _turnover(rows, span),
        "distributions": _distributions(rows),
    }
    shown = tuple(reason for reason in MARKED_REASONS if any(end["reason"] == reason for end in ends))
    return Figures(span, datasets, states, shown, lanes.height_px, _words(len(rows), lanes), len(collected.findings))


def _words(count: int, lanes: Layout) -> str:
    """What the lanes show."""
    if lanes.shown == count:
        return f"Each bar is one of {count:,} connections; bars in one lane do not overlap."
    return (
        f"{lanes.shown:,} of {count:,} connections have a bar of their own: up to {CHOSEN} each of those that failed, that "
        "lasted longest, and that findings suspect. All of them are counted in the charts below."
    )


def _findings(collected: Collected, span: Span) -> Rows:
    """One row a band: from the first evidence to the end of the episode, or of the trace."""
    found = []
    for level, finding in enumerate(verdict_of(collected).findings[:FINDINGS_MAX]):
        ended_ns = finding.ended_ns if finding.ended_ns >= 0 else span.end_ns
        start, end = span.positions(np.array([finding.started_ns, max(ended_ns, finding.started_ns)], np.int64)).tolist()
        still = "" if finding.state is FindingState.CLOSED else ", still open"
        label = endpoint_label(collected, finding.endpoint_id)
        found.append(
            {
                "from": start,
                "to": end,
                "level": level,
                "severity": finding.severity.text,
                "title": f"{finding.rule} ({finding.severity.text}, {finding.confidence:.0%} sure) at {label}",
                "since": span.moment(finding.started_ns),
                "lasted": f"{long_text(max(ended_ns - finding.started_ns, 0))}{still}",
            }
        )
    return found


def _shades(bands: Rows) -> Rows:
    """The gravest severity at each time where there is a finding: bands that do not overlap."""
    moments = sorted({band[end] for band in bands for end in ("from", "to")})
    found: Rows = []
    for start, end in pairwise(moments):
        there = [band for band in bands if band["from"] <= start and band["to"] >= end]
        if not there:
            continue
        severity = there[0]["severity"]  # bands stand gravest first
        if found and found[-1]["to"] == start and found[-1]["severity"] == severity:
            found[-1]["to"] = end
        else:
            found.append({"from": start, "to": end, "severity": severity})
    return found


def _axis(span: Span) -> Rows:
    """Both ends of the axis: a little more than the span, so that what stands at its ends is seen."""
    begin, end = span.positions(np.array([span.begin_ns, span.end_ns], np.int64)).tolist()
    margin = (end - begin) * _MARGIN_SHARE
    return [{"at": begin - margin}, {"at": end + margin}]


def _bins(span: Span) -> tuple[list[float], list[float], list[str]]:
    bins = edges(span)
    at = span.positions(bins)
    return at[:-1].tolist(), at[1:].tolist(), [span.moment(time_ns) for time_ns in bins[:-1].tolist()]


def _open(average: dict[int, NDArray[np.float64]], span: Span) -> Rows:
    """One row a bin and state: the mean number of connections in it."""
    starts, ends, moments = _bins(span)
    bottom = np.zeros(len(starts))
    found = []
    for state, values in average.items():
        top = bottom + values
        for number in np.flatnonzero(values > 0).tolist():
            found.append(
                {
                    "from": starts[number],
                    "to": ends[number],
                    "since": moments[number],
                    "state": state_name(state),
                    "mean": float(f"{values[number]:.4g}"),
                    "low": float(f"{bottom[number]:.6g}"),
                    "high": float(f"{top[number]:.6g}"),
                }
            )
        bottom = top
    return found


def _peaks(rows: Connections, span: Span) -> Rows:
    """One row a bin in which something was open: the most at a time."""
    most = most_open(*bounds(rows, span), span).tolist()
    columns = zip(*_bins(span), most, strict=True)
    return [
        {"from": start, "to": end, "since": moment, "zero": 0, "most": count} for start, end, moment, count in columns if count
    ]


def _turnover(rows: Connections, span: Span) -> Rows:
    """One row a bin and kind: opened upwards, closed downwards, stacked by side."""
    starts, ends, moments = _bins(span)
    windows = turnover(rows, span)
    kinds = [("opened", windows["opens"], 1), *(
        (f"closed: {side}", windows["closes"][:, index], -1) for index, side in enumerate(SIDES)
    )]  # fmt: skip
    depth = np.zeros(len(starts), np.int64)
    found = []
    for kind, counts, sign in kinds:
        base = np.zeros(len(starts), np.int64) if sign > 0 else depth
        for number in np.flatnonzero(counts).tolist():
            low, high = sign * int(base[number]), sign * int(base[number] + counts[number])
            found.append(
                {
                    "from": starts[number],
                    "to": ends[number],
                    "since": moments[number],
                    "kind": kind,
                    "count": int(counts[number]),
                    "low": low,
                    "high": high,
                }
            )
        if sign < 0:
            depth = depth + counts
    return found


def _distributions(rows: Connections) -> Rows:
    return [
        {
            "span": found.name,
            "low": low,
            "high": high,
            "count": count,
            "took": f"{duration_text(int(low * 1e9))} to {duration_text(int(high * 1e9))}",
        }
        for found in distributions(rows)
        for low, high, count in zip(
            (found.low_ns / 1e9).tolist(), (found.high_ns / 1e9).tolist(), found.count.tolist(), strict=True
        )
    ]
