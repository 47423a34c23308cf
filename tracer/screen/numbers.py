"""Numbers that keep their width and precision from one picture to the next. Pure."""

from __future__ import annotations

import math

_BYTES = (("B", 1), ("kB", 10**3), ("MB", 10**6), ("GB", 10**9), ("TB", 10**12))
_TIMES = (("ns", 1), ("µs", 10**3), ("ms", 10**6), ("s", 10**9))
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400
_LONG_DAYS = 100
UNKNOWN = "-"


def rate_text(per_s: float) -> str:
    """Always one decimal; "-" unknown (nan)."""
    return UNKNOWN if math.isnan(per_s) else f"{per_s:.1f}"


def bytes_rate_text(per_s: float) -> str:
    """Three digits and a unit: "0 B", "12.0kB", "120kB"; "-" unknown (nan)."""
    return UNKNOWN if math.isnan(per_s) else _three_digits(per_s, _BYTES)


def size_text(count: int) -> str:
    """Bytes with three digits and a unit; "-" unknown (negative)."""
    return UNKNOWN if count < 0 else _three_digits(count, _BYTES)


def life_text(duration_ns: int) -> str:
    """A short duration with three digits and a unit, a long one as `span_text`; "-" unknown (negative)."""
    if duration_ns < 0:
        return UNKNOWN
    return _three_digits(duration_ns, _TIMES) if duration_ns < 100 * 10**9 else span_text(duration_ns)


def span_text(duration_ns: int) -> str:
    """How long something has lasted, to the second, in two units: "44s", "12m04s", "3h07m", "5d02h"; "-" unknown (negative)."""
    if duration_ns < 0:
        return UNKNOWN
    seconds = duration_ns // 10**9
    if seconds < _MINUTE_S:
        return f"{seconds}s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S}m{seconds % _MINUTE_S:02d}s"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S}h{seconds % _HOUR_S // _MINUTE_S:02d}m"
    days, rest_s = divmod(seconds, _DAY_S)
    return f"{days}d{rest_s // _HOUR_S:02d}h" if days < _LONG_DAYS else f"{days}d"


def shares(counts: list[int]) -> list[str]:
    """Each count's share of all in whole percents; "-" where there is nothing to share."""
    total = sum(counts)
    return [f"{round(100 * count / total)}%" if total else UNKNOWN for count in counts]


def _three_digits(amount: float, units: tuple[tuple[str, int], ...]) -> str:
    """Three digits, zeros at the end kept, in the smallest unit of which there are fewer than a thousand; else in the last."""
    for number, (unit, size) in enumerate(units):
        value = amount / size
        if value < 999.5 or number == len(units) - 1:
            decimals = 0 if number == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
            return f"{value:.{decimals}f}{unit}"
    raise AssertionError("unreachable: the last unit takes all")
