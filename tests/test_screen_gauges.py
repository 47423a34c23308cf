"""Gauges of endpoints: what is open in which state, rates and who closes, in arrays, and nothing that is not known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.stories import LABELS, OTHER, ROLES, Story, at
from tests.traces import MS, SECOND, START_NS, event, sample, trace, trace_of_seed
from tracer.analysis import Analysis
from tracer.churn import BIN_NS, ChurnCounter
from tracer.events import EventBatch, EventFlag, Events, TcpState
from tracer.lifecycle import CloseReason
from tracer.screen.gauges import COUNTERS, HISTORY_S, RATE_S, Gauges, Meter

S = TcpState


def fed(events: Events) -> Analysis:
    analysis = Analysis("ebpf", 1, LABELS, None, dict(ROLES))
    analysis.feed(EventBatch(events, "ebpf", 1))
    return analysis


def gauges_of(events: Events, now_s: float) -> Gauges:
    return Meter().read(fed(events), at(now_s))


def readings(*steps: tuple[Events | None, float]) -> list[Gauges]:
    """The gauges after each step: events, and when they are read."""
    analysis, meter, found = Analysis("ebpf", 1, LABELS), Meter(), []
    for events, now_s in steps:
        if events is not None:
            meter.ended(analysis.feed(EventBatch(events, "ebpf", 1)).ended)
        found.append(meter.read(analysis, at(now_s)))
        meter.note(analysis, at(now_s))
    return found


def row_of(gauges: Gauges, endpoint_id: int) -> int:
    return gauges.endpoint_id.tolist().index(endpoint_id)


def test_every_known_endpoint_has_a_row_and_those_that_are_only_seen_too() -> None:
    story = Story()
    story.connection(0, endpoint=9)
    gauges = gauges_of(story.events(), 1)
    assert gauges.endpoint_id.tolist() == [*LABELS, 9]
    assert gauges.label.tolist() == [*LABELS.values(), "endpoint 9"]
    assert gauges.role.tolist() == ["", "", "auth", ""]


def test_nothing_known_is_no_rows() -> None:
    assert len(Meter().read(Analysis("ebpf", 1, {}), -1)) == 0


@pytest.mark.parametrize(("keep", "stages"), [(1, [0, 1, 0]), (2, [1, 0, 0]), (3, [0, 0, 1]), (4, [0, 0, 1]), (5, [0, 0, 0])])
def test_open_connections_are_counted_by_stage(keep: int, stages: list[int]) -> None:
    story = Story()
    story.connection(0, "peer", keep=keep)
    assert gauges_of(story.events(), 1).stages[0].tolist() == stages


def test_rates_are_means_of_the_last_whole_seconds() -> None:
    story = Story()
    for number in range(40):
        story.connection(number * 0.5)
    gauges = gauges_of(story.events(), 20)
    assert gauges.opens_per_s[0] == 2.0
    assert gauges.closes_per_s[0] == 2.0
    assert gauges.opens[0, -20:].tolist() == [2] * 20
    assert gauges.opens[0, :-20].sum() == 0


def test_the_second_that_is_not_over_counts_for_nothing() -> None:
    story = Story()
    story.connection(0)
    story.connection(5.1)
    assert gauges_of(story.events(), 5.9).opens[0].sum() == 1


def test_a_trace_that_is_younger_than_the_window_is_divided_by_its_age() -> None:
    story = Story()
    for number in range(4):
        story.connection(number)
    assert gauges_of(story.events(), 4).opens_per_s[0] == 1.0


def test_in_its_first_second_a_trace_has_no_rates() -> None:
    story = Story()
    story.connection(0.1)
    gauges = gauges_of(story.events(), 0.5)
    assert np.isnan(gauges.opens_per_s).all()
    assert np.isnan(gauges.moved_per_s).all()


def test_who_closes_is_of_the_last_seconds_too() -> None:
    story = Story()
    for at_s, kind in ((0, "refused"), (15, "peer"), (16, "local"), (17, "refused")):
        story.connection(at_s, kind)
    assert gauges_of(story.events(), 20).sides[0].tolist() == [1, 1, 1, 0]
    assert gauges_of(story.events(), 20).closes[0].sum(axis=0).tolist() == [1, 1, 2, 0]


def test_lifetimes_are_those_of_the_whole_trace() -> None:
    story = Story()
    for number in range(100):
        story.connection(number, life_s=0.1)
    gauges = gauges_of(story.events(), 100)
    assert gauges.p50_ns[0] == pytest.approx(102 * MS, rel=0.02)
    assert gauges.p99_ns[row_of(gauges, OTHER)] == -1


def test_what_was_moved_between_two_readings_is_a_rate() -> None:
    first, second = Story(), Story()
    first.connection(0)
    second.connection(2, received=3000, acked=300)
    before, after = readings((first.events(), 1), (second.events(), 4))
    assert np.isnan(before.moved_per_s).all()
    assert after.moved_per_s[0].tolist() == [1000.0, 100.0, 0.0]
    assert after.moved_per_s[row_of(after, OTHER)].tolist() == [0.0, 0.0, 0.0]


def test_samples_of_an_open_connection_make_its_rate() -> None:
    up = trace(event(S.CLOSE, S.SYN_SENT, at(0)), event(S.SYN_SENT, S.ESTABLISHED, at(0.1)))
    steps = [(up, 1.0)]
    steps += [(trace(sample(S.ESTABLISHED, at(n), bytes_received=n * 5_000, bytes_acked=0, retransmits=n)), n) for n in (2, 4)]
    *_, after = readings(*steps)
    assert after.moved_per_s[0].tolist() == pytest.approx([20_000 / 3, 0.0, 4 / 3])


def test_what_a_connection_had_received_before_the_trace_is_no_rate() -> None:
    def sampled(at_s: float, received: int) -> Events:
        values = {"bytes_received": received, "bytes_acked": 100, "retransmits": 0}
        return trace(sample(S.ESTABLISHED, at(at_s), skaddr=1 << 32, **values))

    found_open = event(S.ESTABLISHED, S.ESTABLISHED, at(0.2), skaddr=1 << 32, also=EventFlag.ADOPTED | EventFlag.OWNER)
    ended = trace(event(S.ESTABLISHED, S.CLOSE_WAIT, at(7), bytes_received=5_000_000_900, bytes_acked=100, retransmits=0))
    steps = [(trace(found_open), 0.3), (sampled(0.5, 5_000_000_000), 1.0), (sampled(3, 5_000_000_600), 4.0), (ended, 8.0)]
    rates = [gauges.moved_per_s[0, 0] for gauges in readings(*steps)]
    assert rates[1:] == pytest.approx([0.0, 600 / 3.7, 900 / 7.7])


def test_a_connection_from_before_the_trace_that_ends_unsampled_is_no_rate() -> None:
    end = [(S.ESTABLISHED, S.CLOSE_WAIT), (S.CLOSE_WAIT, S.LAST_ACK), (S.LAST_ACK, S.CLOSE)]
    events = trace(*(event(old, new, at(2), bytes_received=7_000_000, bytes_acked=1, retransmits=0) for old, new in end))
    other = Story()
    other.connection(0)
    *_, after = readings((other.events(), 1.0), (events, 3.0))
    assert after.moved_per_s[0, 0] == 0.0


def test_a_rate_reaches_no_further_back_than_the_window() -> None:
    early = Story()
    early.connection(0.5, received=1_000_000)
    steps: list[tuple[Events | None, float]] = [(early.events(), 1.0)]
    steps += [(None, float(now_s)) for now_s in range(2, 16)]
    found = readings(*steps)
    assert found[5].moved_per_s[0, 0] == 0.0  # it was there at the first reading already
    late = Story()
    late.connection(4.5, received=1_000_000)
    found = readings((None, 4.0), (late.events(), 5.0), *((None, float(now_s)) for now_s in range(6, 18)))
    assert found[1].moved_per_s[0, 0] == 1_000_000
    assert found[4 + RATE_S - 5].moved_per_s[0, 0] > 0
    assert found[-1].moved_per_s[0, 0] == 0.0


@pytest.mark.parametrize("seed", range(4))
def test_columns_of_open_connections_are_those_of_their_rows(seed: int) -> None:
    analysis = Analysis("ebpf", 1, {})
    events = trace_of_seed(seed, holes=0.1)
    analysis.feed(EventBatch(events[: len(events) // 2], "ebpf", 1))
    analysis.feed(EventBatch(events[len(events) // 2 :], "ebpf", 1, 3, int(events["ts_ns"][-40]), int(events["ts_ns"][-20])))
    rows = analysis.open()
    names = ("first_seen_ns", "skaddr", "endpoint_id", "last_state", "close_reason", "gap", *COUNTERS)
    columns = analysis.open_columns(*names)
    order = np.lexsort((columns["skaddr"], columns["first_seen_ns"]))
    assert len(rows) > 3
    assert CloseReason.UNKNOWN in rows["close_reason"]
    for name in names:
        assert columns[name][order].tolist() == rows[np.lexsort((rows["skaddr"], rows["first_seen_ns"]))][name].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_a_headline_is_a_summary_without_its_lists(seed: int) -> None:
    analysis = Analysis("ebpf", 1, {})
    analysis.feed(EventBatch(trace_of_seed(seed, holes=0.1), "ebpf", 1))
    whole, head = analysis.summary(), analysis.headline()
    names = ("source", "events", "lost", "gaps", "connections", "open", "inbound", "first_ns", "last_ns", "coverage", "findings")
    assert {name: getattr(head, name) for name in names} == {name: getattr(whole, name) for name in names}
    assert (sum(each.connections for each in whole.endpoints), sum(each.open for each in whole.endpoints)) == (
        head.connections,
        head.open,
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_series_has_in_each_second_what_a_window_of_it_counts(seed: int) -> None:
    events = trace_of_seed(seed)
    analysis = fed(events)
    now_ns = int(events["ts_ns"].max())
    series = analysis.churn.series(now_ns, HISTORY_S)
    assert series
    first = now_ns // BIN_NS - HISTORY_S
    for endpoint_id, counts in series.items():
        for row in range(HISTORY_S):
            opens, closes = analysis.churn.window(endpoint_id, (first + row) * BIN_NS, (first + row + 1) * BIN_NS)
            assert [opens, *closes.tolist()] == counts[row].tolist()


def test_a_series_of_nothing_is_nothing() -> None:
    assert ChurnCounter().series(START_NS + SECOND, 5) == {}


def test_where_nothing_happens_the_rate_is_zero_and_not_unknown() -> None:
    first, second = readings((None, 1.0), (None, 3.0))
    assert np.isnan(first.opens_per_s).all()
    assert second.opens_per_s.tolist() == [0.0] * len(LABELS)


def test_without_a_note_from_about_then_what_was_moved_is_unknown() -> None:
    story = Story()
    story.connection(20, received=1000)
    first, second, third = readings((None, 1.0), (story.events(), 31.0), (None, 33.0))
    assert np.isnan(first.moved_per_s).all()
    assert np.isnan(second.moved_per_s).all()
    assert third.moved_per_s[0, 0] == 0.0
