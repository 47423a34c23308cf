"""The engine: when rules are asked, what becomes of their answers, and that none of it depends on how a trace was cut."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stories import (
    ALL,
    LABELS,
    OTHER,
    TALES,
    S,
    Story,
    Stream,
    Tale,
    Verdict,
    assert_same_verdict_however_cut,
    at,
    backing_off,
    close_waits,
    joined,
    judge,
    judge_batches,
    one,
    opening,
    refused_tokens,
    shifted_by,
    stream_cuts,
    tell,
    trying,
    waiting,
    with_thresholds,
)
from tests.traces import SECOND, SKADDR, START_NS, event, garbage_of_seed, path, trace, trace_of_seed, traces
from tracer.analysis import Analysis
from tracer.clock import ClockOffset
from tracer.events import EVENT_DTYPE, EventBatch, EventFlag, Events, no_events
from tracer.findings import Finding, FindingState, Severity
from tracer.lines import finding_lines
from tracer.rules.catalogue import BY_ID
from tracer.rules.engine import EPISODES_MAX, LOSS_WEAKENS, QUIET_NS, TICK_NS, Engine
from tracer.rules.settings import RuleSettings
from tracer.visits import CLIENTS_MAX

RULES = sorted(TALES)
HOUR = 3600 * SECOND


def assert_episodes_are_whole(found: Verdict) -> None:
    """What holds for every list of findings."""
    lines: dict[int, list[Finding]] = defaultdict(list)
    for finding in found.findings:
        lines[finding.episode].append(finding)
        assert 0 <= finding.confidence <= 1
        assert finding.detected_ns >= finding.started_ns >= 0
        assert finding.at_ns >= finding.detected_ns
        for suspect in finding.suspects:
            assert 0 < suspect.share <= 1
            assert suspect.opens_per_min is None or suspect.opens_per_min > 0
    assert sorted(lines) == list(range(1, found.episodes + 1))
    still_open = {finding.episode for finding in found.still_open}
    for episode, own in lines.items():
        states = [finding.state for finding in own]
        assert states[0] is FindingState.OPEN
        assert FindingState.OPEN not in states[1:]
        assert FindingState.CLOSED not in states[:-1]
        assert (states[-1] is FindingState.CLOSED) == (episode not in still_open)
        assert len({(finding.rule, finding.endpoint_id, finding.detected_ns, finding.benign) for finding in own}) == 1
        assert [finding.at_ns for finding in own] == sorted(finding.at_ns for finding in own)
        for finding in own:
            assert (finding.ended_ns >= 0) == (finding.state is FindingState.CLOSED)
            if finding.state is FindingState.CLOSED:
                assert finding.started_ns <= finding.ended_ns <= finding.at_ns
    assert (found.worst is None) == (not found.findings)


def marked(tale: Tale, losses: dict[int, tuple[int, int, int]] | None = None) -> Stream:
    """A tale's events with clock marks: one in the middle, and one at its end."""
    count = len(tale.events)
    middle = count // 2
    marks = {middle: int(tale.events["ts_ns"][middle]), count: at(tale.until_s)}
    return Stream(tale.events, losses or {}, marks)


@st.composite
def mixtures(draw: st.DrawFn) -> Stream:
    """Several tales at once, less some of their events, with clock marks and losses."""
    names = draw(st.lists(st.sampled_from(RULES), min_size=1, max_size=3))
    parts = [shifted_by(TALES[name]().events, draw(st.sampled_from((0, 0.1, 0.25, 3, 40.0001)))) for name in names]
    events = joined(*parts)
    missing = draw(st.sets(st.integers(0, len(events) - 1), max_size=min(4, len(events) - 1)))
    events = np.delete(events, sorted(missing))
    count = len(events)
    marks = {}
    for position in draw(st.sets(st.integers(0, count), max_size=3)):
        marks[position] = int(events["ts_ns"][position]) if position < count else int(events["ts_ns"][-1]) + 400 * SECOND
    losses = {}
    for position in draw(st.sets(st.integers(0, count), max_size=2)):
        until_ns = int(events["ts_ns"][min(position, count - 1)])
        losses[position] = (draw(st.integers(1, 9)), until_ns - draw(st.sampled_from((1, SECOND))), until_ns)
    return Stream(events, losses, marks)


# --- every rule speaks, and the same however a trace is cut


def test_there_is_a_tale_for_every_rule() -> None:
    assert set(TALES) == set(BY_ID)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_speaks_in_its_tale(rule: str) -> None:
    assert len(tell(TALES[rule]()).opened(rule)) >= 1


@pytest.mark.parametrize("rule", RULES)
def test_a_tale_gives_the_same_findings_however_cut(rule: str) -> None:
    tale = TALES[rule]()
    found = assert_same_verdict_however_cut(marked(tale), tale.settings, roles=tale.roles)
    assert found.opened(rule)


@pytest.mark.parametrize("rule", RULES)
def test_a_tale_with_a_loss_gives_the_same_findings_however_cut(rule: str) -> None:
    tale = TALES[rule]()
    position = len(tale.events) // 2
    until_ns = int(tale.events["ts_ns"][position])
    stream = marked(tale, {position: (7, until_ns - SECOND, until_ns), len(tale.events): (1, at(0), at(1))})
    assert_same_verdict_however_cut(stream, tale.settings, roles=tale.roles)


@pytest.mark.parametrize("rule", RULES)
def test_the_episodes_of_a_tale_are_whole(rule: str) -> None:
    assert_episodes_are_whole(tell(TALES[rule]()))


@pytest.mark.parametrize("rule", RULES)
def test_the_episodes_of_a_tale_end_when_nothing_more_is_seen(rule: str) -> None:
    """All sockets end, and an hour of silence follows: nothing is open any more."""
    tale = TALES[rule]()
    last_ns = int(tale.events["ts_ns"].max()) + SECOND
    left = {int(each["skaddr"]): each for each in tale.events if each["new_state"] != S.CLOSE}
    left = {
        key: each for key, each in left.items() if not (tale.events["new_state"][tale.events["skaddr"] == key] == S.CLOSE).any()
    }
    ends = [
        event(
            S(int(each["new_state"])),
            S.CLOSE,
            last_ns,
            skaddr=key,
            endpoint_id=each["endpoint_id"],
            daddr=each["daddr"].tobytes(),
        )
        for key, each in left.items()
    ]
    events = np.concatenate([tale.events, trace(*ends)])
    found = judge(events, 3600 * 2, settings=tale.settings, roles=tale.roles)
    assert_episodes_are_whole(found)
    assert found.still_open == ()


@pytest.mark.parametrize("rule", RULES)
def test_the_lines_of_a_tale_are_strict_json(rule: str) -> None:
    def forbidden(name: str) -> None:
        raise AssertionError(name)

    for line in finding_lines(tell(TALES[rule]()).findings, LABELS, ClockOffset(5, 1)):
        assert json.loads(line, parse_constant=forbidden)["type"] == "finding"


@settings(max_examples=15, deadline=None)
@given(traces(holes=True), st.integers(0, 99), st.data())
def test_small_traces_give_the_same_findings_however_cut(events: Events, seed: int, data: st.DataObject) -> None:
    marks = data.draw(st.dictionaries(st.integers(0, len(events)), st.sampled_from((1, START_NS, at(3), at(20))), max_size=2))
    places = data.draw(st.sets(st.integers(0, len(events)), max_size=2))
    losses = {position: (3, START_NS + position, START_NS + position + 1) for position in places}
    assert_same_verdict_however_cut(Stream(events, losses, marks), seed=seed)


@settings(max_examples=12, deadline=None)
@given(mixtures(), st.integers(0, 99))
def test_mixtures_of_tales_give_the_same_findings_however_cut(stream: Stream, seed: int) -> None:
    assert_same_verdict_however_cut(stream, seed=seed)


@settings(max_examples=40, deadline=None)
@given(traces(holes=True))
def test_the_episodes_of_small_traces_are_whole(events: Events) -> None:
    assert_episodes_are_whole(judge(events, 30))


@settings(max_examples=20, deadline=None)
@given(mixtures())
def test_the_episodes_of_mixtures_are_whole(stream: Stream) -> None:
    assert_episodes_are_whole(judge_batches(next(stream_cuts(stream))))


@pytest.mark.parametrize("holes", [0.0, 0.2])
@pytest.mark.parametrize("seed", [81])
def test_long_traces_give_the_same_findings_however_cut(seed: int, holes: float) -> None:
    events = trace_of_seed(seed, 120, holes)
    stream = Stream(events, {0: (1, 1, 2), 150: (40, START_NS, START_NS + SECOND)}, {100: int(events["ts_ns"][100])})
    assert_same_verdict_however_cut(stream, seed=seed)


@pytest.mark.parametrize("seed", [85, 86])
def test_garbage_gives_the_same_findings_however_cut(seed: int) -> None:
    assert_same_verdict_however_cut(Stream(garbage_of_seed(seed, 150)), seed=seed)


def test_sums_over_one_cell_do_not_depend_on_the_cut() -> None:
    """Hundreds of failed handshakes within one tick: more than a rule keeps of one piece."""
    story = Story()
    for number in range(300):
        story.connection(number / 10_000, "timeout", life_s=0.05, pid=number)
    assert_same_verdict_however_cut(Stream(story.events()))


def test_shares_of_what_ended_in_one_cell_do_not_depend_on_the_cut() -> None:
    """Two downloads are reset among many that are not: whether that is a good part does not depend on the pieces."""
    story = Story()
    for number in range(600):
        kind = "reset" if number < 130 or number >= 530 else "local"
        story.connection(number / 10_000, kind, life_s=0.05, received=100_000, acked=200, pid=number)
    assert_same_verdict_however_cut(Stream(story.events()))


def test_windows_that_end_within_a_cell_do_not_depend_on_the_cut() -> None:
    """An episode's end asks the rules between two ticks; what they count must not depend on the pieces of that cell."""
    story = Story()
    story.connection(0.02, life_s=0.03, received=5000, acked=100)
    story.connection(0.15, life_s=0.05, received=5000, acked=100)
    story.connection(0.11, "refused", life_s=0.01, endpoint=OTHER)
    chosen = with_thresholds(
        textbook__churn={"opens_min": 1, "closes_min": 1, "window_s": 1}, textbook__refused={"hold_s": 1}, refused={"hold_s": 1}
    )
    events = story.events()
    assert_same_verdict_however_cut(Stream(events, {}, {len(events): at(10)}), chosen)


def test_an_opening_told_late_counts_the_same_however_cut() -> None:
    """CPUs deliver out of order by microseconds, across the border of a cell too."""
    events = trace(
        event(S.ESTABLISHED, S.CLOSE_WAIT, at(0.5000001), skaddr=SKADDR),
        event(S.CLOSE, S.SYN_SENT, at(0.4999999), skaddr=SKADDR + 64),
        event(S.CLOSE, S.SYN_SENT, at(0.5000002), skaddr=SKADDR + 128),
        event(S.SYN_SENT, S.ESTABLISHED, at(1.1), skaddr=SKADDR + 128),
    )
    chosen = with_thresholds(churn={"budget_per_min": 60, "window_s": 1, "hold_s": 1})
    assert_same_verdict_however_cut(Stream(events, {}, {len(events): at(10)}), chosen)


@pytest.mark.parametrize("step_s", [-700, -0.3, 700])
def test_a_clock_that_steps_gives_the_same_findings_however_cut(step_s: float) -> None:
    before = joined(trying(count=4), close_waits((1, 2)), one("local", keep=2))
    after = shifted_by(joined(trying(count=4, pid=3), close_waits((0, 1, 2, 3))), 10 + step_s)
    after = after.copy()
    after["skaddr"] += np.uint64(0x9000_0000)
    assert_same_verdict_however_cut(Stream(np.concatenate([shifted_by(before, 8000), shifted_by(after, 8000)])))


def test_close_waits_told_after_a_clock_stepped_back_count_the_same_however_cut() -> None:
    story = Story()
    for number, at_s in enumerate((660, 680, 700)):
        story.connection(at_s, "peer", received=5000, acked=100, pid=number)
    early = Story()
    for number, at_s in enumerate((639, 640.5, 641, 642)):
        early.connection(at_s, "peer", received=5000, acked=100, pid=number)
    moved = early.events()
    moved["skaddr"] += np.uint64(0x9000_0000)
    assert_same_verdict_however_cut(Stream(np.concatenate([story.events(), moved])))


def test_the_chunks_of_a_batch_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracer import analysis as module

    events = joined(backing_off(), trying(), refused_tokens(), opening(40, 8))
    expected = judge(events, 60)
    monkeypatch.setattr(module, "CHUNK_EVENTS", 3)
    assert judge(events, 60) == expected


# --- ticks


def ticks_of(
    monkeypatch: pytest.MonkeyPatch, events: Events, until_s: float | None = None, chosen: RuleSettings = ALL
) -> list[int]:
    """When the rules were asked."""
    asked: list[int] = []
    tick = Engine._tick

    def noted(self: Engine, now_ns: int) -> list[Finding]:
        asked.append(now_ns)
        return tick(self, now_ns)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "_tick", noted)
        judge(events, until_s, settings=chosen)
    return asked


def cell_end(time_ns: int) -> int:
    """When the rules are asked about something that happened then."""
    return (time_ns // TICK_NS + 1) * TICK_NS


def test_rules_are_asked_at_the_end_of_a_cell_in_which_something_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    events = trace(*path("peer", [at(0.1), at(0.12), at(0.6)]))
    asked = ticks_of(monkeypatch, events, 1.2)
    assert {cell_end(at(0.1)), cell_end(at(0.6))} <= set(asked)
    assert min(asked) == cell_end(at(0.1))


def test_a_cell_is_half_open(monkeypatch: pytest.MonkeyPatch) -> None:
    events = trace(*path("peer", [at(0) + TICK_NS - 1, at(0) + TICK_NS]))
    assert ticks_of(monkeypatch, events, 2)[:2] == [at(0) + TICK_NS, at(0) + 2 * TICK_NS]


def test_in_silence_rules_are_asked_at_whole_seconds_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ticks_of(monkeypatch, trace(*path("peer", [at(0.1), at(0.2)])), 1000, with_thresholds("evidence"))
    whole = [time_ns for time_ns in asked if time_ns > at(1)]
    assert whole[0] == at(2)
    assert all(time_ns % SECOND == 0 for time_ns in whole)
    assert at(0.2) + QUIET_NS <= whole[-1] <= at(1) + QUIET_NS + SECOND


def test_rules_are_not_asked_beyond_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ticks_of(monkeypatch, trace(*path("peer", [at(0.1), at(0.12)])), 7)
    assert max(asked) == at(7)


def test_without_marks_time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(ticks_of(monkeypatch, trace(*path("peer", [at(0.1), at(0.12)])))) == {cell_end(at(0.1))}


def test_a_mark_of_the_past_changes_nothing() -> None:
    events = joined(trying(), backing_off())
    half = len(events) // 2
    plain = judge_batches([EventBatch(events[:half].copy(), "ebpf", 1), EventBatch(events[half:].copy(), "ebpf", 1)])
    noted = judge_batches(
        [EventBatch(events[:half].copy(), "ebpf", 1, until_ns=1), EventBatch(events[half:].copy(), "ebpf", 1)],
    )
    assert noted == plain


def test_nothing_is_found_in_nothing() -> None:
    assert judge_batches([EventBatch(no_events(), "ebpf", 1, until_ns=at(9))]).findings == []


def test_closing_an_empty_trace_is_fine() -> None:
    assert judge_batches([]).findings == []


def test_a_finding_is_detected_when_time_has_passed_and_not_when_the_next_event_comes() -> None:
    """A handshake hangs; the next event is a minute later; the finding's time is when three seconds were over."""
    events = joined(one("timeout", keep=1), one("local", 60, endpoint=OTHER))
    (found,) = judge(events).opened("unreachable")
    assert at(3) <= found.detected_ns <= at(4)


def test_a_clock_that_leaps_by_years_asks_no_rule_a_million_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture from somebody else may say anything; connections that hang or grow old are judged again and again."""
    story = Story()
    story.connection(0, "timeout", keep=1)
    story.connection(1, "local", keep=2)
    story.connection(2, "peer", keep=3, unread=100_000, received=200_000, acked=1)
    ticks = 0
    tick = Engine._tick

    def counted(self: Engine, now_ns: int) -> list[Finding]:
        nonlocal ticks
        ticks += 1
        assert ticks < 4_000, "ticks without end"
        return tick(self, now_ns)

    monkeypatch.setattr(Engine, "_tick", counted)
    monkeypatch.setattr(Engine, "close", lambda self: [])
    judge(story.events(), 20 * 365 * 24 * 3600.0)


# --- episodes


def test_an_episode_is_no_line_per_event() -> None:
    """A thousand refusals in ten seconds are a few lines."""
    story = Story()
    for number in range(1000):
        story.connection(number / 100, "refused", pid=number)
    found = judge(story.events(), 200)
    assert len(found.of("refused")) <= 6
    assert len(found.opened("refused")) == 1


def test_an_episode_that_lasts_is_told_of_about_every_half_minute() -> None:
    found = judge(trying(1.0, 120), 125).of("refused", FindingState.UPDATE)
    gaps_s = np.diff([finding.at_ns for finding in found[1:]]) / 1e9
    assert 2 <= len(found) <= 6
    assert (gaps_s >= 29).all()


def test_a_second_episode_has_another_number() -> None:
    events = joined(one("refused"), one("refused", 500))
    found = judge(events, 900).opened("refused")
    assert len({finding.episode for finding in found}) == 2


def test_started_is_the_first_evidence_and_ended_the_last() -> None:
    opened, *_, closed = judge(trying(1.0, 5), 300).of("refused")
    assert opened.started_ns == at(0)
    assert (closed.state, closed.ended_ns) == (FindingState.CLOSED, at(4.01))
    assert closed.at_ns >= at(4.01) + 60 * SECOND


def test_what_was_shown_to_work_again_ends_at_once() -> None:
    closed = judge(joined(one("refused"), one("local", 5)), 30).of("refused", FindingState.CLOSED)
    assert [(finding.ended_ns, finding.at_ns) for finding in closed] == [(at(5.001), cell_end(at(5.001)))]


def test_an_open_episode_stays_open_at_the_end() -> None:
    found = judge(one("refused"), 5)
    assert {finding.rule for finding in found.still_open} == {"refused", "textbook/refused"}


def test_the_worst_is_the_highest_severity_ever() -> None:
    found = judge(joined(trying(1.0, 5), one("local", 20)), 400)
    assert found.worst is Severity.CRITICAL
    assert found.still_open == ()


def test_more_episodes_than_are_allowed_are_not_followed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.rules.engine.EPISODES_MAX", 3)
    story = Story()
    for endpoint in range(1, 9):
        story.connection(endpoint / 10, "refused", endpoint=endpoint)
    found = judge(story.events(), 10)
    assert found.episodes == 3
    assert_episodes_are_whole(found)


# --- disorder


@pytest.mark.parametrize("seed", range(8))
def test_garbage_is_survived(seed: int) -> None:
    assert_episodes_are_whole(judge(garbage_of_seed(seed, 300), 400))


@pytest.mark.parametrize("rule", RULES)
def test_a_tale_out_of_order_doubled_and_with_holes_is_survived(rule: str) -> None:
    tale = TALES[rule]()
    random = Random(5)
    for seed in range(2):
        chosen = [random.randrange(len(tale.events)) for _ in range(int(1.5 * len(tale.events)))]
        shuffled = sorted(chosen, key=lambda index: index + random.choice((0, 0, 3, -9, 40)))
        assert_episodes_are_whole(judge(tale.events[shuffled], tale.until_s + seed, settings=tale.settings))


@pytest.mark.parametrize("rule", RULES)
def test_a_tale_of_which_every_event_comes_twice_is_survived(rule: str) -> None:
    tale = TALES[rule]()
    assert_episodes_are_whole(judge(np.repeat(tale.events, 2), tale.until_s, settings=tale.settings))


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_steps_by_hours_in_the_middle_is_survived(hours: int) -> None:
    events = joined(*(TALES[rule]().events for rule in RULES if "churn" not in rule))
    half = len(events) // 2
    steps = np.where(np.arange(len(events)) < half, max(-hours, 0), max(hours, 0)).astype(np.uint64)
    events["ts_ns"] += steps * np.uint64(HOUR)
    assert_episodes_are_whole(judge(events))


@pytest.mark.parametrize("state", [S.SYN_SENT, S.ESTABLISHED])
def test_a_start_is_never_before_the_trace(state: S) -> None:
    """The end of a connection whose opening was not seen."""
    story = Story()
    story.connection(0, received=5000, acked=100)
    late = event(state, S.CLOSE, at(1), sk_err=110, skaddr=SKADDR)
    found = judge(np.concatenate([story.events(), trace(late)]), 10)
    assert all(finding.started_ns >= at(0) for finding in found.findings)


def test_a_keep_alive_that_times_out_is_no_handshake_without_an_answer() -> None:
    """It was established before the trace began: nothing is said of SYNs."""
    events = trace(event(S.ESTABLISHED, S.CLOSE, at(1), sk_err=110, skaddr=SKADDR))
    assert not judge(events, 10).rules & {"unreachable", "textbook/unreachable", "textbook/mirror-failure"}


# --- bounded


def openings_of(count: int, over_s: float, **fields: Any) -> Events:
    """Openings only, made with arrays: each on a socket address of its own."""
    made = np.repeat(trace(event(S.CLOSE, S.SYN_SENT, START_NS)), count)
    made["ts_ns"] = START_NS + (np.arange(count) * (over_s * SECOND / count)).astype(np.uint64)
    made["skaddr"] = SKADDR + 0x40 * np.arange(count).astype(np.uint64)
    for name, values in fields.items():
        made[name] = values
    return made


def lives_of(count: int, over_s: float, **fields: Any) -> Events:
    """Connections refused at once, made with arrays."""
    opens = openings_of(count, over_s, **fields)
    ends = opens.copy()
    ends["old_state"], ends["new_state"], ends["sk_err"] = S.SYN_SENT, S.CLOSE, 111
    ends["flags"] &= ~np.uint32(EventFlag.OWNER)
    ends["ts_ns"] += np.uint64(1000)
    both = np.empty(2 * count, EVENT_DTYPE)
    both[0::2], both[1::2] = opens, ends
    return both


@pytest.mark.slow
def test_a_million_connections_of_one_client_are_judged() -> None:
    """20,000 a second that are refused: few findings, and what is kept does not follow the number."""
    made = Analysis("ebpf", 1, LABELS, ALL)
    events = lives_of(1_000_000, 50)
    findings = []
    for start in range(0, len(events), 200_000):
        findings += made.feed(EventBatch(events[start : start + 200_000].copy(), "ebpf", 1)).findings
    assert len(findings) < 100
    assert {"refused", "churn", "textbook/retry-storm"} <= {finding.rule for finding in findings}
    (client,) = made._view.visits.clients.values()
    assert len(client.visits) == 1


@pytest.mark.slow
@pytest.mark.slow
def test_a_hundred_thousand_endpoints_are_judged(request: pytest.FixtureRequest) -> None:
    """Every one refuses once: clients and episodes stay bounded, and it ends (it takes half a minute, and not hours)."""

    def enough(number: int, frame: object) -> None:
        raise AssertionError("100,000 endpoints take longer than five minutes: something is quadratic")

    before = signal.signal(signal.SIGALRM, enough)
    signal.alarm(300)
    request.addfinalizer(lambda: (signal.alarm(0), signal.signal(signal.SIGALRM, before)))
    made = Analysis("ebpf", 1, LABELS, ALL)
    count = 100_000
    events = lives_of(count, 20, endpoint_id=np.arange(1, count + 1))
    findings = made.feed(EventBatch(events, "ebpf", 1)).findings + made.close()
    assert len(made._view.visits.clients) <= CLIENTS_MAX
    assert len(made._engine.open) <= EPISODES_MAX
    assert len({finding.episode for finding in findings}) == made._engine.episodes


def test_clients_that_speak_at_one_tick_speak_in_the_same_order_however_cut() -> None:
    """Several loops in step: the order of their episodes is that of the trace."""
    parts = [shifted_by(trying(1.0, 6, comm=b"loop%d" % number), number / 1000) for number in range(6)]
    assert_same_verdict_however_cut(Stream(joined(*parts)))


def test_clients_beyond_the_most_are_forgotten() -> None:
    made = Analysis("ebpf", 1, LABELS, ALL)
    count = CLIENTS_MAX + 500
    made.feed(EventBatch(openings_of(count, 4, cgroup_id=np.arange(count)), "ebpf", 1, until_ns=at(5)))
    assert len(made._view.visits.clients) <= CLIENTS_MAX


def test_many_endpoints_that_are_reset_in_one_cell_are_the_same_however_cut() -> None:
    """More endpoints than a rule keeps: which ones it forgets does not depend on the cut."""
    count = 4200
    opens = openings_of(count, 0.05, endpoint_id=np.arange(count, 0, -1))
    parts = [opens]
    for old, new, later_ns, sk_err in ((S.SYN_SENT, S.ESTABLISHED, 60_000_000, 0), (S.ESTABLISHED, S.CLOSE, 130_000_000, 104)):
        step = opens.copy()
        step["old_state"], step["new_state"], step["sk_err"], step["bytes_received"] = old, new, sk_err, 1_000_000
        step["ts_ns"] += np.uint64(later_ns)
        step["flags"] &= ~np.uint32(EventFlag.OWNER)
        parts.append(step)
    events = np.concatenate(parts)
    events = events[np.argsort(events["ts_ns"], kind="stable")]
    chosen = RuleSettings(
        "evidence",
        {"reset": BY_ID["reset"].Settings(downloads_min=1)},
        disabled=frozenset(BY_ID) - {"reset"},  # type: ignore[call-arg]
    )
    whole = judge_batches([EventBatch(events.copy(), "ebpf", 1)], chosen)
    pieces = [EventBatch(piece.copy(), "ebpf", 1) for piece in np.array_split(events, 7)]
    same = judge_batches(pieces, chosen).findings == whole.findings
    assert same, "of thousands of findings some differ"


# --- loss


ABSENCE = one("timeout", keep=1)


def test_what_rests_on_absence_is_withheld_where_events_were_lost() -> None:
    """A token was asked for and the registry not again: perhaps it was, and that is what was lost."""
    story = Story()
    story.connection(0, received=400, acked=100)
    story.connection(0.05, received=300, acked=200, endpoint=3)
    events = story.events()
    assert judge(events, 5).opened("auth-failure")
    found = judge(events, 5, lost=(4, 0.02, 0.055))
    assert not found.opened("auth-failure")
    assert "missed" in found.abstained["auth-failure"]


def test_a_loss_before_the_evidence_withholds_nothing() -> None:
    story = Story()
    story.connection(0, received=400, acked=100)
    story.connection(0.05, received=300, acked=200, endpoint=3)
    events = story.events()
    found = judge_batches([EventBatch(events, "ebpf", 1, 4, at(-20), at(-10), until_ns=at(5))])
    assert found.opened("auth-failure")
    assert "auth-failure" not in found.abstained


def test_the_interval_of_a_loss_is_half_open() -> None:
    """Lost until just when the evidence begins is lost before it."""
    found = judge_batches([EventBatch(one("refused"), "ebpf", 1, 4, at(-1), at(0), until_ns=at(5))])
    assert "lost_events" not in found.opened("refused")[0].evidence


@pytest.mark.parametrize("rule", RULES)
def test_other_findings_are_weakened_by_a_loss(rule: str) -> None:
    tale = TALES[rule]()
    whole = tell(tale).opened(rule)[0]
    if rule == "recovered":
        pytest.skip("starts with the end of another finding, after the loss")
    last = len(tale.events) - 1
    until_ns = max(int(tale.events["ts_ns"][last]), whole.started_ns + 1)
    batches = [
        EventBatch(tale.events[:last].copy(), "ebpf", 1),
        EventBatch(tale.events[last:].copy(), "ebpf", 1, 5, until_ns - 1, until_ns, until_ns=at(tale.until_s)),
    ]
    found = judge_batches(batches, tale.settings, tale.roles)
    after = [finding for finding in found.opened(rule) if finding.at_ns >= until_ns]
    if not after:
        assert "lost" in found.abstained.get(rule, "") or found.opened(rule)[0].at_ns < until_ns
        return
    assert after[0].evidence["lost_events"] == 5
    if after[0].summary == whole.summary:
        assert after[0].confidence == pytest.approx(whole.confidence * LOSS_WEAKENS, abs=0.002)


def test_a_loss_reaches_the_line() -> None:
    found = judge(one("refused"), 5, lost=(3, 0.001, 0.005)).opened("refused")[0]
    (line,) = finding_lines([found], LABELS, None)
    assert json.loads(line)["evidence"]["lost_events"] == 3


# --- abstention


BYTES = EventFlag.HAS_RECEIVED | EventFlag.HAS_ACKED
NEEDY = sorted((rule, flag) for rule, made in BY_ID.items() for flag in made.needs)


def without(tale: Tale, flags: EventFlag | int) -> Verdict:
    events = tale.events.copy()
    events["flags"] &= ~np.uint32(flags)
    return judge(events, tale.until_s, settings=tale.settings, roles=tale.roles)


@pytest.mark.parametrize(("rule", "needed"), NEEDY)
def test_a_rule_without_what_it_needs_abstains_and_says_what(rule: str, needed: str) -> None:
    from tracer.rules.engine import _FLAG_OF, _WORDS

    found = without(TALES[rule](), _FLAG_OF[needed])
    assert _WORDS.get(needed, needed) in found.abstained[rule]
    assert not found.of(rule)


def test_rules_on_bytes_abstain_without_bytes_and_the_others_do_not() -> None:
    needs_bytes = {each for each, made in BY_ID.items() if {"bytes_received", "bytes_acked"} & set(made.needs)}
    for rule in RULES:
        events = TALES[rule]().events
        if (events["old_state"] == S.ESTABLISHED).any():  # else there was nothing that could have had bytes
            assert set(without(TALES[rule](), BYTES).abstained) == needs_bytes


_KNOWN_FLAGS = int(sum(EventFlag)) & ~int(EventFlag.SAMPLE | EventFlag.ADOPTED)


@pytest.mark.parametrize("rule", RULES)
def test_a_trace_with_nothing_but_states_is_survived(rule: str) -> None:
    """No flag at all: no owner, no bytes, no port; nothing is made up, and rules that need more say so."""
    found = without(TALES[rule](), _KNOWN_FLAGS)
    assert_episodes_are_whole(found)
    assert not found.rules & {each for each, made in BY_ID.items() if made.needs}


def test_a_trace_with_nothing_but_states_makes_rules_abstain() -> None:
    found = without(TALES["rate-limit"](), _KNOWN_FLAGS)
    of_failures = {"sk_err", "connect_err"}  # there were none of which it could have been known
    assert {each for each, made in BY_ID.items() if set(made.needs) - of_failures} <= set(found.abstained)


@pytest.mark.parametrize(
    "flags", [BYTES, EventFlag.HAS_IDLE | EventFlag.HAS_UNREAD, EventFlag.HAS_TASK | EventFlag.OWNER, EventFlag.HAS_SK_ERR]
)
@pytest.mark.parametrize("rule", RULES)
def test_without_an_enrichment_nothing_is_made_up(rule: str, flags: EventFlag) -> None:
    """Less is known, so that no more is found than with it."""
    tale = TALES[rule]()
    found = without(tale, flags)
    assert_episodes_are_whole(found)
    assert found.rules <= tell(tale).rules


def test_on_times_that_are_too_coarse_rules_abstain_and_say_so() -> None:
    found = judge(trying(), 20, resolution_ns=2 * SECOND)
    assert "retry-storm" in found.abstained
    assert not found.opened("retry-storm")
    assert found.opened("refused")


def test_on_times_that_are_much_too_coarse_every_rule_abstains() -> None:
    found = judge(trying(), 20, resolution_ns=60 * SECOND)
    assert set(found.abstained) == set(BY_ID)
    assert found.findings == []


def test_on_exact_times_with_everything_no_rule_abstains() -> None:
    assert judge(trying(), 20).abstained == {}


# --- what runs


def test_without_settings_no_rule_runs() -> None:
    made = Analysis("ebpf", 1, LABELS)
    assert made.feed(EventBatch(trying(), "ebpf", 1)).findings + made.close() == []
    assert made.due_ns is None


@pytest.mark.parametrize("rule", RULES)
def test_a_disabled_rule_is_silent(rule: str) -> None:
    tale = TALES[rule]()
    chosen = RuleSettings("all", tale.settings.thresholds, disabled=frozenset({rule}), benign=True)
    assert not judge(tale.events, tale.until_s, settings=chosen, roles=tale.roles).of(rule)


@pytest.mark.parametrize("rule", [rule for rule, made in BY_ID.items() if made.benign])
def test_a_benign_rule_is_silent_unless_asked_for(rule: str) -> None:
    tale = TALES[rule]()
    assert all(finding.benign for finding in tell(tale).of(rule))
    assert not judge(tale.events, tale.until_s, settings=RuleSettings("all"), roles=tale.roles).of(rule)


@pytest.mark.parametrize(("rule_set", "prefix"), [("evidence", False), ("textbook", True)])
def test_a_set_runs_its_rules_only(rule_set: str, prefix: bool) -> None:
    for rule in RULES:
        tale = TALES[rule]()
        found = judge(tale.events, tale.until_s, settings=RuleSettings(rule_set, tale.settings.thresholds, benign=True))
        assert {each.startswith("textbook/") for each in found.rules} <= {prefix}


def test_rules_are_new_for_every_trace() -> None:
    chosen = RuleSettings("all", benign=True)
    assert judge(trying(), 20, settings=chosen) == judge(trying(), 20, settings=chosen)


def test_findings_do_not_change_what_else_is_said() -> None:
    """Connections and the summary are the same with rules and without."""
    events = joined(trying(), backing_off(), waiting(20))
    with_rules, without_rules = Analysis("ebpf", 1, LABELS, ALL), Analysis("ebpf", 1, LABELS)
    ended = [made.feed(EventBatch(events.copy(), "ebpf", 1)).ended for made in (with_rules, without_rules)]
    assert ended[0].tobytes() == ended[1].tobytes()
    assert with_rules.summary().endpoints == without_rules.summary().endpoints


def test_roles_are_said_by_settings_then_the_capture_then_the_name() -> None:
    from tracer.roles import Role

    labels = {1: "ghcr.io:443", 2: "auth.docker.io:443", 3: "x.example:443"}
    chosen = RuleSettings(roles={"ghcr.io:443": Role.MIRROR})
    made = Analysis("ebpf", 1, labels, chosen, {1: Role.BLOB, 2: Role.PROXY})
    assert made.roles == {1: Role.MIRROR, 2: Role.PROXY}
