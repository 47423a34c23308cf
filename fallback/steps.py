"""Steps: the ways that sockets went, written out as events with the counters that are known. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fallback.diag_records import DiagFlag, Records
from fallback.sockets import Sockets
from tracer.events import EVENT_DTYPE, EventFlag, Events, TcpState, no_events

S = TcpState
_ECONNREFUSED = 111  # include/uapi/asm-generic/errno.h
_NO_EARLY = np.zeros(0, np.uint64)
_COUNTERS = (
    ("bytes_received", "bytes_received", DiagFlag.HAS_RECEIVED, EventFlag.HAS_RECEIVED),
    ("bytes_acked", "bytes_acked", DiagFlag.HAS_ACKED, EventFlag.HAS_ACKED),
    ("srtt_us", "rtt_us", DiagFlag.HAS_RTT, EventFlag.HAS_SRTT),
    ("retransmits", "retransmits", DiagFlag.HAS_RETRANSMITS, EventFlag.HAS_RETRANSMITS),
)


@dataclass(frozen=True)
class Differences:
    """What happened between two looks.

    Attributes:
        events: EVENT_DTYPE, shape (n_events,), in the order of time and of each connection's life; `endpoint_id` 0, no owner, no
            namespace.
        early_ns: uint64, shape (n_events,): how much earlier each may have happened.
        inodes: uint64, shape (n_events,): the socket's inode, to find its owner by; 0 unknown.
        uids: uint32, shape (n_events,): of the user who made it, where the inode is known.
    """

    events: Events
    early_ns: NDArray[np.uint64]
    inodes: NDArray[np.uint64]
    uids: NDArray[np.uint32]


class Steps:
    """Collects groups of sockets that went the same way."""

    def __init__(self) -> None:
        self._events: list[Events] = []
        self._early_ns: list[NDArray[np.uint64]] = []
        self._inodes: list[NDArray[np.uint64]] = []
        self._uids: list[NDArray[np.uint32]] = []

    def add(
        self,
        rows: Sockets,
        numbers: NDArray[np.uint64],
        first: TcpState,
        way: tuple[TcpState, ...],
        ts_ns: NDArray[np.int64],
        early_ns: NDArray[np.int64],
        *,
        last_early_ns: NDArray[np.int64] | None = None,
        counters: Records | None = None,
        fin_counted: NDArray[np.bool_] | None = None,
        adopted: bool = False,
        sample: bool = False,
    ) -> None:
        """Take a group; all arrays have shape (n_sockets,).

        Args:
            rows: the sockets.
            numbers: their socket addresses.
            first, way: the state they were in, and those they went through.
            ts_ns, early_ns: when the last of it was seen, and how much earlier each step may have been.
            last_early_ns: the same of the last step, where more is known of it.
            counters: what sock_diag says; None: nothing.
            fin_counted: where the peer's FIN is known to be among `bytes_received` unless the record is exact.
            adopted, sample: no transition: `way` is the state they are in.
        """
        count, length = len(rows), len(way)
        events = np.zeros((count, length), EVENT_DTYPE)
        old = (first, *way[:-1])
        for field, values in (("ts_ns", ts_ns), ("skaddr", numbers), ("family", rows["family"])):
            events[field] = values[:, None]
        for field, ours in (("sport", "lport"), ("dport", "rport")):
            events[field] = rows[ours][:, None]
        events["saddr"], events["daddr"] = rows["laddr"][:, None], rows["raddr"][:, None]
        events["old_state"], events["new_state"] = np.array(old, np.uint8), np.array(way, np.uint8)
        flags = np.where(rows["laddr"].any(axis=1), EventFlag.HAS_SADDR, 0) | np.where(rows["lport"] != 0, EventFlag.HAS_SPORT, 0)
        kind = (EventFlag.ADOPTED if adopted else EventFlag(0)) | (EventFlag.SAMPLE if sample else EventFlag(0))
        events["flags"] = (flags.astype(np.uint32) | np.uint32(kind))[:, None]
        if counters is not None:
            _fill_counters(events, counters, fin_counted)
            _copy_counters(events, old)
        _fill_leaving(events, old, rows, counters)
        early = np.broadcast_to(early_ns[:, None], (count, length)).astype(np.uint64)
        if last_early_ns is not None:
            early[:, -1] = last_early_ns
        self._events.append(events.reshape(-1))
        self._early_ns.append(early.reshape(-1))
        self._inodes.append(np.repeat(rows["inode"], length))
        self._uids.append(np.repeat(rows["uid"], length))

    def differences(self) -> Differences:
        """All that was taken, in the order of time."""
        if not self._events:
            return Differences(no_events(), _NO_EARLY, _NO_EARLY, np.zeros(0, np.uint32))
        events = np.concatenate(self._events)
        order = np.argsort(events["ts_ns"], kind="stable")
        return Differences(
            np.asarray(events[order], EVENT_DTYPE),
            np.concatenate(self._early_ns)[order],
            np.concatenate(self._inodes)[order],
            np.concatenate(self._uids)[order],
        )


def _fill_counters(events: Events, counters: Records, fin_counted: NDArray[np.bool_] | None) -> None:
    """What is known at the end of a way goes into its last event; `events` has shape (n_sockets, length)."""
    last, known = events[:, -1], counters["flags"]
    for field, source, has, flag in _COUNTERS:
        valid = known & np.uint32(has) != 0
        last[field][valid] = counters[source][valid]
        last["flags"] |= np.where(valid, np.uint32(flag), np.uint32(0))
    if fin_counted is not None:
        inexact = known & np.uint32(DiagFlag.EXACT_RECEIVED) == 0
        last["bytes_received"] -= (fin_counted & inexact & (last["bytes_received"] > 0)).astype(np.uint64)
    # Of a handshake that failed, the only segment that came in was the refusal.
    unanswered = (last["new_state"] == S.CLOSE) & (known & np.uint32(DiagFlag.ESTABLISHED) == 0)
    refused = unanswered & (known & np.uint32(DiagFlag.HAS_SEGS) != 0) & (counters["segs_in"] == 1)
    last["sk_err"][refused] = _ECONNREFUSED
    last["flags"][refused] |= np.uint32(EventFlag.HAS_SK_ERR)


def _copy_counters(events: Events, old: tuple[TcpState, ...]) -> None:
    """What was transferred when ESTABLISHED was left is what was transferred at the end: with its last FIN a side is done."""
    if S.ESTABLISHED in old:
        leaving, last = events[:, old.index(S.ESTABLISHED)], events[:, -1]
        for field, _, _, flag in _COUNTERS:
            leaving[field] = last[field]
            leaving["flags"] |= last["flags"] & np.uint32(flag)


def _fill_leaving(events: Events, old: tuple[TcpState, ...], rows: Sockets, counters: Records | None) -> None:
    """What tells how the data phase ended goes into the event that leaves ESTABLISHED (or samples it)."""
    if S.ESTABLISHED not in old:
        return
    leaving = events[:, old.index(S.ESTABLISHED)]
    staying = leaving["new_state"] == S.ESTABLISHED
    if counters is None:
        # In CLOSE_WAIT the FIN, which nobody has read, counts as a byte.
        fin = ~staying
        valid = staying | ((rows["state"] == S.CLOSE_WAIT) & (rows["rx_queue"] > 0))
        unread = rows["rx_queue"] - (fin & (rows["rx_queue"] > 0))
        leaving["unread_bytes"][valid] = unread[valid]
        leaving["flags"] |= np.where(valid, np.uint32(EventFlag.HAS_UNREAD), np.uint32(0))
        return
    known = counters["flags"]
    unread = (staying | (counters["state"] == S.CLOSE_WAIT)) & (known & np.uint32(DiagFlag.HAS_UNREAD) != 0)
    leaving["unread_bytes"][unread] = counters["unread_bytes"][unread]
    idle = known & np.uint32(DiagFlag.HAS_LAST_DATA) != 0
    leaving["idle_ms"][idle] = counters["last_data_recv_ms"][idle]
    leaving["flags"] |= np.where(unread, np.uint32(EventFlag.HAS_UNREAD), np.uint32(0))
    leaving["flags"] |= np.where(idle, np.uint32(EventFlag.HAS_IDLE), np.uint32(0))
