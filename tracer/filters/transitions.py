"""Which transitions of a trace fit filters. Pure.

What a transition can answer itself it does: its endpoint, its states, its time. Everything else is asked of its connection, so
`owner` is who opened that, not whoever was running when it changed its state.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tracer.collected.belonging import NOBODY
from tracer.collected.collector import Collected
from tracer.filters.connections import fitting_connections
from tracer.filters.filters import Filters
from tracer.filters.places import Mask, at_endpoints, bounds_ns


def fitting_transitions(collected: Collected, filters: Filters, owners: NDArray[np.int64]) -> Mask:
    """Which transitions are wanted.

    Args:
        collected: with its transitions.
        filters: what is wanted; a state is wanted whether it is entered or left.
        owners: whose each transition is (`belonging.connection_of`), shape (n_transitions,).

    Returns:
        bool, shape (n_transitions,).

    Raises:
        UsageError: a wall-clock time for a trace without one, or a finding that the trace does not have.
    """
    events = collected.events
    fits = np.ones(len(events), bool)
    if filters.endpoints:
        fits &= at_endpoints(collected, filters.endpoints, events["endpoint_id"], events["daddr"])
    if filters.states:
        fits &= np.isin(events["old_state"], filters.states) | np.isin(events["new_state"], filters.states)
    since_ns, until_ns = bounds_ns(collected, filters)
    ts_ns = events["ts_ns"].astype(np.int64)
    if since_ns is not None:
        fits &= ts_ns >= since_ns
    if until_ns is not None:
        fits &= ts_ns < until_ns
    if filters.of_connections:
        of_connection = replace(filters, endpoints=(), states=(), since=None, until=None)
        wanted = fitting_connections(collected, of_connection)
        fits &= np.append(wanted, False)[owners] & (owners != NOBODY)
    return fits
