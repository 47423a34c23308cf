"""What every export says of its trace: where it is from, how exact it is, and what it lacks. Pure."""

from __future__ import annotations

from tracer import __version__
from tracer.collected.collector import Collected
from tracer.lines.values import rounded


def about(collected: Collected) -> dict[str, str]:
    """By name, as text; what is not known says so."""
    header, summary = collected.header, collected.summary
    sources = dict.fromkeys((header.source, summary.source))
    blind = sum(loss.lost is None for loss in summary.losses)
    clock = header.clock
    lost = "unknown" if summary.lost_at_least is None else str(summary.lost_at_least)
    return {
        "version": __version__,
        "recorded_by": header.version,
        "source": ", then ".join(sources),
        "why": header.why,
        "resolution_ns": str(max(header.resolution_ns, summary.resolution_ns)),
        "host": header.host or "unknown",
        "kernel": header.kernel or "unknown",
        "clock_offset_ns": str(clock.offset_ns) if clock else "unknown",
        "clock_error_ns": str(clock.error_ns) if clock else "unknown",
        "transitions": str(summary.events),
        "connections": str(summary.connections),
        "lost": f"{lost}, and what was in {blind} intervals in which nobody looked" if blind else lost,
        "gaps": str(summary.gaps),
        "coverage": "unknown" if summary.coverage is None else str(rounded(summary.coverage)),
        "truncated": collected.truncated or "no",
    }
