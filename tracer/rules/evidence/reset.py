"""evidence: `reset`."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracer.connections import Connections, by_endpoint
from tracer.events import Events
from tracer.findings import Severity
from tracer.lifecycle import CloseReason
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View, rows_suspects
from tracer.text import bytes_text

_ROWS_KEPT = 64
_ENDPOINTS_MAX = 4096


@dataclass(frozen=True)
class ResetThresholds(Thresholds):
    """Numbers of the rule `reset`."""

    download_min_bytes: int = threshold(65_536, 1, 1 << 40, "a connection that received so much and is reset was cut off")
    idle_max_s: float = threshold(30, 0.1, 3600, "longer idle connections that are reset had been forgotten by a NAT: no fault")
    count_min: int = threshold(3, 1, 1000, "so many resets of smaller connections within window_s")
    window_s: float = threshold(60, 1, 3600, "over which they are counted")
    hold_s: float = threshold(60, 1, 3600, "over when nothing more was seen for so long")


class Reset(Rule[ResetThresholds]):
    """Established connections are reset by the other side while they are in use.

    Finds: a download that is reset, or several connections that are.
    Matters: the registry, a proxy or a firewall between drops transfers; clients begin again from the start of the layer.
    Needs: sk_err of connections that end; payload bytes, to tell a download.
    Parameters: download_min_bytes, idle_max_s, count_min, window_s, hold_s.
    Cannot tell apart: who sent the reset (the registry, or anything on the way to it).
    """

    id: ClassVar[str] = "reset"
    Settings = ResetThresholds
    needs = ("sk_err",)

    def __init__(self, settings: ResetThresholds) -> None:
        super().__init__(settings)
        self._rows: OrderedDict[int, deque[Connections]] = OrderedDict()
        self._fresh: set[int] = set()

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        idle = ended["idle_ms"] > self.settings.idle_max_s * 1000
        used = (ended["state_ns"][:, 1] >= 0) & ~idle
        for endpoint_id, own in by_endpoint(ended[(ended["close_reason"] == CloseReason.RESET) & used]):
            kept = self._rows.pop(endpoint_id, None) or deque(maxlen=_ROWS_KEPT)
            self._rows[endpoint_id] = kept
            kept.extend(row.reshape(1) for row in own[-_ROWS_KEPT:])
            self._fresh.add(endpoint_id)
        while len(self._rows) > _ENDPOINTS_MAX:
            self._fresh.discard(self._rows.popitem(last=False)[0])

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        fresh, self._fresh = sorted(self._fresh), set()
        for endpoint_id in fresh:
            rows = np.concatenate(list(self._rows[endpoint_id]))
            rows = rows[rows["last_ns"] > view.now_ns - self.settings.window_s * SECOND_NS]
            downloads = rows["bytes_received"] >= self.settings.download_min_bytes
            if not len(rows) or (not downloads.any() and len(rows) < self.settings.count_min):
                continue
            yield Sighting(
                key=endpoint_id,
                endpoint_id=endpoint_id,
                started_ns=int(rows["last_ns"].min()),
                seen_ns=int(rows["last_ns"].max()),
                hold_ns=int(self.settings.hold_s * SECOND_NS),
                severity=Severity.WARNING,
                confidence=0.9,
                summary=(
                    f"{view.label(endpoint_id)} resets connections in use: {len(rows)}, {int(downloads.sum())} of them downloads "
                    f"(up to {bytes_text(int(rows['bytes_received'].max()))} received)"
                ),
                advice="look at the registry's and its proxies' logs at that time; a firewall or load balancer may do it as well",
                evidence={
                    "resets": len(rows),
                    "downloads": int(downloads.sum()),
                    "received_max_bytes": int(rows["bytes_received"].max()) if (rows["bytes_received"] >= 0).any() else None,
                },
                suspects=rows_suspects(rows, int(self.settings.window_s * SECOND_NS)),
            )
