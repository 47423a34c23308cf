"""The row of a connection: one structured array for all of them. Pure.

A connection's identity is (netns, skaddr, first-seen time), never the 4-tuple: the slab hands the address of a closed socket
to the very next one, and the source port is not known at SYN_SENT.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tracer.events import N_STATES
from tracer.segments import take

CONNECTION_DTYPE = np.dtype(
    [  # wide fields first and a whole number of 8-byte words: numpy is slow where values are not aligned
        ("skaddr", "u8"),
        ("first_seen_ns", "i8"),  # boottime
        ("netns", "i8"),  # inode; -1 unknown
        ("pid", "i8"),  # of the owner; -1 unknown
        ("cgroup_id", "i8"),  # of the owner; -1 unknown
        ("opened_ns", "i8"),  # boottime of CLOSE -> SYN_SENT; -1 not seen
        ("established_ns", "i8"),  # boottime; -1 not seen
        ("closed_ns", "i8"),  # boottime; -1 still open, or not seen
        ("connect_ns", "i8"),  # established - opened; -1 unknown
        ("lifetime_ns", "i8"),  # closed - opened; -1 unknown
        ("opened_early_ns", "i8"),  # how much earlier than opened_ns it may have been; 0 exact, or nothing is known
        ("established_early_ns", "i8"),
        ("closed_early_ns", "i8"),
        ("state_ns", "i8", (N_STATES,)),  # time in each TcpState, the current one up to the last event; -1 not known
        ("bytes_received", "i8"),  # payload; -1 unknown
        ("bytes_acked", "i8"),  # payload; -1 unknown
        ("retransmits", "i8"),  # -1 unknown
        ("srtt_us", "i8"),  # last known; -1 unknown
        ("unread_bytes", "i8"),  # when ESTABLISHED was left, or in the last sample; -1 unknown
        ("idle_ms", "i8"),  # nothing received for so long, at the same moment; -1 unknown
        ("last_ns", "i8"),  # boottime of the last event
        ("comm", "S16"),  # of the owner; valid where pid is
        ("laddr", "u1", (16,)),  # v4-mapped; all zero: unknown
        ("raddr", "u1", (16,)),
        ("lport", "i4"),  # -1 unknown
        ("rport", "i4"),
        ("sk_err", "i4"),  # errno at CLOSE; -1 unknown or still open
        ("endpoint_id", "u4"),
        ("family", "u2"),  # of the socket: AF_INET or AF_INET6
        ("close_reason", "u1"),  # CloseReason
        ("last_state", "u1"),  # TcpState after the last event
        ("preexisting", "i1"),  # 1 open before the first event, 0 not, -1 unknown (its opening may be lost)
        ("gap", "?"),  # transitions are missing: between two that were seen, or at the end of one that was cut off
        ("inbound", "?"),  # opened from outside: tracked so that its events are accounted for, never reported
        ("reserved", "u1"),  # 0
    ]
)

Connections = NDArray[np.void]
"""A structured array of CONNECTION_DTYPE, shape (n_connections,)."""

_UNKNOWN_FIELDS = (
    "netns", "lport", "rport", "pid", "cgroup_id", "opened_ns", "established_ns", "closed_ns", "connect_ns", "lifetime_ns",
    "state_ns", "bytes_received", "bytes_acked", "retransmits", "srtt_us", "unread_bytes", "idle_ms", "sk_err",
)  # fmt: skip


def blank_connections(count: int) -> Connections:
    """Rows of which nothing is known."""
    return np.tile(_BLANK_WORDS, count).view(CONNECTION_DTYPE)


def _blank_words() -> NDArray[np.uint64]:
    row = np.zeros(1, CONNECTION_DTYPE)
    for field in _UNKNOWN_FIELDS:
        row[field] = -1
    return row.view(np.uint64)


_BLANK_WORDS = _blank_words()


def by_endpoint(rows: Connections) -> Iterator[tuple[int, Connections]]:
    """The rows of each endpoint, in the order of endpoint ids."""
    if not len(rows):
        return
    endpoint_id = rows["endpoint_id"]
    order = np.argsort(endpoint_id, kind="stable")
    sorted_id = endpoint_id[order]
    starts = np.concatenate([[0], np.flatnonzero(sorted_id[1:] != sorted_id[:-1]) + 1])
    if len(starts) == 1:
        yield int(sorted_id[0]), rows
        return
    rows = take(rows, order)
    for start, end in pairwise([*starts.tolist(), len(rows)]):
        yield int(sorted_id[start]), rows[start:end]
