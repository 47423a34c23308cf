"""Visits: what a client did at an endpoint, one burst of connections at a time. Pure; arrays in, small objects out.

A *client* is a process name in a cgroup at one endpoint (a loop in a shell has a new pid each time). Connections it opens
within VISIT_GAP_NS of one another are one visit: a pull opens several. Where each run of a program is one piece of work, as
with skopeo or curl, each process makes visits of its own, so that two loops beside each other can be told apart. What became
of a visit's connections is summed up in it, so that memory follows the number of clients and not of connections.

A visit is made when its first connection opens. A connection that was open before the trace, or whose opening was lost,
belongs to no visit.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from heapq import nlargest
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tracer.cadence import Owner, owner_keys
from tracer.clients import FAMILIES, family_of
from tracer.events import TS_NS_MAX, EventFlag, Events, TcpState, is_opening, valid
from tracer.lifecycle import CloseReason
from tracer.rows import Connections
from tracer.segments import group_starts, take

VISIT_GAP_NS = 500_000_000
"""Two round trips around the earth; the fastest retry of a client known is after a second."""
VISITS_KEPT = 32
CLIENTS_MAX = 4096
RELATED_MAX = 64
"""A pull goes to a handful of endpoints; a program that goes to thousands at a time is no pull."""
EXCHANGES_KEPT = 16
_BIN_NS, _BINS = 1_000_000_000, 61
_CPU_SKEW_NS = 1_000_000
"""Openings on different CPUs may be out of order by microseconds; visits are VISIT_GAP_NS apart."""
K = TypeVar("K")
_N_REASONS = len(CloseReason)
UNKNOWN = -1


class Visit:
    """One burst of connections of one client.

    Attributes:
        start_ns, last_open_ns: boottime of the first and of the last opening.
        pid: of the first opening; -1 unknown. `one_process`: all openings were of that pid.
        opens: connections opened. ended: of them, ended.
        reasons: ended connections by CloseReason.
        established: ended connections that had been established.
        received_max: payload bytes of one established connection of which it is known; -1 if none is. `sized` counts those.
        last_end_ns: boottime of the last end; -1 none yet.
        exchanges: (acked, received) payload bytes of the first EXCHANGES_KEPT established connections that ended, where both
            are known: a request of one size and what it was answered with.
        outcome, shrunk: set by `tracer.rules.outcomes` once the visit is over: what it came to (None before), and the
            exchanges in which a request got much less than it ever did before.
    """

    __slots__ = (
        "ended", "established", "exchanges", "last_end_ns", "last_open_ns", "one_process", "opens", "outcome", "pid", "reasons",
        "received_max", "shrunk", "sized", "start_ns",
    )  # fmt: skip

    def __init__(self, start_ns: int, pid: int) -> None:
        self.start_ns = self.last_open_ns = start_ns
        self.pid = pid
        self.one_process = pid >= 0
        self.opens = self.ended = self.established = self.sized = 0
        self.received_max = self.last_end_ns = UNKNOWN
        self.reasons = [0] * _N_REASONS
        self.exchanges: list[tuple[int, int]] = []
        self.outcome: IntEnum | None = None
        self.shrunk: list[tuple[int, int]] = []

    @property
    def over(self) -> bool:
        """Whether every connection that was opened has ended."""
        return self.ended >= self.opens


class Client:
    """What one process name in one cgroup did at one endpoint: its latest visits, oldest first."""

    __slots__ = ("_bins", "first_ns", "largest", "last_ns", "one_shot", "opens", "owner", "received_max", "visits")

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.one_shot = family_of(owner.comm).one_shot  # its processes are told apart
        self.visits: deque[Visit] = deque(maxlen=VISITS_KEPT)
        self.opens = 0
        self.received_max = UNKNOWN  # of any connection ever
        self.first_ns = self.last_ns = UNKNOWN  # of the first opening; of the last opening or end
        self.largest: list[int] = []  # the two largest answers of all visits that were judged
        self._bins: deque[list[int]] = deque()  # second, openings in it: of the last minute

    def count(self, first_ns: int, last_ns: int, opens: int, second: int) -> None:
        """Count openings between two times, in a second that is not before the latest one."""
        self.first_ns = first_ns if self.first_ns < 0 else self.first_ns
        self.opens += opens
        self.last_ns = max(self.last_ns, last_ns)
        if not self._bins or self._bins[-1][0] < second:
            self._bins.append([second, 0])
            while self._bins[0][0] < second - _BINS:
                self._bins.popleft()
        self._bins[-1][1] += opens

    def note_answers(self, visit: Visit) -> None:
        """Remember how large answers get."""
        self.largest = sorted([*self.largest, *(received for _, received in visit.exchanges)])[-2:]

    def opens_since(self, since_ns: int) -> int:
        """Openings since a time within the last minute, to a second."""
        return sum(count for second, count in self._bins if second >= since_ns // _BIN_NS)

    def first_since(self, since_ns: int) -> int:
        """The first opening since a time within the last minute, to a second; the time itself if there was one just then."""
        seconds = (second for second, count in self._bins if count and second >= since_ns // _BIN_NS)
        return max(next(seconds, 0) * _BIN_NS, since_ns)

    def visits_of(self, pid: int) -> list[Visit]:
        """The visits to which connections of a process may belong, oldest first."""
        return [visit for visit in self.visits if visit.pid == pid] if self.one_shot else list(self.visits)

    def visit_of(self, pid: int, at_ns: int = TS_NS_MAX) -> Visit | None:
        """The latest visit of a process that had begun by then; None if there is none."""
        return next((visit for visit in reversed(self.visits) if visit.pid == pid and visit.start_ns <= at_ns), None)

    @property
    def pid(self) -> int:
        """Of its most recent process; -1 unknown."""
        return self.visits[-1].pid if self.visits else UNKNOWN


class VisitTracker:
    """The clients of a trace, fed in trace order.

    Beyond CLIENTS_MAX the least recently active ones are forgotten when `settle` is called, so that it does not depend on
    how the trace was read.

    Attributes:
        clients: by owner.
        touched: clients that opened or ended a connection since the last `settle`.
    """

    def __init__(self, gap_ns: int = VISIT_GAP_NS) -> None:
        self._gap_ns = gap_ns
        self.clients: dict[Owner, Client] = {}
        self.touched: dict[Owner, Client] = {}
        self.forgotten = 0
        self._related: dict[tuple[int, bytes], list[Client]] = {}  # by name, until the next connections
        self._latest: list[Client] | None = None  # until then too
        self._by_name: dict[tuple[int, bytes], dict[Owner, Client]] = {}
        self._by_endpoint: dict[int, dict[Owner, Client]] = {}

    def settle(self) -> None:
        """Begin a new interval."""
        self.touched = {}
        self._related, self._latest = {}, None
        excess = len(self.clients) - CLIENTS_MAX
        if excess <= 0:
            return
        for _, owner in sorted((client.last_ns, owner) for owner, client in self.clients.items())[: excess + CLIENTS_MAX // 8]:
            del self.clients[owner]
            _drop(self._by_name, (owner.cgroup_id, owner.comm), owner)
            _drop(self._by_endpoint, owner.endpoint_id, owner)
            self.forgotten += 1

    def at(self, endpoint_id: int) -> list[Client]:
        """The clients of one endpoint."""
        return list(self._by_endpoint.get(endpoint_id, {}).values())

    def of(self, cgroup_id: int, comm: bytes) -> list[Client]:
        """One owner's clients over all endpoints, the RELATED_MAX most recently active ones."""
        name = (cgroup_id, comm)
        known = self._related.get(name)
        if known is None:
            clients = self._by_name.get(name, {}).values()
            known = nlargest(RELATED_MAX, clients, key=_by_activity)
            self._related[name] = known
        return known

    def latest(self) -> list[Client]:
        """The RELATED_MAX most recently active clients."""
        if self._latest is None:
            self._latest = nlargest(RELATED_MAX, self.clients.values(), key=_by_activity)
        return self._latest

    def add(self, events: Events, ended: Connections, second: int = 0) -> None:
        """Take the openings among `events`, and the connections that `ended` with them (both in trace order).

        Args:
            events: a piece of the trace.
            ended: CONNECTION_DTYPE.
            second: in which all of it is counted for rates; never less than before.
        """
        self._related, self._latest = {}, None
        opening = take(np.ascontiguousarray(events), np.flatnonzero(is_opening(events)))
        if len(opening):
            self._add_openings(opening, second)
        seen_open = ended["opened_ns"] >= 0
        if seen_open.any():
            self._add_ended(ended if seen_open.all() else take(ended, np.flatnonzero(seen_open)))

    def _client(self, owner: Owner) -> Client:
        client = self.clients.get(owner)
        if client is None:
            client = self.clients[owner] = Client(owner)
            self._by_name.setdefault((owner.cgroup_id, owner.comm), {})[owner] = client
            self._by_endpoint.setdefault(owner.endpoint_id, {})[owner] = client
        self.touched[owner] = client
        return client

    def _add_openings(self, opening: Events, second: int) -> None:
        owner_known = opening["flags"] & np.uint32(EventFlag.OWNER) != 0
        known = owner_known & valid(opening, "pid")
        pids = np.where(known, opening["pid"].astype(np.int64), UNKNOWN)
        comms = opening["comm"] if known.all() else np.where(known, opening["comm"], b"").astype("S16")
        cgroups = np.where(owner_known & valid(opening, "cgroup_id"), opening["cgroup_id"].astype(np.int64), UNKNOWN)
        groups = _Groups(opening["endpoint_id"], cgroups, comms, pids)
        times_ns = opening["ts_ns"].astype(np.int64)[groups.order]
        pids = pids[groups.order]
        pauses = np.zeros(len(times_ns), bool)
        pauses[1:] = times_ns[1:] - times_ns[:-1] > self._gap_ns
        pauses[groups.start] = False
        columns = zip(
            groups.owners(),
            groups.start.tolist(),
            groups.end.tolist(),
            np.logical_or.reduceat(pauses, groups.start).tolist(),
            np.minimum.reduceat(pids, groups.start).tolist(),
            np.maximum.reduceat(pids, groups.start).tolist(),
            strict=True,
        )
        # visits begin in the order of their first openings, whatever the order of the groups
        for _, (owner, start, end, paused, pid_min, pid_max) in sorted(
            zip(groups.order[groups.start].tolist(), columns, strict=True)
        ):
            client = self._client(owner)
            pieces = [(start, end)]
            if paused:
                edges = [start, *(np.flatnonzero(pauses[start:end]) + start).tolist(), end]
                pieces = list(pairwise(edges))
            for first, last in pieces:
                one = pid_min if pid_min == pid_max or (pids[first:last] == pids[first]).all() else None
                self._open(client, int(times_ns[first]), int(times_ns[last - 1]), last - first, int(pids[first]), one)
            client.count(int(times_ns[start]), int(times_ns[start:end].max()), end - start, second)

    def _open(self, client: Client, first_ns: int, last_ns: int, count: int, pid: int, one: int | None) -> None:
        """Openings without a pause between them; `one` is their process if it is one."""
        latest = client.visits[-1] if client.visits else None
        visit = client.visit_of(pid) if client.one_shot else latest
        if visit is None or first_ns - visit.last_open_ns > self._gap_ns:
            # starts never step back, so that a connection's visit can be looked up by its opening
            visit = Visit(max(first_ns, latest.start_ns) if latest is not None else first_ns, pid)
            client.visits.append(visit)
        visit.opens += count
        visit.last_open_ns = last_ns
        visit.one_process = visit.one_process and one is not None and visit.pid == pid

    def _add_ended(self, ended: Connections) -> None:
        groups = _Groups(ended["endpoint_id"], ended["cgroup_id"], ended["comm"], ended["pid"])
        order, start = groups.order, groups.start
        opened_ns = ended["opened_ns"][order] + _CPU_SKEW_NS
        columns = zip(
            groups.owners(),
            start.tolist(),
            groups.end.tolist(),
            ended["pid"][order[start]].tolist(),
            np.minimum.reduceat(opened_ns, start).tolist(),
            np.maximum.reduceat(ended["last_ns"][order], start).tolist(),
            np.maximum.reduceat(ended["bytes_received"][order], start).tolist(),
            strict=True,
        )
        number = np.zeros(len(order), np.int64)  # of each row's visit, 0 for none
        visits: list[Visit] = []
        for owner, first, last, pid, opened_min_ns, last_ns, received_max in columns:
            client = self._client(owner)
            client.last_ns = max(client.last_ns, last_ns)
            client.received_max = max(client.received_max, received_max)
            own = client.visits_of(pid)
            if own and own[-1].start_ns <= opened_min_ns:
                visits.append(own[-1])
                number[first:last] = len(visits)
            elif own:
                starts_ns = np.array([visit.start_ns for visit in own], np.int64)
                which = np.searchsorted(starts_ns, opened_ns[first:last], "right")
                number[first:last] = np.where(which > 0, which + len(visits), 0)
                visits += own
        known = np.flatnonzero(number)
        if len(known):
            by_visit = known[np.argsort(number[known], kind="stable")]
            number = number[by_visit]
            starts = np.flatnonzero(group_starts(number.astype(np.uint64)))
            sums = _Sums(ended, order[by_visit], starts)
            for index, which in enumerate(number[starts].tolist()):
                sums.add(index, visits[which - 1])


def _by_activity(client: Client) -> tuple[int, Owner]:
    return client.last_ns, client.owner


def _drop(index: dict[K, dict[Owner, Client]], key: K, owner: Owner) -> None:
    """Take an owner out of an index, and its entry with the last one."""
    del index[key][owner]
    if not index[key]:
        del index[key]


class _Groups:
    """Records side by side by client, and by process where processes are told apart.

    Attributes:
        order: indexes of the records, group by group, each group in its order.
        start, end: bounds of each group in `order`.
    """

    def __init__(
        self,
        endpoint_id: NDArray[np.uint32],
        cgroup_id: NDArray[np.int64],
        comm: NDArray[np.bytes_],
        pid: NDArray[np.int64],
    ) -> None:
        comm = np.ascontiguousarray(comm)
        keys = owner_keys(endpoint_id, cgroup_id, comm)
        words = comm.view(np.uint64).reshape(len(comm), 2)
        one_shot = np.isin(words[:, 0], _ONE_SHOT_HEADS) & (words[:, 1] == 0)
        if one_shot.any():
            with np.errstate(over="ignore"):
                keys = np.where(one_shot, (keys ^ pid.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15), keys)
        self.order = np.argsort(keys, kind="stable")
        keys = keys[self.order]
        self.start = np.flatnonzero(group_starts(keys))
        self.end = np.append(self.start[1:], len(keys))
        first = self.order[self.start]
        self._owners = list(map(Owner, endpoint_id[first].tolist(), cgroup_id[first].tolist(), comm[first].tolist()))

    def owners(self) -> list[Owner]:
        """Whose each group is."""
        return self._owners


def _heads(names: list[bytes]) -> NDArray[np.uint64]:
    """Process names of up to eight bytes, as one integer each; a longer one has more in its second half."""
    assert all(len(name) <= 8 for name in names)
    return np.array([name.ljust(16, b"\0")[:8] for name in names], "S8").view(np.uint64)


_ONE_SHOT_HEADS = _heads([name for name, family in FAMILIES.items() if family.one_shot])


class _Sums:
    """What the connections of each group come to, by group."""

    def __init__(self, ended: Connections, order: NDArray[np.intp], start: NDArray[np.intp]) -> None:
        """Sum up.

        Args:
            ended: rows.
            order: indexes of rows, those of a group side by side.
            start: where in `order` each group begins.
        """
        self._start, self._end = start, np.append(start[1:], len(order))
        established = ((ended["established_ns"] >= 0) | (ended["state_ns"][:, TcpState.ESTABLISHED] >= 0))[order]
        received, acked = ended["bytes_received"][order], ended["bytes_acked"][order]
        sized = established & (received >= 0)
        self._received, self._acked = received, acked
        # what was closed by this side before anything came was given up, not answered
        reason = ended["close_reason"][order]
        given_up = (received == 0) & ((reason == CloseReason.LOCAL) | (reason == CloseReason.LOCAL_RESET))
        self._exchanged = sized & (acked > 0) & ~given_up
        self.count = (self._end - start).tolist()
        self.established = _added(established.astype(np.int64), start)
        self.sized = _added(sized.astype(np.int64), start)
        self.received_max = np.maximum.reduceat(np.where(sized, received, UNKNOWN), start).tolist()
        self.last_ns = np.maximum.reduceat(ended["last_ns"][order], start).tolist()
        group = np.repeat(np.arange(len(start)), self._end - start)
        codes = group * _N_REASONS + ended["close_reason"][order]
        self.reasons = np.bincount(codes, minlength=len(start) * _N_REASONS).reshape(-1, _N_REASONS).tolist()

    def add(self, number: int, visit: Visit) -> None:
        """Add a group to its visit."""
        visit.ended += self.count[number]
        visit.established += self.established[number]
        visit.reasons = [had + new for had, new in zip(visit.reasons, self.reasons[number], strict=True)]
        visit.last_end_ns = max(visit.last_end_ns, self.last_ns[number])
        if not self.sized[number]:
            return
        visit.sized += self.sized[number]
        visit.received_max = max(visit.received_max, self.received_max[number])
        room = EXCHANGES_KEPT - len(visit.exchanges)
        if room > 0:
            own = slice(self._start[number], self._end[number])
            known = np.flatnonzero(self._exchanged[own])[:room]
            visit.exchanges += zip(self._acked[own][known].tolist(), self._received[own][known].tolist(), strict=True)


def _added(values: NDArray[np.int64], start: NDArray[np.intp]) -> list[int]:
    sums: list[int] = np.add.reduceat(values, start).tolist()
    return sums
