r"""Tables as CSV (RFC 4180) for spreadsheets and data frames. Pure: values in, lines out.

The first line has the names of the columns; lines end with CRLF. Empty is unknown. Times of kind TIME are RFC 3339 in UTC with
nanoseconds, truths are true and false, and numbers are whole digits that are never touched.

Text is as it was found, with one exception: spreadsheets take a cell that begins with one of = + - @, a tab, or the end of a
line for a formula, and names of processes are chosen by anybody. Such a cell of text gets a leading apostrophe (OWASP, "CSV
Injection"). A lone surrogate, which no encoding of a file has, is written as \uNNNN.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from tracer.collected.tables import Column, Kind, Table
from tracer.text import printable

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_CHUNK_ROWS = 1 << 16
"""Rows that are text at the same time."""
_TRUTH_TEXTS = {True: "true", False: "false", None: None}


class Writable(Protocol):
    """What takes text: a file that was opened with newline="", or standard output."""

    def write(self, text: str, /) -> object:
        """Take it all."""


def write_csv(table: Table, stream: Writable, terminal: bool = False) -> None:
    """Write a table: its header and its rows.

    Args:
        table: columns of one length.
        stream: a file has to be opened with newline="", so that it keeps the ends of lines.
        terminal: it is one: text that could command it is written with escapes, as `text.printable` does.
    """
    write_csv_parts([table], stream, terminal)


def write_csv_parts(parts: Iterable[Table], stream: Writable, terminal: bool = False) -> None:
    """Write tables of the same columns one below the other under one header, so that they need not all be there at once.

    Args:
        parts: made when they are written; without any there is no header either.
        stream, terminal: as `write_csv` takes them.
    """
    writer = csv.writer(stream)
    safe: dict[str, str] = {}
    for number, table in enumerate(parts):
        if not number:
            writer.writerow(table)
        for rows in _csv_rows(table, terminal, safe):
            writer.writerows(rows)


def _csv_rows(table: Table, terminal: bool, safe: dict[str, str]) -> Iterator[Iterator[tuple[Any, ...]]]:
    columns = list(table.values())
    for start in range(0, len(columns[0].values) if columns else 0, _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        cells = [_cells(Column(each.name, each.kind, each.values[part], each.known[part]), safe, terminal) for each in columns]
        yield zip(*cells, strict=True)


def _cells(column: Column, safe: dict[str, str], terminal: bool) -> list[Any]:
    """What the csv module writes for each row: str, int, float, or None for nothing."""
    if column.kind is Kind.TIME:
        return _times(column)
    if column.kind is Kind.TRUTH:
        return [_TRUTH_TEXTS[value] for value in column.objects()]
    if column.kind is not Kind.TEXT:
        return column.objects()
    for text in set(column.values[column.known].tolist()).difference(safe):
        safe[text] = cell_text(text, terminal)
    return [None if text is None else safe[text] for text in column.objects()]


def _times(column: Column) -> list[str | None]:
    if not len(column.values):
        return []
    texts = np.datetime_as_string(column.values.astype("datetime64[ns]"), unit="ns").tolist()
    return [f"{text}Z" if known else None for text, known in zip(texts, column.known.tolist(), strict=True)]


def cell_text(text: str, terminal: bool = False) -> str:
    """A cell of text that no spreadsheet takes for a formula, that every file can hold, and no terminal obeys."""
    shown = printable(text) if terminal else text.encode("utf-8", "backslashreplace").decode()
    return f"'{shown}" if shown.startswith(_FORMULA) else shown
