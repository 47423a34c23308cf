"""From lines to the batches of a trace, a block at a time. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from tracer.events import EventBatch, Events
from tracer.exactness import exactness_text
from tracer.header import ORIGINS, ROLES, TraceHeader, origins_text, roles_text
from tracer.imports.columns import columns_of
from tracer.imports.ends import Ends
from tracer.imports.formats import Format, told
from tracer.imports.readings import Lost, Transition, aside
from tracer.imports.selection import Selection
from tracer.imports.timeline import Clock, Timeline, clock_of
from tracer.imports.window import Loss, Piece, Window, parted
from tracer.roles import Role
from tracer.segments import take

SOURCE = "ebpf"
"""What all these tools are: programs, or the kernel itself, at the tracepoint that regtrace's own program sits at."""
QUOTED = 3
_QUOTED_BYTES = 120
_SAMPLE = 2000


class Importer:
    """See above.

    Attributes:
        lines: read so far.
        transitions: understood, of all sockets.
        selected: of those, the ones that go to a wanted endpoint.
        lost: events that the tool says it lost; at least so many.
        misunderstood: lines that could not be read.
        quotes: the first of them, with their line numbers (from 1).
        format: what the lines are; None as long as none was understood.
    """

    def __init__(self, selection: Selection, formats: Sequence[Format]) -> None:
        """What is wanted, and the formats that the lines may have."""
        self.lines = self.transitions = self.selected = self.lost = self.misunderstood = 0
        self.quotes: list[tuple[int, bytes]] = []
        self.format: Format | None = None
        self._selection = selection
        self._formats = formats
        self._window = Window()
        self._ends = Ends()
        self._losses: list[Loss] = []
        self._reached_ns = self._told_ns = 0
        self._clock = Clock.NONE
        self._timeline = Timeline(Clock.NONE, 0)

    @property
    def resolution_ns(self) -> int:
        """How exact the times are; known with the format."""
        return self._timeline.resolution_ns

    @property
    def clock_steps(self) -> int:
        """How often the clock that the lines were stamped with was set back."""
        return self._timeline.clock_steps

    @property
    def joined_by_order(self) -> int:
        """Connections of which it is not sure which opening was theirs."""
        return self._ends.by_order

    def header(self) -> TraceHeader:
        """What the trace says about itself; once the format is known."""
        assert self.format is not None
        known = self._selection.watched.known()
        return TraceHeader(
            SOURCE,
            f"imported from {self.format.title}, {exactness_text(self.resolution_ns)}; what was lost is not known",
            self.resolution_ns,
            endpoints=self._selection.watched.labels(),
            settings={
                "imported": self.format.title,
                "times": _TIMES[self._clock],
                "lacks": self.format.lacks,
                "watched": "; ".join(self._selection.texts()),
                ROLES: roles_text({number: fact.role for number, fact in known.items() if fact.role is not Role.UNKNOWN}),
                ORIGINS: origins_text({number: fact.origin for number, fact in known.items()}),
            },
            loss_known=False,
        )

    def feed(self, lines: Sequence[bytes]) -> list[EventBatch]:
        """Take the next lines, without their ends."""
        if self.format is None:
            self._begin(lines)
        transitions, losses = self._understood(lines)
        self.lines += len(lines)
        columns = columns_of(transitions)
        events = columns.events
        times_ns, early_ns = self._timeline.times(columns)
        events["ts_ns"] = times_ns
        for position, count in losses:
            following = times_ns[np.searchsorted(columns.position, position) :]
            self._losses.append(Loss(int(following[0]) if len(following) else self._latest_ns(events) + 1, count))
        self._reached_ns = self._latest_ns(events)
        events["endpoint_id"] = self._selection.endpoints(events)
        wanted = np.flatnonzero(events["endpoint_id"])
        self.selected += len(wanted)
        return list(self._batches(self._window.add(take(events, wanted), early_ns[wanted]), last=False))

    def finish(self) -> list[EventBatch]:
        """What was held back."""
        return list(self._batches(self._window.rest(), last=True))

    def _latest_ns(self, events: Events) -> int:
        return max(self._reached_ns, int(events["ts_ns"].max())) if len(events) else self._reached_ns

    def _begin(self, lines: Sequence[bytes]) -> None:
        self.format = told(lines, self._formats)
        if self.format is None:
            return
        self._parser = self.format.parser()
        sampler = self.format.parser()
        found = map(sampler.parse, lines)
        sample = list(islice((each for each in found if isinstance(each, Transition)), _SAMPLE))
        self._clock = clock_of(sample)
        exact_ns = max((each.exact_ns for each in sample if self._clock.shown_by(each)), default=0)
        self._timeline = Timeline(self._clock, exact_ns)

    def _understood(self, lines: Sequence[bytes]) -> tuple[list[Transition], list[tuple[int, int]]]:
        """The transitions, and losses as (index of the transition after it, count)."""
        parse = aside if self.format is None else self._parser.parse
        shown_by = self._clock.shown_by
        transitions: list[Transition] = []
        losses = []
        for index, line in enumerate(lines):
            found = parse(line)
            if isinstance(found, Transition) and shown_by(found):
                transitions.append(found)
            elif isinstance(found, Lost):
                losses.append((len(transitions), found.events))
                self.lost += found.events
            elif found is None or isinstance(found, Transition):
                self.misunderstood += 1
                if len(self.quotes) < QUOTED:
                    self.quotes.append((self.lines + index + 1, line[:_QUOTED_BYTES]))
        self.transitions += len(transitions)
        return transitions, losses

    def _batches(self, piece: Piece, last: bool) -> Iterator[EventBatch]:
        """A piece of the trace as batches: each loss before what happened after it."""
        events = piece.events
        unnumbered = np.flatnonzero(events["skaddr"] == 0)
        if len(unnumbered):
            some = take(events, unnumbered)
            self._ends.number(some)
            events[unnumbered] = some
        self._losses.sort(key=lambda loss: loss.at_ns)
        until_ns = int(events["ts_ns"][-1]) if len(events) else -1
        due = [loss for loss in self._losses if last or loss.at_ns <= until_ns]
        self._losses = self._losses[len(due) :]
        for part, loss in parted(piece, due):
            at_ns = 0 if loss is None else max(loss.at_ns, 1)
            yield EventBatch(
                part.events,
                SOURCE,
                self.resolution_ns,
                lost=0 if loss is None else loss.events,
                lost_since_ns=max(min(self._told_ns, at_ns - 1), 0),
                lost_until_ns=at_ns,
                early_ns=part.early_ns if part.early_ns.any() else None,
                facts=self._selection.watched.facts(),
            )
            if len(part.events):
                self._told_ns = int(part.events["ts_ns"][-1])


_TIMES = {
    Clock.EXACT: "seconds, as the lines give them",
    Clock.DAY: "seconds since midnight of the first day, by the host's own clock; each is the latest possible",
    Clock.NONE: "none: durations laid behind each other in the order of the lines",
}
