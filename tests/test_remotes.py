"""Where in a network, or at which port, a finding is."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given

from tests.traces import SECOND, START_NS, S, assert_same_however_cut, event, path, trace, traces, v4
from tracer import remotes
from tracer.analysis import Analysis
from tracer.events import EventBatch, Events, is_opening
from tracer.remotes import Remotes
from tracer.rules.settings import RuleSettings
from tracer.text import address_text

WIDE = {1: "203.0.113.0/24:*", 2: "10.0.0.0/8:443"}


def opening(address: str, port: int = 443, at_ns: int = START_NS, endpoint_id: int = 1) -> Events:
    return trace(event(S.CLOSE, S.SYN_SENT, at_ns, daddr=v4(address), dport=port, endpoint_id=endpoint_id))


def remotes_of(endpoints: dict[int, str], *pieces: Events) -> Remotes:
    made = Remotes()
    made.learn(endpoints)
    for piece in pieces:
        made.add(piece)
    return made


def test_the_addresses_and_ports_most_connected_to_come_first() -> None:
    made = remotes_of(WIDE, *[opening("203.0.113.7", 5000)] * 3, opening("203.0.113.7", 80))
    assert made.most(1) == [
        {"address": "203.0.113.7", "port": 5000, "share": 0.75},
        {"address": "203.0.113.7", "port": 80, "share": 0.25},
    ]


def test_an_endpoint_that_is_one_address_and_port_has_none() -> None:
    assert remotes_of({1: "203.0.113.7:443"}, opening("203.0.113.7")).most(1) == []


def test_what_was_long_ago_is_forgotten_once_something_newer_is_known() -> None:
    later = [opening("203.0.113.2", at_ns=START_NS + minutes * 60 * SECOND) for minutes in (2, 3)]
    assert [each["address"] for each in remotes_of(WIDE, opening("203.0.113.1"), *later).most(1)] == ["203.0.113.2"]


def test_a_scan_of_a_network_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "_REMOTES_MAX", 2)
    made = remotes_of(WIDE, *(opening(f"203.0.113.{number}") for number in (9, 8, 7, 9)))
    assert [(each["address"], each["share"]) for each in made.most(1)] == [("203.0.113.9", 0.667), ("203.0.113.8", 0.333)]


@given(traces())
def test_shares_are_those_of_a_plain_count_of_the_last_two_minutes_with_openings(events: Events) -> None:
    made = remotes_of(WIDE, events)
    for endpoint_id in WIDE:
        own = events[is_opening(events) & (events["endpoint_id"] == endpoint_id)]
        minutes = sorted({int(at_ns) // (60 * SECOND) for at_ns in own["ts_ns"]})[-2:]
        plain = Counter(
            (address_text(each["daddr"].tobytes()), int(each["dport"]))
            for each in own
            if int(each["ts_ns"]) // (60 * SECOND) in minutes
        )
        found = {(each["address"], each["port"]): each["share"] for each in made.most(endpoint_id)}
        assert found == {key: round(plain[key] / plain.total(), 3) for key in found}
        assert len(found) == min(len(plain), remotes.SHOWN)


@given(traces())
def test_they_do_not_depend_on_how_events_were_cut(events: Events) -> None:
    def run(batches: list[EventBatch]) -> list[list[dict[str, object]]]:
        made = remotes_of(WIDE, *(batch.events for batch in batches))
        return [made.most(number) for number in WIDE]

    assert_same_however_cut(run, events)


def test_a_finding_says_where_it_was_when_it_was_made_however_events_were_cut() -> None:
    """What is connected to later is not where it was."""
    first = [START_NS + attempt * SECOND for attempt in range(8)]
    later = [first[-1] + SECOND + attempt * SECOND // 10 for attempt in range(40)]
    places = [*((at_ns, "203.0.113.7", 5000) for at_ns in first), *((at_ns, "203.0.113.9", 443) for at_ns in later)]
    events = [
        each for at_ns, address, port in places for each in path("refused", [at_ns, at_ns + 1000], daddr=v4(address), dport=port)
    ]

    def run(batches: list[EventBatch]) -> list[tuple[str, object]]:
        analysis = Analysis("ebpf", 1, WIDE, RuleSettings("evidence"))
        findings = [finding for batch in batches for finding in analysis.feed(batch).findings] + analysis.close()
        return [(finding.rule, finding.evidence["remotes"]) for finding in findings]

    assert_same_however_cut(run, trace(*events))
    told = run([EventBatch(trace(*events), "ebpf", 1)])
    assert told[0][1] == [{"address": "203.0.113.7", "port": 5000, "share": 1.0}]
    assert told[-1][1] != told[0][1]
