"""The lines of a trace that are neither connections nor verdicts, and all that a batch says. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tracer.clock import ClockOffset
from tracer.events import EventBatch
from tracer.facts import fact_json
from tracer.header import FORMAT_VERSION, TraceHeader
from tracer.lines.transitions import transition_lines
from tracer.owners.owner import OwnerDetail


def start_line(header: TraceHeader) -> str:
    """The first line of a trace."""
    clock = header.clock
    return json.dumps(
        {
            "type": "start",
            "version": header.version,
            "format": FORMAT_VERSION,
            "source": header.source,
            "why": header.why,
            "resolution_ns": header.resolution_ns,
            "host": header.host or None,
            "kernel": header.kernel or None,
            "clock_offset_ns": clock.offset_ns if clock else None,
            "clock_error_ns": clock.error_ns if clock else None,
            "endpoints": [{"id": number, "endpoint": label} for number, label in header.endpoints.items()],
            "settings": header.settings,
        }
        | ({} if header.loss_known else {"loss_known": False})
    )


def loss_line(batch: EventBatch) -> str:
    """Events that were lost before the next ones, in the interval [since_ns, ts_ns)."""
    return json.dumps({"type": "loss", "ts_ns": batch.lost_until_ns, "since_ns": batch.lost_since_ns, "lost": batch.lost})


def census_line(batch: EventBatch) -> str:
    """Connections that were seen to open since the census before, and how many the kernel counted; its totals, if looked at."""
    kernel = {} if batch.kernel is None else {"kernel": batch.kernel.to_json()}
    return json.dumps({"type": "census", "opened": batch.opened, "counted": batch.counted} | kernel)


def source_line(batch: EventBatch) -> str:
    """Another source goes on; in [since_ns, ts_ns) nobody was looking."""
    times = {"ts_ns": batch.lost_until_ns, "since_ns": batch.lost_since_ns}
    line = {"type": "source", "source": batch.source, "resolution_ns": batch.resolution_ns, "why": batch.switched}
    return json.dumps(line | times)


def clock_line(batch: EventBatch) -> str:
    """Nothing more happened up to this time."""
    return json.dumps({"type": "clock", "ts_ns": batch.until_ns})


def endpoint_line(number: int, label: str) -> str:
    """An endpoint that became known while the trace was taken."""
    return json.dumps({"type": "endpoint", "id": number, "endpoint": label})


def fact_lines(batch: EventBatch, *, owners: bool = True) -> Iterable[str]:
    """What became known: endpoints, addresses, and owners if they are wanted."""
    return (json.dumps(fact_json(fact)) for fact in batch.facts if owners or not isinstance(fact, OwnerDetail))


def batch_lines(batch: EventBatch, endpoints: dict[int, str], clock: ClockOffset | None, samples: bool) -> Iterable[str]:
    """Everything a batch says, in its order: new endpoints, loss, transitions, how far it reaches."""
    for number, label in batch.endpoints:
        yield endpoint_line(number, label)
    yield from fact_lines(batch)
    if batch.switched:
        yield source_line(batch)
    if batch.lost:
        yield loss_line(batch)
    if batch.counted or batch.kernel is not None:
        yield census_line(batch)
    yield from transition_lines(batch, endpoints, clock, samples)
    if batch.until_ns:
        yield clock_line(batch)
