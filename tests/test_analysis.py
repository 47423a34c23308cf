"""The core in one piece: its summary, and that nothing it says depends on how the trace was cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import naive
from tests.traces import (
    SECOND,
    SKADDR,
    START_NS,
    as_dicts,
    assert_same_however_cut,
    event,
    garbage_of_seed,
    path,
    rows_of,
    sample,
    trace,
    trace_of_seed,
    traces,
)
from tracer import analysis as module
from tracer.analysis import Analysis
from tracer.cadence import Owner, Rhythm
from tracer.churn import churn
from tracer.events import EventBatch, Events, TcpState
from tracer.summary import EndpointSummary, Loss, Summary

S = TcpState
LABELS = {1: "ghcr.io:443", 2: "registry.example:5000"}


def analysed(*events: np.void, source: str = "ebpf", endpoints: dict[int, str] | None = None) -> Analysis:
    made = Analysis(source, 1, {} if endpoints is None else endpoints)
    made.feed(EventBatch(trace(*events), source, 1))
    return made


def summed(*events: np.void) -> Summary:
    return analysed(*events).summary()


def of_endpoint(summary: Summary, endpoint_id: int = 1) -> EndpointSummary:
    return next(each for each in summary.endpoints if each.endpoint_id == endpoint_id)


def whole(batches: list[EventBatch]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str, int]:
    """Everything an analysis says about a trace."""
    made = Analysis("ebpf", 1, LABELS)
    ended = [row for batch in batches for row in rows_of(made.feed(batch).ended)]
    return ended, rows_of(made.open()), repr(made.summary()), made.now_ns


# --- what is said


def test_ended_connections_come_out_as_they_end() -> None:
    made = Analysis("ebpf", 1, {})
    first = made.feed(EventBatch(trace(*path("peer", (1, 2))), "ebpf", 1)).ended
    second = made.feed(EventBatch(trace(event(S.ESTABLISHED, S.CLOSE, 3)), "ebpf", 1)).ended
    assert (len(first), len(second), len(made.open())) == (0, 1, 0)


def test_without_events_there_is_no_time() -> None:
    made = Analysis("proc", 5, {})
    found = made.summary()
    assert (made.now_ns, found.first_ns, found.last_ns, found.events, found.connections) == (-1, -1, -1, 0, 0)
    assert (found.source, found.resolution_ns) == ("proc", 5)


def test_now_is_the_latest_event_even_if_a_later_one_is_older() -> None:
    made = analysed(event(S.CLOSE, S.SYN_SENT, 90), event(S.CLOSE, S.SYN_SENT, 50, skaddr=64))
    assert (made.now_ns, made.summary().first_ns, made.summary().last_ns) == (90, 90, 90)


def test_events_are_transitions_and_not_samples() -> None:
    assert summed(*path("peer", (1, 2)), sample(S.ESTABLISHED, 3)).events == 2


def test_transitions_that_no_linux_makes_are_counted_by_old_and_new_state() -> None:
    found = summed(event(S.ESTABLISHED, S.SYN_SENT, 1), event(S.ESTABLISHED, S.SYN_SENT, 2, skaddr=64), *path("peer", (3, 4)))
    assert found.unknown_transitions == {("ESTABLISHED", "SYN_SENT"): 2}


def test_samples_are_no_unknown_transitions() -> None:
    assert not summed(*path("peer", (1, 2)), sample(S.ESTABLISHED, 3)).unknown_transitions


def test_connections_are_those_that_ended_and_those_that_are_open() -> None:
    found = summed(*path("refused", (1, 2)), *path("peer", (3, 4)))
    assert (found.connections, found.open, of_endpoint(found).connections, of_endpoint(found).open) == (2, 1, 2, 1)


def test_opens_are_openings_that_were_seen() -> None:
    found = of_endpoint(summed(*path("refused", (1, 2)), *path("peer", range(3, 8), skaddr=64)[2:]))
    assert (found.connections, found.opens) == (2, 1)


def test_closes_are_by_reason_and_only_those_that_occurred() -> None:
    events = [*path("refused", (1, 2)), *path("refused", (3, 4)), *path("peer", range(5, 10))]
    assert of_endpoint(summed(*events)).closes == {"refused": 2, "peer": 1}


def test_the_peak_is_the_most_that_were_open_at_a_time() -> None:
    events = [*path("peer", (1, 2)), *path("peer", (3, 4), skaddr=64), *path("refused", (5, 6), skaddr=128)]
    assert (of_endpoint(summed(*events)).peak_open, of_endpoint(summed(*events)).open) == (3, 2)


def test_sums_are_over_ended_and_open_connections_for_which_they_are_known() -> None:
    events = [
        *path("reset", (1, 2, 3), bytes_received=100),
        *path("peer", (4, 5, 6), skaddr=64, bytes_received=20),
        *path("peer", (7, 8), skaddr=128, bytes_received=3),
    ]
    assert of_endpoint(summed(*events)).bytes_received == 120


def test_sums_of_nothing_known_are_unknown() -> None:
    found = of_endpoint(summed(event(S.SYN_SENT, S.CLOSE, 1, flags=0)))
    assert (found.bytes_received, found.bytes_acked, found.retransmits) == (-1, -1, -1)


def test_a_sum_of_zeros_is_zero() -> None:
    assert of_endpoint(summed(*path("refused", (1, 2), retransmits=0))).retransmits == 0


def test_distributions_are_of_ended_connections() -> None:
    found = of_endpoint(summed(*path("refused", (1, 41)), *path("peer", (50, 60))))
    assert (found.distributions["lifetime"].max_ns, found.distributions["lifetime"].count) == (40, 1)
    assert "connect" not in found.distributions


def test_an_endpoint_that_nothing_happened_to_is_in_the_summary() -> None:
    found = analysed(*path("refused", (1, 2)), endpoints=LABELS).summary()
    assert [(each.endpoint, each.connections) for each in found.endpoints] == [("ghcr.io:443", 1), ("registry.example:5000", 0)]


def test_an_endpoint_without_a_label_has_its_number() -> None:
    assert [each.endpoint for each in summed(*path("refused", (1, 2), endpoint_id=4)).endpoints] == ["endpoint 4"]


def test_labels_that_become_known_later_are_taken() -> None:
    made = Analysis("ebpf", 1, {1: "ghcr.io:443"})
    made.feed(EventBatch(trace(), "ebpf", 1, endpoints=((2, "registry.example:5000"),)))
    assert made.endpoints == LABELS


def test_the_callers_labels_are_not_changed() -> None:
    labels = {1: "ghcr.io:443"}
    Analysis("ebpf", 1, labels).feed(EventBatch(trace(), "ebpf", 1, endpoints=((2, "registry.example:5000"),)))
    assert labels == {1: "ghcr.io:443"}


def test_connections_from_outside_are_counted_apart() -> None:
    found = summed(*path("inbound", range(1, 6)), *path("refused", (7, 8)))
    assert (found.inbound, found.connections, found.open) == (1, 1, 0)


def test_cadences_are_those_of_the_owners() -> None:
    events = [event(S.CLOSE, S.SYN_SENT, START_NS + after * SECOND, skaddr=64 * after) for after in (0, 2, 6, 14, 30)]
    made = analysed(*events)
    assert {owner: found.rhythm for owner, found in made.cadences().items()} == {Owner(1, 3001, b"dockerd"): Rhythm.EXPONENTIAL}
    assert repr(made.summary().cadences) == repr(made.cadences())


def test_open_socket_addresses_are_those_of_open_connections() -> None:
    assert analysed(*path("peer", (1, 2)), *path("refused", (3, 4), skaddr=64)).open_skaddrs() == [SKADDR]


def test_asking_for_a_summary_changes_nothing() -> None:
    made = analysed(*path("peer", (1, 2)), *path("refused", (3, 4), skaddr=64))
    assert repr(made.summary()) == repr(made.summary())


# --- loss


def lossy(lost: int, *events: np.void) -> EventBatch:
    return EventBatch(trace(*events), "ebpf", 1, lost, 10, 20)


def test_losses_are_summed_and_kept_with_their_intervals() -> None:
    made = Analysis("ebpf", 1, {})
    made.feed(lossy(3, *path("refused", (21, 22))))
    made.feed(lossy(4))
    found = made.summary()
    assert (found.lost, found.losses) == (7, (Loss(3, 10, 20), Loss(4, 10, 20)))


def test_a_loss_precedes_the_events_of_its_batch() -> None:
    made = Analysis("ebpf", 1, {})
    late = path("peer", range(21, 26))[2:]
    assert rows_of(made.feed(lossy(3, *late)).ended)[0]["preexisting"] == -1


def test_a_loss_without_events_holds_for_the_next_batch() -> None:
    made = Analysis("ebpf", 1, {})
    made.feed(lossy(3))
    late = path("peer", range(21, 26))[2:]
    assert rows_of(made.feed(EventBatch(trace(*late), "ebpf", 1)).ended)[0]["preexisting"] == -1


@pytest.mark.parametrize(("source", "coverage"), [("ebpf", 1.0), ("polled", None), ("proc", None)])
def test_coverage_is_known_of_a_source_that_sees_all(source: str, coverage: float | None) -> None:
    assert analysed(*path("refused", (1, 2)), source=source).summary().coverage == coverage


def test_after_a_loss_coverage_is_not_known() -> None:
    made = Analysis("ebpf", 1, {})
    made.feed(lossy(1))
    assert made.summary().coverage is None


# --- against the naive reference, and however cut


@pytest.mark.parametrize("holes", [0.0, 0.1])
@pytest.mark.parametrize("seed", [61, 62])
def test_a_summary_agrees_with_naive(seed: int, holes: float) -> None:
    events = trace_of_seed(seed, 300, holes)
    made = Analysis("ebpf", 1, {})
    made.feed(EventBatch(events, "ebpf", 1))
    found, expected = made.summary(), naive.connections(as_dicts(events))
    assert (found.connections, found.open) == (len(expected.ended) + len(expected.open), len(expected.open))
    assert found.inbound == expected.inbound
    for each in found.endpoints:
        ended, still = (
            [row for row in rows if row["endpoint_id"] == each.endpoint_id] for rows in (expected.ended, expected.open)
        )
        reasons = [row["close_reason"] for row in ended]
        assert each.closes == {reason: reasons.count(reason) for reason in reasons}
        assert each.peak_open == expected.peak_open.get(each.endpoint_id, 0)
        for name in ("bytes_received", "bytes_acked", "retransmits"):
            known = [row[name] for row in ended + still if row[name] >= 0]
            assert getattr(each, name) == (sum(known) if known else -1)


@settings(max_examples=50, deadline=None)
@given(traces(holes=True), st.integers(0, 99))
def test_small_traces_give_the_same_however_cut(events: Events, seed: int) -> None:
    assert_same_however_cut(whole, events, seed=seed)


@settings(max_examples=50, deadline=None)
@given(traces(holes=True), st.integers(0, 99), st.data())
def test_lossy_traces_give_the_same_however_cut(events: Events, seed: int, data: st.DataObject) -> None:
    losses = data.draw(st.dictionaries(st.integers(0, len(events)), st.integers(1, 9), max_size=3))
    assert_same_however_cut(whole, events, losses, seed)


@pytest.mark.parametrize("holes", [0.0, 0.2])
@pytest.mark.parametrize("seed", [63, 64])
def test_long_traces_give_the_same_however_cut(seed: int, holes: float) -> None:
    assert_same_however_cut(whole, trace_of_seed(seed, 120, holes), {0: 1, 150: 40}, seed)


@pytest.mark.parametrize("seed", [65, 66])
def test_garbage_gives_the_same_however_cut(seed: int) -> None:
    assert_same_however_cut(whole, garbage_of_seed(seed, 120), seed=seed)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_a_summary_does_not_depend_on_the_chunks_of_a_batch(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    batches = [EventBatch(trace_of_seed(67, 100), "ebpf", 1)]
    expected = whole(batches)
    monkeypatch.setattr(module, "CHUNK_EVENTS", chunk)
    assert whole(batches) == expected


@pytest.mark.parametrize("seed", [3, 4])
def test_churn_of_the_summary_is_that_of_the_rows(seed: int) -> None:
    """Rates, mean number open and turnover over the whole trace agree with the exact churn of its connections."""
    events = trace_of_seed(seed)
    made = Analysis("ebpf", 1, LABELS)
    rows = np.concatenate([made.feed(EventBatch(events, "ebpf", 1)).ended, made.open()])
    for each in made.summary().endpoints:
        own = rows[rows["endpoint_id"] == each.endpoint_id]
        own["opened_ns"] = own["first_seen_ns"]  # the summary counts a connection from when it was first seen
        first_ns, last_ns = int(events["ts_ns"].min()), int(events["ts_ns"].max())
        (window,) = churn(own, np.array([first_ns, last_ns + 1], np.int64))
        span_s = (last_ns - first_ns) / 1e9
        assert each.mean_open == pytest.approx(window["mean_open"], rel=1e-6)
        assert each.closes_per_s is not None
        assert list(each.closes_per_s.values()) == pytest.approx((window["closes"] / span_s).tolist())
        assert each.turnover == pytest.approx(window["turnover"], rel=1e-6)
        assert each.opens_per_s == pytest.approx(each.opens / span_s)


def test_a_trace_of_one_moment_has_no_rates() -> None:
    one = of_endpoint(summed(*path("peer", (5,))))
    assert (one.opens_per_s, one.closes_per_s, one.mean_open, one.turnover) == (None, None, None, None)
