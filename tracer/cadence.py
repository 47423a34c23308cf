"""Cadence: the rhythm in which an owner tries an endpoint again, which names the client and the fault.

2-4-8-16 s is containers/image, 5-10-15-20 s dockerd's layers, 10-20-40-...-300 s kubelet, a fixed second a service that
restarts. Connections opened within BURST_GAP_NS of the one before are one attempt: clients open several at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracer.events import EventFlag, Events, is_opening, valid
from tracer.segments import take

BURST_GAP_NS = 100_000_000
ATTEMPTS_KEPT = 32
OWNERS_MAX = 4096
TOLERANCE = 0.10
"""Largest relative distance of an interval from the rhythm's: retries take as long as the request they repeat."""
INTERVALS_MIN = 3
"""2 and 4 s alone may be linear or exponential, and any two intervals are somewhat alike."""

GROWTH_MIN = 1.25
"""Smallest factor of an exponential rhythm, and smallest growth over a whole linear one."""


class Rhythm(Enum):
    """How intervals between attempts go on."""

    FIXED = "fixed"
    LINEAR = "linear"
    EXPONENTIAL = "exponential"
    NONE = "none"


@dataclass(frozen=True)
class Cadence:
    """The rhythm of a series of attempts.

    Attributes:
        rhythm: NONE where there are too few attempts or no rhythm fits.
        attempts: how many attempts were looked at.
        period_ns: the interval (fixed), the first interval (linear, exponential), the median one (none); -1 unknown.
        step_ns: what each interval adds to the one before (linear); 0 otherwise.
        factor: by what each interval multiplies the one before (exponential); 1 otherwise.
        deviation: largest relative distance of an interval from the rhythm; nan where there is none.
    """

    rhythm: Rhythm
    attempts: int
    period_ns: int
    step_ns: int = 0
    factor: float = 1.0
    deviation: float = float("nan")


def attempts(opened_ns: NDArray[np.int64], burst_gap_ns: int = BURST_GAP_NS) -> NDArray[np.int64]:
    """Starts of attempts: opening times, in order, less those within `burst_gap_ns` of the opening before. Shape (n,), ns."""
    starts = np.ones(len(opened_ns), bool)
    starts[1:] = np.diff(opened_ns) > burst_gap_ns
    return opened_ns[starts]


def cadence(attempts_ns: NDArray[np.int64]) -> Cadence:
    """Classify the intervals between attempts.

    The rhythm whose model leaves the smallest deviation wins, if that is within TOLERANCE; fixed wins over linear and linear
    over exponential where both leave as much, being the simpler.

    Args:
        attempts_ns: int64, shape (n_attempts,), increasing, ns.
    """
    intervals = np.diff(attempts_ns).astype(np.float64)
    count = len(attempts_ns)
    if len(intervals) < INTERVALS_MIN or (intervals <= 0).any():
        period_ns = int(np.median(intervals)) if len(intervals) else -1
        return Cadence(Rhythm.NONE, count, period_ns)
    index = np.arange(len(intervals))
    median = float(np.median(intervals))
    models = [(Rhythm.FIXED, np.full(len(intervals), median))]
    step, first = np.polyfit(index, intervals, 1)
    if first > 0 and first + step * index[-1] >= GROWTH_MIN * first:
        models.append((Rhythm.LINEAR, first + step * index))
    log_factor, log_first = np.polyfit(index, np.log(intervals), 1)
    if np.exp(log_factor) >= GROWTH_MIN:
        models.append((Rhythm.EXPONENTIAL, np.exp(log_first + log_factor * index)))
    deviations = [float(np.max(np.abs(intervals - model) / model)) for _, model in models]
    best = int(np.argmin(np.round(deviations, 3)))  # the first, simpler one, where they are equal
    rhythm, deviation = models[best][0], deviations[best]
    if deviation > TOLERANCE:
        return Cadence(Rhythm.NONE, count, round(median))
    if rhythm is Rhythm.FIXED:
        return Cadence(rhythm, count, round(median), deviation=deviation)
    if rhythm is Rhythm.LINEAR:
        return Cadence(rhythm, count, round(first), step_ns=round(step), deviation=deviation)
    return Cadence(rhythm, count, round(np.exp(log_first)), factor=float(np.exp(log_factor)), deviation=deviation)


def latest_cadence(attempts_ns: NDArray[np.int64]) -> Cadence:
    """The rhythm of the most recent attempts: of all of them, or of the last half, quarter, ... that has one.

    A rhythm begins somewhere (a poller that starts to retry) and may stop growing (kubelet at 300 s).
    """
    whole = found = cadence(attempts_ns)
    kept = len(attempts_ns)
    while found.rhythm is Rhythm.NONE and kept // 2 > INTERVALS_MIN:
        kept //= 2
        found = cadence(attempts_ns[-kept:])
    return whole if found.rhythm is Rhythm.NONE else found


class Owner(NamedTuple):
    """Who tries what. The process's name and cgroup and not its pid: a loop in a shell has a new pid for every attempt."""

    endpoint_id: int
    cgroup_id: int  # -1 unknown
    comm: bytes


class _Attempts(NamedTuple):
    starts_ns: list[int]
    last_opened_ns: int


class CadenceTracker:
    """The last attempts of each owner at each endpoint, fed in trace order.

    Beyond OWNERS_MAX owners the least recent ones are forgotten, batch by batch.
    """

    def __init__(self, burst_gap_ns: int = BURST_GAP_NS) -> None:
        self._burst_gap_ns = burst_gap_ns
        self._attempts: OrderedDict[Owner, _Attempts] = OrderedDict()

    def add(self, events: Events) -> None:
        """Take the openings among `events` whose owner is known."""
        known = np.uint32(EventFlag.OWNER | EventFlag.HAS_TASK)
        opening = take(np.ascontiguousarray(events), np.flatnonzero(is_opening(events) & (events["flags"] & known == known)))
        if not len(opening):
            return
        keys = _owner_keys(opening)
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        order = np.argsort(group, kind="stable")
        times = opening["ts_ns"].astype(np.int64)[order]
        ends = np.cumsum(np.bincount(group)).tolist()
        opened_ns = times.tolist()
        for owner, start, end in zip(_owners(take(opening, first)), [0, *ends[:-1]], ends, strict=True):
            self._extend(owner, opened_ns[start:end])
        while len(self._attempts) > OWNERS_MAX:
            self._attempts.popitem(last=False)

    def _extend(self, owner: Owner, opened_ns: list[int]) -> None:
        known = self._attempts.pop(owner, None)
        starts_ns = [] if known is None else known.starts_ns
        last_ns = -self._burst_gap_ns - 1 if known is None else known.last_opened_ns
        for at_ns in opened_ns:
            if at_ns - last_ns > self._burst_gap_ns:
                starts_ns.append(at_ns)
            last_ns = at_ns
        self._attempts[owner] = _Attempts(starts_ns[-ATTEMPTS_KEPT:], last_ns)

    def cadences(self) -> dict[Owner, Cadence]:
        """The rhythm of every owner that is remembered, in a fixed order."""
        return {owner: latest_cadence(np.array(self._attempts[owner].starts_ns, np.int64)) for owner in sorted(self._attempts)}


def _owners(events: Events) -> Iterator[Owner]:
    """The owner of each event."""
    cgroup_id = [
        number if known else -1
        for number, known in zip(events["cgroup_id"].tolist(), valid(events, "cgroup_id").tolist(), strict=True)
    ]
    return map(Owner, events["endpoint_id"].tolist(), cgroup_id, events["comm"].tolist())


def owner_keys(endpoint_id: NDArray[np.integer], cgroup_id: NDArray[np.integer], comm: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """A 64-bit hash of each owner (multiply and fold with odd constants): a sort of integers instead of strings.

    Args:
        endpoint_id: shape (n,).
        cgroup_id: shape (n,); -1 unknown.
        comm: S16, shape (n,).
    """
    words = np.ascontiguousarray(comm).view(np.uint64).reshape(len(comm), 2)
    parts = (endpoint_id.astype(np.uint64), cgroup_id.astype(np.uint64), words[:, 0], words[:, 1])
    keys = np.zeros(len(comm), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            keys = (keys ^ part) * np.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> np.uint64(29)
    return keys


def _owner_keys(events: Events) -> NDArray[np.uint64]:
    """Of each event."""
    cgroup_id = np.where(valid(events, "cgroup_id"), events["cgroup_id"].astype(np.int64), -1)
    return owner_keys(events["endpoint_id"], cgroup_id, events["comm"])
