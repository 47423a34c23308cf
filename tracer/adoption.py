"""Adoption: connections that were open before a source began, told by their ends until their sockets' addresses are known. Pure.

A snapshot of open sockets has no kernel addresses, and a source that takes over from another has other ones. What both know
are a connection's two ends and its network namespace, which belong to one socket at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tracer.events import Events, TcpState, is_opening, is_sample, valid
from tracer.rows import Connections

Numbers = NDArray[np.int32] | NDArray[np.uint16]
_ENDS_DTYPE = np.dtype([("netns", "u8"), ("laddr", "u1", (16,)), ("raddr", "u1", (16,)), ("lport", "u2"), ("rport", "u2")])


def ends_of_rows(rows: Connections) -> list[bytes]:
    """The ends of connections; empty where they are not all known."""
    return _ends(rows["netns"], rows["laddr"], rows["raddr"], rows["lport"], rows["rport"])


def ends_of_events(events: Events) -> list[bytes]:
    """The ends of the sockets of events; empty where they are not all known."""
    netns = np.where(valid(events, "netns"), events["netns"].astype(np.int64), -1)
    ports = np.where(valid(events, "sport"), events["sport"].astype(np.int32), -1)
    return _ends(netns, events["saddr"], events["daddr"], ports, events["dport"])


def _ends(
    netns: NDArray[np.int64], laddr: NDArray[np.uint8], raddr: NDArray[np.uint8], lport: Numbers, rport: Numbers
) -> list[bytes]:
    found = np.zeros(len(netns), _ENDS_DTYPE)
    found["netns"], found["laddr"], found["raddr"] = np.maximum(netns, 0), laddr, raddr
    found["lport"], found["rport"] = np.maximum(lport, 0), np.maximum(rport, 0)
    complete = (lport > 0) & (rport > 0) & (netns > 0) & laddr.any(axis=1)
    return [ends.tobytes() if known else b"" for ends, known in zip(found, complete.tolist(), strict=True)]


def with_found(found: Events, events: Events) -> Events:
    """The first events of a source, and the sockets that were found open when it began, at their places among them.

    One that goes on among the events stands before them. One that is established or opened among them is known by that; where
    an attempt is under way to the same remote side, one in SYN_SENT may be it: an opening does not show its own port yet.
    """
    opened = {remote_of(event) for event in events[is_opening(events)]}
    first: dict[bytes, int] = {}
    for ends, old_state in zip(ends_of_events(events), events["old_state"].tolist(), strict=True):
        first.setdefault(ends, old_state)
    before, after = [], []
    for index, ends in enumerate(ends_of_events(found)):
        state = first.get(ends)
        if found["new_state"][index] == TcpState.SYN_SENT and remote_of(found[index]) in opened:
            continue
        if state is None:
            after.append(index)
        elif state not in (TcpState.CLOSE, TcpState.SYN_SENT):
            before.append(index)
    early, late = found[before].copy(), found[after].copy()
    if len(events):
        early["ts_ns"] = np.minimum(early["ts_ns"], events["ts_ns"].min())
        late["ts_ns"] = np.maximum(late["ts_ns"], events["ts_ns"].max())
    return np.asarray(np.concatenate([early, events, late]), events.dtype)


def remote_of(event: np.void) -> bytes:
    """Address and port of the remote side."""
    return bytes(event["daddr"].tobytes()) + int(event["dport"]).to_bytes(2, "big")


class Adopted:
    """Open connections by their ends: key of the tracker's row by ends."""

    def __init__(self) -> None:
        self._keys: dict[bytes, int] = {}
        self._ports: NDArray[np.uint16] = np.zeros(0, np.uint16)

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, ends: Sequence[bytes], keys: Sequence[int]) -> None:
        """Rows that may go on under another key."""
        self._keys.update((each, key) for each, key in zip(ends, keys, strict=True) if each)
        ports = [np.frombuffer(each, _ENDS_DTYPE)["lport"][0] for each in self._keys]
        self._ports = np.unique(np.array(ports, np.uint16))

    def add_events(self, events: Events, keys: NDArray[np.uint64]) -> None:
        """The same of sockets that were found open."""
        self.add(ends_of_events(events), keys.tolist())

    def new(self, events: Events, keys: NDArray[np.uint64], slots: dict[int, int], rows: Connections) -> NDArray[np.intp]:
        """Which of the sockets that were found open are no rows yet, or go on as one under their own key; index, in order."""
        index = list(slots.values())
        known = dict(zip(ends_of_rows(rows[index]), slots, strict=True))
        own = zip(ends_of_events(events), keys.tolist(), strict=True)
        return np.array([at for at, (ends, key) in enumerate(own) if not ends or known.get(ends, key) == key], np.intp)

    def found(self, events: Events, keys: NDArray[np.uint64], slots: dict[int, int]) -> Iterator[tuple[int, int, int]]:
        """(key so far, key from now on, socket address) of rows whose sockets are seen in these events, each once."""
        likely = ~is_opening(events) & ~is_sample(events) & valid(events, "sport") & np.isin(events["sport"], self._ports)
        for at in np.flatnonzero(likely).tolist():
            key = int(keys[at])
            (ends,) = ends_of_events(events[at : at + 1])
            known = self._keys.get(ends)
            if known is None or key in slots or known == key:
                continue
            del self._keys[ends]
            yield known, key, int(events["skaddr"][at])
