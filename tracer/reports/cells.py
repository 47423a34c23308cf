"""Values of tables as people read them: times of day, durations and bytes with three digits, errors by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.clock import ClockOffset, rfc3339
from tracer.collected.collector import Collected
from tracer.collected.tables import Column, Kind
from tracer.filters.places import extent_ns
from tracer.lifecycle import errno_name
from tracer.text import bytes_text, duration_text, printable

UNKNOWN = "-"
BOOTTIMES = frozenset(
    {"opened_ns", "established_ns", "closed_ns", "first_seen_ns", "ts_ns", "started_ns", "detected_ns", "ended_ns"}
)
"""Columns that are moments, and no durations."""
_SCALES_NS = {"_ns": 1, "_us": 1_000, "_ms": 1_000_000}
_UNIX = ClockOffset(0, 0)


class TimeTexts:
    """Moments of one trace: HH:MM:SS.ffffff in UTC, after the day where there are several, or seconds since its beginning.

    Attributes:
        said: what the times are, in words.
    """  # fmt: skip

    def __init__(self, collected: Collected) -> None:
        self._clock = collected.header.clock
        self._first_ns, last_ns = extent_ns(collected)
        self._days = False
        self.said = "times are seconds since the trace's beginning: it has no wall clock"
        if self._clock is not None:
            first, last = rfc3339(np.array([self._first_ns, last_ns], np.int64), self._clock)
            assert first is not None
            assert last is not None
            self._days = first[:10] != last[:10]
            of_day = "" if self._days or not collected.summary.events else f" of {first[:10]}"
            self.said = f"times are UTC{of_day}"

    def boottimes(self, ts_ns: NDArray[np.int64]) -> list[str]:
        """Boottimes, shape (n,); "-" for negative ones."""
        if self._clock is not None:
            return self._shown(rfc3339(ts_ns, self._clock))
        return [seconds_text(time_ns - self._first_ns) if time_ns >= 0 else UNKNOWN for time_ns in ts_ns.tolist()]

    def column(self, column: Column) -> list[str]:
        """Unix times of a column."""
        texts = np.datetime_as_string(column.values.astype("datetime64[ns]"), unit="ns").tolist() if len(column.values) else []
        return self._shown([text if known else None for text, known in zip(texts, column.known.tolist(), strict=True)])

    def _shown(self, texts: list[str | None]) -> list[str]:
        if self._days:
            return [UNKNOWN if text is None else f"{text[:10]} {text[11:26]}" for text in texts]
        return [UNKNOWN if text is None else text[11:26] for text in texts]


def seconds_text(span_ns: int) -> str:
    """A signed span in seconds, to the microsecond, rounded down."""
    whole_us, sign = divmod(abs(span_ns), 1000)[0], "-" if span_ns < 0 else ""
    return f"{sign}{whole_us // 1_000_000}.{whole_us % 1_000_000:06d}"


def column_texts(column: Column, times: TimeTexts) -> list[str]:
    """A column as people read it; "-" is unknown. Nothing in it is obeyed by a terminal."""
    if column.kind is Kind.TIME:
        return times.column(column)
    if column.name in BOOTTIMES:
        return times.boottimes(np.where(column.known, column.values, -1))
    show = _shower(column)
    made: dict[Any, str] = {}
    texts = []
    for value in column.objects():
        text = made.get(value)
        if text is None:
            text = made[value] = UNKNOWN if value is None else show(value)
        texts.append(text)
    return texts


def _shower(column: Column) -> Callable[[Any], str]:
    scale_ns = _SCALES_NS.get(column.name[-3:])
    if scale_ns is not None:
        return lambda value: duration_text(value * scale_ns)
    if "bytes" in column.name:
        return bytes_text
    if column.kind is Kind.TRUTH:
        return lambda value: "yes" if value else "no"
    if column.name == "confidence":
        return "{:.0%}".format
    if column.name == "sk_err":
        return errno_name
    return lambda value: printable(str(value))
