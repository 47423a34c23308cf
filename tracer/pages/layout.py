"""Where connections are drawn: lanes in pixels from the top, grouped by endpoint and owner; all of them, or a choice. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.collected.collector import Collected
from tracer.lanes import lanes_of
from tracer.lifecycle import REASON_NAMES, CloseReason
from tracer.pages.span import Span
from tracer.pages.stretches import Stretches, bounds, state_name
from tracer.pages.tallies import owner_groups
from tracer.segments import take
from tracer.text import address_text, bytes_text, duration_text
from tracer.verdict import endpoint_label

Rows = list[dict[str, Any]]
"""Rows of a dataset: values by field."""

EXACT_MAX = 3000
"""Connections that are drawn one by one; of more a choice is drawn."""
LANES_MAX = 260
"""Lanes that can be told apart on a screen; if more were needed, a choice is drawn too."""
CHOSEN = 60
"""So many of each kind are in a choice: failed, longest, of suspects."""
GROUPS_MAX = 12
"""Endpoints and owners with lanes of their own; the others share lanes."""
_LABEL_PX, _PAD_PX = 18, 6
_GAP_SHARE = 0.012
"""Of the span, between two in one lane: short ones are drawn wider than they are."""
_FAILED = (
    CloseReason.REFUSED, CloseReason.TIMEOUT, CloseReason.UNREACHABLE, CloseReason.ABORTED, CloseReason.RESET,
    CloseReason.LOCAL_RESET,
)  # fmt: skip
_THICKNESS = {"ESTABLISHED": 1.0, "SYN_SENT": 0.35, "SYN_RECV": 0.35, "NEW_SYN_RECV": 0.35, "not seen": 0.15}
_CLOSING_THICKNESS = 0.65
"""Of a lane's height, by state: the handshake is thin, the closing half way."""
_FIN_REASONS = ("peer", "local")
MARKED_REASONS = ("open", "reset", "local-reset", "refused", "timeout", "unreachable", "aborted", "unknown", *_FIN_REASONS)
"""Ends that have a mark; a FIN of either side only where the bar alone would be too short to be seen."""
_VISIBLE_SHARE = 0.004
"""Of the span: a few pixels."""


def laid_out(collected: Collected, span: Span) -> Layout:
    """Bars for all connections, or where these are too many or too many at a time, for a choice."""
    if len(collected.rows) <= EXACT_MAX:
        layout = Layout(collected, span, np.arange(len(collected.rows)))
        if layout.lanes <= LANES_MAX:
            return layout
    return Layout(collected, span, _choice(collected, span))


def _choice(collected: Collected, span: Span) -> NDArray[np.intp]:
    """The failed, the longest, those of suspects."""
    rows = collected.rows
    start_ns, end_ns = bounds(rows, span)
    everyone = np.arange(len(rows))
    failed = everyone[np.isin(rows["close_reason"], _FAILED)]
    longest = np.argsort(start_ns - end_ns, kind="stable")
    suspected = np.zeros(len(rows), bool)
    for finding in collected.findings:
        until_ns = finding.ended_ns if finding.ended_ns >= 0 else span.end_ns
        within = (start_ns <= until_ns) & (end_ns >= finding.started_ns)
        pids = [suspect.pid for suspect in finding.suspects if suspect.pid >= 0]
        suspected |= within & (rows["endpoint_id"] == finding.endpoint_id) & np.isin(rows["pid"], pids)
    kinds = (_spread(failed), longest[:CHOSEN], _spread(everyone[suspected]))
    return np.unique(np.concatenate(kinds)).astype(np.intp)


def _spread(index: NDArray[np.intp]) -> NDArray[np.intp]:
    """At most CHOSEN of them, evenly from the first to the last."""
    return index if len(index) <= CHOSEN else index[np.linspace(0, len(index) - 1, CHOSEN).astype(np.intp)]


class Layout:
    """Connections laid out in pixels from the top, grouped by endpoint and owner.

    Attributes:
        shown: how many.
        lanes: so many are needed.
        height_px: of all of it.
    """

    def __init__(self, collected: Collected, span: Span, index: NDArray[np.intp]) -> None:
        self._collected, self._span, self._index = collected, span, index
        self._rows = take(collected.rows, index)
        self.shown = len(index)
        owners, names = owner_groups(_only(collected, index))
        self._owners = [f"{name or 'unknown owner'}{_in(container or unit)}" for name, container, unit in names]
        self._owner = owners
        start_ns, end_ns = bounds(self._rows, span)
        self._group, self._titles = self._groups()
        self._lane = np.zeros(len(index), np.intp)
        counts = []
        for number in range(len(self._titles)):
            own = np.flatnonzero(self._group == number)
            self._lane[own] = lanes_of(start_ns[own], end_ns[own], int(span.length_ns * _GAP_SHARE))
            counts.append(int(self._lane[own].max()) + 1)
        self.lanes = sum(counts)
        self._lane_px = next((px for px, most in ((16, 12), (12, 30), (8, 60), (5, 120)) if self.lanes <= most), 3)
        tops = np.cumsum([0, *(_LABEL_PX + count * self._lane_px + _PAD_PX for count in counts)])
        self._top, self.height_px = tops, int(max(tops[-1], 40))

    def _groups(self) -> tuple[NDArray[np.intp], list[str]]:
        """A number for each connection, and the title of each number; the largest groups first, the rest in one."""
        endpoint = self._rows["endpoint_id"].astype(np.int64)
        codes, inverse, counts = np.unique(
            endpoint * (len(self._owners) + 1) + self._owner, return_inverse=True, return_counts=True
        )
        leading = np.argsort(-counts, kind="stable")[:GROUPS_MAX]
        place = np.full(len(codes), len(leading), np.intp)
        place[np.sort(leading)] = np.arange(len(leading))
        titles = []
        for code in np.sort(leading).tolist():
            endpoint_id, owner = divmod(int(codes[code]), len(self._owners) + 1)
            titles.append(f"{endpoint_label(self._collected, endpoint_id)}   by {self._owners[owner]}   ({counts[code]:,})")
        if len(codes) > len(leading):
            titles.append(f"{len(codes) - len(leading)} more endpoints and owners")
        return place[inverse], titles

    def stretches(self, found: Stretches) -> Rows:
        """One row a state of a connection: from, to, top and bottom."""
        back = np.full(len(self._collected.rows), -1, np.intp)
        back[self._index] = np.arange(len(self._index))
        own = np.flatnonzero(back[found.connection] >= 0)
        connection = back[found.connection[own]]
        names = [state_name(state) for state in found.state[own].tolist()]
        thickness = np.array([_THICKNESS.get(name, _CLOSING_THICKNESS) for name in names])
        middle = self._top[self._group[connection]] + _LABEL_PX + (self._lane[connection] + 0.5) * self._lane_px
        half = thickness * (self._lane_px - 1) / 2
        took = map(duration_text, (found.end_ns[own] - found.start_ns[own]).tolist())
        columns = (
            connection.tolist(), self._span.positions(found.start_ns[own]).tolist(),
            self._span.positions(found.end_ns[own]).tolist(), np.round(middle - half, 1).tolist(),
            np.round(middle + half, 1).tolist(), names, took,
        )  # fmt: skip
        keys = ("c", "from", "to", "top", "bottom", "state", "took")
        return [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]

    def ends(self) -> Rows:
        """One row a connection that did not end by a FIN, or is too short to be seen: where its mark is."""
        start_ns, end_ns = bounds(self._rows, self._span)
        short = (end_ns - start_ns < self._span.length_ns * _VISIBLE_SHARE).tolist()
        middle = self._top[self._group] + _LABEL_PX + (self._lane + 0.5) * self._lane_px
        reasons = [REASON_NAMES[reason] for reason in self._rows["close_reason"].tolist()]
        columns = zip(self._span.positions(end_ns).tolist(), np.round(middle, 1).tolist(), reasons, short, strict=True)
        return [
            {"c": number, "at": at, "y": y, "reason": reason}
            for number, (at, y, reason, is_short) in enumerate(columns)
            if reason in MARKED_REASONS and (is_short or reason not in _FIN_REASONS)
        ]

    def connections(self) -> Rows:
        """One row a connection: what a tooltip says."""
        rows, span = self._rows, self._span
        columns = (
            range(len(rows)), [endpoint_label(self._collected, number) for number in rows["endpoint_id"].tolist()],
            [f"{self._owners[owner]}{_pid(pid)}" for owner, pid in zip(self._owner.tolist(), rows["pid"].tolist(), strict=True)],
            [_route(row) for row in rows], [span.moment(time_ns) for time_ns in rows["opened_ns"].tolist()],
            map(duration_text, rows["lifetime_ns"].tolist()), map(duration_text, rows["connect_ns"].tolist()),
            [REASON_NAMES[reason] for reason in rows["close_reason"].tolist()],
            map(bytes_text, rows["bytes_received"].tolist()), map(bytes_text, rows["bytes_acked"].tolist()),
        )  # fmt: skip
        keys = ("c", "endpoint", "owner", "route", "opened", "life", "connect", "ended", "in", "out")
        return [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]

    def labels(self) -> Rows:
        """One row a group: its title and where it stands."""
        return [{"y": int(top) + _LABEL_PX // 2 + 2, "title": title} for top, title in zip(self._top, self._titles, strict=False)]


def _only(collected: Collected, index: NDArray[np.intp]) -> Collected:
    details = tuple(collected.details[number] for number in index.tolist())
    return replace(collected, rows=take(collected.rows, index), details=details)


def _in(place: str) -> str:
    return f" in {place}" if place else ""


def _pid(pid: int) -> str:
    return f" [{pid}]" if pid >= 0 else ""


def _route(row: np.void) -> str:
    lport = int(row["lport"])
    remote = address_text(bytes(row["raddr"])) or "?"
    return f":{lport if lport >= 0 else '?'} to {remote} port {row['rport']}"
