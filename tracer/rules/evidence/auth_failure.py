"""evidence: `auth-failure`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from tracer.findings import Severity
from tracer.roles import Role
from tracer.rules.outcomes import ERROR_MAX_BYTES
from tracer.rules.rule import SECOND_NS, Answer, Over, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.tokens import Grant, downloaded_before, grant, registries
from tracer.rules.view import View
from tracer.visits import Client, Visit

_KEPT = 4096
_ANSWER_MAX_S = 8


@dataclass(frozen=True)
class AuthFailureThresholds(Thresholds):
    """Numbers of the rule `auth-failure`."""

    critical_count: int = threshold(3, 1, 1000, "so many refusals in a row make it critical")
    hold_s: float = threshold(120, 1, 3600, "over when nothing more was seen for so long")


class AuthFailure(Rule[AuthFailureThresholds]):
    """A token server refuses a token, so that the registry is not asked any further.

    Finds: a client whose token server answers with much less than it usually does; or, without a past to compare with, one
        that asks for a token after the registry and never comes back to the registry.
    Matters: the credentials are wrong, revoked, or not those that the service was given; repeating locks accounts.
    Needs: payload bytes, and to know which endpoint is the token server: well-known ones are known, others are said in the
        configuration (`[roles]`). Where none is known the rule finds nothing.
    Parameters: critical_count, hold_s.
    Cannot tell apart: wrong credentials from missing rights; a 401 that is answered on a connection that is kept.
    """

    id: ClassVar[str] = "auth-failure"
    Settings = AuthFailureThresholds
    needs = ("bytes_received", "bytes_acked")

    def __init__(self, settings: AuthFailureThresholds) -> None:
        super().__init__(settings)
        self._rows: dict[Any, int] = {}

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        if len(self._rows) > _KEPT:
            self._rows = {owner: row for owner, row in self._rows.items() if owner in view.visits.clients}
        for client, visit in view.judged:
            if view.role(client.owner.endpoint_id) is Role.AUTH and grant(view, client, visit) is Grant.REFUSED:
                yield from self._token_server(view, client, visit, Grant.REFUSED)
        for client, visit in view.tokens:  # whether a token was put to use is seen a little later
            given = grant(view, client, visit)
            if given is not Grant.REFUSED:
                yield from self._token_server(view, client, visit, given)

    def _token_server(self, view: View, client: Client, visit: Visit, given: Grant) -> Iterator[Answer]:
        if given is Grant.GRANTED:
            self._rows.pop(client.owner, None)
            yield Over(client.owner, visit.last_end_ns, "tokens are given again")
        if given not in (Grant.REFUSED, Grant.UNUSED) or downloaded_before(view, client, visit):
            return
        if visit.last_end_ns - visit.last_open_ns >= _ANSWER_MAX_S * SECOND_NS:
            return  # a refusal comes at once: this one was waited for in vain
        if visit.exchanges[-1][1] == 0 or view.silent_ns.get(client.owner.endpoint_id, -1) >= visit.start_ns:
            return  # no answer is no refusal: see stalled
        if not any(self._asked_first(other, visit) for other in registries(view, client)):
            return  # nothing is known of what the token was for
        row = self._rows[client.owner] = self._rows.get(client.owner, 0) + 1
        sure = given is Grant.REFUSED
        confidence = min(0.95, (0.85 if sure else 0.6) + 0.05 * (row - 1))
        registry = next(other for other in registries(view, client) if self._asked_first(other, visit))
        label, token_label = view.label(registry.owner.endpoint_id), view.label(client.owner.endpoint_id)
        how = (
            f"answered {visit.exchanges[-1][1]} bytes, much less than before" if sure else "was asked, and the registry not again"
        )
        yield Sighting(
            key=client.owner,
            endpoint_id=client.owner.endpoint_id,
            started_ns=visit.start_ns,
            seen_ns=visit.last_end_ns,
            hold_ns=int(self.settings.hold_s * SECOND_NS),
            severity=Severity.CRITICAL if row >= self.settings.critical_count else Severity.WARNING,
            confidence=confidence,
            summary=f"no token for {label}: {token_label} {how}, {row} time{'s' if row > 1 else ''}",
            advice="check the credentials of the suspect (docker login, imagePullSecrets, the service's --with-registry-auth)",
            evidence={
                "refusals": row,
                "answer_bytes": visit.exchanges[-1][1],
                "registry": label,
                "causes": {"wrong-credentials": round(confidence * 0.8, 2), "missing-rights": round(confidence * 0.2, 2)},
            },
            suspects=view.suspect(client),
            absence=not sure,
        )

    def _asked_first(self, registry: Client, visit: Visit) -> bool:
        """Whether the registry was asked just before, without a download."""
        return any(
            own.start_ns <= visit.start_ns and visit.start_ns - own.last_open_ns <= 2 * SECOND_NS
            and own.received_max <= ERROR_MAX_BYTES
            for own in registry.visits
        )  # fmt: skip
