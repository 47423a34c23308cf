"""textbook: `textbook/retry-storm`."""

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
class BudgetThresholds(Thresholds):
    """Numbers of the rule `textbook/retry-storm`."""

    budget_per_min: int = threshold(2500, 1, 100_000_000, "connections a minute (published: 2,000 to 2,500 requests)")


class Budget(Rule[BudgetThresholds]):
    """More opens a minute than the budget, with the process that spends it.

    Finds: an endpoint to which more connections were opened within a minute than the budget.
    Matters: published as what Docker Hub blocked an address for: 20,000 requests a minute from services that retried.
    Needs: openings with their owner.
    Parameters: budget_per_min.
    Cannot tell apart: a storm from many healthy pulls at once.
    """

    id: ClassVar[str] = "textbook/retry-storm"
    Settings = BudgetThresholds

    def __init__(self, settings: BudgetThresholds) -> None:
        super().__init__(settings)
        self._rate = Rate(60)

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        self._rate.add(opened(events), view.cell)

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        self._rate.slide(view.now_ns)
        for endpoint_id, opens in self._rate.over(self.settings.budget_per_min):
            since_ns = view.now_ns - 60 * SECOND_NS
            yield Sighting(
                key=endpoint_id,
                endpoint_id=endpoint_id,
                started_ns=max(since_ns, view.since_ns),
                seen_ns=view.now_ns,
                hold_ns=30 * SECOND_NS,
                severity=Severity.WARNING,
                confidence=0.6,
                summary=f"{opens} connections to {view.label(endpoint_id)} in a minute, budget {self.settings.budget_per_min}",
                advice="find the service that retries and stop it",
                evidence={"opens_per_min": opens, "budget_per_min": self.settings.budget_per_min},
                suspects=view.suspects(endpoint_id),
            )
