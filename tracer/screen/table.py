"""Tables whose columns stand still: their widths follow from the terminal's width alone, never from what is in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text

Row = TypeVar("Row")

ELLIPSIS = "…"
_HEADER = "bold reverse"


def _plain(_row: object) -> str:
    return ""


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column.

    Attributes:
        title: above it.
        text: what stands in it, of a row and the column's width; safe for a terminal already.
        least: cells that it takes.
        importance: where the width does not do for all, those with the smallest are left out first.
        most: cells that it may grow to where there is room; 0: it does not grow.
        right: aligned to the right, as numbers are.
        style: of a row, in the words of rich; "" none.
    """

    title: str
    text: Callable[[Row, int], str]
    least: int
    importance: int
    most: int = 0
    right: bool = False
    style: Callable[[Row], str] = _plain


class Table(Generic[Row]):
    """The columns that fit into a width, the less important ones left out; the first always stays, and the rest grow equally."""

    def __init__(self, columns: Sequence[Column[Row]], width: int) -> None:
        kept = list(range(len(columns)))
        while len(kept) > 1 and sum(columns[index].least + 1 for index in kept) - 1 > width:
            kept.remove(min(kept[1:], key=lambda index: columns[index].importance))
        self._columns = [columns[index] for index in kept]
        self._widths = _grown(self._columns, width)
        self._width = width

    def header(self, first: str | None = None) -> Text:
        """The titles; `first` in place of the first column's."""
        titles = [column.title for column in self._columns]
        if first is not None:
            titles[0] = first
        return plain_line(" ".join(map(self._cell, range(len(titles)), titles)), self._width, _HEADER)

    def line(self, row: Row) -> Text:
        """One row."""
        cells = [
            self._cell(index, column.text(row, width))
            for index, (column, width) in enumerate(zip(self._columns, self._widths, strict=True))
        ]
        line = Text(" ".join(cells), no_wrap=True, end="")
        start = 0
        for column, cell in zip(self._columns, cells, strict=True):
            style = column.style(row)
            if style:
                line.stylize(style, start, start + len(cell))
            start += len(cell) + 1
        return line

    def _cell(self, index: int, text: str) -> str:
        return fitted(text, self._widths[index], right=self._columns[index].right)


def _grown(columns: Sequence[Column[Row]], width: int) -> list[int]:
    widths = [min(column.least, max(width, 1)) for column in columns]
    room = width - sum(widths) - (len(widths) - 1)
    while room > 0:
        growing = [index for index, column in enumerate(columns) if widths[index] < column.most]
        if not growing or len(growing) > room:  # bars beside each other are of the same seconds
            break
        for index in growing:
            widths[index] += 1
        room -= len(growing)
    return widths


def plain_line(text: str, width: int, style: str = "") -> Text:
    """A line of exactly so many cells in one style."""
    return Text(fitted(text, width), style, no_wrap=True, end="")


def fitted(text: str, width: int, *, right: bool = False) -> str:
    """Exactly so many cells: filled with blanks, or cut with an ellipsis.

    What is aligned to the right is a number, and a part of it would be another one: nothing is left of it.
    """
    length = len(text) if text.isascii() else cell_len(text)
    if length > width:
        if width < 1:
            return ""
        return ELLIPSIS.rjust(width) if right else set_cell_size(text, width - 1) + ELLIPSIS
    blanks = " " * (width - length)
    return blanks + text if right else text + blanks
