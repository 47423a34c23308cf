"""evidence: `stalled`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracer.cadence import Owner
from tracer.clients import family_of
from tracer.connections import Connections
from tracer.events import TcpState
from tracer.findings import Severity
from tracer.rules.outcomes import ERROR_MAX_BYTES, SHRUNK
from tracer.rules.rule import SECOND_NS, Answer, Over, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View, rows_suspects
from tracer.text import bytes_text

_UNPACKS = frozenset((b"ctr", b"nerdctl", b"podman", b"buildah"))
"""These unpack layers after the download, with idle connections kept: their silence alone says nothing."""
_REQUEST_MIN_BYTES = 50
_TRACKED_MAX = 10_000


@dataclass
class _Progress:
    """What was last seen to change on one connection."""

    received: int
    acked: int
    received_ns: int
    acked_ns: int


@dataclass(frozen=True)
class StalledThresholds(Thresholds):
    """Numbers of the rule `stalled`."""

    answer_s: float = threshold(
        8, 1, 3600, "nothing received at all for so long after a request (TLS handshakes time out at 10 s)"
    )
    silence_s: float = threshold(15, 2, 3600, "nothing received for so long although something is due")
    download_min_bytes: int = threshold(65_536, 1, 1 << 40, "so much received makes a connection a download")
    unread_max_bytes: int = threshold(4096, 0, 1 << 30, "more that is not yet read means that this side is slow")
    idle_margin_s: float = threshold(5, 0, 600, "beyond the time after which a client closes an idle connection itself")


class Stalled(Rule[StalledThresholds]):
    """A transfer hangs: the connection is up, something is due, and nothing comes.

    Finds: a connection on which a request was sent and nothing received since, or less than the same request was ever
        answered with; a download of a program that ends when it is
        done, or that is silent for longer than its client keeps idle connections; in both cases with nothing left to read.
    Matters: dockerd, podman, skopeo and BuildKit wait for ever; nobody is told.
    Needs: samples of open connections (bytes and idle time, once a second).
    Parameters: answer_s, silence_s, download_min_bytes, unread_max_bytes, idle_margin_s.
    Cannot tell apart: a server that hangs from a path that loses everything after the handshake (retransmits tell, where this
        side sends); a finished download whose connection is kept from one that stopped, before the client's own idle time.
    """

    id: ClassVar[str] = "stalled"
    Settings = StalledThresholds
    needs = ("bytes_received", "bytes_acked", "idle_ms")

    def __init__(self, settings: StalledThresholds) -> None:
        super().__init__(settings)
        self._progress: dict[tuple[int, int], _Progress] = {}
        self._told: dict[int, int] = {}
        self._looked_ns = -1

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        if view.now_ns - self._looked_ns < SECOND_NS and self._looked_ns >= 0:
            return
        self._looked_ns = view.now_ns
        rows = view.open
        rows = rows[(rows["last_state"] == TcpState.ESTABLISHED) & (rows["bytes_received"] >= 0) & (rows["bytes_acked"] >= 0)]
        rows = rows[:_TRACKED_MAX]
        self._follow(rows)
        silent = self._silent(view, rows)
        stalled = silent[[self._is_stalled(view, row, silent, rows) for row in silent]] if len(silent) else silent
        for endpoint_id in np.unique(stalled["endpoint_id"]).tolist():
            self._told[endpoint_id] = view.silent_ns[endpoint_id] = view.now_ns
            yield self._sighting(view, endpoint_id, stalled[stalled["endpoint_id"] == endpoint_id])
        yield from self._over(view, set(stalled["endpoint_id"].tolist()))

    def _follow(self, rows: Connections) -> None:
        """Note what changed since the last look."""
        progress: dict[tuple[int, int], _Progress] = {}
        for row in rows:
            key = (int(row["skaddr"]), int(row["first_seen_ns"]))
            received, acked, at_ns = int(row["bytes_received"]), int(row["bytes_acked"]), int(row["last_ns"])
            # the kernel itself says when something last came, to the millisecond
            came_ns = at_ns - int(row["idle_ms"]) * 1_000_000 if row["idle_ms"] >= 0 else at_ns
            known = self._progress.get(key)
            if known is None:
                known = _Progress(received, acked, came_ns, int(row["first_seen_ns"]))
            else:
                if received > known.received:
                    known.received, known.received_ns = received, came_ns
                if acked > known.acked:
                    known.acked, known.acked_ns = acked, at_ns
            progress[key] = known
        self._progress = progress

    def _silent(self, view: View, rows: Connections) -> Connections:
        """Those with a fresh sample that says that nothing came for long, and that all was read."""
        fresh = rows["last_ns"] >= view.now_ns - 3 * SECOND_NS
        idle_ms = rows["idle_ms"] + (view.now_ns - rows["last_ns"]) // 1_000_000
        silent = (rows["idle_ms"] >= 0) & (idle_ms >= min(self.settings.answer_s, self.settings.silence_s) * 1000)
        silent |= (rows["bytes_received"] == 0) & (view.now_ns - rows["first_seen_ns"] >= self.settings.answer_s * SECOND_NS)
        return rows[fresh & silent & (rows["unread_bytes"] <= self.settings.unread_max_bytes)]

    def _is_stalled(self, view: View, row: Connections, silent: Connections, rows: Connections) -> bool:
        known = self._progress[int(row["skaddr"]), int(row["first_seen_ns"])]
        since_ns = view.now_ns - int(self.settings.silence_s * SECOND_NS)
        if known.received == 0:
            return known.acked >= _REQUEST_MIN_BYTES
        owner = Owner(int(row["endpoint_id"]), int(row["cgroup_id"]), bytes(row["comm"]))
        if known.received <= ERROR_MAX_BYTES and known.received <= SHRUNK * view.outcomes.usual(owner, known.acked):
            return True  # the same request was always answered with more
        if view.now_ns - known.received_ns < self.settings.silence_s * SECOND_NS:
            return False
        if known.acked_ns > known.received_ns and known.acked_ns <= since_ns:
            return True  # something was sent after the last answer, and it is long ago
        if known.received < self.settings.download_min_bytes:
            return False
        family = family_of(bytes(row["comm"]))
        patient_ms = (family.idle_s + self.settings.idle_margin_s) * 1000
        if row["idle_ms"] > patient_ms:
            return True
        own = rows[rows["pid"] == row["pid"]]
        return bool(
            family.one_shot
            and bytes(row["comm"]) not in _UNPACKS
            and row["pid"] >= 0
            and len(own) == int((silent["pid"] == row["pid"]).sum())  # nothing else of this process moves either
        )

    def _sighting(self, view: View, endpoint_id: int, rows: Connections) -> Sighting:
        known = [self._progress[int(row["skaddr"]), int(row["first_seen_ns"])] for row in rows]
        started_ns = min(progress.received_ns for progress in known)
        waiting_s = (view.now_ns - started_ns) / SECOND_NS
        received = max(progress.received for progress in known)
        asked = Counter(
            "request" if progress.acked_ns > progress.received_ns or not progress.received else "body" for progress in known
        )
        return Sighting(
            key=endpoint_id,
            endpoint_id=endpoint_id,
            started_ns=started_ns,
            seen_ns=view.now_ns,
            hold_ns=5 * SECOND_NS,
            severity=Severity.CRITICAL,
            confidence=0.85 if asked["request"] else 0.75,
            summary=(
                f"{view.label(endpoint_id)} has sent nothing for {waiting_s:.0f} s on {len(rows)} "
                f"connection{'s' if len(rows) > 1 else ''} where something is due ({bytes_text(received)} received before)"
            ),
            advice="restart the pull: it will not time out by itself; look whether the registry's storage or its proxy hangs",
            evidence={
                "connections": len(rows),
                "silent_s": round(waiting_s, 1),
                "received_bytes": received,
                "waiting_for": dict(asked),
                "retransmits": int(rows["retransmits"].max()) if (rows["retransmits"] >= 0).any() else None,
                "local_ports": rows["lport"][:10].tolist(),
            },
            suspects=rows_suspects(rows, view.now_ns - started_ns),
        )

    def _over(self, view: View, stalled: set[int]) -> Iterable[Answer]:
        for endpoint_id, told_ns in list(self._told.items()):
            if endpoint_id in stalled:
                continue
            moving = [
                progress.received_ns
                for (_, _), progress, owner in self._moving(view)
                if owner == endpoint_id and progress.received_ns > told_ns - SECOND_NS
            ]
            if moving:
                del self._told[endpoint_id]
                yield Over(endpoint_id, max(moving), "bytes come again")
            elif view.now_ns - told_ns > 10 * SECOND_NS:
                del self._told[endpoint_id]

    def _moving(self, view: View) -> Iterable[tuple[tuple[int, int], _Progress, int]]:
        for row in view.open:
            key = (int(row["skaddr"]), int(row["first_seen_ns"]))
            if key in self._progress:
                yield key, self._progress[key], int(row["endpoint_id"])
