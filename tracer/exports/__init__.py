"""A trace in the formats of other tools, one module a format: tables for notebooks and databases, a timeline for Perfetto."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from tracer.collected.collector import Collected
from tracer.errors import MissingError

Told = Callable[[float], None]
"""Hears how much is written, 0..1, now and then; an exception that it raises ends the export."""
Write = Callable[[Collected, str, BinaryIO, Told], None]
"""Writes a trace, or the table of it that is named, to a stream."""


def writer_of(to: str) -> Write:
    """What writes a format.

    Raises:
        MissingError: a library that an extra brings is not there.
    """
    try:
        if to == "csv":
            from tracer.exports.csv_file import write_csv_file

            return write_csv_file
        if to == "parquet":
            from tracer.exports.parquet import write_parquet

            return write_parquet
        from tracer.exports.perfetto import write_perfetto

        return write_perfetto
    except Exception as error:  # a library that is there but does not fit its own libraries fails in its own way
        library = {"parquet": "polars"}.get(to, to)
        raise MissingError(
            f"export --to {to} needs {library}, which can't be loaded ({error}): pip install 'regtrace[export]', "
            "or in a checkout: .venv/bin/pip install '.[export]'"
        ) from error


def export(collected: Collected, to: str, what: str, stream: BinaryIO, told: Told = lambda _: None) -> None:
    """Write a trace.

    Args:
        collected: with its transitions for a timeline and for a table of them.
        to: the format, one of tracer.options.EXPORTS, but for the JSON lines, which need no more than a replay.
        what: which table, one of tracer.options.TABLES; a timeline has everything.
        stream: to write to.
        told: hears how far it is.

    Raises:
        MissingError: a library that an extra brings is not there.
        OSError: the stream can't be written.
    """
    writer_of(to)(collected, what, stream, told)
