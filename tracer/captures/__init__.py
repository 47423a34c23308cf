"""Captures: traces in files. `open_trace` reads both formats, `create_trace` writes the one its name asks for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tracer.errors import CaptureError, UsageError
from tracer.events import EventBatch
from tracer.header import FORMAT_VERSION, TraceHeader

__all__ = ["FORMAT_VERSION", "Trace", "TraceHeader", "TraceWriter", "check_name", "create_trace", "open_trace"]

ARROW_SUFFIX = ".arrows"
JSON_SUFFIX = ".jsonl"
_ARROW_MAGIC = b"\xff\xff\xff\xff"  # continuation marker of an encapsulated Arrow IPC message
_ARROW_FILE_MAGIC = b"ARROW1"


class Trace(Protocol):
    """A trace being read.

    Attributes:
        header: what the trace says about itself.
        truncated: after `batches` is exhausted: why the end is missing, or None if the trace is whole.
    """

    header: TraceHeader
    truncated: str | None

    def batches(self) -> Iterator[EventBatch]:
        """The batches in their order. Raises CaptureError where the content is corrupt."""
        ...

    def share_read(self) -> float | None:
        """How much of the file has been read, 0..1; None where nobody knows, as of a pipe."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class TraceWriter(Protocol):
    """A trace being written; everything raises CaptureError when the file can't take it."""

    def write(self, batch: EventBatch) -> None:
        """Take a batch; it is safe after the next `flush`."""
        ...

    def flush(self) -> None:
        """Hand everything taken so far to the operating system."""
        ...

    def close(self) -> None:
        """Flush, mark the end, and close."""
        ...


def open_trace(path: str | Path) -> Trace:
    """Open a capture of either format, told by its content.

    Raises:
        CaptureError: there is no such file, it is no capture, of another version, or cut off before its header's end.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise CaptureError(f"{path} can't be read: {error.strerror}") from error
    try:
        try:
            head = file.peek(len(_ARROW_FILE_MAGIC))  # and not read and seek: it may be a pipe
        except OSError as error:
            raise CaptureError(f"{path} can't be read: {error.strerror}") from error
        if not head:
            raise CaptureError(f"{path} is empty: no capture was written to it")
        if head.startswith(_ARROW_FILE_MAGIC):
            raise CaptureError(f"{path} is an Arrow file, not an Arrow stream: it was not written by regtrace record")
        if head.startswith(_ARROW_MAGIC):
            from tracer.captures.arrow import ArrowTrace

            return ArrowTrace(file, str(path))
        if head.lstrip()[:1] in (b"{", b"#", b""):
            from tracer.captures.jsonl import JsonTrace

            return JsonTrace(file, str(path))
        raise CaptureError(f"{path} is no capture: it is neither an Arrow IPC stream nor JSON lines")
    except BaseException:
        file.close()
        raise


def check_name(path: Path) -> None:
    """Refuse a name from which the format to write can't be told.

    Raises:
        UsageError: it ends in neither .arrows nor .jsonl.
    """
    if path.suffix not in (ARROW_SUFFIX, JSON_SUFFIX):
        raise UsageError(f"{path}: a capture's name ends in {ARROW_SUFFIX} (Arrow IPC stream) or {JSON_SUFFIX} (text)")


def create_trace(path: Path, header: TraceHeader, force: bool = False) -> TraceWriter:
    """Create a capture.

    Raises:
        UsageError: the name says no format.
        OutputError: the file exists (without `force`), or can't be created.
        CaptureError: it can't be written.
    """
    check_name(path)
    from tracer.files import create_private

    fd = create_private(path, force)
    try:
        if path.suffix == ARROW_SUFFIX:
            from tracer.captures.arrow import ArrowTraceWriter

            return ArrowTraceWriter(fd, str(path), header)
        from tracer.captures.jsonl import JsonTraceWriter

        return JsonTraceWriter(fd, str(path), header)
    except BaseException:  # not even the header fits: leave nothing that would be in the way of the next try
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
