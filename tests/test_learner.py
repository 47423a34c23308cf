"""The learner: which names become candidates, which candidates endpoints, and whose connections are let through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.traces import SECOND, S, event, trace, v4
from tracer import learner
from tracer.events import ELSEWHERE, EventFlag, Events
from tracer.learner import CANDIDATE_NS, CLIENT_NS, FIRST_CANDIDATE_ID, RECENT_NS, RELABEL_NS, Learner
from tracer.names.records import Answer
from tracer.roles import Role
from tracer.rows import blank_connections

API, TOKENS, LEARNT = 1, 2, 7
ROLES = {API: Role.API, TOKENS: Role.AUTH}
LABELS = {API: "registry.example:443"}
NAME, ADDRESS = "blobs.example", "203.0.113.9"
START_NS = 1000 * SECOND
CLIENT = {"pid": 812, "comm": b"dockerd", "cgroup_id": 3001}
OTHER = {"pid": 999, "comm": b"firefox", "cgroup_id": 5}


def opening(at_ns: int, endpoint_id: int, **fields: Any) -> np.void:
    return event(S.CLOSE, S.SYN_SENT, at_ns, endpoint_id=endpoint_id, **(CLIENT | fields))


def going_on(at_ns: int, endpoint_id: int, new: S = S.ESTABLISHED, old: S = S.SYN_SENT, **fields: Any) -> np.void:
    return event(old, new, at_ns, endpoint_id=endpoint_id, **fields)


def hear(made: Learner, at_ns: int, *names: str, listed: frozenset[str] = frozenset()) -> bool:
    return made.overheard([Answer(name, (ADDRESS,), 30) for name in names], listed.__contains__, at_ns)


def talking(at_ns: int = START_NS, **fields: Any) -> Learner:
    """A learner that has seen an API being talked to."""
    made = Learner()
    made.note_openings(trace(opening(at_ns, API, **fields)), ROLES)
    return made


def promote(made: Learner, events: Events) -> list[str]:
    found = made.promoted(events, LABELS)
    for each in found:
        made.note_learnt(each, LEARNT, START_NS)
    return [each.endpoint.label for each in found]


def candidate(made: Learner) -> int:
    (number,) = made.watch()
    return number


def test_a_name_that_is_answered_while_an_api_is_talked_to_is_watched_with_any_port() -> None:
    made = talking()
    assert hear(made, START_NS + SECOND, NAME)
    ((number, (member,)),) = made.watch().items()
    assert number >= FIRST_CANDIDATE_ID
    assert (str(member.network), member.port) == (f"{ADDRESS}/32", 0)


def test_nothing_is_watched_where_nobody_talks_to_an_api() -> None:
    made = Learner()
    assert not hear(made, START_NS, NAME)
    assert made.watch() == {}


def nowhere(address: str, port: int) -> None:
    """No endpoint has it."""


def test_a_connection_to_elsewhere_is_that_of_the_candidate_that_has_the_address() -> None:
    made = talking()
    hear(made, START_NS + SECOND, NAME)
    events = made.placed(trace(opening(START_NS + 2 * SECOND, ELSEWHERE, daddr=v4(ADDRESS))), nowhere)
    assert events["endpoint_id"].tolist() == [candidate(made)]
    assert promote(made, events) == [f"{NAME}:443"]


def test_of_two_names_with_one_address_the_one_that_was_answered_last_is_meant() -> None:
    made = talking()
    hear(made, START_NS + 1, "before.example")
    hear(made, START_NS + 2, NAME)
    events = made.placed(trace(opening(START_NS + 2 * SECOND, ELSEWHERE, daddr=v4(ADDRESS))), nowhere)
    assert promote(made, events) == [f"{NAME}:443"]


def test_a_connection_to_elsewhere_is_that_of_the_endpoint_that_has_got_the_address_by_now() -> None:
    made = talking()
    events = trace(
        opening(START_NS, ELSEWHERE, daddr=v4(ADDRESS), dport=5000), opening(START_NS, ELSEWHERE, daddr=v4(ADDRESS), dport=1)
    )
    placed = made.placed(events, lambda address, port: API if (address, port) == (ADDRESS, 5000) else None)
    assert placed["endpoint_id"].tolist() == [API, ELSEWHERE]
    assert events["endpoint_id"].tolist() == [ELSEWHERE, ELSEWHERE]


def test_a_connection_to_elsewhere_without_a_name_is_dropped() -> None:
    made = talking()
    events = made.placed(trace(opening(START_NS, ELSEWHERE, daddr=v4(ADDRESS))), nowhere)
    assert made.promoted(events, LABELS) == []
    assert made.let_through(events).tolist() == [False]


def test_who_connects_to_elsewhere_is_no_client_by_that() -> None:
    made = Learner()
    made.note_openings(trace(opening(START_NS, ELSEWHERE)), ROLES)
    assert not made.listens(START_NS)


def test_a_token_server_is_no_api() -> None:
    made = Learner()
    made.note_openings(trace(opening(START_NS, TOKENS)), ROLES)
    assert not hear(made, START_NS, NAME)


def test_a_name_that_is_listed_is_no_candidate() -> None:
    assert not hear(talking(), START_NS, NAME, listed=frozenset([NAME]))


@pytest.mark.parametrize(("later_ns", "watched"), [(RECENT_NS, True), (RECENT_NS + 1, False)])
def test_an_answer_of_the_last_seconds_counts(later_ns: int, watched: bool) -> None:
    made = Learner()
    hear(made, START_NS, NAME)
    made.note_openings(trace(opening(START_NS, API)), ROLES)
    assert hear(made, START_NS + later_ns) is watched


@pytest.mark.parametrize(("later_ns", "listens"), [(CLIENT_NS, True), (CLIENT_NS + 1, False)])
def test_a_client_is_one_for_a_while(later_ns: int, listens: bool) -> None:
    assert talking().listens(START_NS + later_ns) is listens


def test_a_client_is_one_as_long_as_its_connection_is_open() -> None:
    made = Learner()
    rows = blank_connections(1)
    rows["endpoint_id"], rows["pid"], rows["comm"], rows["cgroup_id"] = API, 812, b"dockerd", 3001
    made.note_open(rows, ROLES)
    hear(made, START_NS, NAME)
    (found,) = made.promoted(trace(opening(START_NS + 1, candidate(made))), LABELS)
    assert found.why == "learnt: dockerd connected to it while it had one open to registry.example:443"
    made.note_open(blank_connections(0), ROLES)
    assert not made.listens(START_NS)


def test_a_candidate_nobody_connects_to_is_let_go() -> None:
    made = talking()
    hear(made, START_NS, NAME)
    assert not made.expire(START_NS + CANDIDATE_NS - 1)
    assert made.expire(START_NS + CANDIDATE_NS)
    assert made.watch() == {}


def test_a_client_that_connects_to_a_candidate_makes_it_an_endpoint() -> None:
    made = talking()
    hear(made, START_NS + SECOND, NAME)
    (found,) = made.promoted(trace(opening(START_NS + 2 * SECOND, candidate(made), dport=8443)), LABELS)
    assert (found.endpoint.label, found.endpoint.host) == (f"{NAME}:8443", NAME)
    assert found.why == "learnt: dockerd connected to it 2.0 s after it opened one to registry.example:443"
    assert made.addresses_of(found) == (ADDRESS,)
    made.note_learnt(found, LEARNT, START_NS)
    assert made.watch() == {}


def test_another_that_connects_to_a_candidate_makes_nothing_of_it() -> None:
    made = talking()
    hear(made, START_NS, NAME)
    events = trace(opening(START_NS + 1, candidate(made), **OTHER))
    assert promote(made, events) == []
    assert made.let_through(events).tolist() == [False]


@pytest.mark.parametrize(("comm", "made_one"), [(b"skopeo", True), (b"firefox", False)])
def test_where_nobody_saw_who_talked_to_the_api_a_puller_counts(comm: bytes, made_one: bool) -> None:
    made = talking(without=EventFlag.OWNER | EventFlag.HAS_TASK)
    hear(made, START_NS, NAME)
    events = trace(opening(START_NS + SECOND, candidate(made), comm=comm))
    assert bool(promote(made, events)) is made_one


def learnt() -> Learner:
    made = talking()
    hear(made, START_NS, NAME)
    promote(made, trace(opening(START_NS + 1, candidate(made))))
    return made


def test_of_a_learnt_endpoint_only_connections_of_clients_are_let_through_to_their_end() -> None:
    made = learnt()
    own, other = {"skaddr": 0x1000}, {"skaddr": 0x2000}
    events = trace(
        opening(START_NS + 2, LEARNT, **own),
        opening(START_NS + 3, LEARNT, **(OTHER | other)),
        going_on(START_NS + 4, LEARNT, **other),
        going_on(START_NS + 5, LEARNT, **own),
        going_on(START_NS + 6, LEARNT, S.CLOSE, S.LAST_ACK, **own),
        going_on(START_NS + 7, LEARNT, **own),
        opening(START_NS + 8, API, **(OTHER | other)),
    )
    assert made.let_through(events).tolist() == [True, False, False, True, True, False, True]


def test_what_is_let_through_does_not_depend_on_cuts() -> None:
    events = trace(
        *(opening(START_NS + at, LEARNT, skaddr=0x1000 * at, **(CLIENT if at % 3 else OTHER)) for at in range(1, 40)),
        *(going_on(START_NS + 50 + at, LEARNT, skaddr=0x1000 * at, sport=40_000 + at) for at in range(1, 40)),
    )
    whole = learnt().let_through(events).tolist()
    made = learnt()
    assert [made.let_through(events[at : at + 1]).item() for at in range(len(events))] == whole
    assert whole.count(True) == 2 * 26


def test_one_that_was_found_open_is_let_through_under_its_own_address_too() -> None:
    made = learnt()
    found = going_on(START_NS + 2, LEARNT, S.ESTABLISHED, S.ESTABLISHED, skaddr=5, daddr=v4(ADDRESS), **CLIENT)
    found["flags"] |= EventFlag.ADOPTED | EventFlag.OWNER
    seen = going_on(START_NS + 3, LEARNT, S.CLOSE_WAIT, S.ESTABLISHED, skaddr=0x9000, daddr=v4(ADDRESS))
    another = going_on(START_NS + 3, LEARNT, S.CLOSE_WAIT, S.ESTABLISHED, skaddr=0xA000, sport=9, daddr=v4(ADDRESS))
    assert made.let_through(trace(found, seen, another)).tolist() == [True, True, False]


def test_events_that_were_on_their_way_when_a_candidate_became_an_endpoint_are_of_it() -> None:
    made = talking()
    hear(made, START_NS, NAME)
    number = candidate(made)
    events = trace(opening(START_NS + 1, number), going_on(START_NS + 2, number), going_on(START_NS + 2, number, dport=80))
    promote(made, events)
    assert made.relabelled(events, START_NS + RELABEL_NS - 1)["endpoint_id"].tolist() == [LEARNT, LEARNT, number]
    assert made.relabelled(events, START_NS + RELABEL_NS)["endpoint_id"].tolist() == [number] * 3


@pytest.mark.parametrize("known", [NAME, ADDRESS])
def test_what_is_watched_already_is_no_candidate(known: str) -> None:
    assert not hear(talking(), START_NS, NAME, listed=frozenset([known]))


@pytest.mark.parametrize("name", ["10.0.0.5", "10.20.0.0/16", "::1", "a b", "-x.example", "."])
def test_what_is_no_name_is_no_candidate(name: str) -> None:
    assert not hear(talking(), START_NS, name)


def test_an_opening_before_that_to_the_api_is_none_of_a_client() -> None:
    made = talking(START_NS + SECOND)
    hear(made, START_NS + SECOND, NAME)
    assert promote(made, trace(opening(START_NS, candidate(made)))) == []


def test_there_are_few_addresses_of_candidates_and_the_latest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "CANDIDATE_ADDRESSES_MAX", 6)
    made = talking()
    for at in range(5):
        addresses = tuple(f"203.0.{at}.{number}" for number in range(3))
        made.overheard([Answer(f"n{at}.example", addresses, 30)], frozenset[str]().__contains__, START_NS + at)
    assert [members[0].host for members in made.watch().values()] == ["n3.example", "n4.example"]


def test_no_more_is_learnt_than_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "LEARNT_MAX", 2)
    made = talking()
    hear(made, START_NS, "a.example", "b.example", "c.example")
    found = made.promoted(trace(*(opening(START_NS + 1, number) for number in made.watch())), LABELS)
    assert len(found) == 2


def test_it_is_full_when_so_many_are_learnt_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "LEARNT_MAX", 1)
    made = talking()
    hear(made, START_NS, NAME)
    assert not made.is_full
    promote(made, trace(opening(START_NS + 1, candidate(made))))
    assert made.is_full


def test_one_that_was_let_through_goes_on_with_a_source_that_takes_over() -> None:
    made = learnt()
    before = trace(
        opening(START_NS + 2, LEARNT, skaddr=0x1000, daddr=v4(ADDRESS)),
        going_on(START_NS + 3, LEARNT, skaddr=0x1000, daddr=v4(ADDRESS)),
    )
    assert made.let_through(before).tolist() == [True, True]
    late_ns = START_NS + CLIENT_NS + 10 * SECOND
    found = going_on(late_ns, LEARNT, S.ESTABLISHED, S.ESTABLISHED, skaddr=5, daddr=v4(ADDRESS), pid=1, comm=b"")
    found["flags"] |= EventFlag.ADOPTED
    end = going_on(late_ns + 1, LEARNT, S.CLOSE, S.LAST_ACK, skaddr=5, daddr=v4(ADDRESS))
    another = found.copy()
    another["sport"], another["skaddr"] = 9, 6
    assert made.let_through(trace(found, another, end, found)).tolist() == [True, False, True, False]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "CANDIDATES_MAX", 5)
    monkeypatch.setattr(learner, "CLIENTS_MAX", 5)
    made = Learner()
    for at in range(20):
        made.note_openings(trace(opening(START_NS + at, API, comm=b"c%d" % at)), ROLES)
        hear(made, START_NS + at, f"n{at}.example")
    assert len(made.watch()) == 5
    assert made.listens(START_NS + 19 + CLIENT_NS)


def test_of_ten_thousand_events_of_others_few_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    made = learnt()
    looked: list[int] = []
    monkeypatch.setattr(made, "_is_of_a_client", lambda event: bool(looked.append(1)))
    many = np.repeat(trace(going_on(START_NS + 2, LEARNT, skaddr=0x7000, sport=50_000)), 10_000)
    assert not made.let_through(many).any()
    assert looked == []


def test_of_ten_thousand_openings_each_owner_counts_with_its_last() -> None:
    made = Learner()
    many = np.repeat(trace(opening(START_NS, API), opening(START_NS, API, comm=b"ctr")), 500)
    many["ts_ns"] += np.arange(1000, dtype=np.uint64)
    made.note_openings(many, ROLES)
    hear(made, START_NS, NAME)
    late = trace(opening(START_NS + 499 + CLIENT_NS, candidate(made)))
    assert promote(made, late) == [f"{NAME}:443"]


@pytest.mark.parametrize("cuts", [[[0, 1, 2]], [[0], [1], [2]], [[0, 1], [2]], [[0], [1, 2]]], ids=str)
def test_who_opens_another_one_to_an_api_afterwards_is_a_client_all_the_same(cuts: list[list[int]]) -> None:
    """All of it may come in one read."""
    made = learnt()
    late_ns = START_NS + CLIENT_NS + 10 * SECOND
    events = [
        opening(late_ns, API, skaddr=0x10),
        opening(late_ns + SECOND // 100, LEARNT, skaddr=0x20, daddr=v4(ADDRESS)),
        opening(late_ns + SECOND // 50, API, skaddr=0x30),
    ]
    wanted = []
    for cut in cuts:
        batch = trace(*(events[index] for index in cut))
        made.note_openings(batch, ROLES)
        wanted += made.let_through(batch).tolist()
    assert wanted == [True, True, True]


def test_when_it_is_full_nothing_more_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "LEARNT_MAX", 1)
    made = talking()
    hear(made, START_NS, "a.example", "b.example")
    openings = trace(*(opening(START_NS + 1, number) for number in made.watch()))
    assert [len(promote(made, openings)) for _ in range(2)] == [1, 0]


def hanging(skaddr: int) -> np.void:
    """A socket that a snapshot shows in SYN_SENT to the candidate."""
    found = going_on(START_NS + 5 * SECOND, LEARNT, S.SYN_SENT, S.SYN_SENT, skaddr=skaddr, daddr=v4(ADDRESS), **CLIENT)
    found["flags"] |= EventFlag.ADOPTED
    return found


def attempting() -> Learner:
    """One that has placed an attempt of a client to elsewhere."""
    made = talking()
    hear(made, START_NS, NAME)
    made.placed(trace(opening(START_NS + 1, ELSEWHERE, daddr=v4(ADDRESS), skaddr=0x1000)), nowhere)
    return made


def test_an_attempt_that_was_followed_is_not_taken_for_another_one_when_it_is_found() -> None:
    """Others to the same place are: they were never told."""
    assert attempting().found_again(trace(hanging(5), hanging(6), hanging(7))).tolist() == [True, False, False]


def test_an_attempt_that_was_answered_meanwhile_hides_nothing() -> None:
    made = attempting()
    answered = going_on(START_NS + 2, LEARNT, skaddr=0x1000, daddr=v4(ADDRESS))
    assert made.found_again(trace(answered, hanging(5))).tolist() == [False, False]


def test_an_attempt_that_nobody_could_place_hides_nothing() -> None:
    made = talking()
    made.placed(trace(opening(START_NS + 1, ELSEWHERE, daddr=v4(ADDRESS), skaddr=0x1000)), nowhere)
    assert made.found_again(trace(hanging(5))).tolist() == [False]
