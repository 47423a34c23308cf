"""evidence: `token-aging` (benign)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tracer.events import TcpState
from tracer.findings import Severity
from tracer.roles import Role
from tracer.rows import Connections
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import Client, View


@dataclass(frozen=True)
class TokenAgingThresholds(Thresholds):
    """Numbers of the rule `token-aging`."""

    age_s: float = threshold(270, 1, 86_400, "since the owner last talked to its token server; Docker Hub's tokens live 300 s")


class TokenAging(Rule[TokenAgingThresholds]):
    """An owner still works with a token that is about to run out.

    Finds: an owner with an open connection to a registry whose last visit to a token server is older than age_s.
    Matters: its next request will be answered with 401 and cost another request for a token; that is normal, and no fault.
    Needs: to know which endpoint is the token server (see `auth-failure`).
    Parameters: age_s.
    Cannot tell apart: tokens that live longer (ghcr.io has no expiry, ECR 12 hours): how long one lives is not in TCP.
    """

    id: ClassVar[str] = "token-aging"
    Settings = TokenAgingThresholds
    benign = True

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        if not view.scan:
            return
        before_ns = view.now_ns - int(self.settings.age_s * SECOND_NS)
        for _, client in sorted(view.visits.clients.items()):
            if view.role(client.owner.endpoint_id) is not Role.AUTH or client.last_ns > before_ns:
                continue
            count = len(view.open_where(partial(_working, client)))
            if not count:
                continue
            yield Sighting(
                key=client.owner,
                endpoint_id=client.owner.endpoint_id,
                started_ns=client.last_ns + int(self.settings.age_s * SECOND_NS),
                seen_ns=view.now_ns,
                hold_ns=2 * SECOND_NS,
                severity=Severity.NOTICE,
                confidence=0.5,
                summary=f"the last token from {view.label(client.owner.endpoint_id)} is {self.settings.age_s:g} s old",
                advice="nothing: the client will ask for a new one",
                evidence={"connections": count},
                suspects=view.suspect(client),
            )


def _working(client: Client, rows: Connections) -> NDArray[np.bool_]:
    """The same owner's established connections elsewhere, opened before its last visit to the token server."""
    own = (rows["comm"] == client.owner.comm) & (rows["cgroup_id"] == client.owner.cgroup_id)
    own &= (rows["last_state"] == TcpState.ESTABLISHED) & (rows["endpoint_id"] != client.owner.endpoint_id)
    return np.asarray(own & (rows["opened_ns"] <= client.last_ns), bool)
