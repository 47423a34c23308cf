"""One connection in full: all that a trace knows of it, and what it does not. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.clock import ClockOffset
from tracer.collected.belonging import connection_of
from tracer.collected.collector import Collected
from tracer.collected.meanings import meaning
from tracer.events import EventBatch, Events, TcpState, valid
from tracer.filters.findings import connections_in
from tracer.findings import Finding
from tracer.lifecycle import CloseReason
from tracer.lines import connection_lines, finding_lines, transition_lines
from tracer.owners.owner import OwnerDetail
from tracer.roles import Role
from tracer.rows import Connections

_COUNTS = {
    "laddr": "its local address",
    "lport": "its local port",
    "bytes_received": "bytes received",
    "bytes_acked": "bytes acknowledged",
    "retransmits": "retransmits",
    "srtt_us": "round-trip time",
    "netns": "its network namespace",
}


@dataclass(frozen=True)
class Dossier:
    """One connection.

    Attributes:
        number: from 1, in the order in which connections were first seen.
        among: how many connections the trace has.
        rows: its row, shape (1,).
        detail: who opened it, beside pid and comm; None unknown.
        endpoint: label.
        role: of the endpoint.
        events: its transitions, in their order, shape (n_transitions,).
        early_ns: how much earlier each may have happened, shape (n_transitions,).
        resolution_ns: how exact times are otherwise.
        findings: those that it lies in (`filters.findings`).
        unknown: what is not known, in words.
    """

    number: int
    among: int
    rows: Connections
    detail: OwnerDetail | None
    endpoint: str
    role: Role
    events: Events
    early_ns: NDArray[np.uint64]
    resolution_ns: int
    findings: tuple[Finding, ...]
    unknown: tuple[str, ...]

    @property
    def ts_ns(self) -> NDArray[np.int64]:
        """Boottime of each transition, shape (n_transitions,)."""
        return self.events["ts_ns"].astype(np.int64)

    def meanings(self) -> list[str]:
        """Each transition in words."""
        columns = (self.events[name].tolist() for name in ("old_state", "new_state", "sk_err"))
        return [
            meaning(TcpState(old), TcpState(new), sk_err if known else None)
            for old, new, sk_err, known in zip(*columns, valid(self.events, "sk_err").tolist(), strict=True)
        ]


def dossier_of(collected: Collected, number: int) -> Dossier:
    """All of a connection.

    Args:
        collected: with its transitions.
        number: from 1 to the number of its connections.
    """
    index = number - 1
    rows = collected.rows[index : index + 1]
    own = np.flatnonzero(connection_of(collected) == index)
    endpoint_id = int(rows["endpoint_id"][0])
    detail, events = collected.details[index], collected.events[own]
    return Dossier(
        number,
        len(collected.rows),
        rows,
        detail,
        collected.endpoints.get(endpoint_id, f"endpoint {endpoint_id}"),
        collected.roles.get(endpoint_id, Role.UNKNOWN),
        events,
        collected.early_ns[own],
        collected.summary.resolution_ns,
        tuple(finding for finding in collected.findings if connections_in(rows, finding)[0]),
        tuple(_unknown(rows[0], detail, events, collected.truncated)),
    )


def _unknown(row: np.void, detail: OwnerDetail | None, events: Events, truncated: str | None) -> list[str]:
    """What is not known of a connection, the weightiest first."""
    said = []
    if row["preexisting"] == 1:
        said.append("when it was opened: it was open before the trace began")
    if row["preexisting"] == -1:
        said.append("whether it was open before the trace began: its opening may be among the events that were lost")
    if row["gap"]:
        said.append("transitions that are missing: its times in states are not whole")
    if not len(events):
        said.append("its transitions: none is in the trace, it was found open")
    said += _unknown_end(row, truncated)
    if row["pid"] < 0:
        said.append("who opened it")
    elif detail is None:
        said.append("its owner's container, unit and command line")
    missing = [words for name, words in _COUNTS.items() if _is_unknown(row, name)]
    return [*said, ", ".join(missing)] if missing else said


def _unknown_end(row: np.void, truncated: str | None) -> list[str]:
    reason = row["close_reason"]
    if reason == CloseReason.OPEN:
        return [f"how it ends: it was open when the trace ended{', which is cut off' if truncated else ''}"]
    if reason != CloseReason.UNKNOWN:
        return []
    if row["closed_ns"] < 0:
        return ["whether and how it ended: events were lost after its last one"]
    return ["who ended it: neither a FIN nor the socket's error tells"]


def _is_unknown(row: np.void, name: str) -> bool:
    return not row[name].any() if name == "laddr" else bool(row[name] < 0)


def dossier_line(dossier: Dossier, clock: ClockOffset | None) -> str:
    """The fields of the connection's line, and after them `number`, `role`, `transitions`, `findings` and `unknown`.

    A transition has the fields of its line, and `after_ns` (since the one before), `since_first_ns` and `meaning`.
    """
    endpoints = {int(dossier.rows["endpoint_id"][0]): dossier.endpoint}
    (line,) = connection_lines(dossier.rows, endpoints, clock, [dossier.detail])
    batch = EventBatch(dossier.events.copy(), "replay", dossier.resolution_ns, early_ns=dossier.early_ns)
    ts_ns = dossier.ts_ns
    after_ns = [None, *np.diff(ts_ns).tolist()][: len(ts_ns)]
    since_ns = (ts_ns - dossier.rows["first_seen_ns"][0]).tolist()
    made = zip(transition_lines(batch, endpoints, clock), after_ns, since_ns, dossier.meanings(), strict=True)
    more = {
        "number": dossier.number,
        "role": dossier.role.value,
        "transitions": [
            {**json.loads(text), "after_ns": after, "since_first_ns": since, "meaning": words or None}
            for text, after, since, words in made
        ],
        "findings": [json.loads(text) for text in finding_lines(dossier.findings, endpoints, clock)],
        "unknown": list(dossier.unknown),
    }
    return f"{line[:-1]}, {json.dumps(more)[1:]}"
