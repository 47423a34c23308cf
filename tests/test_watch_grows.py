"""What becomes watched while a source runs: open connections are adopted with their owner, later ones are seen whole."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.live import serving
from tracer.analysis import Analysis
from tracer.endpoints import parse_endpoint
from tracer.feed import Source
from tracer.rows import Connections
from tracer.source import choose_source, open_source, probe_host
from tracer.watchlist import Watch

PATIENCE_S = 10.0
OLD, NEW = 1, 2


def watch(*ports: int) -> Watch:
    return {number: (parse_endpoint(f"127.0.0.1:{port}"),) for number, port in enumerate(ports, OLD)}


def answer(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(b"x" * 1000)
    connection.recv(100)


class Running:
    """A source, and what is made of it."""

    def __init__(self, name: str) -> None:
        support = probe_host()
        self.source: Source = open_source(support, choose_source(support, name), name)
        self.analysis = Analysis(name, self.source.resolution_ns, {})
        self.ended: list[Connections] = []

    def read(self) -> None:
        self.ended.append(self.analysis.feed(self.source.read(at_once=True)).ended)

    def until_open(self, count: int) -> Connections:
        deadline_s = time.monotonic() + PATIENCE_S
        while len(self.analysis.open()) < count:
            assert time.monotonic() < deadline_s
            self.read()
            time.sleep(0.02)
        return self.analysis.open()

    def until_ended(self, count: int) -> Connections:
        deadline_s = time.monotonic() + PATIENCE_S
        while sum(map(len, self.ended)) < count:
            assert time.monotonic() < deadline_s
            self.read()
            time.sleep(0.02)
        return next(rows for rows in self.ended if len(rows))


@pytest.fixture(params=[pytest.param("ebpf", marks=pytest.mark.ebpf), "polled", "proc"])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    made = Running(request.param)
    yield made
    made.source.close()


def ask(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(b"GET")
    client.recv(2000)
    return client


def test_what_is_open_to_a_new_address_is_adopted_with_its_owner_and_followed_to_its_end(running: Running) -> None:
    with ExitStack() as stack:
        old, new = stack.enter_context(serving(answer)), stack.enter_context(serving(answer))
        running.source.watch(watch(old))
        running.source.start()
        client = stack.enter_context(ask(new))
        running.read()
        assert len(running.analysis.open()) == 0
        running.source.watch(watch(old, new))
        (row,) = running.until_open(1)
        assert (row["endpoint_id"], row["preexisting"], row["pid"], row["opened_ns"]) == (NEW, 1, os.getpid(), -1)
        client.close()
        (ended,) = running.until_ended(1)
        assert (ended["endpoint_id"], ended["preexisting"], ended["pid"]) == (NEW, 1, os.getpid())


def test_what_is_open_to_an_address_that_stays_is_not_told_again(running: Running) -> None:
    with ExitStack() as stack:
        old, new = stack.enter_context(serving(answer)), stack.enter_context(serving(answer))
        running.source.watch(watch(old))
        running.source.start()
        stack.enter_context(ask(old))
        (before,) = running.until_open(1)
        running.source.watch(watch(old, new))
        for _ in range(3):
            running.read()
        (after,) = running.analysis.open()
        assert (after["skaddr"], after["opened_ns"]) == (before["skaddr"], before["opened_ns"])
        assert before["opened_ns"] > 0


def test_what_is_opened_to_a_new_address_is_no_adopted_one(running: Running) -> None:
    with ExitStack() as stack:
        old, new = stack.enter_context(serving(answer)), stack.enter_context(serving(answer))
        running.source.watch(watch(old))
        running.source.start()
        running.source.watch(watch(old, new))
        for _ in range(2):  # the first tells what the start found
            running.read()
        stack.enter_context(ask(new))
        (row,) = running.until_open(1)
        assert (row["endpoint_id"], row["preexisting"], row["pid"]) == (NEW, 0, os.getpid())


def test_what_is_adopted_later_leaves_what_was_adopted_before(running: Running) -> None:
    with ExitStack() as stack:
        old, new, newer = (stack.enter_context(serving(answer)) for _ in range(3))
        held = [stack.enter_context(ask(port)) for port in (old, new, newer)]
        running.source.watch(watch(old))
        running.source.start()
        running.until_open(1)
        for count, ports in ((2, (old, new)), (3, (old, new, newer))):
            running.source.watch(watch(*ports))
            running.until_open(count)
        held[0].close()
        (ended,) = running.until_ended(1)
        assert ended["endpoint_id"] == OLD
        assert sorted(running.analysis.open()["endpoint_id"].tolist()) == [NEW, NEW + 1]
        assert not sum(int(rows["gap"].sum()) for rows in running.ended)
