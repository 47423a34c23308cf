"""Segments: the events of one connection, side by side in a sorted batch, and what they say of its row. Pure.

`tracer.connections` sorts events by socket and says where connections begin; here each row's values are reductions over its
segment. Arrays called `segment_start` have shape (n_segments,) and hold the index of each segment's first event; `segment` has
shape (n_events,) and holds the index of each event's segment.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tracer.events import FIELD_FLAGS, N_STATES, Events, TcpState, valid
from tracer.lifecycle import CloseReason, close_reasons

T = TypeVar("T", bound=np.generic)
Rows = NDArray[np.void]
"""A structured array of connections.CONNECTION_DTYPE."""

_CLOSE, _ESTABLISHED = np.uint8(TcpState.CLOSE), np.uint8(TcpState.ESTABLISHED)
_LAST_KNOWN = (
    ("lport", "sport"), ("laddr", "saddr"), ("netns", "netns"), ("bytes_received", "bytes_received"),
    ("bytes_acked", "bytes_acked"), ("retransmits", "retransmits"), ("srtt_us", "srtt_us"),
)  # fmt: skip


def take(records: NDArray[np.void], index: NDArray[np.intp]) -> NDArray[np.void]:
    """`records[index]`, several times faster: structures are moved as words instead of field by field."""
    return words(records).take(index, axis=0).reshape(-1).view(records.dtype)


def words(records: NDArray[np.void]) -> NDArray[np.uint64]:
    """Contiguous structures as words, shape (n, itemsize / 8)."""
    return records.view(np.uint64).reshape(len(records), records.dtype.itemsize // 8)


def shifted(values: NDArray[T], first: NDArray[np.intp], carried: NDArray[T]) -> NDArray[T]:
    """For each event the value of the one before on its socket; for the first ones, at `first`, what was carried over."""
    before = np.empty_like(values)
    before[1:] = values[:-1]
    before[first] = carried
    return before


def halves(records: NDArray[np.void], field: str) -> NDArray[np.uint64]:
    """An address field of structures, shape (n, 16) bytes, as two words each, shape (n, 2)."""
    fields = records.dtype.fields
    assert fields is not None
    first = fields[field][1] // 8
    return words(records)[:, first : first + 2]


def group_starts(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Where a run of equal keys begins: bool, shape (n_keys,)."""
    starts = np.ones(len(keys), bool)
    starts[1:] = keys[1:] != keys[:-1]
    return starts


def _last_where(mask: NDArray[np.bool_], segment_start: NDArray[np.intp]) -> NDArray[np.intp]:
    """Index of each segment's last event for which `mask` holds, shape (n_segments,); -1 where there is none."""
    return np.maximum.reduceat(np.where(mask, np.arange(len(mask)), -1), segment_start)


def fill_values(rows: Rows, events: Events, segment_start: NDArray[np.intp]) -> None:
    """Bring the values of rows, shape (n_segments,), up to date with the events of their segments."""
    last = np.append(segment_start[1:], len(events)) - 1
    flags = events["flags"]
    everything = np.uint32(sum(FIELD_FLAGS[source] for source in dict.fromkeys(source for _, source in _LAST_KNOWN)))
    tail = take(events, last)
    whole = (tail["flags"] & everything == everything).all()  # the usual case: the last event knows it all
    for field, source in _LAST_KNOWN:
        if whole:
            rows[field] = tail[source]
            continue
        index = _last_where(flags & np.uint32(FIELD_FLAGS[source]) != 0, segment_start)
        have = index >= 0
        rows[field][have] = events[source][index[have]]
    # the data phase ends once; a sample in it is superseded by what ends it
    in_data = events["old_state"] == _ESTABLISHED
    for field in ("unread_bytes", "idle_ms"):
        index = _last_where(in_data & valid(events, field), segment_start)
        have = index >= 0
        rows[field][have] = events[field][index[have]]
    rows["last_state"] = tail["new_state"]
    has_err = (tail["new_state"] == _CLOSE) & valid(tail, "sk_err")
    rows["sk_err"][has_err] = tail["sk_err"][has_err]
    _fill_reasons(rows, events, segment_start)


def fill_times(
    rows: Rows,
    events: Events,
    ts_ns: NDArray[np.int64],
    segment: NDArray[np.intp],
    segment_start: NDArray[np.intp],
) -> None:
    """Bring the times of rows, shape (n_segments,), up to date with the events of their segments."""
    new = events["new_state"]
    established = (new == _ESTABLISHED) & (events["old_state"] != _ESTABLISHED)
    rows["established_ns"][segment[established]] = ts_ns[established]
    last = np.append(segment_start[1:], len(events)) - 1
    rows["last_ns"] = ts_ns[last]
    rows["closed_ns"] = np.where(new[last] == _CLOSE, ts_ns[last], -1)
    for field, end, start in (("connect_ns", "established_ns", "opened_ns"), ("lifetime_ns", "closed_ns", "opened_ns")):
        known = (rows[end] >= 0) & (rows[start] >= 0)
        rows[field] = np.where(known, rows[end] - rows[start], -1)


def fill_states(
    rows: Rows,
    old: NDArray[np.uint8],
    since_previous_ns: NDArray[np.int64],
    segment: NDArray[np.intp],
    previous_state: NDArray[np.uint8],
    begins: NDArray[np.bool_],
) -> None:
    """Add the time between two events that fit together to the state they share; mark the gap where they don't."""
    fits = ~begins & (previous_state == old)
    missing = ~begins & ~fits
    rows["gap"][segment[missing]] = True
    where = segment[fits] * N_STATES + old[fits]
    spent_ns = np.zeros(len(rows) * N_STATES, np.int64)
    np.add.at(spent_ns, where, since_previous_ns[fits])
    seen = np.zeros(len(rows) * N_STATES, bool)
    seen[where] = True
    known = rows["state_ns"]
    total_ns = np.maximum(known, 0) + spent_ns.reshape(known.shape)
    rows["state_ns"] = np.where(seen.reshape(known.shape), total_ns, known)


def _fill_reasons(rows: Rows, events: Events, segment_start: NDArray[np.intp]) -> None:
    """Take the first verdict of each segment where its row has none yet."""
    reasons = close_reasons(events["old_state"], events["new_state"], events["sk_err"], valid(events, "sk_err"))
    none = len(reasons)
    decided = np.where(reasons != CloseReason.UNDECIDED, np.arange(none), none)
    index = np.minimum.reduceat(decided, segment_start)
    take = (index < none) & (rows["close_reason"] == CloseReason.UNDECIDED)
    rows["close_reason"][take] = reasons[index[take]]
