"""evidence: `reset`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracer.events import Events, TcpState
from tracer.findings import Severity
from tracer.lifecycle import CloseReason
from tracer.rows import Connections, by_endpoint
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.suspects import rows_suspects
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.ticks import TICK_NS
from tracer.rules.view import View
from tracer.segments import joined
from tracer.text import bytes_text

_ROWS_KEPT = 64


@dataclass(frozen=True)
class ResetThresholds(Thresholds):
    """Numbers of the rule `reset`."""

    download_min_bytes: int = threshold(65_536, 1, 1 << 40, "a connection that received so much is a download")
    downloads_min: int = threshold(2, 1, 1000, "so many downloads reset within window_s")
    share_min: float = threshold(0.3, 0.0, 1.0, "least share of resets among all downloads (or all connections) that ended")
    idle_max_s: float = threshold(30, 0.1, 3600, "longer idle connections that are reset had been forgotten by a NAT: no fault")
    count_min: int = threshold(3, 1, 1000, "so many resets of any connections within window_s")
    window_s: float = threshold(60, 1, 3600, "over which they are counted")
    hold_s: float = threshold(60, 1, 3600, "over when nothing more was seen for so long")


class _Recent:
    """What ended at one endpoint lately."""

    def __init__(self) -> None:
        self._rows: list[Connections] = []  # reset ones
        self.ended: dict[int, list[int]] = {}  # how many, and how many downloads, by second

    def count(self, second: int, ended: int, downloads: int) -> None:
        own = self.ended.setdefault(second, [0, 0])
        own[0] += ended
        own[1] += downloads

    def keep(self, rows: Connections) -> None:
        self._rows.append(rows)

    def since(self, since_ns: int) -> Connections:
        """The latest resets since then; what is older is forgotten."""
        self.ended = {second: own for second, own in self.ended.items() if second >= since_ns // SECOND_NS} or self.ended
        rows = joined(self._rows)
        rows = rows[rows["last_ns"] > since_ns][-_ROWS_KEPT:]
        self._rows = [rows]
        return rows


class Reset(Rule[ResetThresholds]):
    """Established connections are reset by the other side while they are in use.

    Finds: downloads that are reset, or several connections that are, if they are a good part of all. A single reset at the end
        of an exchange is normal: a server that closes while the client's TLS alert is under way resets.
    Matters: the registry, a proxy or a firewall between drops transfers; clients begin again from the start of the layer.
    Needs: sk_err of connections that end; payload bytes, to tell a download.
    Parameters: download_min_bytes, downloads_min, share_min, idle_max_s, count_min, window_s, hold_s.
    Cannot tell apart: who sent the reset (the registry, or anything on the way to it).
    """

    id: ClassVar[str] = "reset"
    Settings = ResetThresholds
    needs = ("sk_err",)

    def __init__(self, settings: ResetThresholds) -> None:
        super().__init__(settings)
        self._recent: dict[int, _Recent] = {}
        self._fresh: set[int] = set()

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        if not len(ended):
            return
        used = (ended["established_ns"] >= 0) | (ended["state_ns"][:, TcpState.ESTABLISHED] >= 0)
        downloads = used & (ended["bytes_received"] >= self.settings.download_min_bytes)
        reset = used & (ended["close_reason"] == CloseReason.RESET) & (ended["idle_ms"] <= self.settings.idle_max_s * 1000)
        numbers, which = np.unique(ended["endpoint_id"], return_inverse=True)
        columns = zip(
            numbers.tolist(),
            np.bincount(which, used, len(numbers)).astype(int).tolist(),
            np.bincount(which, downloads, len(numbers)).astype(int).tolist(),
            strict=True,
        )
        second = view.cell * TICK_NS // SECOND_NS
        for endpoint_id, count, large in columns:
            recent = self._recent.get(endpoint_id)
            if recent is None:
                recent = self._recent[endpoint_id] = _Recent()
            recent.count(second, count, large)
        for endpoint_id, own in by_endpoint(ended[reset]):
            self._recent[endpoint_id].keep(own)
            self._fresh.add(endpoint_id)

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        since_ns = view.now_ns - int(self.settings.window_s * SECOND_NS)
        if view.scan:
            old = since_ns // SECOND_NS
            self._recent = {key: recent for key, recent in self._recent.items() if max(recent.ended) >= old}
        fresh, self._fresh = sorted(self._fresh & self._recent.keys()), set()
        for endpoint_id in fresh:
            recent = self._recent[endpoint_id]
            rows = recent.since(since_ns)
            downloads = rows["bytes_received"] >= self.settings.download_min_bytes
            cut = int(downloads.sum())
            all_ended = sum(count for count, _ in recent.ended.values())
            all_downloads = sum(count for _, count in recent.ended.values())
            many_cut = cut >= self.settings.downloads_min and cut >= self.settings.share_min * all_downloads
            many = len(rows) >= self.settings.count_min and len(rows) >= self.settings.share_min * all_ended
            if not many_cut and not many:
                continue
            yield Sighting(
                key=endpoint_id,
                endpoint_id=endpoint_id,
                started_ns=int(rows["last_ns"].min()),
                seen_ns=int(rows["last_ns"].max()),
                hold_ns=int(self.settings.hold_s * SECOND_NS),
                severity=Severity.WARNING,
                confidence=0.9,
                summary=(
                    f"{view.label(endpoint_id)} resets connections in use: {len(rows)}, {cut} of them downloads "
                    f"(up to {bytes_text(int(rows['bytes_received'].max()))} received)"
                ),
                advice="look at the registry's and its proxies' logs at that time; a firewall or load balancer may do it as well",
                evidence={
                    "resets": len(rows),
                    "downloads": cut,
                    "ended": all_ended,
                    "received_max_bytes": int(rows["bytes_received"].max()) if (rows["bytes_received"] >= 0).any() else None,
                },
                suspects=rows_suspects(rows),
            )
