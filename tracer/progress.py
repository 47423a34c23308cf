"""A progress bar for what takes longer than a second: on standard error, and only where that is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from tracer.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from tracer.captures import Trace
    from tracer.events import EventBatch

T = TypeVar("T")

QUIET_S = 1.0
"""What takes less than this shows nothing."""
_EACH_S = 0.1
"""Between two updates."""


class ProgressBar:
    """One bar; nothing is drawn, and rich not loaded, before it has taken QUIET_S or where nobody would see it."""

    def __init__(self, title: str) -> None:
        self._title = printable(title)
        self._started_s = time.monotonic()
        self._told_s = 0.0
        self._wanted = sys.stderr.isatty()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def update(self, share: float | None) -> None:
        """How much is done, 0..1; None: nobody knows."""
        now_s = time.monotonic()
        if not self._wanted or now_s - self._started_s < QUIET_S or now_s - self._told_s < _EACH_S:
            return
        self._told_s = now_s
        if self._progress is None:
            self._begin()
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=share or 0.0, total=None if share is None else 1.0)

    def _begin(self) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import Progress

        console = Console(stderr=True)
        if console.is_dumb_terminal:
            self._wanted = False
            return
        self._progress = Progress(console=console, transient=True)
        self._task = self._progress.add_task(escape(self._title), total=None)
        self._progress.start()

    def over(self, items: Iterable[T], count: int) -> Iterator[T]:
        """The items, with the bar following them."""
        for index, item in enumerate(items):
            self.update(index / max(count, 1))
            yield item

    def reading(self, trace: Trace) -> Iterator[EventBatch]:
        """The batches of a trace, with the bar following how much of its file has been read."""
        for batch in trace.batches():
            self.update(trace.share_read())
            yield batch

    def close(self) -> None:
        """Leave nothing of it on the screen."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


@contextmanager
def progress_bar(title: str) -> Iterator[ProgressBar]:
    """A bar while inside."""
    bar = ProgressBar(title)
    try:
        yield bar
    finally:
        bar.close()
