"""Keys out of bytes, and what is chosen with them."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.screen.controls import SORTS, Controls
from tracer.screen.keys import BACKSPACE, CLEAR, ENTER, ESCAPE, REDRAW, KeyReader


def pressed(*keys: str) -> Controls:
    return reduce(Controls.press, keys, Controls())


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"p", ["p"]),
        (b" q", [" ", "q"]),
        (b"\r\n", [ENTER, ENTER]),
        (b"\x7f\x08", [BACKSPACE, BACKSPACE]),
        (b"\x15\x0c", [CLEAR, REDRAW]),
        (b"\x1b", [ESCAPE]),
        (b"\x1b[A", []),
        (b"\x1b[1;5Cq", ["q"]),
        (b"\x1bOPq", ["q"]),
        (b"\x1bxq", ["q"]),
        (b"\x1b\x1b", [ESCAPE, ESCAPE]),
        (b"\x1b[200~s", ["s"]),
        (b"\x00\x01", []),
        ("é日".encode(), ["é", "日"]),
        (b"\xff", []),
    ],
)
def test_bytes_are_keys(data: bytes, keys: list[str]) -> None:
    assert KeyReader().feed(data) == keys


def test_a_character_may_come_in_two_reads() -> None:
    reader = KeyReader()
    first, second = "é".encode()
    assert (reader.feed(bytes([first])), reader.feed(bytes([second]))) == ([], ["é"])


def test_a_sequence_may_come_in_two_reads() -> None:
    reader = KeyReader()
    assert (reader.feed(b"\x1b["), reader.feed(b"Aq")) == ([], ["q"])


@given(st.lists(st.binary(max_size=12), max_size=6))
def test_whatever_comes_keys_are_printable_or_have_names(reads: list[bytes]) -> None:
    reader = KeyReader()
    keys = [key for data in reads for key in reader.feed(data)]
    assert all((len(key) == 1 and key.isprintable()) or key in (ENTER, ESCAPE, BACKSPACE, CLEAR, REDRAW) for key in keys)


@given(st.lists(st.sampled_from([*"pstfq?x/ ", ENTER, ESCAPE, BACKSPACE, CLEAR, REDRAW])))
def test_whatever_is_pressed_is_a_choice(keys: list[str]) -> None:
    controls = pressed(*keys)
    assert controls.sort in SORTS
    assert controls.typed is None or not controls.quit or "q" in keys


def test_orders_come_round() -> None:
    assert [pressed(*"s" * count).sort for count in range(len(SORTS) + 1)] == [*SORTS, SORTS[0]]


@pytest.mark.parametrize("key", ["p", " "])
def test_a_key_pauses_and_goes_on(key: str) -> None:
    assert pressed(key).paused
    assert not pressed(key, key).paused


def test_a_filter_holds_from_enter_on() -> None:
    assert pressed("f", *"qps").typed == "qps"
    assert pressed("f", *"qps").filter == ""
    assert pressed("f", *"qps", ENTER) == Controls(filter="qps")


def test_what_is_typed_can_be_changed() -> None:
    assert pressed("f", *"abc", BACKSPACE).typed == "ab"
    assert pressed("f", *"abc", CLEAR).typed == ""
    assert pressed("f", *"abc", ENTER, "f").typed == "abc"


def test_escape_clears_the_filter_typed_or_not() -> None:
    assert pressed("f", *"abc", ESCAPE) == Controls()
    assert pressed("f", *"abc", ENTER, ESCAPE) == Controls()


def test_escape_closes_the_help_first() -> None:
    assert pressed("f", "a", ENTER, "?", ESCAPE) == Controls(filter="a")


def test_while_typing_keys_are_text() -> None:
    assert not pressed("f", "q").quit
    assert pressed("q").quit


def test_a_filter_has_an_end() -> None:
    assert len(pressed("f", *"x" * 1000).typed or "") == 64
