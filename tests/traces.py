"""Traces to test with: life cycles of sockets as the hook shows them, interleaved, with holes, and cut into batches.

A trace is made of `Life`s, one per connection; lives at the same socket address follow each other, lives at different ones
interleave by time. `lives_of` and `trace_of_seed` make them from a seed, `traces()` from hypothesis.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tracer.events import EVENT_DTYPE, N_STATES, EventBatch, EventFlag, Events, TcpState
from tracer.lifecycle import REASON_NAMES, CloseReason
from tracer.rows import Connections

S = TcpState
NO_FLAGS = EventFlag(0)
MS = 1_000_000
SECOND = 1_000_000_000
START_NS = 1_000 * SECOND
SKADDR = 0xFFFF_8880_0000_0000
NETNS = 4_026_531_840

_OPEN = ((S.CLOSE, S.SYN_SENT, 0),)
_UP = (*_OPEN, (S.SYN_SENT, S.ESTABLISHED, 0))
_PEER_FIRST = ((S.ESTABLISHED, S.CLOSE_WAIT, 0), (S.CLOSE_WAIT, S.LAST_ACK, 0), (S.LAST_ACK, S.CLOSE, 0))
_LOCAL_FIRST = ((S.ESTABLISHED, S.FIN_WAIT1, 0), (S.FIN_WAIT1, S.FIN_WAIT2, 0), (S.FIN_WAIT2, S.CLOSE, 0))

PATHS: dict[str, tuple[tuple[TcpState, TcpState, int], ...]] = {
    "peer": (*_UP, *_PEER_FIRST),
    "peer-then-reset": (*_UP, (S.ESTABLISHED, S.CLOSE_WAIT, 0), (S.CLOSE_WAIT, S.CLOSE, errno.ECONNRESET)),
    "local": (*_UP, *_LOCAL_FIRST),
    "local-no-fin-wait2": (*_UP, (S.ESTABLISHED, S.FIN_WAIT1, 0), (S.FIN_WAIT1, S.CLOSE, 0)),
    "closing": (*_UP, (S.ESTABLISHED, S.FIN_WAIT1, 0), (S.FIN_WAIT1, S.CLOSING, 0), (S.CLOSING, S.CLOSE, 0)),
    "reset": (*_UP, (S.ESTABLISHED, S.CLOSE, errno.ECONNRESET)),
    "broken-pipe": (*_UP, (S.ESTABLISHED, S.CLOSE, errno.EPIPE)),
    "local-reset": (*_UP, (S.ESTABLISHED, S.CLOSE, 0)),
    "timed-out": (*_UP, (S.ESTABLISHED, S.CLOSE, errno.ETIMEDOUT)),
    "refused": (*_OPEN, (S.SYN_SENT, S.CLOSE, errno.ECONNREFUSED)),
    "timeout": (*_OPEN, (S.SYN_SENT, S.CLOSE, errno.ETIMEDOUT)),
    "unreachable": (*_OPEN, (S.SYN_SENT, S.CLOSE, errno.EHOSTUNREACH)),
    "aborted": (*_OPEN, (S.SYN_SENT, S.CLOSE, 0)),
    "simultaneous-open": (*_OPEN, (S.SYN_SENT, S.SYN_RECV, 0), (S.SYN_RECV, S.ESTABLISHED, 0), *_PEER_FIRST),
    "inbound": ((S.LISTEN, S.SYN_RECV, 0), (S.SYN_RECV, S.ESTABLISHED, 0), *_PEER_FIRST),
    "listener": ((S.CLOSE, S.LISTEN, 0), (S.LISTEN, S.CLOSE, 0)),
}
"""Whole lives: (old state, new state, sk_err) of each transition."""

OWNERS = ((812, b"dockerd", 3001), (901, b"kubelet", 3002), (1500, b"skopeo", -1), (7, b"\xff\x01 odd", 0))
"""(pid, comm, cgroup id or -1); the last has a cgroup whose id is 0."""

_BLINDNESS = (
    NO_FLAGS, EventFlag.HAS_SK_ERR, EventFlag.HAS_TASK, EventFlag.HAS_CGROUP, EventFlag.OWNER,
    EventFlag.HAS_RECEIVED | EventFlag.HAS_ACKED, EventFlag.HAS_UNREAD | EventFlag.HAS_IDLE, EventFlag.HAS_SADDR,
)  # fmt: skip
_GAPS_NS = (0, 1, 300, 40_000, 2 * MS, 150 * MS, SECOND, 7 * SECOND)


def v4(address: str) -> bytes:
    """16 bytes of an IPv4 address, v4-mapped."""
    return bytes(10) + b"\xff\xff" + bytes(int(part) for part in address.split("."))


LADDR = v4("10.0.0.5")
RADDR = v4("203.0.113.7")
_EVERYTHING = int(sum(EventFlag)) & ~int(EventFlag.SAMPLE | EventFlag.ADOPTED | EventFlag.OWNER)


def event(old: TcpState, new: TcpState, ts_ns: int, **fields: Any) -> np.void:
    """One transition, complete, of a socket in softirq context; an opening as connect() shows it. Fields may be given."""
    made = np.zeros(1, EVENT_DTYPE)[0]
    opening = (old, new) == (S.CLOSE, S.SYN_SENT)
    values: dict[str, Any] = {
        "ts_ns": ts_ns, "skaddr": SKADDR, "netns": NETNS, "endpoint_id": 1, "family": 2, "old_state": old, "new_state": new,
        "saddr": LADDR, "daddr": RADDR, "sport": 40_000, "dport": 443, "pid": 0, "comm": b"swapper/1", "cgroup_id": 1,
        "flags": _EVERYTHING,
    }  # fmt: skip
    if opening:
        values |= {"pid": 812, "comm": b"dockerd", "cgroup_id": 3001, "sport": 0, "saddr": bytes(16)}
        values["flags"] = (_EVERYTHING | EventFlag.OWNER) & ~int(EventFlag.HAS_SPORT | EventFlag.HAS_SADDR)
    values |= fields
    values["flags"] = int(values["flags"]) & ~int(values.pop("without", 0)) | int(values.pop("also", 0))
    for name, given in values.items():
        made[name] = np.frombuffer(given, np.uint8) if name in ("saddr", "daddr") else given
    return made


def sample(state: TcpState, ts_ns: int, **fields: Any) -> np.void:
    """A sample of a socket's counters: no task, no transition."""
    fields.setdefault("without", EventFlag.HAS_TASK | EventFlag.HAS_CGROUP)
    return event(state, state, ts_ns, also=EventFlag.SAMPLE, **fields)


def trace(*events: np.void) -> Events:
    """An array of hand-made events."""
    return np.array(list(events), EVENT_DTYPE)


def path(name: str, times_ns: Sequence[int], **fields: Any) -> list[np.void]:
    """The transitions of a whole life, or the first of them, at these times."""
    return [
        event(old, new, ts_ns, sk_err=sk_err, **fields) for (old, new, sk_err), ts_ns in zip(PATHS[name], times_ns, strict=False)
    ]


@dataclass(frozen=True)
class Life:
    """One connection of a trace.

    Attributes:
        path: key of PATHS.
        socket, netns, endpoint, peer, owner: small numbers; lives with the same socket and netns follow each other.
        gaps_ns: time before each step; the last one holds for the rest.
        skip: so many transitions were before the trace.
        keep: at most so many transitions are in the trace: left open.
        sampled: bit n: a sample follows step n, in the state the socket is in.
        misfits: bit n: a sample follows step n, in a state the socket is not in.
        portless: bit n: the event of step n has no local port.
        blind: flags that no event of this life has.
    """

    path: str
    socket: int = 0
    netns: int = 0
    endpoint: int = 1
    peer: int = 0
    owner: int = 0
    gaps_ns: tuple[int, ...] = (SECOND,)
    skip: int = 0
    keep: int = 9
    sampled: int = 0
    misfits: int = 0
    portless: int = 0
    blind: EventFlag = NO_FLAGS


def build(lives: Sequence[Life], start_ns: int = START_NS) -> Events:
    """The trace of these lives. Delivery is by time, but each socket's events are late by its own few µs (CPUs differ)."""
    clocks: dict[tuple[int, int], int] = {}
    delivered: list[tuple[int, int, np.void]] = []
    for number, life in enumerate(lives):
        key = (life.socket, life.netns)
        ts_ns = clocks.get(key, start_ns + 10 * MS * life.socket)
        for made in _events_of(life, number, ts_ns):
            ts_ns = int(made["ts_ns"])
            delivered.append((ts_ns + 3_000 * (life.socket % 3), len(delivered), made))
        clocks[key] = ts_ns
    return trace(*(made for _, _, made in sorted(delivered, key=lambda entry: entry[:2])))


def _events_of(life: Life, number: int, ts_ns: int) -> Iterator[np.void]:
    pid, comm, cgroup_id = OWNERS[life.owner]
    common: dict[str, Any] = {
        "skaddr": SKADDR + 0x1000 * life.socket,
        "netns": NETNS + life.netns,
        "endpoint_id": life.endpoint,
        "daddr": v4(f"203.0.113.{life.peer + 1}"),
    }
    task: dict[str, Any] = {"pid": pid, "comm": comm, "cgroup_id": max(cgroup_id, 0)}
    blind = life.blind | (EventFlag.HAS_CGROUP if cgroup_id < 0 else NO_FLAGS)
    for step, (old, new, sk_err) in enumerate(PATHS[life.path][: life.keep]):
        if step < life.skip:
            continue
        ts_ns += life.gaps_ns[min(step, len(life.gaps_ns) - 1)]
        opening = (old, new) == (S.CLOSE, S.SYN_SENT)
        without = blind | (EventFlag.HAS_SPORT if life.portless >> step & 1 else NO_FLAGS)
        port = {"sport": 20_000 + number % 40_000}
        counters = {
            "bytes_received": 1000 * step * (number + 1), "bytes_acked": 300 * step, "retransmits": number % 3,
            "srtt_us": 1000 + number, "unread_bytes": step * number, "idle_ms": step,
        }  # fmt: skip
        ends = task if opening else port
        yield event(old, new, ts_ns, sk_err=sk_err, without=without, **common, **counters, **ends)
        without |= EventFlag.HAS_TASK | EventFlag.HAS_CGROUP
        counters["bytes_received"] += 7
        if life.misfits >> step & 1:
            other = S.ESTABLISHED if new != S.ESTABLISHED else S.FIN_WAIT2
            yield sample(other, ts_ns, without=without, **common, **port, **counters)
        if life.sampled >> step & 1 and new != S.CLOSE:
            ts_ns += life.gaps_ns[0]
            yield sample(new, ts_ns, without=without, **common, **port, **counters)


def lives_of(random: Random, count: int, sockets: int = 12) -> list[Life]:
    """Random lives; the first at a socket may have been there before the trace, the last may still be open at its end."""
    lives = []
    started: set[tuple[int, int]] = set()
    for _ in range(count):
        socket, netns = random.randrange(sockets), random.choice((0, 0, 1))
        before = (socket, netns) not in started and random.random() < 0.3
        started.add((socket, netns))
        lives.append(
            Life(
                random.choice(list(PATHS)),
                socket,
                netns,
                endpoint=random.choice((1, 1, 2, 5)),
                peer=random.randrange(3),
                owner=random.randrange(len(OWNERS)),
                gaps_ns=tuple(random.choice(_GAPS_NS) for _ in range(4)),
                skip=random.randrange(1, 4) if before else 0,
                sampled=random.getrandbits(6) & random.getrandbits(6),
                misfits=random.getrandbits(6) & random.getrandbits(6) & random.getrandbits(6),
                portless=random.getrandbits(6) & random.getrandbits(6) & random.getrandbits(6),
                blind=random.choice(_BLINDNESS) if random.random() < 0.3 else NO_FLAGS,
            )
        )
    last = {(life.socket, life.netns): index for index, life in enumerate(lives)}
    for index in last.values():
        if random.random() < 0.5:
            lives[index] = Life(**{**vars(lives[index]), "keep": random.randrange(1, 4)})
    return lives


def trace_of_seed(seed: int, count: int = 200, holes: float = 0.0) -> Events:
    """A trace of `count` lives; each event is missing with the probability `holes`."""
    random = Random(seed)
    events = build(lives_of(random, count))
    return events[[random.random() >= holes for _ in range(len(events))]]


def garbage_of_seed(seed: int, count: int = 300) -> Events:
    """Transitions that no TCP makes, at a few sockets, with any flags."""
    random = Random(seed)
    events = np.zeros(count, EVENT_DTYPE)
    for index in range(count):
        old, new = S(random.randrange(1, N_STATES)), S(random.randrange(1, N_STATES))
        flags = random.getrandbits(13)
        events[index] = event(
            old,
            old if random.random() < 0.1 else new,
            START_NS + index * 1000,
            skaddr=SKADDR + 0x1000 * random.randrange(3),
            netns=NETNS + random.randrange(2),
            sport=random.randrange(1, 3),
            daddr=v4(f"203.0.113.{random.randrange(1, 3)}"),
            sk_err=random.choice((0, errno.ECONNRESET, errno.ECONNREFUSED, 300)),
            flags=flags | EventFlag.HAS_NETNS,
        )
        if old == new:
            events[index]["flags"] &= ~np.uint32(EventFlag.SAMPLE)
        elif random.random() < 0.1:
            events[index]["new_state"] = old
            events[index]["flags"] |= EventFlag.SAMPLE
    return events


_LIFE = st.builds(
    Life,
    path=st.sampled_from(list(PATHS)),
    socket=st.integers(0, 2),
    netns=st.sampled_from((0, 0, 1)),
    endpoint=st.sampled_from((1, 2)),
    peer=st.integers(0, 1),
    owner=st.integers(0, len(OWNERS) - 1),
    gaps_ns=st.lists(st.sampled_from(_GAPS_NS), min_size=1, max_size=4).map(tuple),
    skip=st.sampled_from((0, 0, 0, 1, 2)),
    keep=st.sampled_from((9, 9, 9, 1, 2, 3)),
    sampled=st.integers(0, 31),
    misfits=st.sampled_from((0, 0, 1, 2, 4)),
    portless=st.sampled_from((0, 0, 2, 4, 8)),
    blind=st.sampled_from(_BLINDNESS),
)


@st.composite
def traces(draw: st.DrawFn, holes: bool = False) -> Events:
    """Small traces: a few lives, with `holes` less some of their events."""
    events = build(draw(st.lists(_LIFE, min_size=1, max_size=7)))
    if holes:
        missing = draw(st.sets(st.integers(0, len(events) - 1), max_size=len(events) - 1) if len(events) else st.just(set()))
        events = np.delete(events, sorted(missing))
    return events


Losses = Mapping[int, int]
"""How many events were lost before the event at a position."""


def bounds(count: int, seed: int = 0, at: Iterable[int] = ()) -> Iterator[list[int]]:
    """Ways to cut `count` events, each as the edges of its batches: one batch, one by one, and three random ones.

    Positions in `at` are edges in all of them. Edges may repeat: a source may deliver nothing.
    """
    random = Random(seed)
    fixed = [0, *at, count]
    yield sorted(set(fixed))
    yield sorted({*fixed, *range(count + 1)})
    for _ in range(3):
        yield sorted(fixed + [random.randint(0, count) for _ in range(random.randint(1, 8))])


def cuts(events: Events, losses: Losses | None = None, seed: int = 0) -> Iterator[list[EventBatch]]:
    """The same events in batches, cut in several ways; a loss always precedes the events of the batch that carries it."""
    losses = losses or {}
    for edges in bounds(len(events), seed, losses):
        batches = []
        pending = dict(losses)
        for start, end in zip(edges, [*edges[1:], len(events)], strict=True):
            lost = pending.pop(start, 0)
            since_ns, until_ns = (START_NS + start, START_NS + start + 1) if lost else (0, 0)
            batches.append(EventBatch(events[start:end], "ebpf", 1, lost, since_ns, until_ns))
        yield batches


def assert_same_however_cut(
    run: Callable[[list[EventBatch]], Any], events: Events, losses: Losses | None = None, seed: int = 0
) -> None:
    """Whatever `run` makes of the batches is the same for every way to cut them."""
    first: Any = None
    for number, batches in enumerate(cuts(events, losses, seed)):
        result = run(batches)
        if number == 0:
            first = result
        assert result == first, f"batches of {[len(batch) for batch in batches][:40]} events give another result than one batch"


def as_dicts(events: Events) -> list[dict[str, Any]]:
    """Events with plain Python values, addresses as bytes."""
    names = EVENT_DTYPE.names or ()
    rows = [dict(zip(names, row, strict=True)) for row in events.tolist()]
    for row, made in zip(rows, events, strict=True):
        row["saddr"], row["daddr"] = made["saddr"].tobytes(), made["daddr"].tobytes()
    return rows


def rows_of(connections: Connections) -> list[dict[str, Any]]:
    """Connections with plain Python values, addresses as bytes, close reasons as text; in the form of `naive`."""
    names = connections.dtype.names or ()
    rows = [dict(zip(names, row, strict=True)) for row in connections.tolist()]
    for row, made in zip(rows, connections, strict=True):
        row.pop("reserved", None)
        row["laddr"], row["raddr"] = made["laddr"].tobytes(), made["raddr"].tobytes()
        row["state_ns"] = made["state_ns"].tolist()
        row["close_reason"] = None if row["close_reason"] == CloseReason.UNDECIDED else REASON_NAMES[row["close_reason"]]
    return rows
