"""When imported transitions happened: never later than said, never earlier than the bound, and in turn at each socket."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.printed import only_transitions, spans_ms, tcpstates
from tests.traces import MS, SECOND, START_NS, Life, S, build, lives_of
from tracer.events import Events
from tracer.exactness import UNTIMED_NS
from tracer.imports.columns import Columns, columns_of
from tracer.imports.formats import format_named
from tracer.imports.readings import Transition
from tracer.imports.timeline import Clock, Timeline

DAY_NS = 86_400 * SECOND


def columns(events: Events, **options: bool) -> Columns:
    """What tcpstates would print of events, parsed."""
    parser = format_named("tcpstates").parser()
    found = [parser.parse(line) for line in tcpstates(events, **options)]  # type: ignore[arg-type]
    return columns_of([each for each in found if isinstance(each, Transition)])


def lives(seed: int, count: int = 60) -> Events:
    """A trace whose sockets have one namespace, as addresses of sockets tell them apart."""
    made = [Life(**{**vars(life), "netns": 0}) for life in lives_of(Random(seed), count, sockets=5)]
    return only_transitions(build(made, START_NS))


def by_time(events: Events) -> Events:
    """In the order in which a tool with one buffer would print them."""
    return events[np.argsort(events["ts_ns"], kind="stable")]


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), block=st.integers(1, 50))
def test_the_true_time_lies_within_the_bounds_that_seconds_give(seed: int, block: int) -> None:
    events = by_time(lives(seed))
    timeline, every = Timeline(Clock.DAY, SECOND), columns(events, time=True)
    start_of_day_ns = int(events["ts_ns"][0]) // DAY_NS * DAY_NS
    for start in range(0, len(events), block):
        some = events[start : start + block]
        times_ns, early_ns = timeline.times(_part(every, start, start + block))
        true_ns = some["ts_ns"].astype(np.int64) - start_of_day_ns
        rounding_ns = 1000 * (len(events) + 1)
        assert (times_ns >= true_ns - rounding_ns).all()
        # where a connection goes on from a block that was told already, its end may be as late as that said
        slack_ns = rounding_ns + (SECOND if start else 0)
        assert (times_ns - early_ns.astype(np.int64) <= true_ns + slack_ns).all()


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_durations_are_exact_although_times_are_not(seed: int) -> None:
    events = by_time(lives(seed))
    times_ns, _ = Timeline(Clock.DAY, SECOND).times(columns(events, time=True))
    last: dict[int, tuple[int, int]] = {}
    for event, at_ns, span_ms in zip(events, times_ns.tolist(), spans_ms(events), strict=True):
        known = last.get(int(event["skaddr"]))
        if known is not None and known[0] == event["old_state"] and known[0] != S.CLOSE:
            assert abs(at_ns - known[1] - span_ms * MS) < 2
        last[int(event["skaddr"])] = int(event["new_state"]), at_ns


@pytest.mark.parametrize("clock", [Clock.DAY, Clock.NONE])
@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), block=st.integers(1, 50))
def test_what_happens_to_a_socket_stays_in_its_order(clock: Clock, seed: int, block: int) -> None:
    events = by_time(lives(seed))
    every = columns(events, time=True)
    timeline = Timeline(clock, SECOND)
    blocks = [timeline.times(_part(every, start, start + block))[0] for start in range(0, len(events), block)]
    times_ns = np.concatenate(blocks)
    for skaddr in np.unique(events["skaddr"]):
        own = times_ns[events["skaddr"] == skaddr]
        assert (np.diff(own) >= 0).all()


def test_two_connections_of_one_second_at_one_socket_follow_each_other() -> None:
    short = {"path": "refused", "gaps_ns": (80_000,)}
    events = only_transitions(build([Life(**short), Life(**short), Life(**short)]))  # type: ignore[arg-type]
    times_ns, early_ns = Timeline(Clock.DAY, SECOND).times(columns(events, time=True))
    assert (np.diff(times_ns)[::2] == 80_000).all()
    assert (np.diff(times_ns)[1::2] >= 0).all()
    assert (early_ns < SECOND).all()


def test_a_connection_over_many_seconds_is_known_better_than_to_a_second() -> None:
    events = only_transitions(build([Life("peer", gaps_ns=(SECOND + 300 * MS,))]))
    _, early_ns = Timeline(Clock.DAY, SECOND).times(columns(events, time=True))
    assert int(early_ns.max()) < SECOND // 2


def test_midnight_passes() -> None:
    late = DAY_NS - 2 * SECOND
    events = only_transitions(build([Life("local", gaps_ns=(SECOND,))], late))
    times_ns, _ = Timeline(Clock.DAY, SECOND).times(columns(events, time=True))
    assert (np.diff(times_ns) == SECOND).all()


def test_time_goes_on_where_the_clock_is_set_back() -> None:
    every = columns(only_transitions(build([Life("refused", socket=number) for number in range(4)])), time=True)
    every.day_ns[:] = [7200 * SECOND, 7201 * SECOND, 3600 * SECOND, 3601 * SECOND] * 2
    every.span_ns[:] = -1
    timeline = Timeline(Clock.DAY, SECOND)
    times_ns, _ = timeline.times(every)
    assert timeline.clock_steps == 3 - 1
    assert (np.diff(times_ns) >= 0).all()
    assert int(times_ns[-1] - times_ns[0]) < 3605 * SECOND


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_without_times_durations_are_kept_and_said_to_be_no_times(seed: int) -> None:
    events = by_time(lives(seed))
    timeline = Timeline(Clock.NONE, 0)
    times_ns, early_ns = timeline.times(columns(events))
    assert timeline.resolution_ns == UNTIMED_NS
    assert not early_ns.any()
    last: dict[int, tuple[int, int]] = {}
    for event, at_ns, span_ms in zip(events, times_ns.tolist(), spans_ms(events), strict=True):
        known = last.get(int(event["skaddr"]))
        if known is not None and known[0] == event["old_state"] and known[0] != S.CLOSE:
            assert abs(at_ns - known[1] - span_ms * MS) < 2
        last[int(event["skaddr"])] = int(event["new_state"]), at_ns


def test_exact_times_are_taken_as_they_are() -> None:
    events = lives(3)
    times_ns, early_ns = Timeline(Clock.EXACT, 1000).times(columns(events, time=True, since=True))
    assert (abs(times_ns - events["ts_ns"].astype(np.int64)) < 1000).all()
    assert not early_ns.any()


def _part(every: Columns, start: int, end: int) -> Columns:
    index = slice(start, end)
    return Columns(
        every.events[index].copy(), every.at_ns[index], every.day_ns[index], every.span_ns[index], every.position[index]
    )
