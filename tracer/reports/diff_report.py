"""`diff` for people: both traces, what changed in sentences, the numbers beside each other, and what can't be said."""

from __future__ import annotations

from collections.abc import Iterator
from unicodedata import combining, east_asian_width

import numpy as np

from tracer.clock import rfc3339
from tracer.comparison.changes import exact_to_ns
from tracer.comparison.compared import P_MAX, RATIO_MIN, SHARE_MIN, Comparison, NotCompared, Reading
from tracer.comparison.difference import Difference
from tracer.comparison.metrics import Unit
from tracer.comparison.sentences import match_text, p_text, ratio_text, row_text, sentence, value_text, verdict_text
from tracer.comparison.sides import Side
from tracer.exactness import exactness_text
from tracer.header import RULES
from tracer.reports.text_report import coverage_text
from tracer.text import duration_text, printable

_HEADS = ("", "A: n", "p50/share/rate", "p99", "B: n", "p50/share/rate", "p99", "B/A", "", "")
_LEAST = f"moved: adjusted p < {P_MAX:g}, and by {RATIO_MIN:g} x or {100 * SHARE_MIN:g} points at least"
_MEANING = (
    "     p: how likely as much would differ if both traces were of the same and chance dealt out the visits, "
    "adjusted for {} comparisons"
)
_LEFT = (0, len(_HEADS) - 2, len(_HEADS) - 1)
SHOWN = 20
"""Lines of a kind; a host with a hundred owners has hundreds of changes."""


def difference_texts(
    found: Difference, names: tuple[str, str], *, everything: bool = False, same_rules: bool = False
) -> list[str]:
    """All of it as lines that are safe on a terminal.

    Args:
        found: what is different.
        names: of the traces' files.
        everything: show the comparisons that did not move as well.
        same_rules: the same rules judged both, whatever they were recorded with.
    """
    lines = [line for label, name, side in zip("AB", names, (found.a, found.b), strict=True) for line in _side(label, name, side)]
    lines += [text for text in map(match_text, found.matches) if text]
    lines += _differing(found, same_rules)
    worst = ", the worst first:" if found.told else ""
    lines += ["", f"{verdict_text(found)} ({_LEAST}){worst}" if found.comparisons else f"{verdict_text(found)}{worst}"]
    most = None if everything else SHOWN
    lines += _first([f"{rank:>3}. {sentence(told)}" for rank, told in enumerate(found.told, 1)], most)
    lines += [_MEANING.format(len(found.comparisons))] if found.moved else []
    rows = list(found.comparisons) if everything else found.moved[:SHOWN]
    if rows:
        lines += ["", *_table(rows)]
    for title, appeared in (("only in B:", True), ("only in A:", False)):
        rest = [f"    {sentence(each)}" for each in found.only if each.appeared is appeared and each not in found.told]
        if rest:
            lines += ["", title, *_first(rest, most)]
    if {each.appeared for each in found.only if each.kind == "endpoint"} == {True, False}:
        lines += ["", "endpoints that are the same under other names are compared with --map A=B"]
    if found.not_compared:
        lines += ["", "not compared:", *_first(_left_out(found.not_compared), most)]
    return [printable(line) for line in lines]


def _first(lines: list[str], most: int | None) -> list[str]:
    """As many as people read; None: all."""
    if most is None or len(lines) <= most:
        return lines
    return [*lines[:most], f"    and {len(lines) - most} more; --all shows them"]


def _side(label: str, name: str, side: Side) -> Iterator[str]:
    summary = side.collected.summary
    lasted = duration_text(side.span_ns) if summary.first_ns >= 0 else "no time"
    visits = int(side.block.max(initial=-1)) + 1
    clock = side.collected.header.clock
    (began,) = rfc3339(np.array([summary.first_ns]), clock) if clock is not None else (None,)
    since = f"since {began[:19]}Z, " if began else ""
    exact = exactness_text(exact_to_ns(side)).removeprefix("times ")
    yield (
        f"{label}  {name}: {since}source {summary.source}, {exact}, {lasted}, "
        f"{len(side.rows)} connections in {visits} visits, {coverage_text(summary)}"
    )
    if side.collected.truncated:
        yield f"{label}  INCOMPLETE  {side.collected.truncated}"
    if summary.lost:
        yield f"{label}  LOST  {summary.lost} events in {len(summary.losses)} interval(s): its counts are too low"
    if not summary.loss_known:
        yield f"{label}  LOSS UNKNOWN  what took it does not say what it lost"
    if summary.gaps:
        yield f"{label}  GAPS  {summary.gaps} connections with missing transitions: they are left out where that matters"


def _differing(found: Difference, same_rules: bool) -> Iterator[str]:
    """What makes the traces different before anything happened."""
    one, other = (side.collected for side in (found.a, found.b))
    sources = [each.summary.source for each in (one, other)]
    if sources[0] != sources[1]:
        yield f"sources differ ({sources[0]}, {sources[1]}): durations are compared as exactly as the less exact one has them"
    rules = {each.header.settings[RULES] for each in (one, other) if RULES in each.header.settings}
    if not same_rules and len(rules) > 1:
        yield "rules were set differently when A and B were recorded: one may find what the other does not; --config sets them"


def _table(shown: list[Comparison]) -> Iterator[str]:
    """Numbers of A and B in columns, with an arrow that is the longer the more it moved."""
    rows = [tuple(map(printable, row)) for row in (_HEADS, *(_row(each) for each in shown))]
    widths = [max(_width(row[column]) for row in rows) for column in range(len(_HEADS))]
    for row in rows:
        cells = []
        for at, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - _width(cell))
            cells.append(cell + space if at in _LEFT else space + cell)
        yield "  ".join(cells).rstrip()


def _width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(0 if combining(each) else 2 if east_asian_width(each) in "WF" else 1 for each in text)


def _row(each: Comparison) -> tuple[str, ...]:
    cells = (*_cells(each, each.a), *_cells(each, each.b))
    return (row_text(each), *cells, ratio_text(each), _arrow(each), p_text(each.adjusted_p))


def _cells(each: Comparison, reading: Reading) -> tuple[str, str, str]:
    numbers = reading.numbers
    return (
        str(reading.count),
        value_text(each, numbers[each.quantile]),
        value_text(each, numbers["p99"]) if "p99" in numbers else "-",
    )


def _arrow(each: Comparison) -> str:
    """One for what moved little, two for twofold (a quarter of all), three for tenfold (half of all); none for what did not."""
    if not each.moved:
        return "="
    if each.metric.unit is Unit.SHARE:
        size = abs(each.after - each.before)
        steps = 1 + (size >= 0.25) + (size >= 0.5)
    else:
        low, high = sorted((each.before, each.after))
        steps = 1 + (high >= 2 * low) + (high >= 10 * low)
    return ("▲" if each.after > each.before else "▼") * steps


def _left_out(not_compared: tuple[NotCompared, ...]) -> list[str]:
    """One line for each reason and place."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for each in not_compared:
        where = f"{each.scope.kind} {each.scope.b}".strip()
        grouped.setdefault((where, each.why), []).append(each.metric)
    return [f"    {where}: {', '.join(metrics)}: {why}" for (where, why), metrics in grouped.items()]
