"""Facts: what a trace knows beside its events, as JSON values that lines and captures share. Pure."""

from __future__ import annotations

from typing import Any

from tracer.events import KernelCounts


def whole(content: dict[str, Any], name: str, missing: int = 0) -> int:
    """A whole number of a JSON object, or what it is if it is missing.

    Raises:
        ValueError: it is something else.
    """
    value = content.get(name, missing)
    if type(value) is not int:
        raise ValueError(f"{name} is no whole number")
    return value


def kernel_json(kernel: KernelCounts) -> dict[str, int]:
    """The kernel's totals by name, without those that are unknown."""
    return {name: count for name, count in kernel._asdict().items() if count >= 0}


def kernel_of(found: object) -> KernelCounts | None:
    """The kernel's totals that `kernel_json` gave; None of None. Names that are not known are passed over.

    Raises:
        ValueError: it is no object, or a total is no whole number.
    """
    if found is None:
        return None
    if not isinstance(found, dict):
        raise ValueError("the kernel's totals are no object")
    return KernelCounts(**{name: whole(found, name, -1) for name in KernelCounts._fields})
