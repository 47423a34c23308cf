"""textbook: `textbook/rate-limit`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tracer.events import Events, TcpState, is_transition
from tracer.findings import Severity
from tracer.rows import Connections
from tracer.rules.rule import SECOND_NS, Answer, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View, forget_oldest
from tracer.text import address_text

Address = tuple[int, bytes]
_ADDRESSES_MAX = 1 << 17


@dataclass(frozen=True)
class TextbookRateLimitThresholds(Thresholds):
    """Numbers of the rule `textbook/rate-limit`."""

    close_wait_max: int = threshold(3, 1, 1000, "more CLOSE_WAIT than this are a rate limit (published: 3)")
    window_s: float = threshold(60, 1, 3600, "within so long, per address (published: 60)")


class TextbookRateLimit(Rule[TextbookRateLimitThresholds]):
    """More than 3 CLOSE_WAIT per registry address within 60 seconds.

    Finds: an address towards which more than close_wait_max connections entered CLOSE_WAIT within window_s.
    Matters: published as the sign of a rate limit. dockerd before 29.4 makes nine in every healthy pull.
    Needs: transitions.
    Parameters: close_wait_max, window_s.
    Cannot tell apart: any server that closes first: after `Connection: close`, after its idle time-out, when it is drained.
    """

    id: ClassVar[str] = "textbook/rate-limit"
    Settings = TextbookRateLimitThresholds

    def __init__(self, settings: TextbookRateLimitThresholds) -> None:
        super().__init__(settings)
        self._latest: dict[Address, NDArray[np.int64]] = {}  # the last close_wait_max times
        self._found: dict[Address, tuple[int, int]] = {}  # first and last time of the latest window that was full

    def observe(self, events: Events, ended: Connections, view: View) -> None:
        """See `Rule`."""
        index = np.flatnonzero((events["new_state"] == TcpState.CLOSE_WAIT) & is_transition(events))
        if not len(index):
            return
        kept = self.settings.close_wait_max
        window_ns = int(self.settings.window_s * SECOND_NS)
        remote = np.ascontiguousarray(events["daddr"][index]).view("V16").reshape(-1)
        for address in sorted(set(zip(events["endpoint_id"][index].tolist(), remote.tolist(), strict=True))):
            own = index[(events["endpoint_id"][index] == address[0]) & (remote == np.void(address[1]))]
            before = self._latest.get(address, np.zeros(0, np.int64))
            # a time that steps back is taken for the latest one: CPUs differ by microseconds
            times_ns = np.maximum.accumulate(np.concatenate([before, events["ts_ns"][own].astype(np.int64)]))
            full = np.flatnonzero(times_ns[kept:] - times_ns[:-kept] < window_ns)
            if len(full):
                first_ns = int(times_ns[full[0]])
                self._found[address] = (min(first_ns, self._found.get(address, (first_ns, 0))[0]), int(times_ns[full[-1] + kept]))
            self._latest[address] = times_ns[-kept:]

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        if len(self._latest) > _ADDRESSES_MAX:
            latest_ns = {address: int(times_ns[-1]) for address, times_ns in self._latest.items()}
            forget_oldest(latest_ns, _ADDRESSES_MAX)
            self._latest = {address: self._latest[address] for address in latest_ns}
        found, self._found = self._found, {}
        for (endpoint_id, address), (first_ns, last_ns) in sorted(found.items()):
            text = address_text(address) or "?"
            yield Sighting(
                key=(endpoint_id, address),
                endpoint_id=endpoint_id,
                started_ns=first_ns,
                seen_ns=last_ns,
                hold_ns=int(self.settings.window_s * SECOND_NS),
                severity=Severity.WARNING,
                confidence=0.5,
                summary=(
                    f"more than {self.settings.close_wait_max} CLOSE_WAIT towards {text} of {view.label(endpoint_id)} within "
                    f"{self.settings.window_s:g} s"
                ),
                advice="by the book: rotate credentials, use a mirror, try again later",
                evidence={"address": text, "window_s": self.settings.window_s},
                suspects=view.suspects(endpoint_id),
            )
