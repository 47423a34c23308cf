"""Perfetto traces read back: the same connections, counts, findings and losses, nested as its trace processor wants them."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from tests.test_exports_stays import assert_nested
from tests.timelines import Read, Slice, read
from tests.traces import (
    MS,
    NO_FLAGS,
    PATHS,
    SECOND,
    START_NS,
    Life,
    build,
    event,
    garbage_of_seed,
    path,
    trace,
    trace_of_seed,
    traces,
)
from tests.whole import CLOCK, HEADER, LABELS, collected_events, collected_of, collected_replay
from tracer.clock import ClockOffset
from tracer.collected.collector import Collected
from tracer.events import EventBatch, Events, TcpState
from tracer.exports import export
from tracer.exports.arguments import connection_arguments
from tracer.exports.stays import stays_of
from tracer.exports.timeline import timeline_of
from tracer.facts import EndpointFact
from tracer.lifecycle import REASON_NAMES, STATE_NAMES, CloseReason
from tracer.owners.owner import OwnerDetail
from tracer.roles import Role

BOOTTIME, REALTIME = 6, 1
HOSTILE = "\x1b[31m<b>=cmd|'\u202e\n\x00\ud800"
KINDS = ("event_categories", "event_names")


def exported(collected: Collected) -> Read:
    """What a reader makes of it."""
    stream = io.BytesIO()
    export(collected, "perfetto", "connections", stream)
    return read(stream.getvalue())


def by_number(found: Read) -> dict[int, Slice]:
    """The slice of each connection, by its number."""
    slices = found.of("connection")
    numbers = {each.arguments["connection"]: each for each in slices}
    assert len(numbers) == len(slices)
    return numbers


def check_connections(collected: Collected, found: Read) -> None:
    """Every connection is there once, with its numbers, and nothing else is."""
    slices = by_number(found)
    assert set(slices) == set(range(1, len(collected.rows) + 1))
    for number, row in enumerate(collected.rows, 1):
        made, arguments = slices[number], slices[number].arguments
        assert made.depth == 0
        assert made.start_ns == row["first_seen_ns"]
        assert arguments["close_reason"] == REASON_NAMES[row["close_reason"]]
        for name in ("lifetime_ns", "connect_ns", "bytes_received", "bytes_acked", "retransmits", "srtt_us", "pid", "lport"):
            assert arguments.get(name, -1) == row[name], name
        is_open = row["close_reason"] == CloseReason.OPEN
        assert arguments.get("still_open", False) == is_open
        if is_open:
            assert made.end_ns == timeline_of(collected).until_ns
        elif row["closed_ns"] >= 0:
            assert made.end_ns == max(row["closed_ns"], row["first_seen_ns"])
        else:
            assert made.end_ns == max(row["last_ns"], row["first_seen_ns"])
            assert "end: not seen" in arguments["unknown"]
        if row["lifetime_ns"] >= 0:
            assert made.end_ns - made.start_ns == row["lifetime_ns"]


def check_states(collected: Collected, found: Read) -> None:
    """The states in a connection are its stays, in their order and one level down."""
    stays = stays_of(collected, timeline_of(collected).until_ns)
    slices = by_number(found)
    assert_nested(stays)
    for index in range(len(collected.rows)):
        own = np.flatnonzero(stays.connection == index)
        names = [STATE_NAMES[state] for state in stays.state[own].tolist()]
        inside = slices[index + 1].inside
        assert [each.name for each in inside] == names
        assert [each.start_ns for each in inside] == stays.state_start_ns[own].tolist()
        assert [each.end_ns for each in inside] == stays.state_end_ns[own].tolist()
        assert {each.depth for each in inside} <= {1}
        assert not any(each.inside for each in inside)


def check_counts(collected: Collected, found: Read) -> None:
    """The counts are those of the slices, at every time at which one of these begins or ends."""
    for number in {*collected.endpoints, *collected.rows["endpoint_id"].tolist()}:
        label = collected.endpoints.get(number, f"endpoint {number}")
        role = collected.roles.get(number)
        group = found.group(label if role is None else f"{label} ({role.value})")
        lanes = found.within(group, "connections")
        own = [each for each in found.of("connection") if each.track in lanes]
        assert len(own) == (collected.rows["endpoint_id"] == number).sum()
        (opened,) = found.within(group, "open connections")
        times = [0, *(each.start_ns for each in own), *(each.end_ns for each in own)]
        steps = dict(found.counts[opened])
        since = found.times[0]
        for at in times[1:]:
            value = steps[max(step for step in steps if step <= at)]
            ended = [each for each in own if not each.arguments.get("still_open") and each.end_ns <= at]
            assert value == sum(each.start_ns <= at for each in own) - len(ended)
        (rate,) = found.within(group, "opened each second")
        seen = Counter(
            (int(ns) - since) // SECOND for ns in collected.rows["opened_ns"][collected.rows["endpoint_id"] == number] if ns >= 0
        )
        steps = dict(found.counts[rate])
        for second, count in seen.items():
            at = since + second * SECOND
            assert steps[max(step for step in steps if step <= at)] == count
        assert sum(count for second, count in seen.items()) >= max(steps.values())


def check(collected: Collected) -> Read:
    """Everything about a trace."""
    found = exported(collected)
    assert found.times == sorted(found.times)
    timeline = timeline_of(collected)
    assert all(timeline.since_ns <= at <= timeline.until_ns for at in found.times)
    check_connections(collected, found)
    check_states(collected, found)
    check_counts(collected, found)
    return found


@settings(max_examples=40)
@given(traces(holes=True))
def test_small_traces_read_back(events: Events) -> None:
    check(collected_events(events))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("holes", [0.0, 0.1])
def test_random_traces_read_back(seed: int, holes: float) -> None:
    collected = collected_events(trace_of_seed(seed, 80, holes))
    assert len(collected.rows) > 30
    check(collected)


@pytest.mark.parametrize("seed", range(4))
def test_transitions_that_no_tcp_makes_read_back(seed: int) -> None:
    check(collected_events(garbage_of_seed(seed, 150)))


@pytest.mark.parametrize(
    "name",
    [
        "lost-events",
        "missing-syn",
        "registry-pull",
        "lab-loop-refused",
        "lab-skopeo-stalled",
        "clock-steps",
        "lab-swarm-429",
        "syn-timeout",
    ],
)
def test_replays_read_back(name: str) -> None:
    collected = collected_replay(name)
    found = check(collected)
    assert [each.name for each in found.of("finding")] or not collected.findings


def test_lanes_are_reused() -> None:
    lives = [Life("peer", socket=number, gaps_ns=(MS,)) for number in range(2) for _ in range(20)]
    collected = collected_events(build(lives))
    found = check(collected)
    lanes = {each.track for each in found.of("connection")}
    assert len(collected.rows) == 40
    assert len(lanes) <= 2


def test_a_snapshot_of_clocks_ties_boottime_to_the_wall() -> None:
    found = exported(collected_events(trace(*path("peer", [START_NS] * 5))))
    assert found.clocks == {BOOTTIME: START_NS, REALTIME: START_NS + CLOCK.offset_ns}


def test_without_a_clock_there_is_no_snapshot() -> None:
    header = replace(HEADER, clock=None)
    assert exported(collected_events(trace(*path("peer", [START_NS] * 5)), header)).clocks == {}


def test_a_clock_before_1970_is_no_clock() -> None:
    header = replace(HEADER, clock=ClockOffset(-START_NS - 1, 5))
    assert exported(collected_events(trace(*path("peer", [START_NS] * 5)), header)).clocks == {}


def test_an_empty_trace_has_its_tracks() -> None:
    found = exported(collected_of(header=HEADER))
    assert {track.name for track in found.tracks.values() if not track.parent_uuid} == {
        "trace", "registry-1.docker.io:443 (api)", "auth.docker.io:443 (auth)", "[2001:db8::5]:5000",
    }  # fmt: skip
    assert [each.name for each in found.slices] == ["ebpf, 0 connections, no events lost"]


def test_what_holds_for_the_whole_trace_is_said() -> None:
    lost = EventBatch(trace(), "ebpf", 1, 7, START_NS + SECOND, START_NS + 2 * SECOND)
    events = EventBatch(trace(*path("peer", [START_NS] * 5)), "ebpf", 1)
    found = exported(collected_of(events, lost, truncated="it was cut off"))
    (whole,) = found.of("trace")
    assert whole.name == "ebpf, 1 connections, 7 events lost, truncated"
    told = {
        name: whole.arguments[name] for name in ("source", "resolution_ns", "lost", "coverage", "truncated", "host", "kernel")
    }
    assert told == {
        "source": "ebpf", "resolution_ns": "1", "lost": "7", "coverage": "unknown", "truncated": "it was cut off", "host": "host",
        "kernel": "6.1",
    }  # fmt: skip
    (loss,) = found.of("loss")
    assert (loss.name, loss.start_ns, loss.end_ns) == ("7 events lost", START_NS + SECOND, START_NS + 2 * SECOND)


def test_a_loss_before_the_first_event_begins_with_the_trace() -> None:
    lost = EventBatch(trace(), "ebpf", 1, 7, START_NS - SECOND, START_NS + SECOND)
    found = check(collected_of(lost, EventBatch(trace(*path("peer", [START_NS] * 5)), "ebpf", 1)))
    (loss,) = found.of("loss")
    assert (loss.start_ns, loss.end_ns) == (START_NS, START_NS + SECOND)


def test_losses_that_overlap_are_side_by_side() -> None:
    def lost(since: int, until: int) -> EventBatch:
        return EventBatch(trace(), "ebpf", 1, 1, START_NS + since, START_NS + until)

    found = exported(
        collected_of(EventBatch(trace(*path("peer", [START_NS] * 5)), "ebpf", 1), lost(0, 10), lost(5, 20), lost(12, 30))
    )
    assert [(each.start_ns - START_NS, each.end_ns - START_NS, each.depth) for each in found.of("loss")] == [
        (0, 10, 0), (5, 20, 0), (12, 30, 0),
    ]  # fmt: skip


def test_a_change_of_source_is_a_time_when_nobody_was_looking() -> None:
    first = EventBatch(trace(*path("peer", [START_NS] * 5)), "ebpf", 1)
    other = EventBatch(trace(), "polled", 50 * MS, 0, START_NS + SECOND, START_NS + 2 * SECOND, switched="it died")
    found = exported(collected_of(first, other))
    (loss,) = found.of("loss")
    assert (loss.name, loss.arguments["lost"]) == ("nobody was looking", "unknown")
    (whole,) = found.of("trace")
    assert whole.arguments["source"] == "ebpf, then polled"
    assert whole.arguments["resolution_ns"] == str(50 * MS)


def test_findings_have_their_times_and_what_they_rest_on() -> None:
    collected = collected_replay("lab-skopeo-429-kept")
    (finding,) = collected.findings
    (made,) = exported(collected).of("finding")
    assert made.name == "rate-limit, critical, 0.92"
    assert made.start_ns == finding.started_ns
    assert made.end_ns == timeline_of(collected).until_ns
    assert made.arguments["still_open"] is True
    assert made.arguments["summary"] == finding.summary
    assert made.arguments["advice"] == finding.advice
    assert made.arguments["evidence"] == {
        name: list(value) if isinstance(value, tuple) else value for name, value in finding.evidence.items()
    }
    assert made.arguments["suspects"][0]["comm"] == finding.suspects[0].comm.decode()


@pytest.mark.parametrize("nothing", [{}, [], {"a": {}}, [[], {}], {"a": [{"b": ()}]}])
def test_evidence_that_says_nothing_is_left_out(nothing: object) -> None:
    collected = collected_replay("clock-steps")
    (finding,) = collected.findings
    changed = replace(finding, evidence={"empty": nothing, "list": [nothing, 1], "zero": 0, "false": False, "unknown": None})
    (made,) = exported(replace(collected, findings=(changed,))).of("finding")
    assert made.arguments["evidence"] == {"list": [1], "zero": 0, "false": False, "unknown": "unknown"}


def test_numbers_that_no_annotation_holds_are_text() -> None:
    collected = collected_replay("clock-steps")
    (finding,) = collected.findings
    changed = replace(finding, evidence={"huge": 1 << 80, "negative": -5, "half": 0.5})
    (made,) = exported(replace(collected, findings=(changed,))).of("finding")
    assert made.arguments["evidence"] == {"huge": str(1 << 80), "negative": -5, "half": 0.5}


def test_a_finding_that_ended_ends() -> None:
    collected = collected_replay("clock-steps")
    (finding,) = collected.findings
    (made,) = exported(collected).of("finding")
    assert (made.start_ns, made.end_ns) == (finding.started_ns, finding.ended_ns)
    assert made.arguments["still_open"] is False


def test_a_failed_connection_says_so_in_its_name() -> None:
    found = exported(collected_events(trace(*path("refused", [START_NS, START_NS + MS]))))
    (made,) = found.of("connection")
    assert made.name == "dockerd: refused"
    assert made.arguments["sk_err"] == "ECONNREFUSED"


def test_polled_times_say_how_much_earlier_they_may_be() -> None:
    events = trace(*path("peer", [START_NS] * 5))
    early = np.full(5, 80 * MS, np.uint64)
    collected = collected_of(EventBatch(events, "polled", 50 * MS, early_ns=early), header=replace(HEADER, source="polled"))
    (made,) = check(collected).of("connection")
    assert made.arguments["opened_early_ns"] == made.arguments["closed_early_ns"] == 80 * MS
    assert made.start_ns == START_NS  # and not before the trace
    assert "lifetime: opened and closed within one look" in made.arguments["unknown"]


def test_exact_times_say_nothing_of_bounds() -> None:
    (made,) = exported(collected_events(trace(*path("peer", [START_NS] * 5)))).of("connection")
    assert not [name for name in made.arguments if name.endswith("early_ns")]


def hostile() -> Collected:
    """A trace in which everything that somebody may have chosen is hostile."""
    label = HOSTILE + ":443"
    facts = (
        EndpointFact(1, label, Role.API, origin=HOSTILE, mirror_of=HOSTILE),
        OwnerDetail(812, comm=b"\x1b[31m", cmdline="\x1b]0;x\x07", container="\u202e" + "c" * 64, cgroup_id=3001),
    )
    events = trace(*path("peer", [START_NS] * 5))
    events["comm"] = b"\x1b[2J\xff"
    header = replace(HEADER, endpoints={1: label}, host=HOSTILE, kernel=HOSTILE)
    return collected_of(EventBatch(events, "ebpf", 1, facts=facts), header=header)


def test_hostile_text_is_printable() -> None:
    found = exported(hostile())
    texts = [text for track in found.tracks.values() for text in (track.name, track.description)]
    texts += [each.name for each in found.slices]
    texts += [value for each in found.slices for value in each.arguments.values() if isinstance(value, str)]
    assert any("\\x1b" in text for text in texts)
    assert not [text for text in texts if not text.isprintable()]


def test_a_group_says_where_its_endpoint_is_known_from() -> None:
    fact = EndpointFact(1, LABELS[1], Role.MIRROR, "/etc/docker/daemon.json: registry-mirrors", "docker.io")
    found = exported(collected_of(EventBatch(trace(), "ebpf", 1, facts=(fact,))))
    group = found.tracks[found.group("registry-1.docker.io:443 (mirror)")]
    assert group.description == "Known from /etc/docker/daemon.json: registry-mirrors. Asked instead of docker.io."


def test_what_is_unknown_is_left_out() -> None:
    collected = collected_events(trace(event(TcpState.ESTABLISHED, TcpState.CLOSE_WAIT, START_NS, flags=0)))
    (made,) = exported(collected).of("connection")
    assert not {"pid", "comm", "bytes_received", "retransmits", "srtt_us", "lifetime_ns", "laddr", "lport"} & set(made.arguments)
    assert "owner: not seen" in made.arguments["unknown"]
    assert "opening: open before the trace" in made.arguments["unknown"]


def test_arguments_are_as_many_as_connections() -> None:
    collected = collected_events(trace_of_seed(1, 60))
    assert {len(each.values) for each in connection_arguments(collected)} == {len(collected.rows)}


class Pieces(io.BytesIO):
    """Remembers how much it was given at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def write(self, piece: bytes) -> int:  # type: ignore[override]
        self.sizes.append(len(piece))
        return super().write(piece)


def test_a_large_trace_is_written_in_pieces() -> None:
    lives = [Life(name, socket=number, blind=NO_FLAGS) for number in range(40) for name in list(PATHS)[:10] * 6]
    collected = collected_events(build(lives))
    stream = Pieces()
    shares: list[float] = []
    export(collected, "perfetto", "connections", stream, shares.append)
    assert max(stream.sizes) < 0.4 * sum(stream.sizes)
    assert shares == sorted(shares)
    assert len(shares) > 3
    assert set(LABELS) >= {1}
