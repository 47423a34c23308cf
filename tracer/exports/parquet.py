"""Parquet: a table of a trace with its types, for polars, DuckDB, pandas, Spark and ClickHouse.

Unknown values are nulls, times are timestamp[ns, UTC], and what holds for the whole trace is in the file's key-value metadata
under `regtrace.*`. Text is what was found, with lone surrogates, which no UTF-8 has, written as backslash escapes; where it is
shown, whoever shows it has to escape it.
"""

from __future__ import annotations

import io
from typing import BinaryIO

import polars as pl

from tracer.collected.collector import Collected
from tracer.collected.tables import Column, Kind, table_of
from tracer.exports import Told
from tracer.exports.about import about

PREFIX = "regtrace."
"""Of every name in the metadata."""


def write_parquet(collected: Collected, what: str, stream: BinaryIO, told: Told) -> None:
    """Write a table as one file; see `tracer.exports.export`."""
    columns = list(table_of(collected, what).values())
    made = []
    for index, column in enumerate(columns):
        told(index / len(columns))
        made.append(_series(column))
    # By way of memory: what a file system refuses is then met by our own write, and not inside a library.
    file = io.BytesIO()
    pl.DataFrame(made).write_parquet(
        file, compression="zstd", metadata={PREFIX + name: _utf8(text) for name, text in about(collected).items()}
    )
    stream.write(file.getbuffer())


def _series(column: Column) -> pl.Series:
    if column.kind is Kind.TEXT:
        return _texts(column)
    values = pl.Series(column.name, column.values)
    if column.kind is Kind.TIME:
        values = values.cast(pl.Datetime("ns", "UTC"))
    return pl.select(pl.when(pl.Series(column.known)).then(values).alias(column.name)).to_series()


def _texts(column: Column) -> pl.Series:
    try:
        return pl.Series(column.name, column.objects(), pl.String)
    except UnicodeEncodeError:
        return pl.Series(column.name, [text if text is None else _utf8(text) for text in column.objects()], pl.String)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
