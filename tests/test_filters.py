"""Filters: an obvious loop over rows agrees with the masks, and what can't be meant is said."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.traces import MS, SECOND, START_NS, event, path, trace, traces
from tests.whole import CLOCK, HEADER, collected_events, collected_of, collected_replay
from tracer.clock import ClockOffset
from tracer.collected.belonging import NOBODY, connection_of
from tracer.collected.collector import Collected
from tracer.errors import UsageError
from tracer.events import EventBatch, EventFlag, Events, TcpState
from tracer.filters.connections import fitting_connections
from tracer.filters.filters import Filters, parse_filters
from tracer.filters.findings import connections_in, fitting_findings
from tracer.filters.spans import parse_duration, parse_moment
from tracer.filters.transitions import fitting_transitions
from tracer.findings import Finding, FindingState, Severity, Suspect
from tracer.lifecycle import REASON_NAMES, STATE_NAMES
from tracer.owners.owner import OwnerDetail
from tracer.text import address_text, comm_text

S = TcpState
STATES = [name for name in STATE_NAMES[1:] if name != "TIME_WAIT"]
DAY_S = 86_400


def fits_slower(row: np.void, text: str, made: Collected) -> bool:
    what, _, duration = text.rpartition("=")
    than_ns = parse_duration(duration)
    still_ns = made.summary.last_ns - int(row["last_ns"]) if REASON_NAMES[row["close_reason"]] == "open" else 0
    if what == "":
        spent = row["lifetime_ns"] if row["lifetime_ns"] >= 0 else row["last_ns"] - row["first_seen_ns"] + still_ns
    elif what == "connect" and row["connect_ns"] >= 0:
        spent = row["connect_ns"]
    else:
        state = S.SYN_SENT if what == "connect" else S[what]
        spent = row["state_ns"][state]
        if row["last_state"] == state and still_ns:
            spent = max(spent, 0) + still_ns
    return bool(spent > than_ns)


def fits_owner(row: np.void, pattern: str) -> bool:
    if row["pid"] < 0:
        return pattern == "?"
    comm, pid = comm_text(row["comm"]).lower(), str(row["pid"])
    name, bracket, rest = pattern.lower().partition("[")
    return (fnmatchcase(comm, name) and rest == f"{pid}]") if bracket else fnmatchcase(comm, name) or pid == pattern


def fits_endpoint(made: Collected, number: int, raddr: Any, pattern: str) -> bool:
    label = made.endpoints[number]
    host = label.rpartition(":")[0]
    return pattern in (label, host, host.strip("[]"), address_text(raddr.tobytes())) or (pattern == "registry*" and number == 1)


def connection_fits(made: Collected, index: int, asked: dict[str, Any], owners: list[int]) -> bool:
    """The same as the masks, for one row, with loops and comparisons."""
    row = made.rows[index]
    visited = set()
    for at, owner in enumerate(owners):
        if owner == index:
            old, new = int(made.events["old_state"][at]), int(made.events["new_state"][at])
            visited |= {new} | (set() if (old, new) == (S.CLOSE, S.SYN_SENT) else {old})
    visited.add(int(row["last_state"]))
    end_ns = int(row["closed_ns"] if row["closed_ns"] >= 0 else row["last_ns"])
    is_open = REASON_NAMES[row["close_reason"]] == "open"
    checks = {
        "endpoints": lambda wanted: any(fits_endpoint(made, int(row["endpoint_id"]), row["raddr"], each) for each in wanted),
        "owners": lambda wanted: any(fits_owner(row, each) for each in wanted),
        "ports": lambda wanted: any(each in (row["lport"], row["rport"]) for each in wanted),
        "states": lambda wanted: any(S[each] in visited for each in wanted),
        "close_reasons": lambda wanted: REASON_NAMES[row["close_reason"]] in wanted,
        "since": lambda at: is_open or end_ns >= made.summary.first_ns + float(at) * 1e9,
        "until": lambda at: row["first_seen_ns"] < made.summary.first_ns + float(at) * 1e9,
        "slower_than": lambda wanted: all(
            any(fits_slower(row, each, made) for each in wanted if each.rpartition("=")[0] == what)
            for what in {each.rpartition("=")[0] for each in wanted}
        ),
    }
    return all(check(asked[name]) for name, check in checks.items() if asked.get(name))


def some(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), max_size=2)


ASKED = st.fixed_dictionaries(
    {},
    optional={
        "endpoints": some(["registry-1.docker.io:443", "auth.docker.io", "registry*", "203.0.113.1", "2001:db8::5", "nowhere"]),
        "owners": some(["dockerd", "KUBE*", "812", "?", "*", "nobody", "*et", "dockerd[812]", "*[812]", "x[812]"]),
        "ports": st.lists(st.sampled_from([443, 5000, 20_000, 20_001, 1]), max_size=2),
        "states": some(STATES),
        "close_reasons": some(list(REASON_NAMES[1:])),
        "since": st.sampled_from(["+0", "+0.04", "+1", "+7.5", "+3600"]),
        "until": st.sampled_from(["+0", "+0.04", "+1", "+7.5", "+3600"]),
        "slower_than": some(
            ["1us", "100ms", "1s", "connect=30us", "ESTABLISHED=1ms", "ESTABLISHED=2s", "SYN_SENT=1s", "CLOSE_WAIT=0s"]
        ),
    },
)


@settings(max_examples=80, deadline=None)
@given(events=st.one_of(traces(), traces(holes=True)), asked=ASKED)
def test_the_connections_are_those_that_a_loop_finds(events: Events, asked: dict[str, Any]) -> None:
    made = collected_events(events)
    owners = connection_of(made)
    found = fitting_connections(made, parse_filters(**asked), owners)
    assert found.tolist() == [connection_fits(made, index, asked, owners.tolist()) for index in range(len(made.rows))]


@settings(max_examples=60, deadline=None)
@given(events=traces(), asked=ASKED)
def test_the_transitions_are_those_that_a_loop_finds(events: Events, asked: dict[str, Any]) -> None:
    made = collected_events(events)
    owners = connection_of(made).tolist()
    of_connection = {name: asked.get(name) for name in ("ports", "owners", "close_reasons", "slower_than")}
    wanted = []
    for one, owner in zip(made.events, owners, strict=True):
        fits = owner != NOBODY or not any(of_connection.values())
        fits &= not any(of_connection.values()) or (owner != NOBODY and connection_fits(made, owner, of_connection, owners))
        if asked.get("endpoints"):
            fits &= any(fits_endpoint(made, int(one["endpoint_id"]), one["daddr"], each) for each in asked["endpoints"])
        if asked.get("states"):
            fits &= STATE_NAMES[one["old_state"]] in asked["states"] or STATE_NAMES[one["new_state"]] in asked["states"]
        since_s = (int(one["ts_ns"]) - made.summary.first_ns) / 1e9
        fits &= float(asked.get("since", 0)) <= since_s < float(asked.get("until", 1e9))
        wanted.append(fits)
    assert fitting_transitions(made, parse_filters(**asked), connection_of(made)).tolist() == wanted


def test_no_filter_is_every_row() -> None:
    made = collected_replay("registry-pull")
    assert fitting_connections(made, Filters()).all()
    assert fitting_transitions(made, Filters(), connection_of(made)).all()


def test_a_state_that_a_polled_connection_passed_in_one_look_counts() -> None:
    events = trace(*path("peer", [START_NS] * 5))
    made = collected_of(EventBatch(events, "polled", 50 * MS, early_ns=np.full(5, 50 * MS, np.uint64)))
    assert (made.rows["state_ns"] < 0).all()
    assert fitting_connections(made, parse_filters(states=["CLOSE_WAIT"]), connection_of(made)).all()


def test_a_state_in_which_a_socket_was_found_counts() -> None:
    found = event(S.CLOSE_WAIT, S.CLOSE_WAIT, START_NS, also=EventFlag.ADOPTED)
    made = collected_of(EventBatch(trace(found), "ebpf", 1))
    assert fitting_connections(made, parse_filters(states=["close-wait"]), connection_of(made)).tolist() == [True]


class TestOwners:
    DETAIL = OwnerDetail(812, container="c0ffee" + "0" * 58, runtime="docker", pod="0f0f0f0f-1", unit="pull.service")

    def chosen(self, pattern: str, detail: OwnerDetail | None = DETAIL) -> bool:
        made = replace(collected_events(trace(*path("peer", [START_NS]))), details=(detail,))
        return bool(fitting_connections(made, parse_filters(owners=[pattern]))[0])

    @pytest.mark.parametrize(
        "pattern",
        [
            "c0ffee",
            "C0FFEE00",
            "c0ff",
            "c0*",
            "pull.service",
            "pull.*",
            "0f0f0f0f",
            "812",
            "dockerd",
            "dockerd[812]",
            "DOCK*[812]",
        ],
    )
    def test_a_name_fits(self, pattern: str) -> None:
        assert self.chosen(pattern)

    @pytest.mark.parametrize(
        "pattern",
        ["c0", "coffee", "pull", "81", "?", "docker", "", "[d]ockerd", "docker.", "dockerd[813]", "docker[812]", "?[812]"],
    )
    def test_another_name_does_not(self, pattern: str) -> None:
        assert not self.chosen(pattern)

    def test_without_details_the_process_still_has_its_name(self) -> None:
        assert (self.chosen("dockerd", None), self.chosen("c0ffee", None)) == (True, False)


class TestFindings:
    FINDING = Finding(
        "churn", 3, FindingState.CLOSED, Severity.WARNING, 1.0, 1, START_NS + SECOND, START_NS + SECOND, START_NS + 2 * SECOND,
        START_NS + 2 * SECOND, "what", {}, (), "do",
    )  # fmt: skip

    def lies_in(self, finding: Finding, **fields: Any) -> bool:
        times = [START_NS + SECOND + each for each in range(5)]
        return bool(connections_in(collected_events(trace(*path("peer", times, **fields))).rows, finding)[0])

    def test_a_connection_at_its_time_and_place_lies_in_it(self) -> None:
        assert self.lies_in(self.FINDING)

    @pytest.mark.parametrize("bounds", [(2, 3), (-3, -1)])
    def test_one_at_another_time_does_not(self, bounds: tuple[int, int]) -> None:
        started_ns, ended_ns = (START_NS + SECOND + bound * SECOND for bound in bounds)
        assert not self.lies_in(replace(self.FINDING, started_ns=started_ns, ended_ns=ended_ns))

    def test_one_that_is_open_has_no_end(self) -> None:
        assert self.lies_in(replace(self.FINDING, started_ns=START_NS, ended_ns=-1))

    def test_one_at_another_endpoint_does_not(self) -> None:
        assert not self.lies_in(self.FINDING, endpoint_id=2)

    @pytest.mark.parametrize(
        ("comm", "cgroup_id", "expected"),
        [(b"dockerd", 3001, True), (b"dockerd", -1, True), (b"dockerd", 7, False), (b"skopeo", 3001, False), (b"", -1, False)],
    )
    def test_it_has_to_be_a_suspects(self, comm: bytes, cgroup_id: int, expected: bool) -> None:
        finding = replace(self.FINDING, suspects=(Suspect(9, comm, cgroup_id, None, 1.0),))
        assert self.lies_in(finding) is expected

    def test_nobodys_connections_lie_in_a_finding_about_nobody(self) -> None:
        finding = replace(self.FINDING, suspects=(Suspect(-1, b"", -1, None, 1.0),))
        assert self.lies_in(finding, without=EventFlag.OWNER)

    def test_the_connections_of_a_storm_lie_in_its_finding(self) -> None:
        made = collected_replay("lab-loop-429")
        (rule,) = {finding.rule for finding in made.findings} & {"rate-limit"}
        by_rule = fitting_connections(made, parse_filters(findings=[rule]))
        numbers = [str(finding.episode) for finding in made.findings if finding.rule == rule]
        assert by_rule.any()
        assert (by_rule == fitting_connections(made, parse_filters(findings=numbers))).all()

    def test_a_finding_that_the_trace_does_not_have_is_said_with_those_that_it_has(self) -> None:
        with pytest.raises(UsageError, match="no finding 99 in this trace: expected one of 1 "):
            fitting_connections(collected_replay("lab-loop-429"), parse_filters(findings=["99"]))

    def test_a_rule_that_found_nothing_is_no_mistake(self) -> None:
        assert not fitting_connections(collected_replay("registry-pull"), parse_filters(findings=["slow-consumer"])).any()

    def test_findings_are_chosen_by_rule_place_time_and_suspect(self) -> None:
        made = collected_replay("lab-loop-429")
        assert fitting_findings(made, Filters()).all()
        for found in made.findings:
            who = comm_text(found.suspects[0].comm)
            asked = parse_filters(findings=[found.rule], owners=[who], endpoints=[made.endpoints[found.endpoint_id]])
            assert fitting_findings(made, asked)[made.findings.index(found)]
        assert not fitting_findings(made, parse_filters(owners=["nobody"])).any()
        assert not fitting_findings(made, parse_filters(owners=["?"])).any()
        assert not fitting_findings(made, parse_filters(until="+0")).any()

    @pytest.mark.parametrize("asked", [{"states": ["CLOSE"]}, {"close_reasons": ["peer"]}, {"slower_than": ["1s"]}])
    def test_what_no_finding_has_can_not_be_asked_of_one(self, asked: dict[str, Any]) -> None:
        with pytest.raises(UsageError, match="findings have no"):
            fitting_findings(collected_replay("lab-loop-429"), parse_filters(**asked))


class TestMistakes:
    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"states": ["ESTABLISHD"]}, "expected one of ESTABLISHED, SYN_SENT"),
            ({"states": ["TIME_WAIT"]}, "FIN_WAIT2"),
            ({"close_reasons": ["undecided"]}, "expected one of open, peer, local"),
            ({"close_reasons": [""]}, "expected one of open"),
            ({"findings": ["throttling"]}, "expected one of mirror-failure, rate-limit"),
            ({"slower_than": ["250"]}, "no duration"),
            ({"slower_than": ["-1s"]}, "no duration"),
            ({"slower_than": ["rtt=1s"]}, "'rtt' is no state"),
            ({"slower_than": ["1e9s"]}, "no duration"),
            ({"slower_than": ["9" * 30 + "h"]}, "no duration"),
            ({"slower_than": ["٣s"]}, "no duration"),
            ({"since": "yesterday"}, "no time"),
            ({"since": "25:00:00"}, "no time"),
            ({"since": "2026-02-30T00:00:00Z"}, "no time"),
            ({"since": "2026-02-20T00:00:00"}, "no time"),
            ({"until": "+"}, "no time"),
            ({"until": "+" + "9" * 40}, "no time"),
            ({"until": ""}, "no time"),
        ],
    )  # fmt: skip
    def test_a_value_that_can_not_be_meant_says_what_is_allowed(self, asked: dict[str, Any], said: str) -> None:
        with pytest.raises(UsageError, match=said):
            parse_filters(**asked)

    @given(text=st.text())
    def test_any_text_is_understood_or_refused(self, text: str) -> None:
        for asked in ({"since": text}, {"slower_than": [text]}, {"states": [text]}, {"findings": [text]}):
            try:
                parse_filters(**asked)
            except UsageError as error:
                assert "expected" in str(error) or "TIME_WAIT" in str(error)

    def test_wall_clock_times_need_a_trace_that_has_them(self) -> None:
        made = collected_events(trace(*path("peer", [START_NS])), replace(HEADER, clock=None))
        with pytest.raises(UsageError, match="no wall-clock times"):
            fitting_connections(made, parse_filters(since="12:00:00"))
        assert fitting_connections(made, parse_filters(since="+0")).all()


class TestMoments:
    @pytest.mark.parametrize(
        ("text", "duration_ns"),
        [("1ns", 1), ("20us", 20_000), ("20µs", 20_000), ("250ms", 250 * MS), ("1.5s", 1500 * MS), ("2m", 120 * SECOND),
         ("2min", 120 * SECOND), ("1h", 3600 * SECOND), ("0.1s", 100 * MS), ("0s", 0)],
    )  # fmt: skip
    def test_durations(self, text: str, duration_ns: int) -> None:
        assert parse_duration(text) == duration_ns

    @pytest.mark.parametrize(
        ("text", "boottime_ns"),
        [("+1.5", 101_500_000_000), ("+0:01.5", 101_500_000_000), ("+1:02:03", 3823_000_000_000), ("+250ms", 100_250_000_000),
         ("-1", 199_000_000_000), ("-1:00", 140_000_000_000), ("-20ms", 199_980_000_000)],
    )  # fmt: skip
    def test_distances_from_the_ends_of_a_trace(self, text: str, boottime_ns: int) -> None:
        assert parse_moment(text).boottime_ns(100 * SECOND, 200 * SECOND, None) == boottime_ns

    @given(seconds=st.integers(1, 4_000_000_000), ns=st.integers(0, SECOND - 1))
    def test_a_time_of_the_output_is_that_time(self, seconds: int, ns: int) -> None:
        text = f"{datetime.fromtimestamp(seconds, UTC).strftime('%Y-%m-%dT%H:%M:%S')}.{ns:09d}Z"
        assert parse_moment(text).boottime_ns(0, 0, ClockOffset(5, 0)) == seconds * SECOND + ns - 5

    def test_another_zone_is_another_time(self) -> None:
        here, there = (parse_moment(text) for text in ("2026-01-01T12:00:00Z", "2026-01-01T14:30:00+02:30"))
        assert here.ns == there.ns

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("23:59:58", DAY_S - 2),
            ("23:59", DAY_S - 60),
            ("00:00:05", DAY_S + 5),
            ("00:30", 1800),
            ("12:00:00.25", DAY_S / 2 + 0.25),
        ],
    )
    def test_a_time_of_day_is_of_the_first_day_or_the_one_the_trace_runs_into(self, text: str, seconds: float) -> None:
        first_ns, last_ns = (DAY_S - 30) * SECOND, (DAY_S + 30) * SECOND
        assert parse_moment(text).boottime_ns(first_ns, last_ns, ClockOffset(0, 0)) == seconds * SECOND

    def test_a_wall_clock_time_chooses_what_the_output_shows_at_it(self) -> None:
        made = collected_events(trace(*path("peer", [START_NS + each * SECOND for each in range(5)])))
        shown = datetime.fromtimestamp((START_NS + 2 * SECOND + CLOCK.offset_ns) // SECOND, UTC)
        for text in (shown.strftime("%H:%M:%S"), shown.strftime("%Y-%m-%dT%H:%M:%SZ")):
            assert fitting_transitions(made, parse_filters(since=text), connection_of(made)).tolist() == [False] * 2 + [True] * 3
