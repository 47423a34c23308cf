"""The loop that carries batches from a source or a trace through the analysis to whoever wants to hear of it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tracer.analysis import Analysis, Progress
from tracer.clock import boottime_ns
from tracer.events import EventBatch, no_events
from tracer.feed import Feed
from tracer.header import TraceHeader
from tracer.rows import blank_connections
from tracer.rules.settings import RuleSettings

POLL_S = 0.05
"""The ring holds more than a second of a busy machine's events; nobody reads faster than this."""
TICK_S = 1.0
SAMPLES_MAX = 2000
"""Sockets sampled per tick: about 2 µs each."""


class Listener(Protocol):
    """Somebody who hears of a trace: a report, or a capture being written."""

    def start(self, header: TraceHeader) -> None:
        """Events are being taken from now on."""
        ...

    def batch(self, batch: EventBatch, progress: Progress, analysis: Analysis) -> None:
        """A batch was analysed; `progress` is what it brought."""
        ...

    def tick(self, analysis: Analysis) -> None:
        """About once a second."""
        ...

    def finish(self, analysis: Analysis, truncated: str | None) -> None:
        """It is over; `truncated` says why the end of a trace is missing."""
        ...


@runtime_checkable
class Attentive(Protocol):
    """A listener that also wants to be asked often: at each poll of a live trace, as often between the pieces of a replay."""

    def poll(self, analysis: Analysis) -> bool:
        """Do what is due, quickly; False ends the trace."""
        ...


class _Attention:
    """Asks those listeners who want it, at most once in POLL_S."""

    def __init__(self, listeners: list[Listener], stop: Stop, analysis: Analysis) -> None:
        self._attentive = [listener for listener in listeners if isinstance(listener, Attentive)]
        self._stop = stop
        self._analysis = analysis
        self._asked_s = float("-inf")
        self._wanted = True

    def going_on(self) -> bool:
        """Whether nobody wants the trace to end."""
        now_s = time.monotonic()
        if self._attentive and now_s - self._asked_s >= POLL_S / 2:  # a poll that comes a little early is one
            self._asked_s = now_s
            for listener in self._attentive:
                self._wanted = listener.poll(self._analysis) and self._wanted
        return self._wanted and self._stop.signal is None


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Set by SIGINT, SIGTERM and SIGHUP, so that a trace ends cleanly. A second SIGINT is Python's own KeyboardInterrupt.

    What was ignored when it began to listen stays ignored: nohup asks for that, and scripts for their jobs in the background.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextmanager
    def on_signals(self) -> Iterator[Stop]:
        """Listen to the signals while inside."""
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
        for number in self._before:
            signal.signal(number, self._handle)
        try:
            yield self
        finally:
            for number, handler in self._before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: of no Python code
            self._before = {}


def run_live(  # noqa: C901 - two inner functions, whose branches count as its own
    source: Feed,
    header: TraceHeader,
    listeners: list[Listener],
    stop: Stop,
    duration_s: float | None = None,
    on_poll: Callable[[], bool] | None = None,
    settings: RuleSettings | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Analysis:
    """Follow a source until it is enough.

    Args:
        source: told what to watch, and started.
        header: what the listeners are told first.
        listeners: told in their order.
        stop: looked at between polls.
        duration_s: seconds from the start line on; None for ever.
        on_poll: called at each poll; the trace ends when it returns False.
        settings: of the rules; None runs none.
        warn: told what goes wrong without ending anything.

    Raises:
        TracerError: the source died, or a listener failed; `finish` was then called on the others.
    """
    analysis = Analysis(source.name, source.resolution_ns, header.endpoints, settings)
    sampling, turns = True, _Turns()

    def tell(batch: EventBatch) -> None:
        progress = analysis.feed(batch)
        for listener in listeners:
            listener.batch(batch, progress, analysis)

    def pump(*, at_once: bool = False) -> None:
        before_ns = boottime_ns()
        batch = source.read(at_once=at_once)
        until_ns = batch.until_ns or before_ns  # a source that looks from time to time knows how far it has seen
        for warning in source.warnings():
            warn(warning)
        if batch.says_something:
            tell(replace(batch, until_ns=0))
        due_ns = analysis.due_ns
        if due_ns is not None and due_ns <= until_ns:  # silence is part of the trace: it is recorded, and judged alike later
            tell(EventBatch(no_events(), batch.source, batch.resolution_ns, until_ns=until_ns))

    attention = _Attention(listeners, stop, analysis)
    for listener in listeners:
        listener.start(header)
    started_s = ticked_s = polled_s = time.monotonic()
    end_s = started_s + (float("inf") if duration_s is None else duration_s)
    try:
        while attention.going_on() and (on_poll is None or on_poll()):
            now_s = time.monotonic()
            if now_s >= end_s:
                break
            if now_s - ticked_s >= TICK_S:
                ticked_s = now_s
                sampling = sampling and source.sample(turns.next(analysis.open_skaddrs()))
                for listener in listeners:
                    listener.tick(analysis)
            # What the last round took is not slept again: under load the ring is read as often as it can be.
            time.sleep(max(0.0, min(polled_s + POLL_S, end_s) - now_s))
            polled_s = time.monotonic()
            pump()
        pump(at_once=True)
        pump(at_once=True)  # what had just ended at the last look, and waited for one more
        still_open = analysis.open_skaddrs()
        for start in range(0, len(still_open), SAMPLES_MAX):  # no more at once than the ring holds
            if not (sampling and source.sample(still_open[start : start + SAMPLES_MAX])):
                break
            pump(at_once=True)
        _close(listeners, analysis)
    finally:
        _finish(listeners, analysis, None)
    return analysis


class _Turns:
    """Takes at most SAMPLES_MAX of many at a time, all of them in turn."""

    def __init__(self) -> None:
        self._first = 0

    def next(self, skaddrs: list[int]) -> list[int]:
        if self._first >= len(skaddrs):
            self._first = 0
        chosen = skaddrs[self._first : self._first + SAMPLES_MAX]
        self._first += SAMPLES_MAX
        return chosen


def run_replay(
    batches: Iterator[EventBatch],
    header: TraceHeader,
    listeners: list[Listener],
    stop: Stop,
    truncated: Callable[[], str | None],
    speed: float | None = None,
    settings: RuleSettings | None = None,
) -> Analysis:
    """Follow a trace to its end.

    Args:
        batches: of the trace.
        header: the trace's.
        listeners: told in their order.
        stop: looked at between batches.
        truncated: asked after the last batch.
        speed: 1 replays in real time, 2 twice as fast; None as fast as possible.
        settings: of the rules; None runs none.

    Raises:
        TracerError: the trace is corrupt, or a listener failed.
    """
    analysis = Analysis(
        header.source, header.resolution_ns, header.endpoints, settings, header.roles(), loss_known=header.loss_known
    )
    for listener in listeners:
        listener.start(header)
    pace = None if speed is None else _Pace(speed)
    attention = _Attention(listeners, stop, analysis)
    ticked_s = time.monotonic()
    try:
        for batch in batches:
            for piece in (batch,) if pace is None else pace.pieces(batch, attention.going_on):
                progress = analysis.feed(piece)
                for listener in listeners:
                    listener.batch(piece, progress, analysis)
                if time.monotonic() - ticked_s >= TICK_S:
                    ticked_s = time.monotonic()
                    for listener in listeners:
                        listener.tick(analysis)
            if not attention.going_on():
                break
        _close(listeners, analysis)
    finally:
        _finish(listeners, analysis, truncated())
    return analysis


class _Pace:
    """Cuts batches into what is due and waits for the rest."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._first_ns: int | None = None
        self._started_ns = boottime_ns()

    def _now_ns(self) -> int:
        """What time it is in the trace."""
        return int((boottime_ns() - self._started_ns) * self._speed) + (self._first_ns or 0)

    def pieces(self, batch: EventBatch, going_on: Callable[[], bool]) -> Iterator[EventBatch]:
        times = batch.events["ts_ns"]
        if self._first_ns is None and len(times):
            self._first_ns = int(times[0])
        reached = np.maximum.accumulate(times.astype(np.int64))  # times of different CPUs may step back a little
        sent = 0
        if not len(times):
            self._first_ns = self._first_ns or batch.until_ns or batch.lost_until_ns or None
            while going_on() and batch.until_ns > self._now_ns():
                time.sleep(POLL_S)
            yield batch
            return
        while going_on():
            due = int(np.searchsorted(reached, self._now_ns(), "right"))
            if due > sent:
                piece = replace(
                    batch,
                    events=batch.events[sent:due].copy(),
                    early_ns=None if batch.early_ns is None else batch.early_ns[sent:due],
                    until_ns=batch.until_ns if due == len(times) else 0,
                )
                if sent:  # what a batch says beside its events comes with its first piece
                    piece = EventBatch(
                        piece.events, piece.source, piece.resolution_ns, early_ns=piece.early_ns, until_ns=piece.until_ns
                    )
                yield piece
                sent = due
            if sent >= len(times):
                return
            time.sleep(POLL_S)


def _close(listeners: list[Listener], analysis: Analysis) -> None:
    """Judge what came last, and tell of it."""
    findings = analysis.close()
    if findings:
        nothing = EventBatch(no_events(), "", 1)
        for listener in listeners:
            listener.batch(nothing, Progress(blank_connections(0), findings), analysis)


def _finish(listeners: list[Listener], analysis: Analysis, truncated: str | None) -> None:
    """Tell every listener, even if one of them fails; the first failure is raised."""
    failure: BaseException | None = None
    for listener in listeners:
        try:
            listener.finish(analysis, truncated)
        except BaseException as error:  # noqa: BLE001 - raised below, once the others are finished
            failure = failure or error
    if failure is not None:
        raise failure
