"""Slow, obvious references: plain loops and dicts over the documented semantics, to compare the vectorised core with.

An event is a dict by field of EVENT_DTYPE with plain Python values (`traces.as_dicts`); a connection is a dict by field of
CONNECTION_DTYPE. -1 is "unknown" or "not seen", as there. Nothing here is fast, and nothing here looks ahead.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import Any

from tracer.events import FIELD_FLAGS, N_STATES, EventFlag, TcpState

S = TcpState
Row = dict[str, Any]
Event = dict[str, Any]

# How far along its life a socket in this state is.
PROGRESS = {
    S.SYN_SENT: 0, S.NEW_SYN_RECV: 0, S.LISTEN: 0, S.SYN_RECV: 1, S.ESTABLISHED: 2, S.FIN_WAIT1: 3, S.CLOSE_WAIT: 3,
    S.FIN_WAIT2: 4, S.CLOSING: 4, S.LAST_ACK: 4, S.TIME_WAIT: 5, S.CLOSE: 6,
}  # fmt: skip
FROM_OUTSIDE = (S.SYN_RECV, S.LISTEN, S.NEW_SYN_RECV)
UNREACHABLE_ERRNOS = (
    errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EACCES, errno.EPROTO, errno.ENOPROTOOPT,
)  # fmt: skip
LAST_KNOWN = {
    "lport": "sport", "netns": "netns", "laddr": "saddr", "bytes_received": "bytes_received", "bytes_acked": "bytes_acked",
    "retransmits": "retransmits", "srtt_us": "srtt_us",
}  # fmt: skip
SIDE_OF = {
    "peer": "peer", "reset": "peer", "local": "local", "local-reset": "local", "refused": "failed", "timeout": "failed",
    "unreachable": "failed", "aborted": "failed",
}  # fmt: skip


def known(event: Event, name: str) -> bool:
    """Whether the flags say that the field was read."""
    flag = FIELD_FLAGS.get(name)
    return flag is None or bool(event["flags"] & flag)


def value(event: Event, name: str) -> Any:
    """The field, -1 if it was not read."""
    return event[name] if known(event, name) else -1


def is_sample(event: Event) -> bool:
    return bool(event["flags"] & EventFlag.SAMPLE)


def opens(event: Event) -> bool:
    return bool(event["old_state"] == S.CLOSE and event["new_state"] == S.SYN_SENT)


def verdict(event: Event) -> str | None:
    """What one transition says about who ended the connection; None if it ends nothing."""
    old, new = event["old_state"], event["new_state"]
    if old in (S.CLOSE_WAIT, S.LAST_ACK):
        return "peer"
    if old in (S.FIN_WAIT1, S.FIN_WAIT2, S.CLOSING):
        return "local"
    if new in (S.CLOSE_WAIT, S.LAST_ACK):
        return "peer"
    if new in (S.FIN_WAIT1, S.FIN_WAIT2, S.CLOSING):
        return "local"
    if new != S.CLOSE or old in (S.CLOSE, S.LISTEN):
        return None
    if not known(event, "sk_err") or old not in (S.SYN_SENT, S.SYN_RECV, S.ESTABLISHED):
        return "unknown"
    return straight_to_close(event["sk_err"], handshake=old != S.ESTABLISHED)


def straight_to_close(sk_err: int, handshake: bool) -> str:
    if sk_err == errno.ETIMEDOUT:
        return "timeout"
    if sk_err in UNREACHABLE_ERRNOS:
        return "unreachable"
    if sk_err == errno.ECONNREFUSED and handshake:
        return "refused"
    if sk_err in (0, errno.ECONNABORTED):
        return "aborted" if handshake else "local-reset"
    if sk_err in (errno.ECONNRESET, errno.EPIPE):
        return "reset"
    return "unknown"


def begin(event: Event, loss_seen: bool) -> Row:
    """The row of a connection first seen with this event."""
    owner = bool(event["flags"] & EventFlag.OWNER)
    return {
        "skaddr": event["skaddr"],
        "first_seen_ns": event["ts_ns"],
        "netns": -1,
        "endpoint_id": event["endpoint_id"],
        "family": event["family"],
        "laddr": bytes(16),
        "raddr": event["daddr"],
        "lport": -1,
        "rport": event["dport"],
        "pid": event["pid"] if owner and known(event, "pid") else -1,
        "comm": event["comm"] if owner and known(event, "comm") else b"",
        "cgroup_id": event["cgroup_id"] if owner and known(event, "cgroup_id") else -1,
        "opened_ns": event["ts_ns"] if opens(event) else -1,
        "established_ns": -1,
        "closed_ns": -1,
        "connect_ns": -1,
        "lifetime_ns": -1,
        "opened_early_ns": 0,
        "established_early_ns": 0,
        "closed_early_ns": 0,
        "state_ns": [-1] * N_STATES,
        "bytes_received": -1,
        "bytes_acked": -1,
        "retransmits": -1,
        "srtt_us": -1,
        "unread_bytes": -1,
        "idle_ms": -1,
        "sk_err": -1,
        "close_reason": None,
        "last_state": 0,
        "last_ns": -1,
        "preexisting": 0 if opens(event) else (-1 if loss_seen else 1),
        "gap": False,
        "inbound": event["old_state"] in FROM_OUTSIDE or event["new_state"] == S.LISTEN,
    }


def of_another_socket(row: Row, event: Event) -> bool:
    """Other ends than the connection's: the socket's address was given to another."""
    if (event["daddr"], event["dport"]) != (row["raddr"], row["rport"]):
        return True
    return known(event, "sport") and row["lport"] != -1 and event["sport"] != row["lport"]


def belongs(row: Row, event: Event) -> bool:
    """Whether a transition can be one of the connection that is open at its socket's address."""
    if opens(event) or of_another_socket(row, event):
        return False
    if event["old_state"] == row["last_state"]:
        return True
    return PROGRESS[S(event["old_state"])] >= PROGRESS[S(row["last_state"])]  # some are missing between


def take_what_is_known(row: Row, event: Event) -> None:
    """The last value that was read of each field; what says how the data phase ended, only from that phase."""
    fields = dict(LAST_KNOWN)
    if event["old_state"] == S.ESTABLISHED:
        fields |= {"unread_bytes": "unread_bytes", "idle_ms": "idle_ms"}
    for name, source in fields.items():
        if known(event, source):
            row[name] = event[source]


def update(row: Row, event: Event) -> None:
    """Bring a row up to date with its next event."""
    old, new, ts_ns = event["old_state"], event["new_state"], event["ts_ns"]
    if row["last_state"]:
        if row["last_state"] == old:
            row["state_ns"][old] = max(row["state_ns"][old], 0) + ts_ns - row["last_ns"]
        else:
            row["gap"] = True
    take_what_is_known(row, event)
    if new == S.ESTABLISHED and not is_sample(event):
        row["established_ns"] = ts_ns
    row["close_reason"] = row["close_reason"] or (None if is_sample(event) else verdict(event))
    row["last_state"], row["last_ns"] = new, ts_ns
    if new == S.CLOSE:
        row["closed_ns"] = ts_ns
        row["sk_err"] = value(event, "sk_err")
    if row["established_ns"] != -1 and row["opened_ns"] != -1:
        row["connect_ns"] = row["established_ns"] - row["opened_ns"]
    if row["closed_ns"] != -1 and row["opened_ns"] != -1:
        row["lifetime_ns"] = row["closed_ns"] - row["opened_ns"]


@dataclass
class Traced:
    """What came out of a trace. `peak_open` and `open_now` are by endpoint id."""

    ended: list[Row] = field(default_factory=list)
    open: list[Row] = field(default_factory=list)
    inbound: int = 0
    orphan_samples: int = 0
    peak_open: dict[int, int] = field(default_factory=dict)
    open_now: dict[int, int] = field(default_factory=dict)

    def begun(self, row: Row) -> None:
        """Count a connection that was seen for the first time."""
        if row["inbound"]:
            self.inbound += 1
            return
        endpoint = row["endpoint_id"]
        self.open_now[endpoint] = self.open_now.get(endpoint, 0) + 1
        self.peak_open[endpoint] = max(self.peak_open.get(endpoint, 0), self.open_now[endpoint])

    def over(self, row: Row) -> None:
        """Take a connection that ended, or that was cut off."""
        if not row["inbound"]:
            self.open_now[row["endpoint_id"]] -= 1
            row["close_reason"] = row["close_reason"] or "unknown"
            self.ended.append(row)

    def still_open(self, row: Row) -> None:
        """Take a connection that is open at the end."""
        if row["inbound"]:
            return
        row["close_reason"] = "open"
        if row["last_state"] == S.ESTABLISHED and row["state_ns"][S.ESTABLISHED] == -1:  # not even sampled
            row["bytes_received"] = row["bytes_acked"] = row["retransmits"] = -1
        self.open.append(row)


def connections(events: Iterable[Event], losses: Iterable[int] = ()) -> Traced:
    """The connections of a trace, one event after the other; `losses` are the positions before which events were lost."""
    result = Traced()
    lost_at = set(losses)
    at_socket: dict[tuple[int, int], Row] = {}
    loss_seen = False
    for position, event in enumerate(events):
        loss_seen = loss_seen or position in lost_at
        key = (event["netns"], event["skaddr"])
        row = at_socket.get(key)
        if is_sample(event):
            if row is None or row["last_state"] != event["old_state"] or of_another_socket(row, event):
                result.orphan_samples += 1
            else:
                update(row, event)
            continue
        if event["old_state"] == event["new_state"]:
            continue
        if row is not None and not belongs(row, event):
            row["gap"] = True
            result.over(at_socket.pop(key))
            row = None
        if row is None:
            row = at_socket[key] = begin(event, loss_seen)
            result.begun(row)
        update(row, event)
        if row["last_state"] == S.CLOSE:
            result.over(at_socket.pop(key))
    for row in at_socket.values():
        result.still_open(row)
    result.open.sort(key=lambda row: (row["first_seen_ns"], row["skaddr"], row["netns"]))
    return result


def nearest_rank(values: Sequence[int], quantile: str) -> int:
    """The smallest value that a share `quantile` (a decimal, as text) of all values does not exceed."""
    return sorted(values)[max(1, ceil(Fraction(quantile) * len(values))) - 1]


def durations(rows: Iterable[Row]) -> dict[tuple[int, str], list[int]]:
    """All known durations of connections by endpoint id and name of the span."""
    found: dict[tuple[int, str], list[int]] = {}
    for row in rows:
        spans = {"lifetime": row["lifetime_ns"], "connect": row["connect_ns"]}
        spans.update({TcpState(state).name: row["state_ns"][state] for state in range(1, N_STATES)})
        for name, span_ns in spans.items():
            if span_ns >= 0:
                found.setdefault((row["endpoint_id"], name), []).append(span_ns)
    return found


def churn(rows: Sequence[Row], edges_ns: Sequence[int]) -> list[dict[str, Any]]:
    """Churn in each half-open window [edge, next edge); `closes` by side; times open are summed connection by connection."""
    windows = []
    for start_ns, end_ns in pairwise(edges_ns):
        window: dict[str, Any] = {"opens": 0, "closes": dict.fromkeys(("peer", "local", "failed", "unknown"), 0)}
        window["open_at_end"], open_ns = 0, 0
        for row in rows:
            since_ns = row["opened_ns"] if row["opened_ns"] >= 0 else -(10**30)
            if row["close_reason"] == "open":
                until_ns = 10**30
            else:
                until_ns = row["closed_ns"] if row["closed_ns"] >= 0 else row["last_ns"]
            window["opens"] += start_ns <= since_ns < end_ns
            if start_ns <= until_ns < end_ns:
                window["closes"][SIDE_OF.get(row["close_reason"], "unknown")] += 1
            # in the last instant of the window: what closes at its edge closes in the next one
            window["open_at_end"] += since_ns < end_ns <= until_ns
            open_ns += max(0, min(until_ns, end_ns) - max(since_ns, start_ns))
        window["mean_open"] = Fraction(open_ns, end_ns - start_ns)
        windows.append(window)
    return windows


def attempts(opened_ns: Iterable[int], burst_gap_ns: int) -> list[int]:
    """Openings that do not follow the opening before within the gap."""
    starts = []
    before: int | None = None
    for ts_ns in opened_ns:
        if before is None or ts_ns - before > burst_gap_ns:
            starts.append(ts_ns)
        before = ts_ns
    return starts


def attempts_by_owner(events: Iterable[Event], burst_gap_ns: int) -> dict[tuple[int, int, bytes], list[int]]:
    """Attempts by (endpoint id, cgroup id, comm) of the tasks that are known to be owners."""
    opened: dict[tuple[int, int, bytes], list[int]] = {}
    for event in events:
        if opens(event) and event["flags"] & EventFlag.OWNER and known(event, "comm"):
            owner = (event["endpoint_id"], value(event, "cgroup_id"), event["comm"])
            opened.setdefault(owner, []).append(event["ts_ns"])
    return {owner: attempts(times, burst_gap_ns) for owner, times in opened.items()}
