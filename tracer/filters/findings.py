"""Which connections lie in a finding, and which findings fit filters. Pure.

A finding does not keep the connections that it was made of, so this is about its place: a connection lies in it if it was there
at any time between the finding's first and its last evidence (of one that is open: or later), at its endpoint, and, where it
names suspects, was opened by one of them: a process of that name, in that cgroup where both are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tracer.collected.collector import Collected
from tracer.errors import UsageError
from tracer.filters.filters import UNKNOWN_OWNER, Filters, id_matcher, matcher, named_processes, shown_name
from tracer.filters.places import at_endpoints, bounds_ns
from tracer.findings import Finding, Suspect
from tracer.lifecycle import CloseReason
from tracer.rows import Connections
from tracer.text import comm_text

_LISTED_MAX = 20
_FOREVER_NS = np.int64((1 << 63) - 1)


def ends_ns(rows: Connections) -> NDArray[np.int64]:
    """Boottime up to which each connection was there as far as was seen, shape (n,); beyond any for those that are open."""
    last_ns = np.where(rows["closed_ns"] >= 0, rows["closed_ns"], rows["last_ns"])
    return np.where(rows["close_reason"] == CloseReason.OPEN, _FOREVER_NS, last_ns)


def connections_in(rows: Connections, finding: Finding) -> NDArray[np.bool_]:
    """Which connections lie in a finding: bool, shape (n_connections,)."""
    inside = ends_ns(rows) >= finding.started_ns
    if finding.ended_ns >= 0:
        inside &= rows["first_seen_ns"] <= finding.ended_ns
    inside &= rows["endpoint_id"] == finding.endpoint_id
    if finding.suspects:
        inside &= np.logical_or.reduce([_opened_by(rows, suspect) for suspect in finding.suspects])
    return np.asarray(inside)


def _opened_by(rows: Connections, suspect: Suspect) -> NDArray[np.bool_]:
    known = rows["pid"] >= 0
    if not suspect.comm:  # nobody knows who it was
        return np.asarray(~known)
    same_cgroup = (rows["cgroup_id"] == suspect.cgroup_id) | (rows["cgroup_id"] < 0) | (suspect.cgroup_id < 0)
    return np.asarray(known & (rows["comm"] == suspect.comm) & same_cgroup)


def chosen_findings(collected: Collected, filters: Filters) -> list[Finding]:
    """The findings that `filters.findings` names, all of them where it names none.

    Raises:
        UsageError: the trace has no finding of that number; the message lists those that it has.
    """
    episodes = {finding.episode for finding in collected.findings}
    for number in filters.findings:
        if isinstance(number, int) and number not in episodes:
            raise UsageError(f"there is no finding {number} in this trace: {_listed(collected)}")
    wanted = set(filters.findings)
    return [finding for finding in collected.findings if not wanted or wanted & {finding.episode, finding.rule}]


def _listed(collected: Collected) -> str:
    if not collected.findings:
        return "nothing was found"
    shown = ", ".join(f"{finding.episode} {finding.rule}" for finding in collected.findings[:_LISTED_MAX])
    return f"expected one of {shown}" + (", ..." if len(collected.findings) > _LISTED_MAX else "")


def fitting_findings(collected: Collected, filters: Filters) -> NDArray[np.bool_]:
    """Which findings are wanted: at an endpoint, with a suspect, and going on in a time.

    Returns:
        bool, shape (n_findings,).

    Raises:
        UsageError: there is no such finding, or the filter asks what no finding has.
    """
    if filters.ports or filters.states or filters.close_reasons or filters.slower:
        raise UsageError(
            "findings have no port, state, close reason or duration: leave out --port, --state, --close-reason and --slower-than"
        )
    chosen = {finding.episode for finding in chosen_findings(collected, filters)}
    since_ns, until_ns = bounds_ns(collected, filters)
    is_owner = _suspect_matcher(filters.owners)

    def fits(finding: Finding) -> bool:
        wanted = finding.episode in chosen
        wanted &= since_ns is None or finding.ended_ns < 0 or finding.ended_ns >= since_ns
        wanted &= until_ns is None or finding.started_ns < until_ns
        return wanted and (not filters.owners or any(is_owner(each) for each in finding.suspects))

    found = np.array([fits(finding) for finding in collected.findings], bool)
    if filters.endpoints:
        numbers = np.array([finding.endpoint_id for finding in collected.findings], np.uint32)
        found &= at_endpoints(collected, filters.endpoints, numbers)
    return found


def _suspect_matcher(patterns: Sequence[str]) -> Callable[[Suspect], bool]:
    """Whether a suspect is called so, in the same ways as the owner of a connection."""
    fits, is_id = matcher(patterns), id_matcher(patterns)
    processes = [(matcher((name,)), pid) for name, pid in named_processes(patterns)]

    def is_suspect(suspect: Suspect) -> bool:
        if suspect.pid < 0 and not suspect.comm:
            return UNKNOWN_OWNER in patterns
        names = (comm_text(suspect.comm), str(suspect.pid), suspect.unit or "")
        called = any(pid == suspect.pid and is_name(shown_name(suspect.comm)) for is_name, pid in processes)
        return called or any(map(fits, filter(None, names))) or bool(suspect.container and is_id(suspect.container))

    return is_suspect
