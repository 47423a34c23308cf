"""CSV: a table of a trace as `tracer.collected.tables_csv` writes it. What holds for the whole trace has no place in it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from tracer.collected.collector import Collected
from tracer.collected.tables import Table, chosen, table_of
from tracer.collected.tables_csv import write_csv_parts
from tracer.exports import Told

_PART_ROWS = 1 << 14
"""Rows that are text at the same time."""


def write_csv_file(collected: Collected, what: str, stream: BinaryIO, told: Told) -> None:
    """Write a table; see `tracer.exports.export`."""
    text = io.TextIOWrapper(stream, "utf-8", newline="", write_through=True)
    try:
        write_csv_parts(_parts(collected, what, told), text, stream.isatty())
    finally:
        text.detach()


def _parts(collected: Collected, what: str, told: Told) -> Iterator[Table]:
    """The table, some rows at a time; one part at least, for its columns."""
    whole = None if what == "transitions" else table_of(collected, what)  # its columns depend on all connections
    count = len(collected.events) if whole is None else len(next(iter(whole.values())).values)
    for start in range(0, max(count, 1), _PART_ROWS):
        told(start / max(count, 1))
        end = min(start + _PART_ROWS, count)
        if whole is None:
            part = replace(collected, events=collected.events[start:end], early_ns=collected.early_ns[start:end])
            yield table_of(part, what)
        else:
            yield chosen(whole, np.arange(start, end))
