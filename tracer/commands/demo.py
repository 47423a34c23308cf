"""`regtrace demo`: real traffic on loopback addresses, traced for real, with a summary for newcomers."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tracer.analysis import Analysis, Progress
from tracer.cadence import Rhythm, attempts, cadence
from tracer.commands.watch import follow
from tracer.endpoints import parse_endpoint
from tracer.errors import SourceError
from tracer.events import EventBatch
from tracer.header import TraceHeader
from tracer.lifecycle import REASON_NAMES
from tracer.reports.text_report import cadence_text
from tracer.rows import Connections, blank_connections
from tracer.source import choose_source, probe_host
from tracer.text import bytes_text, duration_text
from tracer.watchlist import WatchList

ROOT = Path(__file__).resolve().parent.parent.parent
_CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from tracer.demo.client import main; sys.exit(main())"
_END_S = 5.0


class Phase(NamedTuple):
    """A part of the demo, in boottime ns, and what the client was told in it."""

    phase: str
    start_ns: int
    end_ns: int
    told: str


class _Collector:
    """Keeps all rows, for the closing table."""

    def __init__(self) -> None:
        self.rows: Connections = blank_connections(0)

    def start(self, header: TraceHeader) -> None:
        """Nothing to do."""

    def batch(self, batch: EventBatch, progress: Progress, analysis: Analysis) -> None:
        """Keep what ended."""
        self.rows = np.concatenate([self.rows, progress.ended])

    def tick(self, analysis: Analysis) -> None:
        """Nothing to do."""

    def finish(self, analysis: Analysis, truncated: str | None) -> None:
        """Keep what is open."""
        self.rows = np.concatenate([self.rows, analysis.open()])


def run(options: argparse.Namespace) -> int:
    """Run the traffic, trace it, explain it."""
    choice = choose_source(probe_host(), options.source)
    if choice.source is None:  # before a process is started for nothing
        raise SourceError(f"the demo can't trace here: {choice.why}; {choice.remedy}")
    collector = _Collector()
    with _Traffic() as traffic:
        watched = WatchList()
        for port in traffic.ports:
            watched.add(parse_endpoint(f"127.0.0.1:{port}"), origin="the demo's own")
        begun = False

        def on_poll() -> bool:
            nonlocal begun
            if not begun:
                begun = True
                traffic.begin()
            return traffic.running()

        code = follow(options, [collector], watched, on_poll)
        phases = traffic.phases()
    if not options.json:
        sys.stdout.write("\n".join(["", *explain(phases, collector.rows), ""]))
    return code


class _Traffic:
    """The process with the registry stand-in and its client."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _CHILD, str(ROOT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.__exit__()
            raise SourceError("the demo's own registry did not start; are loopback addresses up?")
        ports: dict[str, Any] = json.loads(line)
        self.ports: tuple[int, int] = (ports["registry"], ports["mirror"])
        return self

    def begin(self) -> None:
        """Let the client begin."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SourceError(f"the demo's client died at once (status {self._process.poll()})") from None

    def running(self) -> bool:
        """Whether the client is still busy."""
        return self._process.poll() is None

    def phases(self) -> list[Phase]:
        """The phases that were completed."""
        self._end()
        assert self._process.stdout is not None
        return [Phase(**json.loads(line)) for line in self._process.stdout if line.endswith("\n")]

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __exit__(self, *_exception: object) -> None:
        self._end()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def explain(phases: list[Phase], rows: Connections) -> list[str]:
    """For each phase: what the client was told, and what its sockets show."""
    lines = ["What the client was told, and what its sockets show", ""]
    for phase in phases:
        own = rows[(rows["opened_ns"] >= phase.start_ns) & (rows["opened_ns"] < phase.end_ns)]
        lines += [f"  {phase.phase}", f"    told:    {phase.told}", *(f"    sockets: {line}" for line in _shown(own)), ""]
    lines.append("All of it came from what the kernel knows of sockets; nothing was read from the connections themselves.")
    return lines


def _shown(rows: Connections) -> list[str]:
    if not len(rows):
        return ["no connection was seen"]
    reasons, counts = np.unique(rows["close_reason"], return_counts=True)
    ended = ", ".join(f"{count} {REASON_NAMES[reason]}" for reason, count in zip(reasons, counts, strict=True))
    lives = rows["lifetime_ns"][rows["lifetime_ns"] >= 0]
    received = rows["bytes_received"][rows["bytes_received"] >= 0]
    lines = [
        f"{len(rows)} connections, ended by: {ended}; {_range(lives, duration_text)} long; {_range(received, bytes_text)} each"
    ]
    found = cadence(attempts(np.sort(rows["opened_ns"])))
    if found.rhythm is not Rhythm.NONE:
        lines.append(f"tried again {cadence_text(found)}")
    idle_ms = int(rows["idle_ms"].max())
    if idle_ms >= 1000:
        lines.append(f"one was idle for {idle_ms / 1000:.3g} s when it ended")
    return lines


def _range(values: NDArray[np.int64], text: Callable[[int], str]) -> str:
    if not len(values):
        return "unknown"
    low, high = text(int(values.min())), text(int(values.max()))
    return low if low == high else f"{low} to {high}"
