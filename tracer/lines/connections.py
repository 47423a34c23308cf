"""Connection lines. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from tracer.clock import ClockOffset
from tracer.events import N_STATES, TcpState
from tracer.lifecycle import RANK, REASON_NAMES, STATE_NAMES
from tracer.lines.values import addresses, cached, or_null, times
from tracer.owners.owner import OwnerDetail
from tracer.rows import Connections
from tracer.text import comm_text

_PREEXISTING = {1: "true", 0: "false", -1: "null"}
_LIFE_ORDER = (np.argsort(RANK[1:], kind="stable") + 1).tolist()
_DETAILS = ("container", "runtime", "pod", "unit", "cmdline", "netns_name")
_NO_DETAIL = ", ".join(f'"{name}": null' for name in _DETAILS)
_OUTCOME = ("bytes_received", "bytes_acked", "retransmits", "srtt_us", "unread_bytes", "idle_ms", "sk_err")


def _connection_line(
    endpoint: str, laddr: str, lport: int | str, raddr: str, rport: int | str, pid: int | str, comm: str, owner: str,
    opened_at: str, opened_ns: int | str, established_ns: int | str, closed_at: str, closed_ns: int | str, connect_ns: int | str,
    lifetime_ns: int | str, close_reason: str, bytes_received: int | str, bytes_acked: int | str, retransmits: int | str,
    srtt_us: int | str, unread_bytes: int | str, idle_ms: int | str, sk_err: int | str, states: str, preexisting: str,
    gap: str, family: int, netns: int | str, cgroup_id: int | str, skaddr: int, first_seen_ns: int,
    opened_early_ns: int, established_early_ns: int, closed_early_ns: int,
) -> str:  # fmt: skip
    return (
        f'{{"type": "connection", "endpoint": {endpoint}, "laddr": {laddr}, "lport": {lport}, "raddr": {raddr}, '
        f'"rport": {rport}, "pid": {pid}, "comm": {comm}, {owner}, "opened_at": {opened_at}, '
        f'"opened_ns": {opened_ns}, "established_ns": {established_ns}, "closed_at": {closed_at}, "closed_ns": {closed_ns}, '
        f'"connect_ns": {connect_ns}, "lifetime_ns": {lifetime_ns}, "close_reason": "{close_reason}", '
        f'"bytes_received": {bytes_received}, "bytes_acked": {bytes_acked}, "retransmits": {retransmits}, '
        f'"srtt_us": {srtt_us}, "unread_bytes": {unread_bytes}, "idle_ms": {idle_ms}, "sk_err": {sk_err}, '
        f'"states": {{{states}}}, "preexisting": {preexisting}, "gap": {gap}, "family": {family}, "netns": {netns}, '
        f'"cgroup_id": {cgroup_id}, "skaddr": "{skaddr:#x}", "first_seen_ns": {first_seen_ns}, '
        f'"opened_early_ns": {opened_early_ns}, "established_early_ns": {established_early_ns}, '
        f'"closed_early_ns": {closed_early_ns}}}'
    )


def connection_lines(
    rows: Connections,
    endpoints: dict[int, str],
    clock: ClockOffset | None,
    details: Sequence[OwnerDetail | None] | None = None,
) -> list[str]:
    """One line per connection, in the order of the rows.

    Args:
        rows: shape (n_connections,).
        endpoints: label by endpoint id.
        clock: None: there are no wall-clock times.
        details: who opened each, with container, unit and command line (`owners.register.details_of`), as long as `rows`;
            None: nothing is known of anybody but pid and comm.
    """
    label = cached(lambda number: json.dumps(endpoints.get(number, f"endpoint {number}")))
    comm = cached(lambda name: json.dumps(comm_text(name)))
    has_owner = (rows["pid"] >= 0).tolist()
    return list(
        map(
            _connection_line,
            [label(number) for number in rows["endpoint_id"].tolist()],
            addresses(rows["laddr"]),
            or_null(rows["lport"]),
            addresses(rows["raddr"]),
            or_null(rows["rport"]),
            or_null(rows["pid"]),
            [comm(name) if have else "null" for name, have in zip(rows["comm"].tolist(), has_owner, strict=True)],
            _owners(len(rows), details),
            times(rows["opened_ns"], clock),
            *(or_null(rows[field]) for field in ("opened_ns", "established_ns")),
            times(rows["closed_ns"], clock),
            *(or_null(rows[field]) for field in ("closed_ns", "connect_ns", "lifetime_ns")),
            [REASON_NAMES[reason] for reason in rows["close_reason"].tolist()],
            *(or_null(rows[field]) for field in _OUTCOME),
            _states(rows),
            [_PREEXISTING[value] for value in rows["preexisting"].tolist()],
            ["true" if gap else "false" for gap in rows["gap"].tolist()],
            rows["family"].tolist(),
            or_null(rows["netns"]),
            or_null(rows["cgroup_id"]),
            rows["skaddr"].tolist(),
            rows["first_seen_ns"].tolist(),
            *(rows[field].tolist() for field in ("opened_early_ns", "established_early_ns", "closed_early_ns")),
        )
    )


def _owners(count: int, details: Sequence[OwnerDetail | None] | None) -> list[str]:
    """What is known of each owner beside its name."""
    if details is None:
        return [_NO_DETAIL] * count
    texts = {key: _detail(detail) for key, detail in {id(detail): detail for detail in details}.items()}
    return [texts[id(detail)] for detail in details]


def _detail(detail: OwnerDetail | None) -> str:
    if detail is None:
        return _NO_DETAIL
    return ", ".join(f'"{name}": {json.dumps(getattr(detail, name) or None)}' for name in _DETAILS)


def _states(rows: Connections) -> list[str]:
    """The inside of "states": time in each state that was seen, null for one that an open connection is in since then.

    Few different sets of states occur, so that each set is one format string.
    """
    texts = [""] * len(rows)
    known = rows["state_ns"] >= 0
    sets = known @ (1 << np.arange(N_STATES)) * N_STATES + rows["last_state"]
    for code in np.unique(sets).tolist():
        index = np.flatnonzero(sets == code)
        last = code % N_STATES
        seen = [state for state in _LIFE_ORDER if code // N_STATES >> state & 1]
        names = [f'"{STATE_NAMES[state]}": %d' for state in seen]
        if last not in seen and last != TcpState.CLOSE:
            names.append(f'"{STATE_NAMES[last]}": null')
        form = ", ".join(names)
        for row, spent in zip(index.tolist(), rows["state_ns"][index][:, seen].tolist(), strict=True):
            texts[row] = form % tuple(spent)
    return texts
