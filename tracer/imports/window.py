"""Events in the order of time, out of lines that are nearly in it, within bounded memory. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracer.events import EVENT_DTYPE, Events
from tracer.segments import joined, take

HELD_EVENTS = 1 << 16
"""What comes later than so many others stays where it is; the buffers of tracing tools hold fewer for each CPU."""


class Loss(NamedTuple):
    """So many events were lost before what happened at a time."""

    at_ns: int
    events: int


class Piece(NamedTuple):
    """Events in order, with how much earlier each may have happened, shapes (n_events,)."""

    events: Events
    early_ns: NDArray[np.uint64]


class Window:
    """Holds the latest events until nothing earlier can be expected any more."""

    def __init__(self, held: int = HELD_EVENTS) -> None:
        self._held = held
        self._events: Events = np.zeros(0, EVENT_DTYPE)
        self._early_ns = np.zeros(0, np.uint64)

    def add(self, events: Events, early_ns: NDArray[np.uint64]) -> Piece:
        """Take events; what is old enough comes back, in the order of time, and in that of the lines where it is the same."""
        self._events = joined([self._events, events])
        self._early_ns = np.concatenate([self._early_ns, early_ns])
        order = np.argsort(self._events["ts_ns"], kind="stable")
        self._events, self._early_ns = take(self._events, order), self._early_ns[order]
        return self._cut(max(len(self._events) - self._held, 0) if len(self._events) > 2 * self._held else 0)

    def rest(self) -> Piece:
        """All that is held."""
        return self._cut(len(self._events))

    def _cut(self, count: int) -> Piece:
        piece = Piece(self._events[:count].copy(), self._early_ns[:count].copy())
        self._events, self._early_ns = self._events[count:].copy(), self._early_ns[count:].copy()
        return piece


def parted(piece: Piece, losses: list[Loss]) -> Iterator[tuple[Piece, Loss | None]]:
    """A piece cut where events were lost, each part with the loss before it; `losses` in the order of time."""
    times_ns = piece.events["ts_ns"]
    start, before = 0, None
    for loss in losses:
        end = int(np.searchsorted(times_ns, np.uint64(max(loss.at_ns, 0))))
        if end > start or before is not None:
            yield Piece(piece.events[start:end].copy(), piece.early_ns[start:end]), before
        start, before = end, loss
    if start < len(times_ns) or before is not None:
        yield Piece(piece.events[start:].copy(), piece.early_ns[start:]), before
