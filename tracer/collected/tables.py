"""A trace as tables of columns, under the names of the JSON lines: for those who filter, sort and export. Pure.

A column that differs from the lines: `states` is one column for each state, `ESTABLISHED_state_ns`, because tables are flat.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.clock import ClockOffset
from tracer.collected.collector import Collected
from tracer.events import EventFlag, Events, valid
from tracer.findings import Finding
from tracer.lifecycle import RANK, REASON_NAMES, STATE_NAMES
from tracer.roles import Role
from tracer.text import address_text, comm_text


class Kind(Enum):
    """What a column's values are."""

    INTEGER = "integer"  # int64
    UNSIGNED = "unsigned"  # uint64
    NUMBER = "number"  # float64
    TRUTH = "truth"  # bool
    TEXT = "text"  # str objects, exactly as they were found: not yet safe for a terminal, a page or a spreadsheet
    TIME = "time"  # int64, Unix time in ns, UTC


@dataclass(frozen=True)
class Column:
    """One value a row.

    Attributes:
        name: as in the JSON lines.
        kind: of its values.
        values: shape (n_rows,); what stands where `known` is False means nothing.
        known: bool, shape (n_rows,); False is null.
    """

    name: str
    kind: Kind
    values: NDArray[Any]
    known: NDArray[np.bool_]

    def objects(self) -> list[Any]:
        """As Python values, None where unknown."""
        if self.known.all():
            return list(self.values.tolist())
        return [value if have else None for value, have in zip(self.values.tolist(), self.known.tolist(), strict=True)]


Table = dict[str, Column]
"""Columns of one length, by name, in the order in which they are shown."""

STATE_COLUMNS = tuple(
    (int(state), f"{STATE_NAMES[state]}_state_ns") for state in np.argsort(RANK[1:], kind="stable") + 1 if STATE_NAMES[state]
)
"""(TcpState, name of the column with the time spent in it), in the order of a life."""
_DETAILS = ("container", "runtime", "pod", "unit", "cmdline", "netns_name")
_ROW_NUMBERS = ("bytes_received", "bytes_acked", "retransmits", "srtt_us", "unread_bytes", "idle_ms", "sk_err")
_EARLY = ("opened_early_ns", "established_early_ns", "closed_early_ns")
_EVENT_NUMBERS = ("bytes_received", "bytes_acked", "srtt_us", "retransmits", "unread_bytes", "idle_ms", "sk_err")


def connection_table(collected: Collected) -> Table:
    """One row a connection, in the order of `collected.rows`."""
    rows, clock = collected.rows, collected.header.clock
    has_owner = rows["pid"] >= 0
    columns = [
        _texts("endpoint", rows["endpoint_id"], _label(collected)),
        _texts("role", rows["endpoint_id"], _role(collected)),
        _addresses("laddr", rows["laddr"]),
        _integers("lport", rows["lport"]),
        _addresses("raddr", rows["raddr"]),
        _integers("rport", rows["rport"]),
        _integers("pid", rows["pid"]),
        _texts("comm", rows["comm"], comm_text, has_owner),
        *(_details(name, collected) for name in _DETAILS),
        _times("opened_at", rows["opened_ns"], clock),
        *(_integers(name, rows[name]) for name in ("opened_ns", "established_ns")),
        _times("closed_at", rows["closed_ns"], clock),
        *(_integers(name, rows[name]) for name in ("closed_ns", "connect_ns", "lifetime_ns")),
        _texts("close_reason", rows["close_reason"], REASON_NAMES.__getitem__),
        *(_integers(name, rows[name]) for name in _ROW_NUMBERS),
        *(
            _integers(name, rows["state_ns"][:, state])
            for state, name in STATE_COLUMNS
            if (rows["state_ns"][:, state] >= 0).any()
        ),
        _texts("last_state", rows["last_state"], STATE_NAMES.__getitem__),
        Column("preexisting", Kind.TRUTH, rows["preexisting"] > 0, rows["preexisting"] >= 0),
        Column("gap", Kind.TRUTH, rows["gap"], _all(rows)),
        _integers("family", rows["family"]),
        _integers("netns", rows["netns"]),
        Column("cgroup_id", Kind.UNSIGNED, rows["cgroup_id"].astype(np.uint64), rows["cgroup_id"] >= 0),
        _texts("skaddr", rows["skaddr"], "{:#x}".format),
        _integers("first_seen_ns", rows["first_seen_ns"]),
        *(_integers(name, rows[name]) for name in _EARLY),
    ]
    return {column.name: column for column in columns}


def transition_table(collected: Collected) -> Table:
    """One row a transition, in the order of `collected.events`, which has to be there."""
    events = collected.events
    columns = [
        _integers("ts_ns", events["ts_ns"].astype(np.int64)),
        _times("at", events["ts_ns"].astype(np.int64), collected.header.clock),
        _texts("skaddr", events["skaddr"], "{:#x}".format),
        _texts("endpoint", events["endpoint_id"], _label(collected)),
        _addresses("laddr", events["saddr"], valid(events, "saddr")),
        _flagged("lport", events, "sport"),
        _addresses("raddr", events["daddr"]),
        _integers("rport", events["dport"]),
        _texts("old", events["old_state"], STATE_NAMES.__getitem__),
        _texts("new", events["new_state"], STATE_NAMES.__getitem__),
        _flagged("pid", events, "pid"),
        _texts("comm", events["comm"], comm_text, valid(events, "comm")),
        Column("owner", Kind.TRUTH, events["flags"] & np.uint32(EventFlag.OWNER) != 0, _all(events)),
        _flagged("cgroup_id", events, "cgroup_id"),
        _flagged("netns", events, "netns"),
        _integers("family", events["family"]),
        *(_flagged(name, events, name) for name in _EVENT_NUMBERS),
        Column("early_ns", Kind.INTEGER, collected.early_ns.astype(np.int64), _all(events)),
    ]
    return {column.name: column for column in columns}


def finding_table(collected: Collected) -> Table:
    """One row an episode; `evidence` and `suspects` are JSON text."""
    findings, clock = collected.findings, collected.header.clock
    everywhere = np.ones(len(findings), bool)
    label = _label(collected)

    def texts(name: str, make: Callable[[Finding], str]) -> Column:
        return Column(name, Kind.TEXT, _objects([make(finding) for finding in findings]), everywhere)

    def whole(make: Callable[[Finding], int]) -> NDArray[np.int64]:
        return np.array([make(finding) for finding in findings], np.int64)

    started_ns, detected_ns = whole(lambda each: each.started_ns), whole(lambda each: each.detected_ns)
    ended_ns = whole(lambda each: each.ended_ns)
    confidence = np.array([finding.confidence for finding in findings], np.float64)
    columns = [
        _integers("episode", whole(lambda each: each.episode)),
        texts("rule", lambda each: each.rule),
        texts("state", lambda each: each.state.value),
        texts("severity", lambda each: each.severity.text),
        Column("confidence", Kind.NUMBER, confidence, everywhere),
        texts("endpoint", lambda each: label(each.endpoint_id)),
        _times("started_at", started_ns, clock),
        _integers("started_ns", started_ns),
        _times("detected_at", detected_ns, clock),
        _integers("detected_ns", detected_ns),
        _times("ended_at", ended_ns, clock),
        _integers("ended_ns", ended_ns),
        texts("summary", lambda each: each.summary),
        texts("evidence", lambda each: json.dumps(each.evidence)),
        texts("suspects", _suspects),
        texts("advice", lambda each: each.advice),
    ]
    return {column.name: column for column in columns}


def table_of(collected: Collected, what: str) -> Table:
    """The table of that name, one of those that `regtrace export --what` offers."""
    return {"connections": connection_table, "transitions": transition_table, "findings": finding_table}[what](collected)


def chosen(table: Table, index: NDArray[np.intp] | NDArray[np.bool_]) -> Table:
    """The rows of an index or mask."""
    return {name: Column(name, column.kind, column.values[index], column.known[index]) for name, column in table.items()}


def _suspects(finding: Finding) -> str:
    return json.dumps(
        [
            {"pid": suspect.pid if suspect.pid >= 0 else None, "comm": comm_text(suspect.comm) or None, "share": suspect.share}
            for suspect in finding.suspects
        ]
    )


def _label(collected: Collected) -> Callable[[int], str]:
    return lambda number: collected.endpoints.get(number, f"endpoint {number}")


def _role(collected: Collected) -> Callable[[int], str]:
    return lambda number: collected.roles.get(number, Role.UNKNOWN).value


def _all(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    return np.ones(len(rows), bool)


def _integers(name: str, values: NDArray[Any]) -> Column:
    """Whole numbers, of which negative ones are unknown."""
    values = values.astype(np.int64)
    return Column(name, Kind.INTEGER, values, values >= 0)


def _flagged(name: str, events: Events, field: str) -> Column:
    """Whole numbers of events, known where their flag says so."""
    values = events[field]
    if values.dtype == np.uint64:
        return Column(name, Kind.UNSIGNED, values, valid(events, field))
    return Column(name, Kind.INTEGER, values.astype(np.int64), valid(events, field))


def _times(name: str, ts_ns: NDArray[np.int64], clock: ClockOffset | None) -> Column:
    """Wall-clock times of boottimes; without a clock none is known."""
    if clock is None:
        return Column(name, Kind.TIME, np.zeros(len(ts_ns), np.int64), np.zeros(len(ts_ns), bool))
    return Column(name, Kind.TIME, ts_ns + clock.offset_ns, ts_ns >= 0)


def _texts(name: str, values: NDArray[Any], make: Callable[[Any], str], known: NDArray[np.bool_] | None = None) -> Column:
    """Few values, many rows: each is made once."""
    distinct, inverse = np.unique(values, return_inverse=True)
    texts = _objects([make(value) for value in distinct.tolist()])
    return Column(name, Kind.TEXT, texts[inverse], np.ones(len(values), bool) if known is None else known)


def _addresses(name: str, column: NDArray[np.uint8], known: NDArray[np.bool_] | None = None) -> Column:
    raw = np.ascontiguousarray(column).view("V16").reshape(-1)
    distinct, inverse = np.unique(raw, return_inverse=True)
    found = [address_text(bytes(value)) for value in distinct.tolist()]
    there = np.array([text is not None for text in found], bool)[inverse]
    return Column(name, Kind.TEXT, _objects([text or "" for text in found])[inverse], there if known is None else there & known)


def _details(name: str, collected: Collected) -> Column:
    found = [getattr(detail, name) if detail is not None else "" for detail in collected.details]
    return Column(name, Kind.TEXT, _objects(found), np.array([bool(text) for text in found], bool))


def _objects(texts: Iterable[str] | Sequence[str]) -> NDArray[Any]:
    listed = list(texts)
    column = np.empty(len(listed), object)
    column[:] = listed
    return column
