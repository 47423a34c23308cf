"""The learner: hosts that were in no list, told by what registries' clients do. Pure; arrays in, decisions out.

Theory of operation. Blobs come from hosts that nobody listed and that change. A client is told one by the registry's API, looks
up its name, and connects. So names that are answered on this host while somebody talks to an API are *candidates*: their
addresses are watched with any port, for a while. If an owner who talks to an API, or did so just before, connects to one, the
name becomes an endpoint with the role `blob`, marked as learnt. All else that is seen of candidates is dropped.

Watching candidates comes too late for the very connection that makes one an endpoint, unless it is still open then. A source
that can (the BPF program) tells what clients connect to elsewhere from the first transition on, without an endpoint; it is
*placed* here, by the addresses that were answered.

Such addresses are often a content network's, shared with half of the world. Of a learnt endpoint only connections of owners who
also talk to an API are let through. Where it was not seen who talked to the API (a poller), a program that is there to pull
counts as who did.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.adoption import remote_of
from tracer.clients import family_of
from tracer.endpoints import Endpoint, is_name
from tracer.events import ELSEWHERE, EventFlag, Events, TcpState, is_adopted, is_opening, is_transition
from tracer.names.records import Answer
from tracer.openings import (
    CLIENT_NS,
    SECOND_NS,
    Openings,
    Who,
    add_opening,
    ends_of_each,
    latest_opening,
    openings_kept,
    who_of,
)
from tracer.roles import Role
from tracer.rows import Connections
from tracer.segments import take
from tracer.text import address_text, comm_text, printable
from tracer.watchlist import Watch, any_port

CANDIDATE_NS = 30 * SECOND_NS
RECENT_NS = 5 * SECOND_NS
CANDIDATES_MAX = 64
CANDIDATE_ADDRESSES_MAX = 128
"""In all: a poller asks the kernel to check each address at each socket, and its destroy filter holds a hundred."""
RELABEL_NS = 5 * SECOND_NS
"""Events that were on their way when a candidate became an endpoint have its number as a candidate."""
CLIENTS_MAX = 4096
LEARNT_MAX = 64
_ATTEMPTS_MAX = 4096
_ADDRESSES_MAX = 16
_RECENT_MAX = 512
_PASSED_MAX = 1 << 16
FIRST_CANDIDATE_ID = 1 << 30
"""Endpoints of a list have numbers far below."""
_NO_API = (Role.AUTH, Role.BLOB, Role.PROXY)


@dataclass
class _Candidate:
    name: str
    addresses: dict[str, None]
    until_ns: int


@dataclass(frozen=True)
class Learnt:
    """An endpoint that was learnt: label, name and port, and why."""

    endpoint: Endpoint
    candidate_id: int
    why: str


class Learner:
    """See above."""

    def __init__(self) -> None:
        self._clients: OrderedDict[Who, Openings] = OrderedDict()
        self._somebody = openings_kept()  # the same of owners that were not seen, as a poller often can't
        self._open: dict[Who, int] = {}  # owners of open connections to APIs, and the endpoint
        self._candidates: dict[int, _Candidate] = {}
        self._by_name: dict[str, int] = {}
        self._recent: deque[tuple[int, Answer]] = deque(maxlen=_RECENT_MAX)
        self._next_id = FIRST_CANDIDATE_ID
        self._learnt: dict[str, int] = {}  # endpoint id by label
        self._promoted: dict[int, tuple[int, int, int]] = {}  # port, endpoint id and until when, by number as a candidate
        self._attempts: OrderedDict[int, bytes] = OrderedDict()  # placed, and hanging so far: remote side by socket
        # Sockets of learnt endpoints that are let through, with their ends where they are known, and the other way round.
        self._passed: OrderedDict[int, bytes | None] = OrderedDict()
        self._passed_ends: OrderedDict[bytes, int] = OrderedDict()

    def listens(self, now_ns: int) -> bool:
        """Whether somebody talks to an API, so that names which are answered may be candidates."""
        latest = [openings[-1][0] for openings in (next(reversed(self._clients.values()), None), self._somebody) if openings]
        return bool(self._open) or now_ns - max(latest, default=-CLIENT_NS) <= CLIENT_NS

    def overheard(self, answers: Iterable[Answer], is_listed: Callable[[str], bool], now_ns: int) -> bool:
        """Answers that were seen on this host; whether there are new candidates.

        Those of the last seconds count too: a poller hears of a connection later than of a packet.

        Args:
            answers: in their order.
            is_listed: whether a name, or an address, is watched already: what is known is no candidate.
            now_ns: boottime.
        """
        for answer in answers:
            if answer.addresses and is_name(answer.name) and not is_listed(answer.name):
                self._recent.append((now_ns, answer))
        while self._recent and now_ns - self._recent[0][0] > RECENT_NS:
            self._recent.popleft()
        if not self.listens(now_ns) or self.is_full:
            return False
        changed = False
        while self._recent:
            answer = self._recent.popleft()[1]
            addresses = [address for address in answer.addresses if not is_listed(address)][:_ADDRESSES_MAX]
            if addresses:
                changed |= self._note(answer.name, addresses, now_ns)
        return changed

    def _note(self, name: str, addresses: list[str], now_ns: int) -> bool:
        number = self._by_name.get(name)
        if number is None:
            number = self._by_name[name] = self._next_id
            self._next_id += 1
            self._candidates[number] = _Candidate(name, {}, 0)
        candidate = self._candidates[number]
        candidate.until_ns = now_ns + CANDIDATE_NS
        before = len(candidate.addresses)
        candidate.addresses = dict.fromkeys([*candidate.addresses, *addresses][:_ADDRESSES_MAX])
        while len(self._candidates) > CANDIDATES_MAX or self._n_addresses() > CANDIDATE_ADDRESSES_MAX:
            self._drop(min(self._candidates, key=lambda each: (self._candidates[each].until_ns, each)))
        return len(candidate.addresses) > before

    def _n_addresses(self) -> int:
        return sum(len(candidate.addresses) for candidate in self._candidates.values())

    def expire(self, now_ns: int) -> bool:
        """Let go of candidates nobody connected to; whether there were any."""
        over = [number for number, candidate in self._candidates.items() if candidate.until_ns <= now_ns]
        for number in over:
            self._drop(number)
        return bool(over)

    def _drop(self, number: int) -> _Candidate:
        candidate = self._candidates.pop(number)
        del self._by_name[candidate.name]
        return candidate

    def watch(self) -> Watch:
        """The candidates, to be watched beside the list."""
        return {number: any_port(each.name, each.addresses) for number, each in self._candidates.items()}

    def note_learnt(self, learnt: Learnt, endpoint_id: int, now_ns: int) -> None:
        """A learnt endpoint is in the list under this number, and no candidate any more."""
        self._learnt[learnt.endpoint.label] = endpoint_id
        self._promoted[learnt.candidate_id] = (learnt.endpoint.port, endpoint_id, now_ns + RELABEL_NS)
        self._drop(learnt.candidate_id)

    @property
    def is_full(self) -> bool:
        """Whether as many hosts were learnt as may be."""
        return len(self._learnt) >= LEARNT_MAX

    def placed(self, events: Events, number_at: Callable[[str, int], int | None]) -> Events:
        """The events, those of connections to elsewhere with the number of the endpoint or candidate that has the address.

        Args:
            events: as they were read.
            number_at: the endpoint of an address and port, if one has it by now.
        """
        elsewhere = np.flatnonzero(events["endpoint_id"] == ELSEWHERE)
        if not len(elsewhere):
            return events
        events = events.copy()
        by_address = {  # of several names with one address, the one that was answered last
            address: number
            for number, candidate in sorted(self._candidates.items(), key=lambda each: each[1].until_ns)
            for address in candidate.addresses
        }
        for index in elsewhere.tolist():
            address = address_text(events["daddr"][index].tobytes()) or ""
            listed = number_at(address, int(events["dport"][index])) if address else None
            events["endpoint_id"][index] = by_address.get(address, ELSEWHERE) if listed is None else listed
            if events["endpoint_id"][index] != ELSEWHERE:
                self._note_attempt(events[index])
        return events

    def _note_attempt(self, event: np.void) -> None:
        skaddr = int(event["skaddr"])
        if event["old_state"] == TcpState.CLOSE:
            self._attempts[skaddr] = remote_of(event)
            if len(self._attempts) > _ATTEMPTS_MAX:
                self._attempts.popitem(last=False)

    def found_again(self, events: Events) -> NDArray[np.bool_]:
        """Which of these are attempts that are known already, found open because their remote side is watched now.

        Nothing but the remote side tells that it is the same one: of several as many are taken for it as are known. bool,
        shape (n_events,).
        """
        again = np.zeros(len(events), bool)
        if not self._attempts:
            return again
        for skaddr in events["skaddr"][(events["old_state"] == TcpState.SYN_SENT) & is_transition(events)].tolist():
            self._attempts.pop(skaddr, None)
        left = Counter(self._attempts.values())
        hanging = is_adopted(events) & (events["new_state"] == TcpState.SYN_SENT)
        for index in np.flatnonzero(hanging).tolist():
            remote = remote_of(events[index])
            again[index] = left[remote] > 0
            left[remote] -= 1
        return again

    def relabelled(self, events: Events, now_ns: int) -> Events:
        """The events, those of candidates that have become endpoints with their numbers."""
        for number in [number for number, (_, _, until_ns) in self._promoted.items() if until_ns <= now_ns]:
            del self._promoted[number]
        own = np.flatnonzero(np.isin(events["endpoint_id"], list(self._promoted))) if self._promoted else ()
        if not len(own):
            return events
        events = events.copy()
        for index in own:
            port, endpoint_id, _ = self._promoted[int(events["endpoint_id"][index])]
            if int(events["dport"][index]) == port:
                events["endpoint_id"][index] = endpoint_id
        return events

    def note_open(self, rows: Connections, roles: dict[int, Role]) -> None:
        """What is open now, in place of what was said before."""
        api = take(rows, np.flatnonzero(self._is_api(rows["endpoint_id"], roles) & (rows["pid"] >= 0)))
        self._open = {
            Who(cgroup_id, comm): endpoint_id
            for cgroup_id, comm, endpoint_id in zip(
                api["cgroup_id"].tolist(), api["comm"].tolist(), api["endpoint_id"].tolist(), strict=True
            )
        }

    def clients(self) -> list[tuple[int, bytes]]:
        """(cgroup id, comm) of the owners that have a connection to an API open, as far as they are known."""
        return [(who.cgroup_id, who.comm) for who in self._open if who.cgroup_id >= 0]

    def note_openings(self, events: Events, roles: dict[int, Role]) -> None:
        """Who opens connections to APIs."""
        known = events["flags"] & np.uint32(EventFlag.OWNER) != 0
        begun = (is_opening(events) | is_adopted(events)) & self._is_api(events["endpoint_id"], roles)
        for event in events[ends_of_each(events, np.flatnonzero(begun & ~known))]:
            add_opening(self._somebody, event)
        for event in events[ends_of_each(events, np.flatnonzero(begun & known))]:
            who = who_of(event)
            add_opening(self._clients.setdefault(who, openings_kept()), event)
            self._clients.move_to_end(who)
        while len(self._clients) > CLIENTS_MAX:
            self._clients.popitem(last=False)

    def promoted(self, events: Events, labels: dict[int, str]) -> list[Learnt]:
        """Candidates that a client of an API connects to among these events: endpoints from now on, candidates no more."""
        found: dict[int, Learnt] = {}
        if self.is_full:
            return []
        begun = (is_opening(events) | is_adopted(events)) & (events["endpoint_id"] >= FIRST_CANDIDATE_ID)
        for index in np.flatnonzero(begun).tolist():
            event = events[index]
            number = int(event["endpoint_id"])
            candidate = self._candidates.get(number)
            said = None if candidate is None else self._client(event)
            if candidate is None or said is None:
                continue
            opened_ns, api_id = said
            who = printable(comm_text(bytes(event["comm"])))
            first = "somebody" if (opened_ns, api_id) in self._somebody else "it"
            api = labels.get(api_id, f"endpoint {api_id}")
            after_s = max(int(event["ts_ns"]) - opened_ns, 0) / SECOND_NS
            how = f"{after_s:.1f} s after {first} opened one to {api}" if opened_ns >= 0 else f"while it had one open to {api}"
            label = f"{candidate.name}:{int(event['dport'])}"
            endpoint = Endpoint(label, candidate.name, None, int(event["dport"]))
            found.setdefault(number, Learnt(endpoint, number, f"learnt: {who} connected to it {how}"))
            if len(self._learnt) + len(found) >= LEARNT_MAX:
                break
        return list(found.values())

    def addresses_of(self, learnt: Learnt) -> tuple[str, ...]:
        """The addresses of a candidate."""
        return tuple(self._candidates[learnt.candidate_id].addresses)

    def let_through(self, events: Events) -> NDArray[np.bool_]:
        """Which events are wanted: not those of candidates, and of learnt endpoints those of clients. bool, shape (n_events,)."""
        learnt = np.isin(events["endpoint_id"], list(self._learnt.values())) if self._learnt else np.zeros(len(events), bool)
        keep = (events["endpoint_id"] < FIRST_CANDIDATE_ID) & (events["endpoint_id"] != ELSEWHERE) & ~learnt
        if learnt.any():
            begins = learnt & (is_opening(events) | is_adopted(events))
            # Most are others'. Only those that begin, and those of sockets that may be let through, are looked at one by one.
            passed = np.array([*self._passed, *events["skaddr"][begins].tolist()], np.uint64)
            near = learnt & np.isin(events["skaddr"], passed)
            ports = np.frombuffer(b"".join(ends[-2:] for ends in self._passed_ends), np.uint16)
            near |= learnt & np.isin(events["sport"], np.append(ports, events["sport"][begins & is_adopted(events)]))
            for index in np.flatnonzero(begins | near).tolist():
                keep[index] = self._is_of_a_client(events[index])
        return np.asarray(keep, bool)

    def _is_of_a_client(self, event: np.void) -> bool:
        skaddr, ends = int(event["skaddr"]), _ends(event)
        adopted = bool(event["flags"] & EventFlag.ADOPTED)
        if adopted or event["old_state"] == TcpState.CLOSE:
            self._passed.pop(skaddr, None)
            # One that was let through goes on, whoever of its owners a source that takes over can see.
            if self._client(event) is None and not (adopted and ends in self._passed_ends):
                return False
            self._pass(skaddr, ends)
            return True
        if ends is not None and self._passed_ends.get(ends, skaddr) != skaddr:  # now its socket's address is known
            self._passed.pop(self._passed_ends[ends], None)
            self._pass(skaddr, ends)
        if skaddr not in self._passed:
            return False
        if event["new_state"] == TcpState.CLOSE and not event["flags"] & EventFlag.SAMPLE:
            self._passed_ends.pop(self._passed.pop(skaddr) or b"", None)
        else:
            self._pass(skaddr, ends or self._passed[skaddr])
        return True

    def _pass(self, skaddr: int, ends: bytes | None) -> None:
        self._passed[skaddr] = ends
        if ends is not None:
            self._passed_ends[ends] = skaddr
        if len(self._passed) > _PASSED_MAX:
            _, gone = self._passed.popitem(last=False)
            self._passed_ends.pop(gone or b"", None)
        if len(self._passed_ends) > _PASSED_MAX:
            self._passed_ends.popitem(last=False)

    def _client(self, event: np.void) -> tuple[int, int] | None:
        """When and where the owner of a connection talked to an API; -1: it still does."""
        if not event["flags"] & EventFlag.OWNER:
            return None
        who, at_ns = who_of(event), int(event["ts_ns"])
        opened = latest_opening(self._clients.get(who, ()), at_ns)
        if opened is not None:
            return opened
        if who in self._open:
            return -1, self._open[who]
        return latest_opening(self._somebody, at_ns) if family_of(who.comm).puller else None

    def _is_api(self, endpoint_id: NDArray[np.uint32], roles: dict[int, Role]) -> NDArray[np.bool_]:
        other = [number for number, role in roles.items() if role in _NO_API] + list(self._learnt.values())
        return np.asarray(~np.isin(endpoint_id, [ELSEWHERE, *other]) & (endpoint_id < FIRST_CANDIDATE_ID), bool)


def _ends(event: np.void) -> bytes | None:
    """What tells a connection that was found open: its remote end and its own port; None: its own port is not known."""
    if not event["flags"] & EventFlag.HAS_SPORT:
        return None
    return bytes(event["daddr"].tobytes() + event["dport"].tobytes() + event["sport"].tobytes())
