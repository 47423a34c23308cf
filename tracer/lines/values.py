"""Values of JSON lines as text, column by column: a busy host makes ten thousand lines a second. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from tracer.clock import ClockOffset, rfc3339
from tracer.text import address_text


def json_or_null(value: object) -> str:
    """A value as JSON; None is null."""
    return "null" if value is None else json.dumps(value)


def cached(make: Callable[[Any], str]) -> Callable[[Any], str]:
    """Few values, many lines: format each once."""
    known: dict[Any, str] = {}

    def get(value: Any) -> str:
        text = known.get(value)
        if text is None:
            text = known[value] = make(value)
        return text

    return get


def addresses(column: Any) -> list[str]:
    """Addresses of 16 bytes each as JSON text; the unspecified one is null."""
    raw = np.ascontiguousarray(column).tobytes()
    text = cached(lambda address: json_or_null(address_text(address)))
    return [text(raw[start : start + 16]) for start in range(0, len(raw), 16)]


def times(ts_ns: Any, clock: ClockOffset | None) -> list[str]:
    """Boottime in ns as RFC 3339; null where it is unknown, or no clock is."""
    if clock is None:
        return ["null"] * len(ts_ns)
    return ["null" if text is None else f'"{text}"' for text in rfc3339(ts_ns.astype(np.int64), clock)]


def known_texts(values: Any, known: Any) -> list[str]:
    """Integers as text, null where not known."""
    return [str(value) if have else "null" for value, have in zip(values.tolist(), known.tolist(), strict=True)]


def or_null(values: Any) -> list[int | str]:
    """Integers, null where they are negative."""
    if values.min(initial=0) >= 0:
        return values.tolist()
    return [value if value >= 0 else "null" for value in values.tolist()]


def rounded(value: float | None) -> float | None:
    """Six digits: more would pretend."""
    return None if value is None else float(f"{value:.6g}")


def or_none(value: int) -> int | None:
    """A number, None where it is negative."""
    return value if value >= 0 else None
