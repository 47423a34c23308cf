"""Notes: what belongs into an Arrow capture beside events, as JSON in a row of its own. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from tracer.captures.ipc import IpcError
from tracer.events import EventBatch, KernelCounts
from tracer.facts import Fact, fact_json, fact_of, whole


def endpoints_of(found: object) -> Iterator[tuple[int, str]]:
    """Endpoint ids and labels of a JSON object.

    Raises:
        ValueError: it is none, or an id is no 32-bit number.
    """
    if not isinstance(found, dict):
        raise ValueError("endpoints are no object")
    for number, label in found.items():
        if not 0 < int(number) < 1 << 32:
            raise ValueError(f"endpoint id {number}")
        yield int(number), str(label)


class Noted(NamedTuple):
    """What a note says."""

    endpoints: tuple[tuple[int, str], ...] = ()
    opened: int = 0
    counted: int = 0
    resolution_ns: int = 0
    since_ns: int = 0
    until_ns: int = 0
    switched: str = ""
    source: str = ""
    kernel: KernelCounts | None = None
    facts: tuple[Fact, ...] = ()


def note_of(batch: EventBatch) -> dict[str, Any]:
    """What belongs into a note of a batch; empty: nothing."""
    note: dict[str, Any] = {}
    if batch.endpoints:
        note["endpoints"] = {str(number): label for number, label in batch.endpoints}
    if batch.counted:
        note["opened"], note["counted"] = batch.opened, batch.counted
    if batch.facts:
        note["facts"] = [fact_json(fact) for fact in batch.facts]
    if batch.kernel is not None:
        note["kernel"] = batch.kernel.to_json()
    if batch.switched:
        note |= {"switched": batch.switched, "source": batch.source, "resolution_ns": batch.resolution_ns}
        note |= {"since_ns": batch.lost_since_ns, "until_ns": batch.lost_until_ns}
    return note


def _facts_of(found: object) -> tuple[Fact, ...]:
    if not isinstance(found, list):
        raise ValueError("facts are no list")
    return tuple(map(fact_of, found))


def read_note(text: str) -> Noted:
    """What a note says; what it does not say is as in `Noted`.

    Raises:
        IpcError: it is no JSON object, or something in it is of another kind.
    """
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("no object")
        return Noted(
            endpoints=tuple(endpoints_of(content.get("endpoints", {}))),
            opened=whole(content, "opened"),
            counted=whole(content, "counted"),
            resolution_ns=whole(content, "resolution_ns"),
            since_ns=whole(content, "since_ns"),
            until_ns=whole(content, "until_ns"),
            switched=str(content.get("switched", "")),
            source=str(content.get("source", "")),
            kernel=KernelCounts.from_json(content.get("kernel")),
            facts=_facts_of(content.get("facts", [])),
        )
    except (ValueError, RecursionError) as error:
        raise IpcError(f"a note can't be read: {error!r}") from error
