"""`regtrace show` for people: what a trace is, and its connections, transitions or findings as a grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tracer.collected.belonging import NOBODY
from tracer.collected.collector import Collected
from tracer.collected.ordering import column_name
from tracer.collected.selection import CONNECTIONS, FINDINGS, TRANSITIONS, Selection
from tracer.collected.tables import Column, Kind
from tracer.events import Events, valid
from tracer.exactness import exactness_text
from tracer.lifecycle import STATE_NAMES, CloseReason, errno_name
from tracer.reports.cells import UNKNOWN, TimeTexts, column_texts
from tracer.reports.grid import GridColumn
from tracer.reports.text_report import coverage_text, owner_names, remark_texts, remote_texts, span_texts, warning_texts
from tracer.rows import Connections
from tracer.segments import take
from tracer.text import duration_text, printable

Cells = Callable[[NDArray[np.intp]], list[str]]
_NAME_CELLS, _SENTENCE_CELLS = 12, 30
_LEAST = dict.fromkeys(
    ("owner", "remote", "remarks", "cmdline", "comm", "endpoint", "container", "pod", "unit", "evidence", "suspects"), _NAME_CELLS
) | dict.fromkeys(("summary", "advice"), _SENTENCE_CELLS)
"""Cells to which columns of names and sentences may be cut."""
_WEIGHTS = {"number": 9, "summary": 8, "rule": 8, "time": 7, "severity": 6, "confidence": 5, "endpoint": 4}
"""Where not all columns fit; others go from the right to the left."""
_TITLES = {
    "number": "#", "bytes_received": "received", "bytes_acked": "acked", "unread_bytes": "unread", "close_reason": "reason",
    "confidence": "sure", "lport": "port",
}  # fmt: skip
_RED, _YELLOW = "31", "33"
_STYLES = {
    "close_reason": dict.fromkeys(("reset", "local-reset", "refused", "timeout", "unreachable"), _RED)
    | dict.fromkeys(("aborted", "unknown"), _YELLOW),
    "severity": {"critical": _RED, "warning": _YELLOW},
}
DEFAULT_COLUMNS = {
    CONNECTIONS: (
        "number", "first_seen_ns", "owner", "lport", "remote", "close_reason", "lifetime", "connect", "bytes_received",
        "bytes_acked", "remarks",
    ),
    TRANSITIONS: (
        "number", "ts_ns", "after_ns", "old", "new", "owner", "remote", "bytes_received", "bytes_acked", "remarks",
    ),
    FINDINGS: ("number", "started_ns", "lasted", "severity", "rule", "confidence", "endpoint", "summary"),
}  # fmt: skip
"""By what is shown; some are made for people and are in no table."""


def head_texts(collected: Collected, name: str) -> list[str]:
    """What trace this is, how exact and how whole."""
    header, summary = collected.header, collected.summary
    host = f", taken on {printable(header.host)}" if header.host else ""
    return [
        f"{printable(name)}{host}; source {printable(summary.source)}, {exactness_text(summary.resolution_ns)}",
        f"{summary.events} transitions, {summary.lost_text}, {coverage_text(summary)}",
        *warning_texts(collected.summary, collected.truncated),
    ]


def abstained_texts(collected: Collected) -> list[str]:
    """The rules that could not judge, and why: what they look for may be there all the same."""
    return [
        f"{rule} did not judge: {printable(reason)}" if rule != "*" else printable(reason)
        for rule, reason in collected.summary.abstained
    ]


def grid_columns(selection: Selection, texts: Sequence[str]) -> list[GridColumn]:
    """The columns that are meant, or the usual ones if none is named.

    Raises:
        UsageError: one of them there is not.
    """
    times = TimeTexts(selection.collected)
    make = {CONNECTIONS: _connection_cells, TRANSITIONS: _transition_cells, FINDINGS: _finding_cells}[selection.kind]
    made = make(selection)
    table = selection.part(np.zeros(0, np.intp))
    names = (
        dict.fromkeys(text if text in made else column_name(text, table) for text in texts)
        if texts
        else DEFAULT_COLUMNS[selection.kind]
    )
    return [_made_column(name, made[name]) if name in made else _table_column(table[name], selection, times) for name in names]


def _made_column(name: str, cells: Cells) -> GridColumn:
    return GridColumn(name, cells, name in ("lifetime", "connect", "lasted"), _LEAST.get(name, 0), _WEIGHTS.get(name, 0))


def _table_column(column: Column, selection: Selection, times: TimeTexts) -> GridColumn:
    name, styles = column.name, _STYLES.get(column.name)
    return GridColumn(
        _title(name),
        lambda index: column_texts(selection.part(index)[name], times),
        column.kind in (Kind.INTEGER, Kind.UNSIGNED, Kind.NUMBER) and name != "sk_err",
        _LEAST.get(name, 0),
        _WEIGHTS.get(_title(name) if _title(name) == "time" else name, 0),
        None if styles is None else lambda text: styles.get(text, ""),
    )


def _title(name: str) -> str:
    """The name without its unit, which every value shows; `--sort` and `--columns` know it so, too."""
    if name in ("first_seen_ns", "ts_ns", "started_ns"):
        return "time"
    for unit in ("_state_ns", "_ns", "_us", "_ms"):
        name = name.removesuffix(unit)
    return _TITLES.get(name, name)


def _connection_cells(selection: Selection) -> dict[str, Cells]:
    rows, endpoints, details = selection.collected.rows, selection.collected.endpoints, selection.collected.details

    def of(make: Callable[[Connections], list[str]]) -> Cells:
        return lambda index: make(take(rows, index))

    return {
        "owner": lambda index: owner_names(take(rows, index), [details[at] for at in index.tolist()]),
        "remote": of(lambda own: remote_texts(own, endpoints)),
        "lifetime": of(lambda own: span_texts(own, "lifetime_ns", "closed")),
        "connect": of(lambda own: span_texts(own, "connect_ns", "established")),
        "remarks": of(_row_remarks),
    }


def _row_remarks(rows: Connections) -> list[str]:
    """What is out of the ordinary, and before it the state in which a connection is that is still open."""
    in_state = [
        f"in {STATE_NAMES[state]}" if reason == CloseReason.OPEN else ""
        for state, reason in zip(rows["last_state"].tolist(), rows["close_reason"].tolist(), strict=True)
    ]
    said = (text.strip(" ()") for text in remark_texts(rows))
    return [", ".join(filter(None, pair)) for pair in zip(in_state, said, strict=True)]


def _transition_cells(selection: Selection) -> dict[str, Cells]:
    rows, details, events = selection.collected.rows, selection.collected.details, selection.collected.events
    owners = selection.owners

    def of_connections(make: Cells) -> Cells:
        def cells(index: NDArray[np.intp]) -> list[str]:
            own = owners[index]
            known = own != NOBODY
            texts = iter(make(own[known].astype(np.intp)))
            return [next(texts) if have else UNKNOWN for have in known.tolist()]

        return cells

    return {
        "owner": of_connections(lambda index: owner_names(take(rows, index), [details[at] for at in index.tolist()])),
        "remote": of_connections(lambda index: remote_texts(take(rows, index), selection.collected.endpoints)),
        "remarks": lambda index: _event_remarks(take(events, index), selection.collected.early_ns[index]),
    }


def _event_remarks(events: Events, early_ns: NDArray[np.uint64]) -> list[str]:
    columns = (events[name].tolist() for name in ("sk_err", "retransmits"))
    flags = (valid(events, name).tolist() for name in ("sk_err", "retransmits"))
    texts = []
    for sk_err, retransmits, has_err, has_retransmits, early in zip(*columns, *flags, early_ns.tolist(), strict=True):
        said = [errno_name(sk_err)] if has_err and sk_err else []
        said += [f"{retransmits} retransmits"] if has_retransmits and retransmits else []
        said += [f"may be {duration_text(early)} earlier"] if early else []
        texts.append(", ".join(said))
    return texts


def _finding_cells(selection: Selection) -> dict[str, Cells]:
    findings = selection.collected.findings

    def lasted(index: NDArray[np.intp]) -> list[str]:
        chosen = [findings[at] for at in index.tolist()]
        return [duration_text(each.ended_ns - each.started_ns) if each.ended_ns >= 0 else "still open" for each in chosen]

    return {"lasted": lasted}
