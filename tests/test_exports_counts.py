"""Lanes and counts of timelines against plain loops."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tracer.exports.counts import SECOND_NS, open_steps, per_second_steps
from tracer.lanes import lanes_of

NEVER_NS = int(np.iinfo(np.int64).max)
SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=30).map(
    lambda found: sorted((start, start + length) for start, length in found)
)


def arrays(spans: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    bounds = np.array(spans, np.int64).reshape(-1, 2)
    return bounds[:, 0], bounds[:, 1]


def value_at(times: list[int], counts: list[int], at: int) -> int:
    """The count of the last step until then."""
    return [count for time, count in zip(times, counts, strict=True) if time <= at][-1]


@given(SPANS)
def test_intervals_of_a_lane_do_not_overlap(spans: list[tuple[int, int]]) -> None:
    free_at: dict[int, int] = {}
    for (start, end), lane in zip(spans, lanes_of(*arrays(spans)).tolist(), strict=True):
        assert free_at.get(lane, start) <= start
        free_at[lane] = end


@given(SPANS)
def test_there_are_no_more_lanes_than_intervals_at_a_time(spans: list[tuple[int, int]]) -> None:
    # one without a length needs a lane at its moment
    most = max((sum(start <= at < max(end, start + 1) for start, end in spans) for at, _ in spans), default=0)
    lanes = lanes_of(*arrays(spans))
    assert len(set(lanes.tolist())) <= most
    assert set(lanes.tolist()) == set(range(int(lanes.max(initial=-1)) + 1))


@given(SPANS, st.sets(st.integers(0, 29)))
def test_open_steps_count_the_intervals_at_every_moment(spans: list[tuple[int, int]], endless: set[int]) -> None:
    spans = [(start, NEVER_NS if index in endless else end) for index, (start, end) in enumerate(spans)]
    times, counts = (each.tolist() for each in open_steps(*arrays(spans), 0))
    assert times[0] == 0
    assert times == sorted(set(times))
    assert all(before != after for before, after in itertools.pairwise(counts))
    for at in range(45):
        assert value_at(times, counts, at) == sum(start <= at < end for start, end in spans)


@given(st.lists(st.integers(5 * SECOND_NS, 12 * SECOND_NS)))
def test_steps_a_second_count_the_moments_in_each(moments: list[int]) -> None:
    since = 5 * SECOND_NS
    times, counts = (each.tolist() for each in per_second_steps(np.array(moments, np.int64), since))
    assert times[0] == since
    assert times == sorted(set(times))
    for second in range(9):
        start = since + second * SECOND_NS
        assert value_at(times, counts, start) == sum(start <= at < start + SECOND_NS for at in moments)


def test_silence_makes_no_steps() -> None:
    times, counts = per_second_steps(np.array([0, 1_000_000 * SECOND_NS], np.int64), 0)
    assert counts.tolist() == [1, 0, 1, 0]
    assert times.tolist() == [0, SECOND_NS, 1_000_000 * SECOND_NS, 1_000_001 * SECOND_NS]
