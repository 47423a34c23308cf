"""Compared: one metric in both traces, how far apart they are, and what is far enough to be told. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tracer.comparison.metrics import EXACT_NS, Metric, Unit

P_MAX = 0.01
"""Adjusted: of a hundred changes that are told, one may be none."""
RATIO_MIN = 1.25
"""Less is what one run of the same pull differs from the next one by, on a host with other work."""
SHARE_MIN = 0.05
"""Five points: one pull in twenty is where people begin to notice."""
DURATION_MIN_NS = 100_000
"""What a busy scheduler adds to a round trip; a loopback's 20 µs that become 40 are of no interest."""
SIZE_MIN_BYTES = 16
"""What numbers in HTTP headers vary by."""
LOOKS_MIN = 2
"""Between looks that are so far apart a duration may come out longer or shorter by one of them; two are a difference."""


@dataclass(frozen=True)
class Scope:
    """What is compared: a pair of endpoints, an owner at all endpoints, or everything.

    Attributes:
        kind: "endpoint", "owner" or "overall".
        a, b: its name in either trace; "" for everything.
    """

    kind: str
    a: str = ""
    b: str = ""


@dataclass(frozen=True)
class Reading:
    """What one trace shows.

    Attributes:
        count: of values; of openings for a rate.
        visits: they belong to; -1: does not matter.
        numbers: p25, p50, p75, p90 and p99; or hits and share; or per_min and span_ns.
    """

    count: int
    visits: int
    numbers: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """One metric in both traces.

    Attributes:
        quantile: the number that says most, a key of the readings' numbers.
        exact_to_ns: durations are rounded down to multiples of it.
        p, adjusted_p: see `significance`; adjusted for all comparisons of these traces.
        moved: surely and by enough.
    """

    metric: Metric
    scope: Scope
    a: Reading
    b: Reading
    quantile: str
    p: float
    exact_to_ns: int = 1
    adjusted_p: float = 1.0
    moved: bool = False

    @property
    def before(self) -> float:
        """In A, of the number that says most."""
        return self.a.numbers[self.quantile]

    @property
    def after(self) -> float:
        """The same in B."""
        return self.b.numbers[self.quantile]

    @property
    def ratio(self) -> float | None:
        """B's to A's; None where A's is 0."""
        return self.after / self.before if self.before else None


@dataclass(frozen=True)
class NotCompared:
    """A metric that could not be compared, and why."""

    metric: str
    scope: Scope
    why: str


def telling(metric: Metric, a: Reading, b: Reading, coarse_ns: int) -> str:
    """The median if it moved by enough, else the quartile that moved most, if one did."""
    if is_far(metric, a.numbers["p50"], b.numbers["p50"], coarse_ns):
        return "p50"
    moved = [name for name in ("p25", "p75") if is_far(metric, a.numbers[name], b.numbers[name], coarse_ns)]
    return max(moved, key=lambda name: distance(a.numbers[name], b.numbers[name]), default="p50")


def distance(before: float, after: float) -> float:
    """How far apart two amounts are, as the logarithm of their ratio."""
    low, high = sorted((before, after))
    if low <= 0:
        return math.inf if high > 0 else 0.0
    return math.log(high / low)


def is_far(metric: Metric, before: float, after: float, coarse_ns: int) -> bool:
    """Whether two numbers differ by enough to matter."""
    if metric.unit is Unit.SHARE:
        return abs(after - before) >= SHARE_MIN
    least_ns = LOOKS_MIN * coarse_ns if coarse_ns > EXACT_NS else DURATION_MIN_NS
    least = {Unit.NS: least_ns, Unit.US: DURATION_MIN_NS / 1000, Unit.BYTES: SIZE_MIN_BYTES}
    return distance(before, after) >= math.log(RATIO_MIN) and abs(after - before) >= least.get(metric.unit, 0)
