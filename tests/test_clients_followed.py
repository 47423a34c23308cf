"""Clients followed to elsewhere by the real program: from the first transition on, theirs only, and within bounds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

import bpf.clients
import tracer.learner
from bpf.clients import FOLLOWED_PER_OPENING, FOLLOWING
from bpf.source import EbpfSource
from bpf.support import probe
from tests.live import serving
from tests.test_source_ebpf import close_at_once, connect, entry, settled
from tracer.analysis import Analysis
from tracer.events import ELSEWHERE, EventBatch, TcpState, is_opening, no_events
from tracer.lifecycle import CloseReason

pytestmark = pytest.mark.ebpf

WATCHED = 1
STRANGER = """
import socket, sys
open("/proc/self/comm", "w").write("stranger")
socket.create_connection(("127.0.0.1", int(sys.argv[1])))
"""


@pytest.fixture
def source() -> Iterator[EbpfSource]:
    opened = EbpfSource(probe())
    yield opened
    opened.close()


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """Of a server that is watched, and of one that is not."""
    with ExitStack() as stack:
        yield stack.enter_context(serving(close_at_once)), stack.enter_context(serving(close_at_once))


def openings(batch: EventBatch) -> Counter[int]:
    """How many, by endpoint."""
    return Counter(batch.events["endpoint_id"][is_opening(batch.events)].tolist())


def test_a_client_is_followed_from_the_first_transition_of_a_connection_that_is_over_at_once(
    source: EbpfSource, ports: tuple[int, int]
) -> None:
    watched, elsewhere = ports
    source.watch([entry(watched)])
    source.follow()
    connect(watched)
    connect(elsewhere)
    analysis = Analysis("ebpf", 1, {})
    ended = analysis.feed(settled(source)).ended
    (row,) = ended[ended["endpoint_id"] == ELSEWHERE]
    assert (row["rport"], row["pid"], row["close_reason"], row["gap"]) == (elsewhere, os.getpid(), CloseReason.PEER, False)
    assert row["lifetime_ns"] > 0


def test_nobody_is_followed_before_it_is_asked_for(source: EbpfSource, ports: tuple[int, int]) -> None:
    watched, elsewhere = ports
    source.watch([entry(watched)])
    connect(watched)
    connect(elsewhere)
    assert openings(settled(source)) == {WATCHED: 1}


def test_who_does_not_talk_to_what_is_watched_is_not_followed(source: EbpfSource, ports: tuple[int, int]) -> None:
    watched, elsewhere = ports
    source.watch([entry(watched)])
    source.follow()
    connect(watched)
    subprocess.run([sys.executable, "-c", STRANGER, str(elsewhere)], check=True)
    assert openings(settled(source)) == {WATCHED: 1}


def test_who_is_said_to_be_a_client_is_followed(source: EbpfSource, ports: tuple[int, int]) -> None:
    watched, elsewhere = ports
    source.watch([entry(watched)])
    connect(watched)
    own = settled(source).events[0]
    source.follow([(int(own["cgroup_id"]), bytes(own["comm"]))])
    connect(elsewhere)
    assert openings(settled(source)) == {ELSEWHERE: 1}


def test_a_client_is_followed_so_many_times_for_each_connection_to_what_is_watched(
    source: EbpfSource, ports: tuple[int, int]
) -> None:
    watched, elsewhere = ports
    source.watch([entry(watched)])
    source.follow()
    for _ in range(2):
        connect(watched)
        connect(elsewhere, FOLLOWED_PER_OPENING + 10)
    assert openings(settled(source)) == {WATCHED: 2, ELSEWHERE: 2 * FOLLOWED_PER_OPENING}


def test_no_socket_stays_followed_when_it_is_over(source: EbpfSource, ports: tuple[int, int]) -> None:
    """Also one whose address has become watched meanwhile; the slab hands their memory to connections of anybody."""
    watched, elsewhere = ports
    source.watch([entry(watched)])
    source.follow()
    connect(watched)
    connect(elsewhere, 5)
    client = socket.create_connection(("127.0.0.1", elsewhere))
    source.watch([entry(watched), entry(elsewhere, 2)])
    client.close()
    settled(source)
    assert followed_sockets(source) == 0


def test_one_that_becomes_watched_goes_on_with_its_endpoint(source: EbpfSource, ports: tuple[int, int]) -> None:
    watched, elsewhere = ports
    source.watch([entry(watched)])
    source.follow()
    connect(watched)
    settled(source)
    client = socket.create_connection(("127.0.0.1", elsewhere))
    first = settled(source).events
    source.watch([entry(watched), entry(elsewhere, 2)])
    client.close()
    events = np.concatenate([no_events(), first, settled(source).events])
    assert len(set(events["skaddr"].tolist())) == 1
    assert set(first["endpoint_id"].tolist()) == {ELSEWHERE}
    assert (events["endpoint_id"][-1], events["new_state"][-1]) == (2, TcpState.CLOSE)


def followed_sockets(source: EbpfSource) -> int:
    """What the program counts."""
    _, sockets = FOLLOWING.unpack(source._clients._following.lookup(bytes(4)))
    return int(sockets)


def test_the_program_and_user_space_agree_on_the_place_of_that_count(source: EbpfSource, ports: tuple[int, int]) -> None:
    watched, _ = ports
    source.watch([entry(watched)])
    source.follow()
    connect(watched)
    with serving(lambda connection: connection.recv(1)) as quiet, socket.create_connection(("127.0.0.1", quiet)):
        assert followed_sockets(source) == 1


def test_the_program_and_the_learner_take_somebody_for_a_client_for_as_long() -> None:
    assert bpf.clients.CLIENT_NS == tracer.learner.CLIENT_NS
