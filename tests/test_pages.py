"""The numbers that charts show, against counting one by one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made_captures import collected, days, instant, mixed, short, storm
from tests.stories import Story
from tests.traces import START_NS, trace_of_seed
from tracer.clock import ClockOffset
from tracer.collected.collector import Collected
from tracer.events import Events, no_events
from tracer.lanes import lanes_of
from tracer.lifecycle import CloseReason
from tracer.pages.counts import BINS_MAX, distributions, edges, mean_open, most_open, turnover
from tracer.pages.figures import figures_of
from tracer.pages.layout import EXACT_MAX, LANES_MAX
from tracer.pages.span import Span, span_of
from tracer.pages.stretches import UNSEEN, bounds, stretches
from tracer.pages.tallies import owner_tallies

SECOND = 1_000_000_000


def whole(tmp_path: Path, events: Events) -> tuple[Collected, Span]:
    made = collected(tmp_path / "t.arrows", events)
    span = span_of(made)
    assert span is not None
    return made, span


@pytest.fixture(scope="module", params=["mixed", "seed 1", "seed 2", "holes"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Collected, Span]:
    events: dict[str, Callable[[], Events]] = {
        "mixed": mixed,
        "seed 1": lambda: trace_of_seed(1),
        "seed 2": lambda: trace_of_seed(2),
        "holes": lambda: trace_of_seed(3, holes=0.2),
    }
    return whole(tmp_path_factory.mktemp("case"), events[request.param]())


class TestStretches:
    def test_every_connection_has_one(self, case: tuple[Collected, Span]) -> None:
        made, span = case
        assert set(stretches(made.rows, span).connection.tolist()) == set(range(len(made.rows)))

    def test_they_fill_the_time_of_their_connection(self, case: tuple[Collected, Span]) -> None:
        made, span = case
        found = stretches(made.rows, span)
        start_ns, end_ns = bounds(made.rows, span)
        for number in range(len(made.rows)):
            own = np.flatnonzero(found.connection == number)
            assert (found.start_ns[own][0], found.end_ns[own][-1]) in (
                (start_ns[number], end_ns[number]),
                (end_ns[number], end_ns[number]),  # without length
            )
            assert found.start_ns[own][1:].tolist() == found.end_ns[own][:-1].tolist()

    def test_states_last_as_long_as_the_rows_say(self, case: tuple[Collected, Span]) -> None:
        made, span = case
        found = stretches(made.rows, span)
        closed = np.flatnonzero((made.rows["close_reason"] != CloseReason.OPEN) & ~made.rows["gap"])
        assert len(closed)
        for number in closed.tolist():
            own = (found.connection == number) & (found.state != UNSEEN)
            lasted = Counter[int]()
            for state, start_ns, end_ns in zip(found.state[own], found.start_ns[own], found.end_ns[own], strict=True):
                lasted[int(state)] += int(end_ns - start_ns)
            said = made.rows["state_ns"][number]
            assert {state: ns for state, ns in lasted.items() if ns} == {
                state: ns for state, ns in enumerate(said.tolist()) if ns > 0
            }

    def test_whole_lives_have_no_hole(self, tmp_path: Path) -> None:
        made, span = whole(tmp_path, mixed())
        assert UNSEEN not in stretches(made.rows, span).state.tolist()

    def test_what_is_open_reaches_to_the_end(self, tmp_path: Path) -> None:
        made, span = whole(tmp_path, mixed())
        still = np.flatnonzero(made.rows["close_reason"] == CloseReason.OPEN)
        assert len(still) == 2
        assert bounds(made.rows, span)[1][still].tolist() == [span.end_ns] * 2


class TestLanes:
    @given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 80)), max_size=60), st.integers(0, 20))
    @settings(deadline=None)
    def test_none_overlaps_and_no_fewer_would_do(self, lives: list[tuple[int, int]], gap_ns: int) -> None:
        start_ns = np.array([start for start, _ in lives], np.int64)
        end_ns = np.array([start + length for start, length in lives], np.int64)
        lanes = lanes_of(start_ns, end_ns, gap_ns)
        for one in range(len(lives)):
            for other in range(one):
                apart = start_ns[one] >= end_ns[other] + gap_ns or start_ns[other] >= end_ns[one] + gap_ns
                assert lanes[one] != lanes[other] or apart
        most = max((int(((start_ns <= at) & (at < end_ns + gap_ns)).sum()) for at in start_ns.tolist()), default=0)
        assert len(set(lanes.tolist())) == max(most, min(len(lives), 1))

    def test_bars_of_a_figure_do_not_overlap(self, case: tuple[Collected, Span]) -> None:
        made, span = case
        rows = sorted(figures_of(made, span).datasets["stretches"], key=lambda row: (row["bottom"] + row["top"], row["from"]))
        for before, after in pairwise(rows):
            same = before["bottom"] + before["top"] == pytest.approx(after["bottom"] + after["top"], abs=0.11)
            assert not same or after["from"] >= before["to"] - 1e-6

    def test_bars_stay_inside(self, case: tuple[Collected, Span]) -> None:
        figures = figures_of(*case)
        first, last = (row["at"] for row in figures.datasets["span"])
        for row in figures.datasets["stretches"]:
            assert 0 <= row["top"] <= row["bottom"] <= figures.lanes_px
            assert first < row["from"] <= row["to"] < last

    def test_every_connection_has_a_bar_and_a_tooltip(self, case: tuple[Collected, Span]) -> None:
        made, span = case
        data = figures_of(made, span).datasets
        assert {row["c"] for row in data["stretches"]} == {row["c"] for row in data["connections"]} == set(range(len(made.rows)))

    def test_of_very_many_a_choice_is_drawn_and_said_to_be_one(self, tmp_path: Path) -> None:
        made, span = whole(tmp_path, storm(EXACT_MAX + 50))
        figures = figures_of(made, span)
        assert 60 <= len(figures.datasets["connections"]) < 200
        assert f"of {EXACT_MAX + 50:,} connections have a bar of their own" in figures.lanes_text
        assert {row["reason"] for row in figures.datasets["ends"]} >= {"refused"}

    def test_of_too_many_at_a_time_a_choice_is_drawn_too(self, tmp_path: Path) -> None:
        story = Story()
        for number in range(LANES_MAX + 40):
            story.connection(0.001 * number, "peer", life_s=60.0)
        figures = figures_of(*whole(tmp_path, story.events()))
        assert f"of {LANES_MAX + 40:,} connections have a bar of their own" in figures.lanes_text
        assert figures.lanes_px < 1000


class TestCounts:
    def test_bars_sum_to_opens_and_closes(self, case: tuple[Collected, Span]) -> None:
        made, span = case
        counted = Counter[str]()
        for row in figures_of(made, span).datasets["turnover"]:
            counted[row["kind"].partition(":")[0]] += row["count"]
            assert abs(row["high"] - row["low"]) == row["count"]
        still = int((made.rows["close_reason"] == CloseReason.OPEN).sum())
        assert counted["opened"] == int((made.rows["opened_ns"] >= 0).sum())
        assert counted["closed"] == len(made.rows) - still

    def test_the_mean_of_what_is_open_is_the_time_spent(self, case: tuple[Collected, Span]) -> None:
        made, span = case
        found = stretches(made.rows, span)
        width_ns = np.diff(edges(span)).astype(float)
        for state, mean in mean_open(found, span).items():
            own = found.state == state
            assert (mean * width_ns).sum() == pytest.approx(
                float((found.end_ns[own] - found.start_ns[own]).sum()), rel=1e-9, abs=2
            )

    def test_the_most_at_a_time_is_that_of_counting(self, case: tuple[Collected, Span]) -> None:
        made, span = case
        start_ns, end_ns = bounds(made.rows, span)
        end_ns = np.maximum(end_ns, start_ns + 1)
        bins = edges(span)
        for most, low, high in zip(
            most_open(start_ns, end_ns, span).tolist(), bins[:-1].tolist(), bins[1:].tolist(), strict=True
        ):
            moments = [low, *(at for at in start_ns.tolist() if low <= at < high)]
            assert most == max(int(((start_ns <= at) & (at < end_ns)).sum()) for at in moments)

    def test_distributions_count_every_known_duration(self, case: tuple[Collected, Span]) -> None:
        made, _ = case
        for found in distributions(made.rows):
            if found.name in ("lifetime", "connect"):
                values = made.rows[f"{found.name}_ns"]
                values = np.maximum(values[values >= 0], 1)
                for low, high, count in zip(found.low_ns, found.high_ns, found.count, strict=True):
                    assert count == int(((values >= low * (1 - 1e-12)) & (values < high * (1 - 1e-12))).sum())
                assert found.count.sum() == len(values)

    @given(st.integers(0, 1 << 60), st.integers(1_000, 1 << 58))
    def test_bins_cover_the_span_and_are_few(self, begin_ns: int, length_ns: int) -> None:
        bins = edges(Span(begin_ns, begin_ns + length_ns, None))
        assert bins[0] == begin_ns
        assert bins[-1] > begin_ns + length_ns
        assert len(bins) <= BINS_MAX + 2

    def test_turnover_is_that_of_the_rows(self, tmp_path: Path) -> None:
        made, span = whole(tmp_path, storm(400))
        windows = turnover(made.rows, span)
        assert windows["opens"].sum() == 400


class TestOwners:
    def test_tallies_count_every_connection_once(self, case: tuple[Collected, Span]) -> None:
        made, _ = case
        tallies = owner_tallies(made)
        assert sum(tally.connections for tally in tallies) == len(made.rows)
        assert sum(sum(tally.closes.values()) + tally.open for tally in tallies) == len(made.rows)

    def test_the_peak_is_the_most_within_any_minute(self, tmp_path: Path) -> None:
        made, _ = whole(tmp_path, mixed())
        opened_s = sorted(int(ns) / SECOND for ns in made.rows["opened_ns"])
        most = max(sum(1 for at in opened_s if since <= at < since + 60) for since in opened_s)
        assert sum(tally.peak_per_min for tally in owner_tallies(made)) == most  # the trace is shorter than a minute

    def test_owners_with_one_name_in_one_place_are_one(self, tmp_path: Path) -> None:
        made, _ = whole(tmp_path, mixed())
        assert {(tally.name, tally.pids) for tally in owner_tallies(made)} == {("dockerd", 1), ("skopeo", 23)}


class TestSpan:
    @pytest.mark.parametrize("length_ns", [1_000, 300_000_000, 5 * SECOND, 3 * 86_400 * SECOND], ids=["µs", "ms", "s", "days"])
    @pytest.mark.parametrize("clock", [None, ClockOffset(1_790_000_000_000_000_000, 5)], ids=["no clock", "clock"])
    def test_positions_keep_order_and_tell_moments_apart(self, length_ns: int, clock: ClockOffset | None) -> None:
        span = Span(START_NS, START_NS + length_ns, clock)
        at = span.positions(START_NS + np.linspace(0, length_ns, 500).astype(np.int64))
        assert (np.diff(at) > 0).all()

    def test_without_a_clock_time_counts_from_the_beginning(self) -> None:
        span = Span(START_NS, START_NS + 90 * SECOND, None)
        assert span.title() == "s since the beginning"
        assert span.moment(START_NS + 1_500_000_000) == "+1.500 s"

    def test_with_a_clock_it_is_utc(self) -> None:
        span = Span(0, 90 * SECOND, ClockOffset(1_790_000_000_000_000_000, 5))
        assert span.moment(0) == "2026-09-21 14:13:20.000 UTC"
        assert span.positions(np.array([SECOND]))[0] == 1_790_000_001_000.0

    def test_nothing_has_no_span(self, tmp_path: Path) -> None:
        assert span_of(collected(tmp_path / "t.arrows", no_events())) is None


@pytest.mark.parametrize("make", [instant, short, days, mixed], ids=lambda make: make.__name__)
def test_figures_are_json_without_nan(make: Callable[[], Events], tmp_path: Path) -> None:
    figures = figures_of(*whole(tmp_path, make()))
    assert json.loads(json.dumps(figures.datasets, allow_nan=False)) == figures.datasets


def test_shades_do_not_overlap(tmp_path: Path) -> None:
    shades = figures_of(*whole(tmp_path, mixed())).datasets["shades"]
    assert all(before["to"] <= after["from"] for before, after in pairwise(shades))
