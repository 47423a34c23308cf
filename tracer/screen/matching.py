"""Which rows a filter's text means: by endpoint, owner or container. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tracer.analysis import Analysis
from tracer.text import comm_text

_WHO = np.dtype([("pid", "i8"), ("comm", "S16")])


def endpoint_ids(analysis: Analysis, text: str) -> set[int]:
    """Of the endpoints whose label contains the text, in whatever case."""
    return {number for number, label in analysis.endpoints.items() if text.casefold() in label.casefold()}


def matching(rows: NDArray[np.void], analysis: Analysis, text: str, known: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Where endpoint, comm[pid], container or unit contain the text, in whatever case.

    Args:
        rows: connections or events, shape (n,).
        analysis: knows endpoints and owners.
        text: "" matches all.
        known: where pid and comm are; None: where pid is not negative.

    Returns:
        bool, shape (n,).
    """
    if not text:
        return np.ones(len(rows), bool)
    found = np.isin(rows["endpoint_id"], list(endpoint_ids(analysis, text)))
    rest = np.flatnonzero(~found & (rows["pid"].astype(np.int64) >= 0 if known is None else known))
    if not rest.size:
        return found
    who = np.zeros(len(rest), _WHO)
    who["pid"], who["comm"] = rows["pid"][rest], rows["comm"][rest]
    owners, last, place = np.unique(who[::-1], return_index=True, return_inverse=True)
    at_ns = rows["first_seen_ns" if "first_seen_ns" in (rows.dtype.names or ()) else "ts_ns"]
    wanted = np.array(
        [
            _is_meant(int(pid), comm, int(at_ns[rest[len(rest) - 1 - index]]), analysis, text.casefold())
            for (pid, comm), index in zip(owners.tolist(), last.tolist(), strict=True)
        ],
        bool,
    )
    found[rest] = wanted[place][::-1]
    return found


def _is_meant(pid: int, comm: bytes, at_ns: int, analysis: Analysis, text: str) -> bool:
    detail = analysis.owners.find(pid, at_ns)
    said = [f"{comm_text(comm)}[{pid}]", *((detail.container, detail.unit) if detail else ())]
    return any(text in each.casefold() for each in said)
