"""A source that is replaced by the next best if it dies while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

from tracer.errors import SourceError
from tracer.events import EventBatch
from tracer.feed import Source
from tracer.watchlist import Watch


class Failover:
    """A source that is replaced if it dies while it runs; the batch after that says so, and when nobody was looking."""

    def __init__(self, source: Source, others: list[Callable[[], Source]]) -> None:
        """Begin with a source.

        Args:
            source: read from as long as it lives.
            others: open those that may take over, best first.
        """
        self._source = source
        self._others = others
        self._watched: Watch = {}
        self._warnings: list[str] = []
        self._read_ns = 0
        self._closed = False

    @property
    def name(self) -> str:
        """The value of `source` in every output."""
        return self._source.name

    @property
    def resolution_ns(self) -> int:
        """How exact times are, in ns."""
        return self._source.resolution_ns

    def watch(self, endpoints: Watch) -> None:
        """See `Source`."""
        self._watched = endpoints
        self._source.watch(endpoints)

    def start(self) -> None:
        """See `Source`."""
        self._source.start()
        self._read_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def read(self, *, at_once: bool = False) -> EventBatch:
        """See `Source`. Raises SourceError if it died and there is no other."""
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        try:
            batch = self._source.read(at_once=at_once)
        except SourceError as error:
            return self._switch(error)
        self._read_ns = now_ns
        return batch

    def follow(self, clients: Iterable[tuple[int, bytes]]) -> None:
        """See `Source`."""
        with suppress(SourceError):  # if it has died, the next read says so
            self._source.follow(clients)

    def sample(self, skaddrs: Iterable[int]) -> bool:
        """See `Source`."""
        with suppress(SourceError):  # if it has died, the next read says so
            return self._source.sample(skaddrs)
        return True

    def warnings(self) -> list[str]:
        """See `Source`."""
        told, self._warnings = self._warnings, []
        return [*told, *self._source.warnings()]

    def lacks(self) -> list[str]:
        """See `Source`."""
        return self._source.lacks()

    def close(self) -> None:
        """See `Source`."""
        if not self._closed:
            self._closed = True
            with suppress(OSError):  # what has died may have lost its descriptors
                self._source.close()

    def _switch(self, death: SourceError) -> EventBatch:
        """Go on with another source; what it finds open is told anew.

        Raises:
            SourceError: there is no other.
        """
        before = self._source.name
        self.close()
        while self._others:
            successor = self._others.pop(0)()
            try:
                successor.watch(self._watched)
                successor.start()
                batch = successor.read()
            except SourceError as error:
                successor.close()
                self._warnings.append(f"{successor.name} can't take over: {error}")
                continue
            self._source, self._closed = successor, False
            until_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            why = f"{before} died: {death}"
            self._warnings.append(f"{why}; going on with {successor.name}")
            return replace(batch, switched=why, lost_since_ns=self._read_ns, lost_until_ns=until_ns)
        raise death
