"""The memory of names: which addresses each has now and had before, and when to ask again. Pure.

Theory of operation. A registry's name is answered with some of its addresses, others each time, and with short lives.
Connections outlive an answer by far, and clients keep answers longer than they should. So answers are collected: an address goes
only after a whole time of grace in which every answer lacked it, and never while a connection to it is open. A failure to answer
says nothing about addresses, so nothing goes because of one: the time of grace begins with the first answer that lacks it.

Answers are of two kinds. Own look-ups were checked against their question; they decide what is current and when to ask again.
What was overheard on the wire anybody may have sent: it may fill free places, and pushes nothing out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from tracer.names.records import Answer
from tracer.text import printable

_SECOND_NS = 1_000_000_000
TTL_S_MIN = 5
TTL_S_MAX = 300
RETRY_S_MAX = 60
"""Failures are asked about again after TTL_S_MIN, then twice as long each time up to this."""
ASKED_S = 30
"""A name that was due and never answered is due again; twice what the slowest look-up takes, and more."""
GRACE_S = 600
ADDRESSES_MAX = 256
NAMES_MAX = 1000
PAST_MAX = 256
_PROBLEMS_MAX = 8


@dataclass(frozen=True)
class Change:
    """An address that a name got or lost.

    Attributes:
        name: whose it is.
        address: canonical text.
        added: False if it was removed.
        at_ns: boottime.
    """

    name: str
    address: str
    added: bool
    at_ns: int


@dataclass(frozen=True)
class Interval:
    """A time [start_ns, end_ns) in which an address was a name's, boottime; end_ns is -1 while it still is."""

    address: str
    start_ns: int
    end_ns: int


@dataclass
class _Known:
    start_ns: int
    left_ns: int  # when an answer first lacked it, or it was last overheard; of no meaning while it is current
    overheard: bool


@dataclass
class _Name:
    due_ns: int = 0
    failures: int = 0
    current: tuple[str, ...] = ()
    known: dict[str, _Known] = field(default_factory=dict)
    goes_ns: int = 0  # nothing may go before
    past: deque[Interval] = field(default_factory=lambda: deque(maxlen=PAST_MAX))
    said: set[str] = field(default_factory=set)


class NameBook:
    """What is known of at most NAMES_MAX names, at most ADDRESSES_MAX addresses and PAST_MAX past intervals each."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names: dict[str, _Name] = {}
        self._held: frozenset[str] = frozenset()
        self._changes: dict[tuple[str, str], Change] = {}
        self._problems: dict[str, dict[str, None]] = {}
        self._wake_ns = 0
        self._full = False
        self.watch(names)

    def watch(self, names: Iterable[str]) -> None:
        """Follow these names too, in lower case and without the dot of the root; new ones are due at once."""
        for given in names:
            name = given.lower().removesuffix(".")
            if name in self._names:
                continue
            if len(self._names) >= NAMES_MAX:
                if not self._full:
                    self._problems[f"only {NAMES_MAX} names are followed; this one and further ones are not"] = {name: None}
                self._full = True
                return
            self._names[name] = _Name()
            self._wake_ns = 0

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def take(self, answer: Answer, now_ns: int, *, overheard: bool = False) -> None:
        """Learn from an answer; one for a name that is not watched is passed over.

        Args:
            answer: of a look-up, or from the wire.
            now_ns: boottime.
            overheard: it comes from the wire: nobody knows who sent it, and a look-up is due all the same.
        """
        name = self._names.get(answer.name)
        if name is None:
            return
        if overheard:
            self._take_overheard(answer, name, now_ns)
            return
        if answer.problem:
            kept = bool(name.known) and not answer.addresses
            self._say(answer.name, name, answer.problem, "; the addresses it had stay watched" if kept else "")
        if answer.addresses:
            name.failures = 0
            self._take_current(answer, name, now_ns)
            wait_s = min(max(answer.ttl_s, TTL_S_MIN), TTL_S_MAX)
        else:
            wait_s = min(TTL_S_MIN << min(name.failures, 10), RETRY_S_MAX)
            name.failures += 1
        name.due_ns = now_ns + wait_s * _SECOND_NS
        self._wake_ns = 0

    def due(self, now_ns: int) -> list[str]:
        """The names to look up now, each told once until its answer came or ASKED_S passed.

        Also lets go of what is past its grace, so it wants to be called a few times a second; it costs next to nothing then.
        """
        if now_ns < self._wake_ns:
            return []
        due = []
        self._wake_ns = now_ns + TTL_S_MAX * _SECOND_NS
        for text, name in self._names.items():
            if name.goes_ns <= now_ns:
                self._let_go(text, name, now_ns)
            if name.due_ns <= now_ns:
                due.append(text)
                name.due_ns = now_ns + ASKED_S * _SECOND_NS
            self._wake_ns = min(self._wake_ns, name.due_ns, name.goes_ns)
        return due

    def hold(self, addresses: Iterable[str]) -> None:
        """Say which addresses have open connections, in place of those said before: they stay until they are no longer said."""
        held = frozenset(addresses)
        if self._held - held:
            self._wake_ns = 0
            for name in self._names.values():
                name.goes_ns = 0
        self._held = held

    def addresses(self, name: str) -> tuple[str, ...]:
        """What a name has, as of the last time that `take` or `due` was told: those of its last answer first."""
        entry = self._names.get(name)
        if entry is None:
            return ()
        return tuple(dict.fromkeys((*entry.current, *entry.known)))

    def changes(self) -> list[Change]:
        """What changed since the last call; what came and went in between is left out."""
        changes = list(self._changes.values())
        self._changes.clear()
        return changes

    def history(self, name: str) -> tuple[Interval, ...]:
        """When a name had which address: past intervals in order of their ends, the last PAST_MAX, then those that go on."""
        entry = self._names.get(name)
        if entry is None:
            return ()
        return (*entry.past, *(Interval(address, known.start_ns, -1) for address, known in entry.known.items()))

    def problems(self) -> list[str]:
        """Each problem that is new since the last call, one line with the names it is about."""
        lines = []
        for problem, names in self._problems.items():
            first = ", ".join(list(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            lines.append(printable(f"{first}: {problem}"))
        self._problems.clear()
        return lines

    def _take_overheard(self, answer: Answer, name: _Name, now_ns: int) -> None:
        for address in answer.addresses:
            known = name.known.get(address)
            if known is not None:
                known.left_ns = max(known.left_ns, now_ns)
            elif len(name.known) < ADDRESSES_MAX:
                self._add(answer.name, name, address, now_ns, overheard=True)

    def _take_current(self, answer: Answer, name: _Name, now_ns: int) -> None:
        leaving = set(name.current)
        held = sum(address in self._held and address not in answer.addresses for address in name.known)
        # Known ones first: of an answer that is too long, the same part stays each time.
        ordered = sorted(answer.addresses, key=lambda address: address not in name.known)
        name.current = tuple(ordered[: ADDRESSES_MAX - held])
        for address in leaving.difference(name.current):
            name.known[address].left_ns = now_ns
        if len(name.current) < len(ordered):
            self._say(answer.name, name, f"it has more than {ADDRESSES_MAX} addresses; the rest is not watched")
        self._make_room(answer.name, name, now_ns)
        for address in name.current:
            known = name.known.get(address)
            if known is None:
                self._add(answer.name, name, address, now_ns, overheard=False)
            else:
                known.overheard = False
        name.goes_ns = 0

    def _make_room(self, text: str, name: _Name, now_ns: int) -> None:
        """Let go of former addresses for current ones where there are too many: overheard ones first, then the longest gone."""
        room = ADDRESSES_MAX - len(name.current)
        current = set(name.current)
        former = [address for address in name.known if address not in current]
        # Held ones sort last; `current` was cut so that they have room.
        former.sort(key=lambda each: (each in self._held, not name.known[each].overheard, name.known[each].left_ns))
        surplus = former[: max(len(former) - room, 0)]
        if any(not name.known[address].overheard for address in surplus):
            self._say(
                text, name, f"it has more than {ADDRESSES_MAX} addresses; those not answered for the longest are not watched"
            )
        for address in surplus:
            self._remove(text, name, address, now_ns)

    def _let_go(self, text: str, name: _Name, now_ns: int) -> None:
        current = set(name.current)
        name.goes_ns = now_ns + GRACE_S * _SECOND_NS
        for address in [address for address in name.known if address not in current and address not in self._held]:
            goes_ns = name.known[address].left_ns + GRACE_S * _SECOND_NS
            if goes_ns <= now_ns:
                self._remove(text, name, address, now_ns)
            else:
                name.goes_ns = min(name.goes_ns, goes_ns)

    def _add(self, text: str, name: _Name, address: str, now_ns: int, *, overheard: bool) -> None:
        name.known[address] = _Known(now_ns, now_ns, overheard)
        self._note(Change(text, address, True, now_ns))

    def _remove(self, text: str, name: _Name, address: str, now_ns: int) -> None:
        known = name.known.pop(address)
        name.past.append(Interval(address, known.start_ns, now_ns))
        self._note(Change(text, address, False, now_ns))

    def _note(self, change: Change) -> None:
        key = (change.name, change.address)
        before = self._changes.pop(key, None)
        if before is None or before.added == change.added:
            self._changes[key] = change

    def _say(self, text: str, name: _Name, problem: str, consequence: str = "") -> None:
        if problem in name.said or len(name.said) >= _PROBLEMS_MAX:
            return
        name.said.add(problem)
        self._problems.setdefault(problem + consequence, {})[text] = None
