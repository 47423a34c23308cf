"""Who did it: owners ranked by the connections they opened, or that a finding is about. Pure."""

from __future__ import annotations

from collections import Counter

from tracer.findings import Suspect
from tracer.rows import Connections
from tracer.visits import Client

SUSPECTS_MAX = 5
WINDOW_NS = 60_000_000_000
"""Rates are of the last minute, or of the time since the owner's first opening in it if that is shorter."""
_MIN_RATE_NS = 5_000_000_000
"""Rates over less than this would be an exaggeration."""
_RANKED_MAX = 64


class Ranking:
    """Everybody who opened connections to one endpoint lately, at one moment."""

    def __init__(self, clients: list[Client], now_ns: int, since_ns: int) -> None:
        self._now_ns = now_ns
        self._since_ns = max(now_ns - WINDOW_NS, since_ns)
        counts = [(client.opens_since(self._since_ns), client) for client in clients if client.last_ns >= self._since_ns]
        self.total = sum(count for count, _ in counts)
        ranked = sorted(counts, key=lambda entry: (-entry[0], entry[1].owner))[:_RANKED_MAX]
        self.ranked = [(count, client) for count, client in ranked if count]

    def suspects(self) -> tuple[Suspect, ...]:
        """Most openings first."""
        return tuple(self._suspect(client, count) for count, client in self.ranked[:SUSPECTS_MAX])

    def suspect(self, client: Client) -> tuple[Suspect, ...]:
        """One client alone, with its share."""
        return (self._suspect(client, client.opens_since(self._since_ns)),)

    def _suspect(self, client: Client, count: int) -> Suspect:
        owner = client.owner
        if not count:  # slower than once a minute: all that was seen of it
            span_ns, opens = self._now_ns - client.first_ns, client.opens
            rate = opens * 60e9 / span_ns if span_ns >= _MIN_RATE_NS else None
            return Suspect(client.pid, owner.comm, owner.cgroup_id, rate, 1.0 if not self.total else 0.0)
        span_ns = self._now_ns - client.first_since(self._since_ns)
        rate = count * 60e9 / span_ns if span_ns >= _MIN_RATE_NS else None
        return Suspect(client.pid, owner.comm, owner.cgroup_id, rate, count / self.total)


def rows_suspects(rows: Connections) -> tuple[Suspect, ...]:
    """The owners of the connections that a finding is about, most first, by their share of these; without a rate."""
    counts: Counter[tuple[int, bytes]] = Counter()
    pids: dict[tuple[int, bytes], int] = {}
    for cgroup_id, comm, pid in zip(rows["cgroup_id"].tolist(), rows["comm"].tolist(), rows["pid"].tolist(), strict=True):
        who = (cgroup_id, comm if pid >= 0 else b"")
        counts[who] += 1
        pids[who] = pid
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:SUSPECTS_MAX]
    return tuple(Suspect(pids[who], who[1], who[0], None, count / len(rows)) for who, count in ranked)
