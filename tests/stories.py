"""Stories: traces that are long enough for rules to judge: clients, registries, and what goes wrong between them.

A `Story` is written connection by connection, in seconds from its start, and gives the events in the order of time. `TALES`
holds one for each rule in which that rule has to speak, so that what must hold for every rule can be tested with every rule.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from tests.traces import PATHS, SKADDR, START_NS, event, sample, trace, v4
from tracer.analysis import Analysis
from tracer.events import EVENT_DTYPE, EventBatch, EventFlag, Events, TcpState, no_events
from tracer.findings import Finding, FindingState, Severity
from tracer.roles import Role
from tracer.rules.catalogue import BY_ID
from tracer.rules.settings import RuleSettings

S = TcpState
REGISTRY, OTHER, TOKENS = 1, 2, 3
LABELS = {REGISTRY: "registry.example:443", OTHER: "upstream.example:443", TOKENS: "tokens.example:443"}
ROLES = {TOKENS: Role.AUTH}
ALL = RuleSettings("all", benign=True)
PUBLIC = "93.184.216.34"
"""An address that is neither private nor kept for documentation, which Python calls private."""
_NEVER_UP = ("refused", "timeout", "unreachable", "aborted")


def at(seconds: float) -> int:
    """Boottime of a moment of a story."""
    return START_NS + round(seconds * 1_000_000_000)


def with_thresholds(rule_set: str = "all", **by_rule: dict[str, Any]) -> RuleSettings:
    """Settings with some thresholds changed; the names of rules with _ for - and __ for /."""
    names = {name.replace("__", "/").replace("_", "-"): values for name, values in by_rule.items()}
    return RuleSettings(rule_set, {name: BY_ID[name].Settings(**values) for name, values in names.items()}, benign=True)


class Story:
    """A trace being written."""

    def __init__(self) -> None:
        self._events: list[np.void] = []
        self._sockets = 0

    def connection(
        self,
        at_s: float,
        kind: str = "local",
        *,
        life_s: float = 0.01,
        received: int = 0,
        acked: int = 0,
        unread: int = 0,
        idle_ms: int = 0,
        comm: bytes = b"dockerd",
        pid: int = 812,
        cgroup_id: int = 3001,
        endpoint: int = REGISTRY,
        address: str = PUBLIC,
        connect_s: float = 0.001,
        closing_s: float = 0.001,
        keep: int = 9,
        without: EventFlag | int = 0,
    ) -> dict[str, Any]:
        """A whole life, or its first `keep` transitions.

        Args:
            at_s: when it opens.
            kind: key of PATHS.
            life_s: from its opening until ESTABLISHED (or SYN_SENT) is left.
            received, acked, unread, idle_ms: counters at that moment and after.
            comm, pid, cgroup_id: of the owner.
            endpoint, address: where to.
            connect_s: from opening to ESTABLISHED.
            closing_s: between the transitions that follow.
            keep: left open after so many transitions.
            without: flags that no event has.

        Returns:
            What its samples have in common; for `sample`.
        """
        self._sockets += 1
        common: dict[str, Any] = {
            "skaddr": SKADDR + 0x1000 * self._sockets, "endpoint_id": endpoint, "daddr": v4(address), "without": without,
            "sport": 20_000 + self._sockets % 40_000,
        }  # fmt: skip
        counters = {"bytes_received": received, "bytes_acked": acked, "unread_bytes": unread, "idle_ms": idle_ms}
        ends_s = at_s + life_s
        for step, (old, new, sk_err) in enumerate(PATHS[kind][:keep]):
            if step == 0:
                owner = {"pid": pid, "comm": comm, "cgroup_id": cgroup_id}
                self._events.append(event(old, new, at(at_s), **common | {"sport": 0} | owner))
            elif step == 1 and kind not in _NEVER_UP:
                self._events.append(event(old, new, at(at_s + connect_s), sk_err=sk_err, **common))
            else:
                self._events.append(event(old, new, at(ends_s), sk_err=sk_err, **common, **counters))
                ends_s += closing_s
        return {name: common[name] for name in ("skaddr", "endpoint_id", "daddr", "sport")}

    def sample(self, connection: dict[str, Any], at_s: float, state: TcpState = S.ESTABLISHED, **counters: int) -> None:
        """A sample of an open connection."""
        self._events.append(sample(state, at(at_s), **connection, **counters))

    def events(self) -> Events:
        """All of it, in the order of time."""
        return trace(*sorted(self._events, key=lambda each: int(each["ts_ns"])))


@dataclass(frozen=True)
class Tale:
    """A trace in which a rule has to speak, with the settings for it, and how far the trace reaches."""

    events: Events
    until_s: float
    settings: RuleSettings = ALL
    roles: dict[int, Role] = field(default_factory=lambda: dict(ROLES))


@dataclass(frozen=True)
class Verdict:
    """What came of a trace."""

    findings: list[Finding]
    abstained: dict[str, str]
    worst: Severity | None
    episodes: int
    still_open: tuple[Finding, ...]

    def of(self, rule: str, state: FindingState | None = None) -> list[Finding]:
        """A rule's lines."""
        return [each for each in self.findings if each.rule == rule and state in (None, each.state)]

    def opened(self, rule: str) -> list[Finding]:
        """A rule's episodes as they were opened."""
        return self.of(rule, FindingState.OPEN)

    @property
    def rules(self) -> set[str]:
        """Those that found something."""
        return {each.rule for each in self.findings}


def judge_batches(
    batches: Sequence[EventBatch],
    settings: RuleSettings = ALL,
    roles: Mapping[int, Role] | None = None,
    source: str = "ebpf",
    resolution_ns: int = 1,
) -> Verdict:
    """Feed batches, close, and say what was found."""
    made = Analysis(source, resolution_ns, LABELS, settings, dict(ROLES if roles is None else roles))
    findings = [finding for batch in batches for finding in made.feed(batch).findings]
    findings += made.close()
    summary = made.headline()
    return Verdict(findings, dict(summary.abstained), made.worst, summary.episodes, summary.findings)


def judge(events: Events, until_s: float | None = None, lost: tuple[int, float, float] | None = None, **options: Any) -> Verdict:
    """Judge a trace that came in one batch.

    Args:
        events: in their order.
        until_s: the trace reaches to there.
        lost: (how many, since, until): lost before the first event that is not before `until`.
        options: of `judge_batches`.
    """
    batches = []
    if lost is not None:
        count, since_s, until_lost_s = lost
        first = int(np.searchsorted(events["ts_ns"], at(until_lost_s)))
        batches.append(EventBatch(events[:first].copy(), "ebpf", 1))
        batches.append(EventBatch(events[first:].copy(), "ebpf", 1, count, at(since_s), at(until_lost_s)))
    else:
        batches.append(EventBatch(events.copy(), "ebpf", 1))
    if until_s is not None:
        batches.append(EventBatch(no_events(), "ebpf", 1, until_ns=at(until_s)))
    return judge_batches(batches, **options)


def tell(tale: Tale, **options: Any) -> Verdict:
    """Judge a tale."""
    return judge(tale.events, tale.until_s, **{"settings": tale.settings, "roles": tale.roles} | options)


# --- one tale for each rule


def backing_off(starts_s: Sequence[float] = (0, 2, 6, 14, 30), received: int = 222, **options: Any) -> Events:
    """One process of skopeo that gets the same short answer again and again."""
    story = Story()
    for start_s in starts_s:
        story.connection(start_s, "peer", **{"received": received, "acked": 150, "comm": b"skopeo", "pid": 77} | options)
    return story.events()


def trying(period_s: float = 1.0, count: int = 8, kind: str = "refused", new_pid: bool = True, **options: Any) -> Events:
    """Attempts at an even pace."""
    story = Story()
    for number in range(count):
        story.connection(number * period_s, kind, **{"comm": b"sh", "pid": 500 + number if new_pid else 500} | options)
    return story.events()


def opening(count: int, over_s: float, endpoint: int = REGISTRY, life_s: float = 0.01) -> Events:
    """Connections opened at an even pace."""
    story = Story()
    for number in range(count):
        story.connection(number * over_s / count, life_s=life_s, received=50_000, acked=100, endpoint=endpoint)
    return story.events()


def pulling(story: Story, at_s: float, answer: int = 5000, download: int = 1_000_000, pid: int = 812) -> None:
    """A pull: the registry says no, the token server gives a token, the registry serves."""
    story.connection(at_s, received=400, acked=100, pid=pid)
    story.connection(at_s + 0.05, received=answer, acked=200, endpoint=TOKENS, pid=pid)
    story.connection(at_s + 0.10, received=download, acked=900, pid=pid)


def _token_expiry() -> Events:
    story = Story()
    pulling(story, 0)
    pulling(story, 10)
    story.connection(20, received=1_000_000, acked=900, life_s=0.5)
    story.connection(21, received=300, acked=200, endpoint=TOKENS)
    return story.events()


def refused_tokens(times: int = 1) -> Events:
    """Two pulls with a token, then requests for one that are answered with much less."""
    story = Story()
    pulling(story, 0)
    pulling(story, 10)
    for number in range(times):
        story.connection(30 + 10 * number, received=400, acked=100)
        story.connection(30.05 + 10 * number, received=300, acked=200, endpoint=TOKENS)
    return story.events()


def _token_aging() -> Events:
    story = Story()
    story.connection(0, keep=2)
    story.connection(1, received=5000, acked=200, endpoint=TOKENS)
    return story.events()


def waiting(until_s: float, received: int = 0, acked: int = 150, comm: bytes = b"dockerd", stops_s: float = 0.0) -> Events:
    """One connection that is sampled every second; what it has received grows until `stops_s`, and then no more."""
    story = Story()
    connection = story.connection(0, comm=comm, keep=2)
    for second in range(1, int(until_s) + 1):
        silent_s = second if not received else max(second - stops_s, 0)
        grown = int(received * min(1.0, second / stops_s)) if received else 0
        story.sample(connection, second, bytes_received=grown, bytes_acked=acked, idle_ms=int(silent_s * 1000), unread_bytes=0)
    return story.events()


def falling_through(kind: str = "refused", received: int = 0, next_received: int = 1_000_000, next_kind: str = "local") -> Events:
    """A client at one endpoint, and right after at another."""
    story = Story()
    story.connection(0, kind, received=received, acked=100 if received else 0)
    story.connection(0.1, next_kind, endpoint=OTHER, received=next_received, acked=200, life_s=0.2)
    return story.events()


def one(kind: str, at_s: float = 0, **options: Any) -> Events:
    """A single connection."""
    story = Story()
    story.connection(at_s, kind, **options)
    return story.events()


def joined(*parts: Events) -> Events:
    """Several traces as one, in the order of time; the sockets of each are its own."""
    moved = []
    for number, part in enumerate(parts):
        own = part.copy()
        own["skaddr"] += np.uint64(0x1000_0000 * number)
        moved.append(own)
    events = np.concatenate([np.zeros(0, EVENT_DTYPE), *moved])
    return events[np.argsort(events["ts_ns"], kind="stable")]


def shifted_by(events: Events, seconds: float) -> Events:
    """The same, so much later (or earlier)."""
    moved = events.copy()
    moved["ts_ns"] = moved["ts_ns"].astype(np.int64) + round(seconds * 1_000_000_000)
    return moved


def close_waits(times_s: Sequence[float], address: str = PUBLIC, late_ns: int = 0, **options: Any) -> Events:
    """Connections that enter CLOSE_WAIT at these times; the last one so much later."""
    story = Story()
    for time_s in times_s:
        story.connection(
            time_s - 0.01, "peer", **{"life_s": 0.01, "address": address, "received": 50_000, "acked": 200} | options
        )
    events = story.events()
    last = events["skaddr"] == events["skaddr"][-1]
    events["ts_ns"][last & (events["old_state"] != S.CLOSE)] += np.uint64(late_ns)
    return events


def _two_at_once() -> Events:
    story = Story()
    for start_s in (0, 2):
        story.connection(start_s, life_s=20 - start_s, received=50_000, acked=100)
    return story.events()


def _mirrors() -> Events:
    story = Story()
    for number, endpoint in enumerate((REGISTRY, OTHER)):
        story.connection(number, "refused", endpoint=endpoint)
    return story.events()


TALES: dict[str, Callable[[], Tale]] = {
    "rate-limit": lambda: Tale(backing_off(), 40),
    "retry-storm": lambda: Tale(trying(), 20),
    "churn": lambda: Tale(opening(24, 30), 100, with_thresholds(churn={"budget_per_min": 20})),
    "token-expiry": lambda: Tale(_token_expiry(), 30),
    "token-aging": lambda: Tale(_token_aging(), 300),
    "auth-failure": lambda: Tale(refused_tokens(), 40),
    "unreachable": lambda: Tale(one("timeout", keep=1), 10),
    "refused": lambda: Tale(one("refused"), 10),
    "reset": lambda: Tale(joined(*(one("reset", number, received=1_000_000, acked=300, life_s=2) for number in range(4))), 10),
    "stalled": lambda: Tale(waiting(25), 25),
    "slow-consumer": lambda: Tale(one("peer", received=900_000, acked=200, unread=100_000, life_s=1, closing_s=10), 30),
    "mirror-failure": lambda: Tale(falling_through(), 10),
    "idle-close": lambda: Tale(one("peer", received=5000, acked=200, idle_ms=75_000, life_s=80), 90),
    "recovered": lambda: Tale(joined(one("refused"), one("local", 5, received=20_000, acked=100)), 20),
    "textbook/rate-limit": lambda: Tale(close_waits((0, 10, 20, 30)), 40),
    "textbook/short-lives": lambda: Tale(one("local", life_s=7, received=5000, acked=100), 10),
    "textbook/churn": lambda: Tale(opening(11, 5), 20),
    "textbook/retry-storm": lambda: Tale(opening(11, 30), 40, with_thresholds(textbook__retry_storm={"budget_per_min": 10})),
    "textbook/token-aging": lambda: Tale(one("local", keep=2), 280),
    "textbook/token-expiry": lambda: Tale(_two_at_once(), 30),
    "textbook/auth-failure": lambda: Tale(one("peer", received=300, acked=100, life_s=0.1, address="10.1.2.3"), 5),
    "textbook/unreachable": lambda: Tale(one("timeout", life_s=5), 10),
    "textbook/refused": lambda: Tale(one("refused"), 5),
    "textbook/capacity": lambda: Tale(one("peer", received=5000, closing_s=10), 30),
    "textbook/mirror-failure": lambda: Tale(_mirrors(), 10),
    "textbook/recovered": lambda: Tale(joined(one("refused"), one("local", 5, received=20_000, acked=100)), 20),
}  # fmt: skip
"""By rule id."""


# --- however a stream is cut


@dataclass(frozen=True)
class Stream:
    """A trace with what comes between its events.

    Attributes:
        events: in the order of delivery.
        losses: (how many, since, until) by the position of the event that follows.
        marks: boottime by the position of the event that follows; a mark comes before a loss at the same place.
    """

    events: Events
    losses: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    marks: dict[int, int] = field(default_factory=dict)


def stream_cuts(stream: Stream, seed: int = 0) -> Iterator[list[EventBatch]]:
    """The same stream in batches: as few as can be, one by one, and three random ways; marks alone or with what precedes."""
    random = Random(seed)
    count = len(stream.events)
    fixed = {0, count, *stream.losses, *stream.marks}
    ways = [fixed, {*fixed, *range(count + 1)}]
    ways += [fixed | {random.randint(0, count) for _ in range(random.randint(1, 12))} for _ in range(3)]
    for number, edges in enumerate(ways):
        yield list(_batches(stream, sorted(edges), marks_alone=number % 2 == 1))


def _batches(stream: Stream, edges: list[int], marks_alone: bool) -> Iterator[EventBatch]:
    spans = list(itertools.pairwise(edges)) or [(0, 0)]
    if 0 in stream.marks:
        yield EventBatch(no_events(), "ebpf", 1, until_ns=stream.marks[0])
    for start, end in spans:
        lost, since_ns, until_lost_ns = stream.losses.get(start, (0, 0, 0))
        mark_ns = stream.marks.get(end, 0) if end else 0
        together = 0 if marks_alone else mark_ns
        yield EventBatch(stream.events[start:end].copy(), "ebpf", 1, lost, since_ns, until_lost_ns, until_ns=together)
        if mark_ns and marks_alone:
            yield EventBatch(no_events(), "ebpf", 1, until_ns=mark_ns)
    last = stream.losses.get(edges[-1]) if len(edges) > 1 else None
    if last:
        yield EventBatch(no_events(), "ebpf", 1, *last)


def assert_same_verdict_however_cut(
    stream: Stream, settings: RuleSettings = ALL, seed: int = 0, roles: Mapping[int, Role] | None = None
) -> Verdict:
    """The same findings with the same times for every cut; returns them."""
    first: Verdict | None = None
    for batches in stream_cuts(stream, seed):
        found = judge_batches(batches, settings, roles)
        if first is None:
            first = found
        assert found.findings == first.findings, f"batches of {[len(batch) for batch in batches][:40]} events"
        assert found == first
    assert first is not None
    return first
