"""The live view: a picture about once a second on a terminal that is given back as it was, and the summary at the end."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from tracer.analysis import Analysis, Progress
from tracer.clock import ClockOffset
from tracer.events import EventBatch
from tracer.findings import Finding, FindingState
from tracer.header import TraceHeader
from tracer.reports.text_report import finding_texts, learnt_texts, moved_texts, start_text, summary_texts
from tracer.screen.controls import Controls
from tracer.screen.frame import frame
from tracer.screen.gauges import Meter
from tracer.screen.journal import Journal
from tracer.screen.keys import REDRAW
from tracer.screen.moments import Moments
from tracer.screen.notices import Notices
from tracer.screen.numbers import span_text
from tracer.screen.painter import Painter
from tracer.screen.picture import Picture, take_picture
from tracer.screen.status import Session
from tracer.screen.terminal import Terminal
from tracer.text import printable

_QUIET_S = 0.3
"""A trace that is over sooner shows its summary only."""
_EACH_S = 0.95
"""Between two pictures where nobody asks for one; polls come every 50 ms, so that it is once a second."""
_AT_ONCE_S = 0.25
"""Between two pictures at the least."""
_FINDINGS_KEPT = 20


class LiveReport:
    """Shows a trace on a terminal while it goes on, and leaves findings and summary there."""

    def __init__(self, console: Console, transitions: bool, now_ns: Callable[[], int] | None = None) -> None:
        """Touch nothing yet.

        Args:
            console: of standard output, a terminal.
            transitions: the log shows transitions at first.
            now_ns: the boottime that is now; None means event time (a replay).
        """
        self._console = console
        self._controls = Controls(transitions=transitions)
        self._now_ns = now_ns
        self._clock: ClockOffset | None = None
        keyboard = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._terminal = Terminal(console.file.fileno(), keyboard)
        self._painter = Painter(console)
        self._journal, self._meter = Journal(), Meter()
        self._notices = Notices(lambda line: self._journal.remark(self._moment_ns(), printable(line)))
        self._findings: dict[int, Finding] = {}  # the last word on each episode
        self._picture: Picture | None = None
        self._begun = False
        self._reached_ns = -1
        self._drawn = self._changed = False
        self._started_s = self._drawn_s = 0.0
        self._paused_s: float | None = None

    def start(self, header: TraceHeader) -> None:
        """Say what is watched."""
        self._clock = header.clock
        with self._hangup_survived():
            for line in start_text(header):
                self._console.print(Text(line), soft_wrap=True)
        self._started_s = self._drawn_s = time.monotonic()

    def batch(self, batch: EventBatch, progress: Progress, analysis: Analysis) -> None:
        """Keep what may be shown."""
        self._meter.ended(progress.ended)
        self._journal.add(batch, progress.ended, analysis, self._controls.filter)
        self._reached_ns = analysis.reached_ns
        remarks = learnt_texts(batch)
        if batch.lost:
            remarks.append(f"LOST {batch.lost} events: the ring buffer was full; what follows has gaps")
        if batch.switched:
            remarks.append(f"SOURCE {printable(batch.source)} from here on ({printable(batch.switched)})")
        if self._begun:  # what is known at the start stands in the first lines
            remarks += [text.partition("  ")[2] for text in moved_texts(batch, analysis.endpoints, self._clock)]
        self._begun = True
        for finding in progress.findings:
            self._changed = self._changed or finding.state is not FindingState.UPDATE
            self._keep(finding)
            if finding.state is FindingState.CLOSED:
                where = printable(analysis.endpoints.get(finding.endpoint_id, f"endpoint {finding.endpoint_id}"))
                remarks.append(f"{finding.rule} at {where} is over after {span_text(finding.ended_ns - finding.started_ns)}")
        for remark in remarks:
            self._journal.remark(self._moment_ns(), remark)

    def tick(self, analysis: Analysis) -> None:
        """Nothing: pictures come with polls."""

    def poll(self, analysis: Analysis) -> bool:
        """Hear keys and signals, and draw what is due; False once somebody has pressed q."""
        with self._hangup_survived():
            self._attend(analysis, time.monotonic())
        return not self._controls.quit

    def _attend(self, analysis: Analysis, now_s: float) -> None:
        if self._terminal.poll():
            self._painter.forget()
        if not self._terminal.taken:  # a job in the background: nobody would see what is held back
            self._notices.give_back()
        self._reached_ns = analysis.reached_ns
        self._meter.note(analysis, self._moment_ns())
        for key in self._terminal.pressed():
            self._press(key, analysis, now_s)
        if self._controls.quit:
            return
        if now_s - self._drawn_s >= self._due_s() and self._terminal.take() and self._terminal.ready():
            self._notices.take()
            self._draw(analysis, now_s)

    def _due_s(self) -> float:
        """How long after the last picture, or after the start, the next one is due."""
        if not self._drawn:
            return _QUIET_S
        return _AT_ONCE_S if self._changed or not self._painter.knows(*self._terminal.size()) else _EACH_S

    def _draw(self, analysis: Analysis, now_s: float) -> None:
        self._drawn, self._drawn_s, self._changed = True, now_s, False
        now_ns = self._moment_ns()
        moments = Moments(self._clock, analysis.first_ns)
        if self._picture is None or self._paused_s is None:
            text = self._controls.filter
            self._picture = take_picture(analysis, self._meter, self._journal, moments, now_ns, text)
        headline = analysis.headline() if self._paused_s is not None else self._picture.headline
        session = Session(
            self._now_ns is not None,
            headline,
            now_ns,
            _ns(now_s - self._started_s) if self._now_ns is not None else max(now_ns - analysis.first_ns, 0),
            _ns(now_s - self._paused_s) if self._paused_s is not None else -1,
        )
        width, height = self._terminal.size()
        lines = frame(self._picture, session, self._controls, width, height)
        self._terminal.show(self._painter.paint(lines, width, height))

    def finish(self, analysis: Analysis, truncated: str | None) -> None:
        """Give the terminal back, and leave what was found and the summary on it."""
        self._terminal.close()
        with self._hangup_survived():
            self._notices.give_back()
            self._leave(analysis, truncated)

    def _leave(self, analysis: Analysis, truncated: str | None) -> None:
        for finding in self._findings.values():
            # What was on the screen is gone, so that it is told whole, also if it is over by now.
            told = [replace(finding, state=FindingState.OPEN), *([finding] if finding.state is FindingState.CLOSED else [])]
            for text in (text for each in told for text in finding_texts(each, analysis.endpoints, self._clock)):
                self._console.print(Text(text), soft_wrap=True)
        for line in summary_texts(analysis.summary(), truncated):
            self._console.print(Text(line), soft_wrap=True)

    @contextmanager
    def _hangup_survived(self) -> Iterator[None]:
        """Whoever records the trace goes on without the terminal, and the end is as clean as any."""
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._terminal.lose()

    def _moment_ns(self) -> int:
        """What time it is: now, or event time in a replay."""
        return self._reached_ns if self._now_ns is None else self._now_ns()

    def _keep(self, finding: Finding) -> None:
        """The last word on an episode; of too many the oldest are forgotten, those that are over first."""
        self._findings.pop(finding.episode, None)
        self._findings[finding.episode] = finding
        if len(self._findings) > _FINDINGS_KEPT:
            over = (number for number, each in self._findings.items() if each.state is FindingState.CLOSED)
            del self._findings[next(over, next(iter(self._findings)))]

    def _press(self, key: str, analysis: Analysis, now_s: float) -> None:
        before, self._controls = self._controls, self._controls.press(key)
        if key == REDRAW:
            self._painter.forget()
        if self._controls.filter != before.filter:
            self._journal.narrow(analysis, self._controls.filter)
            self._picture = None  # what stood was chosen by the filter before
        if self._controls.paused != before.paused:
            self._paused_s = now_s if self._controls.paused else None
        self._changed = True


def _ns(span_s: float) -> int:
    return int(span_s * 1e9)
