"""`regtrace show` for people: what a trace is, and its connections, transitions or findings as a grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.belonging import NOBODY
from tracer.collected import Collected
from tracer.events import Events, valid
from tracer.ordering import column_name
from tracer.reports.cells import UNKNOWN, TimeTexts, column_texts, errno_text
from tracer.reports.grid import GridColumn
from tracer.reports.text_report import coverage_text, owner_names, remark_texts, remote_texts, span_texts, warning_texts
from tracer.rows import Connections
from tracer.segments import take
from tracer.tables import Column, Kind, Table
from tracer.text import duration_text, printable

Cells = Callable[[NDArray[np.intp]], list[str]]
_ELASTIC = frozenset(
    {
        "owner",
        "remote",
        "remarks",
        "summary",
        "cmdline",
        "comm",
        "endpoint",
        "container",
        "pod",
        "unit",
        "evidence",
        "suspects",
        "advice",
    }
)
_TITLES = {
    "number": "#", "bytes_received": "received", "bytes_acked": "acked", "unread_bytes": "unread", "close_reason": "reason",
    "confidence": "sure",
}  # fmt: skip
_RED, _YELLOW = "31", "33"
_STYLES = {
    "close_reason": dict.fromkeys(("reset", "local-reset", "refused", "timeout", "unreachable"), _RED)
    | dict.fromkeys(("aborted", "unknown"), _YELLOW),
    "severity": {"critical": _RED, "warning": _YELLOW},
}
DEFAULT_COLUMNS = {
    "connections": (
        "number", "first_seen_ns", "owner", "remote", "close_reason", "lifetime", "connect", "bytes_received", "bytes_acked",
        "remarks",
    ),
    "transitions": (
        "number", "ts_ns", "after", "old", "new", "owner", "remote", "bytes_received", "bytes_acked", "remarks",
    ),
    "findings": ("number", "started_ns", "lasted", "severity", "rule", "confidence", "endpoint", "summary"),
}  # fmt: skip
"""By what is shown; some are made for people and are in no table."""


@dataclass(frozen=True)
class Shown:
    """What is shown.

    Attributes:
        kind: "connections", "transitions" or "findings".
        collected: the trace.
        table: its rows.
        owners: whose each transition is; None: no transitions are shown.
    """

    kind: str
    collected: Collected
    table: Table
    owners: NDArray[np.int64] | None = None


def head_texts(collected: Collected, name: str) -> list[str]:
    """What trace this is, how exact and how whole."""
    header, summary = collected.header, collected.summary
    host = f", taken on {printable(header.host)}" if header.host else ""
    exact = f"times exact to {duration_text(summary.resolution_ns)}"
    switches = sum(loss.lost is None for loss in summary.losses)
    return [
        f"{printable(name)}{host}; source {printable(summary.source)}, {exact}",
        f"{summary.events} transitions, {summary.lost} lost, {coverage_text(summary)}",
        *warning_texts(summary, collected.truncated),
        *([f"SWITCHED    another source went on {switches} time(s): in between nobody was looking"] if switches else []),
    ]


def grid_columns(shown: Shown, texts: Sequence[str]) -> list[GridColumn]:
    """The columns that are meant, or the usual ones if none is named.

    Raises:
        UsageError: one of them there is not.
    """
    times = TimeTexts(shown.collected)
    made = _connection_cells(shown) if shown.kind == "connections" else {}
    made = _transition_cells(shown) if shown.kind == "transitions" else made
    made = _finding_cells(shown) if shown.kind == "findings" else made
    if not texts:
        return [_column(name, shown.table, made, times) for name in DEFAULT_COLUMNS[shown.kind]]
    names = dict.fromkeys(text if text in made else column_name(text, shown.table) for text in texts)
    return [_column(name, shown.table, made, times) for name in names]


def _column(name: str, table: Table, made: dict[str, Cells], times: TimeTexts) -> GridColumn:
    if name in made:
        return GridColumn(name, made[name], name in ("lifetime", "connect", "after", "lasted"), name in _ELASTIC)
    column = table[name]
    styles = _STYLES.get(name)
    return GridColumn(
        _title(name),
        lambda index: column_texts(Column(name, column.kind, column.values[index], column.known[index]), times),
        column.kind in (Kind.INTEGER, Kind.UNSIGNED, Kind.NUMBER) and name != "sk_err",
        name in _ELASTIC,
        None if styles is None else lambda text: styles.get(text, ""),
    )


def _title(name: str) -> str:
    """The name without its unit, which every value shows; `--sort` and `--columns` know it so, too."""
    if name in ("first_seen_ns", "ts_ns", "started_ns"):
        return "time"
    for unit in ("_state_ns", "_ns", "_us", "_ms"):
        name = name.removesuffix(unit)
    return _TITLES.get(name, name)


def _connection_cells(shown: Shown) -> dict[str, Cells]:
    rows, endpoints, details = shown.collected.rows, shown.collected.endpoints, shown.collected.details

    def of(make: Callable[[Connections], list[str]]) -> Cells:
        return lambda index: make(take(rows, index))

    return {
        "owner": lambda index: owner_names(take(rows, index), [details[at] for at in index.tolist()]),
        "remote": of(lambda own: remote_texts(own, endpoints)),
        "lifetime": of(lambda own: span_texts(own, "lifetime_ns", "closed")),
        "connect": of(lambda own: span_texts(own, "connect_ns", "established")),
        "remarks": of(lambda own: [text.strip(" ()") for text in remark_texts(own)]),
    }


def _transition_cells(shown: Shown) -> dict[str, Cells]:
    rows, details, events = shown.collected.rows, shown.collected.details, shown.collected.events
    assert shown.owners is not None
    owners, after_ns = shown.owners, after_previous_ns(shown.collected, shown.owners)

    def of_connections(make: Cells) -> Cells:
        def cells(index: NDArray[np.intp]) -> list[str]:
            own = owners[index]
            known = own != NOBODY
            texts = iter(make(own[known].astype(np.intp)))
            return [next(texts) if have else UNKNOWN for have in known.tolist()]

        return cells

    return {
        "after": lambda index: [duration_text(span_ns) for span_ns in after_ns[index].tolist()],
        "owner": of_connections(lambda index: owner_names(take(rows, index), [details[at] for at in index.tolist()])),
        "remote": of_connections(lambda index: remote_texts(take(rows, index), shown.collected.endpoints)),
        "remarks": lambda index: _event_remarks(take(events, index), shown.collected.early_ns[index]),
    }


def after_previous_ns(collected: Collected, owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Time since the transition before of the same connection, shape (n_transitions,); -1 for first ones and nobody's."""
    after_ns = np.full(len(owners), -1, np.int64)
    order = np.argsort(owners, kind="stable")
    own, ts_ns = owners[order], collected.events["ts_ns"].astype(np.int64)[order]
    same = np.flatnonzero((own[1:] == own[:-1]) & (own[1:] != NOBODY)) + 1
    after_ns[order[same]] = np.maximum(ts_ns[same] - ts_ns[same - 1], 0)
    return after_ns


def _event_remarks(events: Events, early_ns: NDArray[np.uint64]) -> list[str]:
    columns = (events[name].tolist() for name in ("sk_err", "retransmits"))
    flags = (valid(events, name).tolist() for name in ("sk_err", "retransmits"))
    texts = []
    for sk_err, retransmits, has_err, has_retransmits, early in zip(*columns, *flags, early_ns.tolist(), strict=True):
        said = [errno_text(sk_err)] if has_err and sk_err else []
        said += [f"{retransmits} retransmits"] if has_retransmits and retransmits else []
        said += [f"may be {duration_text(early)} earlier"] if early else []
        texts.append(", ".join(said))
    return texts


def _finding_cells(shown: Shown) -> dict[str, Cells]:
    findings = shown.collected.findings

    def lasted(index: NDArray[np.intp]) -> list[str]:
        chosen = [findings[at] for at in index.tolist()]
        return [duration_text(each.ended_ns - each.started_ns) if each.ended_ns >= 0 else "still open" for each in chosen]

    return {"lasted": lasted}
