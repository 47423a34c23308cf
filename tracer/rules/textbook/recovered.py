"""textbook: `textbook/recovered`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from tracer.events import Events
from tracer.findings import Severity
from tracer.rows import Connections, by_endpoint
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View, forget_oldest, is_failed

_ENDPOINTS_MAX = 4096


@dataclass(frozen=True)
class TextbookRecoveredThresholds(Thresholds):
    """Numbers of the rule `textbook/recovered`."""

    hold_s: float = threshold(5, 1, 3600, "how long it is shown as open (chosen)")


class TextbookRecovered(Rule[TextbookRecoveredThresholds]):
    """Connections are established again after they failed.

    Finds: an establishment at an endpoint whose latest connections had failed before they were established.
    Matters: published as the way to see that a limit is over.
    Needs: transitions.
    Parameters: hold_s.
    Cannot tell apart: a limit that is over: under a limit connections are established all the time.
    """

    id: ClassVar[str] = "textbook/recovered"
    Settings = TextbookRecoveredThresholds

    def __init__(self, settings: TextbookRecoveredThresholds) -> None:
        super().__init__(settings)
        self._failed_ns: dict[int, int] = {}

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        for endpoint_id, own in by_endpoint(ended[is_failed(ended)]):
            self._failed_ns[endpoint_id] = int(own["last_ns"].max())

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        forget_oldest(self._failed_ns, _ENDPOINTS_MAX)
        for endpoint_id, failed_ns in sorted(self._failed_ns.items()):
            established_ns = view.established_ns.get(endpoint_id, -1)
            if established_ns > failed_ns:
                del self._failed_ns[endpoint_id]
                yield Sighting(
                    key=endpoint_id,
                    endpoint_id=endpoint_id,
                    started_ns=established_ns,
                    seen_ns=established_ns,
                    hold_ns=int(self.settings.hold_s * SECOND_NS),
                    severity=Severity.NOTICE,
                    confidence=0.5,
                    summary=f"{view.label(endpoint_id)} accepts connections again",
                    advice="by the book: go on",
                    evidence={"failed_until_ns": failed_ns},
                )
