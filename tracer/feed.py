"""What a source of events is to those who read from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from tracer.events import EventBatch
from tracer.watchlist import Watch


class Feed(Protocol):
    """Where events come from, once it is known what to watch."""

    @property
    def name(self) -> str:
        """The value of `source` in every output."""
        ...

    @property
    def resolution_ns(self) -> int:
        """How exact times are, in ns."""
        ...

    def start(self) -> None:
        """What happens from now on is told, and what is open now. Raises SourceError if it can't be."""
        ...

    def read(self, *, at_once: bool = False) -> EventBatch:
        """Everything there is now; does not wait. Raises SourceError if the source died.

        A source that looks from time to time looks now if that is asked for.
        """
        ...

    def sample(self, skaddrs: Iterable[int]) -> bool:
        """Ask for the counters of open sockets, which come with the next read; False if this source can't."""
        ...

    def warnings(self) -> list[str]:
        """What went wrong without ending the source, since the last time, each thing once."""
        ...

    def lacks(self) -> list[str]:
        """What this process can't see with it, in words; known once it was started."""
        ...

    def close(self) -> None:
        """Stop and leave nothing behind."""
        ...


class Source(Feed, Protocol):
    """A feed that is told what to watch, before it starts and while it runs."""

    def watch(self, endpoints: Watch) -> None:
        """Watch these, by endpoint id, and nothing else, from now on. What is open to a new one is told as found open."""
        ...

    def follow(self, clients: Iterable[tuple[int, bytes]]) -> None:
        """Tell of what clients of the watched addresses connect to elsewhere too, with ELSEWHERE as endpoint, if this source can.

        Args:
            clients: (cgroup id, comm) of owners that have a connection to a watched address open; who opens one is told by that.
        """
        ...
