"""Samples: the values of one metric in both traces, and the tests that fit them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.comparison.significance import (
    binomial_p,
    centred_ranks,
    deflated,
    overdispersion,
    permutation_p,
    serial_effect,
)

QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.99)
TAIL = 0.9
WINDOWS = 10
"""Of the shorter trace, to see how evenly connections are opened; fewer than ten say little about that."""
WINDOW_NS_MIN = 1_000_000_000
WINDOWS_MAX = 10_000
"""Of the longer trace: a clock that leapt by centuries makes no more."""
MINUTE_NS = 60_000_000_000


@dataclass(frozen=True)
class Sample:
    """Known values of a metric in one trace.

    Attributes:
        values: float64, shape (n_values,).
        block: int64, shape (n_values,): the visit of each, numbered in the order of time.
        applies: how many there would be if all were known.
    """

    values: NDArray[np.float64]
    block: NDArray[np.int64]
    applies: int

    @property
    def visits(self) -> int:
        """How many visits the values are of."""
        return len(np.unique(self.block))

    def quantiles(self) -> dict[str, float]:
        """By name ("p50"), by nearest rank, so that each is a value that was seen."""
        found = np.quantile(self.values, QUANTILES, method="inverted_cdf")
        return {f"p{round(100 * quantile)}": float(value) for quantile, value in zip(QUANTILES, found, strict=True)}


@dataclass(frozen=True)
class Opens:
    """Openings in one trace.

    Attributes:
        times_ns: int64, shape (n_opens,), since the beginning of the trace, in order.
        span_ns: how long the trace is.
    """

    times_ns: NDArray[np.int64]
    span_ns: int

    @property
    def per_min(self) -> float:
        """The mean rate."""
        return len(self.times_ns) * MINUTE_NS / self.span_ns

    def counts(self, window_ns: int) -> NDArray[np.int64]:
        """In whole windows of so many ns, from the beginning on."""
        whole = self.span_ns // window_ns
        return np.bincount(np.minimum(self.times_ns // window_ns, whole), minlength=whole + 1)[:whole]


def rank_p(a: Sample, b: Sample, alike: int = 1) -> float:
    """How likely it is that both samples are of one distribution, as far as large and small values show it.

    Args:
        a, b: the samples.
        alike: values that are the same multiple of it, rounded down, are taken for equal.
    """
    return _block_p(centred_ranks(np.concatenate([a.values, b.values]) // alike), a, b)


def share_p(a: Sample, b: Sample) -> float:
    """How likely it is that a share is the same: values are 0 and 1."""
    values = np.concatenate([a.values, b.values])
    hits = int(values.sum())
    return _block_p(np.where(values > 0, len(values) - hits, -hits), a, b)


def tail_p(a: Sample, b: Sample) -> float:
    """How likely it is that as many values of either sample lie among the largest tenth of both together."""
    values = np.concatenate([a.values, b.values])
    above = values > np.quantile(values, TAIL, method="inverted_cdf")
    cut = len(a.values)
    return share_p(
        Sample(above[:cut].astype(np.float64), a.block, a.applies), Sample(above[cut:].astype(np.float64), b.block, b.applies)
    )


def rate_p(a: Opens, b: Opens) -> float:
    """How likely it is that connections are opened at one rate; bursts make it larger."""
    window_ns = max(min(a.span_ns, b.span_ns) // WINDOWS, WINDOW_NS_MIN, max(a.span_ns, b.span_ns) // WINDOWS_MAX)
    p = binomial_p(len(a.times_ns), len(b.times_ns), a.span_ns / (a.span_ns + b.span_ns))
    return deflated(p, overdispersion([a.counts(window_ns), b.counts(window_ns)]))


def _block_p(scores: NDArray[np.int64], a: Sample, b: Sample) -> float:
    """Scores of connections, those of A first, summed up by visit."""
    cut = len(a.values)
    sums, means = [], []
    for own, block in ((scores[:cut], a.block), (scores[cut:], b.block)):
        _, place, counts = np.unique(block, return_inverse=True, return_counts=True)
        total = np.bincount(place.reshape(-1), own, minlength=len(counts))
        sums.append(total.astype(np.int64))
        means.append(total / counts)
    chosen = np.arange(len(sums[0]) + len(sums[1])) >= len(sums[0])
    return deflated(permutation_p(np.concatenate(sums), chosen), serial_effect(*means))
