"""Churn: exact numbers in half-open windows, and the stream's counter in bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import naive
from tests.traces import SECOND, START_NS, as_dicts, assert_same_however_cut, event, path, rows_of, trace, trace_of_seed, traces
from tracer.churn import BINS, SIDE_BY_REASON, SIDES, ChurnCounter, churn
from tracer.connections import ConnectionTracker
from tracer.events import EventBatch, Events, TcpState
from tracer.lifecycle import CloseReason
from tracer.rows import Connections, blank_connections

S = TcpState
R = CloseReason
DAY_NS = 86_400 * SECOND


def rows(*spans: tuple[int, int], reason: CloseReason = R.PEER) -> Connections:
    """Connections open in [opened, closed), ns; -1 as in the rows."""
    made = blank_connections(len(spans))
    for row, (opened_ns, closed_ns) in zip(made, spans, strict=True):
        row["opened_ns"], row["closed_ns"], row["close_reason"] = opened_ns, closed_ns, reason
        row["last_ns"] = max(opened_ns, closed_ns)
    return made


def windows(connections: Connections, *edges_ns: int) -> np.ndarray:
    return churn(connections, np.array(edges_ns, np.int64))


def closes(window: np.void) -> dict[str, int]:
    return dict(zip(SIDES, window["closes"].tolist(), strict=True))


# --- exact windows


@pytest.mark.parametrize(
    ("reason", "side"),
    [
        (R.PEER, "peer"),
        (R.RESET, "peer"),
        (R.LOCAL, "local"),
        (R.LOCAL_RESET, "local"),
        (R.REFUSED, "failed"),
        (R.TIMEOUT, "failed"),
        (R.UNREACHABLE, "failed"),
        (R.ABORTED, "failed"),
        (R.UNKNOWN, "unknown"),
    ],
)
def test_a_close_is_counted_for_the_side_that_closed(reason: CloseReason, side: str) -> None:
    assert SIDES[SIDE_BY_REASON[reason]] == side
    assert closes(windows(rows((1, 5), reason=reason), 0, 10)[0]) == dict.fromkeys(SIDES, 0) | {side: 1}


def test_windows_are_half_open() -> None:
    made = windows(rows((10, 20)), 0, 10, 20, 30)
    assert made["opens"].tolist() == [0, 1, 0]
    assert made["closes"].sum(axis=1).tolist() == [0, 0, 1]


def test_windows_say_where_they_are() -> None:
    made = windows(rows(), 5, 9, 30)
    assert (made["start_ns"].tolist(), made["end_ns"].tolist()) == ([5, 9], [9, 30])


def test_mean_open_is_the_average_over_time() -> None:
    assert windows(rows((2, 7), (5, 10), (0, 1)), 0, 10)["mean_open"][0] == pytest.approx(1.1)


def test_turnover_is_closes_by_mean_open() -> None:
    assert windows(rows((0, 5), (5, 10), (9, 20)), 0, 10)["turnover"][0] == pytest.approx(1 / 1.1)


def test_turnover_is_nan_where_nothing_was_open() -> None:
    assert np.isnan(windows(rows((100, 200)), 0, 10)["turnover"][0])


def test_a_connection_that_was_open_before_is_open_since_ever() -> None:
    made = windows(rows((-1, 4)), 0, 10)
    assert (made["opens"][0], made["mean_open"][0]) == (0, pytest.approx(0.4))


def test_an_open_connection_is_open_for_ever() -> None:
    made = windows(rows((5, -1), reason=R.OPEN), 0, 10, 20, 1000)
    assert made["open_at_end"].tolist() == [1, 1, 1]
    assert made["mean_open"].tolist() == [0.5, 1, 1]
    assert not made["closes"].any()


def test_a_cut_off_connection_is_open_until_it_was_last_seen() -> None:
    row = rows((2, -1), reason=R.UNKNOWN)
    row["last_ns"] = 6
    made = windows(row, 0, 10)
    assert (closes(made[0])["unknown"], made["open_at_end"][0], made["mean_open"][0]) == (1, 0, pytest.approx(0.4))


def test_without_connections_all_is_zero() -> None:
    made = windows(rows(), 0, 10)
    assert (made["opens"][0], made["open_at_end"][0], made["mean_open"][0]) == (0, 0, 0)


@pytest.mark.parametrize("edges_ns", [(), (5,), (5, 5), (5, 4), (0, 10, 10, 20)])
def test_edges_that_do_not_increase_are_an_error(edges_ns: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="increase"):
        windows(rows(), *edges_ns)


def test_many_connections_over_a_long_time_are_averaged_right() -> None:
    """1100 connections that are open for 91 of 104 days: the sum of all times to the last edge is beyond 2^63 ns."""
    assert windows(rows(*[(0, 91 * DAY_NS)] * 1100), 0, 104 * DAY_NS)["mean_open"][0] == pytest.approx(1100 * 91 / 104)


def test_short_windows_of_a_long_time_are_averaged_right() -> None:
    """One connection for a second and a nanosecond in the last second of 100 days, after 5000 others."""
    last_ns = 100 * DAY_NS - SECOND
    others = [(number * 1_111_111_111, number * 1_111_111_111 + 7) for number in range(5000)]
    made = windows(rows(*others, (last_ns, last_ns + 1)), 0, last_ns, last_ns + SECOND)
    assert made["mean_open"].tolist() == pytest.approx([5000 * 7 / last_ns, 1e-9], rel=1e-6)


def trace_windows(events: Events) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Windows of a trace, by the product and by the reference."""
    tracker = ConnectionTracker()
    ended = tracker.feed(events).ended
    edges_ns = [START_NS - 5, START_NS, START_NS + 1, *range(START_NS + SECOND, START_NS + 30 * SECOND, 3 * SECOND)]
    everything = np.concatenate([ended, tracker.open()])
    return windows(everything, *edges_ns), naive.churn(rows_of(everything), edges_ns)


def assert_windows_as_naive(events: Events) -> None:
    for made, expected in zip(*trace_windows(events), strict=True):
        assert (made["opens"], made["open_at_end"], closes(made)) == (
            expected["opens"],
            expected["open_at_end"],
            expected["closes"],
        )
        assert made["mean_open"] == pytest.approx(float(expected["mean_open"]), rel=1e-9, abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(traces(holes=True))
def test_windows_of_small_traces_agree_with_naive(events: Events) -> None:
    assert_windows_as_naive(events)


@pytest.mark.parametrize("holes", [0.0, 0.1])
def test_windows_of_a_long_trace_agree_with_naive(holes: float) -> None:
    assert_windows_as_naive(trace_of_seed(21, 300, holes))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=20))
def test_what_is_open_changes_by_opens_less_closes(spans: list[tuple[int, int]]) -> None:
    made = windows(rows(*((opened, opened + length) for opened, length in spans)), *range(0, 120, 10))
    before = np.concatenate([[0], made["open_at_end"][:-1]])
    assert (made["open_at_end"] == before + made["opens"] - made["closes"].sum(axis=1)).all()


# --- the counter of a stream


def counted(batches: list[EventBatch], bin_ns: int = SECOND, bins: int = BINS) -> ChurnCounter:
    tracker, counter = ConnectionTracker(), ChurnCounter(bin_ns, bins)
    for batch in batches:
        step = tracker.feed(batch.events)
        counter.add(batch.events, step.ended)
        counter.note_open(step.endpoint_id, step.change)
    return counter


def count(events: Events, bin_ns: int = SECOND, bins: int = BINS) -> ChurnCounter:
    return counted([EventBatch(events, "ebpf", 1)], bin_ns, bins)


def test_totals_count_opens_closes_and_what_is_open() -> None:
    events = trace(*path("peer", range(1, 6)), *path("refused", (6, 7)), *path("local", (8, 9)))
    opens, by_reason, open_now, peak = count(events).totals(1)
    assert (opens, open_now, peak) == (3, 1, 1)
    assert {R(reason) for reason in np.flatnonzero(by_reason)} == {R.PEER, R.REFUSED}


def test_the_peak_is_of_one_moment() -> None:
    events = trace(*path("peer", (1, 2)), *path("peer", (3, 4), skaddr=64), event(S.ESTABLISHED, S.CLOSE, 5, skaddr=64))
    assert count(events).totals(1)[2:] == (1, 2)


def test_the_peak_counts_what_was_open_before() -> None:
    assert count(trace(*path("peer", range(1, 6))[2:])).totals(1)[3] == 1


def test_endpoints_have_their_own_totals() -> None:
    counter = count(trace(*path("refused", (1, 2)), *path("refused", (3, 4), endpoint_id=40)))
    assert [counter.totals(endpoint)[0] for endpoint in (1, 39, 40)] == [1, 0, 1]


def test_an_endpoint_that_was_not_seen_has_zeros() -> None:
    opens, by_reason, open_now, peak = ChurnCounter().totals(7)
    assert (opens, int(by_reason.sum()), open_now, peak) == (0, 0, 0, 0)
    assert ChurnCounter().window(7, 0, SECOND)[0] == 0


def test_a_window_counts_its_bins_only() -> None:
    counter = count(trace(*path("refused", (5, 15)), *path("refused", (20, 29)), *path("aborted", (30, 31))), bin_ns=10)
    opens, by_side = counter.window(1, 10, 30)
    assert (opens, by_side.tolist()) == (1, [0, 0, 2, 0])


def test_bins_that_were_overwritten_are_in_the_totals_only() -> None:
    counter = count(trace(*path("refused", (5, 6)), *path("refused", (45, 46))), bin_ns=10, bins=4)
    assert (counter.window(1, 0, 10)[0], counter.window(1, 40, 50)[0], counter.totals(1)[0]) == (0, 1, 2)


def test_an_event_older_than_all_bins_does_not_fall_into_a_new_one() -> None:
    late = path("refused", (5, 6), skaddr=64)
    counter = count(trace(*path("refused", (45, 46)), *late), bin_ns=10, bins=4)
    assert (counter.window(1, 40, 50)[0], counter.totals(1)[0]) == (1, 2)


def test_bins_and_totals_agree_with_naive() -> None:
    events = trace_of_seed(31, 300, holes=0.05)
    counter, found = count(events), naive.connections(as_dicts(events))
    edges_ns = list(range(START_NS, START_NS + 400 * SECOND, 7 * SECOND))
    for endpoint in (1, 2, 5):
        ended = [row for row in found.ended if row["endpoint_id"] == endpoint]
        still = [row for row in found.open if row["endpoint_id"] == endpoint]
        for expected, start_ns, end_ns in zip(naive.churn(ended + still, edges_ns), edges_ns[:-1], edges_ns[1:], strict=True):
            opens, by_side = counter.window(endpoint, start_ns, end_ns)
            assert (opens, dict(zip(SIDES, by_side.tolist(), strict=True))) == (expected["opens"], expected["closes"])
        opens, by_reason, open_now, peak = counter.totals(endpoint)
        assert (opens, int(by_reason.sum())) == (sum(row["opened_ns"] >= 0 for row in ended + still), len(ended))
        assert (open_now, peak) == (len(still), found.peak_open[endpoint])


@pytest.mark.parametrize("bins", [3, BINS])
@pytest.mark.parametrize("seed", [32, 33])
def test_counts_are_the_same_however_a_trace_is_cut(seed: int, bins: int) -> None:
    def run(batches: list[EventBatch]) -> list[Any]:
        counter = counted(batches, bins=bins)
        found: list[Any] = []
        for endpoint in (1, 2, 5):
            opens, by_reason, open_now, peak = counter.totals(endpoint)
            found.append((opens, by_reason.tolist(), open_now, peak))
            for start_ns in range(START_NS, START_NS + 60 * SECOND, SECOND):
                opens, by_side = counter.window(endpoint, start_ns, start_ns + SECOND)
                found.append((opens, by_side.tolist()))
        return found

    assert_same_however_cut(run, trace_of_seed(seed, 100, holes=0.1), seed=seed)
