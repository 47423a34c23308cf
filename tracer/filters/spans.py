"""Durations and moments as people type them. Pure.

A moment is meant in the trace's time: a wall-clock time of its first day, seconds since its beginning, seconds before its end.
So what is typed is kept as a `Moment` until the trace is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

from tracer.clock import ClockOffset
from tracer.errors import UsageError

_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|min|m|h)", re.ASCII)
_OFFSET = re.compile(r"([+-])(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?", re.ASCII)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d\d):(\d\d))", re.ASCII)
_LENGTH_MAX = 64
_NS_MAX = 1 << 62  # as clock.OFFSET_NS_MAX, 146 years: sums of two fit into int64
_DAY_NS = 86_400 * 10**9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DURATION_FORMS = "expected a number and ns, us, ms, s, m or h, such as 250ms or 1.5s"
MOMENT_FORMS = (
    "expected HH:MM:SS[.ffffff], a time as in the output (2026-01-31T12:00:00.5Z), "
    "+SECONDS or +MM:SS since the trace's beginning, or -SECONDS before its end"
)


@dataclass(frozen=True)
class Moment:
    """A time as it was typed.

    Attributes:
        text: what was typed.
        ns: Unix time, time of day, or distance, by `kind`.
        kind: "wall", "day", "since-beginning" or "before-end".
    """

    text: str
    ns: int
    kind: str

    def boottime_ns(self, first_ns: int, last_ns: int, clock: ClockOffset | None) -> int:
        """When that is in a trace.

        Args:
            first_ns, last_ns: boottime at which the trace begins and ends.
            clock: of the trace; None: it has no wall-clock times.

        Raises:
            UsageError: it is a wall-clock time, and the trace has none.
        """
        if self.kind == "since-beginning":
            return first_ns + self.ns
        if self.kind == "before-end":
            return last_ns - self.ns
        if clock is None:
            why = "this trace has no wall-clock times; give seconds since its beginning, such as +12.5"
            raise UsageError(f"{self.text!r} can't be found: {why}")
        if self.kind == "wall":
            return self.ns - clock.offset_ns
        begin_ns = first_ns + clock.offset_ns
        found_ns = begin_ns // _DAY_NS * _DAY_NS + self.ns
        next_ns = found_ns + _DAY_NS
        if found_ns < begin_ns and next_ns <= last_ns + clock.offset_ns:  # the trace runs into the next day
            found_ns = next_ns
        return found_ns - clock.offset_ns


def parse_duration(text: str) -> int:
    """A duration in ns.

    Raises:
        UsageError: it is none.
    """
    found = _DURATION.fullmatch(text.strip()) if len(text) <= _LENGTH_MAX else None
    duration_ns = int(Fraction(found[1]) * _UNITS_NS[found[2]]) if found else _NS_MAX
    if duration_ns >= _NS_MAX:
        raise UsageError(f"{text[:_LENGTH_MAX]!r} is no duration: {DURATION_FORMS}")
    return duration_ns


def parse_moment(text: str) -> Moment:
    """A time, as it is meant in a trace.

    Raises:
        UsageError: it is none.
    """
    given = text.strip()
    found = _moment(given) if len(given) <= _LENGTH_MAX else None
    if found is None or not 0 <= found[0] < _NS_MAX:
        raise UsageError(f"{text[:_LENGTH_MAX]!r} is no time: {MOMENT_FORMS}")
    return Moment(given, *found)


def _moment(text: str) -> tuple[int, str] | None:
    """(ns, kind)."""
    kind = {"+": "since-beginning", "-": "before-end"}.get(text[:1])
    if kind is not None:
        length_ns = _length_ns(text)
        return None if length_ns is None else (length_ns, kind)
    found = _CLOCK.fullmatch(text)
    if found is not None:
        hours, minutes, seconds = int(found[1]), int(found[2]), int(found[3] or 0)
        if hours > 23 or minutes > 59 or seconds > 59:
            return None
        return ((hours * 60 + minutes) * 60 + seconds) * 10**9 + _fraction_ns(found[4]), "day"
    wall_ns = _wall_ns(text)
    return None if wall_ns is None else (wall_ns, "wall")


def _length_ns(text: str) -> int | None:
    """How far a signed distance reaches: seconds, MM:SS, HH:MM:SS, or a duration with its unit."""
    found = _OFFSET.fullmatch(text)
    if found is not None:
        return int((int(found[2] or 0) * 3600 + int(found[3] or 0) * 60 + Fraction(found[4])) * 10**9)
    found = _DURATION.fullmatch(text[1:])
    return int(Fraction(found[1]) * _UNITS_NS[found[2]]) if found else None


def _wall_ns(text: str) -> int | None:
    """Unix time of an RFC 3339 time."""
    found = _RFC3339.fullmatch(text)
    if found is None:
        return None
    day, time, fraction, utc, sign, hours, minutes = found.groups()
    try:
        zone = UTC if utc else timezone((1 if sign == "+" else -1) * timedelta(hours=int(hours), minutes=int(minutes)))
        at = datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=zone)
    except (ValueError, OverflowError):
        return None
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 10**9 + _fraction_ns(fraction)


def _fraction_ns(digits: str | None) -> int:
    return int((digits or "").ljust(9, "0"))
