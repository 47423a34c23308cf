"""Lifetimes: histograms, their quantiles against exact ones, and what is counted of which connection."""

from __future__ import annotations

from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import naive
from tests.traces import SECOND, as_dicts, assert_same_however_cut, event, path, trace, trace_of_seed
from tracer.connections import ConnectionTracker
from tracer.events import EventBatch, TcpState
from tracer.lifetimes import (
    CONNECT,
    LIFETIME,
    QUANTILE_ERROR,
    QUANTILES,
    SPAN_NAMES,
    Distribution,
    Lifetimes,
    LogHistogram,
    bucket_middle_ns,
    buckets,
)
from tracer.rows import Connections

S = TcpState
QUANTILE_TEXTS = ("0.50", "0.90", "0.99")
DURATIONS = st.integers(0, 2**53)
"""Up to 104 days, where a float still tells every ns apart."""


def bucket(value_ns: int) -> int:
    return int(buckets(np.array([value_ns], np.int64))[0])


def histogram(*values_ns: int) -> LogHistogram:
    made = LogHistogram()
    made.add(np.array(values_ns, np.int64))
    return made


def ended(*events: np.void) -> Connections:
    return ConnectionTracker().feed(trace(*events)).ended


def assert_near(found_ns: int, exact_ns: int) -> None:
    assert abs(found_ns - exact_ns) <= Fraction(QUANTILE_ERROR) * exact_ns, (found_ns, exact_ns)


@given(DURATIONS, DURATIONS)
def test_a_longer_duration_is_in_no_earlier_bucket(one_ns: int, other_ns: int) -> None:
    short_ns, long_ns = sorted((one_ns, other_ns))
    assert bucket(short_ns) <= bucket(long_ns)


@given(DURATIONS)
def test_the_middle_of_a_bucket_is_near_everything_in_it(value_ns: int) -> None:
    assert_near(bucket_middle_ns(bucket(value_ns)), value_ns)


@pytest.mark.parametrize("value_ns", [1, 2, 3, 31, 32, 33, 47, 63, 64, 65, 127])
def test_the_middle_of_a_small_durations_bucket_is_near_it(value_ns: int) -> None:
    assert_near(bucket_middle_ns(bucket(value_ns)), value_ns)


@given(DURATIONS)
def test_the_middle_of_a_bucket_lies_in_it(value_ns: int) -> None:
    assert bucket(bucket_middle_ns(bucket(value_ns))) == bucket(value_ns)


@pytest.mark.parametrize("value_ns", [0, -1, -(2**63)])
def test_no_duration_is_in_the_first_bucket(value_ns: int) -> None:
    assert bucket(value_ns) == 0


def test_the_longest_duration_can_be_counted() -> None:
    longest_ns = 2**63 - 1
    assert histogram(longest_ns).distribution() == Distribution(1, *[longest_ns] * 5)


def test_an_empty_histogram_has_no_distribution() -> None:
    assert (histogram().distribution(), histogram().quantile_ns(0.5)) == (None, -1)


def test_one_duration_is_every_quantile_exactly() -> None:
    assert histogram(1_234_567).distribution() == Distribution(1, *[1_234_567] * 5)


def test_extremes_are_exact() -> None:
    found = histogram(1_000_003, 77, 5_000_000_007).distribution()
    assert found is not None
    assert (found.min_ns, found.max_ns) == (77, 5_000_000_007)


def test_quantiles_are_by_nearest_rank() -> None:
    found = histogram(*[SECOND] * 9, 60 * SECOND).distribution()
    assert found is not None
    assert_near(found.p90_ns, SECOND)
    assert_near(found.p99_ns, 60 * SECOND)


@settings(deadline=None)
@given(st.lists(DURATIONS, min_size=1, max_size=60))
def test_quantiles_are_within_their_error_of_the_exact_ones(values_ns: list[int]) -> None:
    made = histogram(*values_ns)
    for quantile, text in zip(QUANTILES, QUANTILE_TEXTS, strict=True):
        assert_near(made.quantile_ns(quantile), naive.nearest_rank(values_ns, text))


def test_the_rank_of_a_quantile_is_exact_for_any_count() -> None:
    """A rank that is rounded up by a float's last bit would take the next duration, which may be any distance away."""
    made = LogHistogram()
    for count in range(1, 3000):
        for quantile, text in zip(QUANTILES, QUANTILE_TEXTS, strict=True):
            rank = int(-(-Fraction(text) * count // 1))
            made.count, made._min_ns, made._max_ns = count, 1, SECOND
            made.counts[:] = 0
            made.counts[bucket(1)], made.counts[bucket(SECOND)] = rank, count - rank
            assert made.quantile_ns(quantile) == 1, (count, text)


def test_quantiles_lie_within_the_extremes() -> None:
    found = histogram(1_000_001, 1_000_002).distribution()
    assert found is not None
    assert found.min_ns <= found.p50_ns <= found.p90_ns <= found.p99_ns <= found.max_ns


def test_what_is_added_in_pieces_is_the_same() -> None:
    values_ns = np.array([Random(4).randrange(2**40) for _ in range(500)], np.int64)
    pieces = LogHistogram()
    for start in range(0, 500, 7):
        pieces.add(values_ns[start : start + 7])
    assert pieces.distribution() == histogram(*values_ns.tolist()).distribution()


def test_span_names_are_the_states_and_two_more() -> None:
    assert list(SPAN_NAMES) == ["lifetime", *(state.name for state in sorted(TcpState)), "connect"]
    assert (SPAN_NAMES[LIFETIME], SPAN_NAMES[CONNECT]) == ("lifetime", "connect")


def test_a_whole_life_counts_once_in_each_span_it_has() -> None:
    lifetimes = Lifetimes()
    lifetimes.add(ended(*path("peer", range(1, 6))))
    found = lifetimes.distributions(1)
    assert {name: each.count for name, each in found.items()} == dict.fromkeys(
        ("lifetime", "ESTABLISHED", "SYN_SENT", "CLOSE_WAIT", "LAST_ACK", "connect"), 1
    )


def test_spans_that_are_not_known_are_not_counted() -> None:
    lifetimes = Lifetimes()
    lifetimes.add(ended(event(S.ESTABLISHED, S.FIN_WAIT1, 5), event(S.FIN_WAIT1, S.CLOSE, 9)))
    assert set(lifetimes.distributions(1)) == {"FIN_WAIT1"}


def test_a_duration_of_zero_is_counted() -> None:
    lifetimes = Lifetimes()
    lifetimes.add(ended(*path("refused", (5, 5))))
    assert lifetimes.distributions(1)["lifetime"] == Distribution(1, 0, 0, 0, 0, 0)


def test_endpoints_are_counted_apart() -> None:
    lifetimes = Lifetimes()
    lifetimes.add(ended(*path("refused", (1, 4)), *path("refused", (5, 14), endpoint_id=9)))
    assert [lifetimes.histogram(endpoint, LIFETIME).distribution() for endpoint in (1, 9)] == [
        Distribution(1, *[3] * 5),
        Distribution(1, *[9] * 5),
    ]


def test_an_endpoint_that_was_not_seen_has_nothing() -> None:
    assert (Lifetimes().distributions(4), Lifetimes().histogram(4, LIFETIME).count) == ({}, 0)


@pytest.mark.parametrize("holes", [0.0, 0.2])
def test_distributions_of_a_trace_agree_with_naive(holes: float) -> None:
    events = trace_of_seed(11, 300, holes)
    rows = ConnectionTracker().feed(events).ended
    lifetimes = Lifetimes()
    lifetimes.add(rows)
    expected = naive.durations(naive.connections(as_dicts(events)).ended)
    found = {(endpoint, name): each for endpoint in (1, 2, 5) for name, each in lifetimes.distributions(endpoint).items()}
    assert set(found) == set(expected)
    for span, distribution in found.items():
        values_ns = expected[span]
        assert (distribution.count, distribution.min_ns, distribution.max_ns) == (
            len(values_ns),
            min(values_ns),
            max(values_ns),
        )
        for quantile_ns, text in zip(
            (distribution.p50_ns, distribution.p90_ns, distribution.p99_ns), QUANTILE_TEXTS, strict=True
        ):
            assert_near(quantile_ns, naive.nearest_rank(values_ns, text))


def test_distributions_are_the_same_however_a_trace_is_cut() -> None:
    def run(batches: list[EventBatch]) -> list[dict[str, Distribution]]:
        tracker, lifetimes = ConnectionTracker(), Lifetimes()
        for batch in batches:
            lifetimes.add(tracker.feed(batch.events).ended)
        return [lifetimes.distributions(endpoint) for endpoint in (1, 2, 5)]

    assert_same_however_cut(run, trace_of_seed(12, 100))
