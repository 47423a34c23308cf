"""The journal, drawn: the last connections that ended, or the last transitions; remarks between."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from rich.text import Text

from tracer.churn import SIDE_BY_REASON, SIDES
from tracer.events import EventFlag, valid
from tracer.lifecycle import REASON_NAMES, STATE_NAMES
from tracer.reports.text_report import owner_texts
from tracer.screen.controls import Controls
from tracer.screen.journal import latest
from tracer.screen.numbers import life_text, size_text
from tracer.screen.picture import Picture
from tracer.screen.table import Column, Table, plain_line
from tracer.text import comm_text, printable

_REMARKS = 2
_FAILED = SIDES.index("failed")


class _Ended(NamedTuple):
    """A connection that ended."""

    at: str
    row: np.void
    owner: str
    endpoint: str


class _Step(NamedTuple):
    """A transition."""

    at: str
    states: str
    who: str
    endpoint: str
    socket: str


def _life(ended: _Ended, _width: int) -> str:
    return life_text(int(ended.row["lifetime_ns"]))


def _trouble(ended: _Ended) -> str:
    return "bold red" if SIDE_BY_REASON[ended.row["close_reason"]] == _FAILED else ""


_ENDED: tuple[Column[_Ended], ...] = (
    Column("LAST ENDED", lambda ended, _: ended.at, 12, 99),
    Column("BY", lambda ended, _: REASON_NAMES[ended.row["close_reason"]], 11, 90, style=_trouble),
    Column("OWNER", lambda ended, _: ended.owner, 15, 85, most=48),
    Column("ENDPOINT", lambda ended, _: ended.endpoint, 12, 60, most=40),
    Column("LIFE", _life, 6, 80, right=True),
    Column("CONN", lambda ended, _: life_text(int(ended.row["connect_ns"])), 6, 30, right=True),
    Column("IN", lambda ended, _: size_text(int(ended.row["bytes_received"])), 6, 65, right=True),
    Column("OUT", lambda ended, _: size_text(int(ended.row["bytes_acked"])), 6, 50, right=True),
)
_STEPS: tuple[Column[_Step], ...] = (
    Column("LAST STEPS", lambda step, _: step.at, 12, 99),
    Column("TRANSITION", lambda step, _: step.states, 26, 90),  # SYN_SENT -> ESTABLISHED is the longest but for rare ones
    Column("WHO WAS RUNNING", lambda step, _: step.who, 16, 70, most=32),
    Column("ENDPOINT", lambda step, _: step.endpoint, 12, 60, most=40),
    Column("SOCKET", lambda step, _: step.socket, 16, 30),
)


def log_lines(picture: Picture, controls: Controls, width: int, height: int) -> list[Text]:
    """At most `height` lines, the latest last; remarks stand below, as they are rare."""
    if height < 2:
        return []
    remarks = picture.pages.remarks[-min(_REMARKS, height - 1) :]
    lines = [plain_line(f"{picture.moments.text(ts_ns)}  {text}", width) for ts_ns, text in remarks]
    room = height - len(lines)
    if room < 2:
        return lines
    table = _steps(picture, width, room - 1) if controls.transitions else _ended(picture, width, room - 1)
    return table + lines


def _ended(picture: Picture, width: int, count: int) -> list[Text]:
    rows = latest(picture.pages.connections, count)
    if rows is None:
        return []
    table = Table(_ENDED, width)
    times = picture.moments.texts(np.where(rows["closed_ns"] >= 0, rows["closed_ns"], rows["last_ns"]))
    made = zip(times, rows, owner_texts(rows, picture.owners), map(picture.label, rows["endpoint_id"].tolist()), strict=True)
    return [table.header(), *(table.line(_Ended(*each)) for each in made)]


def _steps(picture: Picture, width: int, count: int) -> list[Text]:
    events = latest(picture.pages.transitions, count)
    if events is None:
        return []
    table = Table(_STEPS, width)
    times = picture.moments.texts(events["ts_ns"].astype(np.int64))
    made = zip(times, events, valid(events, "comm").tolist(), map(picture.label, events["endpoint_id"].tolist()), strict=True)
    steps = (
        _Step(at, _states(event), _who(event) if has_task else "-", label, f"{event['skaddr']:016x}")
        for at, event, has_task, label in made
    )
    return [table.header(), *map(table.line, steps)]


def _states(event: np.void) -> str:
    return f"{STATE_NAMES[event['old_state']]} -> {STATE_NAMES[event['new_state']]}"


def _who(event: np.void) -> str:
    """The owner where it is in its own call; else whoever happened to be running, in brackets."""
    name = f"{printable(comm_text(event['comm']))}[{event['pid']}]"
    return name if event["flags"] & EventFlag.OWNER else f"({name})"
