"""Moments as text: wall-clock time where a trace has a clock, else seconds since its beginning. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.clock import ClockOffset, rfc3339
from tracer.screen.numbers import UNKNOWN

_DAY_LENGTH = len("2026-01-01T")
_SECOND_LENGTH = _DAY_LENGTH + len("00:00:00")
_MS_LENGTH = _SECOND_LENGTH + len(".000")


@dataclass(frozen=True)
class Moments:
    """How the times of a trace are shown.

    Attributes:
        clock: boottime to wall clock; None: the trace has none.
        first_ns: where the trace begins, boottime; -1 not yet known.
    """

    clock: ClockOffset | None
    first_ns: int = -1

    def texts(self, ts_ns: NDArray[np.int64]) -> list[str]:
        """Times to the millisecond, in UTC; "-" unknown (-1). Shape (n,)."""
        if self.clock is not None:
            return [text[_DAY_LENGTH:_MS_LENGTH] if text else UNKNOWN for text in rfc3339(ts_ns, self.clock)]
        return [f"{(each - self.first_ns) / 1e9:+.3f}s" if each >= 0 else UNKNOWN for each in ts_ns.tolist()]

    def text(self, ts_ns: int) -> str:
        """A time to the second, in UTC with a Z behind it; "-" unknown (-1)."""
        if ts_ns < 0:
            return UNKNOWN
        if self.clock is None:
            return f"{(ts_ns - self.first_ns) / 1e9:+.0f}s"
        found = rfc3339(np.array([ts_ns], np.int64), self.clock)[0]
        assert found is not None
        return found[_DAY_LENGTH:_SECOND_LENGTH] + "Z"
