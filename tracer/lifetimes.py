"""Lifetimes: how long connections lived and stayed in each state, per endpoint, as log histograms.

The histogram is what lets a watch run for weeks in bounded memory and still be a function of the trace alone. Buckets are
log-linear: every power of two is cut into SUB_BUCKETS equal parts, so a quantile is off by at most QUANTILE_ERROR of itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.events import N_STATES
from tracer.lifecycle import STATE_NAMES
from tracer.rows import Connections, by_endpoint

SUB_BUCKETS = 32
QUANTILE_ERROR = 1 / (2 * SUB_BUCKETS)
"""Largest relative distance of a reported quantile from the exact one."""
_OCTAVES = 65  # 2**63 - 1 ns is 2**63 as a float
_BUCKETS = _OCTAVES * SUB_BUCKETS
QUANTILES = (0.50, 0.90, 0.99)

LIFETIME, CONNECT = 0, N_STATES
"""Spans beside the states: opening to close, and opening to establishment. Index 0 is no state."""
SPAN_NAMES = ("lifetime", *STATE_NAMES[1:], "connect")


@dataclass(frozen=True)
class Distribution:
    """What is known of a set of durations. All in ns; quantiles by nearest rank, within QUANTILE_ERROR."""

    count: int
    min_ns: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    max_ns: int


def buckets(values_ns: NDArray[np.int64]) -> NDArray[np.intp]:
    """The bucket of each duration: shape (n,); 0 and negative durations are in bucket 0."""
    mantissa, exponent = np.frexp(np.maximum(values_ns, 0).astype(np.float64))
    sub = ((mantissa - 0.5) * (2 * SUB_BUCKETS)).astype(np.intp)
    return np.where(values_ns > 0, exponent.astype(np.intp) * SUB_BUCKETS + sub, 0)


def bucket_middle_ns(bucket: int) -> int:
    """A duration in the middle of a bucket, in ns."""
    exponent, sub = divmod(bucket, SUB_BUCKETS)
    return 0 if bucket == 0 else int((0.5 + (sub + 0.5) / (2 * SUB_BUCKETS)) * 2.0**exponent)


class LogHistogram:
    """Counts of durations by log-linear bucket.

    Attributes:
        counts: int64, shape (_BUCKETS,).
    """

    def __init__(self) -> None:
        self.counts = np.zeros(_BUCKETS, np.int64)
        self.count = 0
        self._min_ns = np.iinfo(np.int64).max
        self._max_ns = -1

    def add(self, values_ns: NDArray[np.int64]) -> None:
        """Count durations, shape (n,), ns, none negative."""
        if not len(values_ns):
            return
        self.counts += np.bincount(buckets(values_ns), minlength=_BUCKETS)
        self.count += len(values_ns)
        self._min_ns = min(self._min_ns, int(values_ns.min()))
        self._max_ns = max(self._max_ns, int(values_ns.max()))

    def quantile_ns(self, quantile: float) -> int:
        """The duration that a share `quantile` of all does not exceed; -1 if there are none."""
        if not self.count:
            return -1
        rank = max(1, int(np.ceil(quantile * self.count)))
        bucket = int(np.searchsorted(np.cumsum(self.counts), rank))
        return min(max(bucket_middle_ns(bucket), int(self._min_ns)), self._max_ns)

    def distribution(self) -> Distribution | None:
        """Count, extremes (exact) and quantiles; None if nothing was counted."""
        if not self.count:
            return None
        p50, p90, p99 = map(self.quantile_ns, QUANTILES)
        return Distribution(self.count, int(self._min_ns), p50, p90, p99, self._max_ns)


class Lifetimes:
    """Distributions of closed connections, by endpoint id and span."""

    def __init__(self) -> None:
        self._histograms: dict[tuple[int, int], LogHistogram] = {}

    def add(self, connections: Connections) -> None:
        """Count connections that ended; spans that are not known are left out."""
        for endpoint_id, rows in by_endpoint(connections):
            state_ns = rows["state_ns"]
            spans = [(LIFETIME, rows["lifetime_ns"]), (CONNECT, rows["connect_ns"])]
            spans += [(state, state_ns[:, state]) for state in np.flatnonzero((state_ns >= 0).any(axis=0)).tolist()]
            for span, values_ns in spans:
                known_ns = values_ns[values_ns >= 0]
                if len(known_ns):
                    self._histogram(endpoint_id, span).add(known_ns)

    def _histogram(self, endpoint_id: int, span: int) -> LogHistogram:
        found = self._histograms.get((endpoint_id, span))
        if found is None:
            found = self._histograms[endpoint_id, span] = LogHistogram()
        return found

    def histogram(self, endpoint_id: int, span: int) -> LogHistogram:
        """The histogram of a span (a TcpState, LIFETIME or CONNECT); empty if nothing was counted."""
        return self._histograms.get((endpoint_id, span), LogHistogram())

    def distributions(self, endpoint_id: int) -> dict[str, Distribution]:
        """What is known, by span name: "lifetime", "connect", and the states that were seen."""
        found = {}
        for span, name in enumerate(SPAN_NAMES):
            distribution = self.histogram(endpoint_id, span).distribution()
            if distribution is not None:
                found[name] = distribution
        return found
