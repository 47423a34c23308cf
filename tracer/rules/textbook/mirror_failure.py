"""textbook: `textbook/mirror-failure`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from tracer.events import Events
from tracer.findings import Severity
from tracer.rows import Connections
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View, is_failed


@dataclass(frozen=True)
class TextbookMirrorFailureThresholds(Thresholds):
    """Numbers of the rule `textbook/mirror-failure`."""

    mirrors_min: int = threshold(2, 2, 100, "so many endpoints that fail together are several mirrors (published: multiple)")
    window_s: float = threshold(10, 0.1, 600, "together: within this (chosen)")


class TextbookMirrorFailure(Rule[TextbookMirrorFailureThresholds]):
    """Several mirrors fail at the same time: their upstream.

    Finds: failed handshakes at mirrors_min endpoints or more within window_s.
    Matters: published as the sign that what the mirrors mirror is in trouble. In truth a mirror stays up then and answers 5xx.
    Needs: transitions.
    Parameters: mirrors_min, window_s.
    Cannot tell apart: an upstream that fails from this host's own network.
    """

    id: ClassVar[str] = "textbook/mirror-failure"
    Settings = TextbookMirrorFailureThresholds

    def __init__(self, settings: TextbookMirrorFailureThresholds) -> None:
        super().__init__(settings)
        self._failed_ns: dict[int, int] = {}
        self._fresh = False

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        rows = ended[is_failed(ended)]
        for endpoint_id, last_ns in zip(rows["endpoint_id"].tolist(), rows["last_ns"].tolist(), strict=True):
            self._failed_ns[endpoint_id] = max(last_ns, self._failed_ns.get(endpoint_id, -1))
            self._fresh = True

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        if not self._fresh:
            return
        self._fresh = False
        since_ns = view.now_ns - int(self.settings.window_s * SECOND_NS)
        self._failed_ns = {endpoint_id: at_ns for endpoint_id, at_ns in self._failed_ns.items() if at_ns >= since_ns}
        if len(self._failed_ns) < self.settings.mirrors_min:
            return
        failed = sorted(self._failed_ns)
        yield Sighting(
            key="mirrors",
            endpoint_id=failed[0],
            started_ns=min(self._failed_ns.values()),
            seen_ns=max(self._failed_ns.values()),
            hold_ns=int(self.settings.window_s * SECOND_NS),
            severity=Severity.WARNING,
            confidence=0.5,
            summary=f"{len(failed)} endpoints fail at the same time: " + ", ".join(view.label(number) for number in failed[:5]),
            advice="by the book: their upstream is in trouble; use another registry",
            evidence={"endpoints": [view.label(number) for number in failed[:20]]},
            suspects=view.suspects(failed[0]),
        )
