"""A whole trace in arrays: every connection, transition and finding, for those who look at all of it at once. Pure.

`Collector` listens to a replay like any report, so that what is shown, drawn, compared or exported is what `replay` says.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tracer.analysis import Analysis, Progress
from tracer.events import EventBatch, Events, is_transition, no_events
from tracer.facts import EndpointFact
from tracer.findings import Finding, Severity
from tracer.header import TraceHeader
from tracer.owners.owner import OwnerDetail
from tracer.owners.register import details_of
from tracer.roles import Role
from tracer.rows import Connections, blank_connections
from tracer.segments import joined
from tracer.summary import Summary


@dataclass(frozen=True)
class Collected:
    """A trace that was followed to its end.

    Attributes:
        header: what it says about itself.
        rows: every connection, shape (n_connections,), in the order in which they were first seen. Those that are open at the
            end have `close_reason` OPEN; inbound ones are left out.
        details: who opened each connection, as far as its trace knows more than pid and comm; as long as `rows`.
        events: transitions in trace order, shape (n_transitions,); empty unless they were asked for.
        early_ns: uint64, shape (n_transitions,): how much earlier each may have happened, 0 for exact ones.
        endpoints: label by endpoint id.
        known: what else is known of endpoints, by id.
        roles: what endpoints are for, by id, those that are known.
        findings: the last line of each episode, in the order in which they were opened.
        summary: the state at the end.
        truncated: why the end of the trace is missing; None: it is whole.
        rules: how many rules were asked.
        severities: by episode, the time of each line that gave it another severity, and which; the first one among them.
    """

    header: TraceHeader
    rows: Connections
    details: tuple[OwnerDetail | None, ...]
    events: Events
    early_ns: NDArray[np.uint64]
    endpoints: dict[int, str]
    known: dict[int, EndpointFact]
    roles: dict[int, Role]
    findings: tuple[Finding, ...]
    summary: Summary
    truncated: str | None
    rules: int = 0
    severities: dict[int, tuple[tuple[int, Severity], ...]] = field(default_factory=dict)


class Collector:
    """A listener of a replay that keeps all of it."""

    def __init__(self, with_events: bool = False, rules: int = 0) -> None:
        """Begin.

        Args:
            with_events: keep the transitions too: 144 bytes each.
            rules: how many are asked.
        """
        self._with_events = with_events
        self._rules = rules
        self._header: TraceHeader | None = None
        self._rows: list[Connections] = []
        self._details: list[OwnerDetail | None] = []
        self._events: list[Events] = []
        self._early: list[NDArray[np.uint64]] = []
        self._findings: dict[int, Finding] = {}  # by episode
        self._severities: dict[int, tuple[tuple[int, Severity], ...]] = {}
        self._collected: Collected | None = None

    @property
    def collected(self) -> Collected:
        """All of it; only once the trace is over."""
        assert self._collected is not None
        return self._collected

    def start(self, header: TraceHeader) -> None:
        """See `Listener`."""
        self._header = header

    def batch(self, batch: EventBatch, progress: Progress, analysis: Analysis) -> None:
        """See `Listener`."""
        if len(progress.ended):
            self._keep(progress.ended, analysis)
        for finding in progress.findings:
            self._findings[finding.episode] = finding
            before = self._severities.get(finding.episode, ())
            if not before or before[-1][1] != finding.severity:
                self._severities[finding.episode] = (*before, (finding.at_ns, finding.severity))
        if self._with_events and len(batch):
            kept = is_transition(batch.events)
            self._events.append(batch.events[kept])
            early_ns = np.zeros(len(batch), np.uint64) if batch.early_ns is None else batch.early_ns
            self._early.append(early_ns[kept])

    def tick(self, analysis: Analysis) -> None:
        """See `Listener`."""

    def finish(self, analysis: Analysis, truncated: str | None) -> None:
        """See `Listener`."""
        assert self._header is not None
        self._keep(analysis.open(), analysis)
        rows = np.concatenate([blank_connections(0), *self._rows])
        order = np.argsort(rows["first_seen_ns"], kind="stable")
        events, self._events = joined([no_events(), *self._events]), []
        self._collected = Collected(
            self._header,
            rows[order],
            tuple(self._details[index] for index in order.tolist()),
            events,
            np.concatenate([np.zeros(0, np.uint64), *self._early]),
            dict(analysis.endpoints),
            dict(analysis.known),
            analysis.roles,
            tuple(self._findings[episode] for episode in sorted(self._findings)),
            analysis.summary(),
            truncated,
            self._rules,
            self._severities,
        )

    def _keep(self, rows: Connections, analysis: Analysis) -> None:
        self._rows.append(rows)
        self._details += details_of(rows, analysis.owners)
