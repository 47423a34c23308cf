# ruff: noqa: N999 - named as the command
"""`regtrace import`: a capture out of the text that another tool has printed."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Self

from tracer.captures import TraceWriter, check_name, create_trace
from tracer.errors import EXIT_OK, CaptureError, UsageError
from tracer.exactness import exactness_text
from tracer.files import refuse_existing
from tracer.imports.bpftrace import PROGRAM
from tracer.imports.formats import FORMATS, format_named
from tracer.imports.importer import Importer
from tracer.imports.line_file import LineFile
from tracer.imports.selection import Selection
from tracer.progress import ProgressBar, progress_bar
from tracer.text import address_text, printable

_OTHERS_SHOWN = 5


def run(options: argparse.Namespace) -> int:
    """Import a file to its end, or leave nothing."""
    if options.program:
        sys.stdout.write(PROGRAM)
        return EXIT_OK
    if options.file is None or options.output is None:
        raise UsageError("import needs a FILE (or - for standard input) and the capture to write, with -o TRACE")
    check_name(options.output)
    refuse_existing(options.output, options.force)
    selection = Selection(options.registry, options.port)
    formats = FORMATS if options.format == "auto" else (format_named(options.format),)
    importer = Importer(selection, formats)
    with contextlib.closing(LineFile(options.file)) as lines:
        _check_output(options.file, options.output)
        patient = str(options.file) == "-"
        with _signals(patient), progress_bar(f"importing {lines.name}") as bar, _Output(options.output, options.force) as output:
            _follow(importer, lines, output, bar)
            _check(importer, selection, lines.name)
            output.keep()
    _say(importer, selection, options.output, lines.name)
    return EXIT_OK


class _Output:
    """The capture to write, created once there is something to write, and removed unless it is to be kept."""

    def __init__(self, path: Path, force: bool) -> None:
        self._path = path
        self._force = force
        self._writer: TraceWriter | None = None
        self._kept = False

    def __enter__(self) -> Self:
        return self

    def take(self, importer: Importer, lines: list[bytes] | None) -> None:
        """Write what the next lines bring; None: there are no more."""
        batches = importer.finish() if lines is None else importer.feed(lines)
        if importer.format is None:
            return
        if self._writer is None:
            self._writer = create_trace(self._path, importer.header(), self._force)
        for batch in batches:
            self._writer.write(batch)
        self._writer.flush()

    def keep(self) -> None:
        """It is whole."""
        if self._writer is not None:
            self._writer.close()
        self._kept = True

    def __exit__(self, *_: object) -> None:
        if self._writer is not None and not self._kept:
            with contextlib.suppress(CaptureError):
                self._writer.close()
            self._path.unlink(missing_ok=True)


@contextmanager
def _signals(patient: bool) -> Iterator[None]:
    """While inside, signals interrupt; `patient`: the first SIGINT does not.

    Ctrl-C at `tool | regtrace import -` reaches both, and is meant for the tool: what it still writes is read to its end.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def first(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, interrupt)

    handlers = {signal.SIGINT: first if patient else interrupt, signal.SIGTERM: interrupt, signal.SIGHUP: interrupt}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(importer: Importer, lines: LineFile, output: _Output, bar: ProgressBar) -> None:
    for block in lines.blocks():
        output.take(importer, block)
        bar.update(lines.share_read())
    output.take(importer, None)


def _check_output(source: Path, output: Path) -> None:
    with contextlib.suppress(OSError):
        if output.samefile(source):
            raise UsageError(f"{output} is what is to be imported; choose another name for the capture")


def _check(importer: Importer, selection: Selection, name: str) -> None:
    """Refuse to make a capture of nothing."""
    if not importer.lines:
        raise CaptureError(
            f"{name} is empty: the tool that should have written it has probably failed; see what it says on standard error"
        )
    if importer.format is None or not importer.transitions:
        _say_misunderstood(importer)
        known = ", ".join(f"{each.name} ({each.title})" for each in FORMATS)
        raise CaptureError(
            f"{name}: none of its {importer.lines} lines could be understood; formats are {known}; "
            "see 'regtrace import --help' for lines that can be"
        )
    if not importer.selected:
        most = [f"{_end(*remote)} ({count})" for remote, count in selection.others.most_common(_OTHERS_SHOWN) if remote[1]]
        wanted = "; ".join(selection.texts())
        raise CaptureError(
            f"{name}: {importer.transitions} transitions were understood, and none is of a connection to {wanted}; "
            f"name what is a registry with --registry or --port; most go to {', '.join(most) or 'nowhere'}"
        )


def _end(address: bytes, port: int) -> str:
    text = address_text(address) or "?"
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def _say(importer: Importer, selection: Selection, output: Path, name: str) -> None:
    """What was made of it, and what is doubtful."""
    assert importer.format is not None
    endpoints = len(selection.watched)
    print_line = (
        f"{output}: {importer.selected} transitions to {endpoints} endpoint{'s' if endpoints != 1 else ''}, out of "
        f"{importer.transitions} in {importer.lines} lines of {importer.format.title} ({name}); "
        f"{exactness_text(importer.resolution_ns)}"
    )
    sys.stdout.write(f"{printable(print_line)}\n")
    _say_misunderstood(importer)
    if importer.lost:
        _warn(f"{importer.lost} events or more were lost by the tool itself, as it says")
    if importer.clock_steps:
        _warn(f"the clock of the lines was set back {importer.clock_steps} times; the distances there are not known")
    if importer.joined_by_order:
        _warn(
            f"{importer.joined_by_order} connections were joined with their opening by order alone: "
            "the lines have no socket addresses; their connect times may be those of others"
        )


def _say_misunderstood(importer: Importer) -> None:
    if not importer.misunderstood:
        return
    _warn(f"{importer.misunderstood} of {importer.lines} lines could not be understood; the first:")
    for number, line in importer.quotes:
        _warn(f"line {number}: {line.decode('utf-8', 'backslashreplace')}")


def _warn(text: str) -> None:
    sys.stderr.write(f"regtrace: {printable(text)}\n")
