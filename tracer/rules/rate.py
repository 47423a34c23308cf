"""How many connections were opened to each endpoint in the last so many seconds. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from tracer.events import Events, is_opening

BIN_NS = 500_000_000
"""The engine's tick: a bin is whole when the rules are asked."""


class OpenRate:
    """Opens by endpoint in a window of event time that slides by bins; memory follows the bins in the window."""

    def __init__(self, window_s: int) -> None:
        self._window_bins = window_s * 1_000_000_000 // BIN_NS
        self._bins: deque[tuple[int, dict[int, int]]] = deque()
        self._sums: dict[int, int] = {}

    def add(self, events: Events) -> None:
        """Count the openings among `events`, in trace order."""
        index = np.flatnonzero(is_opening(events))
        if not len(index):
            return
        number = int(events["ts_ns"][index].max()) // BIN_NS
        if not self._bins or self._bins[-1][0] < number:
            self._bins.append((number, {}))
        counts = self._bins[-1][1]
        endpoints, opens = np.unique(events["endpoint_id"][index], return_counts=True)
        for endpoint_id, count in zip(endpoints.tolist(), opens.tolist(), strict=True):
            counts[endpoint_id] = counts.get(endpoint_id, 0) + count
            self._sums[endpoint_id] = self._sums.get(endpoint_id, 0) + count

    def over(self, now_ns: int, limit: float) -> Iterator[tuple[int, int]]:
        """(endpoint id, opens) of endpoints with more than `limit` opens in the window that ends now."""
        oldest = now_ns // BIN_NS - self._window_bins
        while self._bins and self._bins[0][0] < oldest:
            for endpoint_id, count in self._bins.popleft()[1].items():
                self._sums[endpoint_id] -= count
                if not self._sums[endpoint_id]:
                    del self._sums[endpoint_id]
        if self._sums and max(self._sums.values()) > limit:
            yield from [(endpoint_id, count) for endpoint_id, count in sorted(self._sums.items()) if count > limit]
