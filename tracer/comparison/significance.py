"""How surely two samples differ: exact permutation and binomial tests, and what weakens them. Pure.

Why permutation tests. Nothing is assumed of the distributions: durations and sizes of connections have several humps, many ties
and long tails. Connections of one visit depend on each other (a pull opens several, a failing one repeats them), so what is
permuted between the two traces is whole visits, *blocks*, with the scores of their connections summed up. With ranks as scores
and one connection a block that is the Mann-Whitney test with its exact, tie-aware distribution; with 0 and 1 it is Fisher's exact
test. One test thus does for medians and for shares.

What p is: the probability that as large a difference comes about by which visits happened to fall into which trace, if both
traces are of the same. It says nothing about why, and nothing about hours and hosts of which there is no trace.

Two-sided p values are twice the smaller tail, at most 1.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

EXACT_CELLS = 10_000_000
"""Additions that an exact distribution may cost, about 20 ms; where it would cost more there are so many blocks that the normal
distribution is close (the largest block is left out there, so that nothing rests on one visit)."""
P_MIN = 1e-300
"""Smaller ones would be 0 to what comes after, and nothing is that sure."""
_MOMENTS = 3
_SYMMETRIC = 1e-3
CORRELATION_MAX = 0.8
"""Of a block with the next one. Beyond that a trace is one long event, and its variance can't be told from itself."""


def permutation_p(scores: NDArray[np.int64], chosen: NDArray[np.bool_]) -> float:
    """How likely a random choice of as many blocks has a sum of scores as far from the expected one.

    Args:
        scores: of each block, shape (n_blocks,), no larger than 2^53 in all.
        chosen: which blocks are of the second trace, shape (n_blocks,).

    Returns:
        Two-sided p: exact up to EXACT_CELLS, by the normal distribution beyond; 1.0 where either trace has no block.
    """
    count, taken = len(scores), int(chosen.sum())
    if not 0 < taken < count:
        return 1.0
    if taken > count - taken:
        chosen, taken = ~chosen, count - taken
    values, counts = np.unique(scores, return_counts=True)
    moved = scores - values[int(np.argmax(counts))]  # most blocks are alike: their score becomes 0, and they cost nothing
    divisor = int(np.gcd.reduce(moved)) or 1
    moved //= divisor
    odd = moved[moved != 0]
    reach = int(np.abs(odd).sum()) + 1
    if len(odd) * min(taken, len(odd)) * reach <= EXACT_CELLS:
        return _exact_p(odd, count, taken, int(moved[chosen].sum()))
    return max(_normal_p(moved, chosen), _without_largest_p(moved, chosen), smallest_p(count, taken))


def smallest_p(count: int, taken: int) -> float:
    """The least two-sided p that choosing `taken` of `count` blocks can have."""
    return min(1.0, 2 * math.exp(-_log_choices(count, taken)))


def _exact_p(odd: NDArray[np.int64], count: int, taken: int, observed: int) -> float:
    """By the shift algorithm (Streitberg and Röhmel 1986): how many choices have which sum, block by block.

    `odd` are the scores that are not 0; the other blocks, count - len(odd), fill up what is taken.
    """
    low, high = int(odd[odd < 0].sum()), int(odd[odd > 0].sum())
    most = min(taken, len(odd))
    ways = np.zeros((most + 1, high - low + 1))  # [blocks taken, sum - low]
    ways[0, -low] = 1.0
    for score in odd.tolist():
        if score > 0:
            ways[1:, score:] += ways[:-1, :-score]
        else:
            ways[1:, :score] += ways[:-1, -score:]
    filled = [_log_choices(count - len(odd), taken - own) - _log_choices(count, taken) for own in range(most + 1)]
    chances = np.exp(filled) @ ways
    at = observed - low
    return min(1.0, 2 * min(float(chances[: at + 1].sum()), float(chances[at:].sum())))


def _normal_p(scores: NDArray[np.int64], chosen: NDArray[np.bool_]) -> float:
    """With mean, variance and skewness of the permutation distribution, which take ties and rare large scores into account.

    The skewness by Wilson and Hilferty's cube root (1931), under which a gamma distribution is nearly normal.
    """
    count, taken = len(scores), int(chosen.sum())
    apart = scores - scores.mean()
    squares = float((apart**2).sum())
    if not 0 < taken < count or count < _MOMENTS or squares <= 0:
        return 1.0
    variance = taken * (count - taken) / (count * (count - 1)) * squares
    third = taken * (count - taken) * (count - 2 * taken) / (count * (count - 1) * (count - 2)) * float((apart**3).sum())
    z, skewness = float(apart[chosen].sum()) / math.sqrt(variance), third / variance**1.5
    if abs(skewness) < _SYMMETRIC:
        return two_sided(z)
    root = math.cbrt(max(skewness * z / 2 + 1, 0.0))
    return two_sided(6 / skewness * (root - 1) + skewness / 6)


def _without_largest_p(scores: NDArray[np.int64], chosen: NDArray[np.bool_]) -> float:
    """The same without the block that speaks loudest for a difference: one storm is one event, however large."""
    apart = (scores - scores.mean()) * np.where(chosen, 1, -1)
    side = 1 if apart.sum() >= 0 else -1
    kept = np.ones(len(scores), bool)
    kept[int(np.argmax(apart * side))] = False
    return _normal_p(scores[kept], chosen[kept])


def binomial_p(first: int, second: int, first_share: float) -> float:
    """How likely two counts differ as much, if events fall into the first trace with the probability `first_share`.

    The conditional test of two Poisson rates: given how many there were in all, the first count is binomial.

    Args:
        first, second: counts of events.
        first_share: the first trace's share of the time, 0..1.
    """
    total = first + second
    if not total or not 0 < first_share < 1:
        return 1.0
    logs = _log_factorials(total)
    number = np.arange(total + 1)
    chances = np.exp(
        logs[total] - logs[number] - logs[total - number]
        + number * math.log(first_share) + (total - number) * math.log1p(-first_share)
    )  # fmt: skip
    return min(1.0, 2 * min(float(chances[: first + 1].sum()), float(chances[first:].sum())))


def two_sided(z: float) -> float:
    """The two-sided p of a standard normal value."""
    return max(math.erfc(abs(z) / math.sqrt(2)), P_MIN)


def deflated(p: float, design_effect: float) -> float:
    """What p is where so many observations count as one: of a z that is smaller by the root of it.

    Args:
        p: two-sided.
        design_effect: at least 1; less is taken as 1.
    """
    if design_effect <= 1 or p >= 1:
        return p
    return two_sided(NormalDist().inv_cdf(max(p, P_MIN) / 2) / math.sqrt(design_effect))


def serial_effect(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """How many blocks that follow each other count as one, by how much each tells of the next.

    (1 + r) / (1 - r) with r the correlation of neighbours in the trace that has less of it, and at least 0. What both traces
    have (drift, other work on the host) makes neighbours worth less. What one has alone is a fault that began or ended
    in the middle of it: the very thing to be found.

    Args:
        one, other: values of the blocks of either trace, in the order of time.
    """
    correlation = min(max(min(_neighbours(one), _neighbours(other)), 0.0), CORRELATION_MAX)
    return (1 + correlation) / (1 - correlation)


def _neighbours(values: NDArray[np.float64]) -> float:
    """The correlation of each value with the next, around their mean; 0 where all are equal."""
    apart = values - values.mean()
    squares = float((apart**2).sum())
    return float((apart[1:] * apart[:-1]).sum()) / squares if squares > 0 else 0.0


def overdispersion(series: list[NDArray[np.int64]]) -> float:
    """How much more counts in windows of time vary than independent events would: 1 for a Poisson process, not less.

    Args:
        series: counts in windows of the same length, of each trace.
    """
    chi_square, freedom = 0.0, 0
    for counts in series:
        mean = float(counts.mean()) if len(counts) else 0.0
        if mean > 0 and len(counts) > 1:
            chi_square += float(((counts - mean) ** 2).sum()) / mean
            freedom += len(counts) - 1
    return max(1.0, chi_square / freedom) if freedom else 1.0


def adjusted(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Benjamini and Hochberg's p values: of those below a level, so large a share is expected to be false alarms at most.

    Shape (n,), any order.
    """
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    stepped = p_values[order] * count / np.arange(1, count + 1)
    found = np.empty(count)
    found[order] = np.minimum(np.minimum.accumulate(stepped[::-1])[::-1], 1.0)
    return found


def centred_ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Twice each value's rank less the mean rank, ties in the middle: whole numbers whose sum is 0. Shape (n,)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (2 * ends - counts + 1 - (len(values) + 1))[inverse.reshape(-1)].astype(np.int64)


def _log_choices(count: int, taken: int) -> float:
    if not 0 <= taken <= count:
        return -math.inf
    return math.lgamma(count + 1) - math.lgamma(taken + 1) - math.lgamma(count - taken + 1)


def _log_factorials(most: int) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(1), np.cumsum(np.log(np.arange(1, most + 1)))])
