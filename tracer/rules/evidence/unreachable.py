"""evidence: `unreachable`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracer.events import Events, TcpState
from tracer.findings import Severity
from tracer.lifecycle import REASON_NAMES, CloseReason
from tracer.rows import Connections, blank_connections, by_endpoint
from tracer.rules.kept import KeptRows
from tracer.rules.rule import SECOND_NS, Answer, Over, Rule, Sighting
from tracer.rules.suspects import rows_suspects
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View, forget_oldest, is_failed, is_given_up
from tracer.segments import halves, joined
from tracer.text import address_text

_KEPT = 256
_ENDPOINTS_MAX = 4096
_ADDRESSES_MAX = 32


@dataclass(frozen=True)
class UnreachableThresholds(Thresholds):
    """Numbers of the rule `unreachable`."""

    syn_sent_s: float = threshold(
        3.0, 0.5, 300, "a handshake that takes so long gets no answer (the SYN was sent again after 1 s)"
    )
    aborted_min: int = threshold(2, 1, 1000, "so many handshakes given up at once, with nothing established beside them")
    sibling_s: float = threshold(1.0, 0.0, 30, "a connection to the same endpoint established so close by makes up for them")
    hold_s: float = threshold(60, 1, 3600, "over when nothing more was seen for so long")


class Unreachable(Rule[UnreachableThresholds]):
    """Connections get no answer to their SYN.

    Finds: connections in SYN_SENT for syn_sent_s, or that ended there after so long; connections that ended with a time-out or
        an ICMP error before they were established; several that were given up at once, as where a route is refused locally.
    Matters: a client waits 15 to 150 s before it says anything, and then says "timeout".
    Needs: transitions; samples or later events, so that time passes.
    Parameters: syn_sent_s, aborted_min, sibling_s, hold_s.
    Cannot tell apart: a firewall that drops from a host that is down or a route that leads nowhere; a name that does not
        resolve makes no connection and is not seen at all.
    """

    id: ClassVar[str] = "unreachable"
    Settings = UnreachableThresholds

    def __init__(self, settings: UnreachableThresholds) -> None:
        super().__init__(settings)
        self._ended: dict[int, KeptRows] = {}  # by endpoint, those not yet told of
        self._aborted: dict[int, KeptRows] = {}
        self._addresses: dict[int, dict[bytes, int]] = {}  # those that did not answer, and when they did again
        self._known: dict[int, int] = {}  # endpoints that were told of, with the latest evidence

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        self._note_answers(events)
        reason = ended["close_reason"]
        failed = is_failed(ended) & (reason != CloseReason.REFUSED)
        given_up = is_given_up(ended)
        gave_up = given_up & (ended["lifetime_ns"] >= self.settings.syn_sent_s * SECOND_NS)
        rows = ended[failed | gave_up]
        for endpoint_id, own in by_endpoint(rows):
            self._ended.setdefault(endpoint_id, KeptRows(_KEPT)).add(own)
        young = given_up & (ended["opened_ns"] >= 0) & ~gave_up
        for endpoint_id, own in by_endpoint(ended[young]):
            self._aborted.setdefault(endpoint_id, KeptRows(_KEPT)).add(own)

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        if not view.scan:
            return
        found, self._ended = self._ended, {}
        self._take_aborted(view, found)
        waiting = self._waiting(view)
        for endpoint_id in sorted(set(found) | set(waiting["endpoint_id"].tolist())):
            ended = found[endpoint_id].rows() if endpoint_id in found else blank_connections(0)
            yield from self._endpoint(view, endpoint_id, joined([ended, waiting[waiting["endpoint_id"] == endpoint_id]]))
        yield from self._recovered(view, set(waiting["endpoint_id"].tolist()))

    def _note_answers(self, events: Events) -> None:
        """An address that was told of and answers again."""
        if not self._addresses:
            return
        up = np.flatnonzero((events["new_state"] == TcpState.ESTABLISHED) & (events["old_state"] == TcpState.SYN_SENT))
        endpoint_id, times_ns = events["endpoint_id"][up], events["ts_ns"][up].astype(np.int64)
        remote = halves(np.ascontiguousarray(events), "daddr")[up]
        for number, addresses in self._addresses.items():
            own = endpoint_id == number
            if not own.any():
                continue
            for address in addresses:
                answered = own & (remote == np.frombuffer(address, np.uint64)).all(axis=1)
                if answered.any():
                    addresses[address] = max(addresses[address], int(times_ns[answered].max()))

    def _take_aborted(self, view: View, found: dict[int, KeptRows]) -> None:
        """Handshakes given up at once count when it is clear that no other one made up for them."""
        grace_ns = int(self.settings.sibling_s * SECOND_NS)
        for endpoint_id, kept in list(self._aborted.items()):
            rows = kept.rows()
            first_ns = int(rows["opened_ns"][0])
            if view.established_ns.get(endpoint_id, -1) >= first_ns:
                del self._aborted[endpoint_id]  # Happy Eyeballs' loser, or another try came through
            elif view.final or view.now_ns >= first_ns + grace_ns:
                del self._aborted[endpoint_id]
                if kept.count >= self.settings.aborted_min:
                    found.setdefault(endpoint_id, KeptRows(_KEPT)).add(rows)

    def _waiting(self, view: View) -> Connections:
        since_ns = view.now_ns - int(self.settings.syn_sent_s * SECOND_NS)
        late = view.open_where(
            lambda rows: (rows["last_state"] == TcpState.SYN_SENT) & (rows["opened_ns"] >= 0) & (rows["opened_ns"] <= since_ns)
        )
        return late[:_KEPT]

    def _endpoint(self, view: View, endpoint_id: int, rows: Connections) -> Iterator[Answer]:
        started_ns = int(rows["first_seen_ns"].min())
        seen_ns = int(np.where(rows["closed_ns"] >= 0, rows["closed_ns"], view.now_ns).max())
        answered = view.established_ns.get(endpoint_id, -1) > started_ns
        addresses = sorted({address_text(row.tobytes()) or "?" for row in rows["raddr"]})
        ended = rows["close_reason"][rows["close_reason"] != CloseReason.OPEN]
        reasons = {REASON_NAMES[reason]: int((ended == reason).sum()) for reason in np.unique(ended)}
        some = "some connections" if answered else "connections"
        yield Sighting(
            key=endpoint_id,
            endpoint_id=endpoint_id,
            started_ns=started_ns,
            seen_ns=seen_ns,
            hold_ns=int(self.settings.hold_s * SECOND_NS),
            severity=Severity.WARNING if answered else Severity.CRITICAL,
            confidence=0.75 if answered else 0.95,
            summary=f"{view.label(endpoint_id)} does not answer: {some} to {', '.join(addresses[:3])} get no handshake",
            advice="look at routes, firewalls and the host itself; try the address from another host; use a mirror meanwhile",
            evidence={
                "waiting": int((rows["close_reason"] == CloseReason.OPEN).sum()),
                "ended": reasons,
                "addresses": addresses[:10],
                "longest_s": round(float((seen_ns - rows["first_seen_ns"]).max()) / SECOND_NS, 3),
                "syn_retransmits": int(rows["retransmits"].max()) if (rows["retransmits"] >= 0).any() else None,
                "others_connect": bool(answered),
            },
            suspects=rows_suspects(rows),
        )
        self._known[endpoint_id] = max(seen_ns, started_ns)
        known = self._addresses.setdefault(endpoint_id, {})
        if len(known) < _ADDRESSES_MAX:
            known.update(dict.fromkeys((row.tobytes() for row in rows["raddr"]), -1))

    def _recovered(self, view: View, waiting: set[int]) -> Iterator[Answer]:
        forget_oldest(self._known, _ENDPOINTS_MAX)
        self._addresses = {number: known for number, known in self._addresses.items() if number in self._known}
        for endpoint_id, seen_ns in list(self._known.items()):
            answered_ns = self._addresses.get(endpoint_id, {}).values()
            if answered_ns and min(answered_ns) > seen_ns and endpoint_id not in waiting:
                del self._known[endpoint_id]
                yield Over(endpoint_id, max(answered_ns), "a connection was established")
