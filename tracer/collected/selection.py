"""The rows of one kind of a trace, for those who show some of them: which fit filters, as tables, as lines of JSON. Pure.

A million transitions as columns of text are several hundred MB, so their tables are made in parts, of the rows that are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tracer.collected.belonging import NOBODY, connection_of
from tracer.collected.collector import Collected
from tracer.collected.ordering import column_name, order_of, with_all_states
from tracer.collected.tables import Column, Kind, Table, chosen, connection_table, finding_table, transition_table
from tracer.events import EventBatch
from tracer.filters.connections import fitting_connections
from tracer.filters.filters import Filters
from tracer.filters.findings import fitting_findings
from tracer.filters.transitions import fitting_transitions
from tracer.lines import connection_lines, finding_lines, transition_lines
from tracer.segments import take

CONNECTIONS, TRANSITIONS, FINDINGS = "connections", "transitions", "findings"
PART_ROWS = 1 << 14
"""Rows that are text at the same time."""
_OWN = ("number", "after_ns")
_NOTHING = np.zeros(0, np.intp)


class Selection:
    """All rows of a kind, of which some are asked for by their indexes, arrays of shape (n,).

    Attributes:
        kind: CONNECTIONS, TRANSITIONS or FINDINGS.
        collected: the trace; with its transitions, where these are shown.
        owners: whose each transition is (`belonging.connection_of`); empty where transitions were not collected.
    """

    def __init__(self, kind: str, collected: Collected) -> None:
        self.kind = kind
        self.collected = collected
        self.owners = connection_of(collected)
        self._whole: Table | None = None
        self._part: tuple[NDArray[np.intp], Table] | None = None
        if kind == TRANSITIONS:
            self._after_ns = _after_previous_ns(collected, self.owners)
        else:
            connections = kind == CONNECTIONS
            self._whole = with_all_states(connection_table(collected)) if connections else finding_table(collected)
            numbers = range(1, len(collected.rows) + 1) if connections else (each.episode for each in collected.findings)
            self._whole["number"] = _numbers(np.array(list(numbers), np.int64))

    def __len__(self) -> int:
        if self.kind == FINDINGS:
            return len(self.collected.findings)
        return len(self.collected.events if self.kind == TRANSITIONS else self.collected.rows)

    def fitting(self, filters: Filters) -> NDArray[np.intp]:
        """Which rows fit, in the order of the trace.

        Raises:
            UsageError: the filters ask what this trace, or this kind, can't answer.
        """
        if self.kind == FINDINGS:
            return np.flatnonzero(fitting_findings(self.collected, filters))
        if self.kind == TRANSITIONS:
            return np.flatnonzero(fitting_transitions(self.collected, filters, self.owners))
        return np.flatnonzero(fitting_connections(self.collected, filters, self.owners))

    def ordered(self, index: NDArray[np.intp], name: str, descending: bool) -> NDArray[np.intp]:
        """The same rows, sorted by a column (`ordering.order_of`).

        Raises:
            UsageError: there is no such column.
        """
        exact = column_name(name, self.part(_NOTHING))
        columns = [self.part(part)[exact] for part in parts_of(index)] or [self.part(_NOTHING)[exact]]
        values, known = (np.concatenate([getattr(each, field) for each in columns]) for field in ("values", "known"))
        return index[order_of(Column(exact, columns[0].kind, values, known), descending)]

    def own_columns(self) -> list[str]:
        """The columns of `tables`: none that is made here, and no state that no connection of the trace was in."""
        if self.kind == CONNECTIONS:
            return list(connection_table(self.collected))
        return [name for name in self.part(_NOTHING) if name not in _OWN]

    def part(self, index: NDArray[np.intp]) -> Table:
        """Some rows as a table, with columns that `tracer.collected.tables` does not have.

        These are `number`, of the connection or of the finding, and `after_ns`, how long after the transition before of the same
        connection one came.
        """
        if self._part is None or self._part[0] is not index:
            self._part = (index, self._made(index))
        return self._part[1]

    def _made(self, index: NDArray[np.intp]) -> Table:
        if self._whole is not None:
            return chosen(self._whole, index)
        collected = self.collected
        own = replace(collected, events=take(collected.events, index), early_ns=collected.early_ns[index])
        after_ns = self._after_ns[index]
        after = Column("after_ns", Kind.INTEGER, after_ns, after_ns >= 0)
        return transition_table(own) | {"number": _numbers(self.owners[index] + 1), "after_ns": after}

    def lines(self, index: NDArray[np.intp]) -> Iterator[str]:
        """Some rows as the lines of `--json`."""
        clock, endpoints = self.collected.header.clock, self.collected.endpoints
        for part in parts_of(index):
            if self.kind == CONNECTIONS:
                details = [self.collected.details[at] for at in part.tolist()]
                yield from connection_lines(take(self.collected.rows, part), endpoints, clock, details)
            elif self.kind == TRANSITIONS:
                events, early_ns = take(self.collected.events, part), self.collected.early_ns[part]
                yield from transition_lines(
                    EventBatch(events, self.collected.header.source, 1, early_ns=early_ns), endpoints, clock
                )
            else:
                yield from finding_lines([self.collected.findings[at] for at in part.tolist()], endpoints, clock)


def _after_previous_ns(collected: Collected, owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Time since the transition before of the same connection, shape (n_transitions,); -1 for first ones and nobody's."""
    after_ns = np.full(len(owners), -1, np.int64)
    order = np.argsort(owners, kind="stable")
    own, ts_ns = owners[order], collected.events["ts_ns"].astype(np.int64)[order]
    same = np.flatnonzero((own[1:] == own[:-1]) & (own[1:] != NOBODY)) + 1
    after_ns[order[same]] = np.maximum(ts_ns[same] - ts_ns[same - 1], 0)
    return after_ns


def parts_of(index: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Indexes of rows, PART_ROWS at a time."""
    return (index[start : start + PART_ROWS] for start in range(0, len(index), PART_ROWS))


def _numbers(numbers: NDArray[np.int64]) -> Column:
    return Column("number", Kind.INTEGER, numbers, numbers > NOBODY + 1)
