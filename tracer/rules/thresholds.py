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


_SHOWN_MAX = 80
_UNITS = (("_per_min", "a number per minute"), ("_bytes", "a number of bytes"), ("_s", "a number of seconds"))


@dataclass(frozen=True)
class Thresholds:
    """Base of every rule's settings."""

    def problems(self) -> list[tuple[tuple[str, ...], str]]:
        """(names, what is wrong) of thresholds that do not fit together; each alone is checked before."""
        return []


def limits(settings: type[Thresholds]) -> dict[str, tuple[float, Limit]]:
    """(default, limit) of each threshold by name, in order."""
    return {item.name: (_default(item), item.metadata["limit"]) for item in fields(settings)}


def _default(item: Field[Any]) -> float:
    number: float = item.default  # type: ignore[assignment]
    return int(number) if item.type == "int" else float(number)


def unit_of(name: str) -> str:
    """What kind of number a threshold is, in words, told by its name."""
    return next((text for suffix, text in _UNITS if name.endswith(suffix)), "a number")


def wrong(name: str, value: object, default: float, limit: Limit) -> str | None:
    """What is wrong with a value for a threshold, or None."""
    whole = isinstance(default, int)
    expected = unit_of(name).replace("a number", "a whole number") if whole else unit_of(name)
    allowed = f"expected {expected} from {limit.low:g} to {limit.high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{name} = {shown(value)} is no number: {allowed}, without a unit"
    if whole and not isinstance(value, int):
        return f"{name} = {shown(value)} is not whole: {allowed}"
    if not limit.low <= value <= limit.high:
        return f"{name} = {shown(value)} is out of range: {allowed}"
    return None


def shown(value: object) -> str:
    """A value of a configuration file for a message, cut short."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "..."
