"""Summary: the state of a trace at a moment, in sums and distributions. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.cadence import Cadence, Owner
from tracer.events import KernelCounts
from tracer.findings import Finding
from tracer.lifetimes import Distribution


@dataclass(frozen=True)
class Loss:
    """Events lost in the boottime interval [since_ns, until_ns); None: nobody knows how many."""

    lost: int | None
    since_ns: int
    until_ns: int


@dataclass(frozen=True)
class EndpointSummary:
    """What was seen of one endpoint.

    Attributes:
        connections: seen at all, open ones included.
        opens: openings seen; the other connections were open before, or their opening was lost.
        closes: by close reason, those that occurred.
        peak_open: most connections open at a time.
        opens_per_s, closes_per_s: over the trace, from its first to its last event; the latter by side (churn.SIDES).
        mean_open: time average of the number open over the trace, from when each was first seen.
        turnover: connections closed / mean_open: how often the stock was replaced.
            These four are None while the trace has no length, turnover also where nothing was open.
        bytes_received, bytes_acked, retransmits: of all connections for which they are known; -1 if none.
        distributions: lifetime, connect and states, of connections that ended.
    """

    endpoint_id: int
    endpoint: str
    connections: int
    open: int
    opens: int
    closes: dict[str, int]
    peak_open: int
    opens_per_s: float | None
    closes_per_s: dict[str, float] | None
    mean_open: float | None
    turnover: float | None
    bytes_received: int
    bytes_acked: int
    retransmits: int
    distributions: dict[str, Distribution]


@dataclass(frozen=True)
class KernelSpan:
    """The kernel's own totals over a trace.

    Attributes:
        first, last: at the first and the last look; another source may go on from other ones.
    """

    first: KernelCounts
    last: KernelCounts
    most: KernelCounts

    def until(self, now: KernelCounts) -> KernelSpan:
        """The same with one more look."""
        return KernelSpan(self.first, now, KernelCounts(*map(max, self.most, now)))

    @property
    def grown(self) -> KernelCounts:
        """What the counters counted since the first look; -1 where that is unknown, and for what is no counter."""
        counted = dict.fromkeys(_COUNTERS, -1)
        for name in _COUNTERS:
            first, last = getattr(self.first, name), getattr(self.last, name)
            counted[name] = last - first if last >= first >= 0 else -1
        return KernelCounts(**counted)


_COUNTERS = ("active_opens", "attempt_fails", "segments_sent_again", "resets_sent")


@dataclass(frozen=True)
class Summary:
    """The state of a trace.

    `first_ns`, `last_ns`: boottime of the first and last event, -1 if there was none. `gaps`: connections with missing
    transitions; without loss, the kernel did not show them to the program. `findings`: those that are open; `episodes`: how
    many there were in all. `abstained`: rules that could not judge, and why. `opened`, `counted`: connections that a polling
    source saw open, and how many the kernel counted. `kernel`: its own totals; None: they were not looked at. `unresolved`:
    endpoints whose names have no address, so that nothing can be seen of them. `loss_known`: the source says what it lost;
    otherwise `lost` is the least that is missing.
    """

    source: str
    resolution_ns: int
    events: int
    lost: int
    gaps: int
    losses: tuple[Loss, ...]
    connections: int
    open: int
    inbound: int
    first_ns: int
    last_ns: int
    endpoints: tuple[EndpointSummary, ...]
    cadences: dict[Owner, Cadence]
    unknown_transitions: dict[tuple[str, str], int]
    findings: tuple[Finding, ...] = ()
    episodes: int = 0
    abstained: tuple[tuple[str, str], ...] = ()
    opened: int = 0
    counted: int = 0
    kernel: KernelSpan | None = None
    unresolved: tuple[str, ...] = ()
    loss_known: bool = True

    @property
    def lost_at_least(self) -> int | None:
        """Events that were lost, or the least that are missing; None: nobody knows of any, nor that there were none."""
        return self.lost if self.loss_known or self.lost else None

    @property
    def lost_text(self) -> str:
        """The same in words."""
        if self.loss_known:
            return f"{self.lost} lost"
        return f"at least {self.lost} lost" if self.lost else "loss unknown"

    @property
    def coverage(self) -> float | None:
        """Share of the connections that were seen: 1 where the source sees all and nothing is missing; None unknown."""
        if any(loss.lost is None for loss in self.losses):  # a time when nobody was looking
            return None
        if self.counted:
            return self.opened / self.counted
        return 1.0 if self.source == "ebpf" and self.loss_known and not self.lost and not self.gaps else None
