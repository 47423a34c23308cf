"""tracer.names.book: what is kept of answers, and for how long; nothing is lost through a failure."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.names.book import (
    ADDRESSES_MAX,
    ASKED_S,
    GRACE_S,
    NAMES_MAX,
    PAST_MAX,
    RETRY_S_MAX,
    TTL_S_MAX,
    TTL_S_MIN,
    Change,
    Interval,
    NameBook,
)
from tracer.names.records import Answer, failed

S = 1_000_000_000
NAME = "registry.example"
A, B, C, D = "10.0.0.1", "10.0.0.2", "2001:db8::3", "10.0.0.4"


def answered(*addresses: str, ttl_s: int = 60, name: str = NAME) -> Answer:
    return Answer(name, addresses, ttl_s)


def many(n: int, begin: int = 0) -> tuple[str, ...]:
    return tuple(str(ipaddress.IPv4Address((10 << 24) + at)) for at in range(begin, begin + n))


def book_at(now_ns: int, *answers: Answer) -> NameBook:
    """A book of NAME that got these answers at one time."""
    book = NameBook([NAME])
    for answer in answers:
        book.take(answer, now_ns)
    return book


# --- when to ask ---


def test_a_new_name_is_due_at_once_and_told_once() -> None:
    book = NameBook([NAME])
    assert (book.due(0), book.due(0), book.due(ASKED_S * S - 1)) == ([NAME], [], [])


def test_a_name_whose_answer_never_came_is_due_again() -> None:
    book = NameBook([NAME])
    book.due(0)
    assert book.due(ASKED_S * S) == [NAME]


@pytest.mark.parametrize(
    ("ttl_s", "after_s"),
    [(60, 60), (0, TTL_S_MIN), (1, TTL_S_MIN), (5, 5), (300, 300), (86400, TTL_S_MAX), (2**31 - 1, TTL_S_MAX)],
)
def test_a_name_is_due_when_its_answer_is_too_old_within_bounds(ttl_s: int, after_s: int) -> None:
    book = book_at(7 * S, answered(A, ttl_s=ttl_s))
    assert book.due((7 + after_s) * S - 1) == []
    assert book.due((7 + after_s) * S) == [NAME]


def test_failures_are_asked_about_again_ever_less_often_but_once_a_minute() -> None:
    book, now_ns, waits = NameBook([NAME]), 0, []
    for _ in range(8):
        book.take(failed(NAME, "SERVFAIL"), now_ns)
        wait_s = next(wait_s for wait_s in range(1, 400) if book.due(now_ns + wait_s * S))
        waits.append(wait_s)
        now_ns += wait_s * S
    assert waits == [5, 10, 20, 40, *[RETRY_S_MAX] * 4]


def test_after_an_answer_failures_are_counted_anew() -> None:
    book = book_at(0, *[failed(NAME, "SERVFAIL")] * 5, answered(A), failed(NAME, "SERVFAIL"))
    assert book.due(TTL_S_MIN * S) == [NAME]


def test_names_are_due_each_in_its_time() -> None:
    book = NameBook(["a.example", "b.example"])
    book.due(0)
    book.take(answered(A, ttl_s=10, name="a.example"), 0)
    book.take(answered(B, ttl_s=20, name="b.example"), 0)
    assert [book.due(at_s * S) for at_s in (9, 10, 11, 20)] == [[], ["a.example"], [], ["b.example"]]


def test_names_are_the_same_in_upper_case_and_with_the_dot_of_the_root() -> None:
    book = NameBook(["Registry.Example.", NAME])
    assert NAME in book
    assert book.due(0) == [NAME]


def test_names_beyond_the_most_are_refused_once() -> None:
    book = NameBook(f"n{at}.example" for at in range(NAMES_MAX + 5))
    book.watch(["one-more.example"])
    assert len(book.due(0)) == NAMES_MAX
    assert len(book.problems()) == 1


# --- which addresses ---


def test_the_book_follows_a_name_that_moves_within_one_ttl() -> None:
    book = book_at(0, answered(A, ttl_s=20))
    assert book.due(20 * S) == [NAME]
    book.take(answered(B, ttl_s=20), 20 * S)
    assert B in book.addresses(NAME)


def test_rotating_answers_are_collected_with_the_last_ones_first() -> None:
    book = book_at(0, answered(A, B), answered(B, C), answered(D))
    assert book.addresses(NAME) == (D, A, B, C)


def test_an_address_that_left_stays_for_the_time_of_grace_and_then_goes() -> None:
    book = book_at(0, answered(A))
    book.take(answered(B), 60 * S)
    book.due((60 + GRACE_S) * S - 1)
    assert set(book.addresses(NAME)) == {A, B}
    book.due((60 + GRACE_S) * S)
    assert book.addresses(NAME) == (B,)


def test_an_address_of_the_last_answer_never_goes_by_itself() -> None:
    book = book_at(0, answered(A))
    for at_s in range(0, 86400, 100):
        book.due(at_s * S)
    assert book.addresses(NAME) == (A,)


def test_the_grace_of_an_address_that_came_back_begins_anew() -> None:
    book = book_at(0, answered(A))
    book.take(answered(B), 100 * S)
    book.take(answered(A), 500 * S)
    book.take(answered(B), 600 * S)
    book.due(1199 * S)
    assert A in book.addresses(NAME)
    book.due(1200 * S)
    assert A not in book.addresses(NAME)


def test_a_long_failure_takes_no_address_away_and_none_of_its_grace() -> None:
    book = book_at(0, answered(A, B))
    for at_s in range(60, 7200, 60):
        book.take(failed(NAME, "SERVFAIL"), at_s * S)
        book.due(at_s * S)
    assert book.addresses(NAME) == (A, B)
    book.take(answered(C), 7200 * S)
    book.due((7200 + GRACE_S - 1) * S)
    assert set(book.addresses(NAME)) == {A, B, C}


def test_an_address_with_open_connections_stays_and_goes_with_the_last_one() -> None:
    book = book_at(0, answered(A))
    book.hold([A, D])
    book.take(answered(B), 1 * S)
    book.due(10 * GRACE_S * S)
    assert set(book.addresses(NAME)) == {A, B}
    book.hold([D])
    book.due(10 * GRACE_S * S)
    assert book.addresses(NAME) == (B,)


def test_an_answer_for_another_name_changes_nothing() -> None:
    book = book_at(0, answered(A), answered(B, name="other.example"))
    assert (book.addresses(NAME), book.addresses("other.example"), len(book.changes())) == ((A,), (), 1)


# --- too many ---


def test_of_five_thousand_addresses_the_same_256_stay_and_it_is_said_once() -> None:
    book = book_at(0, answered(*many(5000)))
    first = set(book.addresses(NAME))
    book.take(answered(*reversed(many(5000))), 60 * S)
    assert len(first) == ADDRESSES_MAX
    assert set(book.addresses(NAME)) == first
    assert book.problems() == [f"{NAME}: it has more than 256 addresses; the rest is not watched"]


def test_where_rotation_goes_on_for_ever_the_longest_gone_make_room() -> None:
    book = NameBook([NAME])
    for turn in range(100):
        book.take(answered(*many(8, turn * 8)), turn * S)
    assert set(book.addresses(NAME)) == set(many(ADDRESSES_MAX, 800 - ADDRESSES_MAX))


def test_held_addresses_are_not_pushed_out() -> None:
    book = book_at(0, answered(A, C))
    book.hold([A, C])
    for turn in range(1, 5):
        book.take(answered(*many(300, turn * 1000)), turn * S)
    assert {A, C} <= set(book.addresses(NAME))
    assert len(book.addresses(NAME)) == ADDRESSES_MAX


# --- overheard ---


def test_an_overheard_address_is_added_and_goes_if_it_is_not_heard_again() -> None:
    book = book_at(0, answered(A))
    book.take(answered(B), 10 * S, overheard=True)
    book.take(answered(B), 50 * S, overheard=True)
    book.due((50 + GRACE_S) * S - 1)
    assert book.addresses(NAME) == (A, B)
    book.due((50 + GRACE_S) * S)
    assert book.addresses(NAME) == (A,)


def test_overheard_answers_put_no_look_up_off() -> None:
    book = book_at(0, answered(A, ttl_s=10))
    book.take(answered(B, ttl_s=300), 9 * S, overheard=True)
    assert book.due(10 * S) == [NAME]


def test_a_flood_of_forged_answers_pushes_no_true_address_out() -> None:
    book = book_at(0, answered(A, B))
    book.take(answered(C), 1 * S)
    for turn in range(100):
        book.take(answered(*many(100, 5000 + turn * 100)), 2 * S, overheard=True)
    assert {A, B, C} <= set(book.addresses(NAME))
    assert len(book.addresses(NAME)) == ADDRESSES_MAX
    book.take(answered(D), 3 * S)
    assert {A, B, C, D} <= set(book.addresses(NAME))
    assert len(book.addresses(NAME)) == ADDRESSES_MAX


def test_an_overheard_address_that_a_look_up_confirmed_is_like_any_other() -> None:
    book = NameBook([NAME])
    book.take(answered(A), 0, overheard=True)
    book.take(answered(A), 1 * S)
    book.take(answered(B), 2 * S)
    book.take(answered(*many(ADDRESSES_MAX, 5000)), 3 * S, overheard=True)
    book.take(answered(D), 4 * S)
    assert {A, B, D} <= set(book.addresses(NAME))


# --- what is told ---


def test_changes_are_told_once_with_their_time() -> None:
    book = book_at(3, answered(A))
    assert book.changes() == [Change(NAME, A, True, 3)]
    assert book.changes() == []
    book.take(answered(B), 4)
    book.due(4 + GRACE_S * S)
    assert book.changes() == [Change(NAME, B, True, 4), Change(NAME, A, False, 4 + GRACE_S * S)]


def test_what_came_and_went_between_two_questions_is_no_change() -> None:
    book = book_at(0, answered(A))
    book.changes()
    book.take(answered(B), 1, overheard=True)
    book.due(1 + GRACE_S * S)
    assert book.changes() == []


def test_the_history_tells_when_each_address_was_the_names() -> None:
    book = book_at(0, answered(A))
    book.take(answered(B), 10)
    gone_ns = 10 + GRACE_S * S
    book.due(gone_ns)
    book.take(answered(A), gone_ns + 5)
    assert book.history(NAME) == (Interval(A, 0, gone_ns), Interval(B, 10, -1), Interval(A, gone_ns + 5, -1))


def test_the_history_is_bounded() -> None:
    book = NameBook([NAME])
    for turn in range(2 * PAST_MAX):
        book.take(answered(str(ipaddress.IPv4Address(turn + (11 << 24)))), turn * GRACE_S * S)
        book.due(turn * GRACE_S * S)
    assert len([interval for interval in book.history(NAME) if interval.end_ns >= 0]) == PAST_MAX


def test_a_failure_is_said_once_with_what_becomes_of_the_addresses() -> None:
    book = book_at(0, answered(A), *[failed(NAME, "SERVFAIL")] * 3)
    assert book.problems() == [f"{NAME}: SERVFAIL; the addresses it had stay watched"]
    book.take(failed(NAME, "SERVFAIL"), 5)
    assert book.problems() == []


def test_names_with_the_same_problem_share_a_line() -> None:
    names = [f"n{at}.example" for at in range(20)]
    book = NameBook(names)
    for name in names:
        book.take(failed(name, "no name server answers within 5 s"), 0)
    assert book.problems() == ["n0.example, n1.example, n2.example and 17 more: no name server answers within 5 s"]


def test_problems_are_bounded_and_printable() -> None:
    book = book_at(0, *[failed(NAME, f"\x1b[31m{at}") for at in range(1000)])
    lines = book.problems()
    assert 0 < len(lines) < 20
    assert all(line.isprintable() for line in lines)


# --- whatever happens ---

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["answer", "fail", "overhear", "hold", "wait"]),
        st.lists(st.sampled_from(many(12)), max_size=6, unique=True),
        st.integers(0, 700),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_nothing_current_recent_or_held_is_ever_missing_and_changes_add_up(steps: list[tuple[str, list[str], int]]) -> None:
    book, now_ns = NameBook([NAME]), 0
    current: tuple[str, ...] = ()
    left_ns: dict[str, int] = {}
    held: set[str] = set()
    told: set[str] = set()
    for what, addresses, wait_s in steps:
        now_ns += wait_s * S
        if what == "answer" and addresses:
            left_ns.update(dict.fromkeys(current, now_ns))
            current = tuple(addresses)
            book.take(answered(*addresses), now_ns)
        elif what == "fail":
            book.take(failed(NAME, "SERVFAIL"), now_ns)
        elif what == "overhear":
            book.take(answered(*addresses), now_ns, overheard=True)
        elif what == "hold":
            held = set(addresses)
            book.hold(held)
        before = set(book.addresses(NAME))
        book.due(now_ns)
        now_known = set(book.addresses(NAME))
        recent = {address for address, at_ns in left_ns.items() if now_ns < at_ns + GRACE_S * S}
        assert set(current) | recent | (held & before) <= now_known
        for change in book.changes():
            (told.add if change.added else told.discard)(change.address)
        assert told == now_known
        assert {interval.address for interval in book.history(NAME) if interval.end_ns < 0} == now_known
