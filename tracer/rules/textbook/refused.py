"""textbook: `textbook/refused`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from tracer.events import Events
from tracer.findings import Severity
from tracer.lifecycle import CloseReason
from tracer.rows import Connections
from tracer.rules.kept import KeptByEndpoint
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.suspects import rows_suspects
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View

_KEPT = 256


@dataclass(frozen=True)
class TextbookRefusedThresholds(Thresholds):
    """Numbers of the rule `textbook/refused`."""

    hold_s: float = threshold(60, 1, 3600, "over when nothing more was seen for so long (chosen)")


class TextbookRefused(Rule[TextbookRefusedThresholds]):
    """Immediate "connection refused": the network.

    Finds: every refused handshake.
    Matters: published as what tells trouble of the network from a rate limit.
    Needs: sk_err of connections that failed; where a poller gets records of what ended, a refusal shows in them.
    Parameters: hold_s.
    Cannot tell apart: a registry that is down from a name with one address too many (IPv6 before IPv4).
    """

    id: ClassVar[str] = "textbook/refused"
    Settings = TextbookRefusedThresholds
    needs = ("connect_err",)

    def __init__(self, settings: TextbookRefusedThresholds) -> None:
        super().__init__(settings)
        self._rows = KeptByEndpoint(_KEPT)

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        rows = ended[ended["close_reason"] == CloseReason.REFUSED]
        self._rows.add(rows)

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        for endpoint_id, (own, count) in self._rows.take().items():
            yield Sighting(
                key=endpoint_id,
                endpoint_id=endpoint_id,
                started_ns=int(own["first_seen_ns"].min()),
                seen_ns=int(own["last_ns"].max()),
                hold_ns=int(self.settings.hold_s * SECOND_NS),
                severity=Severity.WARNING,
                confidence=0.8,
                summary=f"{view.label(endpoint_id)} refuses connections ({count})",
                advice="by the book: look at the network, not at the registry's limits",
                evidence={"connections": count},
                suspects=rows_suspects(own),
            )
