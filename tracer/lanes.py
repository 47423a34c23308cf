"""Lanes: intervals side by side on as few lines as there are of them at a time. Pure."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray


def lanes_of(start_ns: NDArray[np.int64], end_ns: NDArray[np.int64], gap_ns: int = 0) -> NDArray[np.intp]:
    """The lane of each interval [start, end), from 0; those of one lane do not overlap, and are `gap_ns` apart.

    Args:
        start_ns, end_ns: shape (n_intervals,), in any order.
        gap_ns: between two intervals of a lane, at least.

    Returns:
        Shape (n_intervals,). Each takes the lowest lane that is free, so that what is seldom needed stays at the bottom; there
        are no more lanes than intervals, longer by the gap, at a time.
    """
    lanes = np.empty(len(start_ns), np.intp)
    free: list[int] = []
    busy: list[tuple[int, int]] = []  # (end, lane)
    starts, ends = start_ns.tolist(), (end_ns + gap_ns).tolist()
    # A loop, because each takes what those before it left: 0.2 s for 200,000.
    for index in np.lexsort((end_ns, start_ns)).tolist():
        while busy and busy[0][0] <= starts[index]:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (ends[index], lane))
        lanes[index] = lane
    return lanes
