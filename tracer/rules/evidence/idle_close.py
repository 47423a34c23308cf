"""evidence: `idle-close` (benign)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracer.events import Events
from tracer.findings import Severity
from tracer.lifecycle import CloseReason
from tracer.rows import Connections, by_endpoint
from tracer.rules.kept import KeptRows
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.suspects import rows_suspects
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View

_KEPT = 256


@dataclass(frozen=True)
class IdleCloseThresholds(Thresholds):
    """Numbers of the rule `idle-close`."""

    idle_s: float = threshold(2.0, 0.1, 3600, "nothing was received for so long before the other side closed")
    unread_max_bytes: int = threshold(64, 0, 65_536, "not yet read at most; a TLS alert takes up to 31")
    drain_min: int = threshold(3, 2, 10_000, "so many at once, within a second, look like a server that is taken out")
    hold_s: float = threshold(30, 1, 3600, "over when nothing more was seen for so long")


class IdleClose(Rule[IdleCloseThresholds]):
    """The other side closes connections that nobody uses. No fault.

    Finds: connections closed by the other side after nothing was received for idle_s, with nothing left to read.
    Matters: it explains closes that look like trouble (HAProxy, nginx 75 s, load balancers 60 and 350 s), and drains.
    Needs: idle time and unread bytes at the FIN.
    Parameters: idle_s, unread_max_bytes, drain_min, hold_s.
    Cannot tell apart: a server's time-out from a server that is restarted while its connections are idle.
    """

    id: ClassVar[str] = "idle-close"
    Settings = IdleCloseThresholds
    needs = ("idle_ms", "unread_bytes")
    benign = True

    def __init__(self, settings: IdleCloseThresholds) -> None:
        super().__init__(settings)
        self._rows: dict[int, KeptRows] = {}

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        idle = (ended["close_reason"] == CloseReason.PEER) & (ended["idle_ms"] >= self.settings.idle_s * 1000)
        idle &= (ended["unread_bytes"] >= 0) & (ended["unread_bytes"] <= self.settings.unread_max_bytes)
        for endpoint_id, own in by_endpoint(ended[idle]):
            self._rows.setdefault(endpoint_id, KeptRows(_KEPT)).add(own)

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        found, self._rows = self._rows, {}
        for endpoint_id in sorted(found):
            rows = found[endpoint_id].rows()
            idle_s = float(np.median(rows["idle_ms"])) / 1000
            drain = len(rows) >= self.settings.drain_min
            what = "a server is probably taken out" if drain else "its time-out for idle connections"
            yield Sighting(
                key=endpoint_id,
                endpoint_id=endpoint_id,
                started_ns=int(rows["last_ns"].min()),
                seen_ns=int(rows["last_ns"].max()),
                hold_ns=int(self.settings.hold_s * SECOND_NS),
                severity=Severity.NOTICE,
                confidence=0.9,
                summary=f"{view.label(endpoint_id)} closed {len(rows)} connections idle for {idle_s:.3g} s: {what}",
                advice="nothing: clients open new ones when they need them",
                evidence={"closed": len(rows), "idle_s": round(idle_s, 3), "drain": drain},
                suspects=rows_suspects(rows),
            )
