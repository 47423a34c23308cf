"""Thresholds: the numbers of a rule, with what is allowed for each. Pure.

Every rule has a frozen dataclass of them. A field's unit is the end of its name (`_s`, `_bytes`, `_per_min`, none: a count).
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Limit:
    """What a threshold may be: [low, high], and what it is for."""

    low: float
    high: float
    text: str


def threshold(default: float, low: float, high: float, text: str) -> Any:
    """A field of a `Thresholds` class; whole numbers where the default is one."""
    return field(default=default, metadata={"limit": Limit(low, high, text)})


_UNITS = (("_per_min", "a number per minute"), ("_bytes", "a number of bytes"), ("_s", "a number of seconds"))


@dataclass(frozen=True)
class Thresholds:
    """Base of every rule's settings."""

    def problems(self) -> list[tuple[str, str]]:
        """(name, what is wrong) of thresholds that do not fit together; each alone is checked before."""
        return []


def limits(settings: type[Thresholds]) -> dict[str, tuple[float, Limit]]:
    """(default, limit) of each threshold by name, in order."""
    return {item.name: (_default(item), item.metadata["limit"]) for item in fields(settings)}


def _default(item: Field[Any]) -> float:
    return float(item.default) if isinstance(item.default, float) else int(item.default)  # type: ignore[arg-type]


def unit_of(name: str) -> str:
    """What kind of number a threshold is, in words, told by its name."""
    return next((text for suffix, text in _UNITS if name.endswith(suffix)), "a number")


def wrong(name: str, value: object, default: float, limit: Limit) -> str | None:
    """What is wrong with a value for a threshold, or None."""
    whole = isinstance(default, int)
    expected = f"expected {'a whole number' if whole and unit_of(name) == 'a number' else unit_of(name)}"
    allowed = f"{expected} from {limit.low:g} to {limit.high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{name} = {value!r:.80} is no number: {allowed}, without a unit"
    if whole and not isinstance(value, int):
        return f"{name} = {value!r} is not whole: {allowed}"
    if not limit.low <= value <= limit.high:
        return f"{name} = {value!r} is out of range: {allowed}"
    return None
