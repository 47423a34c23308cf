"""Endpoints, drawn: a line each, or two where the terminal is narrow and there is room."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from rich.text import Text

from tracer.screen.controls import Controls
from tracer.screen.gauges import Gauges
from tracer.screen.numbers import UNKNOWN, bytes_rate_text, life_text, rate_text, shares
from tracer.screen.picture import Picture, arranged, quiet
from tracer.screen.sparkline import sparkline
from tracer.screen.table import Column, Table, plain_line
from tracer.text import printable

WIDE = 160
"""From here on everything of an endpoint stands in one line."""
_TWO_LINES = 76
"""From here on there is a second line; below, what it says would not be readable."""
_ENDPOINT_MOST, _SPARK_MOST = 40, 60
_RECEIVED, _ACKED, _RETRANSMITS = range(3)  # in gauges.COUNTERS
_PEER, _LOCAL, _FAILED = range(3)  # in churn.SIDES


class _Row(NamedTuple):
    """One endpoint of the gauges."""

    gauges: Gauges
    at: int


def _label(row: _Row, _width: int) -> str:
    unseen = "UNSEEN " if row.gauges.unseen[row.at] else ""
    return unseen + printable(str(row.gauges.label[row.at]))


def _role(row: _Row, _width: int) -> str:
    return str(row.gauges.role[row.at]) or "-"


def _stage(stage: int, row: _Row, _width: int) -> str:
    count = int(row.gauges.stages[row.at, stage])
    return UNKNOWN if row.gauges.unseen[row.at] and not count else str(count)


def _opens_per_s(row: _Row, _width: int) -> str:
    return rate_text(float(row.gauges.opens_per_s[row.at]))


def _closes_per_s(row: _Row, _width: int) -> str:
    return rate_text(float(row.gauges.closes_per_s[row.at]))


def _p50(row: _Row, _width: int) -> str:
    return life_text(int(row.gauges.p50_ns[row.at]))


def _p99(row: _Row, _width: int) -> str:
    return life_text(int(row.gauges.p99_ns[row.at]))


def _bytes_per_s(counter: int, row: _Row, _width: int) -> str:
    return bytes_rate_text(float(row.gauges.moved_per_s[row.at, counter]))


def _retransmits_per_s(row: _Row, _width: int) -> str:
    return rate_text(float(row.gauges.moved_per_s[row.at, _RETRANSMITS]))


def _share(side: int, row: _Row, _width: int) -> str:
    return shares(row.gauges.sides[row.at].tolist())[side]


def _opened(row: _Row, width: int) -> str:
    return sparkline(row.gauges.opens[row.at], width)


def _closed(row: _Row, width: int) -> str:
    return sparkline(row.gauges.closes[row.at].sum(axis=1), width)


def _failing(row: _Row) -> str:
    return "bold red" if row.gauges.sides[row.at, _FAILED] else ""


def _resending(row: _Row) -> str:
    return "yellow" if row.gauges.moved_per_s[row.at, _RETRANSMITS] > 0 else ""


def _unseen(row: _Row) -> str:
    return "yellow" if row.gauges.unseen[row.at] else ""


def _bar(_row: _Row) -> str:
    return "cyan"


_NUMBERS: tuple[Column[_Row], ...] = (
    Column("ENDPOINT", _label, 12, 99, most=_ENDPOINT_MOST, style=_unseen),
    Column("ESTAB", partial(_stage, 0), 5, 90, right=True),
    Column("SYN", partial(_stage, 1), 4, 70, right=True),
    Column("CLSG", partial(_stage, 2), 4, 60, right=True),
    Column("OPEN/s", _opens_per_s, 7, 80, right=True),
    Column("CLOSE/s", _closes_per_s, 7, 75, right=True),
    Column("p50", _p50, 6, 50, right=True),
    Column("p99", _p99, 6, 55, right=True),
    Column("IN/s", partial(_bytes_per_s, _RECEIVED), 6, 40, right=True),
)
_MORE: tuple[Column[_Row], ...] = (
    Column("OUT/s", partial(_bytes_per_s, _ACKED), 6, 30, right=True),
    Column("RETR/s", _retransmits_per_s, 6, 45, right=True, style=_resending),
    Column("PEER", partial(_share, _PEER), 4, 61, right=True),
    Column("LOCAL", partial(_share, _LOCAL), 5, 62, right=True),
    Column("FAIL", partial(_share, _FAILED), 4, 65, right=True, style=_failing),
    Column("OPENED, EACH SECOND", _opened, 8, 35, most=_SPARK_MOST, style=_bar),
    Column("CLOSED, EACH SECOND", _closed, 8, 34, most=_SPARK_MOST, style=_bar),
)
_ONE_LINE = (_NUMBERS[0], Column("ROLE", _role, 7, 20), *_NUMBERS[1:], *_MORE)
_SECOND_LINE = (Column("  ROLE", lambda row, width: f"  {_role(row, width)}", 9, 99), *_MORE)
_SMALL = (*_NUMBERS, _MORE[4])  # in one line, which fails


def endpoint_lines(picture: Picture, controls: Controls, width: int, height: int) -> list[Text]:
    """At most `height` lines, titles included; what does not fit is counted in the last one."""
    if height < 2:
        return []
    gauges = arranged(picture.gauges, controls)
    if not len(gauges):
        return [plain_line("no endpoint matches the filter" if controls.filter else "no endpoint is known yet", width)]
    rows = [_Row(gauges, at) for at in range(len(gauges))]
    if width >= WIDE:
        return _one_line_each(rows, Table(_ONE_LINE, width), width, height)
    busy = int((~quiet(gauges)).sum())
    if width < _TWO_LINES or not busy or 2 + len(gauges) + busy > height:
        return _one_line_each(rows, Table(_NUMBERS if width >= _TWO_LINES else _SMALL, width), width, height)
    first, second = Table(_NUMBERS, width), Table(_SECOND_LINE, width)
    lines = [first.header(), second.header()]
    for at, row in enumerate(rows):
        lines += [first.line(row), second.line(row)] if at < busy else [first.line(row)]
    return lines


def _one_line_each(rows: list[_Row], table: Table[_Row], width: int, height: int) -> list[Text]:
    shown = len(rows) if len(rows) < height else max(height - 2, 1)
    lines = [table.header(), *map(table.line, rows[:shown])]
    if shown < len(rows) and len(lines) < height:
        lines.append(plain_line(f"and {len(rows) - shown} more endpoints", width))
    return lines
