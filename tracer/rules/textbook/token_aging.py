"""textbook: `textbook/token-aging`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracer.events import TcpState
from tracer.findings import Severity
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.suspects import rows_suspects
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View


@dataclass(frozen=True)
class TextbookTokenAgingThresholds(Thresholds):
    """Numbers of the rule `textbook/token-aging`."""

    token_s: float = threshold(300, 1, 86_400, "life of a token (published: 5 min)")
    age_s: float = threshold(270, 1, 86_400, "an established connection older than this is near it (published: 4 min 30 s)")

    def problems(self) -> list[tuple[tuple[str, ...], str]]:
        """See `Thresholds`."""
        return [(("age_s", "token_s"), "age_s is not below token_s")] if self.age_s >= self.token_s else []


class TextbookTokenAging(Rule[TextbookTokenAgingThresholds]):
    """Established connections older than 4 min 30 s: the token is about to expire.

    Finds: connections that have been established for longer than age_s.
    Matters: published as the sign of a token that runs out. Nothing ties the life of a connection to that of a token.
    Needs: open connections whose establishment was seen.
    Parameters: token_s, age_s.
    Cannot tell apart: a token that is near its end from a connection that is merely old.
    """

    id: ClassVar[str] = "textbook/token-aging"
    Settings = TextbookTokenAgingThresholds

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        if not view.scan:
            return
        age_ns = int(self.settings.age_s * SECOND_NS)
        rows = view.open_where(
            lambda rows: (
                (rows["last_state"] == TcpState.ESTABLISHED)
                & (rows["established_ns"] >= 0)
                & (view.now_ns - rows["established_ns"] > age_ns)
            )
        )
        for endpoint_id in np.unique(rows["endpoint_id"]).tolist():
            own = rows[rows["endpoint_id"] == endpoint_id]
            yield Sighting(
                key=endpoint_id,
                endpoint_id=endpoint_id,
                started_ns=int(own["established_ns"].min()) + age_ns,
                seen_ns=view.now_ns,
                hold_ns=2 * SECOND_NS,
                severity=Severity.NOTICE,
                confidence=0.3,
                summary=(
                    f"{len(own)} connections to {view.label(endpoint_id)} are older than {self.settings.age_s:g} s "
                    f"of a token's {self.settings.token_s:g} s"
                ),
                advice="by the book: renew the credentials",
                evidence={"connections": len(own), "oldest_s": round((view.now_ns - int(own["established_ns"].min())) / 1e9, 1)},
                suspects=rows_suspects(own),
            )
