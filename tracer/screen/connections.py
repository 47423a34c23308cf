"""Open connections, drawn: the oldest first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from rich.text import Text

from tracer.lifecycle import STATE_NAMES, CloseReason
from tracer.reports.text_report import owner_texts
from tracer.screen.numbers import life_text, size_text, span_text
from tracer.screen.picture import Picture
from tracer.screen.table import Column, Table
from tracer.text import address_text

_MS_NS = 1_000_000


class _Row(NamedTuple):
    """One open connection and who has it."""

    row: np.void
    owner: str
    endpoint: str
    now_ns: int


def _owner(row: _Row, _width: int) -> str:
    return row.owner


def _endpoint(row: _Row, _width: int) -> str:
    return row.endpoint


def _address(row: _Row, _width: int) -> str:
    return address_text(row.row["raddr"].tobytes()) or "?"


def _port(row: _Row, _width: int) -> str:
    return str(row.row["lport"]) if row.row["lport"] >= 0 else "?"


def _state(row: _Row, _width: int) -> str:
    """A connection whose end may have been lost is not said to be in a state."""
    return STATE_NAMES[row.row["last_state"]] if row.row["close_reason"] == CloseReason.OPEN else "unknown"


def _since(row: _Row, _width: int) -> str:
    return span_text(max(row.now_ns - int(row.row["first_seen_ns"]), 0))


def _received(row: _Row, _width: int) -> str:
    return size_text(int(row.row["bytes_received"]))


def _acked(row: _Row, _width: int) -> str:
    return size_text(int(row.row["bytes_acked"]))


def _idle(row: _Row, _width: int) -> str:
    return life_text(int(row.row["idle_ms"]) * _MS_NS if row.row["idle_ms"] >= 0 else -1)


def _retransmits(row: _Row, _width: int) -> str:
    return str(row.row["retransmits"]) if row.row["retransmits"] >= 0 else "-"


_COLUMNS: tuple[Column[_Row], ...] = (
    Column("OPEN CONNECTIONS", _owner, 16, 99, most=48),
    Column("ENDPOINT", _endpoint, 16, 80, most=40),
    Column("ADDRESS", _address, 15, 30, most=39),
    Column("PORT", _port, 5, 20, right=True),
    Column("STATE", _state, 11, 90),
    Column("SINCE", _since, 6, 85, right=True),
    Column("IN", _received, 6, 70, right=True),
    Column("OUT", _acked, 6, 40, right=True),
    Column("RETR", _retransmits, 5, 35, right=True),
    Column("IDLE", _idle, 6, 60, right=True),
)


def connection_lines(picture: Picture, width: int, height: int) -> list[Text]:
    """At most `height` lines, titles included; none where none is open."""
    rows = picture.open[: max(height - 1, 0)]
    if not len(rows):
        return []
    table = Table(_COLUMNS, width)
    owners = owner_texts(rows, picture.owners)
    labels = map(picture.label, rows["endpoint_id"].tolist())
    count = picture.open_matching
    return [
        table.header(f"OLDEST OF {count}" if count > len(rows) else f"{count} OPEN"),
        *(
            table.line(_Row(row, owner, label, max(picture.now_ns, 0)))
            for row, owner, label in zip(rows, owners, labels, strict=True)
        ),
    ]
