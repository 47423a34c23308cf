"""Connections opened to APIs, by owner: who is a client at a moment, whatever came before or after it in the same read. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tracer.events import EventFlag, Events

SECOND_NS = 1_000_000_000
CLIENT_NS = 30 * SECOND_NS
"""So long after it opened a connection to an API an owner is a client of it; and as long as one is open."""
_SKEW_NS = 1_000_000
_OPENINGS_KEPT = 2 * (CLIENT_NS // SECOND_NS + 2)
Openings = deque[tuple[int, int]]
"""(boottime, endpoint id) of connections opened to APIs, in their order."""


class Who(NamedTuple):
    """An owner: a process name in a cgroup."""

    cgroup_id: int  # -1 unknown
    comm: bytes


def who_of(event: np.void) -> Who:
    """The owner of an event's socket, where it has one."""
    known = event["flags"] & EventFlag.HAS_CGROUP
    return Who(int(event["cgroup_id"]) if known else -1, bytes(event["comm"]))


def openings_kept() -> Openings:
    """None so far."""
    return deque(maxlen=_OPENINGS_KEPT)


def add_opening(openings: Openings, event: np.void) -> None:
    """Of each second the first and the last are kept: a batch may hold what was opened before and after what is judged."""
    opened = int(event["ts_ns"]), int(event["endpoint_id"])
    if len(openings) > 1 and openings[-2][0] // SECOND_NS == opened[0] // SECOND_NS:
        openings[-1] = opened
    else:
        openings.append(opened)


def latest_opening(openings: Iterable[tuple[int, int]], at_ns: int) -> tuple[int, int] | None:
    """The latest opening by then that is not too long ago."""
    near = [opened for opened in openings if -_SKEW_NS <= at_ns - opened[0] <= CLIENT_NS]
    return near[-1] if near else None


def ends_of_each(events: Events, index: NDArray[np.intp]) -> NDArray[np.intp]:
    """Of events of one owner in one second the first and the last: a busy host opens ten thousand connections a second."""
    if len(index) < 32:
        return index
    keys = np.zeros(len(index), [("second", "u8"), ("cgroup_id", "u8"), ("comm", "S16")])
    keys["second"] = events["ts_ns"][index] // SECOND_NS
    for name in ("cgroup_id", "comm"):
        keys[name] = events[name][index]
    _, first = np.unique(keys, return_index=True)
    _, last = np.unique(keys[::-1], return_index=True)
    return index[np.union1d(first, len(index) - 1 - last)]
