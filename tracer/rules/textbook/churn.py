"""textbook: `textbook/churn`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from tracer.events import Events
from tracer.findings import Severity
from tracer.rows import Connections
from tracer.rules.rate import Rate, opened
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View


@dataclass(frozen=True)
class TextbookChurnThresholds(Thresholds):
    """Numbers of the rule `textbook/churn`."""

    opens_min: int = threshold(10, 1, 1_000_000, "more connections opened within window_s are rapid (chosen: none was published)")
    closes_min: int = threshold(10, 1, 1_000_000, "and more ended within it (chosen)")
    window_s: int = threshold(10, 1, 600, "over which they are counted (chosen)")


class TextbookChurn(Rule[TextbookChurnThresholds]):
    """Rapid socket turnover: sockets appear and disappear quickly.

    Finds: an endpoint with more than opens_min openings and closes_min ends within window_s.
    Matters: published as a sign of a rate limit before it is reported. A healthy pull by dockerd makes 13 in a second.
    Needs: openings and ends; `/proc/net/sockstat`, which the article names too, counts all sockets of the host and is not used.
    Parameters: opens_min, closes_min, window_s.
    Cannot tell apart: a busy host from a refused one.
    """

    id: ClassVar[str] = "textbook/churn"
    Settings = TextbookChurnThresholds

    def __init__(self, settings: TextbookChurnThresholds) -> None:
        super().__init__(settings)
        self._opens = Rate(settings.window_s)
        self._closes = Rate(settings.window_s)

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        self._opens.add(opened(events), view.cell)
        self._closes.add(ended["endpoint_id"], view.cell)

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        since_ns = view.now_ns - self.settings.window_s * SECOND_NS
        self._opens.slide(view.now_ns)
        self._closes.slide(view.now_ns)
        for endpoint_id, opens in self._opens.over(self.settings.opens_min):
            closes = self._closes.of(endpoint_id)
            if closes <= self.settings.closes_min:
                continue
            yield Sighting(
                key=endpoint_id,
                endpoint_id=endpoint_id,
                started_ns=max(since_ns, view.since_ns),
                seen_ns=view.now_ns,
                hold_ns=self.settings.window_s * SECOND_NS,
                severity=Severity.WARNING,
                confidence=0.5,
                summary=(
                    f"rapid turnover at {view.label(endpoint_id)}: {opens} connections opened and {closes} ended "
                    f"in {self.settings.window_s} s"
                ),
                advice="by the book: a rate limit; rotate credentials, use a mirror, try again later",
                evidence={"opens": opens, "closes": closes},
                suspects=view.suspects(endpoint_id),
            )
