"""evidence: `token-expiry`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from tracer.findings import Severity
from tracer.roles import Role
from tracer.rules.outcomes import ERROR_MAX_BYTES
from tracer.rules.rule import SECOND_NS, Answer, Over, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.tokens import Grant, downloaded_before, grant, has_token_server, refused_token
from tracer.rules.view import View
from tracer.visits import Client, Visit

_ADVICE = (
    "pull again; if it happens often, the pull takes longer than the token lives: smaller layers, a nearer mirror, a longer token"
)


@dataclass(frozen=True)
class TokenExpiryThresholds(Thresholds):
    """Numbers of the rule `token-expiry`."""

    hold_s: float = threshold(120, 1, 3600, "over when nothing more was seen for so long")


class TokenExpiry(Rule[TokenExpiryThresholds]):
    """A token ran out in the middle of a pull, and there was no new one.

    Finds: a process that had downloaded, asks the token server again, and gets much less than a token; or one that talks to
        a token server and whose last requests, after downloads, are answered with much less than they ever were.
    Matters: the pull fails although the credentials are right; it works again when it is repeated.
    Needs: payload bytes, and to know which endpoint is the token server (see `auth-failure`).
    Parameters: hold_s.
    Cannot tell apart: a token that ran out from one that was revoked; without a second request for a token, a 401 from a 429
        or a missing blob (`causes` in the evidence). A token that is renewed without trouble is no finding.
    """

    id: ClassVar[str] = "token-expiry"
    Settings = TokenExpiryThresholds
    needs = ("bytes_received", "bytes_acked")

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        for client, visit in view.judged:
            if view.role(client.owner.endpoint_id) is Role.AUTH:
                yield from self._at_token_server(view, client, visit)
            elif has_token_server(view, client):
                yield from self._at_registry(view, client, visit)

    def _at_token_server(self, view: View, client: Client, visit: Visit) -> Iterator[Answer]:
        if grant(view, client, visit) is Grant.REFUSED and downloaded_before(view, client, visit):
            causes = {"token-expiry": 0.85, "revoked": 0.15}
            said = f"{view.label(client.owner.endpoint_id)} gives no second one ({visit.exchanges[-1][1]} bytes)"
            yield self._sighting(view, client, visit, 0.85, said, {"answer_bytes": visit.exchanges[-1][1], "causes": causes})

    def _at_registry(self, view: View, client: Client, visit: Visit) -> Iterator[Answer]:
        last = visit.exchanges[-1:]
        before = visit.received_max > ERROR_MAX_BYTES
        if not last or last[0] not in visit.shrunk or not before:
            if visit.received_max > ERROR_MAX_BYTES:
                yield Over(client.owner, visit.last_end_ns, "whole downloads again")
            return
        if refused_token(view, client, visit):
            return  # told of at the token server
        causes = {"token-expiry": 0.6, "rate-limit": 0.3, "other-refusal": 0.1}
        said = (
            f"after downloads, its last {len(visit.shrunk)} requests got no more than {max(got for _, got in visit.shrunk)} bytes"
        )
        yield self._sighting(view, client, visit, 0.6, said, {"answer_bytes": last[0][1], "causes": causes})

    def _sighting(
        self, view: View, client: Client, visit: Visit, confidence: float, said: str, evidence: dict[str, Any]
    ) -> Sighting:
        return Sighting(
            key=client.owner,
            endpoint_id=client.owner.endpoint_id,
            started_ns=visit.last_open_ns,
            seen_ns=visit.last_end_ns,
            hold_ns=int(self.settings.hold_s * SECOND_NS),
            severity=Severity.WARNING,
            confidence=confidence,
            summary=f"a token ran out in the middle of a pull: {said}",
            advice=_ADVICE,
            evidence=evidence | {"pid": visit.pid},
            suspects=view.suspect(client),
        )
