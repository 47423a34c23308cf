"""textbook: `textbook/unreachable`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracer.events import Events, TcpState
from tracer.findings import Severity
from tracer.lifecycle import CloseReason
from tracer.rows import Connections
from tracer.rules.kept import KeptByEndpoint
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.suspects import rows_suspects
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View, is_failed, is_given_up
from tracer.segments import joined

_KEPT = 256


@dataclass(frozen=True)
class TextbookUnreachableThresholds(Thresholds):
    """Numbers of the rule `textbook/unreachable`."""

    syn_sent_s: float = threshold(3, 0.1, 300, "in SYN_SENT for so long is a time-out (chosen; a poller sees nothing shorter)")
    hold_s: float = threshold(60, 1, 3600, "over when nothing more was seen for so long (chosen)")


class TextbookUnreachable(Rule[TextbookUnreachableThresholds]):
    """Connections time out in SYN_SENT: the network.

    Finds: connections in SYN_SENT for syn_sent_s or that ended there with a time-out.
    Matters: published as what tells trouble of the network from a rate limit; it does.
    Needs: transitions.
    Parameters: syn_sent_s, hold_s.
    Cannot tell apart: a firewall from a host that is down.
    """

    id: ClassVar[str] = "textbook/unreachable"
    Settings = TextbookUnreachableThresholds

    def __init__(self, settings: TextbookUnreachableThresholds) -> None:
        super().__init__(settings)
        self._rows = KeptByEndpoint(_KEPT)

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        reason = ended["close_reason"]
        failed = is_failed(ended) & (reason != CloseReason.REFUSED)
        failed |= is_given_up(ended) & (ended["lifetime_ns"] >= self.settings.syn_sent_s * SECOND_NS)
        rows = ended[failed & (ended["established_ns"] < 0)]
        self._rows.add(rows)

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        if not view.scan:
            return
        since_ns = view.now_ns - int(self.settings.syn_sent_s * SECOND_NS)
        late = view.open_where(
            lambda rows: (rows["last_state"] == TcpState.SYN_SENT) & (rows["opened_ns"] >= 0) & (rows["opened_ns"] <= since_ns)
        )
        rows = joined([*(own for own, _ in self._rows.take().values()), late[:_KEPT]])
        for endpoint_id in np.unique(rows["endpoint_id"]).tolist():
            own = rows[rows["endpoint_id"] == endpoint_id]
            seen_ns = int(np.where(own["closed_ns"] >= 0, own["closed_ns"], view.now_ns).max())
            yield Sighting(
                key=endpoint_id,
                endpoint_id=endpoint_id,
                started_ns=int(own["first_seen_ns"].min()),
                seen_ns=seen_ns,
                hold_ns=int(self.settings.hold_s * SECOND_NS),
                severity=Severity.WARNING,
                confidence=0.8,
                summary=f"{len(own)} connections to {view.label(endpoint_id)} time out in SYN_SENT",
                advice="by the book: look at the network, not at the registry's limits",
                evidence={"connections": len(own)},
                suspects=rows_suspects(own),
            )
