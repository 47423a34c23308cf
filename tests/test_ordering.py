"""Order by any column: sorted() over the rows is the reference; and the names that people use for columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.traces import START_NS, path, trace, trace_of_seed
from tests.whole import collected_events, collected_replay
from tracer.collected.belonging import connection_of
from tracer.collected.ordering import column_name, column_names, order_of, with_all_states
from tracer.collected.selection import CONNECTIONS, FINDINGS, TRANSITIONS, Selection
from tracer.collected.tables import Column, Kind, connection_table, transition_table
from tracer.errors import UsageError
from tracer.filters.filters import Filters

CELLS = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=12)


@given(cells=CELLS, descending=st.booleans(), kind=st.sampled_from([Kind.INTEGER, Kind.TEXT, Kind.NUMBER, Kind.TIME]))
def test_rows_are_sorted_unknown_last_and_equal_ones_stay(cells: list[tuple[int, bool]], descending: bool, kind: Kind) -> None:
    values = [str(value) if kind is Kind.TEXT else value for value, _ in cells]
    column = np.empty(len(values), object if kind is Kind.TEXT else np.int64)
    column[:] = values
    known = [have for _, have in cells]
    order = order_of(Column("c", kind, column, np.array(known, bool)), descending).tolist()
    # sorted() keeps equal ones in their order when it reverses, too
    wanted = sorted((at for at in range(len(cells)) if known[at]), key=values.__getitem__, reverse=descending)
    assert order == [*wanted, *(at for at in range(len(cells)) if not known[at])]


@pytest.mark.parametrize(
    ("text", "name"),
    [("lifetime", "lifetime_ns"), ("lifetime_ns", "lifetime_ns"), ("opened", "opened_ns"), ("opened_at", "opened_at"),
     ("srtt", "srtt_us"), ("idle", "idle_ms"), ("received", "bytes_received"), ("unread", "unread_bytes"),
     ("time", "first_seen_ns"), ("port", "lport"),
     ("CLOSE_WAIT", "CLOSE_WAIT_state_ns"), ("established", "established_ns"), ("owner", "comm"), ("reason", "close_reason")],
)  # fmt: skip
def test_a_column_is_known_by_its_name_and_without_its_unit(text: str, name: str) -> None:
    assert column_name(text, with_all_states(connection_table(collected_replay("registry-pull")))) == name


def test_the_time_of_a_transition_is_its_own() -> None:
    assert column_name("time", transition_table(collected_replay("registry-pull"))) == "ts_ns"


@pytest.mark.parametrize("text", ["", "size", "_ns", "{}", "quux", "\x1b"])
def test_what_is_no_column_is_said_with_those_that_there_are(text: str) -> None:
    with pytest.raises(UsageError, match="expected one of endpoint, role, laddr") as raised:
        column_name(text, connection_table(collected_replay("registry-pull")))
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("lifetme", "lifetime_ns"),
        ("recieved", "bytes_received"),
        ("prot", "port"),
        ("close-reason", "close_reason"),
        ("ownr", "owner"),
    ],
)
def test_a_name_that_is_nearly_one_is_answered_with_that(text: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean .*{near}"):
        column_name(text, connection_table(collected_replay("registry-pull")))


def test_columns_are_named_once() -> None:
    table = connection_table(collected_replay("registry-pull"))
    assert column_names(["pid", "lifetime", "lifetime_ns"], table) == ["pid", "lifetime_ns"]


def test_a_state_that_no_connection_was_in_is_unknown_everywhere() -> None:
    table = with_all_states(connection_table(collected_replay("registry-pull")))
    assert table["CLOSING_state_ns"].objects() == [None] * len(table["pid"].values)


@pytest.mark.parametrize("kind", [CONNECTIONS, TRANSITIONS])
def test_a_part_of_a_selection_is_those_rows_of_the_table(kind: str) -> None:
    made = collected_events(trace_of_seed(5, 60))
    table = {CONNECTIONS: connection_table, TRANSITIONS: transition_table}[kind](made)
    selection = Selection(kind, made)
    index = np.arange(len(selection))[::-3]
    part = selection.part(index)
    assert selection.own_columns() == list(table)
    for name, column in table.items():
        whole = column.objects()
        assert part[name].objects() == [whole[at] for at in index.tolist()]


def test_the_time_after_the_transition_before_is_of_the_same_connection() -> None:
    made = collected_events(trace_of_seed(6, 60, 0.1))
    selection, owners = Selection(TRANSITIONS, made), connection_of(made).tolist()
    before: dict[int, int] = {}
    wanted = []
    for owner, ts_ns in zip(owners, made.events["ts_ns"].tolist(), strict=True):
        wanted.append(ts_ns - before[owner] if owner >= 0 and owner in before else None)
        before[owner] = ts_ns
    assert selection.part(np.arange(len(owners)))["after_ns"].objects() == wanted


def test_numbers_are_those_of_connections_and_of_episodes() -> None:
    made = collected_replay("lab-loop-429")
    for kind, numbers in ((CONNECTIONS, list(range(1, 17))), (FINDINGS, [each.episode for each in made.findings])):
        selection = Selection(kind, made)
        assert selection.part(selection.fitting(Filters()))["number"].objects() == numbers


def test_sorting_in_parts_is_sorting() -> None:
    made = collected_events(trace(*path("peer", [START_NS, START_NS + 5, START_NS + 6, START_NS + 8, START_NS + 9])))
    selection = Selection(TRANSITIONS, made)
    assert selection.ordered(np.arange(5), "after", True).tolist() == [1, 3, 2, 4, 0]
