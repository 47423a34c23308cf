"""Counts over time, as steps: how many connections are open, and how many are opened each second. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SECOND_NS = 1_000_000_000
Steps = tuple[NDArray[np.int64], NDArray[np.int64]]
"""(boottimes in rising order, the count from each of them on)."""


def open_steps(start_ns: NDArray[np.int64], end_ns: NDArray[np.int64], since_ns: int) -> Steps:
    """How many of the intervals [start, end) there are, from `since_ns` on.

    Args:
        start_ns: shape (n,), none before `since_ns`.
        end_ns: shape (n,); the largest int64 for those that do not end.
        since_ns: the first step.
    """
    ended = end_ns < np.iinfo(np.int64).max
    times_ns = np.concatenate([[since_ns], start_ns, end_ns[ended]])
    changes = np.repeat([0, 1, -1], [1, len(start_ns), int(ended.sum())])
    at_ns, inverse = np.unique(times_ns, return_inverse=True)
    count = np.cumsum(np.bincount(inverse, weights=changes, minlength=len(at_ns)).astype(np.int64))
    return _changes(at_ns, count)


def per_second_steps(at_ns: NDArray[np.int64], since_ns: int) -> Steps:
    """How many of the moments, shape (n,), lie in each second counted from `since_ns`, before which there are none."""
    seconds, counts = np.unique((at_ns - since_ns) // SECOND_NS, return_counts=True)
    after = np.setdiff1d(np.append(seconds + 1, 0), seconds)  # seconds of silence, and the first
    second = np.concatenate([seconds, after])
    order = np.argsort(second)
    return _changes(since_ns + second[order] * SECOND_NS, np.concatenate([counts, np.zeros_like(after)])[order])


def _changes(at_ns: NDArray[np.int64], count: NDArray[np.int64]) -> Steps:
    """Without the steps that change nothing."""
    changed = np.append(True, count[1:] != count[:-1])
    return at_ns[changed], count[changed].astype(np.int64)
