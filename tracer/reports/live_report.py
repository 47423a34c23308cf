"""The live view: a table of endpoints and one of open connections, on a terminal, with the last transitions if wanted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tracer.analysis import Analysis, Progress
from tracer.churn import SIDES
from tracer.events import EventBatch
from tracer.findings import Finding, FindingState, Severity
from tracer.header import TraceHeader
from tracer.lifecycle import STATE_NAMES
from tracer.reports.text_report import (
    connection_texts,
    coverage_text,
    finding_texts,
    learnt_texts,
    owner_texts,
    start_text,
    summary_texts,
    suspect_text,
    transition_texts,
)
from tracer.summary import EndpointSummary, Summary
from tracer.text import address_text, bytes_text, duration_text, printable

REFRESH_PER_S = 4
_RATE_WINDOW_S = 10
_OPEN_ROWS = 15
_ENDPOINT_WIDTH = 16
_LOG_LINES = 12
_FINDINGS_SHOWN = 5
_FINDINGS_KEPT = 20
_SECOND_NS = 1_000_000_000


class LiveReport:
    """Redraws tables about once a second; the log of the last lines stands below them."""

    def __init__(self, console: Console, transitions: bool, now_ns: Callable[[], int] | None = None) -> None:
        self._console = console
        self._transitions = transitions
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._live = Live(console=console, refresh_per_second=REFRESH_PER_S, transient=True)
        self._header: TraceHeader | None = None
        self._now_ns = now_ns
        self._findings: dict[int, Finding] = {}  # open ones by episode

    def start(self, header: TraceHeader) -> None:
        """Say what is watched and begin to draw."""
        self._header = header
        for line in start_text(header):
            self._console.print(Text(line))
        self._live.start()

    def batch(self, batch: EventBatch, progress: Progress, analysis: Analysis) -> None:
        """Add to the log, and take what is found."""
        assert self._header is not None
        clock = self._header.clock
        for finding in progress.findings:
            if finding.state is FindingState.CLOSED:
                self._findings.pop(finding.episode, None)
            else:
                self._findings[finding.episode] = finding
        if self._transitions:
            tail = EventBatch(batch.events[-_LOG_LINES:].copy(), batch.source, batch.resolution_ns)
            self._log.extend(transition_texts(tail, analysis.endpoints, clock))
        else:
            self._log.extend(connection_texts(progress.ended[-_LOG_LINES:], analysis.endpoints, clock, analysis.owners))
        self._log.extend(learnt_texts(batch))

    def tick(self, analysis: Analysis) -> None:
        """Draw again."""
        summary = analysis.summary(with_cadences=False)
        now_ns = analysis.now_ns if self._now_ns is None else self._now_ns()
        found = sorted(self._findings.values(), key=lambda finding: (-finding.severity, finding.episode))
        tables: list[RenderableType] = [_head(summary), *map(_finding_text, found[:_FINDINGS_SHOWN])]
        if len(found) > _FINDINGS_SHOWN:
            tables.append(Text(f"... and {len(found) - _FINDINGS_SHOWN} more findings"))
        tables.append(_endpoint_table(summary, analysis, now_ns))
        if summary.open:
            tables.append(_open_table(analysis, now_ns))
        self._live.update(Group(*tables, *(Text(line, no_wrap=True, overflow="ellipsis") for line in self._log)))

    def finish(self, analysis: Analysis, truncated: str | None) -> None:
        """Leave the summary on the screen."""
        self._live.stop()
        assert self._header is not None
        # What was on the screen is gone now, and it is what somebody wants to copy.
        for finding in list(self._findings.values())[-_FINDINGS_KEPT:]:
            for text in finding_texts(finding, analysis.endpoints, self._header.clock):
                self._console.print(Text(text))
        for line in summary_texts(analysis.summary(), truncated):
            self._console.print(Text(line))


def _head(summary: Summary) -> Text:
    head = f"source {summary.source}  transitions {summary.events}  {summary.lost_text}  {coverage_text(summary)}"
    head += f"  connections {summary.connections}"
    return Text(printable(head), style="bold red" if summary.lost else "bold")


def _finding_text(finding: Finding) -> Text:
    """One open finding: what, how sure, since when, who, what to do."""
    style = {Severity.NOTICE: "", Severity.WARNING: "yellow", Severity.CRITICAL: "bold red"}[finding.severity]
    since = duration_text(finding.at_ns - finding.started_ns)
    who = "; ".join(map(suspect_text, finding.suspects[:2])) or "unknown"
    return Text.assemble(
        (f"{finding.severity.text.upper()} {finding.rule} ({finding.confidence:.0%} sure, for {since}): ", style),
        printable(finding.summary),
        f"\n    who: {who}\n    do:  {printable(finding.advice)}",
    )


def _endpoint_table(summary: Summary, analysis: Analysis, now_ns: int) -> Table:
    table = Table(title="endpoints", title_justify="left", expand=False)
    for name in ("endpoint", "open", "opens/s", *(f"{side}/s" for side in SIDES[:3]), "life p50", "life p99", "in"):
        if name == "endpoint":
            table.add_column(name, min_width=_ENDPOINT_WIDTH, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    now_ns -= now_ns % _SECOND_NS
    for endpoint in summary.endpoints:
        opens, closes = analysis.churn.window(endpoint.endpoint_id, now_ns - _RATE_WINDOW_S * _SECOND_NS, now_ns)
        rates = [f"{count / _RATE_WINDOW_S:.3g}" for count in (opens, *closes[:3].tolist())]
        table.add_row(*_endpoint_cells(endpoint, rates))
    return table


def _endpoint_cells(endpoint: EndpointSummary, rates: list[str]) -> list[Text]:
    life = endpoint.distributions.get("lifetime")
    quantiles = (life.p50_ns, life.p99_ns) if life else (-1, -1)
    cells = [
        printable(endpoint.endpoint),
        str(endpoint.open),
        *rates,
        *(duration_text(value) for value in quantiles),
        bytes_text(endpoint.bytes_received),
    ]
    return [Text(cell) for cell in cells]


def _open_table(analysis: Analysis, now_ns: int) -> Table:
    rows = analysis.open()
    shown = f"{len(rows)} open" if len(rows) <= _OPEN_ROWS else f"{len(rows)} open, the oldest {_OPEN_ROWS}"
    table = Table(title=f"connections: {shown}", title_justify="left", expand=False)
    for name in ("owner", "endpoint", "address", "state", "since", "in", "idle"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    rows = rows[:_OPEN_ROWS]
    for row, owner in zip(rows, owner_texts(rows, analysis.owners), strict=True):
        idle_ms = int(row["idle_ms"])
        cells = [
            owner,
            printable(analysis.endpoints.get(int(row["endpoint_id"]), "?")),
            address_text(row["raddr"].tobytes()) or "?",
            STATE_NAMES[row["last_state"]],
            duration_text(now_ns - int(row["first_seen_ns"])),
            bytes_text(int(row["bytes_received"])),
            duration_text(idle_ms * 1_000_000 if idle_ms >= 0 else -1),
        ]
        table.add_row(*(Text(cell) for cell in cells))
    return table
