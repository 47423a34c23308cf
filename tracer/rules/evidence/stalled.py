"""evidence: `stalled`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tracer.cadence import Owner
from tracer.clients import UNKNOWN, family_of
from tracer.events import Events, TcpState
from tracer.findings import Severity
from tracer.lifecycle import CloseReason
from tracer.rows import Connections, by_endpoint
from tracer.rules.kept import KeptRows
from tracer.rules.outcomes import ERROR_MAX_BYTES, SHRUNK
from tracer.rules.rule import SECOND_NS, Answer, Over, Rule, Sighting
from tracer.rules.suspects import rows_suspects
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View
from tracer.text import bytes_text

_UNPACKS = frozenset((b"ctr", b"nerdctl", b"podman", b"buildah"))
"""These unpack layers after the download, with idle connections kept: their silence alone says nothing."""
_REQUEST_MIN_BYTES = 50
_ORDER_NS = 100_000_000
"""What was sent is known to a sample, what came to a jiffy: closer together their order is not known."""
_TRACKED_MAX = 10_000
_KEPT = 256
YOUNG_NS = 2 * SECOND_NS
"""Most connections do not live so long; those that do are followed."""


_PROGRESS_DTYPE = np.dtype(
    [
        ("key", "u8"),  # of the connection: socket address and time of birth
        ("received", "i8"),  # payload bytes so far
        ("acked", "i8"),
        ("received_ns", "i8"),  # boottime at which something last came, as the kernel says
        ("acked_ns", "i8"),  # of the sample in which more had been sent than in the one before
    ]
)
Progress = NDArray[np.void]
"""_PROGRESS_DTYPE, sorted by key."""


@dataclass(frozen=True)
class StalledThresholds(Thresholds):
    """Numbers of the rule `stalled`."""

    answer_s: float = threshold(15, 1, 3600, "no answer, or less than the usual one, for so long after a request")
    gave_up_s: float = threshold(8, 1, 3600, "the same where the client then gave up itself (TLS handshakes: after 10 s)")
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
    Parameters: answer_s, gave_up_s, silence_s, download_min_bytes, unread_max_bytes, idle_margin_s.
    Cannot tell apart: a server that hangs from a path that loses everything after the handshake (retransmits tell, where this
        side sends); a finished download whose connection is kept from one that stopped, before the client's own idle time.
    """

    id: ClassVar[str] = "stalled"
    Settings = StalledThresholds
    needs = ("bytes_received", "bytes_acked", "idle_ms")

    def __init__(self, settings: StalledThresholds) -> None:
        super().__init__(settings)
        self._progress: Progress = np.zeros(0, _PROGRESS_DTYPE)
        self._told: dict[int, int] = {}
        self._gave_up = KeptRows(_KEPT)

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        local = (ended["close_reason"] == CloseReason.LOCAL) | (ended["close_reason"] == CloseReason.LOCAL_RESET)
        waited = local & (ended["idle_ms"] >= self.settings.gave_up_s * 1000) & (ended["bytes_acked"] >= _REQUEST_MIN_BYTES)
        self._gave_up.add(ended[waited & (ended["bytes_received"] >= 0) & (ended["bytes_received"] <= ERROR_MAX_BYTES)])

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        if not view.scan:
            return
        yield from self._given_up(view)
        old_ns = view.now_ns - YOUNG_NS
        rows = view.open_where(
            lambda rows: (
                (rows["last_state"] == TcpState.ESTABLISHED)
                & (rows["bytes_received"] >= 0)
                & (rows["bytes_acked"] >= 0)
                & (rows["first_seen_ns"] <= old_ns)
            )
        )[:_TRACKED_MAX]
        progress = self._follow(rows)
        silent = self._silent(view, rows)
        stalled = silent[[self._is_stalled(view, rows, progress, index, silent) for index in silent.tolist()]]
        for endpoint_id in np.unique(rows["endpoint_id"][stalled]).tolist():
            self._told[endpoint_id] = view.silent_ns[endpoint_id] = view.now_ns
            own = stalled[rows["endpoint_id"][stalled] == endpoint_id]
            yield self._sighting(view, endpoint_id, rows[own], progress[own])
        yield from self._over(view, rows, progress, set(rows["endpoint_id"][stalled].tolist()))

    def _given_up(self, view: View) -> Iterable[Answer]:
        """Clients that closed because nothing, or less than usual, had come for long."""
        rows = self._gave_up.take()
        short = [
            received == 0 or received <= SHRUNK * view.outcomes.usual(Owner(endpoint_id, cgroup_id, comm), acked)
            for endpoint_id, cgroup_id, comm, received, acked in zip(
                rows["endpoint_id"].tolist(), rows["cgroup_id"].tolist(), rows["comm"].tolist(),
                rows["bytes_received"].tolist(), rows["bytes_acked"].tolist(), strict=True,
            )
        ]  # fmt: skip
        rows = rows[np.array(short, bool)]
        for endpoint_id, own in by_endpoint(rows):
            self._told[endpoint_id] = view.silent_ns[endpoint_id] = view.now_ns
            progress = np.zeros(len(own), _PROGRESS_DTYPE)
            progress["received"], progress["acked"] = own["bytes_received"], own["bytes_acked"]
            progress["received_ns"] = np.maximum(own["last_ns"] - own["idle_ms"] * 1_000_000, own["first_seen_ns"])
            progress["acked_ns"] = own["last_ns"]
            yield self._sighting(view, endpoint_id, own, progress)

    def _follow(self, rows: Connections) -> Progress:
        """What changed on each connection since the last look; one row for each, in their order."""
        progress = np.zeros(len(rows), _PROGRESS_DTYPE)
        with np.errstate(over="ignore"):
            progress["key"] = rows["skaddr"] ^ (rows["first_seen_ns"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        progress["received"], progress["acked"] = rows["bytes_received"], rows["bytes_acked"]
        # the kernel itself says when something last came, to the millisecond
        idle_ns = np.maximum(rows["idle_ms"], 0) * 1_000_000
        progress["received_ns"] = np.maximum(rows["last_ns"] - idle_ns, rows["first_seen_ns"])
        progress["acked_ns"] = rows["first_seen_ns"]
        before = self._progress
        if len(before):
            at = np.minimum(np.searchsorted(before["key"], progress["key"]), len(before) - 1)
            known = before["key"][at] == progress["key"]
            sent = progress["acked"] > before["acked"][at]
            # what was sent and answered between two samples is settled: when it was sent is not known, but before the answer
            answered = progress["received"] > before["received"][at]
            sent_ns = np.where(answered, progress["received_ns"], rows["last_ns"])
            progress["acked_ns"] = np.where(known, np.where(sent, sent_ns, before["acked_ns"][at]), progress["acked_ns"])
        self._progress = progress[np.argsort(progress["key"])]
        return progress

    def _silent(self, view: View, rows: Connections) -> NDArray[np.intp]:
        """Indexes of those with a fresh sample that says that nothing came for long, and that all was read."""
        fresh = rows["last_ns"] >= view.now_ns - 3 * SECOND_NS
        idle_ms = rows["idle_ms"] + (view.now_ns - rows["last_ns"]) // 1_000_000
        silent = (rows["idle_ms"] >= 0) & (idle_ms >= min(self.settings.answer_s, self.settings.silence_s) * 1000)
        silent |= (rows["bytes_received"] == 0) & (view.now_ns - rows["first_seen_ns"] >= self.settings.answer_s * SECOND_NS)
        return np.flatnonzero(fresh & silent & (rows["unread_bytes"] <= self.settings.unread_max_bytes))

    def _is_stalled(self, view: View, rows: Connections, progress: Progress, index: int, silent: NDArray[np.intp]) -> bool:
        row, known = rows[index], progress[index]
        since_ns = view.now_ns - int(self.settings.silence_s * SECOND_NS)
        received, acked, comm = int(known["received"]), int(known["acked"]), bytes(row["comm"])
        answer_ns = view.now_ns - int(self.settings.answer_s * SECOND_NS)
        if received == 0:  # an upload sends more and more
            return acked >= _REQUEST_MIN_BYTES and int(known["acked_ns"]) <= answer_ns
        owner = Owner(int(row["endpoint_id"]), int(row["cgroup_id"]), comm)
        if known["received_ns"] <= answer_ns and received <= SHRUNK * min(view.outcomes.usual(owner, acked), ERROR_MAX_BYTES):
            return True  # the same request was always answered with more
        if known["received_ns"] > since_ns:
            return False
        if known["acked_ns"] > known["received_ns"] + _ORDER_NS and known["acked_ns"] <= since_ns:
            return True  # something was sent after the last answer, and it is long ago
        if received < self.settings.download_min_bytes:
            return False
        family = family_of(comm)
        if not family.puller and not family.one_shot:
            return False  # a program of which nothing is known may keep a connection for as long as it likes
        if row["idle_ms"] > (family.idle_s + self.settings.idle_margin_s) * 1000:
            return True
        if not family.one_shot or not family.puller or comm in _UNPACKS or row["pid"] < 0:
            return False
        moving = int((rows["pid"] == row["pid"]).sum()) - int((rows["pid"][silent] == row["pid"]).sum())
        return moving == 0  # nothing else of this process moves either

    def _sighting(self, view: View, endpoint_id: int, rows: Connections, known: Progress) -> Sighting:
        started_ns = int(known["received_ns"].min())
        waiting_s = (view.now_ns - started_ns) / SECOND_NS
        received = int(known["received"].max())
        asked = (known["acked_ns"] > known["received_ns"] + _ORDER_NS) | (known["received"] == 0)
        known_client = any(family_of(comm) is not UNKNOWN for comm in rows["comm"].tolist())  # others may poll for long
        waiting_for = {"request": int(asked.sum()), "body": int(len(known) - asked.sum())}
        return Sighting(
            key=endpoint_id,
            endpoint_id=endpoint_id,
            started_ns=started_ns,
            seen_ns=view.now_ns,
            hold_ns=30 * SECOND_NS,
            severity=Severity.CRITICAL if known_client else Severity.WARNING,
            confidence=(0.85 if asked.any() else 0.75) if known_client else 0.6,
            summary=(
                f"{view.label(endpoint_id)} has sent nothing for {waiting_s:.0f} s on {len(rows)} "
                f"connection{'s' if len(rows) > 1 else ''} where something is due ({bytes_text(received)} received before)"
            ),
            advice="restart the pull (or push): it will not time out by itself; does the registry's storage or its proxy hang?",
            evidence={
                "connections": len(rows),
                "silent_s": round(waiting_s, 1),
                "received_bytes": received,
                "waiting_for": waiting_for,
                "retransmits": int(rows["retransmits"].max()) if (rows["retransmits"] >= 0).any() else None,
                "local_ports": rows["lport"][:10].tolist(),
            },
            suspects=rows_suspects(rows),
        )

    def _over(self, view: View, rows: Connections, progress: Progress, stalled: set[int]) -> Iterable[Answer]:
        for endpoint_id, told_ns in list(self._told.items()):
            if endpoint_id in stalled:
                continue
            came_ns = progress["received_ns"][rows["endpoint_id"] == endpoint_id].max(initial=-1)
            if came_ns > told_ns - SECOND_NS:
                del self._told[endpoint_id]
                yield Over(endpoint_id, int(came_ns), "bytes come again")
            elif view.now_ns - told_ns > 10 * SECOND_NS:
                del self._told[endpoint_id]
