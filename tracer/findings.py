"""Findings: what a rule says is wrong, as an episode with a beginning, changes and an end. Pure.

A finding line is made where an episode opens, changes or closes, never per event. Times are boottime in ns; -1 is "not yet".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any


class Severity(IntEnum):
    """How much it matters: NOTICE is worth knowing, WARNING hurts somebody, CRITICAL stops pulls."""

    NOTICE = 0
    WARNING = 1
    CRITICAL = 2

    @property
    def text(self) -> str:
        """The name in every output."""
        return self.name.lower()


class FindingState(Enum):
    """Where in its episode a finding is; the values are `state` in every output."""

    OPEN = "open"
    UPDATE = "update"
    CLOSED = "closed"


@dataclass(frozen=True)
class Suspect:
    """Somebody whose connections made a finding.

    Attributes:
        pid: of its most recent process; -1 unknown.
        comm: process name, b"" unknown.
        cgroup_id: -1 unknown.
        container, unit, cmdline: None unknown; the last with secrets masked.
        opens_per_min: connections opened to the endpoint in the last minute (or as long as there is); None where that is too
            short, or where `share` is of something else.
        share: of all connections opened to the endpoint in that time; without a rate, of those that the finding is about. 0..1.
    """

    pid: int
    comm: bytes
    cgroup_id: int
    opens_per_min: float | None
    share: float
    container: str | None = None
    unit: str | None = None
    cmdline: str | None = None


@dataclass(frozen=True)
class Finding:
    """One line about one episode.

    Attributes:
        rule: its id.
        episode: number of the episode in this trace, from 1; the same in all of its lines.
        confidence: 0..1, that the rule's name for it is right.
        endpoint_id: where; the label is in the trace.
        started_ns: the first evidence.
        detected_ns: event time at which the episode was opened.
        ended_ns: the last evidence, or what showed that it is over; -1 while it lasts.
        at_ns: event time of this line.
        summary: a sentence; made of numbers and names that are safe to print once passed through `text.printable`.
        evidence: what it rests on, JSON values by name; `causes`, where it is there, is what may be behind it with the
            confidence of each.
        suspects: most likely first.
        advice: what to do now.
        benign: no fault; shown only if asked for.
    """

    rule: str
    episode: int
    state: FindingState
    severity: Severity
    confidence: float
    endpoint_id: int
    started_ns: int
    detected_ns: int
    ended_ns: int
    at_ns: int
    summary: str
    evidence: dict[str, Any]
    suspects: tuple[Suspect, ...]
    advice: str
    benign: bool = False
