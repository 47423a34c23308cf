"""Clock: from boottime to the wall, to the nanosecond, with an error that holds."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer import clock
from tracer.clock import ClockOffset, boottime_ns, measure, rfc3339

AT_2024_NS = 1_704_067_200 * 10**9


def texts(*ts_ns: int, offset_ns: int = 0) -> list[str | None]:
    return rfc3339(np.array(ts_ns, np.int64), ClockOffset(offset_ns, 0))


def test_a_time_is_rfc_3339_in_utc_with_nanoseconds() -> None:
    assert texts(5, offset_ns=AT_2024_NS) == ["2024-01-01T00:00:00.000000005Z"]


def test_the_offset_is_added() -> None:
    assert texts(10**9, offset_ns=AT_2024_NS) == ["2024-01-01T00:00:01.000000000Z"]


def test_an_offset_may_be_negative() -> None:
    assert texts(AT_2024_NS, offset_ns=-(10**9)) == ["2023-12-31T23:59:59.000000000Z"]


def test_a_time_that_is_not_known_is_none() -> None:
    assert texts(-1, 0, -1, offset_ns=AT_2024_NS) == [None, "2024-01-01T00:00:00.000000000Z", None]


def test_no_times_are_no_texts() -> None:
    assert texts() == []


@given(st.integers(0, 2**60), st.integers(0, 2**61))
def test_a_time_agrees_with_the_standard_library(ts_ns: int, offset_ns: int) -> None:
    second, ns = divmod(ts_ns + offset_ns, 10**9)
    expected = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert texts(ts_ns, offset_ns=offset_ns) == [f"{expected}.{ns:09d}Z"]


def test_boottime_goes_on() -> None:
    assert boottime_ns() <= boottime_ns()


def _readings(monkeypatch: pytest.MonkeyPatch, *waits_ns: int, offset_ns: int = 7_000_000) -> None:
    """A clock whose readings take these times, over and over; the wall's reading falls in the middle."""
    state = {"now_ns": 0, "reading": 0}

    def clock_gettime_ns(which: int) -> int:
        wait_ns = waits_ns[state["reading"] // 3 % len(waits_ns)]
        state["now_ns"] += wait_ns // 2
        state["reading"] += 1
        return state["now_ns"] + (offset_ns if which == time.CLOCK_REALTIME else 0)

    monkeypatch.setattr(clock.time, "clock_gettime_ns", clock_gettime_ns)


def test_the_offset_is_that_of_the_reading_with_the_least_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _readings(monkeypatch, 5000, 40, 900)
    assert measure() == ClockOffset(7_000_000, 20)


@pytest.mark.parametrize("late", [0, 1])
def test_the_true_offset_is_within_the_error(monkeypatch: pytest.MonkeyPatch, late: int) -> None:
    """Whether all the time of a reading passes before the wall clock is read, or after."""
    steps = {"now_ns": 0, "count": 0}

    def clock_gettime_ns(which: int) -> int:
        step = steps["count"] % 3
        steps["count"] += 1
        steps["now_ns"] += 101 if step == 1 + late else 0
        return steps["now_ns"] + (7_000_000 if which == time.CLOCK_REALTIME else 0)

    monkeypatch.setattr(clock.time, "clock_gettime_ns", clock_gettime_ns)
    found = measure()
    assert abs(found.offset_ns - 7_000_000) <= found.error_ns


def test_the_measured_offset_brings_boottime_to_the_wall() -> None:
    """Two measurements agree within their errors, unless somebody set the clock in between."""
    one, other = measure(), measure()
    assert abs(one.offset_ns - other.offset_ns) <= one.error_ns + other.error_ns + 10**6
