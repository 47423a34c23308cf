"""What a report says in words and tables, whatever it is written in. Pure.

Every text is safe to show (`text.printable`); escaping is left to those who write a page or a document.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from tracer import __version__
from tracer.collected.collector import Collected
from tracer.exactness import exactness_text
from tracer.findings import FindingState
from tracer.pages.span import Span, long_text
from tracer.pages.tallies import OwnerTally, owner_tallies, sum_known
from tracer.roles import Role
from tracer.summary import EndpointSummary
from tracer.text import bytes_text, duration_text, printable
from tracer.verdict import Verdict, count_text, endpoint_label, sure_text, unseen, verdict_of, who_text

ROWS_MAX = 100
"""Of a table; what is left out is counted."""


@dataclass(frozen=True)
class Heading:
    """Of a column: its name, and what its cells are: "text", "name", "wide" (sentences), "time" or "number"."""

    name: str
    kind: str = "text"


@dataclass(frozen=True)
class TextTable:
    """Cells as they are shown; the first of a row names it. `remark`: what is to be known of it, "" for nothing."""

    heading: str
    remark: str
    columns: tuple[Heading, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Content:
    """The words and tables of a report.

    Attributes:
        title, subtitle: what it is about; host, time, source.
        verdict: the answer.
        unseen: what was lost or not seen, a sentence each; empty: nothing.
        resolution: how exact times are.
        span: of the trace; None: nothing happened in it.
        impact: what it came to, a sentence each.
        tables: those that have rows: findings, endpoints, owners.
        about: (heading, text) of where the trace is from.
        command: that shows the same again.
        version: of the regtrace that makes the report.
    """

    title: str
    subtitle: str
    verdict: Verdict
    unseen: tuple[str, ...]
    resolution: str
    span: Span | None
    impact: tuple[str, ...]
    tables: tuple[TextTable, ...]
    about: tuple[tuple[str, str], ...]
    command: str
    version: str


def content_of(collected: Collected, span: Span | None, name: str, title: str | None, arguments: tuple[str, ...] = ()) -> Content:
    """The words and tables of a trace.

    Args:
        collected: the trace.
        span: what it covers; None: nothing happened in it.
        name: of its file.
        title: of the report; None: one is made.
        arguments: what chose the rules, as it was typed: for the command that shows the same again.
    """
    header = collected.header
    host = printable(header.host)
    made = f"Connections to registries{f' from {host}' if host else ''}"
    tables = (_finding_table(collected, span), _endpoint_table(collected), _owner_table(collected))
    return Content(
        printable(title) if title else made,
        " · ".join((printable(name), span.text() if span else "nothing happened", *([host] if title and host else []))),
        verdict_of(collected),
        unseen(collected),
        duration_text(header.resolution_ns),
        span,
        _impact(collected),
        tuple(table for table in tables if table.rows),
        _about(collected, span, name),
        printable(shlex.join(["regtrace", "replay", name, *arguments])),
        __version__,
    )


def _finding_table(collected: Collected, span: Span | None) -> TextTable:
    names = (
        Heading("finding"), Heading("severity"), Heading("endpoint", "name"), Heading("since", "time"), Heading("lasted", "time"),
        Heading("sure", "time"), Heading("what", "wide"), Heading("who", "wide"), Heading("what to do", "wide"),
    )  # fmt: skip
    assert span is not None or not collected.findings
    rows = []
    for finding in verdict_of(collected).findings:
        assert span is not None
        over = finding.state is FindingState.CLOSED
        ended_ns = finding.ended_ns if over else span.end_ns
        lasted = long_text(max(ended_ns - finding.started_ns, 0))
        rows.append(
            (
                finding.rule,
                finding.severity.text,
                endpoint_label(collected, finding.endpoint_id),
                span.moment(finding.started_ns),
                f"{lasted}, over" if over else f"{lasted}, still open at the end",
                sure_text(finding),
                printable(finding.summary),
                "; ".join(map(who_text, finding.suspects)) or "-",
                printable(finding.advice) or "-",
            )
        )
    return _table("Findings", names, rows)


def _endpoint_table(collected: Collected) -> TextTable:
    names = (
        Heading("endpoint", "name"), Heading("role"),
        *map(_number, ("connections", "opened", "still open", "most open")),
        Heading("ended by", "wide"),
        *map(_number, ("life p50", "life p99", "connect p50", "connect p99", "in", "out", "retransmits")),
    )  # fmt: skip
    ordered = sorted(collected.summary.endpoints, key=lambda endpoint: -endpoint.connections)
    return _table("Endpoints", names, [_endpoint_row(collected, endpoint) for endpoint in ordered])


def _endpoint_row(collected: Collected, endpoint: EndpointSummary) -> tuple[str, ...]:
    life, connect = endpoint.distributions.get("lifetime"), endpoint.distributions.get("connect")
    role = collected.roles.get(endpoint.endpoint_id, Role.UNKNOWN)
    return (
        printable(endpoint.endpoint),
        "-" if role is Role.UNKNOWN else role.value,
        f"{endpoint.connections:,}",
        f"{endpoint.opens:,}",
        f"{endpoint.open:,}",
        f"{endpoint.peak_open:,}",
        closes_text(endpoint.closes),
        *(
            duration_text(value_ns)
            for found in (life, connect)
            for value_ns in ((found.p50_ns, found.p99_ns) if found else (-1, -1))
        ),
        bytes_text(endpoint.bytes_received),
        bytes_text(endpoint.bytes_acked),
        f"{endpoint.retransmits:,}" if endpoint.retransmits >= 0 else "-",
    )


def _owner_table(collected: Collected) -> TextTable:
    names = (
        Heading("owner"), Heading("container"), Heading("unit", "name"),
        *map(_number, ("processes", "connections", "opened", "most opened in a minute", "still open")),
        Heading("ended by", "wide"), *map(_number, ("in", "out")),
    )  # fmt: skip
    return _table("Owners", names, list(map(_owner_row, owner_tallies(collected))))


def _owner_row(tally: OwnerTally) -> tuple[str, ...]:
    return (
        tally.name or "unknown",
        tally.container or "-",
        tally.unit or "-",
        f"{tally.pids:,}" if tally.pids else "-",
        f"{tally.connections:,}",
        f"{tally.opens:,}",
        f"{tally.peak_per_min:,}" if tally.opens else "-",
        f"{tally.open:,}",
        closes_text(tally.closes),
        bytes_text(tally.bytes_received),
        bytes_text(tally.bytes_acked),
    )


def closes_text(closes: dict[str, int]) -> str:
    """Close reasons with how often."""
    return ", ".join(f"{count:,} {reason}" for reason, count in closes.items()) or "-"


def _number(name: str) -> Heading:
    return Heading(name, "number")


def _table(heading: str, names: tuple[Heading, ...], rows: Sequence[tuple[str, ...]]) -> TextTable:
    left = len(rows) - ROWS_MAX
    remark = f"The first {ROWS_MAX} of {len(rows):,}; {left:,} more are not shown." if left > 0 else ""
    return TextTable(heading, remark, names, tuple(rows[:ROWS_MAX]))


def _impact(collected: Collected) -> tuple[str, ...]:
    """What it came to, in numbers."""
    summary, rows = collected.summary, collected.rows
    if not len(rows):
        return ()
    closes: dict[str, int] = {}
    for endpoint in summary.endpoints:
        for reason, count in endpoint.closes.items():
            closes[reason] = closes.get(reason, 0) + count
    received, acked, retransmits = (sum_known(rows[name]) for name in ("bytes_received", "bytes_acked", "retransmits"))
    again = count_text(retransmits, "segment") if retransmits >= 0 else "an unknown number of segments"
    endpoints = count_text(sum(endpoint.connections > 0 for endpoint in summary.endpoints), "endpoint")
    owners = count_text(len(owner_tallies(collected)), "owner")
    return (
        f"{count_text(summary.connections, 'connection')} to {endpoints} by {owners}; {summary.open:,} still open at the end.",
        f"Ended by: {closes_text(closes)}.",
        f"Received {bytes_text(received)}, sent {bytes_text(acked)}; {again} sent again.",
        f"{count_text(summary.episodes, 'finding')}, {len(summary.findings):,} still open at the end.",
    )


def _about(collected: Collected, span: Span | None, name: str) -> tuple[tuple[str, str], ...]:
    header, summary = collected.header, collected.summary
    watched = ", ".join(sorted(map(printable, collected.endpoints.values())))
    told = (
        ("Capture", printable(name)),
        ("Host", printable(header.host)),
        ("Kernel", printable(header.kernel)),
        ("Time", span.text() if span else ""),
        ("Wall clock", f"exact to {duration_text(header.clock.error_ns)}" if header.clock else "unknown"),
        (
            "Source",
            f"{printable(summary.source)}, {exactness_text(summary.resolution_ns)}; {printable(header.why)}",
        ),
        ("Events", f"{summary.events:,} transitions, {summary.lost_text}"),
        ("Watched", watched or "no endpoint named"),
        ("Recorded by", f"regtrace {printable(header.version)}"),
    )
    return tuple((heading, text) for heading, text in told if text)
