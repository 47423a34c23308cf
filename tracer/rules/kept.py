"""Rows that a rule keeps until it is asked, at most so many of each endpoint. Pure."""

from __future__ import annotations

import numpy as np

from tracer.rows import Connections, blank_connections, by_endpoint
from tracer.segments import joined, take


class KeptRows:
    """The first `limit` rows that were added since they were last taken; the others are counted."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[Connections] = []
        self._kept = 0
        self.count = 0  # all that were added

    def add(self, rows: Connections) -> None:
        """Add rows."""
        if not len(rows):
            return
        self.count += len(rows)
        room = self._limit - self._kept
        if room > 0:
            kept = take(np.ascontiguousarray(rows), np.arange(min(room, len(rows))))
            self._pieces.append(kept)
            self._kept += len(kept)

    def rows(self) -> Connections:
        """What is kept."""
        return joined(self._pieces) if self._pieces else blank_connections(0)

    def take(self) -> Connections:
        """What is kept, and forget it."""
        rows = self.rows()
        self._pieces, self._kept, self.count = [], 0, 0
        return rows

    def __len__(self) -> int:
        return self._kept


class KeptByEndpoint:
    """The first `limit` rows of each endpoint, so that one endpoint can't hide another."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[int, KeptRows] = {}

    def add(self, rows: Connections) -> None:
        """Add rows."""
        for endpoint_id, own in by_endpoint(rows):
            self._kept.setdefault(endpoint_id, KeptRows(self._limit)).add(own)

    def take(self) -> dict[int, tuple[Connections, int]]:
        """By endpoint id, in order: what is kept, and how many were added; forget all."""
        kept, self._kept = self._kept, {}
        return {endpoint_id: (kept[endpoint_id].rows(), kept[endpoint_id].count) for endpoint_id in sorted(kept)}
