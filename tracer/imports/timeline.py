"""When imported transitions happened: from exact times, from times of day, or from nothing but their order. Pure.

A time of day is the second in which a line was printed, so the transition was not later than its end. Where lines also tell how
long a socket was in its state before (MS), all transitions of a connection hang together exactly, and each of their seconds
bounds all of them: what is left is one shift for the whole connection, from the latest beginning of a second to the earliest
end, and the durations are exact.

Without any time, the same durations are laid behind each other in the order of the lines. What passed between two connections is
not known, so such times are good for durations only; UNTIMED_NS says so to whoever asks how exact they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from tracer.events import TS_NS_MAX, Events, TcpState, is_opening
from tracer.exactness import UNTIMED_NS
from tracer.imports.columns import Columns
from tracer.imports.readings import SECOND_NS, Transition
from tracer.segments import group_starts, stable_order

_DAY_NS = 86_400 * SECOND_NS
_LATE_NS = 2 * SECOND_NS
"""A line that is printed later than this after its transition tells of a tool that can't keep up, or of a clock that was set."""
_SOCKETS_MAX = 1 << 20

Times = tuple[NDArray[np.int64], NDArray[np.uint64]]
"""ts_ns and early_ns, each of shape (n_transitions,)."""


class Clock(Enum):
    """What lines say of time."""

    EXACT = "at_ns"
    DAY = "day_ns"
    NONE = ""

    def shown_by(self, transition: Transition) -> bool:
        """Whether a line tells this kind of time."""
        if self is Clock.NONE:
            return True
        return transition.at_ns is not None if self is Clock.EXACT else transition.day_ns >= 0


def clock_of(transitions: Sequence[Transition]) -> Clock:
    """The best kind of time that most of these lines tell."""
    for clock in (Clock.EXACT, Clock.DAY):
        if 2 * sum(map(clock.shown_by, transitions)) > len(transitions):
            return clock
    return Clock.NONE


class Timeline:
    """Gives times to one block of transitions after the other.

    Attributes:
        resolution_ns: how exact the times are.
        clock_steps: how often the clock of the lines was set back.
    """

    def __init__(self, clock: Clock, exact_ns: int) -> None:
        """A kind of time, and how exact the lines tell it."""
        self._clock = clock
        self.resolution_ns = exact_ns if clock is not Clock.NONE else UNTIMED_NS
        self.clock_steps = 0
        self._shift_ns = 0  # what the clock was set back by so far, and the days that went by
        self._last_day_ns = -1
        self._now_ns = 0
        self._sockets: dict[int, tuple[int, int, int]] = {}  # last state, and the bounds of its time, by address

    def times(self, columns: Columns) -> Times:
        """When each of the next transitions happened, at the latest, and how much earlier it may have been."""
        if self._clock is Clock.EXACT:
            return np.minimum(columns.at_ns, TS_NS_MAX - 1), np.zeros(len(columns), np.uint64)
        if self._clock is Clock.NONE:
            return self._in_order(columns), np.zeros(len(columns), np.uint64)
        stamps_ns = self._unwrapped(columns.day_ns)
        if self.resolution_ns < SECOND_NS:
            return stamps_ns, np.zeros(len(columns), np.uint64)
        return self._by_seconds(columns, stamps_ns)

    def _unwrapped(self, day_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Times of day as times since the first midnight; where the clock goes back, time goes on all the same."""
        if not len(day_ns):
            return day_ns
        before = day_ns[0] if self._last_day_ns < 0 else self._last_day_ns
        step_ns = np.diff(day_ns, prepend=before)
        midnight = step_ns < -_DAY_NS // 2
        set_back = (step_ns < -_LATE_NS) & ~midnight
        added_ns = np.where(midnight, _DAY_NS, 0) + np.where(set_back, -step_ns, 0)
        shift_ns = self._shift_ns + np.cumsum(added_ns)
        self.clock_steps += int(set_back.sum())
        self._shift_ns, self._last_day_ns = int(shift_ns[-1]), int(day_ns[-1])
        return np.asarray(day_ns + shift_ns)

    def _by_seconds(self, columns: Columns, stamps_ns: NDArray[np.int64]) -> Times:
        """Times of transitions whose seconds are known, as exact as their spans make them."""
        if not len(columns):
            return stamps_ns, np.zeros(0, np.uint64)
        order = stable_order(columns.events["skaddr"])
        events, span_ns, stamp_ns = columns.events[order], columns.span_ns[order], stamps_ns[order]
        first = group_starts(events["skaddr"])
        carried = self._carried(events, first)
        linked = _linked(events, span_ns, first, carried[:, 0])
        start = np.flatnonzero(first | ~linked)
        chain = np.cumsum(first | ~linked) - 1
        offset_ns = np.cumsum(np.where(first | ~linked, 0, span_ns))
        offset_ns -= offset_ns[start][chain]
        least_ns, most_ns = stamp_ns - offset_ns, stamp_ns + self.resolution_ns - 1 - offset_ns
        goes_on = first & linked  # from the block before
        least_ns[goes_on] = np.maximum(least_ns[goes_on], carried[goes_on, 1] + span_ns[goes_on])
        most_ns[goes_on] = np.minimum(most_ns[goes_on], carried[goes_on, 2] + span_ns[goes_on])
        low_ns, high_ns = np.maximum.reduceat(least_ns, start), np.minimum.reduceat(most_ns, start)
        length_ns = offset_ns[np.append(start[1:], len(events)) - 1]
        high_ns = _in_turn(high_ns, length_ns, first[start], carried[start, 2])
        late_ns = np.maximum(high_ns[chain] + offset_ns, 0)
        early_ns = np.where(low_ns <= high_ns, high_ns - low_ns, self.resolution_ns - 1)[chain]
        early_ns = np.minimum(early_ns, late_ns)
        self._carry(events, late_ns, early_ns)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return late_ns[back], early_ns[back].astype(np.uint64)

    def _carried(self, events: Events, first: NDArray[np.bool_]) -> NDArray[np.int64]:
        """What the blocks before say of each socket, at its first event: state (0 unknown), and the bounds of its time."""
        carried = np.zeros((len(events), 3), np.int64)
        for index in np.flatnonzero(first).tolist():
            known = self._sockets.get(int(events["skaddr"][index]))
            if known is not None:
                carried[index] = known
        return carried

    def _carry(self, events: Events, late_ns: NDArray[np.int64], early_ns: NDArray[np.int64]) -> None:
        last = np.flatnonzero(np.append(group_starts(events["skaddr"])[1:], True))
        columns = events["skaddr"][last], events["new_state"][last], (late_ns - early_ns)[last], late_ns[last]
        for skaddr, state, low_ns, high_ns in zip(*(column.tolist() for column in columns), strict=True):
            self._sockets.pop(skaddr, None)
            self._sockets[skaddr] = state, low_ns, high_ns
        while len(self._sockets) > _SOCKETS_MAX:
            del self._sockets[next(iter(self._sockets))]

    def _in_order(self, columns: Columns) -> NDArray[np.int64]:
        """Times of transitions of which nothing but order and spans is known."""
        events, sockets = columns.events, self._sockets
        opens = is_opening(events)
        found = []
        fields = events["skaddr"], events["old_state"], events["new_state"], opens, columns.span_ns
        for skaddr, old, new, opening, span_ns in zip(*(field.tolist() for field in fields), strict=True):
            known = sockets.pop(skaddr, None)
            at_ns = self._now_ns
            if known is not None and known[0] == old and not opening and span_ns >= 0:
                at_ns = min(known[1] + span_ns, TS_NS_MAX - 1)
            self._now_ns = max(self._now_ns, at_ns)
            if new != TcpState.CLOSE:
                sockets[skaddr] = new, at_ns, at_ns
                if len(sockets) > _SOCKETS_MAX:
                    del sockets[next(iter(sockets))]
            found.append(at_ns)
        return np.array(found, np.int64)


def _linked(
    events: Events, span_ns: NDArray[np.int64], first: NDArray[np.bool_], carried: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which transitions follow, by their span, on the one before of their socket, shape (n,); sorted by socket."""
    before = np.empty(len(events), np.int64)
    before[1:] = events["new_state"][:-1]
    before[first] = carried[first]
    linked = (before == events["old_state"]) & (before != TcpState.CLOSE) & (before != 0)
    return np.asarray(linked & (span_ns >= 0) & ~is_opening(events))


def _in_turn(
    high_ns: NDArray[np.int64], length_ns: NDArray[np.int64], first: NDArray[np.bool_], before_ns: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The latest beginnings of connections, such that those of one socket follow each other; all of shape (n_chains,).

    Args:
        high_ns: the latest beginning of each as its lines say.
        length_ns: from its beginning to its end.
        first: where another socket's begin.
        before_ns: at the first of a socket, the end of what it was before this block.
    """
    latest, lengths, firsts = high_ns.tolist(), length_ns.tolist(), first.tolist()
    for index in range(len(latest) - 2, -1, -1):
        if not firsts[index + 1]:
            latest[index] = min(latest[index], latest[index + 1] - lengths[index])
    for index, (is_first, earliest) in enumerate(zip(firsts, before_ns.tolist(), strict=True)):
        latest[index] = max(latest[index], earliest if is_first else latest[index - 1] + lengths[index - 1])
    return np.array(latest, np.int64)
