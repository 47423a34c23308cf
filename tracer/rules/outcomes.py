"""Outcomes: what a visit came to, told by how much was received for how large a request. Pure.

What an answer said can't be seen, but an HTTP client sends the same request again with the same number of bytes, and is
answered with the same number. So a client's own past tells what a request is normally worth; an answer much smaller than that,
with no download behind it, is a refusal. Without a past only very short answers tell.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum

from tracer.cadence import Owner
from tracer.clients import family_of
from tracer.lifecycle import CloseReason
from tracer.visits import UNKNOWN, VISIT_GAP_NS, Client, Visit

TERSE_MAX_BYTES = 320
"""A manifest can't be answered in less: distribution's headers alone take 393 bytes with a digest, its 401 and 404 more than
330. What a proxy says itself (HAProxy's 429: 132 to 222 bytes, measured) can."""
ERROR_MAX_BYTES = 16_384
"""An answer with an error in it, a TLS handshake with certificates included (4 to 6 kB usually); layers are larger."""
SHRUNK = 0.5
"""A refusal is at most so much of the usual answer; a manifest with a layer less is more."""
PING_MIN_BYTES = 160
"""The shortest 200 of a registry: to GET /v2/ with the headers that the protocol demands (distribution: 190)."""
MANIFEST_REQUEST_MIN_BYTES = 300
"""A request for a manifest is longer than others: it lists the types that are accepted (ctr 312, skopeo 539, dockerd 564)."""
_PROBE_MIN_BYTES, _PROBE_MAX_BYTES = 200, 260
"""A TLS hello, which clients send first to a registry that may be a plain one."""
KNOWN_MIN = 2
"""So many answers make a request's answer known."""
DOWNLOADS_MIN = 2
"""So many visits that all brought a download make a client one that downloads."""
_REQUESTS_KEPT = 64
_HANDSHAKE_MIN_BYTES, _SMALLEST_ANSWER_BYTES = 700, 150
"""Where no answer was smaller than a TLS server's handshake, the smallest is taken for a handshake and an empty answer."""
_HELLO_MIN_BYTES = 400
"""A TLS handshake and a request are not shorter on the client's side."""
CLOSE_NOTIFY_BYTES = 32
_DROP_BYTES, _DROP_TLS_BYTES = 40, 100
"""An answer shrinks by more than the numbers in it do; under TLS, by more than close_notify and session tickets."""
_CLIENTS_KEPT = 8192


class Outcome(IntEnum):
    """What a visit came to."""

    UNKNOWN = 0  # sizes are not known, or nothing to compare them with
    SERVED = 1  # something large came, or the usual answers
    REFUSED = 2  # a request got much less than it usually does, and nothing large came
    TERSE = 3  # nothing but very short answers, to a program that came to pull, or with no past to compare with
    FAILED = 4  # no connection was established, or all were reset


def same_size(one: int, other: int) -> bool:
    """Whether two answers are the same but for numbers in headers, and under TLS for signatures and a close_notify alert."""
    largest = max(one, other)
    return abs(one - other) <= max(8 if largest < _HANDSHAKE_MIN_BYTES else CLOSE_NOTIFY_BYTES, 0.01 * largest)


def same_request(one: int, other: int) -> bool:
    """Whether two requests are the same but for a close_notify alert, which a TLS client may or may not have sent at the end."""
    return one == other or (min(one, other) >= _HELLO_MIN_BYTES and abs(one - other) <= CLOSE_NOTIFY_BYTES)


def judged_until(client: Client, latest: Visit) -> list[Visit]:
    """A client's visits up to one of them of which the outcome is known, oldest first."""
    return [visit for visit in client.visits if visit.outcome is not None and visit.start_ns <= latest.start_ns]


class Outcomes:
    """Judges visits once they are over and no connection can join them any more, in the order in which they end."""

    def __init__(self) -> None:
        self._memory: OrderedDict[Owner, _Memory] = OrderedDict()
        self._pending: dict[Owner, Client] = {}

    def judge(
        self, touched: dict[Owner, Client], now_ns: int, final: bool, at: Callable[[int], list[Client]] = lambda _: []
    ) -> list[tuple[Client, Visit]]:
        """Judge what can be judged now (or never, if this is the `final` time); what was judged.

        `at` gives the clients of an endpoint, among which there may be somebody whose connections are really another's.
        """
        self._pending |= touched
        judged: list[tuple[Client, Visit]] = []
        for owner, client in sorted(self._pending.items()):
            waiting = [visit for visit in client.visits if visit.outcome is None]
            ready = [visit for visit in waiting if visit.over and (final or now_ns - visit.last_open_ns > VISIT_GAP_NS)]
            if ready:
                memory = self._remembered(owner)
                for visit in ready:
                    visit.outcome = memory.judge(visit)
                    if visit.outcome in (Outcome.REFUSED, Outcome.TERSE) and _is_part(client, visit, at(owner.endpoint_id)):
                        visit.outcome, visit.shrunk = Outcome.UNKNOWN, []
                    client.note_answers(visit)
                    judged.append((client, visit))
            if len(ready) == len(waiting):
                del self._pending[owner]
        while len(self._memory) > _CLIENTS_KEPT:
            self._memory.popitem(last=False)
        while len(self._pending) > _CLIENTS_KEPT:
            del self._pending[next(iter(self._pending))]
        return judged

    def usual(self, owner: Owner, acked: int) -> int:
        """The least that an owner's requests of this size were ever answered with; -1 not known.

        Of an owner without a past, what those of somebody unknown were: to a poller, most short connections are nobody's.
        """
        for known in (owner, Owner(owner.endpoint_id, UNKNOWN, b"")):
            memory = self._memory.get(known)
            least = UNKNOWN if memory is None else memory.usual(acked)
            if least != UNKNOWN:
                return least
        return UNKNOWN

    def _remembered(self, owner: Owner) -> _Memory:
        memory = self._memory.pop(owner, None) or _Memory(family_of(owner.comm).puller)
        self._memory[owner] = memory
        return memory


def _is_part(client: Client, visit: Visit, clients: list[Client]) -> bool:
    """Whether a visit may be a part only of one in which more was received.

    A poller does not know whose the shortest connections are: those of one visit may be told as two, its own and somebody's.
    """
    since_ns, until_ns = visit.start_ns - VISIT_GAP_NS, max(visit.last_open_ns, visit.last_end_ns) + VISIT_GAP_NS
    for other in clients:
        if other is client or (other.owner.comm and client.owner.comm):
            continue
        for own in other.visits:
            together = own.start_ns <= until_ns and max(own.last_open_ns, own.last_end_ns) >= since_ns
            if together and (not own.over or own.received_max > TERSE_MAX_BYTES):
                return True
    return False


def _is_terse(visit: Visit) -> bool:
    """Whether an answer was too short to be a good one: to a request for a manifest, or to any at all."""
    exchanges = visit.exchanges
    if len(exchanges) > 1 and _PROBE_MIN_BYTES <= exchanges[0][0] <= _PROBE_MAX_BYTES:
        exchanges = exchanges[1:]  # what a plain registry says to a TLS hello tells nothing
    return any(received < PING_MIN_BYTES or acked >= MANIFEST_REQUEST_MIN_BYTES for acked, received in exchanges)


class _Memory:
    """What a client's requests are normally answered with, by bytes sent."""

    def __init__(self, puller: bool) -> None:
        self._puller = puller
        self._usual: OrderedDict[int, tuple[int, int, int]] = OrderedDict()  # least, most, how often
        self._smallest = -1  # of all answers so far
        self.downloads = 0
        self.served = 0

    def judge(self, visit: Visit) -> Outcome:
        visit.shrunk = [exchange for exchange in visit.exchanges if self._is_shrunk(*exchange)]
        outcome = self._outcome(visit)
        if outcome in (Outcome.SERVED, Outcome.UNKNOWN):
            self.downloads += visit.received_max > ERROR_MAX_BYTES
            self.served += 1
            for acked, received in visit.exchanges:
                if (acked, received) not in visit.shrunk:
                    self._learn(acked, received)
        return outcome

    def _outcome(self, visit: Visit) -> Outcome:
        if not visit.established or visit.reasons[CloseReason.RESET] == visit.ended:
            return Outcome.FAILED
        if not visit.sized:
            return Outcome.UNKNOWN
        if visit.received_max > ERROR_MAX_BYTES:
            return Outcome.SERVED
        if visit.shrunk:
            return Outcome.REFUSED
        # every visit brought a download until now; this one not even a manifest
        always = self.downloads >= DOWNLOADS_MIN and self.downloads == self.served
        if always and visit.received_max <= TERSE_MAX_BYTES and visit.sized == visit.established and visit.exchanges:
            return Outcome.REFUSED
        if visit.received_max > TERSE_MAX_BYTES or visit.sized < visit.established or not visit.exchanges:
            return Outcome.SERVED
        if (not self.served or self._puller) and _is_terse(visit):
            return Outcome.TERSE
        return Outcome.SERVED

    def _is_shrunk(self, acked: int, received: int) -> bool:
        least, most, count = self._usual.get(self._key(acked), (0, 0, 0))
        if count < KNOWN_MIN or received > ERROR_MAX_BYTES:
            return False
        handshake = self._handshake()
        answer, usual = received - handshake, least - handshake
        if least <= ERROR_MAX_BYTES and same_size(least, most):
            enough = usual - answer >= (_DROP_TLS_BYTES if handshake else _DROP_BYTES)
            return enough and answer <= SHRUNK * usual
        # Requests of this size are answered with anything (layers): only what no blob fits into is less than usual. What a
        # handshake takes is not known well enough to say that of an answer under TLS.
        return not handshake and answer <= TERSE_MAX_BYTES and answer <= usual / 2

    def _key(self, acked: int) -> int:
        """Under which size a request is known."""
        if acked in self._usual or not self._handshake():
            return acked
        return next((known for known in self._usual if same_request(known, acked)), acked)

    def _handshake(self) -> int:
        """What is taken for a TLS handshake in every answer; 0 where there is none."""
        return self._smallest - _SMALLEST_ANSWER_BYTES if self._smallest > _HANDSHAKE_MIN_BYTES else 0

    def usual(self, acked: int) -> int:
        """The least that a request of this size was ever answered with; -1 not known."""
        least, _, count = self._usual.get(self._key(acked), (UNKNOWN, 0, 0))
        return least if count >= KNOWN_MIN else UNKNOWN

    def _learn(self, acked: int, received: int) -> None:
        self._smallest = received if self._smallest < 0 else min(self._smallest, received)
        acked = self._key(acked)
        least, most, count = self._usual.pop(acked, (received, received, 0))
        self._usual[acked] = (min(least, received), max(most, received), count + 1)
        if len(self._usual) > _REQUESTS_KEPT:
            self._usual.popitem(last=False)
