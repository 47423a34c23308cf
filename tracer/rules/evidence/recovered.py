"""evidence: `recovered`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from tracer.findings import Severity
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View


@dataclass(frozen=True)
class RecoveredThresholds(Thresholds):
    """Numbers of the rule `recovered`."""

    hold_s: float = threshold(5, 1, 3600, "how long it is shown as open")


class Recovered(Rule[RecoveredThresholds]):
    """What was found wrong at an endpoint is seen to work again.

    Finds: the end of a finding that something showed (a connection was established, bytes came, a download was made), as
        against one that ended because nothing more was seen.
    Matters: it tells when to stop, and how long it lasted.
    Needs: the findings of other rules.
    Parameters: hold_s.
    Cannot tell apart: a recovery from one success among failures; the other finding opens again then.
    """

    id: ClassVar[str] = "recovered"
    Settings = RecoveredThresholds

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        for ended in list(view.ended):
            if ended.rule.startswith("textbook/"):
                continue
            lasted_s = (ended.at_ns - ended.started_ns) / SECOND_NS
            yield Sighting(
                key=(ended.rule, ended.endpoint_id, ended.started_ns),
                endpoint_id=ended.endpoint_id,
                started_ns=ended.at_ns,
                seen_ns=view.now_ns,
                hold_ns=int(self.settings.hold_s * SECOND_NS),
                severity=Severity.NOTICE,
                confidence=0.9,
                summary=f"{view.label(ended.endpoint_id)} works again after {lasted_s:.3g} s of {ended.rule}: {ended.how}",
                advice="nothing, if it lasts",
                evidence={"rule": ended.rule, "lasted_s": round(lasted_s, 3)},
            )
