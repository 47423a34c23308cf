"""The journal: the last connections, transitions and remarks, kept as they came and made text when they are shown. Pure.

At 10,000 connections a second a picture shows a few lines of thousands, so nothing is written that nobody sees.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracer.analysis import Analysis
from tracer.events import EventBatch, Events, is_transition, valid
from tracer.rows import Connections
from tracer.screen.matching import matching

KEPT = 200
"""Rows of a kind, and remarks: more than any terminal has lines."""


class Pages(NamedTuple):
    """What the journal holds at a moment, the oldest first; remarks with their boottimes."""

    connections: tuple[Connections, ...]
    transitions: tuple[Events, ...]
    remarks: tuple[tuple[int, str], ...]


class Journal:
    """Takes what happens; of each kind at least the last KEPT are there, of those that match the filter."""

    def __init__(self) -> None:
        self._connections: deque[Connections] = deque()
        self._transitions: deque[Events] = deque()
        self._remarks: deque[tuple[int, str]] = deque(maxlen=KEPT)

    def add(self, batch: EventBatch, ended: Connections, analysis: Analysis, text: str) -> None:
        """Take what matches `text` of a batch, and of the connections that ended with it."""
        if len(ended):
            _keep(self._connections, ended[matching(ended, analysis, text)] if text else ended)
        if len(batch):
            events = batch.events[-KEPT:] if not text else batch.events[_events_that_match(batch.events, analysis, text)]
            _keep(self._transitions, events[is_transition(events)])

    def remark(self, ts_ns: int, text: str) -> None:
        """Take a line that is no row, safe for a terminal already; of a boottime, -1 unknown."""
        self._remarks.append((ts_ns, text))

    def narrow(self, analysis: Analysis, text: str) -> None:
        """Keep only what matches."""
        self._connections = deque(rows[matching(rows, analysis, text)] for rows in self._connections)
        self._transitions = deque(events[_events_that_match(events, analysis, text)] for events in self._transitions)

    def pages(self) -> Pages:
        """What is kept now."""
        return Pages(tuple(self._connections), tuple(self._transitions), tuple(self._remarks))


def latest(chunks: tuple[NDArray[np.void], ...], count: int) -> NDArray[np.void] | None:
    """The last `count` rows of chunks, in their order; None where there are none."""
    found: list[NDArray[np.void]] = []
    missing = count
    for chunk in reversed(chunks):
        if missing <= 0:
            break
        found.append(chunk[-missing:])
        missing -= len(found[-1])
    return np.concatenate(found[::-1]) if found else None


def _keep(chunks: deque[NDArray[np.void]], rows: NDArray[np.void]) -> None:
    """Append a copy of the last rows, and forget what is older than the last KEPT."""
    if not len(rows):
        return
    chunks.append(rows[-KEPT:].copy())
    while sum(len(chunk) for chunk in islice(chunks, 1, None)) >= KEPT:
        chunks.popleft()


def _events_that_match(events: Events, analysis: Analysis, text: str) -> NDArray[np.bool_]:
    return matching(events, analysis, text, valid(events, "pid"))
