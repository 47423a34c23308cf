"""Segments: the events of one connection, side by side in a sorted batch, and what they say of its row. Pure.

`tracer.connections` sorts events by socket and says where connections begin; here each row's values are reductions over its
segment. Arrays called `segment_start` have shape (n_segments,) and hold the index of each segment's first event; `segment` has
shape (n_events,) and holds the index of each event's segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tracer.events import FIELD_FLAGS, N_STATES, Events, TcpState, valid
from tracer.lifecycle import CloseReason, close_reasons

T = TypeVar("T", bound=np.generic)
Rows = NDArray[np.void]
"""A structured array of rows.CONNECTION_DTYPE."""

_CLOSE, _ESTABLISHED = np.uint8(TcpState.CLOSE), np.uint8(TcpState.ESTABLISHED)
_WORD_BITS = 64
_LAST_KNOWN = (
    ("lport", "sport"), ("laddr", "saddr"), ("netns", "netns"), ("bytes_received", "bytes_received"),
    ("bytes_acked", "bytes_acked"), ("retransmits", "retransmits"), ("srtt_us", "srtt_us"),
)  # fmt: skip


def take(records: NDArray[np.void], index: NDArray[np.intp]) -> NDArray[np.void]:
    """`records[index]`, several times faster: structures are moved as words instead of field by field."""
    return words(records).take(index, axis=0).reshape(-1).view(records.dtype)


def joined(pieces: Sequence[NDArray[np.void]]) -> NDArray[np.void]:
    """`np.concatenate` of structures of one dtype, several times faster: as words. There must be a piece."""
    if len(pieces) == 1:
        return pieces[0]
    dtype = pieces[0].dtype
    return np.concatenate([words(np.ascontiguousarray(piece)) for piece in pieces]).reshape(-1).view(dtype)


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


def stable_order(keys: NDArray[np.uint64]) -> NDArray[np.intp]:
    """`np.argsort(keys, kind="stable")`, several times faster where the keys lie close together, as kernel addresses do.

    Position and key are packed into one integer: numpy sorts integers with vector instructions, but not their order.
    """
    if not len(keys):
        return np.zeros(0, np.intp)
    above = keys - keys.min()
    used = int(np.bitwise_or.reduce(above))
    shift = (used & -used).bit_length() - 1 if used else 0  # sockets are aligned: the lowest bits are all zero
    position_bits = len(keys).bit_length()
    if (used >> shift).bit_length() + position_bits > _WORD_BITS:
        return np.argsort(keys, kind="stable")
    packed = (above >> np.uint64(shift)) << np.uint64(position_bits)
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    return (packed & np.uint64((1 << position_bits) - 1)).astype(np.intp)


def _last_of_each(index: NDArray[np.intp], segment: NDArray[np.intp]) -> NDArray[np.intp]:
    """Of increasing indexes of events, the last one in each segment (numpy promises no order where one is set twice)."""
    own = segment[index]
    last = np.ones(len(index), bool)
    last[:-1] = own[1:] != own[:-1]
    return index[last]


def fill_values(rows: Rows, events: Events, segment: NDArray[np.intp], segment_start: NDArray[np.intp]) -> None:
    """Bring the values of rows, shape (n_segments,), up to date with the events of their segments."""
    last = np.append(segment_start[1:], len(events)) - 1
    flags = events["flags"]
    tail = take(events, last)
    for field, source in _LAST_KNOWN:
        flag = np.uint32(FIELD_FLAGS[source])
        has = tail["flags"] & flag != 0
        if has.all():  # the usual case: the last event knows it
            rows[field] = tail[source]
            continue
        rows[field][has] = tail[source][has]
        earlier = np.flatnonzero(flags & flag != 0)
        index = _last_of_each(earlier[~has[segment[earlier]]], segment)
        rows[field][segment[index]] = events[source][index]
    # the data phase ends once; a sample in it is superseded by what ends it
    in_data = events["old_state"] == _ESTABLISHED
    for field in ("unread_bytes", "idle_ms"):
        index = _last_of_each(np.flatnonzero(in_data & valid(events, field)), segment)
        rows[field][segment[index]] = events[field][index]
    rows["last_state"] = tail["new_state"]
    has_err = (tail["new_state"] == _CLOSE) & valid(tail, "sk_err")
    rows["sk_err"][has_err] = tail["sk_err"][has_err]
    _fill_reasons(rows, events, segment_start)


def fill_times(
    rows: Rows,
    events: Events,
    ts_ns: NDArray[np.int64],
    early_ns: NDArray[np.int64] | None,
    segment: NDArray[np.intp],
    segment_start: NDArray[np.intp],
) -> None:
    """Bring the times of rows, shape (n_segments,), up to date with the events of their segments.

    `early_ns`, shape (n_events,), says how much earlier each may have happened; None: all times are exact.
    """
    new = events["new_state"]
    established = _last_of_each(np.flatnonzero((new == _ESTABLISHED) & (events["old_state"] != _ESTABLISHED)), segment)
    rows["established_ns"][segment[established]] = ts_ns[established]
    last = np.append(segment_start[1:], len(events)) - 1
    rows["last_ns"] = ts_ns[last]
    rows["closed_ns"] = np.where(new[last] == _CLOSE, ts_ns[last], -1)
    if early_ns is not None:
        rows["established_early_ns"][segment[established]] = early_ns[established]
        rows["closed_early_ns"] = np.where(rows["closed_ns"] >= 0, early_ns[last], 0)
    for field, end, start in (("connect", "established", "opened"), ("lifetime", "closed", "opened")):
        span_ns = rows[f"{end}_ns"] - rows[f"{start}_ns"]
        known = (rows[f"{end}_ns"] >= 0) & (rows[f"{start}_ns"] >= 0)
        known &= (span_ns > 0) | (rows[f"{end}_early_ns"] == 0)  # both seen in one look: it may have been anything
        rows[f"{field}_ns"] = np.where(known, span_ns, -1)


def fill_states(
    rows: Rows,
    old: NDArray[np.uint8],
    since_previous_ns: NDArray[np.int64],
    segment: NDArray[np.intp],
    previous_state: NDArray[np.uint8],
    begins: NDArray[np.bool_],
    early_ns: NDArray[np.int64] | None,
) -> None:
    """Add the time between two events that fit together to the state they share; mark the gap where they don't.

    Of two that were seen in one look it is not known.
    """
    fits = ~begins & (previous_state == old)
    missing = ~begins & ~fits
    rows["gap"][segment[missing]] = True
    if early_ns is not None:
        fits &= (since_previous_ns > 0) | (early_ns == 0)
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
