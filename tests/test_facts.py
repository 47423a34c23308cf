"""Facts as JSON: there and back, and whatever somebody wrote instead."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.events import KernelCounts
from tracer.facts import AddressFact, EndpointFact, Fact, fact_json, fact_of
from tracer.owners.owner import OwnerDetail
from tracer.roles import Role

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
FACTS = st.one_of(
    st.builds(
        EndpointFact,
        st.integers(1, (1 << 32) - 1),
        TEXT,
        st.sampled_from(Role),
        TEXT,
        st.sampled_from(["", "*", "docker.io"]),
        st.booleans(),
    ),
    st.builds(AddressFact, st.integers(1, 9), st.ip_addresses().map(str), st.booleans(), st.integers(0, (1 << 62) - 1)),
    st.builds(OwnerDetail, pid=st.integers(0, 1 << 22), cmdline=TEXT, container=TEXT, comm=st.binary(max_size=15)),
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(FACTS)
def test_a_fact_survives_json(fact: Fact) -> None:
    again = fact_of(json.loads(json.dumps(fact_json(fact))))
    if isinstance(fact, OwnerDetail):
        assert isinstance(again, OwnerDetail)
        assert (again.pid, again.cmdline, again.container) == (fact.pid, fact.cmdline, fact.container)
    else:
        assert again == fact


@given(FACTS, st.data(), ANYTHING)
def test_a_fact_with_anything_in_a_field_is_refused_or_read(fact: Fact, data: st.DataObject, value: object) -> None:
    told = fact_json(fact)
    told[data.draw(st.sampled_from(sorted(told)))] = value
    with contextlib.suppress(ValueError):
        fact_of(told)


@given(ANYTHING)
def test_anything_is_refused_or_read(value: object) -> None:
    with contextlib.suppress(ValueError):
        fact_of(value)


def test_a_role_of_a_later_version_is_not_known() -> None:
    found = fact_of({"type": "endpoint", "id": 1, "endpoint": "r", "role": "cache"})
    assert found == EndpointFact(1, "r", Role.UNKNOWN)


@pytest.mark.parametrize("value", [0, -1, 1 << 32, True, "1", 1.0])
def test_an_endpoint_has_a_number_of_32_bits(value: object) -> None:
    with pytest.raises(ValueError, match="id"):
        fact_of({"type": "endpoint", "id": value, "endpoint": "r"})


def test_totals_that_are_unknown_are_left_out_and_come_back_unknown() -> None:
    counts = KernelCounts(in_use=5, resets_sent=7)
    assert counts.to_json() == {"in_use": 5, "resets_sent": 7}
    assert KernelCounts.from_json(counts.to_json() | {"of a later version": 1}) == counts
    assert KernelCounts.from_json(None) is None


@pytest.mark.parametrize("value", [[], 3, {"in_use": "5"}, {"in_use": True}])
def test_totals_that_are_none_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"total|whole"):
        KernelCounts.from_json(value)
