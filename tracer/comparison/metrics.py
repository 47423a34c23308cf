"""Metrics: what is compared, and the value of each for each connection. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from tracer.churn import SIDE_BY_REASON, SIDES
from tracer.comparison.sides import Side
from tracer.events import TcpState
from tracer.lifecycle import REASON_NAMES, STATE_NAMES, CloseReason
from tracer.rows import Connections

SILENT_MS = 5_000
"""A registry that works answers sooner; idle connections that clients keep are as silent in both traces."""
EXACT_NS = 1_000_000
"""Times in states are compared where both sources are at least so exact; pollers miss most of the short ones."""


class Unit(Enum):
    """What a metric's values are; the values are `unit` in the output."""

    NS = "ns"
    BYTES = "bytes"
    US = "us"
    SHARE = "share"
    PER_MIN = "per_min"


@dataclass(frozen=True)
class Metric:
    """Something that can differ between traces.

    Attributes:
        name: in the output; names are those of the JSON lines where there is one.
        words: in sentences; of a share, what its connections did.
        unit: of its values.
        worse_up, worse_down: how bad it is for somebody who pulls if it grows or shrinks, 0..1.
        tail: the slowest tenth is compared instead of all.
        everywhere: compared for owners and over all endpoints, too.
    """

    name: str
    words: str
    unit: Unit
    worse_up: float
    worse_down: float
    tail: bool = False
    everywhere: bool = False


# How bad, from what stops a pull (1) over what delays it (0.8) and what hints at refusals and retries (0.6) to what only an
# engineer wants to know (0.2). Improvements are told last (0.1).
CONNECT = Metric("connect_ns", "connect time", Unit.NS, 0.8, 0.1, everywhere=True)
LIFETIME = Metric("lifetime_ns", "lifetime of connections", Unit.NS, 0.4, 0.35, everywhere=True)
RECEIVED = Metric("bytes_received", "bytes received on connections", Unit.BYTES, 0.2, 0.6, everywhere=True)
ACKED = Metric("bytes_acked", "bytes sent on connections", Unit.BYTES, 0.2, 0.2)
SRTT = Metric("srtt_us", "smoothed round-trip time", Unit.US, 0.5, 0.1)
CONNECT_TAIL = Metric("connect_p90_ns", "connect time of the slowest tenth", Unit.NS, 0.7, 0.1, tail=True)
LIFETIME_TAIL = Metric("lifetime_p90_ns", "lifetime of the longest tenth of connections", Unit.NS, 0.4, 0.2, tail=True)
FAILED = Metric("failed", "never came about", Unit.SHARE, 1.0, 0.1, everywhere=True)
RETRANSMITTED = Metric("retransmitted", "had retransmits", Unit.SHARE, 0.7, 0.1)
SILENT = Metric("silent", f"were silent for {SILENT_MS // 1000} s", Unit.SHARE, 0.9, 0.1)
BY_PEER = Metric("closed_by_peer", "were closed by the peer first", Unit.SHARE, 0.25, 0.2)
OPENS = Metric("opens_per_min", "connections opened", Unit.PER_MIN, 0.6, 0.3, everywhere=True)
INTERVAL = Metric("interval_ns", "time between attempts", Unit.NS, 0.3, 0.5)
_REASON_HARM = {
    CloseReason.REFUSED: 1.0, CloseReason.TIMEOUT: 1.0, CloseReason.UNREACHABLE: 1.0, CloseReason.ABORTED: 0.95,
    CloseReason.RESET: 0.9, CloseReason.LOCAL_RESET: 0.3,
}  # fmt: skip
_REASON_WORDS = {
    CloseReason.REFUSED: "were refused",
    CloseReason.TIMEOUT: "timed out",
    CloseReason.UNREACHABLE: "found the host unreachable",
    CloseReason.ABORTED: "were given up during the handshake",
    CloseReason.RESET: "were reset by the peer",
    CloseReason.LOCAL_RESET: "were reset by this side",
}
REASONS = {
    reason: Metric(REASON_NAMES[reason], words, Unit.SHARE, _REASON_HARM[reason], 0.1) for reason, words in _REASON_WORDS.items()
}
_STATES = (
    TcpState.ESTABLISHED, TcpState.CLOSE_WAIT, TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.CLOSING, TcpState.LAST_ACK,
)  # fmt: skip
STATES = {
    state: Metric(f"{STATE_NAMES[state]}_state_ns", f"time in {STATE_NAMES[state]} of connections", Unit.NS, 0.35, 0.2)
    for state in _STATES
}
"""SYN_SENT is `connect_ns` where the handshake went well, and among the failed ones where not."""


@dataclass(frozen=True)
class Measured:
    """A metric of all connections of a side.

    Attributes:
        metric: which.
        values: float64, shape (n_connections,); shares are 0 and 1; nan unknown, or not applicable.
        applies: bool, shape (n_connections,): where there is such a value, known or not.
    """

    metric: Metric
    values: NDArray[np.float64]
    applies: NDArray[np.bool_]


def measure(side: Side, coarse_ns: int) -> Iterator[Measured]:
    """Every metric that single connections have.

    Args:
        side: the trace.
        coarse_ns: how exact the less exact of both traces is; durations are rounded down to it, so that both are as exact.
    """
    rows = side.rows
    ended = (rows["close_reason"] != CloseReason.OPEN) & ~rows["gap"]
    established = (rows["established_ns"] >= 0) | (rows["state_ns"][:, TcpState.ESTABLISHED] >= 0)
    connect = Measured(CONNECT, _spans(rows, "connect_ns", "established", coarse_ns), established & (rows["opened_ns"] >= 0))
    lifetime = Measured(LIFETIME, _spans(rows, "lifetime_ns", "closed", coarse_ns), ended & (rows["opened_ns"] >= 0))
    for measured, tail in ((connect, CONNECT_TAIL), (lifetime, LIFETIME_TAIL)):
        yield measured
        yield Measured(tail, measured.values, measured.applies)
    if coarse_ns <= EXACT_NS:
        for state, metric in STATES.items():
            spent = rows["state_ns"][:, state]
            yield Measured(metric, _known(spent), ended & (spent >= 0))
    done = ended & established
    yield Measured(RECEIVED, _known(rows["bytes_received"]), done)
    yield Measured(ACKED, _known(rows["bytes_acked"]), done)
    yield Measured(SRTT, np.where(rows["srtt_us"] > 0, rows["srtt_us"], np.nan), done)
    yield _share(RETRANSMITTED, rows["retransmits"] > 0, rows["retransmits"] >= 0, ended)
    yield _share(SILENT, rows["idle_ms"] >= SILENT_MS, rows["idle_ms"] >= 0, established)
    yield from _ends(rows)


def _ends(rows: Connections) -> Iterator[Measured]:
    """How connections ended."""
    reason = rows["close_reason"]
    ended = reason != CloseReason.OPEN
    told = reason != CloseReason.UNKNOWN
    by = SIDE_BY_REASON[reason]
    yield _share(FAILED, by == SIDES.index("failed"), told, ended)
    for number, metric in REASONS.items():
        yield _share(metric, reason == number, told, ended)
    yield _share(BY_PEER, by == SIDES.index("peer"), told, ended & (by != SIDES.index("failed")))


def _share(metric: Metric, hit: NDArray[np.bool_], known: NDArray[np.bool_], applies: NDArray[np.bool_]) -> Measured:
    return Measured(metric, np.where(known, hit.astype(np.float64), np.nan), applies)


def _known(values: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(values >= 0, values.astype(np.float64), np.nan)


def _spans(rows: Connections, field: str, end: str, coarse_ns: int) -> NDArray[np.float64]:
    """Durations as exact as the less exact trace has them; one that was shorter than a look takes is 0 there."""
    spans = _known(rows[field])
    if coarse_ns <= EXACT_NS:
        return spans
    bounded = (rows[field] < 0) & (rows["opened_ns"] >= 0) & (rows[f"{end}_ns"] >= 0)
    most_ns = rows[f"{end}_ns"] - rows["opened_ns"] + rows["opened_early_ns"]
    spans = np.where(bounded & (most_ns <= coarse_ns), 0.0, spans)
    return np.floor(spans / coarse_ns) * coarse_ns
