"""The engine: asks the rules at ticks of event time, and turns their sightings into episodes. Pure.

Ticks. Time is what the trace says it is: the largest time stamp or clock mark so far. The rules are asked at the end of every
cell of TICK_NS in which something happened, and at every whole second for QUIET_NS after it, so that silence is judged too;
after that only when an episode is due to end, for an hour. A tick comes before the first event that lies behind it. All of that
depends on the trace alone, not on how it was read: the same findings with the same times for every cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tracer.events import FIELD_FLAGS, EventFlag, Events, TcpState
from tracer.exactness import UNTIMED_NS
from tracer.findings import Finding, FindingState, Severity
from tracer.rows import Connections
from tracer.rules.rule import Answer, Over, Rule, Sighting
from tracer.rules.ticks import TICK_NS
from tracer.rules.view import Ended, View
from tracer.segments import joined

SECOND_NS = 1_000_000_000
QUIET_NS = 330 * SECOND_NS
"""Longer than any rule waits for something that does not come (textbook/token-aging: 270 s; the default token: 300 s)."""
WAITING_MAX = 1 << 15
"""Events that are kept for a cell; more are shown to the rules in pieces, which makes no difference to them."""
PATIENCE_NS = 3600 * SECOND_NS
"""An episode that is seen anew for longer than that in total silence is not asked for any more: a clock has leapt."""
UPDATE_NS = 30 * SECOND_NS
"""An episode that goes on is told of again this often, and when its severity or confidence changes."""
CONFIDENCE_STEP = 0.1
LOSS_WEAKENS = 0.7
COARSE_NS = 60 * SECOND_NS
"""So long a time that was known to more than a rule can work with keeps it from judging."""
COVERAGE_MIN = 0.9
"""Where a smaller share of the connections was seen, findings are weaker, as where events were lost."""
EPISODES_MAX = 10_000
_MOMENTS = {"sk_err": 1, "connect_err": 2}
"""When what a rule needs must be known: 1 where ESTABLISHED is cut off, 2 where a handshake fails; else where ESTABLISHED is
left or sampled."""
_WORDS = {"sk_err": "sk_err of connections that were cut off", "connect_err": "sk_err of connections that failed"}
_HANDSHAKE = (TcpState.SYN_SENT, TcpState.SYN_RECV)
_ALL_FLAGS = int(sum(EventFlag))
_FLAG_OF = {name: EventFlag(flag) for name, flag in FIELD_FLAGS.items()} | {"connect_err": EventFlag.HAS_SK_ERR}


class Engine:
    """Runs rules over one trace.

    Attributes:
        rules: in the order in which they are asked.
        suppressed: sightings that were not followed up because too many episodes were open.
        worst: the highest severity that a finding ever had; None without a finding.
    """

    def __init__(self, rules: Iterable[Rule[Any]], view: View) -> None:
        self.rules = tuple(rules)
        self.suppressed = 0
        self.worst: Severity | None = None
        self._view = view
        self._cell_ns = -1  # the end of the cell with the latest event; -1: it was judged
        self._quiet_until_ns = -1
        self._judged_ns = -1
        self._open: dict[tuple[str, Any], _Episode] = {}
        self._episodes = 0
        self._events: list[Events] = []
        self._ended: list[Connections] = []
        self._waiting = 0
        self._coarse_ns: dict[int, int] = {}  # by cell, how much earlier its events may have been
        self._flags, self._seen = [0, 0, 0], [False, False, False]  # by moment
        self._withheld: dict[str, int] = {}

    @property
    def open(self) -> list[Finding]:
        """The episodes that are open now, as they stand, in the order of their opening."""
        return sorted((each.now for each in self._open.values()), key=lambda finding: finding.episode)

    @property
    def episodes(self) -> int:
        """How many episodes there were so far, the benign ones included."""
        return self._episodes

    def observe(self, events: Events, ended: Connections, reached_ns: int, early_ns: int = 0) -> None:
        """Take a piece that lies in one cell, between two ticks.

        `reached_ns` is the largest time so far, `early_ns` the most by which an event may have been earlier.

        Pieces are kept until the cell is judged: a live source brings ten in a cell, and each array operation costs its call.
        """
        self._cell_ns = (reached_ns // TICK_NS + 1) * TICK_NS
        if early_ns:
            self._coarse_ns[self._cell_ns] = max(self._coarse_ns.get(self._cell_ns, 0), early_ns)
        self._events.append(events)
        self._ended.append(ended)
        self._waiting += len(events)
        if self._waiting >= WAITING_MAX:
            self._show()

    def _show(self) -> None:
        """Show the rules what was kept."""
        if not self._events:
            return
        events, ended = joined(self._events), joined(self._ended)
        self._events, self._ended, self._waiting = [], [], 0
        self._view.cell = self._cell_ns // TICK_NS - 1
        self._note_flags(events)
        self._view.note(events, ended)
        for rule in self.rules:
            rule.observe(events, ended, self._view)

    def _note_flags(self, events: Events) -> None:
        """What the trace can tell of connections: looked at where it should be able to."""
        flags = events["flags"]
        established, closing = events["old_state"] == TcpState.ESTABLISHED, events["new_state"] == TcpState.CLOSE
        failing = closing & np.isin(events["old_state"], _HANDSHAKE)
        for number, wanted in enumerate((established, established & closing, failing)):
            if self._flags[number] != _ALL_FLAGS and wanted.any():
                self._seen[number] = True
                self._flags[number] |= int(np.bitwise_or.reduce(flags[wanted]))

    def due_ns(self) -> int | None:
        """The earliest time at which the rules should be asked again; None: not before something happens."""
        due = [] if self._cell_ns < 0 else [self._cell_ns]
        if self._judged_ns >= 0 and self._cell_ns < 0:
            if self._judged_ns < self._quiet_until_ns:
                due.append((self._judged_ns // SECOND_NS + 1) * SECOND_NS)
            expiries = [-(-_expiry_ns(each.sighting) // TICK_NS) * TICK_NS for each in self._open.values()]
            due += [at_ns for at_ns in expiries if at_ns <= self._quiet_until_ns + PATIENCE_NS]
        return min(due) if due else None

    def advance(self, now_ns: int) -> list[Finding]:
        """Judge at every tick up to and including `now_ns`."""
        found: list[Finding] = []
        while (due_ns := self.due_ns()) is not None and due_ns <= now_ns:
            found += self._tick(due_ns)
        return found

    def close(self) -> list[Finding]:
        """Judge what is not yet judged; the trace is over, and nothing that a rule waits for will come. Episodes stay open.

        Those that have changed since they were told last are told once more: there is no later line to wait for.
        """
        if self._judged_ns < 0 and self._cell_ns < 0:
            return []
        self._view.final = True
        found = self._tick(max(self._cell_ns, self._judged_ns))
        for key, each in self._open.items():
            if each.now.summary != each.told.summary:
                self._open[key] = each._replace(told=each.now)
                found.append(replace(each.now, at_ns=self._view.now_ns))
        return found

    def abstained(self) -> list[tuple[str, str]]:
        """(rule, reason) of the rules that could not judge, or withheld something."""
        found = []
        for rule in self.rules:
            reason = self._unable(rule)
            if reason is None and rule.id in self._withheld:
                withheld = self._withheld[rule.id]
                missed = "were" if self._view.loss_known else "may have been"
                reason = (
                    f"events or connections {missed} missed: {withheld} sightings that rest on what was not seen were withheld"
                )
            if reason is not None:
                found.append((rule.id, reason))
        if self.suppressed:
            found.append(("*", f"{self.suppressed} sightings were not followed up: {EPISODES_MAX} findings are open"))
        if self._view.visits.forgotten:
            found.append(("*", f"{self._view.visits.forgotten} clients were forgotten: more are active than are kept"))
        return found

    def _unable(self, rule: Rule[Any]) -> str | None:
        resolution_ns = max(self._view.resolution_ns, *self._coarse_ns.values(), 0)
        if resolution_ns > rule.resolution_ns_max:
            if resolution_ns >= UNTIMED_NS:
                return "the trace has no times"
            return f"times are exact to {resolution_ns / 1e9:.3g} s; it needs {rule.resolution_ns_max / 1e9:g} s"
        moments = [(name, _MOMENTS.get(name, 0)) for name in rule.needs]
        missing = [_WORDS.get(name, name) for name, at in moments if self._seen[at] and not self._flags[at] & _FLAG_OF[name]]
        if missing:
            return f"the trace has no {', '.join(missing)}"
        return None

    def _tick(self, now_ns: int) -> list[Finding]:
        view = self._view
        self._show()
        if self._cell_ns >= 0 and now_ns >= self._cell_ns:
            self._quiet_until_ns = self._cell_ns + QUIET_NS
            self._cell_ns = -1
        self._judged_ns = now_ns
        for cell_ns in [cell_ns for cell_ns in self._coarse_ns if cell_ns < now_ns - COARSE_NS]:
            del self._coarse_ns[cell_ns]
        view.begin_tick(now_ns)
        found: list[Finding] = []
        for rule in self.rules:
            if self._unable(rule) is None:
                for answer in rule.judge(view):
                    found += self._take(rule, answer)
        found += self._expire(now_ns)
        view.visits.settle()
        return found

    def _take(self, rule: Rule[Any], answer: Answer) -> list[Finding]:
        key = (rule.id, answer.key)
        known = self._open.get(key)
        if isinstance(answer, Over):
            if known is None or answer.at_ns < known.sighting.started_ns:
                return []  # what went well before it began may become clear only now
            del self._open[key]
            finding = known.now
            self._view.ended.append(Ended(rule.id, finding.endpoint_id, finding.started_ns, answer.at_ns, answer.recovered))
            return [self._closed(finding, answer.at_ns)]
        if known is None:
            return self._begin(rule, key, answer)
        sighting, finding, _ = known
        answer = replace(answer, started_ns=min(answer.started_ns, sighting.started_ns))
        if answer.confidence < sighting.confidence:  # what was surer before still holds; this only shows that it goes on
            severity, seen_ns = max(answer.severity, sighting.severity), max(answer.seen_ns, sighting.seen_ns)
            answer = replace(sighting, severity=severity, seen_ns=seen_ns, hold_ns=answer.hold_ns)
        changed = self._told(rule, answer, finding.episode, finding.detected_ns, FindingState.UPDATE)
        self._open[key] = _Episode(answer, finding, changed)
        grown = abs(changed.confidence - finding.confidence) >= CONFIDENCE_STEP or changed.severity != finding.severity
        if not grown and (answer.seen_ns <= sighting.seen_ns or self._view.now_ns - finding.at_ns < UPDATE_NS):
            return []
        self._open[key] = _Episode(answer, changed, changed)
        return [changed]

    def _begin(self, rule: Rule[Any], key: tuple[str, Any], sighting: Sighting) -> list[Finding]:
        if _expiry_ns(sighting) <= self._view.now_ns:
            return []
        if sighting.absence and (self._view.blind(sighting.started_ns) or self._covers_little(sighting.started_ns)):
            self._withheld[rule.id] = self._withheld.get(rule.id, 0) + 1
            return []
        if len(self._open) >= EPISODES_MAX:
            self.suppressed += 1
            return []
        self._episodes += 1
        finding = self._told(rule, sighting, self._episodes, self._view.now_ns, FindingState.OPEN)
        self._open[key] = _Episode(sighting, finding, finding)
        return [finding]

    def _told(self, rule: Rule[Any], sighting: Sighting, episode: int, detected_ns: int, state: FindingState) -> Finding:
        self.worst = sighting.severity if self.worst is None else max(self.worst, sighting.severity)
        sighting = replace(sighting, started_ns=max(sighting.started_ns, self._view.since_ns))
        lost = self._view.lost(sighting.started_ns)
        coverage = self._view.coverage(sighting.started_ns)
        evidence = sighting.evidence | ({"lost_events": lost} if lost else {})
        evidence |= {} if coverage is None else {"coverage": round(coverage, 3)}
        weak = self._view.blind(sighting.started_ns) or self._covers_little(sighting.started_ns)
        return Finding(
            rule.id,
            episode,
            state,
            sighting.severity,
            round(sighting.confidence * (LOSS_WEAKENS if weak else 1.0), 3),
            sighting.endpoint_id,
            sighting.started_ns,
            detected_ns,
            -1,
            self._view.now_ns,
            sighting.summary,
            evidence,
            sighting.suspects,
            sighting.advice,
            rule.benign,
        )

    def _covers_little(self, since_ns: int) -> bool:
        coverage = self._view.coverage(since_ns)
        return coverage is not None and coverage < COVERAGE_MIN

    def _expire(self, now_ns: int) -> list[Finding]:
        over = [key for key, each in self._open.items() if _expiry_ns(each.sighting) <= now_ns]
        found = []
        for key in over:
            each = self._open.pop(key)
            found.append(self._closed(each.now, each.sighting.seen_ns))
        return found

    def _closed(self, finding: Finding, ended_ns: int) -> Finding:
        ended_ns = max(ended_ns, finding.started_ns)
        return replace(finding, state=FindingState.CLOSED, ended_ns=ended_ns, at_ns=self._view.now_ns)


class _Episode(NamedTuple):
    """One that is open: its latest sighting, and as a finding when it was told last and as it stands."""

    sighting: Sighting
    told: Finding
    now: Finding


def _expiry_ns(sighting: Sighting) -> int:
    return sighting.seen_ns + sighting.hold_ns
