"""Gauges: what the live view shows of each endpoint, as arrays, read from an analysis at a moment. Pure.

Counts per second are of whole seconds, so that nothing grows while it is looked at. Rates are means of the last RATE_S seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from tracer.analysis import Analysis
from tracer.churn import BIN_NS, SIDES
from tracer.events import N_STATES, TcpState
from tracer.roles import Role
from tracer.rows import Connections

HISTORY_S = 60
RATE_S = 10
"""Long enough for a client that comes every few seconds to have a rate, short enough to see it stop."""
STAGES = ("established", "opening", "closing")
"""Of an open connection: established; SYN_SENT and SYN_RECV; all states after ESTABLISHED."""
_OPENING = (TcpState.SYN_SENT, TcpState.SYN_RECV, TcpState.NEW_SYN_RECV)
_STAGE_BY_STATE = np.full(N_STATES, 2, np.intp)
_STAGE_BY_STATE[TcpState.ESTABLISHED] = 0
_STAGE_BY_STATE[list(_OPENING)] = 1
COUNTERS = ("bytes_received", "bytes_acked", "retransmits")


@dataclass(frozen=True)
class Gauges:
    """What is known of each endpoint, shape (n_endpoints,) each, n_endpoints in the same order.

    Attributes:
        endpoint_id: int64.
        label, role: str objects; as they are in the trace, not yet safe for a terminal.
        stages: int64, shape (n_endpoints, 3): connections that are open now, by STAGES.
        opens: int64, shape (n_endpoints, HISTORY_S): opened in each of the last seconds, the latest last.
        closes: int64, shape (n_endpoints, HISTORY_S, len(SIDES)): closed, by side.
        opens_per_s, closes_per_s: float64, nan unknown (the trace has lasted less than a second, or `unseen`).
        sides: int64, shape (n_endpoints, len(SIDES)): closed in the last RATE_S seconds.
        p50_ns, p99_ns: int64, lifetimes since the start of the trace; -1 where none has ended.
        moved_per_s: float64, shape (n_endpoints, 3): COUNTERS, a second; nan unknown.
        unseen: bool: its name has no address, so that nothing of it can be seen.
    """

    endpoint_id: NDArray[np.int64]
    label: NDArray[np.object_]
    role: NDArray[np.object_]
    stages: NDArray[np.int64]
    opens: NDArray[np.int64]
    closes: NDArray[np.int64]
    opens_per_s: NDArray[np.float64]
    closes_per_s: NDArray[np.float64]
    sides: NDArray[np.int64]
    p50_ns: NDArray[np.int64]
    p99_ns: NDArray[np.int64]
    moved_per_s: NDArray[np.float64]
    unseen: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.endpoint_id)

    def take(self, index: NDArray[np.intp]) -> Gauges:
        """Those endpoints, in that order."""
        return Gauges(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


class _Baseline:
    """What connections had moved before they were seen first, and what is therefore nobody's of the last seconds.

    A connection that was open before the trace is first sampled with all that it ever received. It is left out up to there.
    It is known by its ends: the address of its socket becomes known later.
    """

    def __init__(self) -> None:
        self._before: dict[tuple[int, int, bytes], NDArray[np.int64]] = {}  # COUNTERS of each, -1 not yet known
        self._ended: dict[int, NDArray[np.int64]] = {}  # by endpoint id, of those that ended

    def of_ended(self, rows: Connections) -> None:
        """Keep what connections that ended had moved before."""
        for row in rows[rows["preexisting"] != 0]:
            key = (int(row["first_seen_ns"]), int(row["lport"]), row["raddr"].tobytes())
            known = self._before.pop(key, np.full(len(COUNTERS), -1, np.int64))
            counted = np.array([row[name] for name in COUNTERS], np.int64)
            before = np.where(counted >= 0, np.where(known >= 0, known, counted), 0)  # what is not known is in no sum
            endpoint_id = int(row["endpoint_id"])
            self._ended[endpoint_id] = self._ended.get(endpoint_id, np.zeros(len(COUNTERS), np.int64)) + before

    def total(self, columns: dict[str, NDArray[np.int64]]) -> dict[int, NDArray[np.int64]]:
        """By endpoint id, of those that ended and those that are open."""
        found = {endpoint_id: before.copy() for endpoint_id, before in self._ended.items()}
        old = np.flatnonzero(columns["preexisting"] != 0)
        values = np.stack([columns[name][old] for name in COUNTERS], axis=1)
        addresses = map(bytes, columns["raddr"][old])
        keys = zip(columns["first_seen_ns"][old].tolist(), columns["lport"][old].tolist(), addresses, strict=True)
        for key, endpoint_id, counted in zip(keys, columns["endpoint_id"][old].tolist(), values, strict=True):
            known = self._before.get(key)
            known = self._before[key] = counted if known is None else np.where(known >= 0, known, counted)
            before = np.where(counted >= 0, known, 0)
            found[endpoint_id] = found.get(endpoint_id, np.zeros(len(COUNTERS), np.int64)) + before
        return found


class Meter:
    """Reads gauges; remembers what it needs for the rates of what the analysis only sums up."""

    def __init__(self) -> None:
        self._baseline = _Baseline()
        self._began_ns = -1
        self._sums: deque[tuple[int, dict[int, NDArray[np.int64]]]] = deque()  # (when, COUNTERS by endpoint id)

    def ended(self, rows: Connections) -> None:
        """Hear of connections that ended, before the next reading."""
        self._baseline.of_ended(rows)

    def note(self, analysis: Analysis, now_ns: int) -> None:
        """Remember the sums of a moment, for later readings; more often than once a second is too often to be kept."""
        if now_ns < 0 or (self._sums and now_ns < self._sums[-1][0] + BIN_NS):
            return
        columns = analysis.open_columns(*_COLUMNS)
        ids = sorted({*analysis.endpoints, *np.unique(columns["endpoint_id"]).tolist()})
        self._sums.append((now_ns, self._moved(analysis, columns, ids)))
        self._forget(now_ns)

    def read(self, analysis: Analysis, now_ns: int) -> Gauges:
        """The gauges of all endpoints that are known, at a boottime."""
        columns = analysis.open_columns(*_COLUMNS)
        series = analysis.churn.series(now_ns, HISTORY_S) if now_ns >= 0 else {}
        ids = sorted({*analysis.endpoints, *series, *np.unique(columns["endpoint_id"]).tolist()})
        counts = np.stack([series.get(number, _NOTHING) for number in ids]) if ids else np.zeros((0, *_NOTHING.shape), np.int64)
        opens, closes = counts[:, :, 0], counts[:, :, 1:]
        seconds = min(RATE_S, self._whole_seconds(analysis.first_ns, now_ns))
        sides = closes[:, HISTORY_S - seconds :].sum(axis=1)
        lives = [analysis.lifetime(number) for number in ids]
        stages = _stages(columns, ids)
        unseen = np.array([number in analysis.known and not analysis.addresses.get(number) for number in ids], bool)
        dark = unseen & ~stages.any(axis=1) & ~opens.any(axis=1)
        moved_per_s = self._moved_per_s(analysis, columns, ids, now_ns)
        moved_per_s[dark] = np.nan
        return Gauges(
            np.array(ids, np.int64),
            np.array([analysis.endpoints.get(number, f"endpoint {number}") for number in ids], object),
            np.array([_role_text(analysis.roles.get(number, Role.UNKNOWN)) for number in ids], object),
            stages,
            opens,
            closes,
            np.where(dark, np.nan, _per_s(opens[:, HISTORY_S - seconds :].sum(axis=1), seconds)),
            np.where(dark, np.nan, _per_s(sides.sum(axis=1), seconds)),
            sides,
            np.array([life.p50_ns if life else -1 for life in lives], np.int64),
            np.array([life.p99_ns if life else -1 for life in lives], np.int64),
            moved_per_s,
            unseen,
        )

    def _whole_seconds(self, first_ns: int, now_ns: int) -> int:
        """Seconds that are over since the first event, or the first reading where nothing had happened by then."""
        began = [at_ns for at_ns in (self._began_ns, first_ns, now_ns) if at_ns >= 0]
        self._began_ns = min(began, default=-1)
        return now_ns // BIN_NS - self._began_ns // BIN_NS if began else 0

    def _moved_per_s(
        self, analysis: Analysis, columns: dict[str, NDArray[np.int64]], ids: list[int], now_ns: int
    ) -> NDArray[np.float64]:
        """Shape (n_endpoints, 3): the difference to the oldest note; unknown where there is none from about RATE_S ago."""
        rates = np.full((len(ids), len(COUNTERS)), np.nan)
        self._forget(now_ns)
        if not self._sums or not 0 < now_ns - self._sums[0][0] <= _OLDEST_NOTE_NS:
            return rates
        now = self._moved(analysis, columns, ids)
        then_ns, then = self._sums[0]
        for row, number in enumerate(ids):
            if number not in then and number not in analysis.endpoints:
                continue  # it has no name, and may have been there before
            grown = now[number] - then.get(number, 0)
            # A sum shrinks where a connection is lost sight of: nobody knows what was moved meanwhile.
            rates[row] = np.where(grown >= 0, grown / (now_ns - then_ns) * 1e9, np.nan)
        return rates

    def _forget(self, now_ns: int) -> None:
        """Let go of notes that are older than the one from RATE_S ago, or too old to be of use."""
        while len(self._sums) > 1:
            (first_ns, _), (second_ns, _) = self._sums[0], self._sums[1]
            if second_ns > now_ns - RATE_S * BIN_NS and first_ns >= now_ns - _OLDEST_NOTE_NS:
                break
            self._sums.popleft()

    def _moved(self, analysis: Analysis, columns: dict[str, NDArray[np.int64]], ids: list[int]) -> dict[int, NDArray[np.int64]]:
        """COUNTERS of each endpoint since the start."""
        place = np.searchsorted(ids, columns["endpoint_id"])
        sums = np.array([analysis.ended_sums(number) for number in ids], np.int64).reshape(len(ids), len(COUNTERS))
        sums = np.maximum(sums, 0)
        for index, name in enumerate(COUNTERS):
            known = np.maximum(columns[name], 0)
            sums[:, index] += np.bincount(place, known, minlength=len(ids)).astype(np.int64)
        before = self._baseline.total(columns)
        return {number: sums[row] - before.get(number, 0) for row, number in enumerate(ids)}


_COLUMNS = ("endpoint_id", "last_state", "first_seen_ns", "lport", "raddr", "preexisting", *COUNTERS)
_OLDEST_NOTE_NS = 3 * RATE_S * BIN_NS // 2
_NOTHING = np.zeros((HISTORY_S, 1 + len(SIDES)), np.int64)


def _per_s(counts: NDArray[np.int64], seconds: int) -> NDArray[np.float64]:
    return counts / seconds if seconds else np.full(len(counts), np.nan)


def _role_text(role: Role) -> str:
    return "" if role is Role.UNKNOWN else role.value


def _stages(columns: dict[str, NDArray[np.int64]], ids: list[int]) -> NDArray[np.int64]:
    place = np.searchsorted(ids, columns["endpoint_id"])
    codes = place * len(STAGES) + _STAGE_BY_STATE[columns["last_state"]]
    return np.bincount(codes, minlength=len(ids) * len(STAGES)).reshape(len(ids), len(STAGES))
