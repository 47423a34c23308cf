"""`--json`: the contract's lines on standard output, and nothing else."""

from __future__ import annotations

from typing import TextIO

from tracer.analysis import Analysis, Progress
from tracer.events import EventBatch
from tracer.header import TraceHeader
from tracer.lines import (
    batch_lines,
    connection_lines,
    fact_lines,
    finding_lines,
    loss_line,
    source_line,
    start_line,
    summary_line,
)
from tracer.owners.register import details_of
from tracer.rows import Connections


class JsonReport:
    """Writes every line as soon as it is known."""

    def __init__(self, stream: TextIO, transitions: bool) -> None:
        self._stream = stream
        self._transitions = transitions
        self._header: TraceHeader | None = None

    def start(self, header: TraceHeader) -> None:
        """Write the start line."""
        self._header = header
        self._write([start_line(header)])

    def batch(self, batch: EventBatch, progress: Progress, analysis: Analysis) -> None:
        """Write the batch's transitions, if wanted, the connections that ended, and findings."""
        assert self._header is not None
        lines: list[str] = []
        if self._transitions:
            lines += batch_lines(batch, analysis.endpoints, self._header.clock, samples=True)
        else:
            lines += fact_lines(batch, owners=False)
            lines += [source_line(batch)] if batch.switched else []
            lines += [loss_line(batch)] if batch.lost else []
        lines += self._connections(progress.ended, analysis)
        lines += finding_lines(progress.findings, analysis.endpoints, self._header.clock)
        self._write(lines)

    def tick(self, analysis: Analysis) -> None:
        """Nothing: lines come as they are known."""

    def finish(self, analysis: Analysis, truncated: str | None) -> None:
        """Write the connections that are still open, and the summary."""
        assert self._header is not None
        lines = self._connections(analysis.open(), analysis)
        self._write([*lines, summary_line(analysis.summary(), self._header.clock, truncated)])

    def _connections(self, rows: Connections, analysis: Analysis) -> list[str]:
        assert self._header is not None
        return connection_lines(rows, analysis.endpoints, self._header.clock, details_of(rows, analysis.owners))

    def _write(self, lines: list[str]) -> None:
        if lines:
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()
