"""Remote sides of endpoints that are more than one: networks, and addresses with any port. Pure.

A finding at `10.0.0.0/8:443` says that something is wrong; where in it, only the addresses that were connected to can say.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from tracer.endpoints import is_wide
from tracer.events import Events, is_opening
from tracer.text import address_text

SHOWN = 3
_WINDOW_NS = 60_000_000_000
_WINDOWS_KEPT = 2
_REMOTES_MAX = 4096
"""Of one endpoint in one window; a scan of a network must not fill the memory."""
_KEY_DTYPE = np.dtype([("endpoint_id", "u4"), ("window", "u8"), ("daddr", "V16"), ("dport", "u2")])


def where_text(evidence: dict[str, Any]) -> str:
    """Where in its endpoint a finding is, by its evidence; "" where the endpoint is but one address and port."""
    return "; ".join(f"{each['address']} port {each['port']} {each['share']:.0%}" for each in evidence.get("remotes", ()))


class Remotes:
    """Openings by remote side, of wide endpoints, in the last windows in which there were any."""

    def __init__(self) -> None:
        self._wide: set[int] = set()
        self._counts: dict[int, dict[int, Counter[tuple[bytes, int]]]] = {}  # by endpoint id and number of the window

    def learn(self, endpoints: dict[int, str]) -> None:
        """Labels that became known, by endpoint id."""
        self._wide.update(number for number, label in endpoints.items() if is_wide(label))

    def add(self, events: Events) -> None:
        """Count the openings among these events."""
        if not self._wide:
            return
        own = events[is_opening(events) & np.isin(events["endpoint_id"], list(self._wide))]
        keys = np.zeros(len(own), _KEY_DTYPE)
        keys["endpoint_id"], keys["dport"] = own["endpoint_id"], own["dport"]
        keys["window"] = own["ts_ns"] // _WINDOW_NS
        keys["daddr"] = np.ascontiguousarray(own["daddr"]).view("V16").reshape(-1)
        distinct, first, counts = np.unique(keys, return_index=True, return_counts=True)
        for at in np.argsort(first).tolist():  # which are left out when there are too many must not depend on how events were cut
            endpoint_id, window, address, port = distinct[at].tolist()
            self._count(endpoint_id, window, (address, port), int(counts[at]))

    def _count(self, endpoint_id: int, window: int, remote: tuple[bytes, int], count: int) -> None:
        windows = self._counts.setdefault(endpoint_id, {})
        counts = windows.setdefault(window, Counter())
        if remote in counts or len(counts) < _REMOTES_MAX:
            counts[remote] += count
        while len(windows) > _WINDOWS_KEPT:
            del windows[min(windows)]

    def most(self, endpoint_id: int) -> list[dict[str, Any]]:
        """The remote sides that were connected to most: address, port and share; empty where the endpoint is but one."""
        counts = sum(self._counts.get(endpoint_id, {}).values(), Counter[tuple[bytes, int]]())
        total = counts.total()
        ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:SHOWN]
        return [
            {"address": address_text(address), "port": port, "share": round(count / total, 3)}
            for (address, port), count in ranked
        ]
