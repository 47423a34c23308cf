"""The objects of `diff --json`. Pure.

`change` is a comparison that moved (with `--all` any comparison), `appeared` and `disappeared` what one trace has alone, `diff`
the last line. `rank` is the place in the order of badness; null for what is not ranked, or only says again what another one
says. null is unknown, or does not apply.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tracer.comparison.changes import exact_to_ns
from tracer.comparison.compared import P_MAX, RATIO_MIN, SHARE_MIN, Comparison, Reading, Scope
from tracer.comparison.difference import Difference
from tracer.comparison.metrics import Unit
from tracer.comparison.presence import Presence
from tracer.comparison.sentences import sentence, verdict_text
from tracer.comparison.sides import Side
from tracer.lines.values import rounded

_WHOLE = ("hits", "span_ns")


def difference_lines(found: Difference, *, everything: bool = False) -> Iterator[str]:
    """What is told, the worst first; what else moved; what is in one trace only; what did not move if wanted; the totals."""
    for rank, told in enumerate(found.told, 1):
        yield json.dumps(_presence(told, rank) if isinstance(told, Presence) else _change(told, rank))
    for change in found.moved:
        if change not in found.told:
            yield json.dumps(_change(change, None))
    for presence in found.only:
        if presence not in found.told:
            yield json.dumps(_presence(presence, None))
    if everything:
        for comparison in found.comparisons:
            if not comparison.moved:
                yield json.dumps(_change(comparison, None))
    yield json.dumps(_totals(found))


def _change(told: Comparison, rank: int | None) -> dict[str, Any]:
    scope = told.scope
    return {
        "type": "change",
        "rank": rank,
        "moved": told.moved,
        "metric": told.metric.name,
        "unit": told.metric.unit.value,
        "scope": scope.kind,
        **_place(scope),
        "a": _reading(told.a, told.metric.unit),
        "b": _reading(told.b, told.metric.unit),
        "compared": told.quantile,
        "exact_to_ns": told.exact_to_ns,
        "ratio": rounded(told.ratio),
        "p": rounded(told.p),
        "adjusted_p": rounded(told.adjusted_p),
        "sentence": sentence(told),
    }


def _place(scope: Scope) -> dict[str, str | None]:
    """Where: the endpoint as either trace calls it, the owner, or neither."""
    endpoint, owner = scope.kind == "endpoint", scope.kind == "owner"
    return {
        "endpoint": scope.b if endpoint else None,
        "endpoint_a": scope.a if endpoint else None,
        "owner": scope.b if owner else None,
    }


def _reading(reading: Reading, unit: Unit) -> dict[str, Any]:
    """Amounts of ns, µs and bytes, and counts, are whole numbers."""
    whole = unit in (Unit.NS, Unit.US, Unit.BYTES)
    numbers = {name: round(value) if whole or name in _WHOLE else rounded(value) for name, value in reading.numbers.items()}
    return {"n": reading.count, "visits": reading.visits if reading.visits >= 0 else None, **numbers}


def _presence(told: Presence, rank: int | None) -> dict[str, Any]:
    finding = told.finding
    return {
        "type": "appeared" if told.appeared else "disappeared",
        "rank": rank,
        "kind": told.kind,
        "name": told.name,
        "endpoint": told.endpoint or None,
        "count": told.count,
        "severity": finding.severity.text if finding is not None else None,
        "confidence": rounded(finding.confidence) if finding is not None else None,
        "but": told.but or None,
        "sentence": sentence(told),
    }


def _totals(found: Difference) -> dict[str, Any]:
    return {
        "type": "diff",
        "a": _side(found.a),
        "b": _side(found.b),
        "endpoints": [{"a": match.a, "b": match.b, "matched_by": match.how} for match in found.matches],
        "compared": len(found.comparisons),
        "moved": len(found.moved),
        "new_findings": len(found.new_findings),
        "adjusted_p_max": P_MAX,
        "ratio_min": RATIO_MIN,
        "share_min": SHARE_MIN,
        "not_compared": [
            {"metric": each.metric, "scope": each.scope.kind, **_place(each.scope), "why": each.why}
            for each in found.not_compared
        ],
        "sentence": verdict_text(found),
    }


def _side(side: Side) -> dict[str, Any]:
    summary = side.collected.summary
    return {
        "source": summary.source,
        "resolution_ns": summary.resolution_ns,
        "exact_to_ns": exact_to_ns(side),
        "connections": len(side.rows),
        "visits": int(side.block.max(initial=-1)) + 1,
        "span_ns": side.span_ns if summary.first_ns >= 0 else None,
        "lost": summary.lost_at_least,
        "gaps": summary.gaps,
        "coverage": rounded(summary.coverage),
        "truncated": side.collected.truncated,
    }
