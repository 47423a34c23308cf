"""Visits: what a client did at an endpoint, one burst of connections at a time. Pure; arrays in, small objects out.

A *client* is a process name in a cgroup at one endpoint (a loop in a shell has a new pid each time). Connections it opens
within VISIT_GAP_NS of one another are one visit: a pull opens several. Where each run of a program is one piece of work, as
with skopeo or curl, each process makes visits of its own, so that two loops beside each other can be told apart. What became
of a visit's connections is summed up in it, so that memory follows the number of clients and not of connections.

A visit is made when its first connection opens. A connection that was open before the trace, or whose opening was lost,
belongs to no visit.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tracer.cadence import Owner, owner_keys
from tracer.clients import family_of
from tracer.connections import Connections
from tracer.events import TS_NS_MAX, EventFlag, Events, is_opening, valid
from tracer.lifecycle import CloseReason
from tracer.segments import take

VISIT_GAP_NS = 500_000_000
"""Two round trips around the earth; the fastest retry of a client known is after a second."""
VISITS_KEPT = 64
CLIENTS_MAX = 8192
EXCHANGES_KEPT = 32
_CPU_SKEW_NS = 1_000_000
"""Openings on different CPUs may be out of order by microseconds; visits are VISIT_GAP_NS apart."""
_N_REASONS = len(CloseReason)
_FAILED = (CloseReason.REFUSED, CloseReason.TIMEOUT, CloseReason.UNREACHABLE, CloseReason.ABORTED)
UNKNOWN = -1


class Visit:
    """One burst of connections of one client.

    Attributes:
        start_ns, last_open_ns: boottime of the first and of the last opening.
        pid: of the first opening; -1 unknown. `one_process`: all openings were of that pid.
        opens: connections opened. ended: of them, ended.
        reasons: ended connections by CloseReason.
        established: ended connections that had been established.
        received, acked: payload bytes of all ended connections of which they are known; `sized` counts those.
        received_max, received_min: of one established connection of which it is known; -1 if none is.
        last_end_ns: boottime of the last end; -1 none yet.
        longest_ns: the longest life of an ended connection; -1 none.
        retransmits: of all ended connections of which they are known.
        exchanges: (acked, received) payload bytes of the first EXCHANGES_KEPT established connections that ended, where both
            are known: a request of one size and what it was answered with.
        outcome, shrunk: set by `tracer.rules.outcomes` once the visit is over: what it came to (None before), and the
            exchanges in which a request got much less than it ever did before.
    """

    __slots__ = (
        "acked",
        "ended",
        "established",
        "exchanges",
        "last_end_ns",
        "last_open_ns",
        "longest_ns",
        "one_process",
        "opens",
        "outcome",
        "pid",
        "reasons",
        "received",
        "received_max",
        "received_min",
        "retransmits",
        "shrunk",
        "sized",
        "start_ns",
    )  # fmt: skip

    def __init__(self, start_ns: int, pid: int) -> None:
        self.start_ns = self.last_open_ns = start_ns
        self.pid = pid
        self.one_process = pid >= 0
        self.opens = self.ended = self.established = self.received = self.acked = self.sized = self.retransmits = 0
        self.received_max = self.received_min = self.last_end_ns = self.longest_ns = UNKNOWN
        self.reasons = [0] * _N_REASONS
        self.exchanges: list[tuple[int, int]] = []
        self.outcome: IntEnum | None = None
        self.shrunk: list[tuple[int, int]] = []

    @property
    def over(self) -> bool:
        """Whether every connection that was opened has ended."""
        return self.ended >= self.opens

    @property
    def failed(self) -> int:
        """Connections that were never established."""
        return self.ended - self.established


class Client:
    """What one process name in one cgroup did at one endpoint: its latest visits, oldest first."""

    __slots__ = ("last_ns", "opens", "owner", "received_max", "visits")

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.visits: deque[Visit] = deque(maxlen=VISITS_KEPT)
        self.opens = 0
        self.received_max = UNKNOWN  # of any connection ever
        self.last_ns = UNKNOWN  # of the last opening or end

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
        clients: by owner, the least recently active first.
        touched: clients that opened or ended a connection since the last `settle`.
    """

    def __init__(self, gap_ns: int = VISIT_GAP_NS) -> None:
        self._gap_ns = gap_ns
        self.clients: OrderedDict[Owner, Client] = OrderedDict()
        self.touched: dict[Owner, Client] = {}
        self.forgotten = 0
        self._by_name: dict[tuple[int, bytes], dict[Owner, Client]] = {}

    def settle(self) -> None:
        """Begin a new interval."""
        self.touched = {}
        while len(self.clients) > CLIENTS_MAX:
            owner, _ = self.clients.popitem(last=False)
            self._by_name[owner.cgroup_id, owner.comm].pop(owner)
            if not self._by_name[owner.cgroup_id, owner.comm]:
                del self._by_name[owner.cgroup_id, owner.comm]
            self.forgotten += 1

    def of(self, cgroup_id: int, comm: bytes) -> list[Client]:
        """One owner's clients, over all endpoints."""
        return list(self._by_name.get((cgroup_id, comm), {}).values())

    def add(self, events: Events, ended: Connections) -> None:
        """Take the openings among `events`, and the connections that `ended` with them (both in trace order)."""
        opening = take(np.ascontiguousarray(events), np.flatnonzero(is_opening(events)))
        if len(opening):
            self._add_openings(opening)
        ended = ended[ended["opened_ns"] >= 0]
        if len(ended):
            self._add_ended(ended)

    def _client(self, owner: Owner) -> Client:
        client = self.clients.pop(owner, None)
        if client is None:
            client = Client(owner)
            self._by_name.setdefault((owner.cgroup_id, owner.comm), {})[owner] = client
        self.clients[owner] = self.touched[owner] = client
        return client

    def _add_openings(self, opening: Events) -> None:
        known = opening["flags"] & np.uint32(EventFlag.OWNER | EventFlag.HAS_TASK) == EventFlag.OWNER | EventFlag.HAS_TASK
        pids = np.where(known, opening["pid"].astype(np.int64), UNKNOWN)
        comms = np.where(known, opening["comm"], b"").astype("S16")
        cgroups = np.where(known & valid(opening, "cgroup_id"), opening["cgroup_id"].astype(np.int64), UNKNOWN)
        for owner, index in _grouped(opening["endpoint_id"], cgroups, comms):
            client = self._client(owner)
            times_ns = opening["ts_ns"][index].astype(np.int64)
            if family_of(owner.comm).one_shot:
                for at_ns, pid in zip(times_ns.tolist(), pids[index].tolist(), strict=True):
                    self._open_one(client, at_ns, pid)
            else:
                self._extend(client, times_ns, pids[index])
            client.opens += len(times_ns)
            client.last_ns = max(client.last_ns, int(times_ns.max()))

    def _open_one(self, client: Client, at_ns: int, pid: int) -> None:
        """An opening of a program whose processes are told apart."""
        visit = client.visit_of(pid)
        if visit is None or at_ns - visit.last_open_ns > self._gap_ns:
            visit = Visit(at_ns, pid)
            client.visits.append(visit)
        visit.opens += 1
        visit.last_open_ns = at_ns

    def _extend(self, client: Client, times_ns: NDArray[np.int64], pids: NDArray[np.int64]) -> None:
        last_ns = client.visits[-1].last_open_ns if client.visits else -self._gap_ns - 1
        before = np.concatenate([[last_ns], times_ns[:-1]])
        starts = np.flatnonzero(times_ns - before > self._gap_ns).tolist()
        edges = starts if starts and starts[0] == 0 else [0, *starts]
        for start, end in zip(edges, [*edges[1:], len(times_ns)], strict=True):
            if start in starts or not client.visits:
                client.visits.append(Visit(int(times_ns[start]), int(pids[start])))
            visit = client.visits[-1]
            visit.opens += end - start
            visit.last_open_ns = int(times_ns[end - 1])
            visit.one_process &= bool((pids[start:end] == visit.pid).all())

    def _add_ended(self, ended: Connections) -> None:
        for owner, index in _grouped(ended["endpoint_id"], ended["cgroup_id"], ended["comm"]):
            rows = ended if len(index) == len(ended) else take(ended, index)
            client = self._client(owner)
            client.last_ns = max(client.last_ns, int(rows["last_ns"].max()))
            client.received_max = max(client.received_max, int(rows["bytes_received"].max()))
            if family_of(owner.comm).one_shot:
                for row in rows:
                    visit = client.visit_of(int(row["pid"]), int(row["opened_ns"]) + _CPU_SKEW_NS)
                    if visit is not None:
                        _add_rows(visit, row.reshape(1))
                continue
            starts_ns = np.array([visit.start_ns for visit in client.visits], np.int64)
            number = np.searchsorted(starts_ns, rows["opened_ns"] + _CPU_SKEW_NS, "right") - 1
            for visit_number in np.unique(number[number >= 0]).tolist():
                own = number == visit_number
                _add_rows(client.visits[visit_number], rows if own.all() else rows[own])


def _add_rows(visit: Visit, rows: Connections) -> None:
    """Sum up ended connections of one visit."""
    visit.ended += len(rows)
    reasons = np.bincount(rows["close_reason"], minlength=_N_REASONS)
    for reason in np.flatnonzero(reasons).tolist():
        visit.reasons[reason] += int(reasons[reason])
    established = (rows["established_ns"] >= 0) | (rows["state_ns"][:, 1] >= 0)
    visit.established += int(established.sum())
    received = rows["bytes_received"]
    sized = received[established & (received >= 0)]
    visit.sized += len(sized)
    if len(sized):
        visit.received += int(sized.sum())
        visit.received_max = max(visit.received_max, int(sized.max()))
        least = int(sized.min())
        visit.received_min = least if visit.received_min < 0 else min(visit.received_min, least)
    acked = rows["bytes_acked"]
    room = EXCHANGES_KEPT - len(visit.exchanges)
    if room > 0:
        known = np.flatnonzero(established & (received >= 0) & (acked > 0))[:room]
        visit.exchanges += zip(acked[known].tolist(), received[known].tolist(), strict=True)
    visit.acked += int(acked[acked > 0].sum())
    retransmits = rows["retransmits"]
    visit.retransmits += int(retransmits[retransmits > 0].sum())
    visit.last_end_ns = max(visit.last_end_ns, int(rows["last_ns"].max()))
    visit.longest_ns = max(visit.longest_ns, int(rows["lifetime_ns"].max()))


def _grouped(
    endpoint_id: NDArray[np.uint32], cgroup_id: NDArray[np.int64], comm: NDArray[np.bytes_]
) -> Iterator[tuple[Owner, NDArray[np.intp]]]:
    """Each owner with the indexes of what is its, in the order of first appearance."""
    keys = owner_keys(endpoint_id, cgroup_id, comm)
    if len(keys) and (keys == keys[0]).all():
        yield Owner(int(endpoint_id[0]), int(cgroup_id[0]), bytes(comm[0])), np.arange(len(keys))
        return
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group))
    pieces = np.split(order, ends[:-1])
    for number in np.argsort(first).tolist():
        at = int(first[number])
        yield Owner(int(endpoint_id[at]), int(cgroup_id[at]), bytes(comm[at])), pieces[number]
