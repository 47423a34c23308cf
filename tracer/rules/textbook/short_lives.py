"""textbook: `textbook/short-lives`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from tracer.events import Events
from tracer.findings import Severity
from tracer.rows import Connections
from tracer.rules.kept import KeptByEndpoint
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.suspects import rows_suspects
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View

_KEPT = 256


@dataclass(frozen=True)
class ShortLivesThresholds(Thresholds):
    """Numbers of the rule `textbook/short-lives`."""

    life_min_s: float = threshold(5, 0, 3600, "shortest life of a connection of a refused client (published: 5)")
    life_max_s: float = threshold(10, 0, 3600, "longest life of one (published: 10)")
    healthy_min_s: float = threshold(30, 0, 3600, "shortest healthy life (published: 30)")
    hold_s: float = threshold(60, 1, 3600, "over when nothing more was seen for so long (chosen)")

    def problems(self) -> list[tuple[tuple[str, ...], str]]:
        """See `Thresholds`."""
        if self.life_max_s < self.life_min_s:
            return [(("life_max_s", "life_min_s"), "life_max_s is below life_min_s")]
        if self.healthy_min_s <= self.life_max_s:
            return [(("healthy_min_s", "life_max_s"), "healthy_min_s overlaps life_max_s: a life would be short and healthy")]
        return []


class ShortLives(Rule[ShortLivesThresholds]):
    """Connections that end within 5 to 10 seconds, where healthy ones last 30 to 90.

    Finds: established connections that ended after at least life_min_s and at most life_max_s.
    Matters: published as the timing of a rate limit. API and token connections are always shorter than 5 s.
    Needs: connections whose opening and end were seen.
    Parameters: life_min_s, life_max_s, healthy_min_s, hold_s.
    Cannot tell apart: a refused client from a layer that takes 7 s to download.
    """

    id: ClassVar[str] = "textbook/short-lives"
    Settings = ShortLivesThresholds

    def __init__(self, settings: ShortLivesThresholds) -> None:
        super().__init__(settings)
        self._rows = KeptByEndpoint(_KEPT)

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        life_ns = ended["lifetime_ns"]
        short = (life_ns >= self.settings.life_min_s * SECOND_NS) & (life_ns <= self.settings.life_max_s * SECOND_NS)
        rows = ended[short & (ended["established_ns"] >= 0)]
        self._rows.add(rows)

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        for endpoint_id, (own, count) in self._rows.take().items():
            yield Sighting(
                key=endpoint_id,
                endpoint_id=endpoint_id,
                started_ns=int(own["closed_ns"].min()),
                seen_ns=int(own["closed_ns"].max()),
                hold_ns=int(self.settings.hold_s * SECOND_NS),
                severity=Severity.WARNING,
                confidence=0.5,
                summary=(
                    f"{count} connections to {view.label(endpoint_id)} ended within {self.settings.life_min_s:g} to "
                    f"{self.settings.life_max_s:g} s; healthy ones last {self.settings.healthy_min_s:g} s and more"
                ),
                advice="by the book: a rate limit; rotate credentials, use a mirror, try again later",
                evidence={"connections": count},
                suspects=rows_suspects(own),
            )
