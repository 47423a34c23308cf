"""`regtrace export`: a capture in the format of another tool."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tracer.commands.output import say_what_is_missing
from tracer.commands.reading import collect, follow, opened
from tracer.commands.writing import created
from tracer.errors import EXIT_OK, UsageError
from tracer.exports import export, writer_of
from tracer.files import refuse_existing, refuse_itself
from tracer.options import BINARY, TABLES
from tracer.pipeline import Stop
from tracer.progress import progress_bar
from tracer.reports.json_report import JsonReport

STDOUT = "-"


def run(options: argparse.Namespace) -> int:
    """Write a capture."""
    path = _output(options)
    if options.to == "jsonl":
        _write_lines(options, path)
        return EXIT_OK
    if options.what is not None and options.to == "perfetto":
        raise UsageError(f"--what is for csv and parquet: a timeline has {', '.join(TABLES)}")
    writer_of(options.to)  # say what is missing before the trace is read
    what = options.what or TABLES[0]
    collected = collect(options, options.trace, with_events=options.to == "perfetto" or what == "transitions")
    say_what_is_missing(collected)
    stop = Stop()
    with stop.on_signals(), _written(path, options.force) as stream, progress_bar(f"writing {path or options.to}") as bar:

        def told(share: float) -> None:
            bar.update(share)
            if stop.signal is not None:
                raise KeyboardInterrupt

        export(collected, options.to, what, stream, told)
        told(1.0)
    return EXIT_OK


def _write_lines(options: argparse.Namespace, path: Path | None) -> None:
    """What `replay --json --transitions` prints."""
    if options.what is not None:
        raise UsageError("--what is for csv and parquet: JSON lines have everything")
    with opened(options, options.trace) as (trace, settings), _written(path, options.force) as stream:
        text = io.TextIOWrapper(stream, "utf-8", newline="\n")
        try:
            follow(trace, settings, JsonReport(text, transitions=True), f"exporting {options.trace.name}")
        finally:
            text.detach()


def _output(options: argparse.Namespace) -> Path | None:
    """The file to create; None is standard output."""
    if options.output is None and options.to in BINARY:
        raise UsageError(f"--to {options.to} needs -o FILE, or -o {STDOUT} for standard output")
    if options.output in (None, STDOUT):
        if options.to in BINARY and sys.stdout.isatty():
            raise UsageError(f"{options.to} is binary, and standard output is a terminal: name a file with -o FILE")
        return None
    path = Path(options.output)
    refuse_itself(path, options.trace)
    refuse_existing(path, options.force)
    return path


@contextmanager
def _written(path: Path | None, force: bool) -> Iterator[BinaryIO]:
    """The file, or standard output."""
    if path is not None:
        with created(path, force) as stream:
            yield stream
        return
    sys.stdout.flush()
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()
