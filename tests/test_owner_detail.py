"""tracer.owners.owner and register: details in captures, and which one is a connection's."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.owners.owner import OwnerDetail
from tracer.owners.register import DETAILS_PER_PID, OwnerRegister

NUMBERS = st.integers(-1, (1 << 63) - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
DETAILS = st.builds(
    OwnerDetail, pid=st.integers(0, 1 << 31), started_ns=NUMBERS, comm=st.binary(max_size=16), cmdline=TEXTS, cgroup_id=NUMBERS,
    cgroup=TEXTS, container=TEXTS, runtime=TEXTS, pod=TEXTS, unit=TEXTS, netns=NUMBERS, netns_name=TEXTS, uid=NUMBERS,
)  # fmt: skip
WHOLE = OwnerDetail(7, 5_000, b"pull", "pull x", 12, "/docker/a", "a", "docker", "", "", 4026531840, "host", 0)


@given(DETAILS)
def test_a_detail_comes_back_from_json_as_it_was(detail: OwnerDetail) -> None:
    assert OwnerDetail.from_json(json.loads(json.dumps(detail.to_json()))) == detail


def test_json_has_every_field_under_its_name() -> None:
    assert WHOLE.to_json() == asdict(WHOLE) | {"comm": "pull"}


@pytest.mark.parametrize("name", list(WHOLE.to_json()))
@pytest.mark.parametrize("value", [None, True, 1.0, [], {}, b"", "\ud800", "x" * 5000, -2, 1 << 64, [[[]]], float("nan")])
def test_a_field_of_another_type_or_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} of an owner"):
        OwnerDetail.from_json(WHOLE.to_json() | {name: value})


@pytest.mark.parametrize("comm", ["\\", "\\x4", "\\xZZ", "a" * 65])
def test_a_comm_that_no_process_has_is_refused(comm: str) -> None:
    with pytest.raises(ValueError, match="comm of an owner"):
        OwnerDetail.from_json(WHOLE.to_json() | {"comm": comm})


@pytest.mark.parametrize("value", [None, [], "x", 1, {}, WHOLE.to_json() | {"more": 1}])
def test_other_fields_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="other fields"):
        OwnerDetail.from_json(value)


def test_a_missing_field_is_refused() -> None:
    value: dict[str, Any] = WHOLE.to_json()
    del value["unit"]
    with pytest.raises(ValueError, match="other fields"):
        OwnerDetail.from_json(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(list(WHOLE.to_json())), JSON))
def test_any_value_is_a_detail_or_refused(changed: dict[str, object]) -> None:
    try:
        detail = OwnerDetail.from_json(WHOLE.to_json() | changed)
    except ValueError:
        return
    assert detail.to_json() == WHOLE.to_json() | changed


# --- which one ---


def _register(*details: OwnerDetail, capacity: int = 10) -> OwnerRegister:
    register = OwnerRegister(capacity)
    for detail in details:
        register.add(detail)
    return register


def test_a_connection_is_of_the_latest_process_that_had_begun() -> None:
    old, new = OwnerDetail(7, started_ns=100), OwnerDetail(7, started_ns=500)
    for register in (_register(old, new), _register(new, old)):
        assert [register.find(7, at) for at in (99, 100, 499, 500)] == [None, old, old, new]


def test_a_connection_from_another_cgroup_is_another_process() -> None:
    register = _register(OwnerDetail(7, started_ns=100, cgroup_id=1))
    assert register.find(7, 200, 2) is None


def test_an_unknown_cgroup_may_be_any() -> None:
    somewhere, nowhere = OwnerDetail(7, started_ns=100, cgroup_id=1), OwnerDetail(8, started_ns=100)
    register = _register(somewhere, nowhere)
    assert (register.find(7, 200), register.find(8, 200, 5)) == (somewhere, nowhere)


def test_what_only_the_cgroup_tells_gives_way_to_a_process() -> None:
    gone, seen = OwnerDetail(7, cgroup_id=1), OwnerDetail(7, started_ns=100, cgroup_id=1)
    for register in (_register(gone, seen), _register(seen, gone)):
        assert [register.find(7, at, 1) for at in (50, 150)] == [gone, seen]


def test_what_was_added_last_of_a_process_counts() -> None:
    first = OwnerDetail(7, started_ns=100, comm=b"sh")
    assert _register(first, replace(first, comm=b"curl")).find(7, 200) == replace(first, comm=b"curl")


def test_the_pid_that_was_unused_longest_is_forgotten_first() -> None:
    register = _register(OwnerDetail(1), OwnerDetail(2), capacity=2)
    register.find(1, 0)
    register.add(OwnerDetail(3))
    assert [register.find(pid, 0) is None for pid in (1, 2, 3)] == [False, True, False]


def test_no_more_details_of_a_pid_are_kept_than_allowed() -> None:
    register = _register(*(OwnerDetail(7, started_ns=at) for at in range(DETAILS_PER_PID + 3)))
    assert [register.find(7, at) is None for at in (2, 3)] == [True, False]
