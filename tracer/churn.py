"""Churn: how many connections open and close, who closes them, and how many are open at a time.

Two forms of the same numbers. `churn` is exact for any windows, from rows of connections. `ChurnCounter` counts a stream in
bins of event time and bounded memory, for views and rates of a watch that never ends.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tracer.connections import Connections, is_opening
from tracer.events import Events
from tracer.lifecycle import CloseReason

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


def _integral(times_ns: NDArray[np.int64], edges_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum over all times of max(0, edge - max(time, first edge)), for each edge: exact for spans below 104 days."""
    times = np.sort(np.clip(times_ns, edges_ns[0], edges_ns[-1])) - edges_ns[0]
    sums = np.concatenate([[0], np.cumsum(times)])
    edges = edges_ns - edges_ns[0]
    before = np.searchsorted(times, edges)
    return (before * edges - sums[before]).astype(np.float64)


class ChurnCounter:
    """Opens and closes by endpoint in bins of event time, and the number open, fed in trace order."""

    def __init__(self, bin_ns: int = BIN_NS, bins: int = BINS) -> None:
        self.bin_ns = bin_ns
        self._bins = bins
        self._counts = np.zeros((1, bins, _KINDS), np.int64)  # by endpoint id
        self._bin_number = np.full(bins, -1, np.int64)  # which bin of event time each column holds
        self._open = np.zeros(1, np.int64)
        self._peak = np.zeros(1, np.int64)
        self._opens = np.zeros(1, np.int64)
        self._closes = np.zeros((1, len(CloseReason)), np.int64)

    def add(self, events: Events, ended: Connections) -> None:
        """Count the openings among `events` and the connections that `ended` with them (both in trace order)."""
        opening = events[is_opening(events)]
        highest = max(int(rows["endpoint_id"].max(initial=0)) for rows in (opening, ended))
        if highest >= len(self._open):
            self._grow(highest + 1)
        np.add.at(self._opens, opening["endpoint_id"], 1)
        np.add.at(self._closes, (ended["endpoint_id"], ended["close_reason"]), 1)
        self._count_bins(opening["endpoint_id"], opening["ts_ns"].astype(np.int64), np.zeros(len(opening), np.intp))
        side = SIDE_BY_REASON[ended["close_reason"]]
        ended_ns = np.where(ended["closed_ns"] >= 0, ended["closed_ns"], ended["last_ns"])
        self._count_bins(ended["endpoint_id"], ended_ns, 1 + side)

    def note_open(self, endpoint_id: NDArray[np.uint32], change: NDArray[np.int64]) -> None:
        """Follow the number open: +1 and -1 by endpoint, in trace order, shape (n_changes,)."""
        if not len(change):
            return
        highest = int(endpoint_id.max())
        if highest >= len(self._open):
            self._grow(highest + 1)
        for endpoint in np.unique(endpoint_id).tolist():
            running = self._open[endpoint] + np.cumsum(change[endpoint_id == endpoint])
            self._open[endpoint] = running[-1]
            self._peak[endpoint] = max(self._peak[endpoint], running.max())

    def _grow(self, endpoints: int) -> None:
        extra = endpoints - len(self._open)
        self._counts = np.concatenate([self._counts, np.zeros((extra, *self._counts.shape[1:]), np.int64)])
        self._open, self._peak, self._opens = (
            np.concatenate([totals, np.zeros(extra, np.int64)]) for totals in (self._open, self._peak, self._opens)
        )
        self._closes = np.concatenate([self._closes, np.zeros((extra, len(CloseReason)), np.int64)])

    def _count_bins(self, endpoint_id: NDArray[np.uint32], ts_ns: NDArray[np.int64], kind: NDArray[np.intp]) -> None:
        if not len(ts_ns):
            return
        numbers = ts_ns // self.bin_ns
        for number in np.unique(numbers).tolist():
            column = number % self._bins
            if self._bin_number[column] < number:
                self._bin_number[column] = number
                self._counts[:, column, :] = 0
        column = numbers % self._bins
        fresh = self._bin_number[column] == numbers  # what is older than all bins is in the totals only
        np.add.at(self._counts, (endpoint_id[fresh], column[fresh], kind[fresh]), 1)

    def window(self, endpoint_id: int, start_ns: int, end_ns: int) -> tuple[int, NDArray[np.int64]]:
        """(opens, closes by side) in the bins that lie in [start_ns, end_ns), rounded down to bins."""
        if endpoint_id >= len(self._open):
            return 0, np.zeros(len(SIDES), np.int64)
        wanted = (self._bin_number >= start_ns // self.bin_ns) & (self._bin_number < end_ns // self.bin_ns)
        counts = self._counts[endpoint_id, wanted].sum(axis=0)
        return int(counts[0]), counts[1:]

    def totals(self, endpoint_id: int) -> tuple[int, NDArray[np.int64], int, int]:
        """(opens, closes by CloseReason, open now, most open at a time) since the start of the trace."""
        if endpoint_id >= len(self._open):
            return 0, np.zeros(len(CloseReason), np.int64), 0, 0
        return (
            int(self._opens[endpoint_id]),
            self._closes[endpoint_id],
            int(self._open[endpoint_id]),
            int(self._peak[endpoint_id]),
        )
