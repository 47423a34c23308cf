"""A source that is told what to watch as names move, that learns hosts nobody listed, and that says who does what.

It stands between a source and the pipeline: at each read it takes what look-ups found and what was answered on this host, and
changes what is watched; to what was read it adds the facts that came with it. It waits for look-ups at the start only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tracer.analysis import Analysis, Progress
from tracer.errors import ResolveError, SourceError
from tracer.events import ELSEWHERE, EventBatch, EventFlag, Events, is_adopted, is_opening
from tracer.facts import Fact
from tracer.feed import Source
from tracer.header import TraceHeader
from tracer.learner import LEARNT_MAX, Learner
from tracer.names.answers import AnswerWatcher
from tracer.names.book import NameBook
from tracer.names.follower import START_S, NameFollower
from tracer.names.records import Answer
from tracer.names.resolver import Resolver
from tracer.owners.book import OwnerBook
from tracer.roles import Role, role_of
from tracer.source import EBPF
from tracer.text import address_text
from tracer.watchlist import WatchList

LOOKS_PER_READ = 100
LOOK_BUDGET_NS = 10_000_000
"""For owners, between two reads that are 50 ms apart."""
WATCH_NS = 200_000_000
"""What is watched changes no more often: each time, connections that are open already are looked up in all namespaces."""
_WARNINGS_MAX = 100


class GuidedSource:
    """See above; a `tracer.feed.Feed`."""

    def __init__(
        self,
        open_source: Callable[[], Source],
        wanted: WatchList,
        *,
        learn: bool = True,
        must_resolve: bool = True,
        look_up: Callable[[str], Answer] | None = None,
        owners: OwnerBook | None = None,
    ) -> None:
        """Take the parts; nothing is opened or looked up before `start`.

        Args:
            open_source: opens what events come from; names are looked up meanwhile.
            wanted: what to watch.
            learn: whether hosts that are in no list may be learnt.
            must_resolve: whether it is an error if no name has an address at the start; else they may get one later.
            look_up: of one name; None: with this host's resolvers.
            owners: None: of this host.
        """
        self._open_source = open_source
        self._source: Source | None = None
        self._list = wanted
        self._book = NameBook(wanted.names())
        self._follower = NameFollower(look_up or Resolver().look_up)
        self._owners = owners or OwnerBook(looks_per_call=LOOKS_PER_READ, budget_ns=LOOK_BUDGET_NS)
        self._must_resolve = must_resolve
        self._learner = Learner() if learn and wanted.names() else None
        self._answers: AnswerWatcher | None = None
        self._stale = False  # what is watched is not what should be
        self._watched_ns = 0
        self._warned: set[str] = set()
        self._warnings: list[str] = []
        self._lacking: list[str] = []

    @property
    def name(self) -> str:
        """The value of `source` in every output."""
        return self._opened.name

    @property
    def resolution_ns(self) -> int:
        """How exact times are, in ns."""
        return self._opened.resolution_ns

    def start(self, patience_s: float = START_S) -> None:
        """Resolve names, for so long at most beside opening the source, and begin.

        Raises:
            SourceError: the source can't begin.
            ResolveError: not one of the names has an address, nothing else is watched, and that was not expected.
        """
        if self._learner is not None:
            try:
                self._answers = AnswerWatcher()
            except SourceError as error:
                self._learner = None
                self._lacking.append(f"hosts that are in no list can't be learnt: {error}")
        until_s = time.monotonic() + patience_s
        self._follower.ask(self._book.due(_now_ns()))
        self._source = self._open_source()
        self._follower.wait(max(until_s - time.monotonic(), 0.0))
        self._take_answers(_now_ns())
        waiting = self._list.without_address()
        if waiting and not self._follower.wait(0.0):
            self._warn(f"no answer yet for {_first(waiting)}; they are watched as soon as there is one")
        if self._must_resolve and not self._list.has_addresses():
            reasons = "; ".join(self._warnings)
            raise ResolveError(f"nothing to watch: {reasons}; check the name and /etc/resolv.conf, or give an address")
        self._watch()
        if self._learner is not None:
            self._opened.follow(())
        self._opened.start()

    def read(self, *, at_once: bool = False) -> EventBatch:
        """Everything there is now, with what became known; does not wait. Raises SourceError if the source died."""
        now_ns = _now_ns()
        batch = self._opened.read(at_once=at_once)
        if self._learner is not None and len(batch):
            self._learner.note_openings(batch.events, self._roles())
        # After the read: who asks for a name because an API told it to has opened its connection to that before. And before the
        # events are judged: who connects to where it was told has got its answer before.
        self._move(now_ns)
        return self._with_facts(self._wanted(batch, now_ns), now_ns)

    def sample(self, skaddrs: Iterable[int]) -> bool:
        """See `Source`."""
        return self._opened.sample(skaddrs)

    def warnings(self) -> list[str]:
        """See `Source`."""
        told, self._warnings = self._warnings, []
        return [*told, *self._opened.warnings()]

    def lacks(self) -> list[str]:
        """See `Source`."""
        return [*self._opened.lacks(), *self._lacking]

    def close(self) -> None:
        """See `Source`."""
        self._follower.close()
        if self._answers is not None:
            self._answers.close()
        if self._source is not None:
            self._source.close()

    @property
    def _opened(self) -> Source:
        assert self._source is not None, "it was not started"
        return self._source

    def note_open(self, analysis: Analysis) -> None:
        """What is open now: addresses with connections stay watched, and their owners are clients."""
        rows = analysis.open()
        texts = (address_text(row.tobytes()) for row in np.unique(rows["raddr"], axis=0))
        self._book.hold(text for text in texts if text is not None)
        if self._learner is not None:
            self._learner.note_open(rows, self._roles())
            self._opened.follow(self._learner.clients())

    def _roles(self) -> dict[int, Role]:
        return {number: fact.role for number, fact in self._list.known().items()}

    def _watch(self) -> None:
        self._stale = False
        candidates = {} if self._learner is None else self._learner.watch()
        try:
            self._opened.watch(self._list.watch() | candidates)
        except SourceError as error:
            if not candidates:
                raise
            self._warn(f"hosts that are in no list can't be learnt any more: {error}")
            self._learner = None
            self._opened.watch(self._list.watch())

    def _move(self, now_ns: int) -> None:
        """Watch what there is to watch by now."""
        changed = self._take_answers(now_ns)
        if self._learner is not None:
            changed |= self._learner.expire(now_ns)
        self._follower.ask(self._book.due(now_ns))
        self._stale |= changed
        if self._stale and now_ns - self._watched_ns >= WATCH_NS:
            self._watched_ns = now_ns
            self._watch()

    def _take_answers(self, now_ns: int) -> bool:
        """Learn from look-ups, and from what was answered on this host; whether there is something else to watch."""
        for answer in self._follower.answers():
            self._book.take(answer, now_ns)
        changed = self._take_overheard(now_ns)
        for change in self._book.changes():
            changed |= self._list.change(change.name, change.address, change.added, change.at_ns)
        for problem in (*self._book.problems(), *self._list.problems()):
            self._warn(problem)
        return changed

    def _take_overheard(self, now_ns: int) -> bool:
        if self._answers is None or self._learner is None:
            return False
        # A poller may be told of who talks to an API after the answer; parsing answers nobody wants is what costs.
        all_of_them = self._learner.listens(now_ns) or self.name != EBPF
        heard = self._answers.read(None if all_of_them else self._book)
        for answer in heard:
            self._book.take(answer, now_ns, overheard=True)
        return self._learner.overheard(heard, self._is_known, now_ns)

    def _is_known(self, name_or_address: str) -> bool:
        return name_or_address in self._book or self._list.covers(name_or_address)

    def _with_facts(self, batch: EventBatch, now_ns: int) -> EventBatch:
        found = self._owners.resolve(_openers(batch.events), now_ns)
        facts: tuple[Fact, ...] = (*self._list.facts(), *found)
        return replace(batch, facts=facts) if facts else batch

    def _wanted(self, batch: EventBatch, now_ns: int) -> EventBatch:
        """Only what is wanted of what was read, with endpoints that were learnt by it."""
        if not len(batch):
            return batch
        learner = self._learner
        if learner is None:
            return _without(batch, batch.events, batch.events["endpoint_id"] != ELSEWHERE)
        events = learner.placed(batch.events, self._list.number_at)
        self._promote(events, learner, now_ns)
        events = learner.relabelled(events, now_ns)
        return _without(batch, events, learner.let_through(events) & ~learner.found_again(events))

    def _promote(self, events: Events, learner: Learner, now_ns: int) -> None:
        """Watch what is learnt from these events."""
        for learnt in learner.promoted(events, self._list.labels()):
            endpoint = learnt.endpoint
            role = role_of(endpoint.label)
            role = Role.BLOB if role is Role.UNKNOWN else role
            number = self._list.add(endpoint, role=role, origin=learnt.why, learnt=True)
            for address in learner.addresses_of(learnt):
                self._list.change(str(endpoint.host), address, True, now_ns)
            learner.note_learnt(learnt, number, now_ns)
            self._book.watch([str(endpoint.host)])
            self._stale = True
            if learner.is_full:
                self._warn(f"{LEARNT_MAX} hosts that were in no list have been learnt; no more will be")

    def _warn(self, text: str) -> None:
        if text not in self._warned and len(self._warned) < _WARNINGS_MAX:
            self._warned.add(text)
            self._warnings.append(text)


class OpenConnections:
    """Tells a guided source once a second what is open; a listener like any other."""

    def __init__(self, source: GuidedSource) -> None:
        self._source = source

    def start(self, header: TraceHeader) -> None:
        """Nothing to do."""

    def batch(self, batch: EventBatch, progress: Progress, analysis: Analysis) -> None:
        """Nothing to do."""

    def tick(self, analysis: Analysis) -> None:
        """Tell it."""
        self._source.note_open(analysis)

    def finish(self, analysis: Analysis, truncated: str | None) -> None:
        """Nothing to do."""


def _openers(events: Events) -> list[tuple[int, int, int]]:
    """(pid, cgroup id or -1, boottime of the last) of those who opened connections, or hold some that were found open."""
    known = np.uint32(EventFlag.OWNER | EventFlag.HAS_TASK)
    begun = np.flatnonzero((is_opening(events) | is_adopted(events)) & (events["flags"] & known == known))
    if not len(begun):
        return []
    has_cgroup = events["flags"][begun] & np.uint32(EventFlag.HAS_CGROUP) != 0
    cgroups = np.where(has_cgroup, events["cgroup_id"][begun].astype(np.int64), -1).tolist()
    times_ns = events["ts_ns"][begun].astype(np.int64).tolist()
    last_ns = dict(zip(zip(events["pid"][begun].tolist(), cgroups, strict=True), times_ns, strict=True))
    return [(pid, cgroup_id, at_ns) for (pid, cgroup_id), at_ns in last_ns.items()]


def _without(batch: EventBatch, events: Events, wanted: NDArray[np.bool_]) -> EventBatch:
    """The batch with those of these events in place of its own that are wanted."""
    if events is batch.events and wanted.all():
        return batch
    early_ns = None if batch.early_ns is None else batch.early_ns[wanted]
    return replace(batch, events=events[wanted], early_ns=early_ns)


def _first(labels: list[str]) -> str:
    shown = ", ".join(labels[:3])
    return shown if len(labels) <= 3 else f"{shown} and {len(labels) - 3} more"


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
