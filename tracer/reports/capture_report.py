"""A capture being written, as a listener like any other."""

from __future__ import annotations

from pathlib import Path

from tracer.analysis import Analysis, Progress
from tracer.anonymise import Anonymiser
from tracer.captures import TraceWriter, create_trace
from tracer.events import EventBatch
from tracer.header import TraceHeader


class CaptureReport:
    """Writes every batch, and hands it to the operating system once a second."""

    def __init__(self, path: Path, force: bool, anonymous: bool) -> None:
        self._path = path
        self._force = force
        self._anonymiser = Anonymiser() if anonymous else None
        self._writer: TraceWriter | None = None

    def start(self, header: TraceHeader) -> None:
        """Create the file. Raises CaptureError."""
        if self._anonymiser is not None:
            header = self._anonymiser.header(header)
        self._writer = create_trace(self._path, header, self._force)

    def batch(self, batch: EventBatch, progress: Progress, analysis: Analysis) -> None:
        """Take a batch. Raises CaptureError."""
        if self._writer is not None:
            self._writer.write(batch if self._anonymiser is None else self._anonymiser.batch(batch))

    def tick(self, analysis: Analysis) -> None:
        """Flush. Raises CaptureError."""
        if self._writer is not None:
            self._writer.flush()

    def finish(self, analysis: Analysis, truncated: str | None) -> None:
        """Close. Raises CaptureError."""
        if self._writer is not None:
            self._writer.close()
