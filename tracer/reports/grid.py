"""Aligned columns of text for people, as wide as they are or as wide as the terminal is.

Cells are text that `text.printable` let through: no escapes, but characters of any width. A terminal gives a character of East
Asian scripts two cells and a combining one none, so widths are cells and not characters (rich knows their tables).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size

from tracer.collected.selection import parts_of

_GAP = "  "


@dataclass(frozen=True)
class GridColumn:
    """One column.

    Attributes:
        title: its heading.
        cells: the texts of rows, given by their indexes, shape (n,).
        right: numbers are right-aligned.
        least: cells to which it may be cut where the terminal is too narrow; 0: it is never cut.
        weight: where not all fit, those of the lowest weight are left out.
        style: ANSI attributes of a cell ("31" is red), "" for none; asked only where colours are wanted.
    """

    title: str
    cells: Callable[[NDArray[np.intp]], list[str]]
    right: bool = False
    least: int = 0
    weight: int = 0
    style: Callable[[str], str] | None = None


@dataclass(frozen=True)
class Layout:
    """What of a grid fits.

    Attributes:
        columns: those that do, in their order.
        widths: cells of each.
        left_out: titles of those that do not.
    """

    columns: tuple[GridColumn, ...]
    widths: tuple[int, ...]
    left_out: tuple[str, ...]


def laid_out(columns: Sequence[GridColumn], index: NDArray[np.intp], width: int | None) -> Layout:
    """Measure columns and make them fit.

    Args:
        columns: of which the heaviest is always kept.
        index: of the rows that will be shown.
        width: cells of a line; None: as many as it takes.
    """
    widths = {id(column): _text_width(column.title) for column in columns}
    for part in parts_of(index):
        for column in columns:
            widths[id(column)] = max(widths[id(column)], *map(_text_width, column.cells(part)))
    kept = list(columns)
    while width is not None and _needed(kept, widths, least=True) > width and len(kept) > 1:
        kept.remove(min(reversed(kept), key=lambda column: column.weight))
    if width is not None:
        _squeeze(kept, widths, width)
    left_out = tuple(column.title for column in columns if column not in kept)
    return Layout(tuple(kept), tuple(widths[id(column)] for column in kept), left_out)


def _needed(columns: Sequence[GridColumn], widths: dict[int, int], least: bool) -> int:
    """Cells of a line, with those that may be cut as narrow as they get, or as they are."""
    cells = [min(widths[id(each)], each.least) if least and each.least else widths[id(each)] for each in columns]
    return sum(cells) + len(_GAP) * (len(cells) - 1)


def _squeeze(columns: Sequence[GridColumn], widths: dict[int, int], width: int) -> None:
    """Take what is too much from the widest column that may be cut, again and again; from the last one if none may be."""
    cut = [id(column) for column in columns if column.least] or [id(columns[-1])]
    for _ in range(max(_needed(columns, widths, least=False) - width, 0)):
        widest = max(cut, key=widths.__getitem__)
        widths[widest] = max(widths[widest] - 1, 1)


def grid_lines(layout: Layout, index: NDArray[np.intp], colours: bool, ellipsis: str) -> Iterator[str]:
    """The heading, and one line a row.

    Args:
        layout: of the same rows.
        index: the rows, in the order in which they are shown.
        colours: style cells, which changes no width.
        ellipsis: one character that says that a text was cut.
    """
    head = [
        _fitted(column.title, width, column.right, ellipsis) for column, width in zip(layout.columns, layout.widths, strict=True)
    ]
    line = _GAP.join(head).rstrip()
    yield f"\x1b[1m{line}\x1b[0m" if colours else line
    for part in parts_of(index):
        texts = [
            [_styled(text, _fitted(text, width, column.right, ellipsis), column, colours) for text in column.cells(part)]
            for column, width in zip(layout.columns, layout.widths, strict=True)
        ]
        for row in zip(*texts, strict=True):
            yield _GAP.join(row).rstrip()


def _text_width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _fitted(text: str, width: int, right: bool, ellipsis: str) -> str:
    """A text in exactly so many cells."""
    own = _text_width(text)
    if own > width:
        return set_cell_size(text, width - 1) + ellipsis
    return " " * (width - own) + text if right else text + " " * (width - own)


def _styled(text: str, fitted: str, column: GridColumn, colours: bool) -> str:
    attributes = column.style(text) if colours and column.style is not None else ""
    return f"\x1b[{attributes}m{fitted}\x1b[0m" if attributes else fitted
