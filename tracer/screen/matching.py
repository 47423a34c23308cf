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
    first, place = _owners(rows["pid"][rest], rows["comm"][rest])
    at_ns = rows["first_seen_ns" if "first_seen_ns" in (rows.dtype.names or ()) else "ts_ns"][rest[first]].tolist()
    owners = zip(rows["pid"][rest[first]].tolist(), rows["comm"][rest[first]].tolist(), at_ns, strict=True)
    wanted = np.array([_is_meant(*owner, analysis, text.casefold()) for owner in owners], bool)
    found[rest] = wanted[place]
    return found


def _owners(pid: NDArray[np.integer], comm: NDArray[np.bytes_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(where each owner is first, which owner each row has); a pid with two names is two owners."""
    _, first, place = np.unique(pid, return_index=True, return_inverse=True)
    if (comm == comm[first][place]).all():  # as good as always, and numbers are sorted much faster than records
        return first, place
    who = np.zeros(len(pid), _WHO)
    who["pid"], who["comm"] = pid, comm
    _, first, place = np.unique(who, return_index=True, return_inverse=True)
    return first, place


def _is_meant(pid: int, comm: bytes, at_ns: int, analysis: Analysis, text: str) -> bool:
    detail = analysis.owners.find(pid, at_ns)
    said = [f"{comm_text(comm)}[{pid}]", *((detail.container, detail.unit) if detail else ())]
    return any(text in each.casefold() for each in said)
