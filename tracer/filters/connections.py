"""Which connections of a trace fit filters. Pure: arrays in, masks out; distinct values are compared, not rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tracer.collected.collector import Collected
from tracer.events import TcpState, is_opening
from tracer.filters.filters import (
    CONNECT,
    LIFETIME,
    UNKNOWN_OWNER,
    Filters,
    Slower,
    id_matcher,
    matcher,
    named_processes,
    shown_name,
)
from tracer.filters.findings import chosen_findings, connections_in, ends_ns
from tracer.filters.places import Mask, at_endpoints, bounds_ns, extent_ns, where
from tracer.lifecycle import STATE_NAMES, CloseReason
from tracer.owners.owner import OwnerDetail
from tracer.rows import Connections
from tracer.text import comm_text


def fitting_connections(collected: Collected, filters: Filters, owners: NDArray[np.int64] | None = None) -> Mask:
    """Which connections are wanted.

    Args:
        collected: with its transitions, where `filters.states` asks for any.
        filters: what is wanted.
        owners: whose each transition is (`belonging.connection_of`); needed for states only.

    Returns:
        bool, shape (n_connections,).

    Raises:
        UsageError: a wall-clock time for a trace without one, or a finding that the trace does not have.
    """
    rows = collected.rows
    fits = np.ones(len(rows), bool)
    if filters.endpoints:
        fits &= at_endpoints(collected, filters.endpoints, rows["endpoint_id"], rows["raddr"])
    if filters.ports:
        fits &= np.isin(rows["lport"], filters.ports) | np.isin(rows["rport"], filters.ports)
    if filters.owners:
        fits &= _of_owners(rows, collected.details, filters.owners)
    if filters.states:
        assert owners is not None
        fits &= _in_states(collected, filters.states, owners)
    if filters.close_reasons:
        fits &= np.isin(rows["close_reason"], filters.close_reasons)
    since_ns, until_ns = bounds_ns(collected, filters)
    if since_ns is not None:
        fits &= ends_ns(rows) >= since_ns
    if until_ns is not None:
        fits &= rows["first_seen_ns"] < until_ns
    for what in dict.fromkeys(each.what for each in filters.slower):
        fits &= _slower(collected, [each for each in filters.slower if each.what == what])
    if filters.findings:
        inside = np.zeros(len(rows), bool)
        for finding in chosen_findings(collected, filters):
            inside |= connections_in(rows, finding)
        fits &= inside
    return fits


def _of_owners(rows: Connections, details: Sequence[OwnerDetail | None], patterns: Sequence[str]) -> Mask:
    fits = matcher(patterns)
    known = rows["pid"] >= 0
    pids = [int(pattern) for pattern in patterns if pattern.isascii() and pattern.isdigit() and len(pattern) < 19]
    wanted = known & (where(rows["comm"], lambda comm: fits(comm_text(comm))) | np.isin(rows["pid"], pids))
    for name, pid in named_processes(patterns):
        own = np.flatnonzero(rows["pid"] == pid)
        is_name = matcher((name,))
        wanted[own] |= np.array([is_name(shown_name(comm)) for comm in rows["comm"][own].tolist()], bool)
    if UNKNOWN_OWNER in patterns:
        wanted |= ~known
    is_id = id_matcher(patterns)

    def is_of(detail: OwnerDetail) -> bool:
        return any(map(is_id, filter(None, (detail.container, detail.pod)))) or bool(detail.unit and fits(detail.unit))

    chosen = {key: is_of(detail) for key, detail in {id(each): each for each in details if each is not None}.items()}
    return wanted | np.array([chosen.get(id(detail), False) for detail in details], bool)


def _in_states(collected: Collected, states: Sequence[int], owners: NDArray[np.int64]) -> Mask:
    """Which were in a state at all: as transitions tell, and, of a socket that was found open, its row."""
    rows, events = collected.rows, collected.events
    fits = np.isin(rows["last_state"], states) | (rows["state_ns"][:, list(states)] >= 0).any(axis=1)
    # Every socket is in CLOSE before it opens; that is not what anybody asks for.
    left = np.isin(events["old_state"], states) & ~is_opening(events)
    touched = owners[(left | np.isin(events["new_state"], states)) & (owners >= 0)]
    fits[touched] = True
    return fits


def _slower(collected: Collected, wanted: Sequence[Slower]) -> Mask:
    """Which took longer than one of these durations, all of one kind."""
    rows = collected.rows
    still_ns = np.maximum(extent_ns(collected)[1] - rows["last_ns"], 0) * (rows["close_reason"] == CloseReason.OPEN)
    what, than_ns = wanted[0].what, min(each.than_ns for each in wanted)
    if what == LIFETIME:
        spent_ns = np.where(rows["lifetime_ns"] >= 0, rows["lifetime_ns"], rows["last_ns"] - rows["first_seen_ns"] + still_ns)
    elif what == CONNECT:
        spent_ns = np.where(rows["connect_ns"] >= 0, rows["connect_ns"], _in_state_ns(rows, TcpState.SYN_SENT, still_ns))
    else:
        spent_ns = _in_state_ns(rows, TcpState(STATE_NAMES.index(what)), still_ns)
    return np.asarray(spent_ns > than_ns)


def _in_state_ns(rows: Connections, state: TcpState, still_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Time in a state, at least; -1 where it was not in it as far as is known. What is in it now is counted up to the end."""
    spent_ns = rows["state_ns"][:, state]
    now = (rows["last_state"] == state) & (still_ns > 0)
    return np.where(now, np.maximum(spent_ns, 0) + still_ns, spent_ns)
