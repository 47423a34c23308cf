"""From events to connections: one row each, built with arrays, the same however the events were cut into batches.

A connection's identity is (netns, skaddr, first-seen time), never the 4-tuple: the slab hands the address of a closed socket
to the very next one, and the source port is not known at SYN_SENT. Its owner is the task of CLOSE -> SYN_SENT, the only
transition that surely runs in the context of the process that wanted it.

How a batch becomes rows. A stable sort by identity key puts each socket's events together, in their order. *Segments* are
cut where a connection begins: at an opening transition, after a CLOSE, and where an event can't belong to what came before
(events were lost). A segment continues an open row or starts a new one; all its values are then reductions over segments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.adoption import Adopted, ends_of_rows
from tracer.events import N_STATES, EventFlag, Events, TcpState, is_adopted, is_opening, is_sample, valid
from tracer.lifecycle import RANK, CloseReason
from tracer.rows import Connections, blank_connections
from tracer.segments import fill_states, fill_times, fill_values, group_starts, halves, joined, shifted, stable_order, take, words

_FIRST_CAPACITY = 256
_CLOSE, _ESTABLISHED, _LISTEN = np.uint8(TcpState.CLOSE), np.uint8(TcpState.ESTABLISHED), np.uint8(TcpState.LISTEN)
_COUNTERS = ("bytes_received", "bytes_acked", "retransmits")
IS_INBOUND = np.isin(np.arange(N_STATES), (TcpState.SYN_RECV, TcpState.LISTEN, TcpState.NEW_SYN_RECV))
"""By the old state of a socket's first event."""


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


class ConnectionTracker:
    """Turns events into connections, keeping those that are still open.

    Attributes:
        inbound: sockets opened from outside (or listening), ended or open; not reported.
        orphan_samples: samples that fitted no connection (it closed while it was sampled).
    """

    def __init__(self) -> None:
        self.inbound = 0
        self.orphan_samples = 0
        self._loss_seen = False
        self._lost_until_ns = 0
        self._ports_seen = False
        self._rows = blank_connections(_FIRST_CAPACITY)
        self._slots: dict[int, int] = {}  # identity key -> index into _rows
        self._occupied = np.zeros(_FIRST_CAPACITY, bool)  # by slot
        self._free = list(range(_FIRST_CAPACITY))
        self._netns_index: dict[int, int] = {}
        self._adopted = Adopted()

    def note_loss(self, until_ns: int = 0) -> None:
        """Say that events were lost, until a boottime, before the next ones.

        A connection seen late may have been opened in the gap, and one not seen since may have ended in it.
        """
        self._loss_seen = True
        self._lost_until_ns = max(self._lost_until_ns, until_ns)

    def open_skaddrs(self) -> NDArray[np.uint64]:
        """Socket addresses of the connections that are open now, shape (n_open,)."""
        return np.asarray(self._rows["skaddr"][list(self._slots.values())], np.uint64)

    def open(self) -> Connections:
        """The connections that are open now, in the order in which they were first seen; `close_reason` is OPEN.

        It is UNKNOWN where events were lost since the last one of the connection, which may have been its end.

        What an established connection has transferred since it was established is known only if it was sampled.
        """
        return self.open_where(lambda rows: np.ones(len(rows), bool))

    def open_where(self, wanted: Callable[[Connections], NDArray[np.bool_]]) -> Connections:
        """Those of `open` that are wanted, told by their rows; much cheaper than all of them where they are few."""
        if not self._slots:
            return blank_connections(0)
        index = np.flatnonzero(self._occupied & ~self._rows["inbound"] & wanted(self._rows))
        rows = take(self._rows, index)
        rows["close_reason"], doubtful, stale = self._doubts(index)
        rows["gap"] |= doubtful
        for field in _COUNTERS:
            rows[field][stale] = -1
        return rows[np.lexsort((rows["netns"], rows["skaddr"], rows["first_seen_ns"]))]

    def open_columns(self, *names: str) -> dict[str, NDArray[Any]]:
        """These fields of the rows of `open`, shape (n_open,) each, in no order; much cheaper where they are many."""
        index = np.flatnonzero(self._occupied & ~self._rows["inbound"])
        reasons, doubtful, stale = self._doubts(index)
        columns = {name: self._rows[name][index] for name in names}
        for name in names:
            if name == "close_reason":
                columns[name] = reasons
            elif name == "gap":
                columns[name] |= doubtful
            elif name in _COUNTERS:
                columns[name][stale] = -1
        return columns

    def _doubts(self, index: NDArray[np.intp]) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
        """(OPEN or UNKNOWN, whether its end may be among what was lost, whether its counters are too old) of open slots."""
        doubtful = self._rows["last_ns"][index] < self._lost_until_ns
        reasons = np.where(doubtful, CloseReason.UNKNOWN, CloseReason.OPEN).astype(np.uint8)
        stale = (self._rows["last_state"][index] == _ESTABLISHED) & (self._rows["state_ns"][index, TcpState.ESTABLISHED] < 0)
        return reasons, doubtful, stale

    def feed(self, events: Events, early_ns: NDArray[np.uint64] | None = None) -> Step:
        """Take the next events, in the order in which their source saw them.

        `early_ns`, shape (n_events,), says how much earlier each may have happened; None: all times are exact.
        """
        early = None if early_ns is None else early_ns.astype(np.int64)
        cuts = self._cuts(events)
        if cuts.size:
            earlies = [None] * (len(cuts) + 1) if early is None else np.split(early, cuts)
            return _joined([self._feed(*each) for each in zip(np.split(events, cuts), earlies, strict=True)])
        return self._feed(events, early)

    def note_switch(self) -> None:
        """Say that another source goes on, which has other addresses for sockets: what it finds open is told by its ends."""
        index = np.flatnonzero(self._occupied)
        key_of = {slot: key for key, slot in self._slots.items()}
        self._adopted.add(ends_of_rows(take(self._rows, index)), [key_of[slot] for slot in index.tolist()])

    def _cuts(self, events: Events) -> NDArray[np.intp]:
        """Where events must be cut so that each can be compared with the event before it on its socket.

        Connections are told apart by their local port, which is that of the last event that had one. That is the event
        before, except where a port could not be read: then the row has to remember it.
        """
        has_port = valid(events, "sport")
        self._ports_seen = self._ports_seen or bool(has_port.any())
        adopted = is_adopted(events)
        changes = np.flatnonzero(adopted[1:] != adopted[:-1]) + 1 if adopted.any() else np.zeros(0, np.intp)
        if has_port.all() or not self._ports_seen:
            return changes
        # An event that ends in CLOSE is not followed by another of its connection.
        return np.union1d(changes, np.flatnonzero(~has_port & ~is_opening(events) & (events["new_state"] != _CLOSE)) + 1)

    def _feed(self, events: Events, early_ns: NDArray[np.int64] | None) -> Step:
        adopted = is_adopted(events)  # all of a piece, or none
        transition = (events["old_state"] != events["new_state"]) | is_sample(events) | adopted
        position = np.flatnonzero(transition)
        if not position.size:
            return _nothing()
        keys = self._keys(events)[position]
        order = stable_order(keys)
        keys, position = keys[order], position[order]
        every, events = events, take(np.ascontiguousarray(events), position)
        if self._adopted or adopted.any():
            self._rejoin(events, keys)
        if adopted.any():
            new = self._adopted.new(events, keys, self._slots, self._rows)
            events, keys, position = take(events, new), keys[new], position[new]
        carried, events, keys, position = self._drop_orphan_samples(events, keys, position)
        if not len(events):
            return _nothing()
        step = self._advance(events, None if early_ns is None else early_ns[position], keys, position, carried)
        if len(every) and adopted.any():
            self._adopted.add_events(events, keys)
        return step

    def _rejoin(self, events: Events, keys: NDArray[np.uint64]) -> None:
        """Give open rows that are known by their ends the addresses of their sockets, where these are seen now."""
        for old_key, new_key, skaddr in self._adopted.found(events, keys, self._slots):
            slot = self._slots.pop(old_key, None)
            if slot is not None:
                self._slots[new_key] = slot
                self._rows["skaddr"][slot] = skaddr

    def _keys(self, events: Events) -> NDArray[np.uint64]:
        """One integer for (netns, skaddr). Kernel addresses share their top 16 bits, so the namespace's index goes there."""
        netns = np.where(valid(events, "netns"), events["netns"], np.uint32(0))
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
        """Remove samples that don't fit what their socket is known to be; look up the open row of each key.

        Returns:
            (carried, events, keys, position): one carried row per *key*, blank where it has none.
        """
        sampled_events = is_sample(events)
        if sampled_events.any():
            starts = np.flatnonzero(group_starts(keys))
            ends = np.append(starts[1:], len(keys))
            sampled = np.flatnonzero(np.logical_or.reduceat(sampled_events, starts))
            keep = np.ones(len(events), bool)
            for row, group in zip(self._carried(keys[starts[sampled]]), sampled, strict=True):
                within = slice(int(starts[group]), int(ends[group]))
                keep[within] = _fitting(row, events[within])
            self.orphan_samples += int(len(keep) - keep.sum())
            events, keys, position = take(events, np.flatnonzero(keep)), keys[keep], position[keep]
        return self._carried(keys[group_starts(keys)]), events, keys, position

    def _carried(self, keys: NDArray[np.uint64]) -> Connections:
        """The open row of each key, shape (n_keys,); last_state 0 where there is none."""
        slots = np.array([self._slots.get(key, -1) for key in keys.tolist()], np.intp)
        rows = blank_connections(len(keys))
        have = np.flatnonzero(slots >= 0)
        words(rows)[have] = words(self._rows)[slots[have]]
        return rows

    def _advance(
        self,
        events: Events,
        early_ns: NDArray[np.int64] | None,
        keys: NDArray[np.uint64],
        position: NDArray[np.intp],
        carried: Connections,
    ) -> Step:
        ts_ns = events["ts_ns"].astype(np.int64)
        group_start = group_starts(keys)
        first = np.flatnonzero(group_start)
        previous_state = shifted(events["new_state"], first, carried["last_state"])
        begins = is_opening(events) | (previous_state == _CLOSE)
        begins[first] |= carried["last_state"] == 0
        begins |= self._belong_elsewhere(events, previous_state, first, carried)
        # segments
        starts = begins | group_start
        segment_start = np.flatnonzero(starts)
        segment = np.cumsum(starts) - 1
        rows = blank_connections(len(segment_start))
        new = begins[segment_start]
        if not new.all():
            group = np.cumsum(group_start) - 1
            words(rows)[~new] = words(carried)[group[segment_start[~new]]]
        self._start_rows(rows, new, events, segment_start, ts_ns)
        if early_ns is not None:
            rows["opened_early_ns"][new] = np.where(rows["opened_ns"][new] >= 0, early_ns[segment_start[new]], 0)
        previous_ns = shifted(ts_ns, first, carried["last_ns"])
        fill_values(rows, events, segment, segment_start)
        fill_times(rows, events, ts_ns, early_ns, segment, segment_start)
        fill_states(rows, events["old_state"], ts_ns - previous_ns, segment, previous_state, begins, early_ns)
        # A carried row that the first event of its group does not continue ends here, unfinished.
        orphaned = begins[first] & (carried["last_state"] != 0)
        carried["gap"] |= orphaned
        was_open = keys[first[carried["last_state"] != 0]]
        return self._settle(rows, keys, position, segment_start, new, was_open, carried[orphaned], first[orphaned])

    def _settle(
        self,
        rows: Connections,
        keys: NDArray[np.uint64],
        position: NDArray[np.intp],
        segment_start: NDArray[np.intp],
        new: NDArray[np.bool_],
        was_open: NDArray[np.uint64],
        orphans: Connections,
        orphaned_by: NDArray[np.intp],
    ) -> Step:
        """Part what ended (at CLOSE, or cut off by another connection on its socket address) from what goes on."""
        keys_of = keys[segment_start]
        closed = rows["last_state"] == _CLOSE
        cut_off = np.append(keys_of[1:] == keys_of[:-1], False) & ~closed
        rows["gap"] |= cut_off
        over = closed | cut_off
        segment_end = np.append(segment_start[1:], len(keys)) - 1
        ended_at = position[segment_end] * 2 + 1
        ended_at[cut_off] = position[segment_end[cut_off] + 1] * 2
        kept = np.flatnonzero(~over)
        self._store(take(rows, kept), keys_of[kept], was_open)
        index = np.flatnonzero(over)
        ended_at = ended_at[index]
        order = np.argsort(ended_at, kind="stable")
        ended, ended_at = take(rows, index[order]), ended_at[order]
        if len(orphans):
            ended = np.concatenate([ended, orphans])
            ended_at = np.concatenate([ended_at, position[orphaned_by] * 2])
            order = np.argsort(ended_at, kind="stable")
            ended, ended_at = ended[order], ended_at[order]
        self.inbound += int((new & rows["inbound"]).sum())
        outbound = new & ~rows["inbound"]
        return self._step(ended, ended_at, rows["endpoint_id"][outbound], position[segment_start[outbound]] * 2)

    def _belong_elsewhere(
        self, events: Events, previous_state: NDArray[np.uint8], first: NDArray[np.intp], carried: Connections
    ) -> NDArray[np.bool_]:
        """Where an event can't be of the same connection as the one before on its socket: bool, shape (n_events,).

        Its ends differ, or its state lies before the one that was reached. It happens only where events are missing.
        """
        ports = np.where(valid(events, "sport"), events["sport"].astype(np.int32), -1)
        before = shifted(ports, first, carried["lport"])
        elsewhere = (ports != before) & (ports >= 0) & (before >= 0)
        dport = events["dport"]
        elsewhere |= dport != shifted(dport, first, np.maximum(carried["rport"], 0).astype(dport.dtype))
        for half in range(2):
            daddr = halves(events, "daddr")[:, half]
            elsewhere |= daddr != shifted(daddr, first, halves(carried, "raddr")[:, half])
        broken = np.flatnonzero(previous_state != events["old_state"])
        elsewhere[broken] |= RANK[events["old_state"][broken]] < RANK[previous_state[broken]]
        return elsewhere

    def _start_rows(
        self,
        rows: Connections,
        new: NDArray[np.bool_],
        events: Events,
        segment_start: NDArray[np.intp],
        ts_ns: NDArray[np.int64],
    ) -> None:
        """Fill what the first event of a new connection says; `rows`, `new` and `segment_start` have shape (n_segments,)."""
        index = slice(None) if new.all() else np.flatnonzero(new)
        first = take(events, segment_start[index])
        first_ns = ts_ns[segment_start[index]]
        opening = is_opening(first)
        rows["skaddr"][index] = first["skaddr"]
        rows["first_seen_ns"][index] = first_ns
        rows["endpoint_id"][index] = first["endpoint_id"]
        rows["family"][index] = first["family"]
        rows["raddr"][index] = first["daddr"]
        rows["rport"][index] = np.where(first["dport"] > 0, first["dport"].astype(np.int32), -1)
        rows["opened_ns"][index] = np.where(opening, first_ns, -1)
        rows["preexisting"][index] = np.where(opening, 0, np.where(is_adopted(first) | (not self._loss_seen), 1, -1))
        rows["inbound"][index] = IS_INBOUND[first["old_state"]] | (first["new_state"] == _LISTEN)
        owner = first["flags"] & np.uint32(EventFlag.OWNER) != 0
        has_pid, has_cgroup = owner & valid(first, "pid"), owner & valid(first, "cgroup_id")
        rows["pid"][index] = np.where(has_pid, first["pid"].astype(np.int64), -1)
        rows["comm"][index] = np.where(has_pid, first["comm"], b"")
        rows["cgroup_id"][index] = np.where(has_cgroup, first["cgroup_id"].astype(np.int64), -1)

    def _store(self, rows: Connections, keys: NDArray[np.uint64], was_open: NDArray[np.uint64]) -> None:
        """Keep the rows that are open now, and forget which of those that were open before are not."""
        kept = keys.tolist()
        for key in set(was_open.tolist()).difference(kept):
            self._free.append(self._slots.pop(key))
            self._occupied[self._free[-1]] = False
        slots = []
        for key in kept:
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = self._take_slot()
            slots.append(slot)
        self._occupied[slots] = True
        words(self._rows)[slots] = words(rows)

    def _take_slot(self) -> int:
        if not self._free:
            size = len(self._rows)
            self._rows = joined([self._rows, blank_connections(size)])
            self._occupied = np.concatenate([self._occupied, np.zeros(size, bool)])
            self._free = list(range(size, 2 * size))
        return self._free.pop()

    def _step(
        self,
        ended: Connections,
        ended_at: NDArray[np.intp],
        begun_endpoint: NDArray[np.uint32],
        begun_at: NDArray[np.intp],
    ) -> Step:
        if ended["inbound"].any():
            outbound = ~ended["inbound"]
            ended, ended_at = ended[outbound], ended_at[outbound]
        undecided = ended["close_reason"] == CloseReason.UNDECIDED
        ended["close_reason"][undecided] = CloseReason.UNKNOWN
        endpoint_id = np.concatenate([ended["endpoint_id"], begun_endpoint])
        change = np.concatenate([np.full(len(ended), -1, np.int64), np.ones(len(begun_endpoint), np.int64)])
        order = np.argsort(np.concatenate([ended_at, begun_at]), kind="stable")
        return Step(ended, endpoint_id[order], change[order])


def _fitting(row: np.void, events: Events) -> list[bool]:
    """Which events of one socket to keep: every transition, and the samples of the connection that it was just then.

    Samples are few (one per open connection and second), so this is a loop.
    """
    state, lport, remote = int(row["last_state"]), int(row["lport"]), (max(int(row["rport"]), 0), row["raddr"].tobytes())
    keep = []
    for event, has_port, sample in zip(events, valid(events, "sport").tolist(), is_sample(events).tolist(), strict=True):
        own_remote = (int(event["dport"]), event["daddr"].tobytes())
        port = int(event["sport"]) if has_port else -1
        same_ends = own_remote == remote and (port < 0 or lport < 0 or port == lport)
        if sample:
            fits = same_ends and state not in (0, TcpState.CLOSE) and event["old_state"] == state
        else:
            fits = True
            goes_on = same_ends and state != TcpState.CLOSE and RANK[event["old_state"]] >= RANK[state]
            if not goes_on or (event["old_state"], event["new_state"]) == (TcpState.CLOSE, TcpState.SYN_SENT):
                lport = -1
            state, remote = int(event["new_state"]), own_remote
        if fits and port >= 0:
            lport = port
        keep.append(fits)
    return keep


def _nothing() -> Step:
    return Step(blank_connections(0), np.zeros(0, np.uint32), np.zeros(0, np.int64))


def _joined(steps: list[Step]) -> Step:
    return Step(
        np.concatenate([step.ended for step in steps]),
        np.concatenate([step.endpoint_id for step in steps]),
        np.concatenate([step.change for step in steps]),
    )
