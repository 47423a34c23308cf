"""Open findings, drawn: what is wrong, since when, who does it, what to do; as much of it as there is room for."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from tracer.findings import Finding, Severity
from tracer.remotes import where_text
from tracer.reports.text_report import suspect_text
from tracer.screen.numbers import span_text
from tracer.screen.picture import Picture, by_importance
from tracer.screen.table import fitted
from tracer.text import printable

SHOWN = 5
_ADVICE_LINES = 3
_SUSPECTS = 2
_INDENT = 7  # len("  what ")
_STYLES = {Severity.NOTICE: "bold", Severity.WARNING: "bold yellow", Severity.CRITICAL: "bold red"}


def finding_lines(picture: Picture, width: int, height: int) -> list[Text]:
    """At most `height` lines: a head for each finding first, then more of the most important ones."""
    found = by_importance(picture.headline.findings)
    heads = min(len(found), SHOWN, max(height, 1))
    if len(found) > heads and heads == height and heads > 1:
        heads -= 1  # for the line that says how many more there are
    more = _more(found, heads, width)
    room = height - heads - len(more)
    lines = []
    for finding in found[:heads]:
        chosen = {}
        for place, block in _blocks(finding, width):
            if len(block) <= room:
                chosen[place] = block
                room -= len(block)
        lines += [_head(finding, picture, width), *(line for place in sorted(chosen) for line in chosen[place])]
    return lines + more


def _more(found: list[Finding], shown: int, width: int) -> list[Text]:
    """How many are not shown; nothing where there is no room for saying so beside the only head."""
    missing = len(found) - shown
    if missing <= 0:
        return []
    return [Text(fitted(f"and {missing} more finding{'s' if missing > 1 else ''}", width), "bold", no_wrap=True, end="")]


def _head(finding: Finding, picture: Picture, width: int) -> Text:
    since = picture.moments.text(finding.started_ns)
    lasted = span_text(max(picture.now_ns - finding.started_ns, 0)) if picture.now_ns >= 0 else "-"
    where = picture.label(finding.endpoint_id)
    word = f"{finding.severity.text.upper()} {finding.rule}"
    rest = f"  {finding.confidence:.0%} sure, since {since}, for {lasted}, at {where}"
    line = Text(no_wrap=True, end="")
    line.append(fitted(word, min(len(word), width)), _STYLES[finding.severity])
    line.append(fitted(rest, max(width - len(word), 0)))
    return line


def _blocks(finding: Finding, width: int) -> Iterator[tuple[int, list[Text]]]:
    """What else is to be said, the most important first, each wrapped; with its place in the order of reading."""
    who = "; ".join(map(suspect_text, finding.suspects[:_SUSPECTS])) or "unknown"
    if len(finding.suspects) > _SUSPECTS:
        who += f"; and {len(finding.suspects) - _SUSPECTS} more"
    yield 2, _wrapped("who", who, width, 2)
    yield 3, _wrapped("do", printable(finding.advice), width, _ADVICE_LINES)
    yield 0, _wrapped("what", printable(finding.summary), width, 2)
    where = where_text(finding.evidence)
    if where:
        yield 4, _wrapped("at", where, width, 1)
    causes = finding.evidence.get("causes")
    if isinstance(causes, dict) and causes:
        shown = ", ".join(f"{printable(name)} {share:.0%}" for name, share in causes.items())
        yield 1, _wrapped("may", f"be {shown}", width, 1)


def _wrapped(name: str, text: str, width: int, most: int) -> list[Text]:
    """A name and what belongs to it, in at most so many lines; what is cut off ends in an ellipsis."""
    inner = max(width - _INDENT, 1)
    lines = [line.plain.rstrip() for line in Text(text).wrap(_MEASURING, inner)] or [""]
    if len(lines) > most:
        lines[most - 1 :] = [" ".join(lines[most - 1 :])]
    heads = [f"  {name:<{_INDENT - 3}} ", *[" " * _INDENT] * (most - 1)]
    return [
        Text(fitted(head + fitted(line, inner), width), no_wrap=True, end="") for head, line in zip(heads, lines, strict=False)
    ]


_MEASURING = Console(width=80, force_terminal=False)
"""Wrapping asks a console for nothing but its defaults."""
