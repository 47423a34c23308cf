"""From lines to a trace: what was printed comes back, whatever is missing stays unknown."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import printed
from tests.test_imports_formats import PRINTERS
from tests.traces import MS, SECOND, Life, S, build, event, lives_of, trace, v4
from tracer.analysis import Analysis
from tracer.errors import UsageError
from tracer.events import EVENT_DTYPE, EventBatch, EventFlag, Events
from tracer.facts import AddressFact, EndpointFact
from tracer.imports.columns import columns_of
from tracer.imports.ends import Ends
from tracer.imports.formats import FORMATS
from tracer.imports.importer import Importer
from tracer.imports.readings import Transition, address
from tracer.imports.selection import Selection
from tracer.imports.window import Loss, Piece, Window, parted
from tracer.lifecycle import REASON_NAMES
from tracer.roles import Role

EVERYTHING = ["0.0.0.0/0:*", "[::]/0:*"]


def imported(
    lines: Sequence[bytes], registries: Sequence[str] = EVERYTHING, block: int = 1 << 16
) -> tuple[Importer, list[EventBatch]]:
    """What becomes of lines."""
    importer = Importer(Selection(registries, ()), FORMATS)
    batches: list[EventBatch] = []
    for start in range(0, len(lines), block):
        batches += importer.feed(lines[start : start + block])
    return importer, batches + importer.finish()


def events_of(batches: list[EventBatch]) -> Events:
    return np.concatenate([np.zeros(0, EVENT_DTYPE), *(batch.events for batch in batches)])


def lives(seed: int, count: int = 30) -> Events:
    """Transitions of a trace, all of them with owners, in the order of time."""
    made = [Life(**{**vars(life), "netns": 0, "blind": EventFlag(0), "portless": 0}) for life in lives_of(Random(seed), count, 5)]
    events = printed.only_transitions(build(made))
    return events[np.argsort(events["ts_ns"], kind="stable")]


def judged(batches: list[EventBatch], importer: Importer) -> Analysis:
    header = importer.header()
    made = Analysis(header.source, header.resolution_ns, header.endpoints, loss_known=header.loss_known)
    for batch in batches:
        made.feed(batch)
    return made


@pytest.mark.parametrize("name", PRINTERS)
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_what_was_printed_comes_back(name: str, seed: int) -> None:
    events = lives(seed)
    importer, batches = imported(PRINTERS[name][1](events))
    found = events_of(batches)
    assert importer.misunderstood == 0
    exact = name in ("ftrace", "perf", "key=value", "narrow -tT", "csv -stT")
    if not exact:  # then those of different sockets may change places
        events, found = (each[np.argsort(each["skaddr"], kind="stable")] for each in (events, found))
    for field in ("old_state", "new_state", "daddr", "dport", "sport", "pid"):
        assert (found[field] == events[field]).all()
    if "ftrace" != name != "perf":
        assert (found["skaddr"] == events["skaddr"]).all()
    if exact:
        assert (abs(found["ts_ns"].astype(np.int64) - events["ts_ns"].astype(np.int64)) <= 1000).all()


@pytest.mark.parametrize("name", ["narrow -tT", "csv -stT", "key=value", "ftrace"])
@settings(max_examples=6)
@given(seed=st.integers(0, 10_000), block=st.integers(1, 40))
def test_exact_times_give_the_same_trace_however_lines_are_read(name: str, seed: int, block: int) -> None:
    lines = PRINTERS[name][1](lives(seed))
    whole, cut = (events_of(imported(lines, block=size)[1]) for size in (1 << 16, max(block, 3)))
    assert (whole == cut).all()


@settings(max_examples=30)
@given(data=st.lists(st.one_of(st.binary(max_size=80), st.sampled_from(printed.tcpstates(lives(1), time=True))), max_size=40))
def test_no_lines_raise(data: list[bytes]) -> None:
    importer, batches = imported(data, block=7)
    if importer.format is not None:
        judged(batches, importer)
    assert importer.lines == len(data)


def test_an_error_that_is_not_shown_leaves_the_end_unknown() -> None:
    """A refusal, a time-out and a reset look alike without sk_err."""
    ends = ("refused", "timeout", "aborted", "reset", "local-reset", "peer", "local")
    events = printed.only_transitions(build([Life(path, socket=number, gaps_ns=(MS,)) for number, path in enumerate(ends)]))
    importer, batches = imported(printed.tcpstates(events, since=True))
    found = [row for batch in [EventBatch(events_of(batches), "ebpf", 1)] for row in Analysis("ebpf", 1, {}).feed(batch).ended]
    by_socket = sorted((int(row["skaddr"]), REASON_NAMES[row["close_reason"]]) for row in found)
    assert [reason for _, reason in by_socket] == ["unknown"] * 5 + ["peer", "local"]
    assert importer.misunderstood == 0


def test_an_error_that_is_shown_tells_the_ends_apart() -> None:
    ends = ("refused", "timeout", "aborted", "reset", "local-reset", "peer", "local")
    events = printed.only_transitions(build([Life(path, socket=number, gaps_ns=(MS,)) for number, path in enumerate(ends)]))
    _, batches = imported(printed.key_value(events))
    rows = Analysis("ebpf", 1, {}).feed(EventBatch(events_of(batches), "ebpf", 1)).ended
    assert [REASON_NAMES[row["close_reason"]] for row in rows[np.argsort(rows["skaddr"])]] == list(ends)


def test_nothing_is_valid_that_a_line_does_not_tell() -> None:
    _, batches = imported(printed.tcpstates(lives(4), time=True))
    told = int(np.bitwise_or.reduce(events_of(batches)["flags"]))
    expected = EventFlag.HAS_TASK | EventFlag.OWNER | EventFlag.HAS_SADDR | EventFlag.HAS_SPORT
    assert told == expected


def test_the_owner_is_known_at_the_opening_only() -> None:
    _, batches = imported(printed.tcpstates(lives(5), since=True))
    found = events_of(batches)
    owner = found["flags"] & np.uint32(EventFlag.OWNER) != 0
    opening = (found["old_state"] == S.CLOSE) & (found["new_state"] == S.SYN_SENT)
    assert (owner == opening).all()


def test_coverage_is_never_claimed() -> None:
    importer, batches = imported(printed.tcpstates(lives(6), since=True))
    summary = judged(batches, importer).summary()
    assert summary.connections > 0
    assert (summary.coverage, summary.loss_known) == (None, False)


def test_a_loss_that_the_tool_tells_stands_where_it_was() -> None:
    lines = printed.tcpstates(lives(7), since=True)
    middle = len(lines) // 2
    importer, batches = imported([*lines[:middle], b"Possibly lost 5 samples", *lines[middle:], b"Possibly lost 6 samples"])
    losses = [(batch.lost, sum(len(each) for each in batches[:index])) for index, batch in enumerate(batches) if batch.lost]
    assert losses == [(5, middle - 1), (6, len(lines) - 1)]
    assert judged(batches, importer).summary().lost == importer.lost == 11


def test_lines_that_can_not_be_understood_are_counted_and_the_first_quoted() -> None:
    lines = printed.tcpstates(lives(8), since=True)
    importer, _ = imported([lines[0], b"rubbish", *lines[1:], b"more", b"more", b"more"], block=3)
    assert importer.misunderstood == 4
    assert importer.quotes == [(2, b"rubbish"), (len(lines) + 2, b"more"), (len(lines) + 3, b"more")]


def test_a_line_without_the_time_that_others_have_is_not_understood() -> None:
    timed, plain = printed.tcpstates(lives(9), time=True), printed.tcpstates(lives(9))
    importer, _ = imported([*timed, plain[1]])
    assert importer.misunderstood == 1


def test_a_long_beginning_of_other_events_does_not_hide_the_format() -> None:
    other = [b"  dockerd-55 [001] ..... 46360.852498: sched_switch: prev_comm=a prev_pid=5"] * 5000
    importer, batches = imported([*other, *printed.ftrace(lives(14))])
    assert importer.misunderstood == 0
    assert len(events_of(batches)) == len(lives(14))


def test_out_of_order_lines_are_put_in_order() -> None:
    lines = printed.key_value(lives(10))
    shuffled = list(lines)
    Random(1).shuffle(shuffled)
    assert (events_of(imported(shuffled)[1])["ts_ns"] == events_of(imported(lines)[1])["ts_ns"]).all()


def test_the_window_holds_no_more_than_it_should() -> None:
    window, made = Window(held=10), lives(11)
    early = np.zeros(len(made), np.uint64)
    told = [window.add(made[start : start + 5].copy(), early[start : start + 5]) for start in range(0, len(made), 5)]
    assert (
        max(sum(5 for _ in range(index + 1)) - sum(len(each.events) for each in told[: index + 1]) for index in range(len(told)))
        <= 25
    )
    every = np.concatenate([*(piece.events for piece in told), window.rest().events])
    assert (every["ts_ns"] == np.sort(made["ts_ns"])).all()


def test_losses_part_a_piece_at_their_times() -> None:
    made = trace(*(event(S.CLOSE, S.SYN_SENT, at_ns) for at_ns in (10, 20, 30)))
    piece = Piece(made, np.zeros(3, np.uint64))
    parts = [(len(part.events), loss and loss.events) for part, loss in parted(piece, [Loss(20, 1), Loss(20, 2), Loss(40, 3)])]
    assert parts == [(1, None), (0, 1), (2, 2), (0, 3)]


def test_time_wait_is_an_end_and_what_leaves_it_is_nothing() -> None:
    def line(old: S, new: S) -> Transition:
        return Transition(old, new, v4("198.18.0.1"), 5, v4("198.18.0.9"), 443, 1)

    given_lines = [
        line(S.FIN_WAIT2, S.TIME_WAIT), line(S.TIME_WAIT, S.CLOSE), line(S.LISTEN, S.NEW_SYN_RECV),
        line(S.NEW_SYN_RECV, S.ESTABLISHED), line(S.CLOSE, S.CLOSE), line(S.ESTABLISHED, S.CLOSE),
    ]  # fmt: skip
    found = columns_of(given_lines)
    states = list(zip(found.events["old_state"].tolist(), found.events["new_state"].tolist(), strict=True))
    assert states == [(S.FIN_WAIT2, S.CLOSE), (S.ESTABLISHED, S.CLOSE)]
    assert found.position.tolist() == [0, 5]


def test_an_address_of_zeros_is_unknown() -> None:
    local = (address(text) for text in (b"0.0.0.0", b"::", b"::1", b"198.18.0.1", b"2001:db8::"))
    found = columns_of([Transition(S.CLOSE, S.SYN_SENT, each or b"", 0, v4("198.18.0.9"), 443, 1) for each in local])
    assert (found.events["flags"] & np.uint32(EventFlag.HAS_SADDR) != 0).tolist() == [False, False, True, True, True]


def openings(*remotes: int, comm: bytes = b"dockerd") -> list[np.void]:
    return [
        event(S.CLOSE, S.SYN_SENT, 1000 * number, skaddr=0, daddr=v4(f"198.18.0.{remote}"), comm=comm, saddr=v4("10.0.0.5"))
        for number, remote in enumerate(remotes)
    ]


def numbers(*events: np.void) -> list[int]:
    made = trace(*events)
    Ends().number(made)
    return made["skaddr"].tolist()


def handshake(remote: int, lport: int, old: S = S.SYN_SENT, new: S = S.ESTABLISHED) -> np.void:
    return event(old, new, 9_000, skaddr=0, daddr=v4(f"198.18.0.{remote}"), sport=lport, saddr=v4("10.0.0.5"))


def test_sockets_without_addresses_are_told_by_their_ends() -> None:
    one, two = openings(1, 2)
    assert numbers(one, two, handshake(2, 7), handshake(1, 8), handshake(2, 7, S.ESTABLISHED, S.CLOSE)) == [1, 2, 2, 1, 2]


def test_the_same_ends_again_are_another_connection() -> None:
    one, two = openings(1, 1)
    closed = handshake(1, 7, S.ESTABLISHED, S.CLOSE)
    assert numbers(one, handshake(1, 7), closed, two, handshake(1, 7)) == [1, 1, 1, 2, 2]


def test_an_end_that_was_not_seen_does_not_join_two_connections() -> None:
    one, two = openings(1, 1)
    assert numbers(one, handshake(1, 7), two, handshake(1, 7)) == [1, 1, 2, 2]


def test_what_was_open_before_has_a_number_of_its_own() -> None:
    assert numbers(handshake(1, 7, S.ESTABLISHED, S.CLOSE_WAIT), handshake(1, 7, S.CLOSE_WAIT, S.LAST_ACK)) == [1, 1]


def test_handshakes_are_joined_with_openings_in_their_order_and_that_is_counted() -> None:
    made = trace(*openings(1, 1), handshake(1, 7), handshake(1, 8))
    ends = Ends()
    ends.number(made)
    assert made["skaddr"].tolist() == [1, 2, 1, 2]
    assert ends.by_order == 1


@pytest.mark.parametrize(("other", "kept"), [(b"dockerd", True), (b"kubelet", False)])
def test_an_owner_that_may_be_another_is_unknown(other: bytes, kept: bool) -> None:
    made = trace(*openings(1), *openings(1, comm=other), handshake(1, 7))
    Ends().number(made)
    assert (made["flags"][:2] & np.uint32(EventFlag.OWNER) != 0).tolist() == [kept, kept]


def remotes(*ends: tuple[str, int]) -> Events:
    return trace(*(event(S.CLOSE, S.SYN_SENT, 1, daddr=address(end.encode()), dport=port) for end, port in ends))


def test_without_a_choice_every_address_at_the_usual_ports_is_an_endpoint() -> None:
    selection = Selection([], ())
    found = selection.endpoints(remotes(("198.18.0.1", 443), ("2001:db8::1", 5000), ("198.18.0.1", 22), ("198.18.0.1", 443)))
    assert found.tolist() == [1, 2, 0, 1]
    assert selection.watched.labels() == {1: "198.18.0.1:443", 2: "[2001:db8::1]:5000"}
    assert selection.others.most_common() == [((v4("198.18.0.1"), 22), 1)]


def test_ports_that_are_named_take_the_place_of_the_usual_ones() -> None:
    assert Selection([], (8443,)).endpoints(remotes(("198.18.0.1", 443), ("198.18.0.1", 8443))).tolist() == [0, 1]


def test_registries_that_are_named_are_all_there_is() -> None:
    selection = Selection(["198.18.0.0/24", "198.18.0.7:*", "2001:db8::/32"], ())
    found = selection.endpoints(
        remotes(("198.18.0.1", 443), ("198.18.0.7", 22), ("198.18.0.1", 80), ("2001:db8::9", 443), ("198.19.0.1", 443))
    )
    assert found.tolist() == [1, 2, 0, 3, 0]


def test_a_name_with_its_address_is_called_by_its_name() -> None:
    selection = Selection(["ghcr.io=198.18.0.1", "ghcr.io=198.18.0.2", "mine.example=[2001:db8::1]:5000"], ())
    found = selection.endpoints(remotes(("198.18.0.1", 443), ("198.18.0.2", 443), ("2001:db8::1", 5000)))
    assert found.tolist() == [1, 1, 2]
    assert selection.watched.labels() == {1: "ghcr.io:443", 2: "mine.example:5000"}
    facts = selection.watched.facts()
    assert [fact.role for fact in facts if isinstance(fact, EndpointFact)] == [Role.API, Role.UNKNOWN]
    assert [fact.address for fact in facts if isinstance(fact, AddressFact)] == ["198.18.0.1", "198.18.0.2", "2001:db8::1"]


@pytest.mark.parametrize(
    "spec", ["ghcr.io", "ghcr.io=quay.io", "198.18.0.1=198.18.0.2", "=198.18.0.1", "a b=198.18.0.1", "x=198.18.0.1:0"]
)
def test_what_can_not_be_meant_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match="registry"):
        Selection([spec], ())


def test_every_endpoint_is_made_known_before_its_first_event() -> None:
    importer = Importer(Selection([], (443,)), FORMATS)
    batches = importer.feed(printed.key_value(lives(12))) + importer.finish()
    known: set[int] = set()
    for batch in batches:
        known |= {fact.endpoint_id for fact in batch.facts if isinstance(fact, EndpointFact)}
        assert set(batch.events["endpoint_id"].tolist()) <= known
    assert len(known) > 1


def test_a_narrow_seconds_resolution_is_said() -> None:
    importer, _ = imported(printed.tcpstates(lives(13), time=True))
    assert importer.header().resolution_ns == SECOND
    assert "1s" in importer.header().why
