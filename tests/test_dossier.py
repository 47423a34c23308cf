"""One connection in full: every transition that Linux makes has words, and what is not known is said."""

from __future__ import annotations

import errno
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings

from tests.traces import MS, PATHS, SECOND, START_NS, path, trace, traces
from tests.whole import CLOCK, collected_events, collected_of, collected_replay
from tracer.collected.dossier import dossier_line, dossier_of
from tracer.collected.meanings import meaning
from tracer.events import EventBatch, EventFlag, Events, TcpState
from tracer.lifecycle import KNOWN_TRANSITIONS, CloseReason
from tracer.reports.dossier_text import dossier_texts

S = TcpState
FROM_OUTSIDE = {S.LISTEN, S.NEW_SYN_RECV}


@pytest.mark.parametrize("old_new", sorted(KNOWN_TRANSITIONS), ids=lambda each: f"{each[0].name}-{each[1].name}")
def test_what_linux_does_to_outbound_sockets_has_words(old_new: tuple[TcpState, TcpState]) -> None:
    old, new = old_new
    if not FROM_OUTSIDE & {old, new} and old is not S.SYN_RECV:
        assert all(meaning(old, new, sk_err) for sk_err in (None, 0, errno.ECONNRESET, 999))


@pytest.mark.parametrize(
    ("old", "sk_err", "words"),
    [(S.SYN_SENT, errno.ECONNREFUSED, "RST received: nobody listens"), (S.SYN_SENT, errno.ETIMEDOUT, "did not answer"),
     (S.SYN_SENT, 0, "given up by its caller"), (S.SYN_SENT, None, "why was not read"), (S.ESTABLISHED, 0, "RST sent"),
     (S.ESTABLISHED, errno.ECONNRESET, "RST received"), (S.CLOSE_WAIT, errno.EPIPE, "RST received"),
     (S.SYN_SENT, errno.EHOSTUNREACH, "ICMP"), (S.LAST_ACK, 0, "our FIN acknowledged")],
)  # fmt: skip
def test_a_close_is_told_by_the_error_of_its_socket(old: TcpState, sk_err: int | None, words: str) -> None:
    assert words in meaning(old, S.CLOSE, sk_err)


@settings(max_examples=30, deadline=None)
@given(events=traces(holes=True))
def test_any_connection_can_be_told_and_its_transitions_are_its_own(events: Events) -> None:
    made = collected_events(events)
    for number in range(1, len(made.rows) + 1):
        dossier = dossier_of(made, number)
        told = json.loads(dossier_line(dossier, CLOCK))
        lines = list(dossier_texts(dossier, made, None, False, "…"))
        assert lines[0] == f"connection {number} of {len(made.rows)}"
        assert {each["skaddr"] for each in told["transitions"]} <= {told["skaddr"]}
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("name", [name for name in PATHS if name not in ("inbound", "listener")])
@pytest.mark.parametrize("keep", [1, 2, 9])
def test_every_way_to_end_or_to_stay_open_can_be_told(name: str, keep: int) -> None:
    made = collected_events(trace(*path(name, [START_NS + each * MS for each in range(6)][:keep])))
    dossier = dossier_of(made, 1)
    text = "\n".join(dossier_texts(dossier, made, None, False, "…"))
    is_open = made.rows["close_reason"][0] == CloseReason.OPEN
    assert ("how it ends" in text, "last seen in" in text) == (is_open, is_open)


def test_only_counters_that_changed_are_told() -> None:
    steps = path("peer", [START_NS + each for each in range(5)])
    for each, received in zip(steps, (0, 0, 7, 7, 9), strict=True):
        each["bytes_received"] = received
    made = collected_events(trace(*steps))
    lines = [line for line in dossier_texts(dossier_of(made, 1), made, None, False, "…") if " -> " in line]
    assert [re.findall(r"received \dB", line) for line in lines] == [[], [], ["received 7B"], [], ["received 9B"]]


def test_a_polled_connection_says_how_much_earlier_it_may_have_been() -> None:
    times = [START_NS, START_NS, START_NS + SECOND, START_NS + SECOND, START_NS + SECOND]
    made = collected_of(EventBatch(trace(*path("peer", times)), "polled", 50 * MS, early_ns=np.full(5, 80 * MS, np.uint64)))
    told = json.loads(dossier_line(dossier_of(made, 1), CLOCK))
    assert [each["early_ns"] for each in told["transitions"]] == [80 * MS] * 5
    assert "times may be up to 80ms earlier" in "\n".join(dossier_texts(dossier_of(made, 1), made, None, False, "…"))


@pytest.mark.parametrize(
    ("without", "words"),
    [(EventFlag.OWNER, "who opened it"), (EventFlag.HAS_SPORT, "its local port"), (EventFlag.HAS_SADDR, "its local address"),
     (EventFlag.HAS_RECEIVED, "bytes received"), (EventFlag.HAS_NETNS, "its network namespace")],
)  # fmt: skip
def test_what_was_not_read_is_said_to_be_unknown(without: EventFlag, words: str) -> None:
    made = collected_events(trace(*path("peer", [START_NS + each for each in range(5)], without=without)))
    assert words in ", ".join(dossier_of(made, 1).unknown)


def test_a_loss_leaves_the_end_open() -> None:
    first = EventBatch(trace(*path("peer", [START_NS, START_NS + 1])), "ebpf", 1)
    rest = EventBatch(first.events[:0].copy(), "ebpf", 1, lost=3, lost_since_ns=START_NS + 1, lost_until_ns=START_NS + SECOND)
    assert "whether and how it ended: events were lost after its last one" in dossier_of(collected_of(first, rest), 1).unknown


def test_findings_are_those_at_its_place_and_time() -> None:
    made = collected_replay("lab-loop-429")
    assert [finding.rule for finding in dossier_of(made, 5).findings] == ["rate-limit"]
