"""Look-ups beside the event loop: names are asked for and answers collected without ever waiting.

Theory of operation. Each look-up is a thread's work, because a resolver may hang; there are as many threads as names wait, up to
a limit, so that names whose servers are dead do not hold up the others. A thread without work ends. None can be stopped in a
look-up, but its sockets have time-outs (`resolver.LIFETIME_S` in all), and it is a daemon: `close` does not wait for it, the
process may end before it, and what it finds too late nobody is told.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from tracer.names.book import NAMES_MAX
from tracer.names.records import Answer, failed

WORKERS_MAX = 32
"""Twenty names of dead servers leave room for others; a thread costs some 50 kB while it waits."""
START_S = 2.0
_CLOSE_S = 0.15
THREAD_NAME = "regtrace-names"


class NameFollower:
    """Answers to the names that were asked for, as they come."""

    def __init__(self, look_up: Callable[[str], Answer], *, workers_max: int = WORKERS_MAX) -> None:
        """Start nothing yet.

        Args:
            look_up: takes a bounded time, and may be called by several threads at once: `Resolver.look_up`.
            workers_max: look-ups at the same time.
        """
        self._look_up = look_up
        self._workers_max = workers_max
        self._changed = threading.Condition()
        self._waiting: deque[str] = deque()
        self._open: set[str] = set()  # asked for, waiting or under way
        self._answers: dict[str, Answer] = {}
        self._workers: set[threading.Thread] = set()
        self._closed = False

    def ask(self, names: Iterable[str]) -> None:
        """Have these names looked up; one that still is is not looked up twice, and beyond NAMES_MAX at once none is."""
        with self._changed:
            for name in names:
                if not self._closed and name not in self._open and len(self._open) < NAMES_MAX:
                    self._open.add(name)
                    self._waiting.append(name)
            new = min(len(self._waiting), self._workers_max - len(self._workers))
            workers = [threading.Thread(target=self._work, name=THREAD_NAME, daemon=True) for _ in range(new)]
            self._workers.update(workers)
        self._start(workers)

    def answers(self) -> list[Answer]:
        """What was found since the last call; of a name that was answered twice, the later."""
        with self._changed:
            answers, self._answers = self._answers, {}
        return list(answers.values())

    def wait(self, deadline_s: float = START_S) -> bool:
        """Wait until every name that was asked for is answered, at most this long; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, deadline_s)

    def close(self) -> None:
        """Forget what waits, and leave look-ups that are under way to end by themselves."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._answers.clear()
            workers = list(self._workers)
        until_s = time.monotonic() + _CLOSE_S
        for worker in workers:
            worker.join(max(until_s - time.monotonic(), 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _start(self, workers: list[threading.Thread]) -> None:
        for worker in workers:
            try:
                worker.start()
            except RuntimeError as error:  # no more threads
                with self._changed:
                    self._workers.discard(worker)
                    while self._waiting and not self._workers:
                        name = self._waiting.popleft()
                        self._finish(name, failed(name, f"it can't be looked up: {error}"))

    def _work(self) -> None:
        while (name := self._next()) is not None:
            try:
                answer = self._look_up(name)
            except Exception as error:  # noqa: BLE001 - above a thread is nobody who could tell it
                answer = failed(name, f"its look-up broke off: {type(error).__name__}")
            with self._changed:
                self._finish(name, answer)

    def _next(self) -> str | None:
        """A name to look up; None, and this thread no longer counts as one: there is nothing to do."""
        with self._changed:
            if self._waiting:
                return self._waiting.popleft()
            self._workers.discard(threading.current_thread())
            return None

    def _finish(self, name: str, answer: Answer) -> None:
        self._open.discard(name)
        if not self._closed:
            self._answers[name] = answer
        self._changed.notify_all()
