"""Grids: every line as wide as it may be, columns below each other whatever the characters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tracer.collected.selection import PART_ROWS
from tracer.reports.grid import GridColumn, grid_lines, laid_out
from tracer.text import printable

TEXTS = st.text(max_size=30).map(printable)
WIDE = "漢字かな"


def column(title: str, texts: Sequence[str], right: bool = False, least: int = 0, weight: int = 0) -> GridColumn:
    return GridColumn(title, lambda index: [texts[at] for at in index.tolist()], right, least, weight)


def lines_of(columns: list[GridColumn], count: int, width: int | None = None) -> list[str]:
    index = np.arange(count)
    return list(grid_lines(laid_out(columns, index, width), index, False, "…"))


@given(rows=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=8), width=st.integers(20, 60))
def test_no_line_is_wider_than_asked(rows: list[tuple[str, str, str]], width: int) -> None:
    first, second, third = zip(*rows, strict=True)
    columns = [column("a", first, least=3), column("b", second, right=True), column("c", third, least=12)]
    assert all(cell_len(line) <= width for line in lines_of(columns, len(rows), width))


@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8))
def test_without_a_width_nothing_is_cut(rows: list[tuple[str, str]]) -> None:
    first, second = zip(*rows, strict=True)
    lines = lines_of([column("a", first), column("b", second)], len(rows))[1:]
    edge = max(1, *map(cell_len, first)) + 2
    for line, left, right in zip(lines, first, second, strict=True):
        assert line == (left + " " * (edge - cell_len(left)) + right + " " * 40).rstrip()


def test_wide_and_combining_characters_take_the_cells_that_a_terminal_gives_them() -> None:
    texts = [WIDE, "abcdefgh", "e\u0301" * 8, ""]
    lines = lines_of([column("name", texts), column("n", ["1"] * 4, right=True)], 4)
    assert [cell_len(line) for line in lines] == [11] * 5


def test_a_wide_character_is_not_cut_in_half() -> None:
    (_, line) = lines_of([column("n", [WIDE], least=4)], 1, 6)
    assert (cell_len(line), line) == (6, "漢字 …") or cell_len(line) <= 6


def test_numbers_are_right_aligned_and_texts_left() -> None:
    lines = lines_of([column("n", ["1", "22"], right=True), column("name", ["x", "yy"])], 2)
    assert lines == [" n  name", " 1  x", "22  yy"]


def test_the_lightest_columns_are_left_out_first_and_then_the_last_ones() -> None:
    columns = [
        column("aaaa", ["1234"], weight=1),
        column("bbbb", ["1234"]),
        column("cccc", ["1234"]),
        column("dddd", ["1234"], weight=2),
    ]
    index = np.arange(1)
    left_out = [laid_out(columns, index, width).left_out for width in (22, 21, 15, 9, 1)]
    assert left_out == [(), ("cccc",), ("bbbb", "cccc"), ("aaaa", "bbbb", "cccc"), ("aaaa", "bbbb", "cccc")]


def test_what_may_be_cut_is_cut_before_a_column_is_left_out() -> None:
    columns = [column("a", ["x" * 40], least=10), column("b", ["1234"])]
    assert lines_of(columns, 1, 20) == ["a               b", "xxxxxxxxxxxxx…  1234"]


def test_more_rows_than_are_text_at_once_are_all_there() -> None:
    count = PART_ROWS * 2 + 1
    lines = lines_of([column("n", [str(number) for number in range(count)], right=True)], count)
    assert [line.strip() for line in lines[1:]] == [str(number) for number in range(count)]
    assert len({len(line) for line in lines}) == 1


def test_colours_change_no_width() -> None:
    red = GridColumn("a", lambda index: ["bad", "good"], style=lambda text: "31" if text == "bad" else "")
    index = np.arange(2)
    layout = laid_out([red, column("b", ["x", "x"])], index, None)
    lines = list(grid_lines(layout, index, True, "…"))
    assert lines[1:] == ["\x1b[31mbad \x1b[0m  x", "good  x"]
