"""Anonymous traces: nothing that identifies is left, and what happened stays the same."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import naive
from tests.traces import NETNS, SKADDR, as_dicts, cuts, event, trace, trace_of_seed, v4
from tracer.analysis import Analysis
from tracer.anonymise import KNOWN_CLIENTS, Anonymiser
from tracer.events import EVENT_DTYPE, EventBatch, Events, TcpState
from tracer.facts import AddressFact, EndpointFact, fact_json
from tracer.header import TraceHeader
from tracer.owners.owner import OwnerDetail
from tracer.roles import Role

S = TcpState
V6 = bytes.fromhex("2a020908000000000000000000000001")
SECRET = b"payroll"


def anonymised(events: Events) -> Events:
    return Anonymiser().batch(EventBatch(events, "ebpf", 1)).events


def one(**fields: object) -> np.void:
    return anonymised(trace(event(S.SYN_SENT, S.ESTABLISHED, 5, **fields)))[0]


def grouping(values: list[object]) -> list[int]:
    """Which values are equal: each by the place where it is seen first."""
    return [values.index(value) for value in values]


def header(**fields: object) -> TraceHeader:
    return TraceHeader("ebpf", "eBPF works", 1, host="node-7", **fields)


@pytest.mark.parametrize("field", ["saddr", "daddr"])
@pytest.mark.parametrize("address", [v4("10.20.30.40"), V6])
def test_addresses_are_replaced(field: str, address: bytes) -> None:
    assert one(**{field: address})[field].tobytes() != address


def test_an_ipv4_address_becomes_one_that_is_routed_nowhere() -> None:
    assert one()["daddr"].tobytes()[:14] == v4("198.18.0.0")[:14]


def test_an_ipv6_address_becomes_one_for_documentation() -> None:
    assert one(daddr=V6)["daddr"].tobytes()[:4] == bytes.fromhex("20010db8")


def test_an_address_that_is_not_known_stays_so() -> None:
    assert one(saddr=bytes(16))["saddr"].tobytes() == bytes(16)


def test_names_of_processes_are_replaced() -> None:
    assert one(comm=SECRET)["comm"] == b"process-1"


@pytest.mark.parametrize("comm", sorted(KNOWN_CLIENTS))
def test_names_of_registry_clients_stay(comm: bytes) -> None:
    assert one(comm=comm)["comm"] == comm


def test_known_clients_fit_into_a_process_name() -> None:
    assert all(len(comm) < 16 for comm in KNOWN_CLIENTS)


def test_a_name_that_was_not_read_stays_empty() -> None:
    assert one(comm=b"")["comm"] == b""


@pytest.mark.parametrize(("field", "value"), [("skaddr", SKADDR), ("netns", NETNS), ("cgroup_id", 77_777)])
def test_numbers_of_the_kernel_become_small_ones(field: str, value: int) -> None:
    assert one(**{field: value})[field] == 1


@pytest.mark.parametrize("field", ["skaddr", "netns", "cgroup_id"])
def test_a_number_of_zero_stays_zero(field: str) -> None:
    assert one(**{field: 0})[field] == 0


@pytest.mark.parametrize("field", ["saddr", "daddr", "comm", "skaddr", "netns", "cgroup_id"])
def test_what_was_equal_stays_equal_and_what_differed_differs(field: str) -> None:
    anonymiser = Anonymiser()
    events = trace_of_seed(51, 60)
    found = [row[field] for row in as_dicts(anonymiser.batch(EventBatch(events, "ebpf", 1)).events)]
    assert grouping(found) == grouping([row[field] for row in as_dicts(events)])


@pytest.mark.parametrize("field", ["saddr", "daddr", "comm", "skaddr", "netns", "cgroup_id"])
def test_a_stand_in_is_the_same_in_all_batches(field: str) -> None:
    events = trace_of_seed(52, 30)
    for batches in cuts(events):
        anonymiser = Anonymiser()
        found = [row[field] for batch in batches for row in as_dicts(anonymiser.batch(batch).events)]
        assert grouping(found) == grouping([row[field] for row in as_dicts(events)])


def test_an_address_has_one_stand_in_on_both_sides() -> None:
    made = one(saddr=v4("10.1.1.1"), daddr=v4("10.1.1.1"))
    assert made["saddr"].tobytes() == made["daddr"].tobytes()


def test_a_name_that_looks_like_a_stand_in_is_replaced_as_well() -> None:
    made = anonymised(trace(event(S.SYN_SENT, S.CLOSE, 1, comm=b"process-2"), event(S.SYN_SENT, S.CLOSE, 2, comm=b"other")))
    assert len(set(made["comm"].tolist())) == 2


def test_more_addresses_than_the_ipv4_range_holds_stay_different() -> None:
    events = np.zeros(70_000, EVENT_DTYPE)
    events["old_state"], events["new_state"] = S.SYN_SENT, S.CLOSE
    events["daddr"][:, 10:12] = 0xFF
    events["daddr"][:, 13:] = np.arange(70_000, dtype=">u4").view("u1").reshape(-1, 4)[:, 1:]
    assert len(np.unique(anonymised(events)["daddr"], axis=0)) == 70_000


@pytest.mark.parametrize(
    "field", sorted(set(EVENT_DTYPE.names or ()) - {"saddr", "daddr", "comm", "skaddr", "netns", "cgroup_id"})
)
def test_everything_else_stays(field: str) -> None:
    events = trace_of_seed(53, 60)
    assert (anonymised(events)[field] == events[field]).all()


def test_the_original_is_not_changed() -> None:
    events = trace_of_seed(54, 20)
    before = events.tobytes()
    anonymised(events)
    assert events.tobytes() == before


def test_what_a_batch_says_about_itself_stays() -> None:
    events = trace(event(S.SYN_SENT, S.CLOSE, 1))
    batch = EventBatch(events, "polled", 250, 3, 1, 9, np.array([4], np.uint64))
    made = Anonymiser().batch(batch)
    assert (made.source, made.resolution_ns, made.lost, made.lost_since_ns, made.lost_until_ns) == ("polled", 250, 3, 1, 9)
    assert made.early_ns is not None
    assert made.early_ns.tolist() == [4]


def test_the_connections_of_an_anonymous_trace_are_those_of_the_trace() -> None:
    names = ("opened_ns", "closed_ns", "lifetime_ns", "close_reason", "state_ns", "bytes_received", "lport")
    events = trace_of_seed(55, 150)
    original, anonymous = (naive.connections(as_dicts(each)) for each in (events, anonymised(events)))
    kept = [[[row[name] for name in names] for row in each.ended] for each in (anonymous, original)]
    assert kept[0] == kept[1]


def test_an_anonymous_trace_can_be_analysed() -> None:
    events = trace_of_seed(56, 60)
    counts = []
    for each in (events, anonymised(events)):
        analysis = Analysis("ebpf", 1, {})
        analysis.feed(EventBatch(each, "ebpf", 1))
        counts.append([(endpoint.connections, endpoint.closes) for endpoint in analysis.summary().endpoints])
    assert counts[0] == counts[1]


# --- header and labels


def test_a_header_has_no_host_and_says_that_it_is_anonymous() -> None:
    made = Anonymiser().header(header(settings={"registry": "secret.example"}))
    assert (made.host, made.settings) == ("", {"anonymised": "yes"})


def test_a_header_keeps_what_identifies_nobody() -> None:
    made = Anonymiser().header(header())
    assert (made.source, made.resolution_ns) == ("ebpf", 1)


def test_a_header_keeps_no_free_text() -> None:
    assert "eBPF works" not in Anonymiser().header(header()).why


def test_a_kernel_keeps_its_version_and_not_who_built_it() -> None:
    assert Anonymiser().header(header(kernel="Linux 6.1.0-13-acme-amd64 x86_64")).kernel == "Linux 6.1 x86_64"


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("secret.example:5000", "registry-3:5000"),
        ("secret.example:*", "registry-3:*"),
        ("[2001:db8::1]:443", "registry-3:443"),
        ("10.0.0.0/8:443", "registry-3:443"),
    ],
)
def test_a_label_keeps_its_number_and_port(label: str, shown: str) -> None:
    assert Anonymiser().header(header(endpoints={3: label})).endpoints == {3: shown}


@pytest.mark.parametrize("label", ["secret.example", "[2001:db8::1]", "secret:name", ""])
def test_a_label_without_a_port_leaves_nothing_of_itself(label: str) -> None:
    """Labels of a hand-written trace are free text."""
    shown = Anonymiser().header(header(endpoints={3: label})).endpoints[3]
    assert shown.startswith("registry-3")
    assert not any(part in shown for part in ("secret", "name", "]", ":1"))


def test_labels_that_become_known_later_are_replaced_in_the_same_way() -> None:
    batch = EventBatch(trace(), "ebpf", 1, endpoints=((3, "secret.example:5000"),))
    anonymiser = Anonymiser()
    assert dict(anonymiser.batch(batch).endpoints) == anonymiser.header(header(endpoints={3: "secret.example:5000"})).endpoints


FACTS = (
    EndpointFact(1, "registry.corp.example:5000", Role.MIRROR, "/etc/docker/daemon.json: secret-team", "hub.corp.example", True),
    AddressFact(1, "10.20.30.40", True, 5),
    AddressFact(1, "2001:db8:7::1", False, 6),
    OwnerDetail(
        pid=7, started_ns=5, comm=SECRET, cmdline="payroll --of alice", cgroup_id=77, cgroup="/payroll.slice", container="c" * 64,
        runtime="docker", pod="pod-uid", unit="payroll.service", netns=4026, netns_name="payroll-ns", uid=1007,
    ),
)  # fmt: skip


def test_facts_keep_nothing_that_identifies() -> None:
    batch = Anonymiser().batch(EventBatch(trace(), "ebpf", 1, facts=FACTS))
    told = json.dumps([fact_json(fact) for fact in batch.facts])
    for word in ("corp", "secret-team", "10.20.30.40", "2001:db8:7", "payroll", "alice", "c" * 64, "pod-uid", "4026", "1007"):
        assert word not in told


def test_facts_keep_what_says_what_kind_of_thing_it_is() -> None:
    endpoint, _, _, owner = Anonymiser().batch(EventBatch(trace(), "ebpf", 1, facts=FACTS)).facts
    assert endpoint == EndpointFact(1, "registry-1:5000", Role.MIRROR, "learnt", "*", True)
    assert isinstance(owner, OwnerDetail)
    assert (owner.pid, owner.runtime, owner.container, owner.pod, owner.unit) == (7, "docker", "container-1", "pod-1", "unit-1")


@pytest.mark.parametrize(
    ("field", "value"), [("unit", "docker.service"), ("netns_name", "host"), ("netns_name", "own"), ("netns_name", "container")]
)
def test_well_known_places_of_owners_stay(field: str, value: str) -> None:
    (owner,) = Anonymiser().batch(EventBatch(trace(), "ebpf", 1, facts=(OwnerDetail(pid=7, **{field: value}),))).facts
    assert getattr(owner, field) == value


def test_facts_and_events_have_the_same_stand_ins() -> None:
    anonymiser = Anonymiser()
    facts = (OwnerDetail(pid=7, comm=SECRET, cgroup_id=77, netns=4026), AddressFact(1, "10.20.30.40", True, 5))
    events = trace(event(S.SYN_SENT, S.ESTABLISHED, 5, comm=SECRET, cgroup_id=77, netns=4026, daddr=v4("10.20.30.40")))
    for order in (facts, ()):
        batch = anonymiser.batch(EventBatch(events.copy(), "ebpf", 1, facts=order))
        owner, address = batch.facts or (owner, address)  # noqa: F821 - of the round before
    seen = batch.events[0]
    assert isinstance(owner, OwnerDetail)
    assert (owner.comm, owner.cgroup_id, owner.netns) == (seen["comm"], seen["cgroup_id"], seen["netns"])
    assert isinstance(address, AddressFact)
    assert v4(address.address) == seen["daddr"].tobytes()
