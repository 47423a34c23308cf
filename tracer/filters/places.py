"""Where and when: endpoints and times of a whole trace, for every kind of row. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.collected.collector import Collected
from tracer.filters.filters import Filters, matcher
from tracer.roles import Role
from tracer.text import address_text

Mask = NDArray[np.bool_]


def bounds_ns(collected: Collected, filters: Filters) -> tuple[int | None, int | None]:
    """The boottimes [since, until) that are wanted; None: without a bound.

    Raises:
        UsageError: a wall-clock time for a trace without one.
    """
    first_ns, last_ns = extent_ns(collected)
    since, until = (
        None if moment is None else moment.boottime_ns(first_ns, last_ns, collected.header.clock)
        for moment in (filters.since, filters.until)
    )
    return since, until


def extent_ns(collected: Collected) -> tuple[int, int]:
    """Boottimes at which a trace begins and ends: of its first and last event; 0 where it has none."""
    return max(collected.summary.first_ns, 0), max(collected.summary.last_ns, 0)


def at_endpoints(
    collected: Collected, patterns: Sequence[str], endpoint_id: NDArray[np.uint32], raddr: NDArray[np.uint8] | None = None
) -> Mask:
    """Where the label, its host, the role or the remote address is one of these.

    Args:
        collected: knows labels and roles.
        patterns: of any of them.
        endpoint_id: shape (n,).
        raddr: shape (n, 16); None: there are none.

    Returns:
        bool, shape (n,).
    """
    fits = matcher(patterns)

    def is_endpoint(number: int) -> bool:
        label = collected.endpoints.get(number, f"endpoint {number}")
        host = label.rpartition(":")[0]
        role = collected.roles.get(number, Role.UNKNOWN).value
        return any(map(fits, (label, host, host.strip("[]"), role)))

    def is_address(raw: bytes) -> bool:
        text = address_text(raw)
        return text is not None and fits(text)

    found = where(endpoint_id, is_endpoint)
    if raddr is None:
        return found
    addresses = np.ascontiguousarray(raddr).view("V16").reshape(len(raddr))
    return found | where(addresses, is_address)


def where(values: NDArray[Any], fits: Callable[[Any], bool]) -> Mask:
    """Where values fit: each distinct one is asked about once."""
    distinct, inverse = np.unique(values, return_inverse=True)
    return np.array([fits(value) for value in distinct.tolist()], bool)[inverse]
