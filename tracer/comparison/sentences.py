"""Sentences: each change in words that a person reads at night. Pure; what is made of names still has to be made printable."""

from __future__ import annotations

from tracer.comparison.compared import Comparison, Scope
from tracer.comparison.difference import Difference
from tracer.comparison.matching import Match
from tracer.comparison.metrics import EXACT_NS, INTERVAL, OPENS, Unit
from tracer.comparison.presence import Presence
from tracer.text import bytes_text, duration_text

_QUANTILE_WORDS = {"p25": "lower quartile", "p50": "median", "p75": "upper quartile", "p90": "90th percentile"}
_HOW = {"label": "same name", "map": "as you say", "host": "same host, other port", "role": "alone in its role"}
_P_LEAST = 1e-6


def sentence(told: Comparison | Presence) -> str:
    """What changed, by how much, how surely."""
    return _presence(told) if isinstance(told, Presence) else _change(told)


def _change(told: Comparison) -> str:
    before, after = (value_text(told, value) for value in (told.before, told.after))
    moved = "went" if told.moved else "went (not surely, or not far)"
    return f"{subject(told)} {moved} from {before} to {after} ({'; '.join(_evidence(told))})"


def subject(told: Comparison) -> str:
    """What was compared, and where."""
    where = _where(told.scope, "by" if told.metric is OPENS else "of")
    if told.metric.unit is Unit.SHARE:
        return f"connections{where} that {told.metric.words}"
    return f"{told.metric.words}{where}"


def row_text(told: Comparison) -> str:
    """What was compared, and where, with the quantile that says most if it is not the median."""
    words = _QUANTILE_WORDS.get(told.quantile, "")
    return subject(told) if told.metric.tail or told.quantile not in ("p25", "p75") else f"{subject(told)}, {words}"


def _where(scope: Scope, of_owner: str) -> str:
    if scope.kind == "endpoint":
        return f" to {scope.b}"
    return f" {of_owner} {scope.b}" if scope.kind == "owner" else " in all"


def _evidence(told: Comparison) -> list[str]:
    if told.metric.unit is Unit.SHARE:
        counts = [f"{reading.numbers['hits']:.0f} of {reading.count}" for reading in (told.a, told.b)]
        found = [f"{counts[0]} and {counts[1]}", _visits(told)]
    elif told.metric is OPENS:
        spans = [duration_text(int(reading.numbers["span_ns"])) for reading in (told.a, told.b)]
        found = [_ratio(told), f"{told.a.count} in {spans[0]} and {told.b.count} in {spans[1]}"]
    elif told.metric is INTERVAL:
        found = [_QUANTILE_WORDS[told.quantile], _ratio(told), f"{told.a.count} and {told.b.count} of them"]
    else:
        counts = [str(reading.count) for reading in (told.a, told.b)]
        found = [_QUANTILE_WORDS[told.quantile], _ratio(told), f"{counts[0]} and {counts[1]} connections", _visits(told)]
    return [text for text in (*found, p_text(told.adjusted_p)) if text]


def _visits(told: Comparison) -> str:
    return f"in {told.a.visits} and {told.b.visits} visits"


def _ratio(told: Comparison) -> str:
    return f"{ratio_text(told)} x" if told.ratio else ""


def ratio_text(told: Comparison) -> str:
    """How many times as much, or what part of it; of a share how many points; "-" where one of them is 0."""
    if told.metric.unit is Unit.SHARE:
        return f"{100 * (told.after - told.before):+.3g} pt"
    if not told.ratio:
        return "-"
    return f"{told.ratio:.3g}" if told.ratio >= 1 else f"1/{1 / told.ratio:.3g}"


def p_text(p: float) -> str:
    """How sure, in a few characters."""
    return "p < 1e-6" if p < _P_LEAST else f"p = {p:.1g}"


def value_text(told: Comparison, value: float) -> str:
    """A value with its unit."""
    unit = told.metric.unit
    if unit is Unit.NS:
        short = told.exact_to_ns > EXACT_NS and value < told.exact_to_ns
        return f"<{duration_text(told.exact_to_ns)}" if short else duration_text(round(value))
    if unit is Unit.US:
        return duration_text(round(value * 1000))
    if unit is Unit.BYTES:
        return bytes_text(round(value))
    return f"{100 * value:.3g}%" if unit is Unit.SHARE else f"{value:.3g} a minute"


def _presence(told: Presence) -> str:
    here, there = ("B", "A") if told.appeared else ("A", "B")
    if told.finding is not None:
        times = f", {told.count} times" if told.count > 1 else ""
        sure = f"{told.finding.severity.text}, {told.finding.confidence:.0%} sure{times}"
        but = f" ({told.but})" if told.but else ""
        return f"{told.name} ({sure}) is found in {here} and not in {there}{but}: {told.finding.summary}"
    connections = f"{told.count} connection{'' if told.count == 1 else 's'}"
    if told.kind == "close reason":
        return f"{told.name} at {told.endpoint}: {connections} of {here} ended so, none of {there}"
    if told.kind == "rhythm":
        return f"rhythm {told.name} at {told.endpoint}: {told.count} attempts in {here}, not in {there}"
    return f"{told.kind} {told.name}: {connections} in {here}, not in {there}"


def match_text(match: Match) -> str:
    """Which endpoint was taken for which; "" where they have the same name."""
    return "" if match.how == "label" else f"{match.a} of A is compared with {match.b} of B ({_HOW[match.how]})"


def verdict_text(found: Difference) -> str:
    """The whole in a sentence."""
    made, moved, new = len(found.comparisons), len(found.moved), len(found.new_findings)
    findings = f", {new} new finding{'' if new == 1 else 's'}" if new else ""
    if not made:
        return f"nothing could be compared{findings}"
    if not found.told:
        return f"nothing moved: {made} comparisons"
    return f"{moved} of {made} comparisons moved{findings}"
