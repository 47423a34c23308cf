"""A trace as a timeline: tracks, and marks on them in the order of time. Pure.

Each endpoint is a group of tracks: its findings, how many connections are open, how many are opened a second, and lanes of
connections, with the stays in states nested in each. One more group is the trace itself: what holds for all of it, and the
intervals in which events were lost. Marks of one track and one time are in the order in which they nest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tracer.collected.collector import Collected
from tracer.exports.counts import Steps, open_steps, per_second_steps
from tracer.exports.stays import Stays, stays_of
from tracer.facts import EndpointFact
from tracer.lanes import lanes_of
from tracer.lifecycle import CloseReason
from tracer.roles import Role
from tracer.segments import take

_NEVER_NS = np.iinfo(np.int64).max


class Mark(IntEnum):
    """What happens on a track; `value` of a mark is an index into what is named here."""

    END = 0  # of the slice that began last and has not ended
    COUNT = 1  # the value itself
    STATE = 2  # TcpState
    CONNECTION = 3  # collected.rows
    FINDING = 4  # collected.findings
    LOSS = 5  # collected.summary.losses
    TRACE = 6  # 0


MARK_DTYPE = np.dtype([("ts_ns", "i8"), ("value", "i8"), ("track", "i4"), ("mark", "i4")])
Marks = NDArray[np.void]
"""A structured array of MARK_DTYPE, shape (n_marks,)."""


@dataclass(frozen=True)
class Track:
    """A line of the timeline, or a group of them.

    Attributes:
        number: from 1; `track` of the marks on it.
        name: tracks of one name in one group are shown as one: lanes of connections.
        parent: number of the group that it is in, 0 none.
        rank: its place in the group.
        unit: of a count; "" slices, or a group.
        description: what it shows.
    """

    number: int
    name: str
    parent: int = 0
    rank: int = 0
    unit: str = ""
    description: str = ""


@dataclass(frozen=True)
class Timeline:
    """Everything that is drawn.

    Attributes:
        tracks: groups before what is in them.
        marks: in the order of time; none before `since_ns` or after `until_ns`.
        since_ns, until_ns: boottime of the beginning and the end of the trace; both 0 where nothing happened.
    """

    tracks: tuple[Track, ...]
    marks: Marks
    since_ns: int
    until_ns: int


def timeline_of(collected: Collected) -> Timeline:
    """The timeline of a trace."""
    since_ns, until_ns = _span(collected)
    drawing = _Drawing(since_ns, until_ns)
    trace = drawing.track("trace", description="The capture itself, and when events were lost or nobody was looking.")
    drawing.slices(trace, "capture", Mark.TRACE, [(since_ns, until_ns)], [0], 0)
    losses = [(loss.since_ns, loss.until_ns) for loss in collected.summary.losses]
    drawing.slices(trace, "lost events", Mark.LOSS, losses, range(len(losses)), 1)
    stays = stays_of(collected, until_ns)
    numbers = {*collected.endpoints, *collected.rows["endpoint_id"].tolist(), *(each.endpoint_id for each in collected.findings)}
    findings: dict[int, list[int]] = {}
    for index, finding in enumerate(collected.findings):
        findings.setdefault(finding.endpoint_id, []).append(index)
    order = np.argsort(collected.rows["endpoint_id"], kind="stable")
    sorted_id = collected.rows["endpoint_id"][order]
    for number in sorted(numbers):
        own = order[np.searchsorted(sorted_id, number) : np.searchsorted(sorted_id, number, side="right")]
        _draw_endpoint(drawing, collected, stays, number, findings.get(number, []), own)
    return drawing.timeline()


def _span(collected: Collected) -> tuple[int, int]:
    """From the first event to the last thing that is known."""
    summary, rows = collected.summary, collected.rows
    losses = summary.losses
    starts = [*([summary.first_ns] if summary.first_ns >= 0 else []), *rows["first_seen_ns"][:1].tolist()]
    since_ns = min(starts or [loss.since_ns for loss in losses] or [0])
    ends = [summary.last_ns, int(rows["last_ns"].max(initial=0)), *(loss.until_ns for loss in losses)]
    ends += [max(each.ended_ns, each.at_ns) for each in collected.findings]
    return since_ns, max(since_ns, *ends)


def _draw_endpoint(
    drawing: _Drawing, collected: Collected, stays: Stays, number: int, findings: list[int], index: NDArray[np.intp]
) -> None:
    """An endpoint: its findings and its connections, by their indexes."""
    role = collected.roles.get(number, Role.UNKNOWN)
    label = collected.endpoints.get(number, f"endpoint {number}")
    name = label if role is Role.UNKNOWN else f"{label} ({role.value})"
    group = drawing.track(name, description=_described(collected.known.get(number)))
    own = sorted(findings, key=lambda at: collected.findings[at].started_ns)
    spans = [(collected.findings[at].started_ns, collected.findings[at].ended_ns) for at in own]
    drawing.slices(group, "findings", Mark.FINDING, spans, own, 0)
    rows = take(collected.rows, index)
    unended = rows["close_reason"] == CloseReason.OPEN
    ends_ns = np.where(unended, _NEVER_NS, stays.end_ns[index])
    drawing.count(
        group, "open connections", "connections", open_steps(stays.start_ns[index], ends_ns, drawing.since_ns), 1,
        "A connection whose end was not seen counts until its last event.",
    )  # fmt: skip
    opened_ns = rows["opened_ns"][rows["opened_ns"] >= 0]
    drawing.count(
        group, "opened each second", "connections", per_second_steps(opened_ns, drawing.since_ns), 2,
        "Openings that were seen, in seconds counted from the beginning of the trace.",
    )  # fmt: skip
    drawing.connections(group, stays, index, 3)


def _described(fact: EndpointFact | None) -> str:
    """What is known of an endpoint beside its name."""
    if fact is None:
        return ""
    mirrored = {"": "", "*": "Asked instead of any registry."}.get(fact.mirror_of, f"Asked instead of {fact.mirror_of}.")
    return " ".join(filter(None, [f"Known from {fact.origin}." if fact.origin else "", mirrored]))


class _Drawing:
    """A timeline in the making."""

    def __init__(self, since_ns: int, until_ns: int) -> None:
        self.since_ns = since_ns
        self._until_ns = until_ns
        self._tracks: list[Track] = []
        self._marks: list[Marks] = []

    def track(self, name: str, parent: int = 0, rank: int = 0, unit: str = "", description: str = "") -> int:
        """A new track; its number."""
        self._tracks.append(Track(len(self._tracks) + 1, name, parent, rank, unit, description))
        return len(self._tracks)

    def slices(
        self, group: int, name: str, mark: Mark, spans: Sequence[tuple[int, int]], values: Sequence[int], rank: int
    ) -> None:
        """Slices of a group, as many tracks as they need; a negative end is the trace's.

        Args:
            group: number of the group.
            name: of the tracks.
            mark: what begins.
            spans: [start, end) of each, in the order of their starts.
            values: of each, as long as `spans`.
            rank: place in the group.
        """
        bounds = np.array(spans, np.int64).reshape(-1, 2)
        start_ns = np.clip(bounds[:, 0], self.since_ns, self._until_ns)
        end_ns = np.where(bounds[:, 1] < 0, self._until_ns, np.clip(bounds[:, 1], start_ns, self._until_ns))
        order = np.argsort(start_ns, kind="stable")
        start_ns, end_ns = start_ns[order], end_ns[order]
        track = self._lanes(group, name, rank, lanes_of(start_ns, end_ns))
        marks = np.zeros((len(order), 2), MARK_DTYPE)
        marks["track"] = track[:, None]
        marks["ts_ns"] = np.stack([start_ns, end_ns], axis=1)
        marks["mark"] = mark, Mark.END
        marks["value"][:, 0] = np.array(values, np.int64)[order]
        self._marks.append(marks.reshape(-1))

    def count(self, group: int, name: str, unit: str, steps: Steps, rank: int, description: str) -> None:
        """A count of a group."""
        marks = np.zeros(len(steps[0]), MARK_DTYPE)
        marks["ts_ns"], marks["value"] = steps
        marks["track"], marks["mark"] = self.track(name, group, rank, unit, description), Mark.COUNT
        self._marks.append(marks[marks["ts_ns"] <= self._until_ns])

    def connections(self, group: int, stays: Stays, index: NDArray[np.intp], rank: int) -> None:
        """Connections of a group, those at `index`, rising, with their states."""
        start_ns, end_ns = stays.start_ns[index], stays.end_ns[index]
        track = self._lanes(group, "connections", rank, lanes_of(start_ns, end_ns))
        place = np.minimum(np.searchsorted(index, stays.connection), max(len(index) - 1, 0))
        own = np.flatnonzero(index[place] == stays.connection) if len(index) else np.zeros(0, np.intp)
        place = place[own]
        begin, enter, leave, end = (np.zeros(count, MARK_DTYPE) for count in (len(index), len(own), len(own), len(index)))
        begin["mark"], begin["value"], begin["ts_ns"] = Mark.CONNECTION, index, start_ns
        enter["mark"], enter["value"], enter["ts_ns"] = Mark.STATE, stays.state[own], stays.state_start_ns[own]
        leave["ts_ns"], end["ts_ns"] = stays.state_end_ns[own], end_ns
        begin["track"] = end["track"] = track
        enter["track"] = leave["track"] = track[place]
        states = np.stack([enter, leave], axis=1).reshape(-1)
        # connection by connection they are in the order in which they nest
        whose = np.concatenate([np.arange(len(index)), np.repeat(place, 2), np.arange(len(index))])
        self._marks.append(np.concatenate([begin, states, end])[np.argsort(whose, kind="stable")])

    def _lanes(self, group: int, name: str, rank: int, lanes: NDArray[np.intp]) -> NDArray[np.intp]:
        """The number of the track of each, given its lane; with as many new tracks."""
        first = len(self._tracks) + 1
        for _ in range(int(lanes.max(initial=-1)) + 1):
            self.track(name, group, rank)
        return first + lanes

    def timeline(self) -> Timeline:
        """What was drawn."""
        marks = np.concatenate([np.zeros(0, MARK_DTYPE), *self._marks])
        marks = marks[np.argsort(marks["ts_ns"], kind="stable")]
        return Timeline(tuple(self._tracks), marks, self.since_ns, self._until_ns)
