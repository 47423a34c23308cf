"""What each owner did: numbers for a table. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.collected.collector import Collected
from tracer.lifecycle import REASON_NAMES, CloseReason
from tracer.owners.owner import OwnerDetail
from tracer.rows import Connections
from tracer.text import comm_text, printable

MINUTE_NS = 60_000_000_000
_ID_SHOWN = 12
"""Digits of a container's id, as the engines' own commands show it."""


@dataclass(frozen=True)
class OwnerTally:
    """The connections of one program in one place.

    Attributes:
        name, container, unit: safe to show; "" unknown or none.
        pids: how many processes of that name; 0 unknown.
        connections, opens, open: seen at all; openings seen; still open.
        peak_per_min: most openings within any 60 s.
        closes: by close reason, those that occurred.
        bytes_received, bytes_acked: of connections for which they are known; -1 if none.
    """

    name: str
    container: str
    unit: str
    pids: int
    connections: int
    opens: int
    open: int
    peak_per_min: int
    closes: dict[str, int]
    bytes_received: int
    bytes_acked: int

    @property
    def title(self) -> str:
        """Name and place."""
        place = self.container or self.unit
        return f"{self.name or 'unknown owner'}{f' in {place}' if place else ''}"


def owner_groups(collected: Collected) -> tuple[NDArray[np.intp], list[tuple[str, str, str]]]:
    """Which owner each connection has: (number of the owner, shape (n_connections,); name, container and unit by number)."""
    rows = collected.rows
    known: dict[tuple[bytes, str, str], int] = {}
    places: dict[int, tuple[str, str]] = {}  # by identity: one detail is shared by all connections of its process
    numbers = np.zeros(len(rows), np.intp)
    named = zip(rows["comm"].tolist(), (rows["pid"] >= 0).tolist(), collected.details, strict=True)
    for index, (comm, has_owner, detail) in enumerate(named):
        place = places.get(id(detail))
        if place is None:
            place = places[id(detail)] = _place(detail)
        numbers[index] = known.setdefault((comm if has_owner else b"", *place), len(known))
    return numbers, [(printable(comm_text(comm)), container, unit) for comm, container, unit in known]


def _place(detail: OwnerDetail | None) -> tuple[str, str]:
    if detail is None:
        return "", ""
    container = f"{detail.runtime or 'container'}:{detail.container[:_ID_SHOWN]}" if detail.container else ""
    return printable(container), printable(detail.unit)


def owner_tallies(collected: Collected) -> list[OwnerTally]:
    """One a program and place, those with the most connections first."""
    numbers, names = owner_groups(collected)
    order = np.argsort(numbers, kind="stable")
    cuts = np.searchsorted(numbers[order], np.arange(1, len(names)))
    tallies = [
        _tally(*name, collected.rows[index]) for name, index in zip(names, np.split(order, cuts) if names else [], strict=True)
    ]
    return sorted(tallies, key=lambda tally: -tally.connections)


def _tally(name: str, container: str, unit: str, rows: Connections) -> OwnerTally:
    reasons = np.bincount(rows["close_reason"], minlength=len(CloseReason))
    closes = {
        REASON_NAMES[reason]: int(reasons[reason]) for reason in np.argsort(-reasons, kind="stable").tolist() if reasons[reason]
    }
    still = closes.pop(REASON_NAMES[CloseReason.OPEN], 0)
    opened_ns = np.sort(rows["opened_ns"][rows["opened_ns"] >= 0])
    within = np.searchsorted(opened_ns, opened_ns + MINUTE_NS) - np.arange(len(opened_ns))
    return OwnerTally(
        name,
        container,
        unit,
        len(np.unique(rows["pid"][rows["pid"] >= 0])),
        len(rows),
        len(opened_ns),
        still,
        int(within.max(initial=0)),
        closes,
        sum_known(rows["bytes_received"]),
        sum_known(rows["bytes_acked"]),
    )


def sum_known(values: NDArray[np.int64]) -> int:
    """Of those that are known, -1 if none; beyond int64 too, because a capture may hold anything."""
    known = values[values >= 0].tolist()
    return sum(known) if known else -1
