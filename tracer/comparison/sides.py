"""A side: one of the two traces, with the visits its connections belong to and the names of their owners. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.clients import FAMILIES
from tracer.collected.collector import Collected
from tracer.owners.owner import OwnerDetail
from tracer.roles import Role
from tracer.rows import Connections
from tracer.text import comm_text
from tracer.visits import VISIT_GAP_NS

BLOCK_NS = 5_000_000_000
"""A client that never pauses is cut into visits of this length: longer than most pulls, short enough that a minute has several.
What neighbours tell of each other is reckoned with besides (`significance.serial_effect`)."""
_ONE_SHOT = np.array(sorted(name for name, family in FAMILIES.items() if family.one_shot), "S16")
_ID_DIGITS = 32
"""A place that is as many hexadecimal digits is a container's id, which no other trace has."""


@dataclass(frozen=True)
class Side:
    """One trace, ready to be compared.

    Attributes:
        collected: the trace.
        begun_ns: int64, shape (n_connections,): when each was opened, or else first seen.
        block: int64, shape (n_connections,): the visit each belongs to, numbered in the order of time.
        owner: int64, shape (n_connections,): index into `owners`; -1 unknown.
        owners: process names, with the unit, container name or runtime where they run.
        labels: endpoint labels that occur or were to be watched, each once, in the order of ids.
        endpoint: int64, shape (n_connections,): index into `labels`.
    """

    collected: Collected
    begun_ns: NDArray[np.int64]
    block: NDArray[np.int64]
    owner: NDArray[np.int64]
    owners: tuple[str, ...]
    labels: tuple[str, ...]
    endpoint: NDArray[np.int64]

    @property
    def rows(self) -> Connections:
        """Its connections."""
        return self.collected.rows

    @property
    def span_ns(self) -> int:
        """From its first to its last event; 0 without events."""
        return self.collected.summary.last_ns - self.collected.summary.first_ns

    def role(self, label: str) -> Role:
        """What an endpoint is for."""
        numbers = (number for number, known in self.collected.endpoints.items() if known == label)
        return next((role for number in numbers if (role := self.collected.roles.get(number))), Role.UNKNOWN)


def side_of(collected: Collected) -> Side:
    """A trace, ready to be compared."""
    rows = collected.rows
    begun_ns = np.where(rows["opened_ns"] >= 0, rows["opened_ns"], rows["first_seen_ns"])
    owner, owners = _owners(rows, collected.details)
    endpoint, labels = _endpoints(collected)
    return Side(collected, begun_ns, _blocks(rows, begun_ns), owner, owners, labels, endpoint)


def _endpoints(collected: Collected) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Each connection's place among the labels, and these; several numbers may have one label."""
    numbers, inverse = np.unique(collected.rows["endpoint_id"], return_inverse=True)
    label_of = collected.endpoints | {
        number: f"endpoint {number}" for number in numbers.tolist() if number not in collected.endpoints
    }
    labels = tuple(dict.fromkeys(label_of[number] for number in sorted(label_of)))
    place = {label: index for index, label in enumerate(labels)}
    return np.array([place[label_of[number]] for number in numbers.tolist()], np.int64)[inverse], labels


def _blocks(rows: Connections, begun_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The visit of each connection: what one client opened without a pause of VISIT_GAP_NS, and within BLOCK_NS.

    Where each run of a program is one piece of work, a client is a process; else a process name in a cgroup; and where nobody
    knows whose a connection is, whoever else opens unknown ones to the same endpoint.
    """
    if not len(rows):
        return np.zeros(0, np.int64)
    known = rows["pid"] >= 0
    names = np.unique(rows["comm"], return_inverse=True)[1]
    process = np.where(known & np.isin(rows["comm"], _ONE_SHOT), rows["pid"], -1)
    place = np.where(known, rows["cgroup_id"], rows["endpoint_id"].astype(np.int64))
    order = np.lexsort((begun_ns, process, place, names, known))
    begins = np.ones(len(rows), bool)
    same = np.ones(len(rows) - 1, bool)
    for key in (process, place, names, known):
        same &= key[order][1:] == key[order][:-1]
    times_ns = begun_ns[order]
    begins[1:] = ~(same & (np.diff(times_ns) <= VISIT_GAP_NS))
    starts_ns = times_ns[np.flatnonzero(begins)][np.cumsum(begins) - 1]
    part = (times_ns - starts_ns) // BLOCK_NS
    begins[1:] |= np.diff(part) != 0
    visit = np.cumsum(begins) - 1
    first_ns = times_ns[np.flatnonzero(begins)]
    by_time = np.empty(len(first_ns), np.int64)
    by_time[np.argsort(first_ns, kind="stable")] = np.arange(len(first_ns))
    found = np.empty(len(rows), np.int64)
    found[order] = by_time[visit]
    return found


def _owners(rows: Connections, details: tuple[OwnerDetail | None, ...]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Each connection's owner by a name that another trace may have too, and the names."""
    places: dict[int, int] = {}
    texts: dict[str, int] = {}
    place = np.zeros(len(rows), np.int64)
    for index, detail in enumerate(details):
        known = places.get(id(detail))
        if known is None:
            known = places[id(detail)] = texts.setdefault(_place(detail), len(texts))
        place[index] = known
    comms, comm = np.unique(rows["comm"], return_inverse=True)
    where = list(texts)
    codes, code = np.unique(comm * max(len(where), 1) + place, return_inverse=True)
    names = [comm_text(comms[number // len(where)].item()) + where[number % len(where)] for number in codes.tolist()]
    return np.where(rows["pid"] >= 0, code, -1), tuple(names)


def _place(detail: OwnerDetail | None) -> str:
    """Where a process runs, by what outlives it: neither ids of containers nor scopes of log-ins."""
    if detail is None:
        return ""
    if detail.unit and not detail.unit.endswith(".scope"):
        return f" ({detail.unit})"
    if detail.container and not (len(detail.container) >= _ID_DIGITS and _is_hex(detail.container)):
        return f" ({detail.container})"
    return f" ({detail.runtime or 'container'})" if detail.container else ""


def _is_hex(text: str) -> bool:
    return not set(text) - set("0123456789abcdef")
