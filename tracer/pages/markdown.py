"""The text: a post-mortem in Markdown to go on writing: verdict, what was not seen, impact, timeline, tables. Pure.

What a trace says may look like markup, links or mentions. In prose every such character is escaped; a zero-width space,
written as an entity, keeps `@` and `#` from becoming mentions and references, which forges look for after escapes are resolved.
"""

from __future__ import annotations

import re

from tracer.collected.collector import Collected
from tracer.findings import FindingState
from tracer.pages.content import ROWS_MAX, Content, TextTable
from tracer.text import printable
from tracer.verdict import endpoint_label, headline_of, parts_of, sentence_of

_MARKUP = re.compile(r"[\\`*_\[\]<>#|~&@$]|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)
_BEGINNING = re.compile(r"^(?:\d{1,9}(?=[.)](?:\s|$))|(?=[-+](?:\s|$)|--|=))")
"""What begins a list, an underline or a rule where a line begins with it (CommonMark 0.31, 4.1, 4.3, 5.2)."""
_BROKEN = {"@": "@&#8203;", "#": "\\#&#8203;", "<": "&lt;", ">": "&gt;", "&": "&amp;"}
_TO_BE_FILLED_IN = "_to be filled in_"
_EXTRAS_MAX = 10
"""Findings beside the gravest that are told at length."""


def markdown_text(content: Content, collected: Collected) -> str:
    """The whole document."""
    verdict = content.verdict
    lines = [f"# {escaped(content.title)}", "", escaped(content.subtitle), ""]
    lines += ["## Verdict", "", f"**{escaped(verdict.headline)}**", "", escaped(verdict.sentence), ""]
    lines += [f"- **{heading}:** {escaped_cell(text)}" for heading, text in verdict.parts()]
    lines += ["", "## What was lost or not seen", ""]
    nothing = f"Nothing: every transition was seen, exact to {content.resolution}, and every rule could judge."
    lines += [f"- {escaped(sentence)}" for sentence in content.unseen] or [escaped(nothing)]
    lines += _extras(content, collected)
    lines += ["", "## Impact", "", *(f"- {escaped(sentence)}" for sentence in content.impact)]
    lines += [f"- Users and services affected: {_TO_BE_FILLED_IN}", f"- Noticed by, at: {_TO_BE_FILLED_IN}"]
    lines += ["", "## Timeline", "", *_timeline(content, collected)]
    for table in content.tables:
        if table.heading != "Findings":
            lines += ["", f"## {table.heading}", "", *_table(table)]
    lines += ["", "## To be filled in", ""]
    asked = ("Root cause", "What was done, when", "What helped", "What will be changed, by whom, until when")
    lines += [f"- {question}: {_TO_BE_FILLED_IN}" for question in asked]
    lines += ["", "## How to see it again", "", *_fenced(content.command)]
    lines += ["", *(f"- {heading}: {escaped_cell(text)}" for heading, text in content.about), ""]
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, also where a line begins with it."""
    return _BEGINNING.sub(lambda found: f"{found[0]}\\", escaped_cell(text))


def escaped_cell(text: str) -> str:
    """Text that Markdown shows as it is, where no line begins with it, as in a cell."""
    return _MARKUP.sub(lambda found: _BROKEN.get(found[0], f"\\{found[0]}"), " ".join(text.split()))


def _extras(content: Content, collected: Collected) -> list[str]:
    """The findings that the verdict is not about, each at length."""
    extras = content.verdict.extras
    if not extras:
        return []
    lines = ["", "## Other findings"]
    for finding in extras[:_EXTRAS_MAX]:
        lines += ["", f"### {escaped(headline_of(finding, collected))}", "", escaped(sentence_of(printable(finding.summary))), ""]
        lines += [f"- **{heading}:** {escaped_cell(text)}" for heading, text in parts_of(finding, collected)]
    left = len(extras) - _EXTRAS_MAX
    return [*lines, *(["", f"And {left:,} more."] if left > 0 else [])]


def _timeline(content: Content, collected: Collected) -> list[str]:
    """What began, was found and ended, in the order of time."""
    span = content.span
    if span is None:
        return ["Nothing happened."]
    told: list[tuple[int, str]] = [(span.begin_ns, "the trace begins")]
    findings = content.verdict.findings
    for finding in findings[:ROWS_MAX]:
        name = f"{finding.rule} at {endpoint_label(collected, finding.endpoint_id)}"
        told.append((finding.started_ns, f"{name} begins: first evidence"))
        first, *changes = collected.severities.get(finding.episode, ((finding.detected_ns, None),))
        how = f" ({first[1].text})" if first[1] is not None else ""
        told.append((finding.detected_ns, f"{name} is found by regtrace{how}"))
        told += [(at_ns, f"{name} is {severity.text} now") for at_ns, severity in changes if severity is not None]
        if finding.state is FindingState.CLOSED:
            told.append((finding.ended_ns, f"{name} is over"))
    told.append((span.end_ns, "the trace ends"))
    rows = [
        f"| {escaped_cell(span.moment(ts_ns))} | {escaped_cell(what)} |"
        for ts_ns, what in sorted(told, key=lambda entry: entry[0])
    ]
    left = len(findings) - ROWS_MAX
    return ["| time | what |", "|---|---|", *rows, *(["", f"{left:,} more findings are not shown."] if left > 0 else [])]


def _table(table: TextTable) -> list[str]:
    names = " | ".join(column.name for column in table.columns)
    rules = "|".join("---:" if column.kind == "number" else "---" for column in table.columns)
    rows = [f"| {' | '.join(map(escaped_cell, row))} |" for row in table.rows]
    return [f"| {names} |", f"|{rules}|", *rows, *(["", table.remark] if table.remark else [])]


def _fenced(text: str) -> list[str]:
    """A block of code with a fence that is in no line of it."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return [f"{fence}sh", text, fence]
