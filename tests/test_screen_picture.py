"""What is in a picture: rows that match, the oldest that are open, the last that ended, in the order that is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from tests.stories import LABELS, OTHER, REGISTRY, Story, at
from tests.traces import START_NS, trace_of_seed
from tracer.analysis import Analysis
from tracer.events import EventBatch, Events
from tracer.owners.owner import OwnerDetail
from tracer.screen.controls import SORTS, Controls
from tracer.screen.gauges import Meter
from tracer.screen.journal import KEPT, Journal, latest
from tracer.screen.matching import matching
from tracer.screen.moments import Moments
from tracer.screen.picture import ROWS, Picture, arranged, take_picture

CONTAINER = "c0ffee" + "0" * 58


def two_clients() -> Events:
    story = Story()
    story.connection(0, comm=b"skopeo", pid=10)
    story.connection(1, comm=b"skopeo", pid=10, keep=2)
    story.connection(2, comm=b"dockerd", pid=20, endpoint=OTHER)
    story.connection(3, comm=b"dockerd", pid=20, endpoint=OTHER, keep=2)
    return story.events()


def pictured(events: Events, text: str = "", now_s: float = 10, split: int = 1, owners: tuple[OwnerDetail, ...] = ()) -> Picture:
    analysis, meter, journal = Analysis("ebpf", 1, LABELS), Meter(), Journal()
    for number, piece in enumerate(np.array_split(events, split)):
        batch = EventBatch(piece.copy(), "ebpf", 1, facts=owners if number == 0 else ())
        progress = analysis.feed(batch)
        meter.ended(progress.ended)
        journal.add(batch, progress.ended, analysis, text)
    return take_picture(analysis, meter, journal, Moments(None, START_NS), at(now_s), text)


@pytest.mark.parametrize(
    ("text", "pids"),
    [
        ("", [10, 20]),
        ("skop", [10]),
        ("SKOPEO[10]", [10]),
        ("upstream", [20]),
        ("registry.EXAMPLE", [10]),
        ("nobody", []),
        ("c0ffee", [20]),
    ],
)
def test_a_filter_means_endpoint_owner_or_container(text: str, pids: list[int]) -> None:
    owners = (OwnerDetail(pid=20, container=CONTAINER, runtime="docker"),)
    picture = pictured(two_clients(), text, owners=owners)
    assert picture.open["pid"].tolist() == pids
    assert picture.open_matching == len(pids)
    ended = latest(picture.pages.connections, 9)
    assert ([] if ended is None else ended["pid"].tolist()) == pids


def test_endpoints_match_by_name_or_by_whose_connections_are_open() -> None:
    assert pictured(two_clients(), "dockerd").gauges.endpoint_id.tolist() == [OTHER]
    assert pictured(two_clients(), "tokens").gauges.label.tolist() == ["tokens.example:443"]
    assert len(pictured(two_clients()).gauges) == len(LABELS)


@pytest.mark.parametrize("text", ["", "docker", "[901]"])
def test_matching_agrees_with_asking_row_by_row(text: str) -> None:
    analysis = Analysis("ebpf", 1, {1: "docker.example:443", 2: "other:443"})
    rows = analysis.feed(EventBatch(trace_of_seed(3), "ebpf", 1)).ended
    found = matching(rows, analysis, text)
    assert found.tolist() == [bool(matching(rows[index : index + 1], analysis, text)[0]) for index in range(len(rows))]
    assert found.any()


def test_of_many_open_connections_the_oldest_are_there() -> None:
    story = Story()
    for number in range(ROWS + 50):
        story.connection(number * 0.01, keep=2)
    picture = pictured(story.events())
    assert picture.open_matching == ROWS + 50
    assert len(picture.open) == ROWS
    assert picture.open["first_seen_ns"].tolist() == sorted(at(number * 0.01) for number in range(ROWS))


@pytest.mark.parametrize("split", [1, 7, 100])
def test_the_journal_has_the_last_rows_however_they_came(split: int) -> None:
    story = Story()
    for number in range(KEPT + 100):
        story.connection(number * 0.1, life_s=0.01, pid=number)
    pages = pictured(story.events(), now_s=100, split=split).pages
    rows = latest(pages.connections, 5)
    assert rows is not None
    assert rows["pid"].tolist() == list(range(KEPT + 95, KEPT + 100))
    kept = latest(pages.connections, 10 * KEPT)
    assert kept is not None
    assert KEPT <= len(kept) < 2 * KEPT
    steps = latest(pages.transitions, 4)
    assert steps is not None
    assert len(steps) == 4


def test_narrowing_keeps_what_matches() -> None:
    analysis, journal = Analysis("ebpf", 1, LABELS), Journal()
    batch = EventBatch(two_clients(), "ebpf", 1)
    journal.add(batch, analysis.feed(batch).ended, analysis, "")
    journal.narrow(analysis, "skopeo")
    rows = latest(journal.pages().connections, 9)
    assert rows is not None
    assert rows["pid"].tolist() == [10]


def test_endpoints_come_in_the_order_that_is_chosen_and_quiet_ones_last() -> None:
    story = Story()
    for number in range(5):
        story.connection(number, endpoint=OTHER)
    story.connection(6, "refused", endpoint=REGISTRY)
    story.connection(7, endpoint=REGISTRY, keep=2)
    gauges = pictured(story.events()).gauges
    orders = {sort: arranged(gauges, Controls(sort=sort)).endpoint_id.tolist() for sort in SORTS}
    assert orders == {"name": [1, 2, 3], "open": [1, 2, 3], "opens/s": [2, 1, 3], "failures": [1, 2, 3]}


def test_a_picture_of_nothing_is_empty() -> None:
    picture = take_picture(Analysis("ebpf", 1, {}), Meter(), Journal(), Moments(None), -1, "")
    assert (len(picture.gauges), len(picture.open), picture.open_matching) == (0, 0, 0)
