"""How much happened at each endpoint in the last so many seconds. Pure."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from tracer.events import Events, is_opening
from tracer.rules.ticks import TICK_NS


class Rate:
    """Counts by endpoint in a window of event time that slides by the engine's cells; memory follows the cells in it."""

    def __init__(self, window_s: int) -> None:
        self._window_cells = window_s * 1_000_000_000 // TICK_NS
        self._cells: deque[tuple[int, dict[int, int]]] = deque()
        self._sums: dict[int, int] = {}

    def add(self, endpoint_id: NDArray[np.uint32], cell: int) -> None:
        """Count one for each endpoint id, shape (n,), in a cell that is not before the latest one."""
        if not len(endpoint_id):
            return
        if not self._cells or self._cells[-1][0] < cell:
            self._cells.append((cell, {}))
        counts = self._cells[-1][1]
        endpoints, found = np.unique(endpoint_id, return_counts=True)
        for number, count in zip(endpoints.tolist(), found.tolist(), strict=True):
            counts[number] = counts.get(number, 0) + count
            self._sums[number] = self._sums.get(number, 0) + count

    def slide(self, now_ns: int) -> None:
        """Forget what lies before the window that ends now."""
        oldest = now_ns // TICK_NS - self._window_cells
        while self._cells and self._cells[0][0] < oldest:
            for number, count in self._cells.popleft()[1].items():
                self._sums[number] -= count
                if not self._sums[number]:
                    del self._sums[number]

    def over(self, limit: float) -> list[tuple[int, int]]:
        """(endpoint id, count) of endpoints with more than `limit` in the window, by id."""
        if not self._sums or max(self._sums.values()) <= limit:
            return []
        return [(number, count) for number, count in sorted(self._sums.items()) if count > limit]

    def of(self, number: int) -> int:
        """The count of one endpoint in the window."""
        return self._sums.get(number, 0)


def opened(events: Events) -> NDArray[np.uint32]:
    """The endpoint id of each opening among events."""
    return np.asarray(events["endpoint_id"][is_opening(events)], np.uint32)
