"""Whole traces for those who look at all of one at once, and values that nobody should be able to smuggle into a document."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.stories import LABELS, Story
from tests.test_captures import write
from tests.traces import MS
from tracer.clock import ClockOffset
from tracer.collected.collector import Collected
from tracer.commands.reading import collect
from tracer.events import EventBatch, Events, no_events
from tracer.facts import EndpointFact
from tracer.header import TraceHeader
from tracer.owners.owner import OwnerDetail

OPTIONS = argparse.Namespace(rules=None, config=None, benign=False)
CLOCK = ClockOffset(1_790_000_000_000_000_000, 50)
HOSTILE = (
    "</script><script>document.title='taken'</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "\x1b[31mred\u202eorder",
    "| a | [link](http://evil.example/) `x` @someone #1 www.evil.example",
    "{{ 7 * 7 }} {% raw %} ${x} datum.y\u2028next",
    "a\nb\r\n# heading",
    "\"'; utcFormat(now())",
)
"""What a process, a container or a label may be called."""


def capture(
    path: Path, events: Events, labels: dict[int, str] = LABELS, clock: ClockOffset | None = CLOCK, **changes: object
) -> Path:
    """A capture of these events; `changes` are of its batch, `facts` for one."""
    header = TraceHeader("ebpf", "a test", 1, "host-1", "Linux 6.1", clock, dict(labels))
    return write(path, [EventBatch(events, "ebpf", 1, **changes)], header)  # type: ignore[arg-type]


def collected(path: Path, events: Events, **options: object) -> Collected:
    """The same, read again as a command reads it."""
    return collect(OPTIONS, capture(path, events, **options))  # type: ignore[arg-type]


def mixed() -> Events:
    """Every kind of end, what is still open, and two owners at two endpoints."""
    story = Story()
    kinds = ("peer", "local", "reset", "local-reset", "refused", "timeout", "unreachable", "aborted", "closing")
    for number in range(45):
        kind = kinds[number % len(kinds)]
        owner = {"comm": b"dockerd", "pid": 812} if number % 2 else {"comm": b"skopeo", "pid": 900 + number}
        story.connection(
            number * 0.7, kind, life_s=0.01 + 0.05 * number, received=1000 * number, endpoint=1 + number % 2, **owner
        )
    story.connection(3.0, "peer", keep=2)
    story.connection(4.0, "peer", keep=1)
    return story.events()


def storm(count: int = 3600) -> Events:
    """More connections than can be drawn one by one; every ninth is refused, some are long."""
    story = Story()
    for number in range(count):
        kind = "refused" if number % 9 == 0 else "peer"
        story.connection(number * 0.01, kind, life_s=5.0 if number % 100 == 0 else 0.02, pid=800 + number % 7)
    return story.events()


def hostile_capture(path: Path) -> Path:
    """One whose every text is one of HOSTILE."""
    story = Story()
    for number, text in enumerate(HOSTILE):
        comm = text.encode()[:15]
        for again in range(4):
            story.connection(
                number + 10.0 * again, "refused", comm=comm, pid=500 + number, endpoint=1 + number, cgroup_id=900 + number
            )
    owners = [
        OwnerDetail(500 + number, 0, text.encode()[:15], text, 900 + number, "/x", text * 3, "docker", text, text)
        for number, text in enumerate(HOSTILE)
    ]
    facts = (*(EndpointFact(1 + number, text) for number, text in enumerate(HOSTILE)), *owners)
    return capture(path, story.events(), dict(enumerate(HOSTILE, 1)), facts=facts)


def nothing(path: Path) -> Path:
    """A capture with a header only."""
    return capture(path, no_events())


def instant() -> Events:
    """Connections that have no length, all at one moment."""
    story = Story()
    for _ in range(3):
        story.connection(1.0, "refused", life_s=0.0)
    return story.events()


def short() -> Events:
    """A pull of 300 ms."""
    story = Story()
    for number in range(20):
        story.connection(number * 0.014, "local", life_s=0.002, closing_s=MS / 1e9 / 10)
    return story.events()


def days() -> Events:
    """A connection every nine hours for three days, and one that lasts as long."""
    story = Story()
    story.connection(0.0, "local", life_s=3 * 86_400.0)
    for hour in range(0, 72, 9):
        story.connection(hour * 3600.0, "local", life_s=30.0)
    return story.events()
