"""Transition, sample and adopted lines. Pure."""

from __future__ import annotations

import json

import numpy as np

from tracer.clock import ClockOffset
from tracer.events import EventBatch, EventFlag, Events, is_transition, valid
from tracer.lifecycle import STATE_NAMES
from tracer.lines.values import addresses, cached, known_texts, times
from tracer.text import comm_text

_TRANSITION = (
    '{{"type": "{}", "ts_ns": {}, "at": {}, "skaddr": "{:#x}", "endpoint": {}, "laddr": {}, "lport": {}, "raddr": {}, '
    '"rport": {}, "old": "{}", "new": "{}", "pid": {}, "comm": {}, "owner": {}, "cgroup_id": {}, "netns": {}, "family": {}, '
    '"bytes_received": {}, "bytes_acked": {}, "srtt_us": {}, "retransmits": {}, "unread_bytes": {}, "idle_ms": {}, '
    '"sk_err": {}, "early_ns": {}}}'
).format


def transition_lines(batch: EventBatch, endpoints: dict[int, str], clock: ClockOffset | None, samples: bool = False) -> list[str]:
    """One line per transition, in the order of the batch.

    With `samples` also one per sample ("type": "sample") and per socket that was found open ("type": "adopted").
    """
    events: Events = batch.events
    early_ns = np.zeros(len(events), np.uint64) if batch.early_ns is None else batch.early_ns
    if not samples:
        transition = is_transition(events)
        events, early_ns = events[transition], early_ns[transition]
    label = cached(lambda number: json.dumps(endpoints.get(number, f"endpoint {number}")))
    comm = cached(lambda name: json.dumps(comm_text(name)))
    has_saddr = valid(events, "saddr").tolist()
    has_task = valid(events, "comm").tolist()
    columns = [
        [_KIND_OF[flags & _NO_TRANSITION] for flags in events["flags"].tolist()],
        events["ts_ns"].tolist(),
        times(events["ts_ns"], clock),
        events["skaddr"].tolist(),
        [label(number) for number in events["endpoint_id"].tolist()],
        [text if have else "null" for text, have in zip(addresses(events["saddr"]), has_saddr, strict=True)],
        known_texts(events["sport"], valid(events, "sport")),
        addresses(events["daddr"]),
        events["dport"].tolist(),
        [STATE_NAMES[state] for state in events["old_state"].tolist()],
        [STATE_NAMES[state] for state in events["new_state"].tolist()],
        known_texts(events["pid"], valid(events, "pid")),
        [comm(name) if have else "null" for name, have in zip(events["comm"].tolist(), has_task, strict=True)],
        ["true" if flags & EventFlag.OWNER else "false" for flags in events["flags"].tolist()],
        known_texts(events["cgroup_id"], valid(events, "cgroup_id")),
        known_texts(events["netns"], valid(events, "netns")),
        events["family"].tolist(),
        *(known_texts(events[field], valid(events, field)) for field in _COUNTERS),
        early_ns.tolist(),
    ]
    return [_TRANSITION(*row) for row in zip(*columns, strict=True)]


_NO_TRANSITION = int(EventFlag.SAMPLE | EventFlag.ADOPTED)
_KIND_OF = {0: "transition", int(EventFlag.SAMPLE): "sample", int(EventFlag.ADOPTED): "adopted", _NO_TRANSITION: "sample"}
"""By the flags of no transition; no source sets both, but a capture may have been made by anybody."""
_COUNTERS = ("bytes_received", "bytes_acked", "srtt_us", "retransmits", "unread_bytes", "idle_ms", "sk_err")
