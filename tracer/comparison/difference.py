"""The difference between two traces: what changed, the worst first, and what can't be said. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tracer.collected.collector import Collected
from tracer.comparison.changes import compare
from tracer.comparison.compared import DURATION_MIN_NS, Comparison, NotCompared
from tracer.comparison.matching import Match, match_endpoints
from tracer.comparison.metrics import LIFETIME, STATES, Unit
from tracer.comparison.presence import Presence, presences
from tracer.comparison.sides import Side, side_of
from tracer.events import TcpState
from tracer.findings import Severity

SURE_DIGITS = 6
"""p values below 1e-6 are equally sure: a storm with more connections is not a worse one."""
_SEVERITY = {Severity.CRITICAL: 1.0, Severity.WARNING: 0.7, Severity.NOTICE: 0.2}
"""As bad as a change that is as sure: a critical finding stops pulls, like a refused connection."""
FELT_NS = 100_000_000
"""A tenth of a second more for each of a pull's connections is what people notice."""
_SCOPE = {"endpoint": 1.0, "owner": 0.7, "overall": 0.5}
"""What is true of an endpoint is told of it before it is told again of those who use it, and of everything."""


@dataclass(frozen=True)
class Difference:
    """What two traces have not in common.

    Attributes:
        a, b: the traces.
        matches: endpoints that are in both.
        told: changes that are sure and large enough, and findings that B alone has; the worst first. What only says again
            what another one says is left out.
        comparisons: all that were made, in a fixed order.
        only: what one trace alone has, the findings in `told` included.
        not_compared: what could not be, and why.
    """

    a: Side
    b: Side
    matches: tuple[Match, ...]
    told: tuple[Comparison | Presence, ...]
    comparisons: tuple[Comparison, ...]
    only: tuple[Presence, ...]
    not_compared: tuple[NotCompared, ...]

    @property
    def moved(self) -> list[Comparison]:
        """Every comparison that moved, the worst first."""
        return sorted((each for each in self.comparisons if each.moved), key=badness, reverse=True)

    @property
    def new_findings(self) -> list[Presence]:
        """What B alone was found to have, the worst first."""
        return [each for each in self.told if isinstance(each, Presence)]


def difference(first: Collected, second: Collected, mapped: dict[str, str] | None = None) -> Difference:
    """Compare a trace with another one.

    Args:
        first, second: A and B: what changed is told as going from A to B.
        mapped: label of an endpoint in B by its label in A, where they can't be known to be the same.

    Raises:
        UsageError: `mapped` has a label that its trace has not.
    """
    a, b = side_of(first), side_of(second)
    matches = match_endpoints(a, b, mapped or {})
    comparisons, not_compared = compare(a, b, matches)
    only = presences(a, b, matches)
    moved = [each for each in comparisons if each.moved]
    told: list[Comparison | Presence] = [each for each in moved if not _repeats(each, moved)]
    told += [each for each in only if each.finding is not None and each.appeared]
    told.sort(key=badness, reverse=True)  # stable: equal ones stay in their order
    return Difference(a, b, matches, tuple(told), tuple(comparisons), tuple(only), tuple(not_compared))


def _repeats(change: Comparison, moved: list[Comparison]) -> bool:
    """Whether it follows from another one: what moved at an endpoint moves over all, and a lifetime is mostly ESTABLISHED."""
    if change.scope.kind == "overall":
        others = [each for each in moved if each.scope.kind == "endpoint" and each.metric is change.metric]
    elif change.metric is STATES[TcpState.ESTABLISHED]:
        others = [each for each in moved if each.scope == change.scope and each.metric is LIFETIME]
    else:
        others = []
    return any((each.after > each.before) == (change.after > change.before) for each in others)


def badness(told: Comparison | Presence) -> float:
    """How bad for somebody who pulls, 0..1: harm x effect x how much it is felt x sureness; a finding's severity x confidence.

    Sureness goes from a half to 1: what is told at all is sure. The effect is 1 - 1 / ratio (twice: 0.5, tenfold: 0.9), of a
    share the root of its change: that one pull in ten fails is much worse than that none does.
    """
    if isinstance(told, Presence):
        return _SEVERITY[told.finding.severity] * told.finding.confidence if told.finding is not None else 0.0
    up = told.after > told.before
    harm = told.metric.worse_up if up else told.metric.worse_down
    digits = min(SURE_DIGITS, -math.log10(max(told.adjusted_p, 10.0**-SURE_DIGITS)))
    return harm * _effect(told) * _felt(told) * (0.5 + 0.5 * digits / SURE_DIGITS) * _SCOPE[told.scope.kind]


def _felt(told: Comparison) -> float:
    """How much of a duration somebody feels: 0.3 of microseconds, all of FELT_NS or more, each power of ten as much more."""
    if told.metric.unit not in (Unit.NS, Unit.US):
        return 1.0
    apart_ns = abs(told.after - told.before) * (1000 if told.metric.unit is Unit.US else 1)
    powers = math.log10(max(apart_ns, DURATION_MIN_NS) / DURATION_MIN_NS) / math.log10(FELT_NS / DURATION_MIN_NS)
    return 0.3 + 0.7 * min(1.0, powers)


def _effect(told: Comparison) -> float:
    if told.metric.unit is Unit.SHARE:
        return math.sqrt(abs(told.after - told.before))
    low, high = sorted((told.before, told.after))
    return 1 - low / high
