"""evidence: `refused`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from tracer.events import Events
from tracer.findings import Severity
from tracer.lifecycle import CloseReason
from tracer.rows import Connections, by_endpoint
from tracer.rules.kept import KeptRows
from tracer.rules.rule import SECOND_NS, Answer, Over, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View
from tracer.text import address_text

_ROWS_KEPT = 64
_ENDPOINTS_MAX = 4096


@dataclass(frozen=True)
class RefusedThresholds(Thresholds):
    """Numbers of the rule `refused`."""

    sibling_s: float = threshold(1.0, 0.0, 30, "a connection to the same endpoint established so close by makes up for it")
    critical_count: int = threshold(3, 1, 1000, "so many refusals make it critical")
    hold_s: float = threshold(60, 1, 3600, "over when nothing more was seen for so long")


class _Seen:
    """What is known of one endpoint's refusals."""

    def __init__(self) -> None:
        self.kept = KeptRows(_ROWS_KEPT)
        self.first_ns = self.last_ns = -1


class Refused(Rule[RefusedThresholds]):
    """Nobody listens: connections are refused at once.

    Finds: handshakes answered with a reset (ECONNREFUSED), unless the client got through to the same endpoint by another
        address close by, as where a name has an IPv6 address that nobody listens on.
    Matters: the registry, its proxy or its mirror is down; each attempt fails within a round trip.
    Needs: sk_err of connections that failed; where a poller gets records of what ended, a refusal shows in them.
    Parameters: sibling_s, critical_count, hold_s.
    Cannot tell apart: a service that is down from a firewall that rejects with a reset.
    """

    id: ClassVar[str] = "refused"
    Settings = RefusedThresholds
    needs = ("connect_err",)

    def __init__(self, settings: RefusedThresholds) -> None:
        super().__init__(settings)
        self._seen: OrderedDict[int, _Seen] = OrderedDict()
        self._fresh: set[int] = set()

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        rows = ended[(ended["close_reason"] == CloseReason.REFUSED) & (ended["established_ns"] < 0)]
        for endpoint_id, own in by_endpoint(rows):
            seen = self._seen.pop(endpoint_id, None) or _Seen()
            self._seen[endpoint_id] = seen
            seen.kept.add(own)
            seen.first_ns = int(own["first_seen_ns"][0]) if seen.first_ns < 0 else seen.first_ns
            seen.last_ns = max(seen.last_ns, int(own["last_ns"].max()))
            self._fresh.add(endpoint_id)

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        grace_ns = int(self.settings.sibling_s * SECOND_NS)
        for endpoint_id in sorted(self._seen):
            seen = self._seen[endpoint_id]
            established_ns = view.established_ns.get(endpoint_id, -1)
            if established_ns >= seen.first_ns - grace_ns and established_ns > seen.last_ns - grace_ns:
                yield Over(endpoint_id, established_ns, "a connection was established")
                self._forget(endpoint_id)
            elif view.now_ns > seen.last_ns + self.settings.hold_s * SECOND_NS:
                self._forget(endpoint_id)
            elif endpoint_id in self._fresh and (view.final or view.now_ns >= seen.first_ns + grace_ns):
                self._fresh.discard(endpoint_id)
                yield self._sighting(view, endpoint_id, seen)
        while len(self._seen) > _ENDPOINTS_MAX:
            self._forget(next(iter(self._seen)))

    def _forget(self, endpoint_id: int) -> None:
        del self._seen[endpoint_id]
        self._fresh.discard(endpoint_id)

    def _sighting(self, view: View, endpoint_id: int, seen: _Seen) -> Sighting:
        rows, count = seen.kept.rows(), seen.kept.count
        addresses = sorted({address_text(row.tobytes()) or "?" for row in rows["raddr"]})
        many = count >= self.settings.critical_count
        return Sighting(
            key=endpoint_id,
            endpoint_id=endpoint_id,
            started_ns=seen.first_ns,
            seen_ns=seen.last_ns,
            hold_ns=int(self.settings.hold_s * SECOND_NS),
            severity=Severity.CRITICAL if many else Severity.WARNING,
            confidence=0.98 if many else 0.9,
            summary=f"{view.label(endpoint_id)} refuses connections: {count} so far, at {', '.join(addresses[:3])}",
            advice="is the registry (or its proxy) running, and listening on this port? is the port right?",
            evidence={"refused": count, "addresses": addresses[:10]},
            suspects=view.suspects(endpoint_id),
        )
