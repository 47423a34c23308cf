"""Cadence: the rhythms of known clients, what has none, and attempts by owner, however a trace is cut."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import naive
from tests.traces import MS, SECOND, as_dicts, assert_same_however_cut, event, path, trace, trace_of_seed
from tracer.cadence import (
    ATTEMPTS_KEPT,
    BURST_GAP_NS,
    OWNERS_MAX,
    TOLERANCE,
    Cadence,
    CadenceTracker,
    Owner,
    Rhythm,
    attempts,
    cadence,
    latest_cadence,
)
from tracer.events import EventBatch, EventFlag, TcpState

S = TcpState
DOCKERD = Owner(1, 3001, b"dockerd")


def after(*intervals_s: float) -> np.ndarray:
    """Times of attempts with these intervals between them, ns."""
    return np.cumsum([1000 * SECOND, *(round(interval * SECOND) for interval in intervals_s)])


def jittered(intervals_s: list[float], share: float, seed: int = 1) -> np.ndarray:
    random = Random(seed)
    return after(*(interval * (1 + random.uniform(-share, share)) for interval in intervals_s))


def tracked(*events: np.void) -> dict[Owner, Cadence]:
    tracker = CadenceTracker()
    tracker.add(trace(*events))
    return tracker.cadences()


# --- rhythms


def test_skopeo_doubles_from_two_seconds() -> None:
    found = cadence(np.array([0, 2, 6, 14, 30]) * SECOND)
    assert (found.rhythm, found.attempts) == (Rhythm.EXPONENTIAL, 5)
    assert found.factor == pytest.approx(2)
    assert found.period_ns == pytest.approx(2 * SECOND)
    assert found.deviation == pytest.approx(0, abs=1e-6)


def test_dockerd_adds_five_seconds() -> None:
    found = cadence(after(5, 10, 15, 20))
    assert (found.rhythm, found.period_ns, found.step_ns) == (Rhythm.LINEAR, 5 * SECOND, 5 * SECOND)


def test_kubelet_doubles_from_ten_seconds() -> None:
    found = cadence(after(10, 20, 40, 80, 160))
    assert found.rhythm is Rhythm.EXPONENTIAL
    assert found.factor == pytest.approx(2)
    assert found.period_ns == pytest.approx(10 * SECOND)


def test_kubelet_at_its_longest_interval_is_fixed() -> None:
    found = latest_cadence(after(10, 20, 40, 80, 160, 300, 300, 300, 300))
    assert (found.rhythm, found.period_ns) == (Rhythm.FIXED, 300 * SECOND)


@pytest.mark.parametrize("seed", range(5))
def test_a_second_with_a_little_jitter_is_fixed(seed: int) -> None:
    found = cadence(jittered([1] * 12, 0.03, seed))
    assert found.rhythm is Rhythm.FIXED
    assert found.period_ns == pytest.approx(SECOND, rel=0.03)
    assert 0 < found.deviation <= 0.07


@pytest.mark.parametrize("seed", range(5))
def test_doubling_with_a_little_jitter_is_exponential(seed: int) -> None:
    found = cadence(jittered([2, 4, 8, 16, 32], 0.03, seed))
    assert found.rhythm is Rhythm.EXPONENTIAL
    assert found.factor == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_growing_by_equal_steps_with_a_little_jitter_is_linear(seed: int) -> None:
    assert cadence(jittered([5, 10, 15, 20, 25], 0.02, seed)).rhythm is Rhythm.LINEAR


@pytest.mark.parametrize("factor", [1.5, 1.6, 2, 3])
def test_the_factor_of_an_exponential_rhythm_is_found(factor: float) -> None:
    found = cadence(after(*(factor**number for number in range(7))))
    assert found.rhythm is Rhythm.EXPONENTIAL
    assert found.factor == pytest.approx(factor)


def test_a_rhythm_does_not_depend_on_the_unit() -> None:
    assert cadence(after(0.25, 0.5, 1, 2)).factor == pytest.approx(cadence(after(250, 500, 1000, 2000)).factor)


@pytest.mark.parametrize("seed", range(20))
def test_a_random_poller_has_no_rhythm(seed: int) -> None:
    random = Random(seed)
    found = cadence(after(*(random.expovariate(0.2) + 0.2 for _ in range(12))))
    assert (found.rhythm, found.step_ns, found.factor) == (Rhythm.NONE, 0, 1.0)
    assert np.isnan(found.deviation)


def test_without_a_rhythm_the_period_is_the_median_interval() -> None:
    found = cadence(after(1, 9, 2, 50, 3))
    assert (found.rhythm, found.period_ns) == (Rhythm.NONE, 3 * SECOND)


@pytest.mark.parametrize(("intervals_s", "period_ns"), [((), -1), ((7,), 7 * SECOND), ((2, 4), 3 * SECOND)])
def test_too_few_attempts_have_no_rhythm(intervals_s: tuple[float, ...], period_ns: int) -> None:
    found = cadence(after(*intervals_s))
    assert (found.rhythm, found.attempts, found.period_ns) == (Rhythm.NONE, len(intervals_s) + 1, period_ns)


def test_no_attempts_have_no_rhythm() -> None:
    assert cadence(np.zeros(0, np.int64)).period_ns == -1


def test_two_attempts_at_one_moment_have_no_rhythm() -> None:
    assert cadence(after(1, 0, 1, 1)).rhythm is Rhythm.NONE


def test_shrinking_intervals_have_no_rhythm() -> None:
    assert cadence(after(32, 16, 8, 4)).rhythm is Rhythm.NONE


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 1e6), max_size=40))
def test_a_rhythm_is_within_the_tolerance(intervals_s: list[float]) -> None:
    found = cadence(after(*intervals_s))
    assert (found.rhythm is Rhythm.NONE) == np.isnan(found.deviation)
    assert found.rhythm is Rhythm.NONE or found.deviation <= TOLERANCE


def test_a_rhythm_that_began_late_is_found_in_the_last_attempts() -> None:
    found = latest_cadence(after(3, 90, 1, 40, 7, 2, 4, 8, 16))
    assert (found.rhythm, found.attempts) == (Rhythm.EXPONENTIAL, 5)


def test_a_rhythm_of_all_attempts_is_preferred_to_one_of_the_last() -> None:
    assert latest_cadence(after(*[1] * 15)).attempts == 16


def test_without_any_rhythm_all_attempts_were_looked_at() -> None:
    times_ns = after(3, 90, 1, 40, 7, 200, 5, 11)
    assert latest_cadence(times_ns).rhythm is Rhythm.NONE
    assert latest_cadence(times_ns).attempts == 9


# --- attempts


def test_openings_within_the_gap_are_one_attempt() -> None:
    times_ns = np.array([0, 50 * MS, 60 * MS, SECOND])
    assert attempts(times_ns).tolist() == [0, SECOND]


def test_the_gap_counts_from_the_opening_before_and_not_from_the_attempt() -> None:
    assert attempts(np.arange(20) * 90 * MS).tolist() == [0]


def test_the_gap_itself_is_still_one_attempt() -> None:
    assert attempts(np.array([0, BURST_GAP_NS, 2 * BURST_GAP_NS + 1])).tolist() == [0, 2 * BURST_GAP_NS + 1]


@given(st.lists(st.integers(0, 10**9), max_size=40))
def test_attempts_agree_with_naive(steps_ns: list[int]) -> None:
    opened_ns = np.cumsum(np.array(steps_ns, np.int64))
    assert attempts(opened_ns).tolist() == naive.attempts(opened_ns.tolist(), BURST_GAP_NS)


# --- by owner


def opening(ts_s: float, **fields: object) -> np.void:
    return event(S.CLOSE, S.SYN_SENT, round(ts_s * SECOND), **fields)


def test_an_owners_attempts_have_its_rhythm() -> None:
    found = tracked(*(opening(100 + ts_s) for ts_s in (0, 2, 6, 14, 30)))
    assert {owner: each.rhythm for owner, each in found.items()} == {DOCKERD: Rhythm.EXPONENTIAL}


def test_a_loop_with_a_new_pid_for_each_attempt_is_one_owner() -> None:
    assert tracked(*(opening(number, pid=500 + number) for number in range(5)))[DOCKERD].rhythm is Rhythm.FIXED


@pytest.mark.parametrize("other", [{"comm": b"kubelet"}, {"cgroup_id": 7}, {"endpoint_id": 2}])
def test_owners_differ_by_name_cgroup_and_endpoint(other: dict[str, object]) -> None:
    assert len(tracked(opening(1), opening(2, **other))) == 2


def test_an_owner_whose_cgroup_was_not_read_has_none() -> None:
    assert list(tracked(opening(1, without=EventFlag.HAS_CGROUP, cgroup_id=0))) == [Owner(1, -1, b"dockerd")]


def test_a_cgroup_that_was_not_read_is_not_cgroup_zero() -> None:
    found = tracked(opening(1, cgroup_id=0), opening(2, cgroup_id=0, without=EventFlag.HAS_CGROUP))
    assert set(found) == {Owner(1, 0, b"dockerd"), Owner(1, -1, b"dockerd")}


@pytest.mark.parametrize("flag", [EventFlag.OWNER, EventFlag.HAS_TASK])
def test_an_opening_whose_owner_is_not_known_is_no_attempt_of_anyone(flag: EventFlag) -> None:
    assert not tracked(opening(1, without=flag))


def test_only_openings_are_attempts() -> None:
    assert tracked(*path("peer", range(1, 6)))[DOCKERD].attempts == 1


def test_the_last_attempts_are_kept() -> None:
    assert tracked(*(opening(number) for number in range(ATTEMPTS_KEPT + 9)))[DOCKERD].attempts == ATTEMPTS_KEPT


def test_beyond_the_limit_the_least_recent_owners_are_forgotten() -> None:
    tracker = CadenceTracker()
    for number in range(OWNERS_MAX + 3):
        tracker.add(trace(opening(number, cgroup_id=number + 1)))
    cgroups = {owner.cgroup_id for owner in tracker.cadences()}
    assert cgroups == set(range(4, OWNERS_MAX + 4))


def test_owners_are_in_a_fixed_order() -> None:
    owners = list(tracked(opening(1, comm=b"skopeo"), opening(2, comm=b"curl"), opening(3, comm=b"podman")))
    assert owners == sorted(owners)


@pytest.mark.parametrize("seed", [41, 42])
def test_attempts_by_owner_agree_with_naive(seed: int) -> None:
    events = trace_of_seed(seed, 200, holes=0.1)
    tracker = CadenceTracker()
    tracker.add(events)
    expected = {
        owner: latest_cadence(np.array(starts[-ATTEMPTS_KEPT:], np.int64))
        for owner, starts in naive.attempts_by_owner(as_dicts(events), BURST_GAP_NS).items()
    }
    assert repr(tracker.cadences()) == repr({Owner(*owner): expected[owner] for owner in sorted(expected)})


@pytest.mark.parametrize("seed", [43, 44])
def test_cadences_are_the_same_however_a_trace_is_cut(seed: int) -> None:
    def run(batches: list[EventBatch]) -> str:
        tracker = CadenceTracker()
        for batch in batches:
            tracker.add(batch.events)
        return repr(tracker.cadences())

    assert_same_however_cut(run, trace_of_seed(seed, 150, holes=0.1), seed=seed)
