"""The evidence rules where it was not seen who opened a connection: to a poller most short ones are somebody's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stories import OTHER, REGISTRY, ROLES, TOKENS, Story, Verdict, judge, with_thresholds
from tracer.events import EventFlag
from tracer.findings import Finding
from tracer.roles import Role

NAMELESS = EventFlag.OWNER | EventFlag.HAS_TASK | EventFlag.HAS_CGROUP
LARGE = 2_000_000


def judged(story: Story, roles: dict[int, Role] | None = None, until_s: float = 120) -> Verdict:
    return judge(story.events(), until_s, settings=with_thresholds("evidence"), roles=ROLES if roles is None else roles)


def somebody(story: Story, at_s: float, kind: str = "peer", **options: Any) -> None:
    """A connection of which no owner is known."""
    story.connection(at_s, kind, without=NAMELESS, **options)


def downloads(*names: bytes) -> Story:
    story = Story()
    for number, comm in enumerate(names):
        story.connection(number, received=LARGE, acked=400, comm=comm, life_s=0.5)
    return story


def refused_at_once(*names: bytes) -> list[Finding]:
    """What is said of four equal short answers to somebody, where programs of these names are known."""
    story = downloads(*names)
    for number in range(4):
        somebody(story, 20 + 0.02 * number, received=132, acked=312)
    return judged(story).opened("rate-limit")


def test_rate_limit_is_told_by_the_only_kind_of_client_that_is_known_there() -> None:
    (finding,) = refused_at_once(b"ctr")
    assert finding.evidence["client_known"] is False
    assert finding.confidence == finding.evidence["causes"]["rate-limit"] == 0.72


def test_rate_limit_is_surer_of_a_client_that_was_seen() -> None:
    story = Story()
    for number in range(4):
        story.connection(20 + 0.02 * number, received=132, acked=312, comm=b"ctr")
    (finding,) = judged(story).opened("rate-limit")
    assert finding.evidence["client_known"] is True
    assert finding.confidence == 0.8


@pytest.mark.parametrize("names", [(), (b"curl",), (b"ctr", b"skopeo"), (b"ctr", b"python3")])
def test_rate_limit_is_not_told_where_clients_of_several_kinds_or_none_are_known(names: tuple[bytes, ...]) -> None:
    assert not refused_at_once(*names)


@pytest.mark.parametrize(("role", "told"), [(Role.MIRROR, True), (Role.UNKNOWN, False)])
def test_mirror_failure_with_a_download_of_anybody_needs_the_role(role: Role, told: bool) -> None:
    story = Story()
    somebody(story, 1, "refused")
    story.connection(1.1, received=LARGE, acked=400, endpoint=OTHER, life_s=0.5)
    assert bool(judged(story, {REGISTRY: role}).opened("mirror-failure")) is told


@pytest.mark.parametrize(("comes_back", "told"), [(True, False), (False, True)])
def test_auth_failure_needs_that_nobody_who_may_have_got_the_token_came_back(comes_back: bool, told: bool) -> None:
    story = Story()
    somebody(story, 1, received=400, acked=100)
    somebody(story, 1.1, received=300, acked=200, endpoint=TOKENS)
    if comes_back:
        story.connection(1.2, received=LARGE, acked=400, life_s=0.5)
    assert bool(judged(story).opened("auth-failure")) is told


@pytest.mark.parametrize(("pause_s", "factor", "told"), [(2, 2, False), (5, 1, True)])
def test_retry_storm_at_doubling_pauses_may_be_the_patience_of_one_process(pause_s: float, factor: float, told: bool) -> None:
    story, at_s = Story(), 0.0
    for number in range(8):
        somebody(story, at_s, "refused")
        at_s += pause_s * factor**number
    assert bool(judged(story, until_s=at_s).opened("retry-storm")) is told


def test_stalled_knows_what_somebody_used_to_get_for_the_same_request() -> None:
    story = Story()
    for number in range(3):
        somebody(story, number, received=5000, acked=700)
    waiting = story.connection(10, received=1500, acked=700, life_s=0.2, keep=2)
    for second in range(1, 40):
        story.sample(waiting, 10 + second, bytes_received=1500, bytes_acked=700, idle_ms=1000 * second, unread_bytes=0)
    assert judged(story, until_s=50).opened("stalled")
