"""What a rule is, what it is shown, and what it may answer. Pure.

A rule is one file, one class, one id. The engine shows it every piece of the trace (`observe`), and asks for its judgement
(`judge`) at ticks of event time. It answers with sightings: "this is the case, since then, as far as I can see now". The
engine turns sightings into episodes. A rule keeps what it needs and forgets what is older than its window.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from tracer.events import Events
from tracer.findings import Severity, Suspect
from tracer.rows import Connections
from tracer.rules.thresholds import Thresholds
from tracer.rules.view import View

SECOND_NS = 1_000_000_000
T = TypeVar("T", bound=Thresholds)


@dataclass(frozen=True)
class Sighting:
    """A rule's answer: something is the case.

    Attributes:
        key: of the episode; sightings with the same key while it lasts are the same episode.
        endpoint_id: where.
        started_ns: the first evidence of this sighting; an episode starts at its first one's.
        seen_ns: the latest evidence.
        hold_ns: how long after the latest evidence the episode is over by itself.
        severity, confidence, summary, evidence, advice, suspects: see `Finding`.
        absence: it rests on something *not* having been seen; where events were lost it is withheld.
    """

    key: Hashable
    endpoint_id: int
    started_ns: int
    seen_ns: int
    hold_ns: int
    severity: Severity
    confidence: float
    summary: str
    advice: str
    evidence: dict[str, Any] = field(default_factory=dict)
    suspects: tuple[Suspect, ...] = ()
    absence: bool = False


class Over(NamedTuple):
    """A rule's answer: what it saw has ended, and this is when that was seen; `recovered` says in words what showed it."""

    key: Hashable
    at_ns: int
    recovered: str = ""


Answer = Sighting | Over


class Rule(ABC, Generic[T]):
    """One rule. Its docstring explains it to users, under the headings of HEADINGS.

    Attributes:
        id: as in every output.
        Settings: the class of its thresholds.
        needs: fields of connections without which it can't judge; it abstains on a trace that has none of them. "sk_err" is that
            of connections that were cut off, "connect_err" that of those that were never established.
        resolution_ns_max: the coarsest time stamps that it can work with.
        benign: what it finds is no fault and shown only if asked for.
    """

    id: ClassVar[str]
    Settings: ClassVar[type[Thresholds]]
    needs: ClassVar[tuple[str, ...]] = ()
    resolution_ns_max: ClassVar[int] = 5 * SECOND_NS
    benign: ClassVar[bool] = False

    def __init__(self, settings: T) -> None:
        self.settings = settings

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """Take the next piece: its events, and the connections that ended with it; both in trace order."""

    @abstractmethod
    def judge(self, view: View) -> Iterable[Answer]:
        """What is the case at `view.now_ns`."""


HEADINGS = ("Finds", "Matters", "Needs", "Parameters", "Cannot tell apart")
