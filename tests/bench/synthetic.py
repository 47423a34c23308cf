"""A trace that nobody recorded, shaped like registry traffic, for measuring the analysis without a kernel.

Connections come at random times to three endpoints from forty processes, live from milliseconds to minutes, and end in every
usual way, most of them by this side's FIN or the peer's. Socket addresses come from a stack of free ones, as the slab hands
them out, so that the address of a closed socket is soon another connection's. Same seed, same trace.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tracer.events import EVENT_DTYPE, EventBatch, EventFlag, Events, TcpState

CONNECTIONS_PER_S = 5_000
BATCH_NS = 1_000_000_000  # what `record` flushes, and so what a replay reads, at a time
ENDPOINTS = {1: "registry-1.docker.io:443", 2: "auth.docker.io:443", 3: "ghcr.io:443"}
_ENDPOINT_SHARES = (0.70, 0.20, 0.10)
_OWNERS = 40
_COMMS = (b"containerd", b"dockerd", b"skopeo", b"kubelet", b"crane", b"buildkitd", b"haproxy", b"python3")
_FIRST_SKADDR, _SOCKET_BYTES = 0xFFFF_8881_0000_0000, 2432
_MS_NS = 1_000_000.0
_ECONNRESET, _ETIMEDOUT, _ECONNREFUSED = 104, 110, 111
S = TcpState
_UP = (S.CLOSE, S.SYN_SENT, S.ESTABLISHED)
_KINDS: tuple[tuple[float, tuple[TcpState, ...], int], ...] = (
    # share, states, errno at the end
    (0.55, (*_UP, S.FIN_WAIT1, S.FIN_WAIT2, S.CLOSE), 0),
    (0.35, (*_UP, S.CLOSE_WAIT, S.LAST_ACK, S.CLOSE), 0),
    (0.05, (*_UP, S.CLOSE), _ECONNRESET),
    (0.03, (S.CLOSE, S.SYN_SENT, S.CLOSE), _ECONNREFUSED),
    (0.02, (S.CLOSE, S.SYN_SENT, S.CLOSE), _ETIMEDOUT),
)
_SYNCHRONISED = (S.ESTABLISHED, S.FIN_WAIT1, S.FIN_WAIT2, S.CLOSE_WAIT, S.LAST_ACK, S.CLOSING)
_ALWAYS = (
    EventFlag.HAS_TASK | EventFlag.HAS_CGROUP | EventFlag.HAS_NETNS | EventFlag.HAS_SADDR | EventFlag.HAS_RECEIVED
    | EventFlag.HAS_ACKED | EventFlag.HAS_RETRANSMITS | EventFlag.HAS_SK_ERR
)  # fmt: skip


def synthetic_events(transitions: int, seed: int = 1) -> Events:
    """At least so many transitions, in the order of their times; the last connections are still open at the end."""
    random = np.random.default_rng(seed)
    per_connection = sum(share * (len(states) - 1) for share, states, _ in _KINDS)
    count = int(transitions / per_connection * 1.02)
    opened_ns = np.cumsum(random.exponential(1e9 / CONNECTIONS_PER_S, count)).astype(np.int64) + 3_600 * 1_000_000_000
    kind = random.choice(len(_KINDS), count, p=[share for share, _, _ in _KINDS])
    parts, ends = [], np.zeros(count, np.int64)
    for number, (_, states, sk_err) in enumerate(_KINDS):
        chosen = np.flatnonzero(kind == number)
        times = opened_ns[chosen, None] + _offsets_ns(states, len(chosen), random)
        ends[chosen] = times[:, -1]
        parts.append(_events(chosen, states, times, sk_err))
    events, connection = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    order = np.argsort(events["ts_ns"], kind="stable")[:transitions]
    events, connection = events[order], connection[order]
    _fill_identity(events, connection, _socket_addresses(opened_ns, ends), count, random)
    return events


def _offsets_ns(states: tuple[TcpState, ...], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Time of each transition after the opening: shape (count, transitions of a connection)."""
    spent = np.zeros((count, len(states) - 1))
    for column, state in enumerate(states[1:-1], start=1):
        if state == S.SYN_SENT:
            spent[:, column] = random.lognormal(np.log(15 * _MS_NS), 0.6, count)
        elif state == S.ESTABLISHED:
            spent[:, column] = random.lognormal(np.log(300 * _MS_NS), 1.5, count)
        else:
            spent[:, column] = random.lognormal(np.log(8 * _MS_NS), 0.8, count)
    return np.cumsum(spent.astype(np.int64) + (np.arange(len(states) - 1) > 0), axis=1)


def _events(
    chosen: NDArray[np.intp], states: tuple[TcpState, ...], times_ns: NDArray[np.int64], sk_err: int
) -> tuple[Events, NDArray[np.intp]]:
    steps = len(states) - 1
    events = np.zeros((len(chosen), steps), EVENT_DTYPE)
    events["ts_ns"] = times_ns
    for step in range(steps):
        old, new = states[step], states[step + 1]
        column = events[:, step]
        column["old_state"], column["new_state"] = old, new
        flags = _ALWAYS
        if old == S.CLOSE:
            flags |= EventFlag.OWNER
        else:
            flags |= EventFlag.HAS_SPORT
        if old in _SYNCHRONISED:
            flags |= EventFlag.HAS_SRTT | EventFlag.HAS_UNREAD | EventFlag.HAS_IDLE
        column["flags"] = int(flags)
        column["sk_err"] = sk_err if new == S.CLOSE else 0
    return events.reshape(-1), np.repeat(chosen, steps)


def _socket_addresses(opened_ns: NDArray[np.int64], ends_ns: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The address of each connection's socket: the one freed last, or a new one."""
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    used = 0
    slots = np.zeros(len(opened_ns), np.uint64)
    for index, (opened, end) in enumerate(zip(opened_ns.tolist(), ends_ns.tolist(), strict=True)):
        while busy and busy[0][0] < opened:
            free.append(heapq.heappop(busy)[1])
        if free:
            slot = free.pop()
        else:
            slot, used = used, used + 1
        heapq.heappush(busy, (end, slot))
        slots[index] = slot
    return np.uint64(_FIRST_SKADDR) + slots * np.uint64(_SOCKET_BYTES)


def _fill_identity(
    events: Events, connection: NDArray[np.intp], skaddr: NDArray[np.uint64], count: int, random: np.random.Generator
) -> None:
    owner = random.integers(0, _OWNERS, count)
    endpoint_id = random.choice(len(ENDPOINTS), count, p=_ENDPOINT_SHARES) + 1
    comm = np.array([_COMMS[number % len(_COMMS)] for number in range(_OWNERS)], "S16")
    events["skaddr"] = skaddr[connection]
    events["endpoint_id"] = endpoint_id[connection]
    events["pid"] = 1000 + owner[connection]
    events["cgroup_id"] = 5000 + owner[connection] // 2
    events["comm"] = comm[owner[connection]]
    events["netns"] = 4_026_531_840
    events["family"] = 2
    events["dport"] = 443
    events["sport"] = np.where(events["old_state"] == S.CLOSE, 0, 32768 + connection % 28232)
    for field in ("saddr", "daddr"):
        events[field][:, 10:12] = 255
    events["saddr"][:, 12:] = (10, 0, 0, 7)
    events["daddr"][:, 12:15] = (198, 51, 100)
    events["daddr"][:, 15] = endpoint_id[connection] * 8 + connection % 4
    received = random.lognormal(np.log(20_000), 2, count).astype(np.uint64)
    past_data = np.isin(events["old_state"], _SYNCHRONISED)
    events["bytes_received"] = np.where(past_data, received[connection], 0)
    events["bytes_acked"] = np.where(past_data, 1200, 0)
    events["srtt_us"] = np.where(past_data, 15_000, 0)
    events["idle_ms"] = np.where(past_data, 12, 0)


def batches(events: Events, events_each: int | None = None) -> Iterator[EventBatch]:
    """The trace in the batches of a capture (a second each), or of so many events."""
    times = events["ts_ns"].astype(np.int64)
    if events_each is None:
        edges = np.searchsorted(times, np.arange(times[0] + BATCH_NS, times[-1], BATCH_NS))
    else:
        edges = np.arange(events_each, len(events), events_each)
    for piece in np.split(events, edges):
        yield EventBatch(piece.copy(), "ebpf", 1)
