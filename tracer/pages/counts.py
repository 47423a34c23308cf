"""What many connections come to: opened, closed and open over time, and how long they took. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.churn import churn
from tracer.lifetimes import SPAN_NAMES
from tracer.pages.span import Span
from tracer.pages.stretches import STATE_ORDER, Stretches
from tracer.rows import Connections

BINS_MAX = 160
"""Over a span: a bar is some pixels wide then, also on a small screen."""
_STEPS_NS = np.array(
    [*(factor * 10**power for power in range(10) for factor in (1, 2, 5)),
     *(seconds * 10**9 for seconds in (10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400))],
    np.int64,
)  # fmt: skip
"""Widths of bins that people count in."""
_DAY_NS = 86_400_000_000_000
PER_DECADE = 8
"""Bars of a distribution for each power of ten."""
SPANS_SHOWN = ("lifetime", "connect", "SYN_SENT", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "CLOSE_WAIT", "LAST_ACK")


@dataclass(frozen=True)
class Distribution:
    """How many took how long: half-open [low_ns, high_ns), shape (n_bars,); bars without a connection are left out."""

    name: str
    low_ns: NDArray[np.float64]
    high_ns: NDArray[np.float64]
    count: NDArray[np.int64]


def edges(span: Span) -> NDArray[np.int64]:
    """Bins of one width that people count in, about BINS_MAX at most: int64, shape (n_bins + 1,), boottime.

    The last one ends after the span: what happened at its very end is inside.
    """
    wanted_ns = (span.length_ns + 1) / BINS_MAX
    index = int(np.searchsorted(_STEPS_NS, wanted_ns))
    step_ns = int(_STEPS_NS[index]) if index < len(_STEPS_NS) else (int(wanted_ns) // _DAY_NS + 1) * _DAY_NS
    return span.begin_ns + step_ns * np.arange(span.length_ns // step_ns + 2, dtype=np.int64)


def turnover(rows: Connections, span: Span) -> NDArray[np.void]:
    """Opens, and closes by side, in each bin: `tracer.churn.CHURN_DTYPE`."""
    return churn(rows, edges(span))


def mean_open(found: Stretches, span: Span) -> dict[int, NDArray[np.float64]]:
    """Time average of the connections in each state (or UNSEEN), those that occur, in each bin: shape (n_bins,)."""
    bins = edges(span)
    averages = {}
    for state in STATE_ORDER:
        own = found.state == state
        if own.any():
            open_ns = _before(found.start_ns[own], bins) - _before(found.end_ns[own], bins)
            averages[state] = np.maximum(np.diff(open_ns) / np.diff(bins), 0)
    return averages


def _before(times_ns: NDArray[np.int64], bins: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum over all times of max(0, edge - time), for each edge."""
    times = np.sort(np.maximum(times_ns - bins[0], 0)).astype(np.float64)
    sums = np.concatenate([np.zeros(1), np.cumsum(times)])
    at = (bins - bins[0]).astype(np.float64)
    count = np.searchsorted(times, at)
    return count * at - sums[count]


def most_open(starts_ns: NDArray[np.int64], ends_ns: NDArray[np.int64], span: Span) -> NDArray[np.int64]:
    """Most intervals at a time in each bin, int64, shape (n_bins,); one that has no length is there for its moment."""
    bins = edges(span)
    moments = np.concatenate([starts_ns, np.maximum(ends_ns, starts_ns + 1)])
    changes = np.repeat(np.array([1, -1], np.int64), len(starts_ns))
    order = np.lexsort((changes, moments))  # who ends is gone before who begins at the same moment
    moments, running = moments[order], np.cumsum(changes[order])
    at_edge = np.concatenate([np.zeros(1, np.int64), running])[np.searchsorted(moments, bins[:-1])]
    most = at_edge.copy()
    inside = (moments >= bins[0]) & (moments < bins[-1])
    np.maximum.at(most, np.searchsorted(bins, moments[inside], side="right") - 1, running[inside])
    return most


def distributions(rows: Connections) -> list[Distribution]:
    """How long connections lived, took to connect and stayed in states; spans of which nothing is known are left out."""
    found = []
    for name in SPANS_SHOWN:
        values_ns = rows[f"{name}_ns"] if name in ("lifetime", "connect") else rows["state_ns"][:, SPAN_NAMES.index(name)]
        values_ns = np.maximum(values_ns[values_ns >= 0], 1)
        if len(values_ns):
            bars, count = np.unique(np.floor(np.log10(values_ns) * PER_DECADE).astype(np.int64), return_counts=True)
            found.append(Distribution(name, 10 ** (bars / PER_DECADE), 10 ** ((bars + 1) / PER_DECADE), count))
    return found
