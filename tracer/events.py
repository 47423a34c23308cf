"""Events: the one record every source delivers, and the batch that carries it. Pure: no I/O, no clock.

`EVENT_DTYPE` mirrors `struct tcp_event` of bpf/tcp_event.h byte for byte (a test compares them); that header says what each
field means. A value is valid only where its `HAS_*` bit is set in `flags`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracer.errors import SourceError

if TYPE_CHECKING:
    from tracer.facts import Fact

EVENT_DTYPE = np.dtype(
    [
        ("ts_ns", "u8"),
        ("skaddr", "u8"),
        ("cgroup_id", "u8"),
        ("bytes_received", "u8"),
        ("bytes_acked", "u8"),
        ("netns", "u4"),
        ("pid", "u4"),
        ("srtt_us", "u4"),
        ("retransmits", "u4"),
        ("unread_bytes", "u4"),
        ("idle_ms", "u4"),
        ("sk_err", "u4"),
        ("endpoint_id", "u4"),
        ("flags", "u4"),
        ("reserved", "u4"),
        ("sport", "u2"),
        ("dport", "u2"),
        ("family", "u2"),
        ("old_state", "u1"),
        ("new_state", "u1"),
        ("saddr", "u1", (16,)),
        ("daddr", "u1", (16,)),
        ("comm", "S16"),
    ]
)

Events = NDArray[np.void]
"""A structured array of EVENT_DTYPE, shape (n_events,)."""


class TcpState(IntEnum):
    """The kernel's states and numbers (include/net/tcp_states.h)."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


TS_NS_MAX = 1 << 62
"""Times are below this, so that they and their sums with a clock's offset fit into int64."""
ELSEWHERE = 0
"""Endpoint id of connections to an address that is not watched, by somebody who talks to one that is."""
N_STATES = 13
"""Length of an axis indexed by TcpState; index 0 is unused."""


class EventFlag(IntFlag):
    """Bits of an event's `flags`: enum tcp_event_flags of bpf/tcp_event.h."""

    HAS_TASK = 1 << 0
    HAS_CGROUP = 1 << 1
    OWNER = 1 << 2
    HAS_NETNS = 1 << 3
    HAS_SADDR = 1 << 4
    HAS_SPORT = 1 << 5
    HAS_RECEIVED = 1 << 6
    HAS_ACKED = 1 << 7
    HAS_SRTT = 1 << 8
    HAS_RETRANSMITS = 1 << 9
    HAS_UNREAD = 1 << 10
    HAS_IDLE = 1 << 11
    HAS_SK_ERR = 1 << 12
    SAMPLE = 1 << 13
    ADOPTED = 1 << 14


FIELD_FLAGS = {
    "pid": EventFlag.HAS_TASK,
    "comm": EventFlag.HAS_TASK,
    "cgroup_id": EventFlag.HAS_CGROUP,
    "netns": EventFlag.HAS_NETNS,
    "saddr": EventFlag.HAS_SADDR,
    "sport": EventFlag.HAS_SPORT,
    "bytes_received": EventFlag.HAS_RECEIVED,
    "bytes_acked": EventFlag.HAS_ACKED,
    "srtt_us": EventFlag.HAS_SRTT,
    "retransmits": EventFlag.HAS_RETRANSMITS,
    "unread_bytes": EventFlag.HAS_UNREAD,
    "idle_ms": EventFlag.HAS_IDLE,
    "sk_err": EventFlag.HAS_SK_ERR,
}
"""Which flag says that a field is valid. Fields not listed are always valid."""


class KernelCounts(NamedTuple):
    """The kernel's own totals of TCP, at one moment; -1 unknown.

    Of the tracer's network namespace, IPv4 and IPv6 together. The first three are of now (/proc/net/sockstat: inuse, tw, and
    orphan, which is of the whole machine); the others count since it was made (/proc/net/snmp: ActiveOpens, AttemptFails,
    RetransSegs, OutRsts).
    """

    in_use: int = -1
    time_wait: int = -1
    orphans: int = -1
    active_opens: int = -1
    attempt_fails: int = -1
    segments_sent_again: int = -1
    resets_sent: int = -1

    def to_json(self) -> dict[str, int]:
        """By name, without those that are unknown."""
        return {name: count for name, count in self._asdict().items() if count >= 0}

    @classmethod
    def from_json(cls, found: object) -> KernelCounts | None:
        """What `to_json` gave; None of None. Names that are not known are passed over.

        Raises:
            ValueError: it is no object, or a total is no whole number.
        """
        if found is None:
            return None
        if not isinstance(found, dict) or any(type(found.get(name, -1)) is not int for name in cls._fields):
            raise ValueError("the kernel's totals are no object of whole numbers")
        return cls(**{name: found.get(name, -1) for name in cls._fields})


@dataclass(frozen=True)
class EventBatch:
    """What a source delivered in one read.

    Attributes:
        events: EVENT_DTYPE, shape (n_events,), in the order in which the source saw them; per socket that is the order
            of the transitions, across sockets of different CPUs `ts_ns` may step back by microseconds. Read-only.
        source: "ebpf", "polled" or "proc"; in a replay, what the trace was recorded with.
        resolution_ns: how exact `ts_ns` is, in ns.
        lost: events that the source knows it lost since the batch before.
        lost_since_ns, lost_until_ns: boottime interval [since, until) the lost ones fell in; both 0 when lost is 0.
        early_ns: uint64, shape (n_events,): how much earlier each event may have happened; None means 0 for all.
        endpoints: labels by endpoint id that became known with this batch (a watch list may grow while it runs).
        opened, counted: connections that were seen to open since the batch before, and how many the kernel says there were, to
            any address; both 0 where the source does not measure itself so.
        facts: what became known before these events: endpoints, their addresses, owners.
        kernel: the kernel's own totals, where the source looked at them; None: it did not.
        switched: why another source goes on from here; `source` is its name then, and in [lost_since_ns, lost_until_ns) nobody
            knows what was lost. "": none does.
        until_ns: boottime up to which nothing more will come, but for the microseconds by which CPUs differ; 0 where the
            source says nothing of it. It lets time pass where no event does.
    """

    events: Events
    source: str
    resolution_ns: int
    lost: int = 0
    lost_since_ns: int = 0
    lost_until_ns: int = 0
    early_ns: NDArray[np.uint64] | None = None
    endpoints: tuple[tuple[int, str], ...] = ()
    until_ns: int = 0
    opened: int = 0
    counted: int = 0
    switched: str = ""
    kernel: KernelCounts | None = None
    facts: tuple[Fact, ...] = ()

    def __post_init__(self) -> None:
        """Validate and freeze.

        Raises:
            SourceError: wrong dtype or shape, a state that does not exist, a loss without its interval, more seen than there
                was, or totals that no kernel has.
        """
        if self.events.dtype != EVENT_DTYPE or self.events.ndim != 1:
            raise SourceError(f"a batch holds {self.events.dtype} of {self.events.ndim} dimensions, not events")
        for field in ("old_state", "new_state"):
            states = self.events[field]
            wrong = np.flatnonzero((states == 0) | (states >= N_STATES))
            if wrong.size:
                raise SourceError(f"events {wrong[:5].tolist()} have a {field} that no TCP has: {states[wrong[:5]].tolist()}")
        late = np.flatnonzero(self.events["ts_ns"] >= TS_NS_MAX)
        if late.size:
            raise SourceError(f"events {late[:5].tolist()} have times beyond 146 years of uptime")
        self._check_early()
        self._check_numbers()
        self.events.flags.writeable = False

    def _check_early(self) -> None:
        if self.early_ns is not None and self.early_ns.shape != self.events.shape:
            raise SourceError(f"{len(self.early_ns)} early_ns for {len(self.events)} events")
        if self.early_ns is not None and len(self.early_ns) and int(self.early_ns.max()) >= TS_NS_MAX:
            raise SourceError(f"an event may have been {int(self.early_ns.max())} ns earlier, which is more than 146 years")

    def _check_numbers(self) -> None:
        if not 0 < self.resolution_ns < TS_NS_MAX:
            raise SourceError(f"times are exact to {self.resolution_ns} ns")
        if not 0 <= self.until_ns < TS_NS_MAX:
            raise SourceError(f"a batch is complete until {self.until_ns}")
        if not 0 <= self.opened <= self.counted < TS_NS_MAX:
            raise SourceError(f"{self.opened} connections seen of {self.counted}")
        if self.kernel is not None and not all(-1 <= count < TS_NS_MAX for count in self.kernel):
            raise SourceError(f"the kernel's totals are {self.kernel}")
        interval = (self.lost_since_ns, self.lost_until_ns)
        if not 0 <= self.lost < TS_NS_MAX or not all(0 <= at_ns < TS_NS_MAX for at_ns in interval):
            raise SourceError(f"{self.lost} events lost in [{self.lost_since_ns}, {self.lost_until_ns})")
        if (self.lost or self.switched) and self.lost_until_ns <= self.lost_since_ns:
            raise SourceError(f"{self.lost} events lost in [{self.lost_since_ns}, {self.lost_until_ns})")

    def __len__(self) -> int:
        return len(self.events)

    @property
    def says_something(self) -> bool:
        """Whether there is anything in it but how far it reaches."""
        beside = self.lost or self.endpoints or self.facts or self.counted or self.switched or self.kernel is not None
        return bool(len(self.events) or beside)


def no_events() -> Events:
    """An empty array of events."""
    return np.zeros(0, EVENT_DTYPE)


def valid(events: Events, field: str) -> NDArray[np.bool_]:
    """Where a field was read: bool, shape (n_events,)."""
    flag = FIELD_FLAGS.get(field)
    if flag is None:
        return np.ones(len(events), bool)
    return (events["flags"] & np.uint32(flag)) != 0


def is_sample(events: Events) -> NDArray[np.bool_]:
    """Where an event is a sample and no transition: bool, shape (n_events,)."""
    return (events["flags"] & np.uint32(EventFlag.SAMPLE)) != 0


def is_adopted(events: Events) -> NDArray[np.bool_]:
    """Where an event is no transition, but a socket that was found open: bool, shape (n_events,)."""
    return (events["flags"] & np.uint32(EventFlag.ADOPTED)) != 0


def is_transition(events: Events) -> NDArray[np.bool_]:
    """Where an event is a transition, and neither a sample nor a socket that was found open: bool, shape (n_events,)."""
    return (events["flags"] & np.uint32(EventFlag.SAMPLE | EventFlag.ADOPTED)) == 0


def is_opening(events: Events) -> NDArray[np.bool_]:
    """Where an event is CLOSE -> SYN_SENT: bool, shape (n_events,)."""
    return (events["old_state"] == TcpState.CLOSE) & (events["new_state"] == TcpState.SYN_SENT)
