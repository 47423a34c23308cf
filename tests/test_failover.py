"""A source that dies while it runs: another goes on, the stream says so, and what was open goes on."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.test_captures import read, write
from tests.traces import MS, SECOND, START_NS, S, event, path, trace
from tracer.analysis import Analysis
from tracer.commands.watch import live_header
from tracer.endpoints import parse_endpoint
from tracer.errors import SourceError
from tracer.events import EventBatch, EventFlag, no_events
from tracer.failover import Failover
from tracer.lines import batch_lines
from tracer.pipeline import Stop, run_live
from tracer.rules.settings import RuleSettings
from tracer.source import Choice, choose_source, open_source, probe_host
from tracer.watchlist import Watch, WatchList


class Dying:
    """A source that gives its batches, and then is dead."""

    name, resolution_ns = "ebpf", 1

    def __init__(self, *batches: EventBatch) -> None:
        self._batches = list(batches)
        self.closed = False

    def watch(self, endpoints: Watch) -> None:
        self.watched = endpoints

    def start(self) -> None:
        pass

    def read(self, *, at_once: bool = False) -> EventBatch:
        if not self._batches:
            raise SourceError("the ring is gone")
        return self._batches.pop(0)

    def sample(self, skaddrs: Iterable[int]) -> bool:
        raise SourceError("the program is gone")

    def warnings(self) -> list[str]:
        return []

    def lacks(self) -> list[str]:
        return []

    def close(self) -> None:
        self.closed = True


class Living(Dying):
    """One that takes over."""

    name, resolution_ns = "polled", 50 * MS

    def read(self, *, at_once: bool = False) -> EventBatch:
        return self._batches.pop(0) if self._batches else EventBatch(no_events(), self.name, self.resolution_ns)


def adopted() -> EventBatch:
    found = event(S.ESTABLISHED, S.ESTABLISHED, START_NS + SECOND, skaddr=1 << 32, also=EventFlag.ADOPTED)
    return EventBatch(trace(found), "polled", 50 * MS)


def test_the_next_source_goes_on_and_the_batch_says_so() -> None:
    dying, living = Dying(), Living(adopted())
    source = Failover(dying, [lambda: living])
    source.watch({1: ()})
    source.start()
    batch = source.read()
    assert (batch.source, len(batch), source.name) == ("polled", 1, "polled")
    assert "the ring is gone" in batch.switched
    assert batch.lost_since_ns < batch.lost_until_ns
    assert living.watched == {1: ()}
    assert dying.closed
    assert any("going on with polled" in warning for warning in source.warnings())


def test_one_that_can_t_take_over_is_passed_over() -> None:
    class Unable(Living):
        def start(self) -> None:
            raise SourceError("no netlink")

    unable, living = Unable(), Living(adopted())
    source = Failover(Dying(), [lambda: unable, lambda: living])
    source.start()
    assert source.read().source == "polled"


def test_without_another_the_death_is_the_error() -> None:
    source = Failover(Dying(), [])
    source.start()
    with pytest.raises(SourceError, match="the ring is gone"):
        source.read()


def test_a_death_that_a_sample_meets_first_is_left_to_the_next_read() -> None:
    source = Failover(Dying(), [lambda: Living(adopted())])
    source.start()
    assert source.sample([1])
    assert source.read().switched


def switched() -> list[EventBatch]:
    """A connection that one source saw open, and the next one finds open."""
    first = EventBatch(trace(*path("peer", [START_NS, START_NS + MS])), "ebpf", 1)
    times = {"lost_since_ns": START_NS + 2 * MS, "lost_until_ns": START_NS + SECOND}
    found = adopted()
    return [first, EventBatch(found.events.copy(), "polled", 50 * MS, switched="ebpf died", **times)]


def test_what_was_open_goes_on_with_a_gap_and_the_summary_says_which_source_it_is() -> None:
    made = Analysis("ebpf", 1, {1: "registry.example:443"}, RuleSettings())
    for batch in switched():
        made.feed(batch)
    (row,) = made.open()
    assert (row["opened_ns"], row["skaddr"]) == (START_NS, 1 << 32)
    told = made.summary()
    assert (told.source, told.connections, [loss.lost for loss in told.losses]) == ("polled", 1, [None])
    assert told.coverage is None


@pytest.mark.parametrize("suffix", [".arrows", ".jsonl"])
def test_a_capture_keeps_the_switch(suffix: str, tmp_path: Path) -> None:
    found, _ = read(write(tmp_path / f"t{suffix}", switched()))
    (batch,) = [batch for batch in found if batch.switched]
    assert (batch.source, batch.switched, batch.resolution_ns) == ("polled", "ebpf died", 50 * MS)
    assert (batch.lost_since_ns, batch.lost_until_ns) == (START_NS + 2 * MS, START_NS + SECOND)
    assert {batch.source for batch in found if len(batch)} == {"ebpf", "polled"}


def test_the_lines_say_it_before_what_follows() -> None:
    kinds = [json.loads(line)["type"] for line in batch_lines(switched()[1], {1: "r"}, None, samples=True)]
    assert kinds == ["source", "adopted"]


@pytest.mark.ebpf
def test_when_the_program_is_gone_polling_goes_on(tmp_path: Path) -> None:
    """The real sources: the program is detached while the tracer runs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        watched = WatchList()
        watched.add(parse_endpoint(f"127.0.0.1:{port}"))
        support = probe_host()
        source = open_source(support, choose_source(support, "auto"), "auto")
        source.watch(watched.watch())
        source.start()
        batches: list[EventBatch] = []
        polls = iter(range(60))

        class Keep:
            def start(self, header: object) -> None:
                pass

            def batch(self, batch: EventBatch, progress: object, analysis: object) -> None:
                batches.append(batch)

            def tick(self, analysis: object) -> None:
                pass

            def finish(self, analysis: object, truncated: object) -> None:
                pass

        clients: list[socket.socket] = []

        def on_poll() -> bool:
            number = next(polls, None)
            if number in (3, 50):
                clients.append(socket.create_connection(("127.0.0.1", port)))
            if number == 10:
                for fd in source._source._source._link_fds:  # type: ignore[attr-defined]
                    os.close(fd)
            return number is not None

        header = live_header(Choice("ebpf", ""), 1, watched, RuleSettings())
        try:
            analysis = run_live(source, header, [Keep()], Stop(), 10, on_poll)
        finally:
            source.close()
            for client in clients:
                client.close()
    assert [batch.source for batch in batches if batch.switched] == ["polled"]
    first, second = analysis.open()
    assert first["opened_ns"] > 0
    assert second["opened_early_ns"] > 0
