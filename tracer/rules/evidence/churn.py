"""evidence: `churn`."""

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
class ChurnThresholds(Thresholds):
    """Numbers of the rule `churn`."""

    budget_per_min: int = threshold(2500, 1, 100_000_000, "connections a minute that the registry allows")
    window_s: int = threshold(60, 1, 600, "over which they are counted")
    hold_s: float = threshold(30, 1, 3600, "over when below the budget for so long")


class Churn(Rule[ChurnThresholds]):
    """More connections a minute than a registry allows, whatever becomes of them.

    Finds: an endpoint to which more connections were opened within the window than its budget for that time.
    Matters: Docker Hub's limit of abuse is "thousands of requests per minute" for an address (2,000 to 2,500 in reports);
        what is above it is refused, for everybody behind the address.
    Needs: openings.
    Parameters: budget_per_min, window_s, hold_s.
    Cannot tell apart: requests from connections (one connection may carry many requests, so the spending is at least this);
        what other hosts behind the same address spend.
    """

    id: ClassVar[str] = "churn"
    Settings = ChurnThresholds

    def __init__(self, settings: ChurnThresholds) -> None:
        super().__init__(settings)
        self._rate = Rate(settings.window_s)

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        self._rate.add(opened(events), view.cell)

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        self._rate.slide(view.now_ns)
        budget = self.settings.budget_per_min * self.settings.window_s / 60
        for endpoint_id, opens in self._rate.over(budget):
            since_ns = view.now_ns - self.settings.window_s * SECOND_NS
            per_min = opens * 60 / self.settings.window_s
            yield Sighting(
                key=endpoint_id,
                endpoint_id=endpoint_id,
                started_ns=max(since_ns, view.since_ns),
                seen_ns=view.now_ns,
                hold_ns=int(self.settings.hold_s * SECOND_NS),
                severity=Severity.WARNING,
                confidence=0.95,
                summary=(
                    f"{opens} connections to {view.label(endpoint_id)} in {self.settings.window_s} s, "
                    f"more than the budget of {self.settings.budget_per_min} a minute"
                ),
                advice="slow down the first suspect, or let it keep its connections; other hosts behind the address add to this",
                evidence={"opens": opens, "opens_per_min": round(per_min, 1), "budget_per_min": self.settings.budget_per_min},
                suspects=view.suspects(endpoint_id),
            )
