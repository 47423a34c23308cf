"""textbook: `textbook/token-expiry`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracer.events import Events
from tracer.findings import Severity
from tracer.rows import Connections, by_endpoint
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View

_KEPT = 1024


@dataclass(frozen=True)
class TextbookTokenExpiryThresholds(Thresholds):
    """Numbers of the rule `textbook/token-expiry`."""

    connections_min: int = threshold(2, 1, 1000, "one connection can't end at once with others (chosen)")
    window_s: float = threshold(1, 0.001, 60, "at once: all within this (chosen)")
    hold_s: float = threshold(60, 1, 3600, "over when nothing more was seen for so long (chosen)")


class AllAtOnce:
    """Finds the moments at which all connections of an endpoint had ended together."""

    def __init__(self, connections_min: int, window_ns: int) -> None:
        self._connections_min = connections_min
        self._window_ns = window_ns
        self._ended: dict[int, deque[tuple[int, int]]] = {}  # (established, ended) by endpoint

    def add(self, ended: Connections) -> None:
        """Take connections that ended, in trace order."""
        rows = ended[(ended["established_ns"] >= 0) & (ended["closed_ns"] >= 0)]
        for endpoint_id, own in by_endpoint(rows):
            kept = self._ended.setdefault(endpoint_id, deque(maxlen=_KEPT))
            kept.extend(zip(own["established_ns"].tolist(), own["closed_ns"].tolist(), strict=True))

    def found(self, view: View) -> list[tuple[int, int, int]]:
        """(endpoint id, first end, how many) where everything that was open ended within the window, and nothing is open."""
        if not view.scan:
            return []
        stale_ns = view.now_ns - max(self._window_ns, 2 * SECOND_NS) - SECOND_NS
        self._ended = {key: ends for key, ends in self._ended.items() if ends[-1][1] > stale_ns}
        fresh = {key: list(ends) for key, ends in self._ended.items() if ends and ends[-1][1] > view.now_ns - 2 * SECOND_NS}
        if not fresh:
            return []
        numbers = np.array(sorted(fresh), np.uint32)
        still_open = set(view.open_where(lambda rows: np.isin(rows["endpoint_id"], numbers))["endpoint_id"].tolist())
        result = []
        for endpoint_id, ends in sorted(fresh.items()):
            if endpoint_id in still_open:
                continue
            last_ns = max(ended for _, ended in ends)
            together = [(up, ended) for up, ended in ends if last_ns - ended < self._window_ns]
            first_ns = min(ended for _, ended in together)
            # together means that they were open at the same time, not one after the other
            count = sum(up < first_ns for up, _ in together)
            if count == len(together) and count >= self._connections_min:
                result.append((endpoint_id, first_ns, count))
        return result


class TextbookTokenExpiry(Rule[TextbookTokenExpiryThresholds]):
    """All connections of an endpoint end at the same time: the token expired.

    Finds: an endpoint whose open connections all ended within window_s, so that none is left.
    Matters: published as the sign of a token that ran out. containerd ends all connections at once after every pull.
    Needs: connections whose establishment and end were seen.
    Parameters: connections_min, window_s, hold_s.
    Cannot tell apart: a token that ran out from a client that is done.
    """

    id: ClassVar[str] = "textbook/token-expiry"
    Settings = TextbookTokenExpiryThresholds

    def __init__(self, settings: TextbookTokenExpiryThresholds) -> None:
        super().__init__(settings)
        self._ends = AllAtOnce(settings.connections_min, int(settings.window_s * SECOND_NS))

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        self._ends.add(ended)

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        for endpoint_id, first_ns, count in self._ends.found(view):
            yield Sighting(
                key=endpoint_id,
                endpoint_id=endpoint_id,
                started_ns=first_ns,
                seen_ns=first_ns + int(self.settings.window_s * SECOND_NS),
                hold_ns=int(self.settings.hold_s * SECOND_NS),
                severity=Severity.WARNING,
                confidence=0.4,
                summary=f"all {count} connections to {view.label(endpoint_id)} ended at once",
                advice="by the book: renew the credentials",
                evidence={"connections": count},
                suspects=view.suspects(endpoint_id),
            )
