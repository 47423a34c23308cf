"""Columns of a table by the names people use for them, and the order of its rows by one of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from tracer.collected.tables import STATE_COLUMNS, Column, Kind, Table
from tracer.errors import UsageError

_FORMS = ("{}", "{}_ns", "{}_us", "{}_ms", "{}_state_ns", "bytes_{}", "{}_bytes", "{}_at")
_SPOKEN = {
    "#": "number",
    "time": ("first_seen_ns", "ts_ns", "started_ns"),
    "owner": "comm",
    "remote": "endpoint",
    "port": "lport",
    "connection": "number",
    "reason": "close_reason",
}
_SHOWN_MAX = 40
_NEAREST_MAX, _NEAR, _LISTED_MAX = 3, 0.6, 12


def column_name(text: str, table: Table) -> str:
    """The column that is meant: its name, or that without a unit ("lifetime" for "lifetime_ns").

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    spoken = text if text in table else _SPOKEN.get(text, text)
    for name in (spoken,) if isinstance(spoken, str) else spoken:
        found = next((form.format(name) for form in _FORMS if form.format(name) in table), None)
        if found is not None:
            return found
    raise UsageError(f"{text[:_SHOWN_MAX]!r} is no column: {_expected(text, table)}")


def _expected(text: str, table: Table) -> str:
    """The nearest names, or, where none is near, the first ones."""
    near = get_close_matches(text[:_SHOWN_MAX], (*filter(str.isalpha, _SPOKEN), *table), _NEAREST_MAX, _NEAR)
    if near:
        return f"did you mean {' or '.join(near)}?"
    names, left = list(table), len(table) - _LISTED_MAX
    more = f" and {left} more, the fields of --format json" if left > 0 else ""
    return f"expected one of {', '.join(names[:_LISTED_MAX])}{more}"


def column_names(texts: Sequence[str], table: Table) -> list[str]:
    """The columns that are meant, each once, in this order.

    Raises:
        UsageError: one of them there is not, or none is named.
    """
    names = list(dict.fromkeys(column_name(text, table) for text in texts))
    if not names:
        raise UsageError(f"no column is named: expected some of {', '.join(table)}")
    return names


def with_all_states(table: Table) -> Table:
    """A table of connections with the columns of states that none of them was in, too: unknown in every row."""
    missing = [name for _, name in STATE_COLUMNS if name not in table]
    count = len(next(iter(table.values())).values)
    nothing = {name: Column(name, Kind.INTEGER, np.zeros(count, np.int64), np.zeros(count, bool)) for name in missing}
    return table | nothing


def order_of(column: Column, descending: bool = False) -> NDArray[np.intp]:
    """Indexes of rows sorted by a column.

    Rows of equal value stay in their order, in both directions, and those whose value is unknown come last.

    Returns:
        intp, shape (n_rows,).
    """
    if column.kind is Kind.TEXT:
        texts = column.values.tolist()
        places = {text: place for place, text in enumerate(sorted(set(texts)))}
        ranks = np.fromiter(map(places.__getitem__, texts), np.int64, len(texts))
    else:
        ranks = np.unique(column.values, return_inverse=True)[1].astype(np.int64)
    ranks = np.where(column.known, -ranks if descending else ranks, np.iinfo(np.int64).max)
    return np.argsort(ranks, kind="stable")
