"""Changes: every comparison that two traces allow, which of them moved, and what could not be compared. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tracer.comparison.compared import LOOKS_MIN, P_MAX, SIZE_MIN_BYTES, Comparison, NotCompared, Reading, Scope, is_far, telling
from tracer.comparison.matching import Match, match_owners
from tracer.comparison.metrics import EXACT_NS, FAILED, INTERVAL, OPENS, REASONS, Measured, Unit, measure
from tracer.comparison.samples import Opens, Sample, rank_p, rate_p, share_p, tail_p
from tracer.comparison.sides import Side
from tracer.comparison.significance import adjusted, smallest_p
from tracer.text import duration_text
from tracer.visits import VISIT_GAP_NS

KNOWN_MIN = 0.8
"""Of the values that there must be, so many have to be known: the others are of another kind (pollers miss the short ones)."""
RATE_SPAN_NS = 5_000_000_000
"""A rate needs a trace of some length; that of a single visit says how the client pulls, not how often."""
OWNERS_MAX = 50
"""Those with the most connections; a host has fewer, and each comparison more makes all others less sure."""


def compare(a: Side, b: Side, matches: tuple[Match, ...]) -> tuple[list[Comparison], list[NotCompared]]:
    """Compare everything that can be, by endpoint, by owner and over all.

    Returns:
        All comparisons, those that moved marked, in a fixed order; and what was left out.
    """
    coarse_ns = max(exact_to_ns(a), exact_to_ns(b))
    measured = list(zip(measure(a, coarse_ns), measure(b, coarse_ns), strict=True))
    found: list[Comparison] = []
    left_out: list[NotCompared] = []
    seen: set[tuple[bytes, bytes]] = set()
    for scope, ours, theirs in _scopes(a, b, matches):
        whole = scope.kind == "endpoint"
        if not len(ours) or not len(theirs):
            left_out.append(NotCompared("everything", scope, f"{'B' if len(ours) else 'A'} has no connection of it"))
            continue
        results: list[Comparison | NotCompared | None] = []
        same = ours.tobytes(), theirs.tobytes()
        if same not in seen:
            results += [
                _compare_values(one, other, scope, (a.block, ours), (b.block, theirs), coarse_ns)
                for one, other in measured
                if whole or one.metric.everywhere
            ]
            results.append(_compare_rates(scope, a, b, ours, theirs))
        seen.add(same)
        if scope.kind == "owner":
            results.append(_compare_intervals(scope, a, b, ours, theirs, coarse_ns))
        found += _distinct([result for result in results if isinstance(result, Comparison)])
        left_out += [result for result in results if isinstance(result, NotCompared)]
    left_out += [*_nameless(a, b), *_beyond(a, b)]
    if coarse_ns > EXACT_NS:
        why = f"times of one trace are exact to {coarse_ns / 1e6:.3g} ms only; most states are shorter"
        left_out.append(NotCompared("times in states", Scope("overall"), why))
    judged = _judged(found, coarse_ns)
    fine = [each for each in judged if _too_fine(each)]
    left_out += [NotCompared(each.metric.name, each.scope, _fine_text(each)) for each in fine]
    return [each for each in judged if each not in fine], left_out


def _too_fine(each: Comparison) -> bool:
    """Whether it is a sure difference that may come of how coarse one trace is."""
    sure = each.adjusted_p < P_MAX and not each.moved and each.metric.unit is Unit.NS and each.exact_to_ns > EXACT_NS
    return sure and 0 < abs(each.after - each.before) < LOOKS_MIN * each.exact_to_ns


def _fine_text(each: Comparison) -> str:
    exact = duration_text(each.exact_to_ns)
    before, after = (duration_text(round(value)) if value else f"<{exact}" for value in (each.before, each.after))
    return f"A has {before} and B {after}, but times are exact to {exact} in one of them"


def _distinct(comparisons: list[Comparison]) -> list[Comparison]:
    """Of one scope, without the failed ones in all where these are those of a single reason."""
    names = {metric.name for metric in REASONS.values()}
    shares = {(each.before, each.after) for each in comparisons if each.metric.name in names}
    return [each for each in comparisons if each.metric is not FAILED or (each.before, each.after) not in shares]


def exact_to_ns(side: Side) -> int:
    """How exact a trace's durations are: its resolution, or what nine tenths of its connections keep to."""
    rows, summary = side.rows, side.collected.summary
    early_ns = np.maximum(rows["opened_early_ns"], rows["closed_early_ns"])
    usual_ns = int(np.quantile(early_ns, 0.9, method="inverted_cdf")) if len(rows) else 0
    return max(summary.resolution_ns, side.collected.header.resolution_ns, usual_ns, 1)


def _scopes(a: Side, b: Side, matches: tuple[Match, ...]) -> Iterator[tuple[Scope, NDArray[np.intp], NDArray[np.intp]]]:
    """What to compare, with the connections of either trace, in order."""
    ours, theirs = _groups(a.endpoint, a.labels), _groups(b.endpoint, b.labels)
    nobody = np.zeros(0, np.intp)
    for match in matches:
        own, other = ours.get(match.a, nobody), theirs.get(match.b, nobody)
        if len(own) or len(other):
            yield Scope("endpoint", match.a, match.b), own, other
    if len(a.rows) and len(b.rows):
        yield Scope("overall"), np.arange(len(a.rows)), np.arange(len(b.rows))
    if list(_nameless(a, b)):
        return
    ours, theirs = _groups(a.owner, a.owners), _groups(b.owner, b.owners)
    common = sorted(match_owners(a, b), key=lambda name: (-len(ours[name]) - len(theirs[name]), name))
    for name in common[:OWNERS_MAX]:
        yield Scope("owner", name, name), ours[name], theirs[name]


def _nameless(a: Side, b: Side) -> Iterator[NotCompared]:
    """Why owners can't be compared: what one trace can't tell whose it is would be missing from somebody's."""
    for name, side in (("A", a), ("B", b)):
        known = int((side.owner >= 0).sum())
        if known < KNOWN_MIN * len(side.rows):
            why = f"the owner is known for {known / len(side.rows):.0%} of {name}'s {len(side.rows)} connections only"
            yield NotCompared("owners", Scope("overall"), why)


def _beyond(a: Side, b: Side) -> Iterator[NotCompared]:
    """The owners that are too many."""
    count = len(match_owners(a, b))
    if count > OWNERS_MAX:
        why = f"{count - OWNERS_MAX} of {count} in both traces, those with the fewest connections, were left out"
        yield NotCompared("owners", Scope("overall"), why)


def _groups(number: NDArray[np.int64], names: tuple[str, ...]) -> dict[str, NDArray[np.intp]]:
    """The connections of each name, by name; those of number -1 are left out."""
    order = np.argsort(number, kind="stable")
    found, starts = np.unique(number[order], return_index=True)
    pieces = np.split(order, starts[1:]) if len(order) else []
    return {names[index]: piece for index, piece in zip(found.tolist(), pieces, strict=True) if index >= 0}


def _compare_values(
    one: Measured,
    other: Measured,
    scope: Scope,
    ours: tuple[NDArray[np.int64], NDArray[np.intp]],
    theirs: tuple[NDArray[np.int64], NDArray[np.intp]],
    coarse_ns: int,
) -> Comparison | NotCompared | None:
    """A metric of single connections; `ours` and `theirs` are the visits of all and the connections to look at."""
    metric = one.metric
    samples = [_sample(measured, *where) for measured, where in ((one, ours), (other, theirs))]
    if not all(sample.applies for sample in samples) or (metric.unit is Unit.SHARE and not any(s.values.any() for s in samples)):
        return None
    for name, sample in zip("AB", samples, strict=True):
        if len(sample.values) < KNOWN_MIN * sample.applies:
            share = len(sample.values) / sample.applies
            return NotCompared(metric.name, scope, f"known for {share:.0%} of {name}'s {sample.applies} connections only")
    a, b = samples
    if smallest_p(a.visits + b.visits, a.visits) > P_MAX:
        return NotCompared(metric.name, scope, _too_few(a.visits, b.visits, "visits"))
    if metric.unit is Unit.SHARE:
        return Comparison(metric, scope, _share_reading(a), _share_reading(b), "share", share_p(a, b))
    before, after = (Reading(len(sample.values), sample.visits, sample.quantiles()) for sample in samples)
    if metric.tail:
        return Comparison(metric, scope, before, after, "p90", tail_p(a, b))
    alike = SIZE_MIN_BYTES if metric.unit is Unit.BYTES else 1
    return Comparison(metric, scope, before, after, telling(metric, before, after, coarse_ns), rank_p(a, b, alike))


def _sample(measured: Measured, block: NDArray[np.int64], index: NDArray[np.intp]) -> Sample:
    values = measured.values[index]
    there = measured.applies[index]
    kept = there & ~np.isnan(values)
    return Sample(values[kept], block[index][kept], int(there.sum()))


def _share_reading(sample: Sample) -> Reading:
    hits = float(sample.values.sum())
    return Reading(len(sample.values), sample.visits, {"hits": hits, "share": hits / len(sample.values)})


def _too_few(ours: int, theirs: int, what: str) -> str:
    return f"{ours} and {theirs} {what} are too few: whatever they were, it could be chance"


def _compare_rates(
    scope: Scope, a: Side, b: Side, ours: NDArray[np.intp], theirs: NDArray[np.intp]
) -> Comparison | NotCompared | None:
    for name, side in (("A", a), ("B", b)):
        if side.span_ns < RATE_SPAN_NS:
            return NotCompared(OPENS.name, scope, f"{name} lasted {side.span_ns / 1e9:.3g} s only")
        if side.collected.summary.losses:
            return NotCompared(OPENS.name, scope, _holes(name))
    opens = [_opens(side, index) for side, index in ((a, ours), (b, theirs))]
    if not all(len(each.times_ns) for each in opens):
        return None
    readings = [Reading(len(each.times_ns), -1, {"per_min": each.per_min, "span_ns": float(each.span_ns)}) for each in opens]
    return Comparison(OPENS, scope, readings[0], readings[1], "per_min", rate_p(*opens))


def _holes(name: str) -> str:
    return f"events of {name} were lost, or its source changed: openings may be missing"


def _opens(side: Side, index: NDArray[np.intp]) -> Opens:
    opened_ns = side.rows["opened_ns"][index]
    since_ns = np.sort(opened_ns[opened_ns >= 0]) - side.collected.summary.first_ns
    return Opens(np.maximum(since_ns, 0), side.span_ns)  # another CPU's event may be a moment before the first one


def _compare_intervals(
    scope: Scope, a: Side, b: Side, ours: NDArray[np.intp], theirs: NDArray[np.intp], coarse_ns: int
) -> Comparison | NotCompared | None:
    samples = []
    for name, side, index in (("A", a, ours), ("B", b, theirs)):
        if side.collected.summary.losses:
            return NotCompared(INTERVAL.name, scope, _holes(name))
        samples.append(_intervals(_opens(side, index), coarse_ns))
    one, other = (len(sample.values) for sample in samples)
    if smallest_p(one + other, one) > P_MAX:
        return NotCompared(INTERVAL.name, scope, _too_few(one, other, "intervals"))
    before, after = (Reading(len(sample.values), len(sample.values), sample.quantiles()) for sample in samples)
    quantile = telling(INTERVAL, before, after, coarse_ns)
    return Comparison(INTERVAL, scope, before, after, quantile, rank_p(samples[0], samples[1]))


def _intervals(opens: Opens, coarse_ns: int) -> Sample:
    """Between the beginnings of attempts: openings with a pause of VISIT_GAP_NS before them."""
    times_ns = opens.times_ns
    begins = np.ones(len(times_ns), bool)
    begins[1:] = np.diff(times_ns) > VISIT_GAP_NS
    values = np.diff(times_ns[begins]).astype(np.float64)
    if coarse_ns > EXACT_NS:
        values = np.floor(values / coarse_ns) * coarse_ns
    return Sample(values, np.arange(len(values)), len(values))


def _judged(found: list[Comparison], coarse_ns: int) -> list[Comparison]:
    """With adjusted p values, and what moved marked; a tail is told only where the whole did not move."""
    p_values = adjusted(np.array([each.p for each in found]))
    judged = []
    for each, p in zip(found, p_values.tolist(), strict=True):
        far = is_far(each.metric, each.before, each.after, coarse_ns)
        judged.append(replace(each, exact_to_ns=coarse_ns, adjusted_p=p, moved=p < P_MAX and far))
    bodies = {(each.scope, each.metric.name) for each in judged if each.moved and not each.metric.tail}
    return [
        replace(each, moved=False) if each.metric.tail and (each.scope, each.metric.name.replace("_p90", "")) in bodies else each
        for each in judged
    ]
