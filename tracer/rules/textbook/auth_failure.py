"""textbook: `textbook/auth-failure`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import ClassVar

from tracer.events import Events
from tracer.findings import Severity
from tracer.roles import Role
from tracer.rows import Connections
from tracer.rules.kept import KeptByEndpoint
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.suspects import rows_suspects
from tracer.rules.textbook.token_expiry import AllAtOnce
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View
from tracer.text import address_text

_KEPT = 256
_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")))
"""RFC 1918, 6598 and 4193; the library's is_private also takes addresses for documentation and tests."""


@dataclass(frozen=True)
class TextbookAuthFailureThresholds(Thresholds):
    """Numbers of the rule `textbook/auth-failure`."""

    life_max_s: float = threshold(1, 0.001, 60, "a connection that ended within this ended immediately (chosen)")
    after_s: float = threshold(60, 1, 3600, "so long after all connections ended at once (chosen)")
    window_s: float = threshold(1, 0.001, 60, "at once: all within this (chosen)")
    hold_s: float = threshold(60, 1, 3600, "over when nothing more was seen for so long (chosen)")


class TextbookAuthFailure(Rule[TextbookAuthFailureThresholds]):
    """New connections end immediately after all were ended at once, or at a private registry.

    Finds: established connections that ended within life_max_s, within after_s after all connections of the endpoint had
        ended at once, or at an endpoint with a private address or the role `private`.
    Matters: published as the sign of failed authentication.
    Needs: connections whose opening and end were seen.
    Parameters: life_max_s, after_s, window_s, hold_s.
    Cannot tell apart: a refused request from one that was answered quickly.
    """

    id: ClassVar[str] = "textbook/auth-failure"
    Settings = TextbookAuthFailureThresholds

    def __init__(self, settings: TextbookAuthFailureThresholds) -> None:
        super().__init__(settings)
        self._ends = AllAtOnce(2, int(settings.window_s * SECOND_NS))
        self._all_ended_ns: dict[int, int] = {}
        self._rows = KeptByEndpoint(_KEPT)

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        self._ends.add(ended)
        short = (ended["lifetime_ns"] >= 0) & (ended["lifetime_ns"] <= self.settings.life_max_s * SECOND_NS)
        rows = ended[short & (ended["established_ns"] >= 0)]
        self._rows.add(rows)

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        for endpoint_id, (own, _) in self._rows.take().items():
            ended_ns = self._all_ended_ns.get(endpoint_id)
            if ended_ns is not None:
                after = (own["opened_ns"] > ended_ns) & (own["opened_ns"] <= ended_ns + self.settings.after_s * SECOND_NS)
                if after.any():
                    yield self._sighting(view, endpoint_id, own[after], "right after all connections had ended at once")
                    continue
            if self._private(view, endpoint_id, own):
                yield self._sighting(view, endpoint_id, own, "at a private registry")
        since_ns = view.now_ns - int((self.settings.after_s + self.settings.window_s) * SECOND_NS)
        self._all_ended_ns = {key: at_ns for key, at_ns in self._all_ended_ns.items() if at_ns >= since_ns}
        for endpoint_id, first_ns, _ in self._ends.found(view):
            self._all_ended_ns[endpoint_id] = first_ns + int(self.settings.window_s * SECOND_NS)

    def _private(self, view: View, endpoint_id: int, rows: Connections) -> bool:
        if view.role(endpoint_id) is Role.PRIVATE:
            return True
        text = address_text(rows["raddr"][0].tobytes())
        if text is None:
            return False
        address = ip_address(text)
        return any(address in network for network in _PRIVATE if network.version == address.version)

    def _sighting(self, view: View, endpoint_id: int, rows: Connections, when: str) -> Sighting:
        return Sighting(
            key=endpoint_id,
            endpoint_id=endpoint_id,
            started_ns=int(rows["closed_ns"].min()),
            seen_ns=int(rows["closed_ns"].max()),
            hold_ns=int(self.settings.hold_s * SECOND_NS),
            severity=Severity.WARNING,
            confidence=0.4,
            summary=f"{len(rows)} new connections to {view.label(endpoint_id)} ended immediately {when}",
            advice="by the book: check the credentials",
            evidence={"connections": len(rows)},
            suspects=rows_suspects(rows),
        )
