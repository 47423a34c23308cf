"""Presence: what one trace has and the other has not: findings, close reasons, rhythms, endpoints and owners. Pure.

These are facts about both traces and no samples of anything: they have no p. How sure a finding is, its rule says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tracer.cadence import Rhythm
from tracer.comparison.matching import Match
from tracer.comparison.sides import Side
from tracer.findings import Finding, Severity
from tracer.lifecycle import REASON_NAMES, CloseReason
from tracer.text import comm_text

KINDS = ("finding", "close reason", "rhythm", "endpoint", "owner")
"""In the order in which they are told."""


@dataclass(frozen=True)
class Presence:
    """Something that is in one trace only.

    Attributes:
        kind: one of KINDS.
        name: of the rule, the reason, the endpoint or the owner; of a rhythm what it is and whose.
        endpoint: where, as the trace calls it that has it; "" for owners.
        appeared: it is in B, and not in A; False: the other way round.
        count: of connections, of episodes, or of attempts.
        finding: the most severe one of them.
        but: why the other trace may not have found it although it was there; "" no reason is known.
    """

    kind: str
    name: str
    endpoint: str
    appeared: bool
    count: int
    finding: Finding | None = None
    but: str = ""


def presences(a: Side, b: Side, matches: tuple[Match, ...]) -> list[Presence]:
    """Everything that is in one trace only: findings first, the worst first among them."""
    found: list[Presence] = []
    for side, other, appeared in ((b, a, True), (a, b, False)):
        names = {match.b: match.a for match in matches} if appeared else {match.a: match.b for match in matches}
        found += _findings(side, other, names, appeared)
        found += _reasons(side, other, names, appeared)
        found += _rhythms(side, other, names, appeared)
        found += _labels(side, set(names), appeared)
        found += _owners(side, other, appeared)
    return sorted(found, key=_order)


def _order(presence: Presence) -> tuple[int, int, float, bool, str, str]:
    finding = presence.finding
    severity, confidence = (0, 0.0) if finding is None else (-int(finding.severity), -finding.confidence)
    return KINDS.index(presence.kind), severity, confidence, not presence.appeared, presence.endpoint, presence.name


def _findings(side: Side, other: Side, names: dict[str, str], appeared: bool) -> Iterator[Presence]:
    """Rules that fired at an endpoint in this trace and not in the other; `names` are what the other one calls endpoints."""
    there = {(finding.rule, _label(other, finding)) for finding in other.collected.findings}
    by_rule: dict[tuple[str, str], list[Finding]] = {}
    for finding in side.collected.findings:
        by_rule.setdefault((finding.rule, _label(side, finding)), []).append(finding)
    for (rule, label), episodes in by_rule.items():
        name = names.get(label, "")
        if (rule, name) not in there:
            worst = max(episodes, key=lambda each: (each.severity, each.confidence, -each.episode))
            but = _excuse(other, rule, name, "A" if appeared else "B")
            yield Presence("finding", rule, label, appeared, len(episodes), worst, but)


def _excuse(side: Side, rule: str, label: str, name: str) -> str:
    """Why a trace may not have found what was there."""
    if label not in side.labels or not (side.endpoint == side.labels.index(label)).any():
        return f"{name} has no connection there"
    silent = {found for found, _ in side.collected.summary.abstained}
    return f"the rule did not judge all of {name}" if rule in silent else ""


def _label(side: Side, finding: Finding) -> str:
    return side.collected.endpoints.get(finding.endpoint_id, f"endpoint {finding.endpoint_id}")


def _reasons(side: Side, other: Side, names: dict[str, str], appeared: bool) -> Iterator[Presence]:
    """Reasons for which connections to an endpoint ended in this trace only."""
    there = _reason_counts(other)
    known = {label for label, _ in there}
    for (label, reason), count in _reason_counts(side).items():
        name = names.get(label, "")
        if name in known and (name, reason) not in there and reason not in (CloseReason.OPEN, CloseReason.UNKNOWN):
            yield Presence("close reason", REASON_NAMES[reason], label, appeared, count)


def _reason_counts(side: Side) -> dict[tuple[str, int], int]:
    """How many connections ended how, by label and reason."""
    code = side.endpoint * len(CloseReason) + side.rows["close_reason"]
    found, counts = np.unique(code, return_counts=True)
    return {
        (side.labels[number // len(CloseReason)], number % len(CloseReason)): count
        for number, count in zip(found.tolist(), counts.tolist(), strict=True)
    }


def _rhythms(side: Side, other: Side, names: dict[str, str], appeared: bool) -> Iterator[Presence]:
    """Rhythms in which somebody tried an endpoint in this trace only, where both traces saw somebody of that name try it."""
    there = _cadences(other)
    tried = {(comm, label) for comm, label, _ in there}
    for (comm, label, rhythm), attempts in _cadences(side).items():
        name = names.get(label, "")
        if rhythm is not Rhythm.NONE and (comm, name) in tried and (comm, name, rhythm) not in there:
            yield Presence("rhythm", f"{rhythm.value} of {comm_text(comm)}", label, appeared, attempts)


def _cadences(side: Side) -> dict[tuple[bytes, str, Rhythm], int]:
    """Most attempts in a row by process name, label and rhythm."""
    found: dict[tuple[bytes, str, Rhythm], int] = {}
    for owner, cadence in side.collected.summary.cadences.items():
        label = side.collected.endpoints.get(owner.endpoint_id, f"endpoint {owner.endpoint_id}")
        key = (owner.comm, label, cadence.rhythm)
        found[key] = max(found.get(key, 0), cadence.attempts)
    return found


def _labels(side: Side, paired: set[str], appeared: bool) -> Iterator[Presence]:
    counts = np.bincount(side.endpoint, minlength=len(side.labels)).tolist()
    for label, count in zip(side.labels, counts, strict=True):
        if label not in paired and count:
            yield Presence("endpoint", label, label, appeared, count)


def _owners(side: Side, other: Side, appeared: bool) -> Iterator[Presence]:
    there = {other.owners[index] for index in np.unique(other.owner).tolist() if index >= 0}
    numbers, counts = np.unique(side.owner, return_counts=True)
    for index, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        if index >= 0 and side.owners[index] not in there:
            yield Presence("owner", side.owners[index], "", appeared, count)


def is_new_critical(presence: Presence) -> bool:
    """Whether it is a critical finding that B has and A has not."""
    return presence.appeared and presence.finding is not None and presence.finding.severity is Severity.CRITICAL
