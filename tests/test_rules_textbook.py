"""The textbook rules: they fire exactly as published, and not one short of it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stories import (
    LABELS,
    OTHER,
    PUBLIC,
    REGISTRY,
    S,
    Story,
    Verdict,
    at,
    close_waits,
    joined,
    judge,
    one,
    opening,
    with_thresholds,
)
from tests.traces import SECOND, event, trace, v4
from tracer.events import EventFlag, Events
from tracer.findings import Severity
from tracer.roles import Role
from tracer.rules.catalogue import TEXTBOOK

TEXTBOOK_SET = with_thresholds("textbook")


def by_the_book(events: Events, until_s: float, roles: dict[int, Role] | None = None, **thresholds: dict[str, Any]) -> Verdict:
    chosen = with_thresholds("textbook", **{f"textbook__{name}": values for name, values in thresholds.items()})
    return judge(events, until_s, settings=chosen, roles=roles or {})


def fires(rule: str, events: Events, until_s: float = 400, **options: Any) -> bool:
    return bool(by_the_book(events, until_s, **options).opened(f"textbook/{rule}"))


# --- what was published

PUBLISHED = {
    "textbook/rate-limit": {"close_wait_max": 3, "window_s": 60},
    "textbook/short-lives": {"life_min_s": 5, "life_max_s": 10, "healthy_min_s": 30},
    "textbook/token-aging": {"token_s": 300, "age_s": 270},
    "textbook/retry-storm": {"budget_per_min": 2500},
    "textbook/mirror-failure": {"mirrors_min": 2},
}


@pytest.mark.parametrize("rule", TEXTBOOK, ids=lambda rule: rule.id)
def test_published_thresholds_are_the_defaults(rule: Any) -> None:
    defaults = {item.name: item.default for item in fields(rule.Settings)}
    published = PUBLISHED.get(rule.id, {})
    assert {name: defaults[name] for name in published} == published


@pytest.mark.parametrize("rule", TEXTBOOK, ids=lambda rule: rule.id)
def test_a_threshold_is_published_or_chosen_and_says_so(rule: Any) -> None:
    for item in fields(rule.Settings):
        text = item.metadata["limit"].text
        assert ("published" in text or "chosen" in text) and (
            "published" in text or item.name not in PUBLISHED.get(rule.id, {})
        ), item


# --- rate-limit: more than 3 CLOSE_WAIT per address within 60 seconds


def test_rate_limit_fires_exactly_as_published() -> None:
    (found,) = by_the_book(close_waits((0, 10, 20, 30)), 40).opened("textbook/rate-limit")
    assert (found.started_ns, found.evidence["address"]) == (at(0), PUBLIC)
    assert at(30) < found.detected_ns <= at(31)


def test_rate_limit_one_short_of_it_does_not() -> None:
    assert not fires("rate-limit", close_waits((0, 10, 20)))


def test_rate_limit_at_the_edge_of_the_window_does_not() -> None:
    """The window is half-open: the fourth comes exactly 60 s after the first."""
    assert not fires("rate-limit", close_waits((0, 20, 40, 60)))


def test_rate_limit_a_nanosecond_within_the_window_fires() -> None:
    events = close_waits((0, 20, 40, 60))
    first = events["skaddr"] == events["skaddr"][0]
    events["ts_ns"][first & (events["new_state"] == S.CLOSE_WAIT)] += 1
    assert fires("rate-limit", events)


def test_rate_limit_counts_each_address_alone() -> None:
    events = joined(close_waits((0, 10)), close_waits((1, 11), address="93.184.216.35"))
    assert not fires("rate-limit", events)


def test_rate_limit_counts_any_four_in_a_row() -> None:
    """Three long ago do not hide four now."""
    events = close_waits((0, 1, 100, 200, 230, 240, 255))
    (found,) = by_the_book(events, 300).opened("textbook/rate-limit")
    assert found.started_ns == at(200)


def test_rate_limit_counts_entries_and_not_samples_or_what_follows() -> None:
    story = Story()
    for number in range(3):
        connection = story.connection(number, "peer", closing_s=10)
        story.sample(connection, number + 5, S.CLOSE_WAIT)
    assert not fires("rate-limit", story.events())


def test_rate_limit_takes_other_thresholds() -> None:
    events = close_waits((0, 10, 20))
    assert fires("rate-limit", events, rate_limit={"close_wait_max": 2})
    assert not fires("rate-limit", close_waits((0, 10, 20, 30)), rate_limit={"window_s": 30})
    assert fires("rate-limit", close_waits((0, 10, 20, 30)), rate_limit={"window_s": 31})


def test_rate_limit_fires_on_a_healthy_pull_by_dockerd() -> None:
    """Which is what makes it a textbook rule: nine connections that the registry closes first, all served."""
    assert fires("rate-limit", close_waits([number / 10 for number in range(9)]), 10)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=12, unique=True), st.integers(1, 4), st.integers(1, 90))
def test_rate_limit_agrees_with_a_naive_count(seconds: list[int], most: int, window_s: int) -> None:
    times = sorted(seconds)
    expected = any(later - first < window_s for first, later in zip(times, times[most:], strict=False))
    thresholds = {"close_wait_max": most, "window_s": window_s}
    assert fires("rate-limit", close_waits(times), 300, rate_limit=thresholds) == expected


# --- short-lives: ended within 5 to 10 seconds


@pytest.mark.parametrize(
    ("life_s", "expected"), [(4.999999999, False), (5, True), (7, True), (10, True), (10.000000001, False), (30, False)]
)
def test_short_lives_fires_from_5_to_10_seconds(life_s: float, expected: bool) -> None:
    assert fires("short-lives", one("reset", life_s=life_s), 60) == expected


def test_short_lives_is_about_connections_that_were_established() -> None:
    assert not fires("short-lives", one("timeout", life_s=7), 60)


def test_short_lives_needs_the_whole_life() -> None:
    assert not fires("short-lives", one("local", life_s=7)[1:], 60)


def test_short_lives_takes_other_thresholds() -> None:
    assert fires("short-lives", one("local", life_s=3), 60, short_lives={"life_min_s": 2})
    assert not fires("short-lives", one("local", life_s=9), 60, short_lives={"life_max_s": 8})


# --- churn


def test_churn_fires_above_its_numbers_only() -> None:
    assert fires("churn", opening(11, 5), 20)
    assert not fires("churn", opening(10, 5), 20)


def test_churn_needs_ends_too() -> None:
    assert not fires("churn", opening(11, 5, life_s=60), 20)


def test_churn_outside_of_the_window_does_not() -> None:
    assert not fires("churn", opening(11, 13), 30)


def test_churn_takes_other_thresholds() -> None:
    assert fires("churn", opening(6, 3), 20, churn={"opens_min": 5, "closes_min": 5})


# --- retry-storm: more opens a minute than the budget


def test_retry_storm_fires_above_the_budget() -> None:
    found = by_the_book(opening(2501, 50), 60).opened("textbook/retry-storm")
    assert [(each.evidence["opens_per_min"], each.suspects[0].comm) for each in found] == [(2501, b"dockerd")]


def test_retry_storm_at_the_budget_does_not() -> None:
    assert not fires("retry-storm", opening(2500, 50), 60)


def test_retry_storm_over_more_than_a_minute_does_not() -> None:
    assert not fires("retry-storm", opening(12, 72), 100, retry_storm={"budget_per_min": 10})


def test_retry_storm_takes_another_budget() -> None:
    assert fires("retry-storm", opening(11, 30), 60, retry_storm={"budget_per_min": 10})


# --- token-aging: established for longer than 4 min 30 s


def test_token_aging_fires_exactly_as_published() -> None:
    (found,) = by_the_book(one("local", keep=2), 280).opened("textbook/token-aging")
    assert found.started_ns == at(270.001)
    assert at(270) < found.detected_ns <= at(272)


def test_token_aging_before_4_min_30_does_not() -> None:
    assert not fires("token-aging", one("local", keep=2), 270)


def test_token_aging_of_a_connection_that_ended_before_does_not() -> None:
    assert not fires("token-aging", one("local", life_s=269.9), 400)


def test_token_aging_is_over_when_the_connection_ends() -> None:
    found = by_the_book(one("local", life_s=290), 330)
    assert found.opened("textbook/token-aging")
    assert not found.still_open


def test_token_aging_needs_the_establishment() -> None:
    assert not fires("token-aging", trace(event(S.ESTABLISHED, S.CLOSE_WAIT, at(0))), 400)


def test_token_aging_takes_another_age() -> None:
    assert fires("token-aging", one("local", keep=2), 100, token_aging={"age_s": 90})


# --- token-expiry: all connections of an endpoint end at once


def ending_at(*ends_s: float, kept_open: bool = False, endpoint: int = REGISTRY) -> Events:
    story = Story()
    for number, end_s in enumerate(ends_s):
        story.connection(number / 100, life_s=end_s - number / 100, endpoint=endpoint, closing_s=0)
    if kept_open:
        story.connection(0.5, keep=2, endpoint=endpoint)
    return story.events()


def test_token_expiry_fires_when_all_end_at_once() -> None:
    (found,) = by_the_book(ending_at(20, 20, 20.5), 30).opened("textbook/token-expiry")
    assert (found.started_ns, found.evidence["connections"]) == (at(20), 3)


def test_token_expiry_of_a_single_connection_does_not() -> None:
    assert not fires("token-expiry", ending_at(20), 30)


def test_token_expiry_does_not_while_one_is_left() -> None:
    assert not fires("token-expiry", ending_at(20, 20, kept_open=True), 30)


def test_token_expiry_of_ends_one_after_the_other_does_not() -> None:
    assert not fires("token-expiry", ending_at(10, 20), 30)


def test_token_expiry_of_connections_one_after_the_other_does_not() -> None:
    """Each was opened when the one before had ended: they were not open together."""
    story = Story()
    for number in range(4):
        story.connection(number / 10, life_s=0.05)
    assert not fires("token-expiry", story.events(), 10)


@pytest.mark.parametrize(("later_ns", "expected"), [(SECOND, False), (SECOND - 1, True)])
def test_token_expiry_has_a_half_open_window(later_ns: int, expected: bool) -> None:
    events = ending_at(20, 20)
    last = events["skaddr"] == events["skaddr"].max()
    events["ts_ns"][last & (events["new_state"] == S.CLOSE)] = at(20) + later_ns
    events["ts_ns"][last & (events["old_state"] == S.FIN_WAIT1)] = at(20)
    events = events[events["ts_ns"].argsort(kind="stable")]
    assert fires("token-expiry", events, 30) == expected


def test_token_expiry_takes_other_thresholds() -> None:
    assert fires("token-expiry", ending_at(20), 30, token_expiry={"connections_min": 1})
    assert fires("token-expiry", ending_at(17, 20), 30, token_expiry={"window_s": 4})


# --- auth-failure


def test_auth_failure_fires_right_after_all_had_ended_at_once() -> None:
    events = joined(ending_at(20, 20), one("peer", 30, life_s=0.2))
    (found,) = by_the_book(events, 40).opened("textbook/auth-failure")
    assert found.started_ns == pytest.approx(at(30.2), abs=10_000_000)


def test_auth_failure_long_after_does_not() -> None:
    assert not fires("auth-failure", joined(ending_at(20, 20), one("peer", 90, life_s=0.2)), 120)


def test_auth_failure_of_a_connection_that_lasts_does_not() -> None:
    assert not fires("auth-failure", joined(ending_at(20, 20), one("peer", 30, life_s=2)), 40)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.1.2.3", True), ("192.168.0.9", True), ("172.16.5.5", True), (PUBLIC, False), ("127.0.0.5", False)],
)
def test_auth_failure_fires_at_private_addresses(address: str, expected: bool) -> None:
    assert fires("auth-failure", one("peer", life_s=0.2, address=address), 5) == expected


def test_auth_failure_fires_at_a_registry_said_to_be_private() -> None:
    assert fires("auth-failure", one("peer", life_s=0.2), 5, roles={REGISTRY: Role.PRIVATE})


def test_auth_failure_takes_other_thresholds() -> None:
    assert fires("auth-failure", one("peer", life_s=2, address="10.1.2.3"), 5, auth_failure={"life_max_s": 3})


# --- unreachable


@pytest.mark.parametrize(("life_s", "expected"), [(2.9, False), (3, True)])
def test_unreachable_fires_after_3_seconds_in_syn_sent(life_s: float, expected: bool) -> None:
    assert fires("unreachable", one("aborted", life_s=life_s), 10) == expected


def test_unreachable_fires_while_it_lasts() -> None:
    (found,) = by_the_book(one("timeout", keep=1), 10).opened("textbook/unreachable")
    assert found.detected_ns == at(3)


@pytest.mark.parametrize("kind", ["timeout", "unreachable"])
def test_unreachable_fires_on_what_the_kernel_says(kind: str) -> None:
    assert fires("unreachable", one(kind, life_s=0.01), 10)


@pytest.mark.parametrize("kind", ["refused", "local", "peer", "aborted"])
def test_unreachable_does_not_on_other_ends(kind: str) -> None:
    assert not fires("unreachable", one(kind, life_s=0.01), 10)


def test_unreachable_takes_another_time() -> None:
    assert not fires("unreachable", one("aborted", life_s=5), 10, unreachable={"syn_sent_s": 6})


# --- refused


def test_refused_fires_on_a_single_one() -> None:
    assert fires("refused", one("refused"), 5)


def test_refused_fires_although_a_sibling_connects() -> None:
    """To the letter: the evidence rule knows better."""
    assert fires("refused", joined(one("refused"), one("local", 0.001)), 5)


@pytest.mark.parametrize("kind", ["timeout", "aborted", "reset", "local"])
def test_refused_does_not_on_other_ends(kind: str) -> None:
    assert not fires("refused", one(kind), 5)


# --- capacity


@pytest.mark.parametrize(("closing_s", "expected"), [(5, False), (5.1, True)])
def test_capacity_fires_above_5_seconds_in_close_wait(closing_s: float, expected: bool) -> None:
    assert fires("capacity", one("peer", closing_s=closing_s), 30) == expected


def test_capacity_fires_while_it_lasts() -> None:
    (found,) = by_the_book(one("peer", keep=3, life_s=1), 10).opened("textbook/capacity")
    assert at(6) < found.detected_ns <= at(7)


def test_capacity_takes_another_time() -> None:
    assert fires("capacity", one("peer", closing_s=2), 30, capacity={"close_wait_s": 1})


# --- mirror-failure


def failing(*at_s: float, kind: str = "refused") -> Events:
    story = Story()
    for endpoint, start_s in enumerate(at_s, 1):
        story.connection(start_s, kind, endpoint=endpoint)
    return story.events()


@pytest.mark.parametrize("kind", ["refused", "timeout", "unreachable"])
def test_mirror_failure_fires_when_two_fail_together(kind: str) -> None:
    (found,) = by_the_book(failing(0, 5, kind=kind), 20).opened("textbook/mirror-failure")
    assert found.evidence["endpoints"] == [LABELS[1], LABELS[2]]


def test_mirror_failure_of_one_that_fails_twice_does_not() -> None:
    assert not fires("mirror-failure", joined(one("refused"), one("refused", 1)), 20)


def test_mirror_failure_far_apart_does_not() -> None:
    assert not fires("mirror-failure", failing(0, 15), 30)


def test_mirror_failure_takes_other_thresholds() -> None:
    assert not fires("mirror-failure", failing(0, 1), 20, mirror_failure={"mirrors_min": 3})
    assert fires("mirror-failure", failing(0, 15), 30, mirror_failure={"window_s": 20})


# --- recovered


def test_recovered_fires_on_an_establishment_after_a_failure() -> None:
    (found,) = by_the_book(joined(one("refused"), one("local", 5)), 10).opened("textbook/recovered")
    assert (found.severity, found.started_ns) == (Severity.NOTICE, at(5.001))


def test_recovered_without_a_failure_does_not() -> None:
    assert not fires("recovered", one("local"), 10)


def test_recovered_at_another_endpoint_does_not() -> None:
    assert not fires("recovered", joined(one("refused"), one("local", 5, endpoint=OTHER)), 10)


def test_recovered_fires_once_for_each_failure() -> None:
    events = joined(one("refused"), one("local", 5), one("local", 30), one("refused", 60), one("local", 65))
    assert len(by_the_book(events, 90).opened("textbook/recovered")) == 2


# --- all of them


def test_a_connection_that_nothing_is_wrong_with_is_no_finding() -> None:
    """A minute of a download that the client ends itself."""
    assert by_the_book(one("local", life_s=60, received=10**9, acked=500), 400).findings == []


def test_the_set_needs_no_enrichment() -> None:
    events = close_waits((0, 1, 2, 3))
    events["flags"] &= ~np.uint32(EventFlag.HAS_RECEIVED | EventFlag.HAS_ACKED | EventFlag.HAS_TASK)
    assert fires("rate-limit", events, 10)
    assert not judge(events, 10, settings=TEXTBOOK_SET).abstained


def test_addresses_of_version_6_are_written_as_such() -> None:
    events = close_waits((0, 1, 2, 3))
    events["daddr"] = [int(part) for part in bytes.fromhex("20010db8" + "0" * 23 + "1")]
    (found,) = by_the_book(events, 10).opened("textbook/rate-limit")
    assert found.evidence["address"] == "2001:db8::1"
    assert v4("1.2.3.4")[-4:] == bytes((1, 2, 3, 4))


def test_one_endpoint_with_many_refusals_does_not_hide_another() -> None:
    story = Story()
    for number in range(300):
        story.connection(0.1 + number / 10_000, "refused", life_s=0.001, pid=number + 1)
    story.connection(0.15, "refused", life_s=0.001, endpoint=OTHER)
    found = [finding for finding in judge(story.events(), 2).findings if finding.rule == "textbook/refused"]
    assert {(finding.endpoint_id, finding.evidence["connections"]) for finding in found} == {(REGISTRY, 300), (OTHER, 1)}
