"""Text: no byte of a process name is lost, nothing unprintable is printed, and numbers are short."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces import v4
from tracer.text import address_text, bytes_text, comm_bytes, comm_text, duration_text, printable

COMMS = st.lists(st.integers(1, 255), max_size=15).map(bytes)
SHORT = re.compile(r"\d+(\.\d+)?(ns|µs|ms|s|B|kB|MB|GB|TB)")


@given(COMMS)
def test_a_process_name_comes_back_as_it_was(comm: bytes) -> None:
    assert comm_bytes(comm_text(comm)) == comm


@given(COMMS, COMMS)
def test_different_process_names_have_different_texts(one: bytes, other: bytes) -> None:
    assert (comm_text(one) == comm_text(other)) == (one == other)


@pytest.mark.parametrize(
    ("comm", "text"),
    [
        (b"dockerd", "dockerd"),
        ("bücher".encode(), "bücher"),
        (b"\xff\xfe", r"\xff\xfe"),
        (rb"a\b", r"a\x5cb"),
        (rb"\xff", r"\x5cxff"),
        (b"cut \xc3", r"cut \xc3"),
        (b"", ""),
    ],
)
def test_a_process_name_is_utf_8_with_the_rest_escaped(comm: bytes, text: str) -> None:
    assert comm_text(comm) == text


def test_the_text_of_a_process_name_can_be_written_as_utf_8() -> None:
    assert comm_text(b"\xed\xa0\x80").encode() == rb"\xed\xa0\x80"


@given(st.text())
def test_what_is_printed_is_printable(text: str) -> None:
    assert printable(text).isprintable()


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"))))
def test_what_is_printable_is_printed_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x9b", r"\x9b"),
        ("\u202edrowssap", r"\u202edrowssap"),
        ("\ud800", r"\ud800"),
        ("a b", "a b"),
    ],
)
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (v4("203.0.113.7"), "203.0.113.7"),
        (v4("0.0.0.0"), "0.0.0.0"),
        (bytes(15) + b"\x01", "::1"),
        (b"\x20\x01\x0d\xb8" + bytes(12), "2001:db8::"),
        (bytes(16), None),
    ],
)
def test_an_address_is_shown_in_its_own_family(address: bytes, text: str | None) -> None:
    assert address_text(address) == text


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (-1, "-"),
        (0, "0ns"),
        (999, "999ns"),
        (1000, "1µs"),
        (1234, "1.23µs"),
        (999_400, "999µs"),
        (1_000_000, "1ms"),
        (30_000_000_000, "30s"),
        (1_234_567_890, "1.23s"),
        (86_400_000_000_000, "86400s"),
    ],
)
def test_a_duration_has_three_digits_and_a_unit(duration_ns: int, text: str) -> None:
    assert duration_text(duration_ns) == text


@pytest.mark.parametrize("duration_ns", [999_499, 999_500, 999_999, 999_999_999, 999_999_999_999])
def test_a_duration_that_rounds_up_to_the_next_unit_has_no_exponent(duration_ns: int) -> None:
    assert SHORT.fullmatch(duration_text(duration_ns))


@given(st.integers(0, 2**63 - 1))
def test_any_duration_is_a_plain_number_with_a_unit(duration_ns: int) -> None:
    assert SHORT.fullmatch(duration_text(duration_ns))


@pytest.mark.parametrize(
    ("count", "text"),
    [(-1, "-"), (0, "0B"), (999, "999B"), (1000, "1kB"), (1234, "1.23kB"), (31_000_000, "31MB"), (5 * 10**12, "5TB")],
)
def test_a_number_of_bytes_has_three_digits_and_a_unit(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize("count", [999_499, 999_500, 999_999, 999_999_999, 10**15, 2**63])
def test_a_number_of_bytes_has_no_exponent(count: int) -> None:
    assert SHORT.fullmatch(bytes_text(count))


@given(st.integers(0, 2**63 - 1))
def test_any_number_of_bytes_is_a_plain_number_with_a_unit(count: int) -> None:
    assert SHORT.fullmatch(bytes_text(count))
