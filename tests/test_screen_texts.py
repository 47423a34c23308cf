"""Numbers, bars, times and columns that stand still."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tests.traces import MS, SECOND
from tracer.clock import ClockOffset
from tracer.screen.moments import Moments
from tracer.screen.numbers import bytes_rate_text, life_text, rate_text, shares, size_text, span_text
from tracer.screen.sparkline import BLOCKS, PLAIN, sparkline
from tracer.screen.table import Column, Table, fitted, plain_line

MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (-1, "-"), (0, "0B"), (999, "999B"), (1000, "1.00kB"), (1004, "1.00kB"), (9_994, "9.99kB"), (9_996, "10.0kB"),
        (99_960, "100kB"), (999_499, "999kB"), (999_500, "1.00MB"), (12_345_678, "12.3MB"), (10**12, "1.00TB"),
        (5 * 10**15, "5000TB"),
    ],
)  # fmt: skip
def test_sizes_keep_three_digits(count: int, text: str) -> None:
    assert size_text(count) == text


@given(st.integers(0, 10**14))
def test_sizes_and_rates_fit_their_columns(count: int) -> None:
    assert len(size_text(count)) <= 6
    assert len(bytes_rate_text(float(count))) <= 6


@given(st.integers(0, 900 * DAY))
def test_durations_fit_their_columns(duration_ns: int) -> None:
    assert len(life_text(duration_ns)) <= 6
    assert len(span_text(duration_ns)) <= 6


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (-1, "-"), (0, "0s"), (59 * SECOND, "59s"), (60 * SECOND, "1m00s"), (HOUR - 1, "59m59s"),
        (3 * HOUR + 7 * MINUTE, "3h07m"), (5 * DAY + 2 * HOUR, "5d02h"), (400 * DAY, "400d"),
    ],
)  # fmt: skip
def test_spans_have_two_units(duration_ns: int, text: str) -> None:
    assert span_text(duration_ns) == text


@pytest.mark.parametrize(
    ("duration_ns", "text"), [(-1, "-"), (0, "0ns"), (1500, "1.50µs"), (2 * MS, "2.00ms"), (99 * SECOND, "99.0s")]
)
def test_lives_keep_three_digits(duration_ns: int, text: str) -> None:
    assert life_text(duration_ns) == text


def test_a_long_life_is_told_as_a_span() -> None:
    assert life_text(2 * HOUR) == "2h00m"


def test_rates_have_one_decimal_and_may_be_unknown() -> None:
    assert [rate_text(value) for value in (0.0, 0.25, 10_000.0, math.nan)] == ["0.0", "0.2", "10000.0", "-"]
    assert bytes_rate_text(math.nan) == "-"


def test_shares_of_nothing_are_unknown() -> None:
    assert shares([0, 0]) == ["-", "-"]
    assert shares([1, 3]) == ["25%", "75%"]


def test_bars_are_as_high_as_counts_and_the_latest_is_at_the_right() -> None:
    assert sparkline(np.array([8, 0, 1, 4, 8]), 4) == " ▁▄█"
    assert sparkline(np.array([3]), 4) == "   █"
    assert sparkline(np.zeros(5, np.int64), 4) == "    "


@given(st.lists(st.integers(0, 10**12), max_size=80), st.integers(1, 80))
def test_what_is_not_zero_is_seen(counts: list[int], width: int) -> None:
    line = sparkline(np.array(counts, np.int64), width)
    assert len(line) == width
    shown = counts[-width:]
    assert [bar != BLOCKS[0] for bar in line[width - len(shown) :]] == [count > 0 for count in shown]


def test_plain_bars_are_as_many_as_blocks() -> None:
    assert len(PLAIN) == len(BLOCKS)
    assert PLAIN.isascii()


def test_times_are_of_the_clock_in_utc() -> None:
    moments = Moments(ClockOffset(1_700_000_000 * SECOND, 1), 5 * SECOND)
    assert moments.text(6 * SECOND) == "22:13:26Z"
    assert moments.texts(np.array([6 * SECOND + 7 * MS, -1])) == ["22:13:26.007", "-"]
    assert moments.text(-1) == "-"


def test_without_a_clock_times_are_since_the_beginning() -> None:
    moments = Moments(None, 5 * SECOND)
    assert moments.text(65 * SECOND) == "+60s"
    assert moments.texts(np.array([6 * SECOND + 7 * MS, -1])) == ["+1.007s", "-"]


@given(st.text(max_size=30), st.integers(0, 20), st.booleans())
def test_what_is_fitted_has_its_width(text: str, width: int, right: bool) -> None:
    printable = "".join(character for character in text if character.isprintable())
    assert cell_len(fitted(printable, width, right=right)) == width


def test_a_number_is_never_cut() -> None:
    assert fitted("123456", 4, right=True) == "   …"
    assert fitted("abcdef", 4) == "abc…"


_COLUMNS = (
    Column[str]("NAME", lambda row, _: row, 6, 9, most=10),
    Column[str]("N", lambda _, width: "7" * min(width, 2), 4, 5, right=True),
    Column[str]("REST", lambda _row, _: "rest", 5, 7, style=lambda _: "red"),
)


def test_columns_that_do_not_fit_are_left_out_by_importance() -> None:
    assert Table(_COLUMNS, 12).header().plain == "NAME   REST "
    assert Table(_COLUMNS, 17).header().plain == "NAME      N REST "
    assert Table(_COLUMNS, 4).line("abcdef").plain == "abc…"


def test_widths_depend_on_the_terminal_alone() -> None:
    table = Table(_COLUMNS, 40)
    assert {len(table.line(row).plain) for row in ("", "a", "a" * 50)} == {21}


def test_styles_cover_their_cell_and_nothing_else() -> None:
    line = Table(_COLUMNS, 40).line("a")
    (span,) = line.spans
    assert line.plain[span.start : span.end] == "rest "


def test_a_line_is_as_wide_as_it_is_told() -> None:
    assert plain_line("日本語", 4).cell_len == 4
