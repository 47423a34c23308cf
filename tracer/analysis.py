"""The core in one piece: batches in, ended connections and findings out, and a summary at any moment. Pure.

Live traces and replays feed the same object; that is what makes a replay the product's path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracer.cadence import Cadence, CadenceTracker, Owner
from tracer.churn import SIDE_BY_REASON, SIDES, ChurnCounter
from tracer.connections import ConnectionTracker
from tracer.events import EventBatch, is_transition
from tracer.facts import EndpointFact, Fact
from tracer.findings import Finding, Severity, Suspect
from tracer.lifecycle import REASON_NAMES, STATE_NAMES, CloseReason, is_known
from tracer.lifetimes import LIFETIME, Distribution, Lifetimes
from tracer.owners.owner import OwnerDetail
from tracer.owners.register import OwnerRegister
from tracer.remotes import Remotes
from tracer.roles import Role, role_of
from tracer.rows import Connections, blank_connections, by_endpoint
from tracer.rules.engine import Engine
from tracer.rules.settings import RuleSettings
from tracer.rules.ticks import TICK_NS
from tracer.rules.view import View
from tracer.summary import EndpointSummary, KernelSpan, Loss, Summary

CHUNK_EVENTS = 1 << 15
"""Large batches are fed in pieces that stay in the processor's cache; results do not depend on it."""


_SUMMED = ("bytes_received", "bytes_acked", "retransmits")
_LOSSES_KEPT = 1000


@dataclass
class _Totals:
    """Sums over ended connections of one endpoint; -1 while no value is known."""

    ended: int = 0
    open_ns: int = 0
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_SUMMED, -1))

    def add(self, rows: Connections) -> None:
        self.open_ns += int((rows["last_ns"] - rows["first_seen_ns"]).sum())
        for name in _SUMMED:
            known = rows[name][rows[name] >= 0]
            if len(known):
                self.sums[name] = max(self.sums[name], 0) + int(known.sum())


class Progress(NamedTuple):
    """What one batch brought.

    Attributes:
        ended: the connections that ended, in the order of the events that ended them.
        findings: in the order in which they were made.
    """

    ended: Connections
    findings: list[Finding]


class Analysis:
    """Connections, lifetimes, churn, cadence and findings of one stream of batches.

    Attributes:
        endpoints: label by endpoint id.
        known: what else is known of endpoints, by id.
        addresses: of endpoints, those they have now, by id.
        owners: what is known of those who open connections.
    """

    def __init__(
        self,
        source: str,
        resolution_ns: int,
        endpoints: dict[int, str],
        settings: RuleSettings | None = None,
        roles: dict[int, Role] | None = None,
        *,
        loss_known: bool = True,
    ) -> None:
        """Begin a trace.

        Args:
            source: "ebpf", "polled" or "proc".
            resolution_ns: how exact times are.
            endpoints: labels by endpoint id that are known already.
            settings: which rules to run and how; None runs none.
            roles: of endpoints by id, as a capture says them; settings win, then this, then what the name says.
            loss_known: the source says what it lost; False: anything may be missing at any time.
        """
        self.endpoints: dict[int, str] = {}
        self.known: dict[int, EndpointFact] = {}
        self.addresses: dict[int, dict[str, None]] = {}
        self.owners = OwnerRegister()
        self._settings = settings or RuleSettings()
        self._roles = dict(roles or {})
        self._remotes = Remotes()
        self._learn(endpoints)
        self.churn = ChurnCounter()
        self._source = source
        self._resolution_ns = resolution_ns
        self._loss_known = loss_known
        self._tracker = ConnectionTracker()
        if not loss_known:
            self._tracker.note_loss()
        self._lifetimes = Lifetimes()
        self._cadence = CadenceTracker()
        self._totals: dict[int, _Totals] = {}
        self._transitions = 0
        self._lost = 0
        self._opened = self._counted = 0
        self._kernel: KernelSpan | None = None
        self._gaps = 0
        self._losses: list[Loss] = []
        self._unknown: Counter[tuple[int, int]] = Counter()
        self._first_ns = -1
        self._last_ns = -1
        self._reached_ns = -1
        view = View(source, resolution_ns, self.endpoints, self._roles, self._tracker.open_where)
        view.loss_known = loss_known
        self._view = view
        self._engine = Engine(settings.rules() if settings is not None else (), view)

    def _learn(self, endpoints: dict[int, str]) -> None:
        """Take labels of endpoints, and find out what they are for."""
        self.endpoints.update(endpoints)
        self._remotes.learn(endpoints)
        for number, label in endpoints.items():
            said = self._settings.roles.get(label)
            if said is not None:
                self._roles[number] = said
            elif number not in self._roles and (known := role_of(label)) is not Role.UNKNOWN:
                self._roles[number] = known

    def _take(self, fact: Fact) -> None:
        """Learn a fact."""
        if isinstance(fact, OwnerDetail):
            self.owners.add(fact)
        elif isinstance(fact, EndpointFact):
            self.known[fact.endpoint_id] = fact
            if fact.learnt:
                self._view.learnt.add(fact.endpoint_id)
            if fact.role is not Role.UNKNOWN:
                self._roles[fact.endpoint_id] = fact.role
            self._learn({fact.endpoint_id: fact.label})
        else:
            addresses = self.addresses.setdefault(fact.endpoint_id, {})
            if fact.added:
                addresses[fact.address] = None
            else:
                addresses.pop(fact.address, None)

    @property
    def roles(self) -> dict[int, Role]:
        """What endpoints are for, by id, those that are known."""
        return dict(self._roles)

    @property
    def worst(self) -> Severity | None:
        """The highest severity that a finding ever had; None without a finding."""
        return self._engine.worst

    @property
    def due_ns(self) -> int | None:
        """When the rules should be asked again although nothing happens; None: not before something does."""
        return self._engine.due_ns()

    @property
    def now_ns(self) -> int:
        """Event time: boottime of the latest event so far, -1 if there was none."""
        return self._last_ns

    @property
    def first_ns(self) -> int:
        """Boottime of the first event, -1 if there was none."""
        return self._first_ns

    @property
    def reached_ns(self) -> int:
        """Event time up to which the trace is known, silence after the last event included; -1 if it is not."""
        return self._reached_ns

    def feed(self, batch: EventBatch) -> Progress:
        """Take the next batch."""
        self._learn(dict(batch.endpoints))
        for fact in batch.facts:
            self._take(fact)
        if batch.switched:
            self._source, self._resolution_ns = batch.source, batch.resolution_ns
            self._view.source, self._view.resolution_ns = batch.source, batch.resolution_ns
            self._losses.append(Loss(None, batch.lost_since_ns, batch.lost_until_ns))
            self._tracker.note_loss(batch.lost_until_ns)
            self._tracker.note_switch()
            self._view.note_loss(0, batch.lost_since_ns, batch.lost_until_ns)
        if batch.lost:
            self._lost += batch.lost
            if len(self._losses) < _LOSSES_KEPT:
                self._losses.append(Loss(batch.lost, batch.lost_since_ns, batch.lost_until_ns))
            self._tracker.note_loss(batch.lost_until_ns)
            self._view.note_loss(batch.lost, batch.lost_since_ns, batch.lost_until_ns)
        if batch.counted:
            self._opened, self._counted = self._opened + batch.opened, self._counted + batch.counted
            self._view.note_census(batch.opened, batch.counted, self._reached_ns)
        if batch.kernel is not None:
            first = KernelSpan(batch.kernel, batch.kernel, batch.kernel)
            self._kernel = first if self._kernel is None else self._kernel.until(batch.kernel)
        findings: list[Finding] = []
        pieces = []
        for start, end in self._pieces(batch):
            findings += map(self._named, self._advance(int(batch.events["ts_ns"][start])))  # before anything later is known
            pieces.append(self._feed_piece(batch, start, end))
        if batch.until_ns:
            findings += map(self._named, self._advance(batch.until_ns))
        ended = pieces[0] if len(pieces) == 1 else np.concatenate([blank_connections(0), *pieces])
        return Progress(ended, findings)

    def close(self) -> list[Finding]:
        """The trace is over: judge what came last. Findings that are open stay open."""
        return [self._named(finding) for finding in self._engine.close()]

    def _named(self, finding: Finding) -> Finding:
        """With what is known of its suspects, and of where in a network it is."""
        remotes = self._remotes.most(finding.endpoint_id)
        if remotes:
            finding = replace(finding, evidence=finding.evidence | {"remotes": remotes})
        if not len(self.owners):
            return finding
        return replace(finding, suspects=tuple(self._suspect(suspect, finding.at_ns) for suspect in finding.suspects))

    def _suspect(self, suspect: Suspect, at_ns: int) -> Suspect:
        detail = self.owners.find(suspect.pid, at_ns, suspect.cgroup_id)
        if detail is None:
            return suspect
        return replace(suspect, container=detail.container or None, unit=detail.unit or None, cmdline=detail.cmdline or None)

    def _advance(self, now_ns: int) -> list[Finding]:
        """Let time pass, up to before what happens now."""
        self._reached_ns = max(self._reached_ns, now_ns)
        return self._engine.advance(self._reached_ns)

    def _pieces(self, batch: EventBatch) -> Iterator[tuple[int, int]]:
        """Bounds of pieces of a batch that lie between two ticks of the rules, and are not too large."""
        if not len(batch):
            return
        if not self._engine.rules:
            yield from ((start, min(start + CHUNK_EVENTS, len(batch))) for start in range(0, len(batch), CHUNK_EVENTS))
            return
        reached = np.maximum.accumulate(batch.events["ts_ns"].astype(np.int64))
        cell = np.maximum(reached, self._reached_ns) // TICK_NS
        edges = [0, *(np.flatnonzero(cell[1:] != cell[:-1]) + 1).tolist(), len(batch)]
        for first, last in pairwise(edges):
            for start in range(first, last, CHUNK_EVENTS):
                yield start, min(start + CHUNK_EVENTS, last)

    def _feed_piece(self, batch: EventBatch, start: int, end: int) -> Connections:
        events = batch.events[start:end]
        times = events["ts_ns"]
        if self._first_ns < 0:
            self._first_ns = int(times[0])
        self._last_ns = max(self._last_ns, int(times.max()))
        transitions = is_transition(events)
        self._transitions += int(transitions.sum())
        unknown = ~is_known(events["old_state"], events["new_state"])
        unknown &= transitions
        if unknown.any():
            pairs = zip(events["old_state"][unknown].tolist(), events["new_state"][unknown].tolist(), strict=True)
            self._unknown.update(pairs)
        step = self._tracker.feed(events, None if batch.early_ns is None else batch.early_ns[start:end])
        self._gaps += int(step.ended["gap"].sum())
        self._lifetimes.add(step.ended)
        self.churn.add(events, step.ended)
        self.churn.note_open(step.endpoint_id, step.change)
        self._cadence.add(events)
        self._remotes.add(events)
        for endpoint_id, rows in by_endpoint(step.ended):
            totals = self._totals.setdefault(endpoint_id, _Totals())
            totals.ended += len(rows)
            totals.add(rows)
        self._reached_ns = max(self._reached_ns, self._last_ns)
        if self._engine.rules:
            early_ns = 0 if batch.early_ns is None else int(batch.early_ns[start:end].max())
            self._engine.observe(events, step.ended, self._reached_ns, early_ns)
        return step.ended

    def open(self) -> Connections:
        """The connections that are open now, in the order in which they were first seen."""
        return self._tracker.open()

    def open_where(self, wanted: Callable[[Connections], NDArray[np.bool_]]) -> Connections:
        """Those of `open` that are wanted; see ConnectionTracker.open_where."""
        return self._tracker.open_where(wanted)

    def open_columns(self, *names: str) -> dict[str, NDArray[Any]]:
        """These fields of the rows of `open`, in no order; see ConnectionTracker.open_columns."""
        return self._tracker.open_columns(*names)

    def open_skaddrs(self) -> list[int]:
        """Socket addresses of the connections that are open now."""
        return [int(skaddr) for skaddr in self._tracker.open_skaddrs()]

    def cadences(self) -> dict[Owner, Cadence]:
        """The rhythm of every owner's attempts."""
        return self._cadence.cadences()

    def lifetime(self, endpoint_id: int) -> Distribution | None:
        """How long the connections of an endpoint lived that have ended; None if none has."""
        return self._lifetimes.histogram(endpoint_id, LIFETIME).distribution()

    def ended_sums(self, endpoint_id: int) -> tuple[int, int, int]:
        """(bytes received, bytes acknowledged, retransmits) of an endpoint's connections that ended; -1 while none is known."""
        sums = self._totals.get(endpoint_id, _Totals()).sums
        return sums["bytes_received"], sums["bytes_acked"], sums["retransmits"]

    def summary(self) -> Summary:
        """The state of the trace so far."""
        still_open = self.open()
        seen = sorted(set(self.endpoints) | set(self._totals) | set(still_open["endpoint_id"].tolist()))
        endpoints = tuple(
            self._endpoint(endpoint_id, still_open[still_open["endpoint_id"] == endpoint_id]) for endpoint_id in seen
        )
        return replace(self.headline(), endpoints=endpoints, cadences=self._cadence.cadences())

    def headline(self) -> Summary:
        """The same without endpoints and cadences, which take the longer the more there is."""
        still_open = self.open_columns("gap", "close_reason")
        unknown = {(STATE_NAMES[old], STATE_NAMES[new]): count for (old, new), count in sorted(self._unknown.items())}
        return Summary(
            self._source,
            self._resolution_ns,
            self._transitions,
            self._lost,
            self._gaps + int(still_open["gap"].sum()),
            tuple(self._losses),
            sum(totals.ended for totals in self._totals.values()) + len(still_open["gap"]),
            int((still_open["close_reason"] == CloseReason.OPEN).sum()),
            self._tracker.inbound,
            self._first_ns,
            self._last_ns,
            (),
            {},
            unknown,
            tuple(map(self._named, self._engine.open)),
            self._engine.episodes,
            tuple(self._engine.abstained()),
            self._opened,
            self._counted,
            self._kernel,
            tuple(self._unresolved()),
            self._loss_known,
        )

    def _unresolved(self) -> Iterator[str]:
        return (fact.label for number, fact in self.known.items() if not self.addresses.get(number))

    def _endpoint(self, endpoint_id: int, still_open: Connections) -> EndpointSummary:
        ended = self._totals.get(endpoint_id, _Totals())
        totals = _Totals(ended.ended, ended.open_ns, dict(ended.sums))
        totals.add(still_open)
        # those that are open are so until now, not only until they were last heard of
        totals.open_ns += int((self._last_ns - still_open["last_ns"]).sum())
        span_s = (self._last_ns - self._first_ns) / 1e9
        mean_open = totals.open_ns / 1e9 / span_s if span_s > 0 else None
        opens, closes, _, peak_open = self.churn.totals(endpoint_id)
        return EndpointSummary(
            endpoint_id,
            self.endpoints.get(endpoint_id, f"endpoint {endpoint_id}"),
            totals.ended + len(still_open),
            int((still_open["close_reason"] == CloseReason.OPEN).sum()),
            opens,
            {REASON_NAMES[reason]: int(closes[reason]) for reason in CloseReason if closes[reason]},
            peak_open,
            opens / span_s if span_s > 0 else None,
            _per_side(closes, span_s) if span_s > 0 else None,
            mean_open,
            int(closes.sum()) / mean_open if mean_open else None,
            totals.sums["bytes_received"],
            totals.sums["bytes_acked"],
            totals.sums["retransmits"],
            self._lifetimes.distributions(endpoint_id),
        )


def _per_side(closes: NDArray[np.int64], span_s: float) -> dict[str, float]:
    """Closes a second by side, of counts by close reason."""
    counts = np.bincount(SIDE_BY_REASON, weights=closes, minlength=len(SIDES))
    return {side: count / span_s for side, count in zip(SIDES, counts.tolist(), strict=True)}
