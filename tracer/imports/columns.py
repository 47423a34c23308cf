"""From lines to events: the columns of a block of transitions, in the order of the lines. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.events import EVENT_DTYPE, N_STATES, EventFlag, Events, TcpState, is_opening
from tracer.imports.readings import Transition
from tracer.segments import take

_AF_INET, _AF_INET6 = 2, 10
_MAPPED = np.frombuffer(bytes(10) + b"\xff\xff", np.uint8)
_FIELDS = Transition._fields


@dataclass(frozen=True)
class Columns:
    """Transitions side by side; every array has shape (n_transitions,).

    Attributes:
        events: without times and endpoints; the flags say what the lines tell.
        at_ns: int64, time since some beginning; -1 unknown.
        day_ns: int64, time of day; -1 unknown.
        span_ns: int64, time since the transition before of the same socket; -1 unknown.
        position: intp, each one's index among the transitions that the columns were made of; increasing.
    """

    events: Events
    at_ns: NDArray[np.int64]
    day_ns: NDArray[np.int64]
    span_ns: NDArray[np.int64]
    position: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.events)


def columns_of(transitions: Sequence[Transition]) -> Columns:
    """The columns of transitions, those left out that are none in this picture.

    TIME_WAIT never reaches it: what enters it is closed, and what leaves it is of no interest. Nor are the states of requests
    (NEW_SYN_RECV), and what changes nothing.
    """
    events = np.zeros(len(transitions), EVENT_DTYPE)
    given = dict(zip(_FIELDS, zip(*transitions, strict=True), strict=True)) if transitions else dict.fromkeys(_FIELDS, ())
    events["old_state"], events["new_state"] = given["old"], given["new"]
    events["new_state"][events["new_state"] == TcpState.TIME_WAIT] = TcpState.CLOSE
    events["skaddr"] = np.array(given["skaddr"], np.uint64)
    for field, name in (("saddr", "laddr"), ("daddr", "raddr")):
        events[field] = np.frombuffer(b"".join(given[name]), np.uint8).reshape(-1, 16)
    events["sport"], events["dport"], events["comm"] = given["lport"], given["rport"], given["comm"]
    events["family"] = np.where(_is_mapped(events["daddr"]), _AF_INET, _AF_INET6)
    flags = np.zeros(len(events), np.uint32)
    for field, name, flag in (
        ("pid", "pid", EventFlag.HAS_TASK),
        ("sk_err", "sk_err", EventFlag.HAS_SK_ERR),
        ("netns", "netns", EventFlag.HAS_NETNS),
        ("cgroup_id", "cgroup_id", EventFlag.HAS_CGROUP),
    ):
        values = np.array(given[name], np.int64)
        events[field] = np.maximum(values, 0)
        flags |= np.where(values >= 0, np.uint32(flag), np.uint32(0))
    flags |= np.where(is_opening(events) & (flags & EventFlag.HAS_TASK != 0), np.uint32(EventFlag.OWNER), np.uint32(0))
    flags |= np.where(events["sport"] > 0, np.uint32(EventFlag.HAS_SPORT), np.uint32(0))
    flags |= np.where(_is_known(events["saddr"]), np.uint32(EventFlag.HAS_SADDR), np.uint32(0))
    events["flags"] = flags
    at_ns = np.array([-1 if at_ns is None else max(at_ns, 0) for at_ns in given["at_ns"]], np.int64)
    day_ns, span_ns = (np.array(given[name], np.int64) for name in ("day_ns", "span_ns"))
    counts = np.flatnonzero(_counts(events))
    return Columns(take(events, counts), at_ns[counts], day_ns[counts], span_ns[counts], counts)


def _counts(events: Events) -> NDArray[np.bool_]:
    old, new = events["old_state"], events["new_state"]
    wanted = np.ones(N_STATES, bool)
    wanted[[TcpState.TIME_WAIT, TcpState.NEW_SYN_RECV]] = False
    return (old != new) & wanted[old] & wanted[new]


def _is_mapped(addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which addresses, shape (n, 16), are IPv4 in their v4-mapped form: shape (n,)."""
    return np.asarray((addresses[:, :12] == _MAPPED).all(axis=1))


def _is_known(addresses: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which addresses, shape (n, 16), are none of all zeros, of either family: shape (n,)."""
    return np.asarray(addresses[:, 12:].any(axis=1) | (addresses[:, :12].any(axis=1) & ~_is_mapped(addresses)))
