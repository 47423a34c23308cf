"""evidence: `slow-consumer`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tracer.events import Events, TcpState
from tracer.findings import Severity
from tracer.rows import Connections
from tracer.rules.kept import KeptRows
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.suspects import rows_suspects
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View
from tracer.segments import joined
from tracer.text import bytes_text

_KEPT = 256


@dataclass(frozen=True)
class SlowConsumerThresholds(Thresholds):
    """Numbers of the rule `slow-consumer`."""

    unread_min_bytes: int = threshold(1024, 65, 1 << 40, "not yet read when the other side had closed; TLS alone leaves up to 64")
    wait_s: float = threshold(5, 0.5, 3600, "in CLOSE_WAIT for so long with it")
    full_s: float = threshold(10, 1, 3600, "or nothing could be sent to it for so long because it does not read")
    full_min_bytes: int = threshold(4096, 1024, 1 << 40, "not yet read then")
    hold_s: float = threshold(10, 1, 3600, "over when nothing more was seen for so long")


class SlowConsumer(Rule[SlowConsumerThresholds]):
    """The registry has sent, and this side does not read it.

    Finds: connections in CLOSE_WAIT for wait_s that had unread bytes when the other side closed; established ones on which
        nothing came for full_s while much was waiting to be read.
    Matters: it is no fault of the registry: a slow disk, an unpacker that is behind, or a program that forgot the connection.
    Needs: unread bytes at the FIN, or in samples.
    Parameters: unread_min_bytes, wait_s, full_s, full_min_bytes, hold_s.
    Cannot tell apart: a consumer that is slow from one that leaked the connection, until it goes on for minutes.
    """

    id: ClassVar[str] = "slow-consumer"
    Settings = SlowConsumerThresholds
    needs = ("unread_bytes",)

    def __init__(self, settings: SlowConsumerThresholds) -> None:
        super().__init__(settings)
        self._ended = KeptRows(_KEPT)

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        waited = ended["state_ns"][:, TcpState.CLOSE_WAIT] >= self.settings.wait_s * SECOND_NS
        rows = ended[waited & (ended["unread_bytes"] >= self.settings.unread_min_bytes)]
        self._ended.add(rows)

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        if not view.scan:
            return
        found = joined([self._ended.take(), self._waiting(view), self._full(view)])
        for endpoint_id in np.unique(found["endpoint_id"]).tolist():
            own = found[found["endpoint_id"] == endpoint_id]
            started_ns = int(_since_ns(own).min())
            still = bool((own["closed_ns"] < 0).any())
            seen_ns = view.now_ns if still else int(own["closed_ns"].max())
            unread = int(own["unread_bytes"].max())
            count = f"{len(own)} connection{'s' if len(own) > 1 else ''}"
            yield Sighting(
                key=endpoint_id,
                endpoint_id=endpoint_id,
                started_ns=started_ns,
                seen_ns=seen_ns,
                hold_ns=int(self.settings.hold_s * SECOND_NS),
                severity=Severity.NOTICE,
                confidence=0.9,
                summary=(
                    f"this side is slow, not {view.label(endpoint_id)}: {count} with up to {bytes_text(unread)} not read "
                    f"for {(seen_ns - started_ns) / SECOND_NS:.0f} s"
                ),
                advice="look at the disk and at what unpacks the layers; if it goes on for minutes, the program has leaked them",
                evidence={
                    "connections": len(own),
                    "unread_max_bytes": unread,
                    "waiting_s": round((seen_ns - started_ns) / SECOND_NS, 1),
                },
                suspects=rows_suspects(own),
            )

    def _waiting(self, view: View) -> Connections:
        """Closed by the other side, with something left to read."""
        rows = view.open_where(lambda rows: (rows["last_state"] == TcpState.CLOSE_WAIT) & (rows["established_ns"] >= 0))
        waiting = rows["state_ns"][:, TcpState.ESTABLISHED] >= 0
        waiting &= view.now_ns - _since_ns(rows) >= self.settings.wait_s * SECOND_NS
        waiting &= rows["unread_bytes"] >= self.settings.unread_min_bytes
        return rows[waiting][:_KEPT]

    def _full(self, view: View) -> Connections:
        """Established, much to read, and for long nothing could be sent, as a fresh sample says."""
        fresh_ns, full_ms = view.now_ns - 3 * SECOND_NS, self.settings.full_s * 1000
        return view.open_where(
            lambda rows: (
                (rows["last_state"] == TcpState.ESTABLISHED)
                & (rows["last_ns"] >= fresh_ns)
                & (rows["unread_bytes"] >= self.settings.full_min_bytes)
                & (rows["idle_ms"] >= full_ms)
            )
        )[:_KEPT]


def _since_ns(rows: Connections) -> NDArray[np.int64]:
    """Since when each waits: since it left ESTABLISHED, or since something last came."""
    left_ns = rows["established_ns"] + rows["state_ns"][:, TcpState.ESTABLISHED]
    over = rows["closed_ns"] >= 0
    left_ns = np.where(over, rows["closed_ns"] - np.maximum(rows["state_ns"][:, TcpState.CLOSE_WAIT], 0), left_ns)
    return np.where(
        rows["last_state"] == TcpState.ESTABLISHED,
        np.maximum(rows["last_ns"] - rows["idle_ms"] * 1_000_000, rows["first_seen_ns"]),
        left_ns,
    )
