"""How exact times are, in words. Pure."""

from __future__ import annotations

from tracer.text import duration_text

UNTIMED_NS = 86_400_000_000_000
"""The resolution of a trace whose source gave no times: a day, with which no rule judges."""


def exactness_text(resolution_ns: int) -> str:
    """How exact times are, or that there are none."""
    return f"times exact to {duration_text(resolution_ns)}" if resolution_ns < UNTIMED_NS else "no times, durations only"
