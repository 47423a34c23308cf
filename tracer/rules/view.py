"""The view: what every rule may look at, at one moment of event time. Pure.

Rules share what is kept here (clients and their visits, open connections, opens a second), so that each thing is counted once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import nsmallest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.cadence import Owner
from tracer.clients import UNKNOWN as UNKNOWN_FAMILY
from tracer.clients import Family, family_of
from tracer.events import Events, TcpState
from tracer.findings import Suspect
from tracer.lifecycle import CloseReason
from tracer.roles import Role
from tracer.rows import Connections
from tracer.rules.outcomes import ERROR_MAX_BYTES, Outcomes
from tracer.rules.suspects import Ranking
from tracer.rules.ticks import SCAN_NS, TICK_NS
from tracer.visits import Client, Visit, VisitTracker

Wanted = Callable[[Connections], NDArray[np.bool_]]
_LOSSES_KEPT = 100
_CENSUSES_KEPT = 6000
"""Five minutes of the fastest poller."""
_ENDPOINTS_MAX = 1 << 17
_KNOWN_MAX = 4096
_ASKED_MAX = 4096
SESSION_NS = 2_000_000_000
"""A client asks for a token right after the registry has told it to, and comes back right after it has one."""
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
        learnt: endpoints that were in no list, by id: nobody said what they are for.
        loss_known: the source says what it lost; False: anything may be missing at any time.
        now_ns: boottime of this tick.
        since_ns: boottime of the first event; -1 before it.
        cell: number of the engine's cell that is being observed: what is counted by time is counted by it, so that it does
            not depend on pieces.
        visits: clients and what they did.
        established_ns: boottime of the latest establishment by endpoint.
        judged: visits of which the outcome became known at this tick, with their clients.
        tokens: visits to token servers of which it became clear at this tick whether the token was used.
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
        self.learnt: set[int] = set()
        self.loss_known = True
        self.now_ns = -1
        self.since_ns = -1
        self.cell = -1
        self.visits = VisitTracker()
        self.established_ns: dict[int, int] = {}
        self.ended: list[Ended] = []
        self.final = self.scan = False
        self.judged: list[tuple[Client, Visit]] = []
        self.tokens: list[tuple[Client, Visit]] = []
        self._asked: list[tuple[Client, Visit]] = []  # visits to token servers, until it is clear what came of them
        self._rankings: dict[int, Ranking] = {}
        self.outcomes = Outcomes()
        self.silent_ns: dict[int, int] = {}
        self._sandwiches: dict[int, int] = {}
        self._rows = rows
        self._censuses: deque[tuple[int, int, int]] = deque(maxlen=_CENSUSES_KEPT)
        self._losses: deque[tuple[int, int, int]] = deque(maxlen=_LOSSES_KEPT)

    def note(self, events: Events, ended: Connections) -> None:
        """Take the next piece."""
        if self.since_ns < 0 and len(events):
            self.since_ns = int(events["ts_ns"][0])
        self.visits.add(events, ended, self.cell * TICK_NS // 1_000_000_000)
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

    def blind(self, since_ns: int) -> bool:
        """Whether something may have been missed since then: events were lost, or nobody knows, or was looking, for a while."""
        return not self.loss_known or any(until_ns > since_ns for _, _, until_ns in self._losses)

    def note_census(self, opened: int, counted: int, at_ns: int) -> None:
        """So many connections were seen to open since the last time, of so many that there were."""
        self._censuses.append((at_ns, opened, counted))

    def coverage(self, since_ns: int) -> float | None:
        """Share of the connections that were seen since then, as far as is remembered; None: the source does not measure it."""
        if not self._censuses:
            return None
        recent = [(opened, counted) for at_ns, opened, counted in self._censuses if at_ns >= since_ns] or [self._censuses[-1][1:]]
        return sum(opened for opened, _ in recent) / sum(counted for _, counted in recent)

    def begin_tick(self, now_ns: int) -> None:
        """Set the time, and judge the visits that are over."""
        self.now_ns = now_ns
        self.ended = []
        forget_oldest(self.established_ns, _ENDPOINTS_MAX)
        self.scan = self.final or now_ns % SCAN_NS == 0
        self._rankings = {}
        self.judged = self.outcomes.judge(self.visits.touched, now_ns, self.final, self.visits.at)
        for client, visit in self.judged:
            self._learn_role(client, visit)
        self._asked += [entry for entry in self.judged if self.role(entry[0].owner.endpoint_id) is Role.AUTH]
        # at the end of a trace it is not clear: the client may have come back later
        self.tokens = [entry for entry in self._asked if now_ns > entry[1].last_end_ns + SESSION_NS]
        self._asked = [entry for entry in self._asked if now_ns <= entry[1].last_end_ns + SESSION_NS][-_ASKED_MAX:]
        if self.scan:
            self._forget()

    def _forget(self) -> None:
        """What is known of endpoints is kept for those with clients."""
        if len(self.silent_ns) > _KNOWN_MAX:
            forget_oldest(self.silent_ns, _KNOWN_MAX)
        if len(self._sandwiches) > _KNOWN_MAX:
            self._sandwiches = {number: count for number, count in self._sandwiches.items() if self.visits.at(number)}

    def _learn_role(self, client: Client, visit: Visit) -> None:
        """Learn a token server: small answers only, asked between two visits to one and the same other endpoint."""
        number = client.owner.endpoint_id
        if number in self.roles and number not in self.learnt:
            return
        if client.received_max > ERROR_MAX_BYTES or any(acked > ERROR_MAX_BYTES for acked, _ in visit.exchanges):
            self._sandwiches[number] = -1  # whatever it is, it does more than give tokens
            return
        count = self._sandwiches.get(number, 0)
        if count >= 0 and visit.established and any(_between(other, visit) for other in self.elsewhere(client)):
            self._sandwiches[number] = count + 1

    def elsewhere(self, client: Client) -> list[Client]:
        """The same owner at other endpoints, the most recently active ones."""
        return [other for other in self.visits.of(client.owner.cgroup_id, client.owner.comm) if other is not client]

    def perhaps_elsewhere(self, client: Client) -> list[Client]:
        """The clients at other endpoints that may be of the same owner, the most recently active ones.

        A poller does not know whose the shortest connections are: somebody unknown may be anybody.
        """
        own = client.owner
        others = [other for other in self.visits.latest() if other.owner.endpoint_id != own.endpoint_id]
        if not own.comm:
            return others
        return [*self.elsewhere(client), *(other for other in others if not other.owner.comm)]

    def family(self, client: Client) -> Family:
        """Its family; of somebody unknown, that of all who are known at the endpoint, if it is one."""
        if client.owner.comm:
            return family_of(client.owner.comm)
        known = {family_of(other.owner.comm) for other in self.visits.at(client.owner.endpoint_id) if other.owner.comm}
        return known.pop() if len(known) == 1 else UNKNOWN_FAMILY

    def open_where(self, wanted: Wanted) -> Connections:
        """The connections that are open now and wanted, told by their rows; asked at scans only."""
        return self._rows(wanted)

    def label(self, endpoint_id: int) -> str:
        """The name of an endpoint."""
        return self.labels.get(endpoint_id, f"endpoint {endpoint_id}")

    def role(self, endpoint_id: int) -> Role:
        """What an endpoint is for: as said, or as learnt from what its clients do."""
        if self._sandwiches.get(endpoint_id, 0) >= SANDWICHES_MIN:
            return Role.AUTH  # noted only where nobody said what it is for
        return self.roles.get(endpoint_id, Role.UNKNOWN)

    def suspects(self, endpoint_id: int) -> tuple[Suspect, ...]:
        """Who opened connections to an endpoint in the last minute, most first."""
        return self._ranking(endpoint_id).suspects()

    def suspect(self, client: Client) -> tuple[Suspect, ...]:
        """One client as the only suspect, with its share of the connections to its endpoint."""
        return self._ranking(client.owner.endpoint_id).suspect(client)

    def _ranking(self, endpoint_id: int) -> Ranking:
        """Made once a tick."""
        known = self._rankings.get(endpoint_id)
        if known is None:
            known = self._rankings[endpoint_id] = Ranking(self.visits.at(endpoint_id), self.now_ns, self.since_ns)
        return known


def _between(other: Client, visit: Visit) -> bool:
    """Whether another endpoint was asked by the same process shortly before a visit, and again shortly after."""
    before = after = False
    if visit.pid < 0:
        return False
    for own in other.visits:
        if own.pid != visit.pid or (own.received_max < 0 and own.over):
            continue
        before |= own.start_ns <= visit.start_ns <= max(own.last_open_ns, own.last_end_ns) + SESSION_NS
        after |= visit.start_ns < own.last_open_ns <= visit.last_end_ns + SESSION_NS
        after |= visit.start_ns < own.start_ns <= visit.last_end_ns + SESSION_NS
    return before and after


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


def is_given_up(rows: Connections) -> NDArray[np.bool_]:
    """Connections that ended without an answer and without an error that is known: bool, shape (n,).

    The caller gave up; or, where no error can be seen (a poller), perhaps the kernel did. That nothing was ever acknowledged must
    be known: a poller that sees no bytes may have missed the handshake.
    """
    silent = (rows["close_reason"] == CloseReason.UNKNOWN) & (rows["bytes_acked"] == 0) & (rows["bytes_received"] == 0)
    silent &= (rows["opened_ns"] >= 0) & (rows["closed_ns"] >= 0) & (rows["established_ns"] < 0)
    return np.asarray((rows["close_reason"] == CloseReason.ABORTED) | silent, bool)


__all__ = ["SESSION_NS", "Client", "Ended", "Owner", "View", "forget_oldest", "is_failed", "is_given_up"]
