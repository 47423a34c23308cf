"""`regtrace show`: the connections, transitions or findings of a capture, filtered and sorted; or one connection in full."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from tracer.collected.collector import Collected
from tracer.collected.dossier import dossier_line, dossier_of
from tracer.collected.ordering import column_names
from tracer.collected.selection import CONNECTIONS, FINDINGS, PART_ROWS, TRANSITIONS, Selection, parts_of
from tracer.collected.tables_csv import write_csv_parts
from tracer.commands.output import say_what_is_missing
from tracer.commands.reading import collect
from tracer.errors import EXIT_OK, UsageError
from tracer.filters.filters import Filters, parse_filters
from tracer.reports.cells import TimeTexts
from tracer.reports.dossier_text import dossier_texts
from tracer.reports.grid import GridColumn, grid_lines, laid_out
from tracer.reports.show_text import abstained_texts, grid_columns, head_texts

_WIDTH_MIN, _WIDTH_USUAL = 20, 80


def run(options: argparse.Namespace) -> int:
    """Show."""
    filters = _filters(options)
    _check(options, filters)
    with_events = options.transitions or options.connection is not None or bool(filters.states)
    collected = collect(options, options.trace, with_events=with_events)
    if options.connection is not None:
        _show_connection(options, collected)
        return EXIT_OK
    selection = Selection(_kind(options), collected)
    fitting = selection.fitting(filters)
    index = fitting
    if options.sort is not None:
        name, _, direction = options.sort.partition(":")
        index = selection.ordered(index, name, direction == "desc")
    index = index[: options.limit]
    if options.format == "text":
        _show_text(options, selection, index, len(fitting))
    elif options.format == "json":
        say_what_is_missing(collected)
        _write(selection.lines(index))
    else:
        say_what_is_missing(collected)
        _show_csv(options, selection, index)
    if not len(fitting) and len(selection):
        sys.stderr.write(f"regtrace: none of the {_counted(selection)} fits these filters\n")
    return EXIT_OK


def _kind(options: argparse.Namespace) -> str:
    if options.findings:
        return FINDINGS
    return TRANSITIONS if options.transitions else CONNECTIONS


def _filters(options: argparse.Namespace) -> Filters:
    return parse_filters(
        endpoints=options.endpoint,
        ports=options.port,
        owners=options.owner,
        states=options.state,
        close_reasons=options.close_reason,
        since=options.since,
        until=options.until,
        slower_than=options.slower_than,
        findings=options.finding,
    )


def _check(options: argparse.Namespace, filters: Filters) -> None:
    """Refuse what does not go together, before a large trace is read.

    Raises:
        UsageError: it does not.
    """
    if options.sort is not None and options.sort.partition(":")[2] not in ("", "asc", "desc"):
        raise UsageError(f"--sort {options.sort!r}: expected COLUMN, COLUMN:asc or COLUMN:desc")
    if options.columns is not None and options.format == "json":
        raise UsageError("--columns is for text and csv: the JSON lines always have all their fields")
    if options.connection is None:
        return
    if options.format == "csv":
        raise UsageError("--connection is shown as text or json; csv has one table: choose with filters instead")
    if filters != Filters() or options.sort or options.limit or options.columns:
        raise UsageError("--connection shows one connection whole: leave out filters, --sort, --limit and --columns")


def _counted(selection: Selection) -> str:
    count = len(selection)
    return f"{count} {selection.kind if count != 1 else selection.kind.removesuffix('s')}"


def _show_csv(options: argparse.Namespace, selection: Selection, index: NDArray[np.intp]) -> None:
    """All columns that the table of the whole trace has, or the ones that are named."""
    table = selection.part(index[:0])
    names = selection.own_columns() if options.columns is None else column_names(options.columns, table)
    tables = (selection.part(part) for part in chain([index[:0]], parts_of(index)))
    write_csv_parts(({name: each[name] for name in names} for each in tables), sys.stdout, sys.stdout.isatty())


def _show_text(options: argparse.Namespace, selection: Selection, index: NDArray[np.intp], fitting: int) -> None:
    collected, width, colours = selection.collected, _terminal_width(), _wants_colours()
    columns = [_encodable(column) for column in grid_columns(selection, options.columns or ())]
    layout = laid_out(columns, index, width)
    head = head_texts(collected, options.trace.name)
    first = f", the first {len(index)} shown" if len(index) < fitting else ""
    head.append(f"{fitting} of {_counted(selection)}{first}; {TimeTexts(collected).said}")
    if layout.left_out:
        head.append(f"too narrow for: {', '.join(layout.left_out)} (see --columns)")
    _write(_wrapped(head, width))
    if len(index):
        _write(chain([""], grid_lines(layout, index, colours, _ellipsis())))
    if selection.kind == FINDINGS:
        abstained = abstained_texts(collected)
        _write(chain([""] if abstained else [], _wrapped(abstained, width)))


def _show_connection(options: argparse.Namespace, collected: Collected) -> None:
    count = len(collected.rows)
    if not 1 <= options.connection <= count:
        there_are = f"it has {count}, from 1 to {count}" if count else "it has none"
        raise UsageError(f"there is no connection {options.connection} in this trace: {there_are}")
    dossier = dossier_of(collected, options.connection)
    if options.format == "json":
        say_what_is_missing(collected)
        _write([dossier_line(dossier, collected.header.clock)])
        return
    width = _terminal_width()
    _write(_wrapped(head_texts(collected, options.trace.name), width))
    _write(["", *dossier_texts(dossier, collected, width, _wants_colours(), _ellipsis())])


def _wrapped(texts: Iterable[str], width: int | None) -> Iterator[str]:
    return (line for text in texts for line in (textwrap.wrap(text, width) if width else [text]))


def _write(lines: Iterable[str]) -> None:
    iterator: Iterator[str] = iter(lines)
    while part := list(islice(iterator, PART_ROWS)):
        sys.stdout.write("".join(f"{line}\n" for line in part))


def _terminal_width() -> int | None:
    """Cells of a line; None: nobody cuts it, as in a pipe."""
    if not sys.stdout.isatty():
        return None
    return max(os.get_terminal_size(sys.stdout.fileno()).columns or _WIDTH_USUAL, _WIDTH_MIN)


def _wants_colours() -> bool:
    """https://no-color.org: set and not empty says no."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def _encodable(column: GridColumn) -> GridColumn:
    """A column as the encoding of standard output has it, because what it lacks is written as an escape, which is wider."""
    encoding = sys.stdout.encoding or "ascii"
    if encoding.lower().startswith("utf"):
        return column

    def cells(index: NDArray[np.intp]) -> list[str]:
        return [text.encode(encoding, "backslashreplace").decode(encoding) for text in column.cells(index)]

    return replace(column, cells=cells)


def _ellipsis() -> str:
    try:
        "…".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "~"
    return "…"
