"""Lanes: intervals side by side on as few lines as there are of them at a time. Pure."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray


def lanes_of(start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]) -> NDArray[np.intp]:
    """The lane of each interval [start, end), from 0; those of one lane do not overlap.

    Args:
        start_ns: shape (n_intervals,), in rising order.
        end_ns: shape (n_intervals,).

    Returns:
        Shape (n_intervals,). Each takes the lowest lane that is free, so that what is seldom needed stays at the bottom; there
        are no more lanes than intervals at a time.
    """
    lanes = np.empty(len(start_ns), np.intp)
    free: list[int] = []
    busy: list[tuple[int, int]] = []  # (end, lane)
    # A loop, because each takes what those before it left: 0.2 s for 200,000.
    for index, (start, end) in enumerate(zip(start_ns.tolist(), end_ns.tolist(), strict=True)):
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (end, lane))
        lanes[index] = lane
    return lanes
