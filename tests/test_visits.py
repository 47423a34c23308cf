"""Visits: bursts of connections of one client, and what became of them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stories import OTHER, REGISTRY, Story, at, joined, shifted_by, trying
from tests.traces import MS, SECOND, SKADDR, START_NS, S, bounds, event, trace, traces
from tracer.cadence import Owner
from tracer.connections import ConnectionTracker
from tracer.events import EventFlag, Events
from tracer.lifecycle import CloseReason
from tracer.visits import CLIENTS_MAX, EXCHANGES_KEPT, VISIT_GAP_NS, VISITS_KEPT, Client, VisitTracker

GAP_S = VISIT_GAP_NS / SECOND
DOCKERD = Owner(REGISTRY, 3001, b"dockerd")


def tracked(events: Events, edges: list[int] | None = None) -> VisitTracker:
    """Fed in pieces, with the connections that ended with each."""
    tracker, visits = ConnectionTracker(), VisitTracker()
    edges = [0, len(events)] if edges is None else edges
    for start, end in itertools.pairwise(edges):
        piece = events[start:end]
        visits.add(piece, tracker.feed(piece).ended)
    return visits


def client_of(events: Events, owner: Owner = DOCKERD) -> Client:
    return tracked(events).clients[owner]


def opening_at(*times_s: float, **options: Any) -> Events:
    story = Story()
    for time_s in times_s:
        story.connection(time_s, **options)
    return story.events()


def shown(visits: VisitTracker) -> dict[Owner, list[dict[str, Any]]]:
    """Everything that is known, by client."""
    return {
        owner: [{name: getattr(visit, name) for name in visit.__slots__} for visit in client.visits]
        for owner, client in visits.clients.items()
    }


# --- which connections are a visit


def test_connections_opened_close_by_are_one_visit() -> None:
    (visit,) = client_of(opening_at(0, 0.1, 0.5)).visits
    assert (visit.opens, visit.start_ns, visit.last_open_ns) == (3, at(0), at(0.5))


def test_a_visit_goes_on_as_long_as_pauses_are_short() -> None:
    (visit,) = client_of(opening_at(*(0.4 * number for number in range(20)))).visits
    assert visit.opens == 20


@pytest.mark.parametrize(("pause_ns", "visits"), [(VISIT_GAP_NS, 1), (VISIT_GAP_NS + 1, 2)])
def test_a_pause_longer_than_the_gap_begins_another_visit(pause_ns: int, visits: int) -> None:
    events = trace(*(event(S.CLOSE, S.SYN_SENT, START_NS + n * pause_ns, skaddr=SKADDR + 64 * n) for n in range(2)))
    assert len(client_of(events).visits) == visits


def test_a_client_is_a_name_in_a_cgroup_at_an_endpoint() -> None:
    events = joined(
        opening_at(0),
        opening_at(0, comm=b"podman"),
        opening_at(0, cgroup_id=9),
        opening_at(0, endpoint=OTHER),
        opening_at(0, pid=7),
    )
    assert set(tracked(events).clients) == {
        DOCKERD, Owner(REGISTRY, 3001, b"podman"), Owner(REGISTRY, 9, b"dockerd"), Owner(OTHER, 3001, b"dockerd"),
    }  # fmt: skip


def test_a_visit_knows_whether_it_is_of_one_process() -> None:
    assert client_of(opening_at(0, 0.1)).visits[0].one_process
    mixed = joined(opening_at(0), opening_at(0.1, pid=5))
    assert not client_of(mixed).visits[0].one_process


def test_processes_of_a_program_that_is_run_for_one_pull_are_told_apart() -> None:
    events = joined(opening_at(0, 0.2, comm=b"skopeo", pid=1), opening_at(0.1, 0.3, comm=b"skopeo", pid=2))
    visits = client_of(events, Owner(REGISTRY, 3001, b"skopeo")).visits
    assert sorted((visit.pid, visit.opens) for visit in visits) == [(1, 2), (2, 2)]


def test_an_owner_that_is_not_known_is_a_client_too() -> None:
    events = opening_at(0, without=EventFlag.HAS_TASK | EventFlag.HAS_CGROUP | EventFlag.OWNER)
    assert list(tracked(events).clients) == [Owner(REGISTRY, -1, b"")]


@pytest.mark.parametrize("blind", [EventFlag.HAS_TASK, EventFlag.OWNER, EventFlag.HAS_CGROUP])
def test_an_owner_known_in_part_has_its_connections_ended(blind: EventFlag) -> None:
    """Openings and ends are told to the same client, whatever of it is known."""
    (client,) = tracked(opening_at(0, without=blind)).clients.values()
    assert [visit.over for visit in client.visits] == [True]


def test_a_connection_whose_opening_was_not_seen_belongs_to_no_visit() -> None:
    assert not tracked(opening_at(0)[1:]).clients


def test_only_the_latest_visits_are_kept() -> None:
    client = client_of(opening_at(*range(VISITS_KEPT + 10)))
    assert len(client.visits) == VISITS_KEPT
    assert client.visits[0].start_ns == at(10)
    assert client.opens == VISITS_KEPT + 10


def test_ends_of_visits_that_are_forgotten_count_for_none() -> None:
    story = Story()
    story.connection(0, life_s=1000, received=777, acked=1)
    events = joined(story.events(), opening_at(*range(1, VISITS_KEPT + 10)))
    assert all(visit.ended == visit.opens == 1 for visit in client_of(events).visits)


# --- what became of them


def test_ends_are_told_to_the_visit_in_which_they_were_opened() -> None:
    story = Story()
    story.connection(0, life_s=10, received=5, acked=1)
    story.connection(2, received=7, acked=1)
    first, second = client_of(story.events()).visits
    assert (first.exchanges, second.exchanges) == ([(1, 5)], [(1, 7)])
    assert (first.last_end_ns >= at(10), second.last_end_ns < at(3)) == (True, True)


def test_a_visit_is_over_when_all_its_connections_ended() -> None:
    story = Story()
    story.connection(0)
    story.connection(0.1, keep=2)
    (visit,) = client_of(story.events()).visits
    assert (visit.opens, visit.ended, visit.over) == (2, 1, False)


def test_reasons_are_counted() -> None:
    events = joined(opening_at(0), opening_at(0.1, kind="refused"), opening_at(0.2, kind="peer"))
    (visit,) = client_of(events).visits
    assert (visit.reasons[CloseReason.LOCAL], visit.reasons[CloseReason.REFUSED], visit.reasons[CloseReason.PEER]) == (1, 1, 1)
    assert (visit.ended, visit.established) == (3, 2)


def test_bytes_are_of_established_connections_of_which_they_are_known() -> None:
    story = Story()
    story.connection(0, received=100, acked=10)
    story.connection(0.1, received=5000, acked=30)
    story.connection(0.2, "refused")
    story.connection(0.3, received=9, acked=9, without=EventFlag.HAS_RECEIVED | EventFlag.HAS_ACKED)
    (visit,) = client_of(story.events()).visits
    assert (visit.received_max, visit.sized) == (5000, 2)
    assert visit.exchanges == [(10, 100), (30, 5000)]


def test_bytes_of_a_visit_of_which_none_are_known_are_unknown() -> None:
    (visit,) = client_of(opening_at(0, without=EventFlag.HAS_RECEIVED)).visits
    assert (visit.received_max, visit.sized, visit.exchanges) == (-1, 0, [])


def test_a_connection_that_received_nothing_received_zero() -> None:
    (visit,) = client_of(opening_at(0, acked=10, kind="peer")).visits
    assert (visit.received_max, visit.exchanges) == (0, [(10, 0)])


def test_what_was_given_up_before_an_answer_is_no_exchange() -> None:
    (visit,) = client_of(opening_at(0, acked=10, kind="local")).visits
    assert (visit.received_max, visit.exchanges) == (0, [])


def test_the_first_exchanges_are_kept() -> None:
    story = Story()
    for number in range(EXCHANGES_KEPT + 5):
        story.connection(number / 100, received=100 + number, acked=10)
    (visit,) = client_of(story.events()).visits
    assert [received for _, received in visit.exchanges] == [100 + number for number in range(EXCHANGES_KEPT)]


def test_the_latest_end_is_known() -> None:
    story = Story()
    story.connection(0, life_s=3, closing_s=0)
    story.connection(0.1, life_s=1, closing_s=0)
    (visit,) = client_of(story.events()).visits
    assert visit.last_end_ns == at(3)


def test_a_client_knows_its_latest_process_and_its_largest_download() -> None:
    events = joined(opening_at(0, received=900, acked=1), opening_at(5, pid=13, received=4, acked=1))
    client = client_of(events)
    assert (client.pid, client.received_max) == (13, 900)


# --- the same however fed


@settings(max_examples=60, deadline=None)
@given(traces(holes=True), st.integers(0, 99))
def test_visits_are_the_same_however_fed(events: Events, seed: int) -> None:
    expected = shown(tracked(events))
    for edges in bounds(len(events), seed):
        assert shown(tracked(events, edges)) == expected


@pytest.mark.parametrize("comm", [b"dockerd", b"skopeo", b"executor", b"executor2", b"loop"])
def test_interleaved_processes_give_the_same_visits_however_fed(comm: bytes) -> None:
    """Two processes of one name, openings and ends mixed within a moment."""
    parts = [shifted_by(trying(0.3, 5, comm=comm, new_pid=False), number / 7) for number in range(3)]
    for number, part in enumerate(parts):
        part["pid"][part["flags"] & EventFlag.OWNER != 0] = 40 + number
    events = joined(*parts)
    expected = shown(tracked(events))
    for edges in bounds(len(events), 3):
        assert shown(tracked(events, edges)) == expected


@pytest.mark.parametrize("field", ["clients", "touched"])
def test_the_order_of_clients_does_not_depend_on_how_they_were_fed(field: str) -> None:
    """Who is asked first, and who is forgotten first, is a function of the trace."""
    events = joined(*(shifted_by(trying(1.0, 3, comm=b"loop%d" % number, new_pid=False), number / 100) for number in range(8)))
    expected = list(getattr(tracked(events), field))
    for edges in bounds(len(events), 3):
        assert list(getattr(tracked(events, edges), field)) == expected


# --- bounded


def test_clients_beyond_the_most_are_forgotten_when_an_interval_begins() -> None:
    events = np.repeat(trace(event(S.CLOSE, S.SYN_SENT, START_NS)), CLIENTS_MAX + 100)
    events["cgroup_id"] = np.arange(len(events))
    events["skaddr"] = SKADDR + 64 * np.arange(len(events)).astype(np.uint64)
    events["ts_ns"] += np.arange(len(events)).astype(np.uint64)
    visits = tracked(events)
    assert len(visits.clients) == CLIENTS_MAX + 100
    visits.settle()
    assert len(visits.clients) <= CLIENTS_MAX
    assert visits.forgotten == CLIENTS_MAX + 100 - len(visits.clients)
    assert Owner(1, CLIENTS_MAX + 99, b"dockerd") in visits.clients
    assert Owner(1, 0, b"dockerd") not in visits.clients
    assert visits.touched == {}


def test_who_is_forgotten_is_found_nowhere() -> None:
    events = np.repeat(trace(event(S.CLOSE, S.SYN_SENT, START_NS)), CLIENTS_MAX + 1)
    events["cgroup_id"] = np.arange(len(events))
    events["skaddr"] = SKADDR + 64 * np.arange(len(events)).astype(np.uint64)
    events["ts_ns"] += np.arange(len(events)).astype(np.uint64)
    visits = tracked(events)
    visits.settle()
    assert visits.of(0, b"dockerd") == []
    assert [client.owner.cgroup_id for client in visits.of(CLIENTS_MAX, b"dockerd")] == [CLIENTS_MAX]


def test_the_same_owner_is_found_at_all_its_endpoints() -> None:
    visits = tracked(joined(opening_at(0), opening_at(1, endpoint=OTHER), opening_at(2, comm=b"podman")))
    assert {client.owner.endpoint_id for client in visits.of(3001, b"dockerd")} == {REGISTRY, OTHER}


def test_the_gap_is_longer_than_what_one_pull_pauses() -> None:
    assert 100 * MS < VISIT_GAP_NS < SECOND
    assert GAP_S == 0.5
