"""The view: what every rule may look at, at one moment of event time. Pure.

Rules share what is kept here (clients and their visits, open connections, opens a second), so that each thing is counted once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.cadence import Owner
from tracer.connections import Connections
from tracer.events import Events, TcpState
from tracer.findings import Suspect
from tracer.lifecycle import CloseReason
from tracer.roles import Role
from tracer.rules.outcomes import ERROR_MAX_BYTES, Outcomes
from tracer.rules.ticks import SCAN_NS
from tracer.visits import Client, Visit, VisitTracker

Wanted = Callable[[Connections], NDArray[np.bool_]]
SUSPECTS_MAX = 5
_LOSSES_KEPT = 100
_MIN_RATE_NS = 5_000_000_000
"""Rates over less than this would be an exaggeration."""
_ENDPOINTS_MAX = 1 << 17
_SANDWICH_NS = 2_000_000_000
SANDWICHES_MIN = 2
"""So many visits between two visits to a registry make an endpoint a token server."""


@dataclass(frozen=True)
class Ended:
    """An episode that a rule has just declared over, for the rules that look at findings."""

    rule: str
    endpoint_id: int
    started_ns: int
    at_ns: int
    how: str


class View:
    """See above.

    Attributes:
        source, resolution_ns: of the trace.
        labels: endpoint label by id.
        roles: role by endpoint id, those that are known.
        now_ns: boottime of this tick.
        since_ns: boottime of the first event; -1 before it.
        cell: number of the engine's cell that is being observed: what is counted by time is counted by it, so that it does
            not depend on pieces.
        visits: clients and what they did.
        established_ns: boottime of the latest establishment by endpoint.
        judged: clients of which a visit's outcome became known at this tick.
        final: the trace is over: this is the last tick.
        scan: rules that look at open connections should; once a second, as samples come.
        ended: episodes that were declared over at this tick.
        outcomes: what visits came to, and what requests are usually answered with.
        silent_ns: boottime until which an endpoint was found to leave requests unanswered, by endpoint id.
    """

    def __init__(
        self,
        source: str,
        resolution_ns: int,
        labels: dict[int, str],
        roles: dict[int, Role],
        rows: Callable[[Wanted], Connections],
    ) -> None:
        self.source = source
        self.resolution_ns = resolution_ns
        self.labels = labels
        self.roles = roles
        self.now_ns = -1
        self.since_ns = -1
        self.cell = -1
        self.visits = VisitTracker()
        self.established_ns: dict[int, int] = {}
        self.ended: list[Ended] = []
        self.final = self.scan = False
        self.judged: list[Client] = []
        self.outcomes = Outcomes()
        self.silent_ns: dict[int, int] = {}
        self._sandwiches: dict[int, int] = {}
        self._rows = rows
        self._losses: deque[tuple[int, int, int]] = deque(maxlen=_LOSSES_KEPT)

    def note(self, events: Events, ended: Connections) -> None:
        """Take the next piece."""
        if self.since_ns < 0 and len(events):
            self.since_ns = int(events["ts_ns"][0])
        self.visits.add(events, ended)
        self._note_established(events)

    def _note_established(self, events: Events) -> None:
        index = np.flatnonzero((events["new_state"] == TcpState.ESTABLISHED) & (events["old_state"] == TcpState.SYN_SENT))
        endpoints, which = np.unique(events["endpoint_id"][index], return_inverse=True)
        latest_ns = np.zeros(len(endpoints), np.int64)
        np.maximum.at(latest_ns, which, events["ts_ns"][index].astype(np.int64))
        for endpoint_id, at_ns in zip(endpoints.tolist(), latest_ns.tolist(), strict=True):
            self.established_ns[endpoint_id] = max(self.established_ns.get(endpoint_id, -1), at_ns)

    def note_loss(self, lost: int, since_ns: int, until_ns: int) -> None:
        """Events were lost in [since_ns, until_ns)."""
        self._losses.append((lost, since_ns, until_ns))

    def lost(self, since_ns: int) -> int:
        """How many events were lost since then, as far as is remembered."""
        return sum(lost for lost, _, until_ns in self._losses if until_ns > since_ns)

    def begin_tick(self, now_ns: int) -> None:
        """Set the time, and judge the visits that are over."""
        self.now_ns = now_ns
        self.ended = []
        forget_oldest(self.established_ns, _ENDPOINTS_MAX)
        self.scan = self.final or now_ns % SCAN_NS == 0
        self.judged = self.outcomes.judge(self.visits.touched, now_ns, self.final)
        for client in self.judged:
            self._learn_role(client)

    def _learn_role(self, client: Client) -> None:
        """Learn a token server: small answers only, asked between two visits to one and the same other endpoint."""
        number = client.owner.endpoint_id
        if number in self.roles:
            return
        if client.received_max > ERROR_MAX_BYTES:
            self._sandwiches[number] = -1  # whatever it is, it serves more than tokens
            return
        count = self._sandwiches.get(number, 0)
        visit = next(visit for visit in reversed(client.visits) if visit.outcome is not None)
        if count >= 0 and visit.established and any(_between(other, visit) for other in self._elsewhere(client)):
            self._sandwiches[number] = count + 1

    def _elsewhere(self, client: Client) -> list[Client]:
        return [other for other in self.visits.of(client.owner.cgroup_id, client.owner.comm) if other is not client]

    def open_where(self, wanted: Wanted) -> Connections:
        """The connections that are open now and wanted, told by their rows; asked at scans only."""
        return self._rows(wanted)

    def label(self, endpoint_id: int) -> str:
        """The name of an endpoint."""
        return self.labels.get(endpoint_id, f"endpoint {endpoint_id}")

    def role(self, endpoint_id: int) -> Role:
        """What an endpoint is for: as said, or as learnt from what its clients do."""
        learnt = Role.AUTH if self._sandwiches.get(endpoint_id, 0) >= SANDWICHES_MIN else Role.UNKNOWN
        return self.roles.get(endpoint_id, learnt)

    def endpoint_clients(self, endpoint_id: int) -> list[Client]:
        """The clients seen at an endpoint."""
        return [client for owner, client in self.visits.clients.items() if owner.endpoint_id == endpoint_id]

    def suspects(
        self, endpoints: Iterable[int], since_ns: int, only: Callable[[Client], bool] | None = None
    ) -> tuple[Suspect, ...]:
        """Who opened connections to some endpoints since then, most first; shares are of all of them.

        Args:
            endpoints: ids.
            since_ns: boottime.
            only: whom to name; None names everybody. The others still count for the shares.
        """
        wanted = set(endpoints)
        opens: Counter[tuple[int, bytes]] = Counter()
        pids: dict[tuple[int, bytes], tuple[int, int]] = {}
        named: set[tuple[int, bytes]] = set()
        for owner, client in self.visits.clients.items():
            if owner.endpoint_id not in wanted or client.last_ns < since_ns:
                continue
            who = (owner.cgroup_id, owner.comm)
            recent = [visit for visit in client.visits if visit.last_open_ns >= since_ns]
            if not recent:
                continue
            opens[who] += sum(visit.opens for visit in recent)
            pids[who] = max(pids.get(who, (-1, -1)), (recent[-1].start_ns, recent[-1].pid))
            if only is None or only(client):
                named.add(who)
        total = sum(opens.values())
        span_ns = self.now_ns - since_ns
        found = sorted(((count, who) for who, count in opens.items() if who in named), key=lambda entry: (-entry[0], entry[1]))
        return tuple(
            Suspect(
                pids[who][1],
                who[1],
                who[0],
                count * 60e9 / span_ns if span_ns >= _MIN_RATE_NS else None,
                count / total,
            )
            for count, who in found[:SUSPECTS_MAX]
        )

    def suspect(self, client: Client, since_ns: int) -> tuple[Suspect, ...]:
        """One client as the only suspect."""
        return self.suspects([client.owner.endpoint_id], since_ns, lambda other: other is client)


def _between(other: Client, visit: Visit) -> bool:
    """Whether another endpoint was asked by the same process shortly before a visit, and again shortly after."""
    before = after = False
    if visit.pid < 0:
        return False
    for own in other.visits:
        if own.pid != visit.pid or (own.received_max < 0 and own.over):
            continue
        before |= own.start_ns <= visit.start_ns <= max(own.last_open_ns, own.last_end_ns) + _SANDWICH_NS
        after |= visit.start_ns < own.last_open_ns <= visit.last_end_ns + _SANDWICH_NS
        after |= visit.start_ns < own.start_ns <= visit.last_end_ns + _SANDWICH_NS
    return before and after


def rows_suspects(rows: Connections, span_ns: int) -> tuple[Suspect, ...]:
    """The owners of some connections, most first, by their share of these connections."""
    counts: Counter[tuple[int, bytes]] = Counter()
    pids: dict[tuple[int, bytes], int] = {}
    for cgroup_id, comm, pid in zip(rows["cgroup_id"].tolist(), rows["comm"].tolist(), rows["pid"].tolist(), strict=True):
        who = (cgroup_id, comm if pid >= 0 else b"")
        counts[who] += 1
        pids[who] = pid
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:SUSPECTS_MAX]
    rate = 60e9 / span_ns if span_ns >= _MIN_RATE_NS else None
    return tuple(
        Suspect(pids[who], who[1], who[0], None if rate is None else count * rate, count / len(rows)) for who, count in ranked
    )


def forget_oldest(times_ns: dict[Any, int], most: int) -> None:
    """Keep `most` entries, those with the latest times; called at ticks, so that it does not depend on pieces."""
    if len(times_ns) > most:
        for key in nsmallest(len(times_ns) - most + most // 8, times_ns, key=lambda key: (times_ns[key], key)):
            del times_ns[key]


def is_failed(rows: Connections) -> NDArray[np.bool_]:
    """Connections that got no handshake, and of which that is known: bool, shape (n,).

    A time-out also ends established connections (keep-alive), of which nothing else may have been seen.
    """
    reason = rows["close_reason"]
    handshake = (rows["opened_ns"] >= 0) | (rows["state_ns"][:, TcpState.SYN_SENT] >= 0)
    failed = np.isin(reason, (CloseReason.TIMEOUT, CloseReason.UNREACHABLE)) & handshake
    failed |= reason == CloseReason.REFUSED
    return failed & (rows["established_ns"] < 0) & (rows["state_ns"][:, TcpState.ESTABLISHED] < 0)


__all__ = ["Client", "Ended", "Owner", "View", "forget_oldest", "is_failed", "rows_suspects"]
