"""From events to connections: one row each, built with arrays, the same however the events were cut into batches.

A connection's identity is (netns, skaddr, first-seen time), never the 4-tuple: the slab hands the address of a closed socket
to the very next one, and the source port is not known at SYN_SENT. Its owner is the task of CLOSE -> SYN_SENT, the only
transition that surely runs in the context of the process that wanted it.

How a batch becomes rows. A stable sort by identity key puts each socket's events together, in their order. *Segments* are
cut where a connection begins: at an opening transition, after a CLOSE, and where an event can't belong to what came before
(events were lost). A segment continues an open row or starts a new one; all its values are then reductions over segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tracer.events import N_STATES, EventFlag, Events, TcpState, valid
from tracer.lifecycle import RANK, CloseReason, close_reasons

CONNECTION_DTYPE = np.dtype(
    [
        ("skaddr", "u8"),
        ("first_seen_ns", "i8"),  # boottime
        ("netns", "i8"),  # inode; -1 unknown
        ("endpoint_id", "u4"),
        ("family", "u2"),  # of the socket: AF_INET or AF_INET6
        ("laddr", "u1", (16,)),  # v4-mapped; all zero: unknown
        ("raddr", "u1", (16,)),
        ("lport", "i4"),  # -1 unknown
        ("rport", "i4"),
        ("pid", "i8"),  # of the owner; -1 unknown
        ("comm", "S16"),  # of the owner; valid where pid is
        ("cgroup_id", "i8"),  # of the owner; -1 unknown
        ("opened_ns", "i8"),  # boottime of CLOSE -> SYN_SENT; -1 not seen
        ("established_ns", "i8"),  # boottime; -1 not seen
        ("closed_ns", "i8"),  # boottime; -1 still open, or not seen
        ("connect_ns", "i8"),  # established - opened; -1 unknown
        ("lifetime_ns", "i8"),  # closed - opened; -1 unknown
        ("state_ns", "i8", (N_STATES,)),  # time in each TcpState, the current one up to the last event; -1 not known
        ("bytes_received", "i8"),  # payload; -1 unknown
        ("bytes_acked", "i8"),  # payload; -1 unknown
        ("retransmits", "i8"),  # -1 unknown
        ("srtt_us", "i8"),  # last known; -1 unknown
        ("unread_bytes", "i8"),  # when ESTABLISHED was left, or in the last sample; -1 unknown
        ("idle_ms", "i8"),  # nothing received for so long, at the same moment; -1 unknown
        ("sk_err", "i4"),  # errno at CLOSE; -1 unknown or still open
        ("close_reason", "u1"),  # CloseReason
        ("last_state", "u1"),  # TcpState after the last event
        ("last_ns", "i8"),  # boottime of the last event
        ("preexisting", "i1"),  # 1 it was open before the first event, 0 not, -1 unknown (its opening may have been lost)
        ("gap", "?"),  # transitions are missing: between two that were seen, or at the end of one that was cut off
        ("inbound", "?"),  # opened from outside: tracked so that its events are accounted for, never reported
    ]
)

Connections = NDArray[np.void]
"""A structured array of CONNECTION_DTYPE, shape (n_connections,)."""

_UNKNOWN_FIELDS = (
    "netns", "lport", "rport", "pid", "cgroup_id", "opened_ns", "established_ns", "closed_ns", "connect_ns", "lifetime_ns",
    "state_ns", "bytes_received", "bytes_acked", "retransmits", "srtt_us", "unread_bytes", "idle_ms", "sk_err",
)  # fmt: skip
_LAST_KNOWN = (
    ("lport", "sport"), ("netns", "netns"), ("bytes_received", "bytes_received"), ("bytes_acked", "bytes_acked"),
    ("retransmits", "retransmits"), ("srtt_us", "srtt_us"),
)  # fmt: skip
_FIRST_CAPACITY = 256
T = TypeVar("T", bound=np.generic)
_CLOSE, _SYN_SENT, _ESTABLISHED = np.uint8(TcpState.CLOSE), np.uint8(TcpState.SYN_SENT), np.uint8(TcpState.ESTABLISHED)
_INBOUND_STATES = (TcpState.SYN_RECV, TcpState.LISTEN, TcpState.NEW_SYN_RECV)


@dataclass(frozen=True)
class Step:
    """What one feed of events did.

    Attributes:
        ended: the connections that ended, in the order of the events that ended them.
        endpoint_id: uint32, shape (n_changes,): whose number of open connections changed, in trace order.
        change: int64, shape (n_changes,): +1 where a connection was first seen, -1 where one ended.
    """

    ended: Connections
    endpoint_id: NDArray[np.uint32]
    change: NDArray[np.int64]


def blank_connections(count: int) -> Connections:
    """Rows of which nothing is known."""
    rows = np.zeros(count, CONNECTION_DTYPE)
    for field in _UNKNOWN_FIELDS:
        rows[field] = -1
    return rows


def is_opening(events: Events) -> NDArray[np.bool_]:
    """Where an event is CLOSE -> SYN_SENT: bool, shape (n_events,)."""
    return (events["old_state"] == _CLOSE) & (events["new_state"] == _SYN_SENT)


class ConnectionTracker:
    """Turns events into connections, keeping those that are still open.

    Attributes:
        inbound: connections from outside that ended or are open, not reported.
        orphan_samples: samples that fitted no connection (it closed while it was sampled).
    """

    def __init__(self) -> None:
        self.inbound = 0
        self.orphan_samples = 0
        self._loss_seen = False
        self._rows = blank_connections(_FIRST_CAPACITY)
        self._slots: dict[int, int] = {}  # identity key -> index into _rows
        self._free = list(range(_FIRST_CAPACITY))
        self._netns_index: dict[int, int] = {}

    def note_loss(self) -> None:
        """Say that events were lost before the next ones: a connection seen late may have been opened in the gap."""
        self._loss_seen = True

    def open_skaddrs(self) -> NDArray[np.uint64]:
        """Socket addresses of the connections that are open now, shape (n_open,)."""
        return np.asarray(self._rows["skaddr"][list(self._slots.values())], np.uint64)

    def open(self) -> Connections:
        """The connections that are open now, in the order in which they were first seen; `close_reason` is OPEN.

        What an established connection has transferred since it was established is known only if it was sampled.
        """
        rows = self._rows[list(self._slots.values())]
        rows = rows[~rows["inbound"]]
        rows["close_reason"] = CloseReason.OPEN
        stale = (rows["last_state"] == _ESTABLISHED) & (rows["state_ns"][:, TcpState.ESTABLISHED] < 0)
        for field in ("bytes_received", "bytes_acked", "retransmits"):
            rows[field][stale] = -1
        return rows[np.lexsort((rows["skaddr"], rows["first_seen_ns"]))]

    def feed(self, events: Events) -> Step:
        """Take the next events, in the order in which their source saw them."""
        transition = (events["old_state"] != events["new_state"]) | (events["flags"] & np.uint32(EventFlag.SAMPLE) != 0)
        position = np.flatnonzero(transition)
        if not position.size:
            return _nothing()
        keys = self._keys(events)[position]
        order = np.argsort(keys, kind="stable")
        keys, position = keys[order], position[order]
        events = events[position]
        carried, events, keys, position = self._drop_orphan_samples(events, keys, position)
        if not len(events):
            return _nothing()
        return self._advance(events, keys, position, carried)

    def _keys(self, events: Events) -> NDArray[np.uint64]:
        """One integer for (netns, skaddr). Kernel addresses share their top 16 bits, so the namespace's index goes there."""
        netns = events["netns"]
        keys = events["skaddr"].astype(np.uint64)
        if len(netns) and (netns != netns[0]).any():
            values, inverse = np.unique(netns, return_inverse=True)
        else:
            values, inverse = netns[:1], np.zeros(len(netns), np.intp)
        indexes = [self._netns_index.setdefault(int(value), len(self._netns_index)) for value in values]
        if any(indexes):
            keys ^= (np.array(indexes, np.uint64) << np.uint64(48))[inverse]
        return keys

    def _drop_orphan_samples(
        self, events: Events, keys: NDArray[np.uint64], position: NDArray[np.intp]
    ) -> tuple[Connections, Events, NDArray[np.uint64], NDArray[np.intp]]:
        """Remove samples that don't fit the state their socket is known to be in; look up the open row of each key.

        Returns:
            (carried, events, keys, position): one carried row per *event's key group*, blank where the key has none.
        """
        is_sample = events["flags"] & np.uint32(EventFlag.SAMPLE) != 0
        if is_sample.any():
            starts = _group_starts(keys)
            group = np.cumsum(starts) - 1
            state = self._carried(keys[starts])["last_state"][group]
            # the last transition at or before each event, within its group
            last = np.maximum.accumulate(np.where(is_sample, -1, np.arange(len(events))))
            within = (last >= 0) & (last >= np.flatnonzero(starts)[group])
            state = np.where(within, events["new_state"][np.maximum(last, 0)], state)
            keep = ~is_sample | ((events["old_state"] == state) & (state != _CLOSE))
            self.orphan_samples += int(len(keep) - keep.sum())
            events, keys, position = events[keep], keys[keep], position[keep]
        return self._carried(keys[_group_starts(keys)]), events, keys, position

    def _carried(self, keys: NDArray[np.uint64]) -> Connections:
        """The open row of each key, shape (n_keys,); last_state 0 where there is none."""
        slots = np.array([self._slots.get(key, -1) for key in keys.tolist()], np.intp)
        rows = blank_connections(len(keys))
        have = slots >= 0
        rows[have] = self._rows[slots[have]]
        return rows

    def _advance(self, events: Events, keys: NDArray[np.uint64], position: NDArray[np.intp], carried: Connections) -> Step:
        ts_ns = events["ts_ns"].astype(np.int64)
        group_start = _group_starts(keys)
        group = np.cumsum(group_start) - 1
        previous = _Previous(events, ts_ns, group_start, carried)
        begins = self._begins(events, previous, group_start, carried)
        # A carried row that the first event of its group does not continue ends here, unfinished.
        first = np.flatnonzero(group_start)
        orphaned = begins[first] & (carried["last_state"] != 0)
        # segments
        segment_start = np.flatnonzero(begins | group_start)
        segment = np.cumsum(begins | group_start) - 1
        rows = blank_connections(len(segment_start))
        continues = ~begins[segment_start]
        rows[continues] = carried[group[segment_start[continues]]]
        self._start_rows(rows, ~continues, events[segment_start], ts_ns[segment_start])
        _fill(rows, events, ts_ns, segment, segment_start, previous, begins)
        # what ended: at CLOSE, or cut off by another connection on the same socket address
        segment_end = np.append(segment_start[1:], len(events)) - 1
        closed = rows["last_state"] == _CLOSE
        cut_off = np.append(group[segment_start[1:]] == group[segment_start[:-1]], False) & ~closed
        end_position = position[segment_end] * 2 + 1
        end_position[cut_off] = position[segment_end[cut_off] + 1] * 2
        over = closed | cut_off
        rows["gap"] |= cut_off
        carried["gap"] |= orphaned
        self._store(rows[~over], keys[segment_start[~over]], keys[first])
        ended = np.concatenate([rows[over], carried[orphaned]])
        ended_at = np.concatenate([end_position[over], position[first[orphaned]] * 2])
        order = np.argsort(ended_at, kind="stable")
        return self._step(ended[order], ended_at[order], rows[~continues], position[segment_start[~continues]] * 2)

    def _begins(
        self, events: Events, previous: _Previous, group_start: NDArray[np.bool_], carried: Connections
    ) -> NDArray[np.bool_]:
        """Where a connection begins: bool, shape (n_events,)."""
        begins = is_opening(events) | (previous.state == _CLOSE)
        begins[np.flatnonzero(group_start)] |= carried["last_state"] == 0
        broken = np.flatnonzero((previous.state != events["old_state"]) & ~begins)
        if broken.size:  # events are missing: is it still the same connection?
            backwards = RANK[events["old_state"][broken]] < RANK[previous.state[broken]]
            has_port = valid(events, "sport")[broken]
            other_port = has_port & (previous.lport[broken] >= 0) & (previous.lport[broken] != events["sport"][broken])
            other_peer = (previous.rport[broken] != events["dport"][broken]) | (
                previous.raddr[broken] != events["daddr"][broken]
            ).any(axis=1)
            begins[broken] |= backwards | other_port | other_peer
        return begins

    def _start_rows(self, rows: Connections, new: NDArray[np.bool_], first: Events, first_ns: NDArray[np.int64]) -> None:
        """Fill what the first event of a new connection says; `rows` and `first` have shape (n_segments,)."""
        index = np.flatnonzero(new)
        first, first_ns = first[index], first_ns[index]
        opening = is_opening(first)
        rows["skaddr"][index] = first["skaddr"]
        rows["first_seen_ns"][index] = first_ns
        rows["endpoint_id"][index] = first["endpoint_id"]
        rows["family"][index] = first["family"]
        rows["raddr"][index] = first["daddr"]
        rows["rport"][index] = first["dport"]
        rows["opened_ns"][index] = np.where(opening, first_ns, -1)
        rows["preexisting"][index] = np.where(opening, 0, -1 if self._loss_seen else 1)
        rows["inbound"][index] = np.isin(first["old_state"], _INBOUND_STATES)
        owner = first["flags"] & np.uint32(EventFlag.OWNER) != 0
        has_pid, has_cgroup = owner & valid(first, "pid"), owner & valid(first, "cgroup_id")
        rows["pid"][index[has_pid]] = first["pid"][has_pid]
        rows["comm"][index[has_pid]] = first["comm"][has_pid]
        rows["cgroup_id"][index[has_cgroup]] = first["cgroup_id"][has_cgroup].astype(np.int64)

    def _store(self, rows: Connections, keys: NDArray[np.uint64], touched: NDArray[np.uint64]) -> None:
        """Keep the rows that are still open; forget the other touched keys."""
        kept = keys.tolist()
        for key in set(touched.tolist()).difference(kept):
            slot = self._slots.pop(key, None)
            if slot is not None:
                self._free.append(slot)
        for row, key in zip(rows, kept, strict=True):
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = self._take_slot()
            self._rows[slot] = row

    def _take_slot(self) -> int:
        if not self._free:
            size = len(self._rows)
            self._rows = np.concatenate([self._rows, blank_connections(size)])
            self._free = list(range(size, 2 * size))
        return self._free.pop()

    def _step(self, ended: Connections, ended_at: NDArray[np.intp], begun: Connections, begun_at: NDArray[np.intp]) -> Step:
        outbound = ~ended["inbound"]
        self.inbound += int(len(ended) - outbound.sum())
        ended, ended_at = ended[outbound], ended_at[outbound]
        begun, begun_at = begun[~begun["inbound"]], begun_at[~begun["inbound"]]
        undecided = ended["close_reason"] == CloseReason.UNDECIDED
        ended["close_reason"][undecided] = CloseReason.UNKNOWN
        endpoint_id = np.concatenate([ended["endpoint_id"], begun["endpoint_id"]])
        change = np.concatenate([np.full(len(ended), -1, np.int64), np.ones(len(begun), np.int64)])
        order = np.argsort(np.concatenate([ended_at, begun_at]), kind="stable")
        return Step(ended, endpoint_id[order], change[order])


def _nothing() -> Step:
    return Step(blank_connections(0), np.zeros(0, np.uint32), np.zeros(0, np.int64))


class _Previous:
    """For each event, what was known of its socket just before it: from the event before, or from the carried row."""

    def __init__(self, events: Events, ts_ns: NDArray[np.int64], group_start: NDArray[np.bool_], carried: Connections) -> None:
        first = np.flatnonzero(group_start)
        self.state = _shifted(events["new_state"], first, carried["last_state"])
        self.ts_ns = _shifted(ts_ns, first, carried["last_ns"])
        ports = np.where(valid(events, "sport"), events["sport"].astype(np.int32), -1)
        self.lport = _shifted(ports, first, carried["lport"])
        self.rport = _shifted(events["dport"].astype(np.int32), first, carried["rport"])
        self.raddr = _shifted(events["daddr"], first, carried["raddr"])


def _shifted(values: NDArray[T], first: NDArray[np.intp], carried: NDArray[T]) -> NDArray[T]:
    shifted = np.empty_like(values)
    shifted[1:] = values[:-1]
    shifted[first] = carried
    return shifted


def _group_starts(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    starts = np.ones(len(keys), bool)
    starts[1:] = keys[1:] != keys[:-1]
    return starts


def _last_where(mask: NDArray[np.bool_], segment_start: NDArray[np.intp]) -> NDArray[np.intp]:
    """Index of each segment's last event for which `mask` holds, shape (n_segments,); -1 where there is none."""
    return np.maximum.reduceat(np.where(mask, np.arange(len(mask)), -1), segment_start)


def _fill(
    rows: Connections,
    events: Events,
    ts_ns: NDArray[np.int64],
    segment: NDArray[np.intp],
    segment_start: NDArray[np.intp],
    previous: _Previous,
    begins: NDArray[np.bool_],
) -> None:
    """Bring rows, shape (n_segments,), up to date with the events of their segments."""
    old, new = events["old_state"], events["new_state"]
    last = np.append(segment_start[1:], len(events)) - 1
    for field, source in _LAST_KNOWN:
        index = _last_where(valid(events, source), segment_start)
        have = index >= 0
        rows[field][have] = events[source][index[have]].astype(np.int64)
    index = _last_where(valid(events, "saddr"), segment_start)
    rows["laddr"][index >= 0] = events["saddr"][index[index >= 0]]
    # the data phase ends once; a sample in it is superseded by what ends it
    in_data = old == _ESTABLISHED
    for field in ("unread_bytes", "idle_ms"):
        index = _last_where(in_data & valid(events, field), segment_start)
        have = index >= 0
        rows[field][have] = events[field][index[have]]
    established = (new == _ESTABLISHED) & (old != _ESTABLISHED)
    rows["established_ns"][segment[established]] = ts_ns[established]
    _fill_states(rows, old, ts_ns, segment, previous, begins)
    _fill_reasons(rows, events, segment_start)
    rows["last_state"] = new[last]
    rows["last_ns"] = ts_ns[last]
    closed = new[last] == _CLOSE
    rows["closed_ns"][closed] = ts_ns[last[closed]]
    has_err = closed & valid(events, "sk_err")[last]
    rows["sk_err"][has_err] = events["sk_err"][last[has_err]]
    for field, end, start in (("connect_ns", "established_ns", "opened_ns"), ("lifetime_ns", "closed_ns", "opened_ns")):
        have = (rows[end] >= 0) & (rows[start] >= 0)
        rows[field][have] = rows[end][have] - rows[start][have]


def _fill_states(
    rows: Connections,
    old: NDArray[np.uint8],
    ts_ns: NDArray[np.int64],
    segment: NDArray[np.intp],
    previous: _Previous,
    begins: NDArray[np.bool_],
) -> None:
    """Add the time between two events that fit together to the state they share; mark the gap where they don't."""
    follows = ~begins
    fits = follows & (previous.state == old)
    rows["gap"][segment[follows & ~fits]] = True
    where = segment[fits] * N_STATES + old[fits]
    spent = np.full(len(rows) * N_STATES, -1, np.int64)
    spent[where] = 0
    np.add.at(spent, where, ts_ns[fits] - previous.ts_ns[fits])
    spent_in = spent.reshape(len(rows), N_STATES)
    before = rows["state_ns"]
    rows["state_ns"] = np.where(spent_in < 0, before, np.maximum(before, 0) + spent_in)


def _fill_reasons(rows: Connections, events: Events, segment_start: NDArray[np.intp]) -> None:
    """Take the first verdict of each segment where its row has none yet."""
    reasons = close_reasons(events["old_state"], events["new_state"], events["sk_err"], valid(events, "sk_err"))
    none = len(reasons)
    decided = np.where(reasons != CloseReason.UNDECIDED, np.arange(none), none)
    index = np.minimum.reduceat(decided, segment_start)
    take = (index < none) & (rows["close_reason"] == CloseReason.UNDECIDED)
    rows["close_reason"][take] = reasons[index[take]]
