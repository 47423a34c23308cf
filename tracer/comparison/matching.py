"""Matching: which endpoint and which owner of one trace is which of the other. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tracer.comparison.sides import Side
from tracer.errors import UsageError
from tracer.roles import Role

_SHOWN = 20


@dataclass(frozen=True)
class Match:
    """An endpoint in both traces; `how`: "label", "map", "host" or "role"."""

    a: str
    b: str
    how: str


def match_endpoints(a: Side, b: Side, mapped: dict[str, str]) -> tuple[Match, ...]:
    """Pairs of endpoints: what the user says, equal labels, then equal hosts (other ports), then equal roles.

    The last two only where there is one candidate on either side, and equal hosts only where their roles don't differ.

    Args:
        a, b: the traces.
        mapped: label in B by label in A, as the user gave them.

    Raises:
        UsageError: a label that was given is in no trace, or given twice.
    """
    _check(mapped, a, b)
    pairs = [Match(one, other, "map") for one, other in mapped.items()]

    def left() -> tuple[list[str], list[str]]:
        taken_a, taken_b = {pair.a for pair in pairs}, {pair.b for pair in pairs}
        return [label for label in a.labels if label not in taken_a], [label for label in b.labels if label not in taken_b]

    ours, theirs = left()
    pairs += [Match(label, label, "label") for label in ours if label in set(theirs)]
    for how, name in (("host", _host), ("role", lambda side, label: side.role(label).value)):
        pairs += [
            Match(one, other, how) for one, other in _alike(a, b, *left(), name) if how == "role" or _agree(a, b, one, other)
        ]
    place = {label: index for index, label in enumerate(a.labels)}
    return tuple(sorted(pairs, key=lambda pair: place[pair.a]))


def match_owners(a: Side, b: Side) -> tuple[str, ...]:
    """Names of owners in both traces, in the order of names; those of no connection are left out."""
    found = [{side.owners[index] for index in set(side.owner.tolist()) if index >= 0} for side in (a, b)]
    return tuple(sorted(found[0] & found[1]))


def _check(mapped: dict[str, str], a: Side, b: Side) -> None:
    for name, side, labels in (("A", a, list(mapped)), ("B", b, list(mapped.values()))):
        for label in labels:
            if label not in side.labels:
                known = ", ".join(side.labels[:_SHOWN]) or "none"
                raise UsageError(f"--map: {label!r} is no endpoint of {name}, which has: {known}")
            if labels.count(label) > 1:
                raise UsageError(f"--map: {label!r} of {name} is given twice")


def _host(side: Side, label: str) -> str:
    return label.rpartition(":")[0]


def _agree(a: Side, b: Side, one: str, other: str) -> bool:
    roles = {a.role(one), b.role(other)} - {Role.UNKNOWN}
    return len(roles) < 2


def _alike(a: Side, b: Side, ours: list[str], theirs: list[str], name: Callable[[Side, str], str]) -> list[tuple[str, str]]:
    """Pairs that alone have a name on either side."""
    sides = []
    for side, labels in ((a, ours), (b, theirs)):
        by_name: dict[str, list[str]] = {}
        for label in labels:
            by_name.setdefault(name(side, label), []).append(label)
        sides.append({key: found[0] for key, found in by_name.items() if len(found) == 1 and key not in ("", Role.UNKNOWN.value)})
    return [(label, sides[1][key]) for key, label in sides[0].items() if key in sides[1]]
