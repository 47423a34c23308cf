"""CSV: a table of a trace as `tracer.tables_csv` writes it. What holds for the whole trace has no place in it."""

from __future__ import annotations

import io
from typing import BinaryIO

from tracer.collected import Collected
from tracer.exports import Told
from tracer.tables import table_of
from tracer.tables_csv import write_csv


def write_csv_file(collected: Collected, what: str, stream: BinaryIO, told: Told) -> None:
    """Write a table; see `tracer.exports.export`."""
    text = io.TextIOWrapper(stream, "utf-8", newline="", write_through=True)
    terminal = stream.isatty()
    told(0.0)
    try:
        write_csv(table_of(collected, what), text, terminal)
    finally:
        text.detach()
