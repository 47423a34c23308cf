"""CSV: what pandas and spreadsheets read back is what the table holds, and no cell of text is a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.collected.tables import Column, Kind, Table
from tracer.collected.tables_csv import cell_text, write_csv


def text_column(name: str, values: Sequence[str | None]) -> Column:
    column = np.empty(len(values), object)
    column[:] = [value or "" for value in values]
    return Column(name, Kind.TEXT, column, np.array([value is not None for value in values], bool))


def numbers(name: str, kind: Kind, values: Sequence[Any], known: Sequence[bool] | None = None) -> Column:
    dtype = {Kind.UNSIGNED: np.uint64, Kind.NUMBER: np.float64, Kind.TRUTH: np.bool_}.get(kind, np.int64)
    return Column(name, kind, np.array(values, dtype), np.ones(len(values), bool) if known is None else np.array(known))


def table_of(*columns: Column) -> Table:
    return {column.name: column for column in columns}


def written(table: Table, terminal: bool = False) -> str:
    stream = io.StringIO(newline="")
    write_csv(table, stream, terminal)
    return stream.getvalue()


def read_back(table: Table) -> list[list[str]]:
    return list(csv.reader(io.StringIO(written(table), newline="")))[1:]


HOSTILE = ['say "hi"', "a,b", "two\r\nlines", "'", "", " ", "\x1b[2J", "\u202etxt.exe", "</script>", "é漢字", "\x00"]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_text_comes_back_as_it_was(value: str) -> None:
    assert read_back(table_of(text_column("a", [value]), text_column("b", ["x"]))) == [[value, "x"]]


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_a_text_that_looks_like_a_formula_gets_an_apostrophe(value: str) -> None:
    assert read_back(table_of(text_column("a", [value]))) == [["'" + value]]


@given(value=st.text())
def test_no_cell_of_text_begins_a_formula_and_every_one_can_be_encoded(value: str) -> None:
    shown = cell_text(value)
    shown.encode()
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


@given(value=st.text(st.characters(codec="utf-8")).filter(lambda text: not text.startswith(tuple("=+-@\t\r\n"))))
def test_every_other_text_is_not_touched(value: str) -> None:
    assert cell_text(value) == value


@given(value=st.text())
def test_nothing_that_a_terminal_obeys_is_written_to_one(value: str) -> None:
    assert cell_text(value, terminal=True).isprintable()


def test_a_negative_number_gets_no_apostrophe() -> None:
    assert read_back(table_of(numbers("a", Kind.INTEGER, [-5]), numbers("b", Kind.NUMBER, [-0.5]))) == [["-5", "-0.5"]]


@pytest.mark.parametrize("kind", list(Kind))
def test_what_is_not_known_is_empty_and_zero_is_not(kind: Kind) -> None:
    column = text_column("a", ["0", None]) if kind is Kind.TEXT else numbers("a", kind, [0, 0], [True, False])
    first, second = read_back(table_of(column, text_column("b", ["x", "x"])))
    assert (first[0] != "", second[0]) == (True, "")


@given(values=st.lists(st.integers(-(1 << 62), 1 << 62), min_size=1, max_size=5))
def test_a_time_comes_back_to_the_nanosecond(values: list[int]) -> None:
    cells = [row[0] for row in read_back(table_of(numbers("at", Kind.TIME, values)))]
    assert all(cell.endswith("Z") and cell[10] == "T" for cell in cells)
    assert [np.datetime64(cell.removesuffix("Z"), "ns").astype(np.int64) for cell in cells] == values


@given(values=st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=5))
def test_unsigned_numbers_stay_exact(values: list[int]) -> None:
    assert [int(row[0]) for row in read_back(table_of(numbers("n", Kind.UNSIGNED, values)))] == values


def test_truths_are_read_as_such_by_pandas() -> None:
    frame = pd.read_csv(io.StringIO(written(table_of(numbers("a", Kind.TRUTH, [True, False])))))
    assert (frame["a"].dtype, frame["a"].tolist()) == (bool, [True, False])


def test_every_line_ends_as_the_standard_says() -> None:
    assert written(table_of(numbers("a", Kind.INTEGER, [1]), text_column("b", ["x"]))) == "a,b\r\n1,x\r\n"


def test_a_table_without_rows_is_its_header() -> None:
    assert written(table_of(numbers("a", Kind.TIME, []), text_column("b", []))) == "a,b\r\n"


def test_more_rows_than_fit_into_one_piece_are_all_there_in_order() -> None:
    count = (1 << 16) + 3
    table = table_of(numbers("a", Kind.INTEGER, range(count)), text_column("b", [str(number % 7) for number in range(count)]))
    assert read_back(table) == [[str(number), str(number % 7)] for number in range(count)]
