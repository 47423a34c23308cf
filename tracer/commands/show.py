"""`regtrace show`: the connections, transitions or findings of a capture, filtered and sorted; or one connection in full."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from tracer.belonging import NOBODY, connection_of
from tracer.collected import Collected
from tracer.commands.reading import collect
from tracer.dossier import dossier_line, dossier_of
from tracer.errors import EXIT_OK, UsageError
from tracer.events import EventBatch
from tracer.filters.connections import fitting_connections
from tracer.filters.filters import Filters, parse_filters
from tracer.filters.findings import fitting_findings
from tracer.filters.transitions import fitting_transitions
from tracer.lines import connection_lines, finding_lines, transition_lines
from tracer.ordering import column_name, column_names, order_of, with_all_states
from tracer.reports.cells import TimeTexts
from tracer.reports.dossier_text import dossier_texts
from tracer.reports.grid import grid_lines, laid_out
from tracer.reports.show_text import Shown, grid_columns, head_texts
from tracer.reports.text_report import warning_texts
from tracer.segments import take
from tracer.tables import Column, Kind, Table, chosen, connection_table, finding_table, transition_table
from tracer.tables_csv import write_csv

_CHUNK_ROWS = 1 << 14
_WIDTH_MIN = 20


def run(options: argparse.Namespace) -> int:
    """Show."""
    filters = _filters(options)
    _check(options, filters)
    with_events = options.transitions or options.connection is not None or bool(filters.states)
    collected = collect(options, options.trace, with_events=with_events)
    if options.connection is not None:
        _show_connection(options, collected)
        return EXIT_OK
    shown, fits = _chosen(options, collected, filters)
    index = np.flatnonzero(fits)
    if options.sort is not None:
        name, _, direction = options.sort.partition(":")
        index = index[order_of(_part(shown.table[column_name(name, shown.table)], index), direction == "desc")]
    index = index[: options.limit]
    if options.format == "text":
        _show_text(options, shown, index, int(fits.sum()))
    else:
        _say_what_is_missing(collected)
        _show_lines(shown, index) if options.format == "json" else _show_csv(options, shown, index)
    if not fits.any() and len(fits):
        sys.stderr.write(f"regtrace: none of the {_counted(len(fits), shown.kind)} fits these filters\n")
    return EXIT_OK


def _filters(options: argparse.Namespace) -> Filters:
    return parse_filters(
        endpoints=options.endpoint,
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


def _chosen(options: argparse.Namespace, collected: Collected, filters: Filters) -> tuple[Shown, NDArray[np.bool_]]:
    """The table that is asked for, and which of its rows."""
    if options.findings:
        table = _numbered(finding_table(collected), np.array([each.episode for each in collected.findings], np.int64))
        return Shown("findings", collected, table), fitting_findings(collected, filters)
    owners = connection_of(collected) if options.transitions or filters.states else None
    if options.transitions:
        assert owners is not None
        table = _numbered(transition_table(collected), owners + 1)
        return Shown("transitions", collected, table, owners), fitting_transitions(collected, filters, owners)
    table = _numbered(with_all_states(connection_table(collected)), np.arange(1, len(collected.rows) + 1))
    return Shown("connections", collected, table), fitting_connections(collected, filters, owners)


def _numbered(table: Table, numbers: NDArray[np.int64]) -> Table:
    """A table and the number of each row's connection, or of each finding."""
    return table | {"number": Column("number", Kind.INTEGER, numbers, numbers > NOBODY + 1)}


def _part(column: Column, index: NDArray[np.intp]) -> Column:
    return Column(column.name, column.kind, column.values[index], column.known[index])


def _counted(count: int, kind: str) -> str:
    return f"{count} {kind if count != 1 else kind.removesuffix('s')}"


def _show_csv(options: argparse.Namespace, shown: Shown, index: NDArray[np.intp]) -> None:
    """All columns of the table, but for those that are empty for a whole trace, or the ones that are named."""
    if options.columns is None:
        full = {"connections": connection_table, "transitions": transition_table, "findings": finding_table}[shown.kind]
        names = list(full(shown.collected))
    else:
        names = column_names(options.columns, shown.table)
    write_csv(chosen({name: shown.table[name] for name in names}, index), sys.stdout, sys.stdout.isatty())


def _show_lines(shown: Shown, index: NDArray[np.intp]) -> None:
    """The lines of `replay --json`, of the chosen rows."""
    collected = shown.collected
    clock, endpoints = collected.header.clock, collected.endpoints
    for start in range(0, len(index), _CHUNK_ROWS):
        part = index[start : start + _CHUNK_ROWS]
        if shown.kind == "connections":
            lines = connection_lines(
                take(collected.rows, part), endpoints, clock, [collected.details[at] for at in part.tolist()]
            )
        elif shown.kind == "transitions":
            events, early_ns = take(collected.events, part), collected.early_ns[part]
            lines = transition_lines(EventBatch(events, collected.header.source, 1, early_ns=early_ns), endpoints, clock)
        else:
            lines = finding_lines([collected.findings[at] for at in part.tolist()], endpoints, clock)
        _write(lines)


def _show_text(options: argparse.Namespace, shown: Shown, index: NDArray[np.intp], fitting: int) -> None:
    collected, width, colours = shown.collected, _terminal_width(), _wants_colours()
    columns = grid_columns(shown, options.columns or ())
    total = len(next(iter(shown.table.values())).values)
    layout = laid_out(columns, index, width)
    head = head_texts(collected, options.trace.name)
    first = f", the first {len(index)} shown" if len(index) < fitting else ""
    head.append(f"{fitting} of {_counted(total, shown.kind)}{first}; {TimeTexts(collected).said}")
    if layout.left_out:
        head.append(f"too narrow for: {', '.join(layout.left_out)} (see --columns)")
    _write(line for text in head for line in (textwrap.wrap(text, width) if width else [text]))
    if len(index):
        _write(["", *islice(grid_lines(layout, index[:0], colours, _ellipsis()), 1)])
        lines = grid_lines(layout, index, colours, _ellipsis())
        next(lines)
        _write(lines)
    if shown.kind == "findings":
        _write(f"{rule} did not judge: {reason}" if rule != "*" else reason for rule, reason in collected.summary.abstained)


def _show_connection(options: argparse.Namespace, collected: Collected) -> None:
    count = len(collected.rows)
    if not 1 <= options.connection <= count:
        there_are = f"it has {count}, from 1 to {count}" if count else "it has none"
        raise UsageError(f"there is no connection {options.connection} in this trace: {there_are}")
    dossier = dossier_of(collected, options.connection)
    if options.format == "json":
        _say_what_is_missing(collected)
        _write([dossier_line(dossier, collected.header.clock)])
        return
    width = _terminal_width()
    head = head_texts(collected, options.trace.name)
    _write(line for text in head for line in (textwrap.wrap(text, width) if width else [text]))
    _write(["", *dossier_texts(dossier, collected, width, _wants_colours(), _ellipsis())])


def _say_what_is_missing(collected: Collected) -> None:
    """On standard error, where standard output is for programs."""
    for text in warning_texts(collected.summary, collected.truncated):
        sys.stderr.write(f"regtrace: {text}\n")


def _write(lines: Iterable[str]) -> None:
    iterator: Iterator[str] = iter(lines)
    while part := list(islice(iterator, _CHUNK_ROWS)):
        sys.stdout.write("".join(f"{line}\n" for line in part))


def _terminal_width() -> int | None:
    """Cells of a line; None: nobody cuts it, as in a pipe."""
    return max(shutil.get_terminal_size().columns, _WIDTH_MIN) if sys.stdout.isatty() else None


def _wants_colours() -> bool:
    """https://no-color.org: set and not empty says no."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def _ellipsis() -> str:
    try:
        "…".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "~"
    return "…"
