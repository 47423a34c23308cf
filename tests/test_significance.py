"""Tests of significance, against scipy where it has them, and against what they promise where it has not."""

from __future__ import annotations

from itertools import combinations
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from tracer.comparison import significance
from tracer.comparison.samples import Opens, Sample, rank_p, rate_p, share_p, tail_p
from tracer.comparison.significance import (
    adjusted,
    binomial_p,
    centred_ranks,
    deflated,
    overdispersion,
    permutation_p,
    serial_effect,
    smallest_p,
)

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 3))
FEW = st.lists(NUMBERS, min_size=1, max_size=12)
SMALL = st.integers(-30, 30)


def sides(first: int, second: int) -> NDArray[np.bool_]:
    """Which blocks are of the second trace."""
    return np.arange(first + second) >= first


def naive_p(scores: list[int], taken: int) -> dict[int, float]:
    """The p of each sum that choosing so many can have, by trying all choices."""
    sums = [sum(choice) for choice in combinations(scores, taken)]
    return {
        value: min(1.0, 2 * min(sum(s <= value for s in sums), sum(s >= value for s in sums)) / len(sums)) for value in set(sums)
    }


@settings(max_examples=40, deadline=None)
@given(FEW, FEW)
def test_ranks_without_ties_are_the_exact_mann_whitney_test(one: list[float], other: list[float]) -> None:
    values = np.array(one + other)
    assume(len(set(values.tolist())) == len(values))
    expected = stats.mannwhitneyu(one, other, method="exact").pvalue
    assert permutation_p(centred_ranks(values), sides(len(one), len(other))) == pytest.approx(expected, rel=1e-9)


@given(st.lists(SMALL, min_size=2, max_size=9), st.data())
def test_any_scores_have_the_p_of_all_choices(scores: list[int], data: st.DataObject) -> None:
    taken = data.draw(st.integers(1, len(scores) - 1))
    chosen = np.array(data.draw(st.permutations([True] * taken + [False] * (len(scores) - taken))))
    values = np.array(scores, np.int64)
    assert permutation_p(values, chosen) == pytest.approx(naive_p(scores, taken)[int(values[chosen].sum())], rel=1e-9)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_single_zeros_and_ones_are_fishers_exact_test(hit: int, missed: int, hit_b: int, missed_b: int) -> None:
    assume(hit + missed and hit_b + missed_b)
    scores = np.repeat([1, 0, 1, 0], [hit, missed, hit_b, missed_b])
    table = [[hit, missed], [hit_b, missed_b]]
    tails = [stats.fisher_exact(table, alternative=tail).pvalue for tail in ("less", "greater")]
    p = permutation_p(scores, sides(hit + missed, hit_b + missed_b))
    assert p == pytest.approx(min(1.0, 2 * min(tails)), rel=1e-7)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(60, 400), st.integers(60, 400), st.floats(0, 0.5))
def test_large_samples_agree_with_scipys_tie_corrected_approximation(seed: int, first: int, second: int, shift: float) -> None:
    random = np.random.default_rng(seed)
    one, other = np.round(random.normal(size=first), 1), np.round(random.normal(shift, size=second), 1)
    expected = stats.mannwhitneyu(one, other, method="asymptotic", use_continuity=False).pvalue
    scores, chosen = centred_ranks(np.concatenate([one, other])), sides(first, second)
    assert significance._normal_p(scores, chosen) == pytest.approx(expected, rel=0.05, abs=1e-12)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_the_approximation_is_close_to_the_exact_distribution_of_blocks(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = np.bincount(random.integers(0, 60, 200), centred_ranks(random.exponential(size=200)), minlength=60).astype(np.int64)
    chosen = random.random(60) < 0.4
    assume(10 < chosen.sum() < 50)
    with patch.object(significance, "EXACT_CELLS", 10**9):
        exact = permutation_p(scores, chosen)
    assert significance._normal_p(scores, chosen) == pytest.approx(exact, rel=0.1, abs=0.01)


def test_one_storm_among_many_blocks_is_not_sure_however_large() -> None:
    scores = np.concatenate([np.arange(500) % 97 - 48, [10**7]])
    assert permutation_p(scores, np.arange(501) >= 480) > 0.01


def test_rare_hits_in_few_of_many_blocks_are_no_surer_than_they_are() -> None:
    scores = np.zeros(20_000, np.int64)
    scores[[100, 19_990, 19_991]] = (7_919, 7_907, 7_901)
    chosen = np.arange(20_000) >= 19_900
    exact = permutation_p((scores > 0).astype(np.int64), chosen)
    assert significance._normal_p(scores, chosen) > exact / 20


@given(st.lists(SMALL, min_size=2, max_size=40), st.data())
def test_both_ways_round_are_as_sure(scores: list[int], data: st.DataObject) -> None:
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))))
    values = np.array(scores, np.int64)
    assert permutation_p(values, chosen) == pytest.approx(permutation_p(values, ~chosen), rel=1e-9)


@given(st.lists(SMALL, min_size=2, max_size=40), st.integers(1, 1000), st.integers(-1000, 1000), st.data())
def test_scale_and_origin_of_scores_do_not_matter(scores: list[int], scale: int, origin: int, data: st.DataObject) -> None:
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))))
    values = np.array(scores, np.int64)
    assert permutation_p(values * scale + origin, chosen) == pytest.approx(permutation_p(values, chosen), rel=1e-6)


@pytest.mark.parametrize("chosen", [[True, True, True], [False, False, False]])
def test_a_trace_without_blocks_shows_nothing(chosen: list[bool]) -> None:
    assert permutation_p(np.array([1, 2, 3]), np.array(chosen)) == 1.0


@given(st.integers(1, 12), st.integers(1, 12))
def test_the_smallest_p_is_that_of_the_most_extreme_choice(first: int, second: int) -> None:
    scores = centred_ranks(np.arange(first + second).astype(np.float64))
    assert permutation_p(scores, sides(first, second)) == pytest.approx(smallest_p(first + second, first), rel=1e-9)


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0.01, 0.99))
def test_two_counts_are_the_exact_binomial_test(first: int, second: int, share: float) -> None:
    assume(first + second)
    tails = [stats.binomtest(first, first + second, share, alternative=tail).pvalue for tail in ("less", "greater")]
    assert binomial_p(first, second, share) == pytest.approx(min(1.0, 2 * min(tails)), rel=1e-6, abs=1e-250)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_adjusted_values_are_benjamini_hochbergs(p_values: list[float]) -> None:
    array = np.array(p_values)
    assert adjusted(array) == pytest.approx(stats.false_discovery_control(array), rel=1e-9, abs=1e-300)


def test_no_comparison_has_no_adjusted_value() -> None:
    assert adjusted(np.zeros(0)).tolist() == []


@given(st.lists(NUMBERS, min_size=1, max_size=60))
def test_centred_ranks_are_twice_the_ranks_of_scipy_around_their_mean(values: list[float]) -> None:
    expected = 2 * stats.rankdata(values) - (len(values) + 1)
    assert centred_ranks(np.array(values)).tolist() == expected.tolist()


@given(st.floats(1e-12, 1), st.floats(1, 50))
def test_deflating_makes_less_sure_and_is_that_of_a_smaller_z(p: float, effect: float) -> None:
    weaker = deflated(p, effect)
    assert weaker >= p * (1 - 1e-9)
    assert weaker == pytest.approx(2 * stats.norm.sf(stats.norm.isf(p / 2) / np.sqrt(effect)), rel=1e-6)


@pytest.mark.parametrize("p", [0.0, 1e-320, 1e-300])
def test_the_surest_p_can_be_deflated(p: float) -> None:
    assert 0 < deflated(p, 4) < 1e-50


def test_neighbours_alike_in_both_traces_count_less() -> None:
    slow = np.repeat([1.0, 5.0, 2.0, 8.0], 10)
    assert serial_effect(slow, slow) > 3


def test_a_step_in_one_trace_alone_is_what_is_looked_for() -> None:
    step = np.repeat([0.0, 1.0], 20)
    assert serial_effect(step, np.zeros(40)) == 1.0


def test_even_counts_are_not_overdispersed_and_bursts_are() -> None:
    assert overdispersion([np.full(10, 5), np.full(10, 7)]) == 1.0
    assert overdispersion([np.array([0, 0, 0, 50, 0, 0, 0, 50])]) > 10


def sample_of(random: np.random.Generator, visits: int, shift: float = 0.0) -> Sample:
    """Visits of one to five connections that are alike within a visit."""
    sizes = random.integers(1, 6, visits)
    values = np.exp(np.repeat(random.normal(shift, 1, visits), sizes) + random.normal(0, 0.5, sizes.sum()))
    return Sample(values, np.repeat(np.arange(visits), sizes), int(sizes.sum()))


@pytest.mark.parametrize("visits", [8, 25, 120])
def test_traces_of_the_same_are_as_often_sure_as_p_says(visits: int) -> None:
    random = np.random.default_rng(visits)
    p_values = np.array([rank_p(sample_of(random, visits), sample_of(random, visits)) for _ in range(300)])
    assert (p_values < 0.05).mean() < 0.09
    assert (p_values < 0.01).mean() < 0.03


def test_a_test_that_took_connections_for_independent_would_be_sure_of_nothing_much() -> None:
    random = np.random.default_rng(3)
    pairs = [(sample_of(random, 25), sample_of(random, 25)) for _ in range(300)]
    naive = np.array([stats.mannwhitneyu(one.values, other.values).pvalue for one, other in pairs])
    assert (naive < 0.05).mean() > 0.15


def test_shares_and_tails_of_the_same_are_seldom_sure() -> None:
    random = np.random.default_rng(9)
    found: dict[str, list[float]] = {"share": [], "tail": []}
    for _ in range(200):
        one, other = sample_of(random, 30), sample_of(random, 30)
        found["tail"].append(tail_p(one, other))
        cut = [Sample((each.values > 2.0).astype(np.float64), each.block, each.applies) for each in (one, other)]
        found["share"].append(share_p(*cut))
    assert {name: np.mean(np.array(values) < 0.01) < 0.03 for name, values in found.items()} == {"share": True, "tail": True}


def test_bursts_at_the_same_rate_are_seldom_sure() -> None:
    random = np.random.default_rng(4)

    def bursts(span_s: int) -> Opens:
        starts = np.sort(random.uniform(0, span_s, random.poisson(span_s / 3)))
        times_s = np.repeat(starts, random.integers(1, 12, len(starts)))
        return Opens((times_s * 1e9).astype(np.int64), span_s * 1_000_000_000)

    p_values = np.array([rate_p(bursts(120), bursts(60)) for _ in range(200)])
    assert (p_values < 0.01).mean() < 0.05


def test_a_real_shift_is_found() -> None:
    random = np.random.default_rng(8)
    assert rank_p(sample_of(random, 25), sample_of(random, 25, shift=2.0)) < 1e-4
