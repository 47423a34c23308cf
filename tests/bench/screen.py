"""What the live view costs beside the text report: CPU time of both, in one run, on the same trace at 10,000 connections/s.

The trace passes in real time, so that pictures are drawn as often as they are for people; each report's own calls are timed.
The live view draws on a pseudo terminal that somebody reads.
"""

from __future__ import annotations

import os
import pty
import sys
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console

from tests.bench.synthetic import CONNECTIONS_PER_S, ENDPOINTS, batches, synthetic_events
from tests.bench.table import Row, Sample, ratios
from tracer.analysis import Analysis, Progress
from tracer.events import EventBatch
from tracer.header import TraceHeader
from tracer.pipeline import Listener, Stop, run_replay
from tracer.reports.text_report import TextReport
from tracer.rules.settings import RuleSettings
from tracer.screen.live import LiveReport

_SPEED = 2.0
_PER_CONNECTION = 4.7
"""Transitions, of the synthetic trace."""
_SIZES = ((80, 24), (200, 50))


class _Timed:
    """A listener with a meter."""

    def __init__(self, inner: Listener) -> None:
        self._inner = inner
        self.spent_s = 0.0

    def start(self, header: TraceHeader) -> None:
        self._inner.start(header)

    def batch(self, batch: EventBatch, progress: Progress, analysis: Analysis) -> None:
        self._timed(lambda: self._inner.batch(batch, progress, analysis))

    def tick(self, analysis: Analysis) -> None:
        self._timed(lambda: self._inner.tick(analysis))

    def poll(self, analysis: Analysis) -> bool:
        if isinstance(self._inner, LiveReport):
            live = self._inner
            self._timed(lambda: live.poll(analysis))
        return True

    def finish(self, analysis: Analysis, truncated: str | None) -> None:
        self._inner.finish(analysis, truncated)

    def _timed(self, call: Callable[[], object]) -> None:
        started_s = time.thread_time()
        call()
        self.spent_s += time.thread_time() - started_s


def _one_round(seconds: float, width: int, height: int) -> tuple[float, float]:
    """CPU time of the live view and of the text report, in seconds a second."""
    events = synthetic_events(int(seconds * _SPEED * CONNECTIONS_PER_S * _PER_CONNECTION))
    master, slave = pty.openpty()
    reader = threading.Thread(target=_drain, args=(master,))
    reader.start()
    header = TraceHeader("ebpf", "synthetic", 1, endpoints=ENDPOINTS)
    stdin = sys.stdin
    try:
        with open(slave, "w") as terminal, open(os.devnull, "w") as nowhere, open(os.devnull) as no_keys:  # noqa: PTH123
            sys.stdin = no_keys
            termios.tcsetwinsize(slave, (height, width))
            live = _Timed(LiveReport(Console(file=terminal, force_terminal=True), transitions=False))
            text = _Timed(TextReport(nowhere, transitions=False))
            run_replay(batches(events), header, [live, text], Stop(), lambda: None, _SPEED, RuleSettings())
    finally:
        sys.stdin = stdin
        reader.join()
        os.close(master)
    return live.spent_s / seconds, text.spent_s / seconds


def _drain(master: int) -> None:
    with suppress(OSError):  # EIO: the other end was closed
        while os.read(master, 65536):
            pass


def measure_screen(rounds: int, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """The live view beside the text report, at two sizes of terminal."""
    rows = []
    for width, height in _SIZES:
        live, text = Sample(" % of a core"), Sample(" % of a core")
        for number in range(rounds):
            say(f"live view on {width} x {height}, round {number + 1} of {rounds}")
            spent = _one_round(seconds, width, height)
            live.add(100 * spent[0])
            text.add(100 * spent[1])
        ratio = ratios(live, text)
        rows.append(
            Row(
                f"live view on {width} x {height} at {_SPEED * CONNECTIONS_PER_S:,.0f} connections/s, the report's own CPU time",
                "<= text report",
                live.text(),
                f"text report to /dev/null: {text.text()}",
                f"{ratio.text()} of the text report",
                ratio.median <= 1,
                {"live": live, "text": text},
            )
        )
    return rows
