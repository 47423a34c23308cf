"""Comparisons of whole traces: what moves, what does not, what can't be compared, and who is who in both."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pytest

from tests.comparing import collected_of, looked_at, moved, of_metric, pulls, whole
from tests.stories import Story, at
from tests.traces import garbage_of_seed, trace_of_seed, v4
from tracer.clients import family_of
from tracer.collected.collector import Collected
from tracer.comparison.compared import Comparison
from tracer.comparison.difference import Difference, badness, difference
from tracer.comparison.presence import Presence, is_new_critical
from tracer.comparison.sentences import match_text, sentence, verdict_text
from tracer.comparison.sides import BLOCK_NS, side_of
from tracer.errors import UsageError
from tracer.events import EventBatch, EventFlag, Events
from tracer.lines.comparison import difference_lines
from tracer.owners.owner import OwnerDetail
from tracer.reports.diff_report import difference_texts
from tracer.roles import Role
from tracer.visits import VISIT_GAP_NS

HEALTHY = whole(pulls())
SLOW = whole(pulls(seed=2, connect_s=0.48))
REFUSED = whole(pulls(seed=3, failing=0.5, kind="refused"))
PAIRS = {"slow": (HEALTHY, SLOW), "refused": (HEALTHY, REFUSED), "slow-refused": (SLOW, REFUSED)}
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
ONE = {1: "registry.example:443"}


@cache
def polled_again() -> Collected:
    """Another run of the healthy trace, as the polling source sees it."""
    return looked_at(pulls(seed=2))


def mirrored(comparison: Comparison) -> tuple[Any, ...]:
    return _key(comparison, comparison.b, comparison.a)


def plain(comparison: Comparison) -> tuple[Any, ...]:
    return _key(comparison, comparison.a, comparison.b)


def _key(comparison: Comparison, first: Any, second: Any) -> tuple[Any, ...]:
    return comparison.metric.name, comparison.scope.kind, first, second, comparison.moved, float(f"{comparison.p:.6g}")


def whys(found: Difference) -> dict[str, str]:
    return {each.metric: each.why for each in found.not_compared}


# --- what moves


def test_a_slower_handshake_is_told_first_with_its_numbers() -> None:
    first = difference(HEALTHY, SLOW).told[0]
    assert isinstance(first, Comparison)
    assert first.metric.name == "connect_ns"
    assert sentence(first) == (
        "connect time to registry.example:443 went from 10.4ms to 474ms (median; 45.7 x; 60 and 60 connections; "
        "in 30 and 30 visits; p < 1e-6)"
    )


def test_refusals_are_told_as_a_share() -> None:
    found = difference(HEALTHY, REFUSED)
    share = of_metric(found, "refused")
    assert share.moved
    assert share.before == 0
    assert share.after == share.b.numbers["hits"] / 60
    assert "connections to registry.example:443 that were refused went from 0% to " in sentence(share)


def test_failed_connections_of_one_reason_are_told_once() -> None:
    assert "failed" not in {each.metric.name for each in difference(HEALTHY, REFUSED).comparisons}


def test_failed_connections_of_several_reasons_are_told_together_too() -> None:
    events = np.concatenate([pulls(20, failing=1, kind="refused"), pulls(20, failing=1, kind="timeout", every_s=1.1)])
    events["skaddr"][len(events) // 2 :] += 1 << 30
    found = difference(HEALTHY, whole(events[np.argsort(events["ts_ns"], kind="stable")]))
    assert {"failed", "refused", "timeout"} <= moved(found)


@pytest.mark.parametrize(("kind", "reason"), [("unreachable", "unreachable"), ("reset", "reset"), ("aborted", "aborted")])
def test_every_way_to_fail_is_a_metric_of_its_own(kind: str, reason: str) -> None:
    assert reason in moved(difference(HEALTHY, whole(pulls(seed=5, failing=0.5, kind=kind))))


def test_smaller_answers_move_the_bytes() -> None:
    found = difference(HEALTHY, whole(pulls(seed=6, size=400)))
    assert sentence(of_metric(found, "bytes_received")).startswith(
        "bytes received on connections to registry.example:443 went from "
    )
    assert "bytes_received" in moved(found)


def test_more_attempts_move_rate_and_rhythm() -> None:
    found = difference(HEALTHY, whole(pulls(120, seed=7, every_s=0.6)))
    assert {"opens_per_min", "interval_ns"} <= moved(found)


def test_who_closes_first_is_compared() -> None:
    assert "closed_by_peer" in moved(difference(HEALTHY, whole(pulls(seed=8, failing=1, kind="peer"))))


def test_a_slow_tenth_is_found_where_the_rest_is_as_it_was() -> None:
    events = np.concatenate([pulls(120, seed=9), pulls(17, seed=10, connect_s=2.0, every_s=7.0)])
    events["skaddr"][len(pulls(120, seed=9)) :] += 1 << 30
    found = difference(whole(pulls(137, seed=11)), whole(events[np.argsort(events["ts_ns"], kind="stable")]))
    assert "connect_p90_ns" in moved(found)
    assert "connect_ns" not in moved(found)


def test_a_moved_body_does_not_tell_its_tail_as_well() -> None:
    assert "connect_p90_ns" not in moved(difference(HEALTHY, SLOW))


def test_silence_is_a_share() -> None:
    story = Story()
    for number in range(30):
        story.connection(number, idle_ms=20_000, received=1_000_000, life_s=0.5)
    assert "silent" in moved(difference(HEALTHY, whole(story.events())))


def test_what_moved_at_an_endpoint_is_not_told_again_over_all() -> None:
    def two(seed: int, connect_s: float) -> Collected:
        events = np.concatenate([pulls(seed=seed), pulls(seed=seed + 1, connect_s=connect_s, endpoint=2)])
        events["skaddr"][len(events) // 2 :] += 1 << 30
        return whole(events[np.argsort(events["ts_ns"], kind="stable")])

    found = difference(two(20, 0.5), two(30, 8.0))
    told = [(each.scope.kind, each.metric.name) for each in found.told if isinstance(each, Comparison)]
    assert ("endpoint", "connect_ns") in told
    assert "overall" not in {kind for kind, _ in told}


def test_a_lifetime_is_not_told_again_as_time_in_established() -> None:
    found = difference(HEALTHY, SLOW)
    assert {"lifetime_ns", "ESTABLISHED_state_ns"} <= moved(found)
    told = {each.metric.name for each in found.told if isinstance(each, Comparison)}
    assert "lifetime_ns" in told
    assert "ESTABLISHED_state_ns" not in told


# --- what does not


@pytest.mark.parametrize("trace", [HEALTHY, SLOW, REFUSED], ids=["healthy", "slow", "refused"])
def test_the_same_trace_twice_has_not_moved_at_all(trace: Collected) -> None:
    found = difference(trace, trace)
    assert (found.told, found.only) == ((), ())
    assert {round(each.p, 9) for each in found.comparisons} == {1.0}
    assert verdict_text(found).startswith("nothing moved")


@pytest.mark.slow
@pytest.mark.slow
def test_another_run_of_the_same_seldom_moves() -> None:
    told = [len(difference(whole(pulls(seed=seed)), whole(pulls(seed=seed + 1))).told) for seed in range(100, 140, 2)]
    assert sum(told) <= 1


def test_one_visit_that_opens_hundreds_is_no_sure_change() -> None:
    story = Story()
    for number in range(300):
        story.connection(10.2 + number * 0.001, "refused")
    events = np.concatenate([pulls(seed=12), story.events()])
    events["skaddr"][-len(story.events()) :] += 1 << 30
    found = difference(HEALTHY, whole(events[np.argsort(events["ts_ns"], kind="stable")]))
    assert not of_metric(found, "refused").moved
    assert of_metric(found, "refused").after > 0.8


@pytest.mark.slow
def test_a_change_that_is_sure_but_small_has_not_moved() -> None:
    found = difference(whole(pulls(400, every_s=0.6)), whole(pulls(400, seed=2, every_s=0.6, connect_s=0.0115)))
    connect = of_metric(found, "connect_ns")
    assert connect.adjusted_p < 0.01
    assert not connect.moved


def test_microseconds_are_of_no_interest() -> None:
    found = difference(whole(pulls(connect_s=20e-6)), whole(pulls(seed=2, connect_s=60e-6)))
    assert of_metric(found, "connect_ns").adjusted_p < 0.01
    assert "connect_ns" not in moved(found)


# --- what must not matter


@pairs
def test_the_other_way_round_is_the_mirror_image(pair: tuple[Collected, Collected]) -> None:
    a, b = pair
    there, back = difference(a, b), difference(b, a)
    assert sorted(map(mirrored, back.comparisons), key=repr) == sorted(map(plain, there.comparisons), key=repr)
    assert {(each.kind, each.name, not each.appeared) for each in back.only} == {
        (each.kind, each.name, each.appeared) for each in there.only
    }


@pairs
def test_the_order_of_connections_does_not_matter(pair: tuple[Collected, Collected]) -> None:
    a, b = pair
    order = list(range(len(b.rows)))
    Random(4).shuffle(order)
    shuffled = replace(b, rows=b.rows[order], details=tuple(b.details[index] for index in order))
    assert list(map(plain, difference(a, shuffled).comparisons)) == list(map(plain, difference(a, b).comparisons))


@pairs
def test_when_a_trace_was_taken_does_not_matter(pair: tuple[Collected, Collected]) -> None:
    a, b = pair
    later = b.rows.copy()
    shift_ns = 86_400_123_456_789
    for name in ("first_seen_ns", "opened_ns", "established_ns", "closed_ns", "last_ns"):
        later[name] = np.where(later[name] >= 0, later[name] + shift_ns, -1)
    summary = replace(b.summary, first_ns=b.summary.first_ns + shift_ns, last_ns=b.summary.last_ns + shift_ns)
    moved_on = replace(b, rows=later, summary=summary)
    assert list(map(plain, difference(a, moved_on).comparisons)) == list(map(plain, difference(a, b).comparisons))


def test_pids_do_not_matter() -> None:
    other = difference(HEALTHY, whole(pulls(seed=2, pid=4711)))
    assert "owner" not in {each.kind for each in other.only}
    assert of_metric(other, "interval_ns", "owner").a.count == 29


# --- what can't be compared


@pytest.mark.parametrize("events", [pulls()[:0], pulls()[:1], pulls()[:3]], ids=["nothing", "one open", "one"])
def test_a_trace_that_is_too_short_is_said(events: Events) -> None:
    found = difference(HEALTHY, whole(events))
    assert found.moved == []
    assert verdict_text(found).startswith("nothing could be compared")
    assert found.not_compared


def test_two_empty_traces_are_no_error() -> None:
    assert verdict_text(difference(whole(pulls()[:0]), whole(pulls()[:0]))) == "nothing could be compared"


def test_too_few_visits_say_how_many_there_are() -> None:
    found = difference(HEALTHY, whole(pulls(1)))
    assert whys(found)["connect_ns"] == "30 and 1 visits are too few: whatever they were, it could be chance"


def test_one_side_without_bytes_is_said() -> None:
    blind = whole(pulls(without=EventFlag.HAS_RECEIVED))
    assert whys(difference(HEALTHY, blind))["bytes_received"] == "known for 0% of B's 60 connections only"


def test_rates_are_not_compared_where_events_were_lost() -> None:
    events = pulls(seed=2)
    lossy = collected_of(
        [EventBatch(events[:50].copy(), "ebpf", 1), EventBatch(events[50:].copy(), "ebpf", 1, 7, at(11), at(12))]
    )
    found = difference(HEALTHY, lossy)
    assert "opens_per_min" not in {each.metric.name for each in found.comparisons}
    assert whys(found)["opens_per_min"] == "events of B were lost, or its source changed: openings may be missing"


def test_a_trace_of_a_moment_has_no_rate() -> None:
    assert whys(difference(HEALTHY, whole(pulls(3, every_s=0.6))))["opens_per_min"].startswith("B lasted 1.")


def test_an_endpoint_without_connections_in_one_trace_is_said() -> None:
    nobody = collected_of([EventBatch(pulls(endpoint=2).copy(), "ebpf", 1)])
    assert ("everything", "B has no connection of it") in {
        (each.metric, each.why) for each in difference(HEALTHY, nobody).not_compared
    }


# --- other sources


def test_a_polled_trace_of_the_same_has_not_moved() -> None:
    found = difference(HEALTHY, polled_again())
    assert found.moved == []
    assert all(each.exact_to_ns >= 250_000_000 for each in found.comparisons)


def test_states_are_not_compared_with_a_polled_trace() -> None:
    found = difference(HEALTHY, polled_again())
    assert not [each for each in found.comparisons if each.metric.name.endswith("_state_ns")]
    assert "exact to" in whys(found)["times in states"]


def test_what_is_shorter_than_a_look_is_told_as_that() -> None:
    connect = of_metric(difference(HEALTHY, looked_at(pulls(seed=2, connect_s=1.5))), "connect_ns")
    assert connect.moved
    assert " went from <250ms to 1.5s (median; 60 and 60 connections" in sentence(connect)


def test_a_change_finer_than_the_coarser_source_has_not_moved() -> None:
    found = difference(HEALTHY, looked_at(pulls(seed=2, connect_s=0.1)))
    assert "connect_ns" not in moved(found)
    assert whys(found)["connect_ns"] == "A has <250ms and B 250ms, but times are exact to 250ms in one of them"


def test_owners_are_not_compared_where_one_trace_does_not_know_them() -> None:
    blind = whole(pulls(seed=2, without=EventFlag.OWNER))
    found = difference(HEALTHY, blind)
    assert "owner" not in {each.scope.kind for each in found.comparisons}
    assert whys(found)["owners"] == "the owner is known for 0% of B's 60 connections only"


# --- who is who


def labelled(label: str, role: Role = Role.UNKNOWN, **options: Any) -> Collected:
    return whole(pulls(**options), labels={1: label}, roles={1: role} if role is not Role.UNKNOWN else {})


@pytest.mark.parametrize(
    ("one", "other", "how"),
    [
        (labelled("a.example:443"), labelled("a.example:443"), "label"),
        (labelled("a.example:443"), labelled("a.example:8443"), "host"),
        (labelled("a.example:443", Role.MIRROR), labelled("b.example:443", Role.MIRROR), "role"),
        (labelled("a.example:443"), labelled("b.example:443"), None),
        (labelled("a.example:443", Role.API), labelled("a.example:80", Role.MIRROR), None),
        (labelled("[2001:db8::1]:443"), labelled("[2001:db8::1]:80"), "host"),
        (labelled("[2001:db8::1]:443"), labelled("[2001:db8::2]:443"), None),
    ],
)
def test_endpoints_are_matched_by_label_host_or_role(one: Collected, other: Collected, how: str | None) -> None:
    assert [match.how for match in difference(one, other).matches] == ([how] if how else [])


def test_a_match_that_is_not_by_name_is_said() -> None:
    (match,) = difference(labelled("a.example:443"), labelled("a.example:8443")).matches
    assert match_text(match) == "a.example:443 of A is compared with a.example:8443 of B (same host, other port)"


def test_two_candidates_are_not_guessed_among() -> None:
    two = whole(pulls(), labels={1: "a.example:1", 2: "a.example:2"})
    assert difference(two, labelled("a.example:3")).matches == ()


def test_the_user_knows_better() -> None:
    found = difference(labelled("a.example:443"), labelled("b.example:443", seed=2), {"a.example:443": "b.example:443"})
    assert [match.how for match in found.matches] == ["map"]
    assert "connect_ns" in {each.metric.name for each in found.comparisons}


@pytest.mark.parametrize(
    ("mapped", "said"),
    [({"x": "a.example:443"}, "'x' is no endpoint of A"), ({"a.example:443": "x"}, "'x' is no endpoint of B")],
)
def test_a_label_that_no_trace_has_is_a_usage_error(mapped: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        difference(labelled("a.example:443"), labelled("a.example:443"), mapped)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"container": "a" * 64, "runtime": "docker"}, {"container": "b" * 64, "runtime": "docker"}, True),
        ({"container": "web", "runtime": "lxc"}, {"container": "db", "runtime": "lxc"}, False),
        ({"unit": "docker.service"}, {"unit": "docker.service"}, True),
        ({"unit": "docker.service"}, {"unit": "other.service"}, False),
        ({"unit": "session-3.scope"}, {"unit": "session-9.scope"}, True),
        ({"container": "a" * 64, "runtime": "docker"}, {}, False),
    ],
)
def test_owners_are_matched_by_what_outlives_them(one: dict[str, str], other: dict[str, str], same: bool) -> None:
    found = difference(_of_owner(HEALTHY, one), _of_owner(HEALTHY, other))
    assert ("owner" in {each.scope.kind for each in found.comparisons}) == same
    assert ("owner" in {each.kind for each in found.only}) != same


def _of_owner(collected: Collected, values: dict[str, str]) -> Collected:
    detail = OwnerDetail(812, comm=b"dockerd", **values)  # type: ignore[arg-type]
    return replace(collected, details=(detail,) * len(collected.rows))


def test_owners_beyond_the_fifty_busiest_are_said_to_be_left_out() -> None:
    story = Story()
    for number in range(120):
        story.connection(number * 0.1, comm=b"client-%d" % (number % 60), pid=1000 + number % 60)
    trace = whole(story.events())
    found = difference(trace, trace)
    assert whys(found)["owners"] == "10 of 60 in both traces, those with the fewest connections, were left out"


def test_over_all_and_by_owner_is_compared_only_where_it_is_something_else() -> None:
    kinds = {each.scope.kind for each in difference(HEALTHY, SLOW).comparisons if each.metric.name != "interval_ns"}
    assert kinds == {"endpoint"}


def test_owners_that_differ_are_compared_each() -> None:
    def two(seed: int, connect_s: float) -> Collected:
        events = np.concatenate([pulls(seed=seed), pulls(seed=seed + 1, connect_s=connect_s, comm=b"skopeo", pid=9)])
        events["skaddr"][len(events) // 2 :] += 1 << 30
        return whole(events[np.argsort(events["ts_ns"], kind="stable")])

    found = difference(two(20, 0.01), two(30, 0.3))
    changed = {each.scope.b for each in found.moved if each.scope.kind == "owner" and each.metric.name == "connect_ns"}
    assert changed == {"skopeo"}


# --- what one trace has alone


def test_close_reasons_that_appear_are_counted() -> None:
    (reason,) = (each for each in difference(HEALTHY, REFUSED).only if each.kind == "close reason")
    assert (reason.name, reason.appeared, reason.count) == ("refused", True, int((REFUSED.rows["close_reason"] == 6).sum()))


def test_endpoints_that_appear_and_disappear_are_told() -> None:
    found = difference(labelled("a.example:443"), labelled("b.example:443"))
    assert [(each.name, each.appeared, each.count) for each in found.only if each.kind == "endpoint"] == [
        ("b.example:443", True, 60), ("a.example:443", False, 60),
    ]  # fmt: skip


def test_a_finding_of_b_alone_is_told_among_the_changes() -> None:
    found = difference(HEALTHY, REFUSED)
    names = [each.name for each in found.told if isinstance(each, Presence)]
    assert "refused" in names
    assert any(map(is_new_critical, found.only))


def test_a_finding_of_a_alone_is_told_apart_and_is_nothing_new() -> None:
    found = difference(REFUSED, HEALTHY)
    assert [each.appeared for each in found.only if each.kind == "finding" and each.name == "refused"] == [False]
    assert not any(map(is_new_critical, found.only))
    assert not [each for each in found.told if isinstance(each, Presence)]


def test_a_finding_of_both_is_neither_new_nor_gone() -> None:
    other = whole(pulls(seed=13, failing=0.5, kind="refused"))
    assert "refused" not in {each.name for each in difference(REFUSED, other).only if each.kind == "finding"}


def test_a_finding_where_the_other_trace_saw_nobody_says_so() -> None:
    found = difference(whole(pulls()[:0]), REFUSED)
    assert "A has no connection there" in {each.but for each in found.only if each.name == "refused"}


def test_a_rhythm_that_appears_is_told() -> None:
    story = Story()
    for start_s in (0, 2, 6, 14, 30):
        story.connection(start_s, received=1_000_000)
    (rhythm,) = (each for each in difference(HEALTHY, whole(story.events())).only if each.kind == "rhythm" and each.appeared)
    assert sentence(rhythm) == "rhythm exponential of dockerd at registry.example:443: 5 attempts in B, not in A"


def test_rules_that_were_set_differently_are_said() -> None:
    header = replace(HEALTHY.header, settings={"rules": "{}"})
    other = replace(HEALTHY, header=replace(header, settings={"rules": "[]"}))
    found = difference(replace(HEALTHY, header=header), other)
    said = [any("rules were set differently" in line for line in difference_texts(found, ("a", "b"), same_rules=same))
            for same in (False, True)]  # fmt: skip
    assert said == [True, False]


# --- the worst first


def test_what_is_told_is_in_the_order_of_badness() -> None:
    told = difference(SLOW, REFUSED).told
    assert len(told) > 3
    assert list(map(badness, told)) == sorted(map(badness, told), reverse=True)


def test_a_failure_is_told_before_what_follows_from_it_and_an_improvement_last() -> None:
    names = [each.metric.name for each in difference(SLOW, REFUSED).told if isinstance(each, Comparison)]
    assert names.index("refused") < names.index("connect_ns")


def test_it_is_the_same_every_time() -> None:
    assert list(map(sentence, difference(HEALTHY, REFUSED).told)) == list(map(sentence, difference(HEALTHY, REFUSED).told))


def test_other_addresses_of_an_endpoint_do_not_matter() -> None:
    moved_away = pulls(seed=2)
    moved_away["daddr"] = np.frombuffer(v4("198.51.100.9"), np.uint8)
    assert difference(HEALTHY, whole(moved_away)).moved == []


# --- any traces


@cache
def anything(seed: int) -> Collected:
    """A trace of random lives with holes in it, or of transitions that no TCP makes."""
    events = garbage_of_seed(seed) if seed % 3 == 0 else trace_of_seed(seed, holes=0.1 * (seed % 2))
    return whole(events, labels={})


@pytest.mark.parametrize("seed", range(6))
def test_any_trace_has_not_moved_from_itself(seed: int) -> None:
    found = difference(anything(seed), anything(seed))
    assert (found.told, found.only) == ((), ())


@pytest.mark.parametrize("seed", range(5))
def test_any_two_traces_can_be_told_both_ways_in_text_and_json(seed: int) -> None:
    there, back = difference(anything(seed), anything(seed + 1)), difference(anything(seed + 1), anything(seed))
    assert sorted(map(mirrored, back.comparisons), key=repr) == sorted(map(plain, there.comparisons), key=repr)
    assert all(line.isprintable() for line in difference_texts(there, ("a", "b"), everything=True))
    lines = [json.loads(line) for line in difference_lines(there, everything=True)]
    assert lines[-1]["compared"] == sum(line["type"] == "change" for line in lines)


@pytest.mark.parametrize("seed", range(4))
def test_visits_are_those_that_a_loop_over_connections_finds(seed: int) -> None:
    collected = anything(3 * seed + 1)
    rows, side = collected.rows, side_of(collected)
    visits: dict[int, int] = {}
    last: dict[Any, tuple[int, int, int]] = {}
    for index in sorted(range(len(rows)), key=lambda each: int(side.begun_ns[each])):
        row, begun_ns = rows[index], int(side.begun_ns[index])
        known = row["pid"] >= 0
        one_shot = family_of(bytes(row["comm"])).one_shot
        who = (row["comm"], row["cgroup_id"] if known else row["endpoint_id"], row["pid"] if known and one_shot else -1, known)
        number, start_ns, before_ns = last.get(who, (-1, 0, 0))
        if number < 0 or begun_ns - before_ns > VISIT_GAP_NS:
            number, start_ns = index, begun_ns
            part = 0
        else:
            part = (begun_ns - start_ns) // BLOCK_NS
        last[who] = (number, start_ns, begun_ns)
        visits[index] = number * 1_000_000 + part
    expected = {frozenset(index for index in visits if visits[index] == visit) for visit in visits.values()}
    found = {frozenset(np.flatnonzero(side.block == block).tolist()) for block in set(side.block.tolist())}
    assert found == expected
