"""textbook: `textbook/capacity`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracer.events import Events, TcpState
from tracer.findings import Severity
from tracer.rows import Connections
from tracer.rules.kept import KeptByEndpoint
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.suspects import rows_suspects
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View
from tracer.segments import joined

_KEPT = 256


@dataclass(frozen=True)
class CapacityThresholds(Thresholds):
    """Numbers of the rule `textbook/capacity`."""

    close_wait_s: float = threshold(5, 0.1, 3600, "in CLOSE_WAIT for longer than this is long (chosen: none was published)")
    hold_s: float = threshold(60, 1, 3600, "over when nothing more was seen for so long (chosen)")


class Capacity(Rule[CapacityThresholds]):
    """Connections stay long in CLOSE_WAIT: the registry lacks capacity.

    Finds: connections in CLOSE_WAIT for longer than close_wait_s.
    Matters: published as the sign of a registry at its limits. In truth it is this side that has not closed yet.
    Needs: transitions.
    Parameters: close_wait_s, hold_s.
    Cannot tell apart: anything: CLOSE_WAIT says that the other side is done and this one is not.
    """

    id: ClassVar[str] = "textbook/capacity"
    Settings = CapacityThresholds

    def __init__(self, settings: CapacityThresholds) -> None:
        super().__init__(settings)
        self._rows = KeptByEndpoint(_KEPT)

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        rows = ended[ended["state_ns"][:, TcpState.CLOSE_WAIT] > self.settings.close_wait_s * SECOND_NS]
        self._rows.add(rows)

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        if not view.scan:
            return
        waiting = view.open_where(lambda rows: (rows["last_state"] == TcpState.CLOSE_WAIT) & (rows["established_ns"] >= 0))
        since_ns = waiting["established_ns"] + waiting["state_ns"][:, TcpState.ESTABLISHED]
        long = view.now_ns - since_ns > self.settings.close_wait_s * SECOND_NS
        rows = joined([*(own for own, _ in self._rows.take().values()), waiting[long][:_KEPT]])
        for endpoint_id in np.unique(rows["endpoint_id"]).tolist():
            own = rows[rows["endpoint_id"] == endpoint_id]
            yield Sighting(
                key=endpoint_id,
                endpoint_id=endpoint_id,
                started_ns=int(own["first_seen_ns"].min()),
                seen_ns=int(np.where(own["closed_ns"] >= 0, own["closed_ns"], view.now_ns).max()),
                hold_ns=int(self.settings.hold_s * SECOND_NS),
                severity=Severity.WARNING,
                confidence=0.4,
                summary=f"{len(own)} connections to {view.label(endpoint_id)} stay in CLOSE_WAIT",
                advice="by the book: the registry lacks capacity; use a mirror",
                evidence={"connections": len(own)},
                suspects=rows_suspects(own),
            )
