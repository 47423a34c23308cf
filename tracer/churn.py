"""Churn: how many connections open and close, who closes them, and how many are open at a time.

Two forms of the same numbers. `churn` is exact for any windows, from rows of connections. `ChurnCounter` counts a stream in
bins of event time and bounded memory, for views and rates of a watch that never ends.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from tracer.events import Events, is_opening
from tracer.lifecycle import CloseReason
from tracer.rows import Connections

SIDES = ("peer", "local", "failed", "unknown")
"""Who closed: the peer (FIN or reset), this side (FIN or reset), nobody (never established, timed out), not known."""

_SIDE_OF = {
    CloseReason.PEER: 0, CloseReason.RESET: 0, CloseReason.LOCAL: 1, CloseReason.LOCAL_RESET: 1, CloseReason.REFUSED: 2,
    CloseReason.TIMEOUT: 2, CloseReason.UNREACHABLE: 2, CloseReason.ABORTED: 2,
}  # fmt: skip
SIDE_BY_REASON = np.array([_SIDE_OF.get(reason, 3) for reason in CloseReason], np.intp)
"""Index into SIDES, by CloseReason."""

CHURN_DTYPE = np.dtype(
    [
        ("start_ns", "i8"),  # boottime; the window is [start_ns, end_ns)
        ("end_ns", "i8"),
        ("opens", "i8"),
        ("closes", "i8", (len(SIDES),)),  # by side
        ("open_at_end", "i8"),
        ("mean_open", "f8"),  # time average over the window
        ("turnover", "f8"),  # closes / mean_open: how often the stock was replaced; nan if nothing was open
    ]
)

BIN_NS = 1_000_000_000
BINS = 900
"""A quarter of an hour: longer than the slowest retry of a registry's clients (kubelet: 300 s)."""
_KINDS = 1 + len(SIDES)  # opens, then closes by side


def churn(connections: Connections, edges_ns: NDArray[np.int64]) -> NDArray[np.void]:
    """Exact churn in consecutive windows.

    Args:
        connections: closed and open rows together. One whose opening was not seen counts as open since ever; one whose end
            was not seen (`closed_ns` -1) counts as open until it was last seen if it is cut off, else for ever.
        edges_ns: int64, shape (n_windows + 1,), boottime, increasing.

    Returns:
        CHURN_DTYPE, shape (n_windows,).

    Raises:
        ValueError: the edges do not increase.
    """
    if len(edges_ns) < 2 or (np.diff(edges_ns) <= 0).any():
        raise ValueError(f"{len(edges_ns)} edges that do not increase")
    still_open = connections["close_reason"] == CloseReason.OPEN
    opened_ns = connections["opened_ns"]
    since_ns = np.where(opened_ns >= 0, opened_ns, np.iinfo(np.int64).min // 2)
    closed_ns = connections["closed_ns"]
    until_ns = np.where(closed_ns >= 0, closed_ns, connections["last_ns"])
    until_ns = np.where(still_open, np.iinfo(np.int64).max // 2, until_ns)
    side = SIDE_BY_REASON[connections["close_reason"]]

    windows = np.zeros(len(edges_ns) - 1, CHURN_DTYPE)
    windows["start_ns"], windows["end_ns"] = edges_ns[:-1], edges_ns[1:]
    windows["opens"] = _per_window(opened_ns[opened_ns >= 0], edges_ns)
    for index in range(len(SIDES)):
        windows["closes"][:, index] = _per_window(until_ns[~still_open & (side == index)], edges_ns)
    ends = windows["end_ns"]
    windows["open_at_end"] = np.searchsorted(np.sort(since_ns), ends) - np.searchsorted(np.sort(until_ns), ends)
    open_ns = np.diff(_integral(since_ns, edges_ns) - _integral(until_ns, edges_ns))
    windows["mean_open"] = open_ns / np.diff(edges_ns)
    with np.errstate(divide="ignore", invalid="ignore"):
        turnover = windows["closes"].sum(axis=1) / windows["mean_open"]
    windows["turnover"] = np.where(windows["mean_open"] > 0, turnover, np.nan)
    return windows


def _per_window(times_ns: NDArray[np.int64], edges_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many times fall into each half-open window."""
    return np.diff(np.searchsorted(np.sort(times_ns), edges_ns))


def _integral(times_ns: NDArray[np.int64], edges_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum over all times of max(0, edge - max(time, first edge)), for each edge, modulo 2^64.

    It may wrap; the differences that are taken of it do not while a window has less than 2^63 ns (106,751 days) open in all.
    """
    times = np.sort(np.clip(times_ns, edges_ns[0], edges_ns[-1])) - edges_ns[0]
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(times)])
    edges = edges_ns - edges_ns[0]
    before = np.searchsorted(times, edges)
    return before * edges - sums[before]


class _Totals:
    """Counts of one endpoint since the start of the trace."""

    def __init__(self) -> None:
        self.opens = 0
        self.closes = np.zeros(len(CloseReason), np.int64)
        self.open = 0
        self.peak = 0


class ChurnCounter:
    """Opens and closes by endpoint in bins of event time, and the number open, fed in trace order.

    Memory follows what is in the trace, not the endpoint ids that it names: at most `bins` bins, and in each the endpoints
    that were active in it.
    """

    def __init__(self, bin_ns: int = BIN_NS, bins: int = BINS) -> None:
        self.bin_ns = bin_ns
        self._bins = bins
        self._counts: dict[int, dict[int, NDArray[np.int64]]] = {}  # bin number -> endpoint id -> counts by kind
        self._newest = -1
        self._totals: defaultdict[int, _Totals] = defaultdict(_Totals)

    def add(self, events: Events, ended: Connections) -> None:
        """Count the openings among `events` and the connections that `ended` with them (both in trace order)."""
        index = np.flatnonzero(is_opening(events))
        opened_endpoint, opened_ns = events["endpoint_id"][index], events["ts_ns"][index].astype(np.int64)
        for endpoint_id, opens in _tally(opened_endpoint):
            self._totals[endpoint_id].opens += opens
        reasons = ended["endpoint_id"].astype(np.int64) * len(CloseReason) + ended["close_reason"]
        for code, closes in _tally(reasons):
            self._totals[code // len(CloseReason)].closes[code % len(CloseReason)] += closes
        ended_ns = np.where(ended["closed_ns"] >= 0, ended["closed_ns"], ended["last_ns"])
        kinds = np.concatenate([np.zeros(len(index), np.int64), 1 + SIDE_BY_REASON[ended["close_reason"]]])
        endpoints = np.concatenate([opened_endpoint, ended["endpoint_id"]]).astype(np.int64)
        self._count_bins(np.concatenate([opened_ns, ended_ns]) // self.bin_ns, endpoints * _KINDS + kinds)

    def note_open(self, endpoint_id: NDArray[np.uint32], change: NDArray[np.int64]) -> None:
        """Follow the number open: +1 and -1 by endpoint, in trace order, shape (n_changes,)."""
        for endpoint, _ in _tally(endpoint_id):
            totals = self._totals[endpoint]
            running = totals.open + np.cumsum(change[endpoint_id == endpoint])
            totals.open = int(running[-1])
            totals.peak = max(totals.peak, int(running.max()))

    def _count_bins(self, numbers: NDArray[np.int64], codes: NDArray[np.int64]) -> None:
        """Add to bins; what is older than all that are kept is in the totals only."""
        if not len(numbers):
            return
        self._newest = max(self._newest, int(numbers.max()))
        oldest = self._newest - self._bins + 1
        for number in [number for number in self._counts if number < oldest]:
            del self._counts[number]
        for number in np.unique(numbers[numbers >= oldest]).tolist():
            counts = self._counts.setdefault(number, {})
            for code, count in _tally(codes[numbers == number]):
                endpoint_id, kind = divmod(code, _KINDS)
                if endpoint_id not in counts:
                    counts[endpoint_id] = np.zeros(_KINDS, np.int64)
                counts[endpoint_id][kind] += count

    def window(self, endpoint_id: int, start_ns: int, end_ns: int) -> tuple[int, NDArray[np.int64]]:
        """(opens, closes by side) in the bins that lie in [start_ns, end_ns), rounded down to bins."""
        total = np.zeros(_KINDS, np.int64)
        for number, counts in self._counts.items():
            if start_ns // self.bin_ns <= number < end_ns // self.bin_ns and endpoint_id in counts:
                total += counts[endpoint_id]
        return int(total[0]), total[1:]

    def series(self, end_ns: int, bins: int) -> dict[int, NDArray[np.int64]]:
        """The latest bins that had ended at a time, by endpoint id: opens, then closes by side.

        Args:
            end_ns: boottime; the bin that it falls into is not among them.
            bins: how many, the latest last.

        Returns:
            int64, shape (bins, 1 + len(SIDES)), of each endpoint for which something was counted in them.
        """
        found: dict[int, NDArray[np.int64]] = {}
        first = end_ns // self.bin_ns - bins
        for row in range(bins):
            for endpoint_id, counts in self._counts.get(first + row, {}).items():
                if endpoint_id not in found:
                    found[endpoint_id] = np.zeros((bins, _KINDS), np.int64)
                found[endpoint_id][row] = counts
        return found

    def totals(self, endpoint_id: int) -> tuple[int, NDArray[np.int64], int, int]:
        """(opens, closes by CloseReason, open now, most open at a time) since the start of the trace."""
        totals = self._totals.get(endpoint_id) or _Totals()
        return totals.opens, totals.closes, totals.open, totals.peak


def _tally(values: NDArray[np.integer]) -> list[tuple[int, int]]:
    """(value, how often) of each value, in order."""
    unique, counts = np.unique(values, return_counts=True)
    return list(zip(unique.tolist(), counts.tolist(), strict=True))
