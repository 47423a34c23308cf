"""From boottime to wall-clock time: an offset measured once a trace, with its error."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_READINGS = 15
OFFSET_NS_MAX = 1 << 62


@dataclass(frozen=True)
class ClockOffset:
    """What to add to a boottime to get a Unix time.

    Attributes:
        offset_ns: CLOCK_REALTIME - CLOCK_BOOTTIME.
        error_ns: the true offset is within offset_ns +- error_ns of when it was measured; later steps of the wall clock (NTP)
            do not change the offset of a running trace, so that its times stay comparable among themselves.
    """

    offset_ns: int
    error_ns: int

    def __post_init__(self) -> None:
        """Refuse what can't be added to a time.

        Raises:
            ValueError: beyond 146 years.
        """
        if not -OFFSET_NS_MAX < self.offset_ns < OFFSET_NS_MAX or not 0 <= self.error_ns < OFFSET_NS_MAX:
            raise ValueError(f"clock offset {self.offset_ns} +- {self.error_ns} ns")


def measure() -> ClockOffset:
    """Read both clocks several times and keep the reading with the least time between its ends."""
    best: ClockOffset | None = None
    for _ in range(_READINGS):
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        wall = time.clock_gettime_ns(time.CLOCK_REALTIME)
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        error_ns = (after - before + 1) // 2
        if best is None or error_ns < best.error_ns:
            best = ClockOffset(wall - (before + after) // 2, error_ns)
    assert best is not None
    return best


def boottime_ns() -> int:
    """CLOCK_BOOTTIME now."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def rfc3339(ts_ns: NDArray[np.int64], offset: ClockOffset) -> list[str | None]:
    """Boottimes as RFC 3339 in UTC with nanoseconds; None where the time is -1. Shape (n,)."""
    wall = (ts_ns + offset.offset_ns).astype("datetime64[ns]")
    texts = np.datetime_as_string(wall, unit="ns").tolist() if len(ts_ns) else []
    return [f"{text}Z" if known else None for text, known in zip(texts, (ts_ns >= 0).tolist(), strict=True)]
