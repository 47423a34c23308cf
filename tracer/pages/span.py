"""The stretch of time that charts show, and how its moments are written. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.clock import ClockOffset
from tracer.collected.collector import Collected
from tracer.text import duration_text
from tracer.verdict import moment_text

SHORTEST_NS = 1_000
"""An axis needs a length, also where everything happened at once."""
_WALL_CLOCK_NS_MIN = 10_000_000_000
"""Browsers count wall-clock time in ms: what is shorter than this has an axis that counts from its beginning."""
_UNITS = (("µs", 1_000, 5_000_000), ("ms", 1_000_000, 5_000_000_000), ("s", 1_000_000_000, 600_000_000_000),
          ("min", 60_000_000_000, 10_800_000_000_000), ("h", 3_600_000_000_000, 0))  # fmt: skip
"""(name, length in ns, spans below this use it); the last one has no bound."""


@dataclass(frozen=True)
class Span:
    """Half-open: [begin_ns, end_ns), boottime, of at least SHORTEST_NS. `clock` None: there are no wall-clock times."""

    begin_ns: int
    end_ns: int
    clock: ClockOffset | None

    @property
    def length_ns(self) -> int:
        """From the first to the last moment."""
        return self.end_ns - self.begin_ns

    @property
    def is_utc(self) -> bool:
        """Whether the axis shows the time of day; else it counts from the beginning."""
        return self.clock is not None and self.length_ns >= _WALL_CLOCK_NS_MIN

    @property
    def unit(self) -> tuple[str, int]:
        """(name, length in ns) in which an axis counts that starts at the beginning."""
        for name, length_ns, bound_ns in _UNITS:
            if self.length_ns < bound_ns:
                return name, length_ns
        name, length_ns, _ = _UNITS[-1]
        return name, length_ns

    def positions(self, ts_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Where boottimes are on the axis: Unix ms, or units since the beginning; clipped to the span. Shape (n,)."""
        since_ns = np.clip(ts_ns, self.begin_ns, self.end_ns) - self.begin_ns
        if self.is_utc:
            assert self.clock is not None
            return np.round((self.begin_ns + self.clock.offset_ns) / 1e6 + since_ns / 1e6, 3)
        return np.round(since_ns / self.unit[1], 6)

    def title(self) -> str:
        """What the axis counts."""
        if self.is_utc:
            return f"time of day, UTC (begins {self.moment(self.begin_ns)})"
        since = f"since {self.moment(self.begin_ns)}" if self.clock is not None else "since the beginning"
        return f"{self.unit[0]} {since}"

    def moment(self, ts_ns: int) -> str:
        """A boottime for people, as `tracer.verdict.moment_text`."""
        return moment_text(ts_ns, self.clock, self.begin_ns)

    def text(self) -> str:
        """From when to when, how long."""
        ends = f"{self.moment(self.begin_ns)} to {self.moment(self.end_ns)}"
        return f"{ends} ({long_text(self.length_ns)})"


def span_of(collected: Collected) -> Span | None:
    """What a trace covers; None: nothing happened in it."""
    rows, summary = collected.rows, collected.summary
    bounds = [time_ns for time_ns in (summary.first_ns, summary.last_ns) if time_ns >= 0]
    if len(rows):
        bounds += [int(rows["first_seen_ns"].min()), int(rows["last_ns"].max())]
    bounds += [finding.at_ns for finding in collected.findings]
    if not bounds:
        return None
    return Span(min(bounds), max(*bounds, min(bounds) + SHORTEST_NS), collected.header.clock)


def long_text(duration_ns: int) -> str:
    """A duration for people: as `duration_text` up to two minutes, then in minutes, hours and days."""
    minutes = round(duration_ns / 60e9)
    if duration_ns < 120_000_000_000:
        return duration_text(duration_ns)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days {hours % 24} h"
