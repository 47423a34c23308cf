"""evidence: `mirror-failure`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from tracer.findings import Severity
from tracer.roles import Role
from tracer.rules.outcomes import ERROR_MAX_BYTES, Outcome
from tracer.rules.rule import SECOND_NS, Answer, Over, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View
from tracer.visits import Client, Visit

_FAILING = (Outcome.FAILED, Outcome.REFUSED, Outcome.TERSE)
_PENDING_MAX = 1024
_CANDIDATES_MAX = 16


@dataclass(frozen=True)
class MirrorFailureThresholds(Thresholds):
    """Numbers of the rule `mirror-failure`."""

    follow_s: float = threshold(3.0, 0.1, 120, "the client opens the next endpoint so soon after the mirror failed")
    download_s: float = threshold(60, 1, 600, "and downloads from it within this")
    hold_s: float = threshold(120, 1, 3600, "over when nothing more was seen for so long")


class _Pending:
    """A visit that failed, and where its owner went next."""

    def __init__(self, client: Client, visit: Visit) -> None:
        self.client = client
        self.visit = visit
        self.candidates: list[tuple[Client, Visit]] = []
        self.settled = False  # no more candidates can come

    def is_over(self, now_ns: int, download_s: float) -> bool:
        """Whether nothing can come of it any more."""
        return (self.settled and not self.candidates) or now_ns > self.visit.start_ns + download_s * SECOND_NS


class MirrorFailure(Rule[MirrorFailureThresholds]):
    """A mirror fails, and clients fall through to the next endpoint.

    Finds: an endpoint that fails or answers next to nothing, after which the same client at once opens another endpoint and
        downloads from that; and mirrors that fail one after the other with nothing served by any.
    Matters: pulls still work, so nobody notices, but each now counts against the upstream's quota and takes longer.
    Needs: openings with their owner; payload bytes. That an endpoint is a mirror may be said in the configuration (`[roles]`):
        then a mirror that answers with longer errors is known too.
    Parameters: follow_s, download_s, hold_s.
    Cannot tell apart: a mirror that is down from one whose upstream is (unless it refuses connections); without roles, a
        mirror that answers with a long error from a registry that redirects to where its blobs are.
    """

    id: ClassVar[str] = "mirror-failure"
    Settings = MirrorFailureThresholds
    needs = ("bytes_received",)

    def __init__(self, settings: MirrorFailureThresholds) -> None:
        super().__init__(settings)
        self._pending: OrderedDict[tuple[Any, int], _Pending] = OrderedDict()
        self._counts: dict[int, int] = {}

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        for client, visit in view.judged:
            number = client.owner.endpoint_id
            role = view.role(number)
            if role in (Role.AUTH, Role.BLOB):
                continue
            if visit.received_max > ERROR_MAX_BYTES:
                self._counts.pop(number, None)
                yield Over(number, visit.last_end_ns, "it is downloaded from again")
            elif visit.outcome in _FAILING or role is Role.MIRROR:
                self._pending[client.owner, visit.start_ns] = _Pending(client, visit)
        while len(self._pending) > _PENDING_MAX:
            self._pending.popitem(last=False)
        for key, pending in list(self._pending.items()):
            found = self._next(view, pending)
            if found is not None:
                del self._pending[key]
                yield self._sighting(view, pending.client, pending.visit, found)
            elif pending.is_over(view.now_ns, self.settings.download_s):
                del self._pending[key]

    def _next(self, view: View, pending: _Pending) -> tuple[Client, Visit] | None:
        """Where the owner went and downloaded, or failed too if this is a mirror."""
        if not pending.settled:
            visit = pending.visit
            until_ns = max(visit.last_end_ns, visit.last_open_ns) + int(self.settings.follow_s * SECOND_NS)
            pending.candidates = list(islice(self._after(view, pending.client, visit, until_ns), _CANDIDATES_MAX))
            pending.settled = view.now_ns > until_ns
        for other, other_visit in pending.candidates:
            if other_visit.received_max > ERROR_MAX_BYTES:
                return other, other_visit
            if view.role(pending.client.owner.endpoint_id) is Role.MIRROR and other_visit.outcome is Outcome.FAILED:
                return other, other_visit
        return None

    def _after(self, view: View, client: Client, visit: Visit, until_ns: int) -> Iterator[tuple[Client, Visit]]:
        known = view.role(client.owner.endpoint_id) is Role.MIRROR
        for other in view.perhaps_elsewhere(client) if known else view.elsewhere(client):
            if other.last_ns < visit.start_ns or view.role(other.owner.endpoint_id) is Role.AUTH:
                continue
            for other_visit in reversed(other.visits):
                if other_visit.start_ns <= visit.start_ns:
                    break
                if other_visit.start_ns <= until_ns and _same_process(visit, other_visit):
                    yield other, other_visit

    def _sighting(self, view: View, client: Client, visit: Visit, found: tuple[Client, Visit]) -> Sighting:
        endpoint_id = client.owner.endpoint_id
        other, other_visit = found
        if len(self._counts) > _PENDING_MAX:
            self._counts.clear()
        self._counts[endpoint_id] = self._counts.get(endpoint_id, 0) + 1
        served = other_visit.received_max > ERROR_MAX_BYTES
        known = view.role(endpoint_id) is Role.MIRROR
        refused = "refuses" if visit.outcome in _FAILING else "answers, but serves nothing"
        how = "can't be reached" if visit.outcome is Outcome.FAILED else refused
        label, next_label = view.label(endpoint_id), view.label(other.owner.endpoint_id)
        end = f"clients go on to {next_label} and download from it" if served else f"{next_label} fails as well"
        return Sighting(
            key=endpoint_id,
            endpoint_id=endpoint_id,
            started_ns=visit.start_ns,
            seen_ns=max(visit.last_end_ns, other_visit.start_ns),
            hold_ns=int(self.settings.hold_s * SECOND_NS),
            severity=Severity.WARNING if served else Severity.CRITICAL,
            confidence=0.9 if known or visit.outcome is Outcome.FAILED else 0.75,
            summary=f"{label} {how}: {end}",
            advice=(
                "repair the mirror (is it up? does it reach its upstream?); until then pulls count against the upstream's quota"
            ),
            evidence={
                "times": self._counts[endpoint_id],
                "outcome": visit.outcome.name.lower() if visit.outcome is not None else None,
                "received_max_bytes": visit.received_max if visit.received_max >= 0 else None,
                "next_endpoint": next_label,
                "next_received_bytes": other_visit.received_max if other_visit.received_max >= 0 else None,
                "role_known": known,
            },
            suspects=view.suspect(client),
        )


def _same_process(visit: Visit, other: Visit) -> bool:
    """Whether one process may have made both: who falls through does so itself, and two runs of curl are two errands."""
    return visit.pid < 0 or other.pid < 0 or visit.pid == other.pid
