"""`watch` without eBPF: the share of a core that it takes, and how many short connections it tells of.

The share is of the whole process (/proc/PID/stat, exact to 10 ms), and in the same windows what its thread spent in the source's
`read` (tests.bench.looking): the rest is rules and output. Beside it stands `ss -tn` (for /proc: `cat`), run once a look.

Recall is measured as an ordinary user, who has no right to a long queue of destroy records nor to a better priority.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.crowd import Crowd
from tests.bench.load import ADDRESS, LoadResult, Servers, run_load, start_continuous
from tests.bench.looking import read_meter
from tests.bench.machine import cpu_s
from tests.bench.processes import Child, cost_of_program
from tests.bench.table import Row, Sample

Say = Callable[[str], None]
LOOKING_REACH_PERCENT = 2.0
NOBODY = 65534
_ROOT = Path(__file__).resolve().parents[2]
_CROWD, _WATCHED = 73, 74  # networks
_WATCHED_SOCKETS = 200  # both ends of 100 connections
_LIFE_PER_S = 20.0
_SOURCES = {"polled": ["ss", "-tn"], "proc": ["cat", "/proc/net/tcp", "/proc/net/tcp6"]}
_SETTLE_S, _START_S, _END_S = 1.5, 20.0, 30.0
_METER_S = 0.005
_WHOLE_PERCENT = 100.0
_PEER_COLUMN = 4
_HOLD_S = 0.001
_USUAL_QUEUE_BYTES = 212_992
"""net.core.rmem_max where nobody has raised it."""
_LOADS = {
    "about 1 ms each": (_HOLD_S, 0.0),
    "as short as can be, 1,000/s": (0.0, 1000.0),
    "as short and many as can be": (0.0, 0.0),
}
"""(how long the server holds a connection in s, connections per second or 0)."""


def measure_watching(sockets: int, windows: int, seconds_s: float, say: Say) -> list[Row]:
    """CPU of `watch --json` among so many sockets, 100 of them watched: while nothing happens, and with a little life."""
    rows = []
    with Crowd(sockets - _WATCHED_SOCKETS, _CROWD) as crowd, Crowd(_WATCHED_SOCKETS, _WATCHED) as watched, Servers(1) as servers:
        options = [*servers.registry_options(), *(word for remote in watched.remotes for word in ("--registry", remote))]
        made = crowd.sockets + watched.sockets
        for source, beside in _SOURCES.items():
            say(f"CPU of watch --source {source} among {made:,} sockets, {windows} x 2 windows of {seconds_s:g} s")
            rows.append(_watching_row(source, beside, options, servers, made, windows, seconds_s))
    return rows


def _watching_row(
    source: str, beside: list[str], options: list[str], servers: Servers, made: int, windows: int, seconds_s: float
) -> Row:
    names = [f"{state}, {what}" for state in ("idle", "life") for what in ("all", "looking", "looks", "peer")]
    samples = {name: Sample("/s" if name.endswith("looks") else " %") for name in names}
    with tempfile.TemporaryDirectory() as folder:
        meter = Path(folder, "meter")
        command = [
            sys.executable,
            "-m",
            "tests.bench.looking",
            "meter",
            str(meter),
            "watch",
            "--source",
            source,
            "--json",
            *options,
        ]
        with Child(command) as child:
            _wait_for_looks(child, meter)
            for _ in range(windows):
                _window(child, meter, seconds_s, beside, samples, "idle")
                with start_continuous(servers.ports[0], _END_S + 2 * seconds_s, _LIFE_PER_S):
                    time.sleep(_SETTLE_S)
                    _window(child, meter, seconds_s, beside, samples, "life")
                time.sleep(_SETTLE_S)
    states = {"idle": "nothing happens", "life": f"{_LIFE_PER_S:g} connections/s"}
    return Row(
        f"CPU of watch --source {source} --json among {made:,} sockets, {_WATCHED_SOCKETS // 2} of them watched, in % of a core",
        f"<= {LOOKING_REACH_PERCENT:g} % for looking",
        "; ".join(
            f"{words}: looking {samples[f'{state}, looking'].text()}, all {samples[f'{state}, all'].text()}, "
            f"{samples[f'{state}, looks'].text()} looks"
            for state, words in states.items()
        ),
        f"{' '.join(beside)} as often: " + "; ".join(samples[f"{state}, peer"].text() for state in states),
        "-",
        max(samples[f"{state}, looking"].median for state in states) <= LOOKING_REACH_PERCENT,
        samples,
    )


def _wait_for_looks(child: Child, meter: Path) -> None:
    """Until it looks, and what it does only once is over."""
    deadline_s = time.monotonic() + _START_S
    while not meter.exists() or read_meter(meter)[1] < 2:
        if not child.alive or time.monotonic() > deadline_s:
            raise RuntimeError(f"regtrace does not look at sockets: {child.complaints()}")
        time.sleep(0.05)
    time.sleep(_SETTLE_S)


def _next_look(meter: Path) -> tuple[float, int, float]:
    """Wait for the end of a look: (CPU time in s, looks, monotonic s). From one look to another no part of a look is counted."""
    before = read_meter(meter)[1]
    deadline_s = time.monotonic() + _START_S
    while (now := read_meter(meter))[1] == before:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"regtrace did not look at sockets for {_START_S:g} s")
        time.sleep(_METER_S)
    return *now, time.monotonic()


def _window(child: Child, meter: Path, seconds_s: float, beside: list[str], samples: dict[str, Sample], state: str) -> None:
    looked_s, looks, started_s = _next_look(meter)
    before_s = cpu_s(child.pid)
    time.sleep(seconds_s)
    looked_after_s, looks_after, ended_s = _next_look(meter)
    after_s = cpu_s(child.pid)
    took_s = ended_s - started_s
    per_s = (looks_after - looks) / took_s
    samples[f"{state}, all"].add((after_s - before_s) / took_s * 100)
    samples[f"{state}, looking"].add((looked_after_s - looked_s) / took_s * 100)
    samples[f"{state}, looks"].add(per_s)
    if shutil.which(beside[0]):
        samples[f"{state}, peer"].add(cost_of_program(beside)[0] * per_s * 100)


def measure_recall(rounds: int, seconds_s: float, say: Say) -> list[Row]:
    """How many of the connections made an ordinary user's `watch --json` tells of, and `ss -tnE` beside it."""
    user = NOBODY if os.geteuid() == 0 else None
    python = _python_of(user)
    if python is None:
        return [Row("recall as an ordinary user", measured="no Python and repository that another user may read")]
    rows = []
    for source, receive_bytes in _queues():
        for name, (hold_s, rate_per_s) in _LOADS.items():
            samples = {each: Sample(" %") for each in ("recall", "coverage", "ss -tnE")}
            samples |= {each: Sample() for each in ("lost", "not accounted", "made", "per s")}
            command = _watch_command(python, source, receive_bytes)
            with Servers(1, hold_s) as servers:
                for number in range(rounds):
                    say(f"recall of --source {source}, queue {receive_bytes:,} B, {name}, round {number + 1} of {rounds}")
                    _recall(command, user, servers, (seconds_s, rate_per_s), samples)
                    if source == "polled" and shutil.which("ss"):
                        _recall_of_ss(user, servers, (seconds_s, rate_per_s), samples)
            queue = f", queue of {receive_bytes:,} B" if receive_bytes else ""
            rows.append(_recall_row(f"{source} --json{queue}", name, samples, user))
    return rows


def _queues() -> list[tuple[str, int]]:
    """(source, bytes of its queue): the usual length of an ordinary user's, and this host's where that is another."""
    own_bytes = int(Path("/proc/sys/net/core/rmem_max").read_text())
    lengths = [_USUAL_QUEUE_BYTES, own_bytes] if own_bytes > _USUAL_QUEUE_BYTES else [own_bytes]
    return [*(("polled", length) for length in lengths), ("proc", 0)]


def _watch_command(python: str, source: str, receive_bytes: int) -> list[str]:
    module = ["tests.bench.looking", "queue", str(receive_bytes)] if receive_bytes else ["tracer"]
    return [python, "-m", *module, "watch", "--source", source, "--json"]


def _recall_row(source: str, name: str, samples: dict[str, Sample], user: int | None) -> Row:
    whole = source.startswith("polled") and name != list(_LOADS)[-1]
    who = "an ordinary user" if user is not None else "this user"
    coverage = f"; coverage in the summary {samples['coverage'].text()}" if samples["coverage"].values else ""
    return Row(
        f"recall of watch --source {source} as {who}; connections {name}",
        "all" if whole else "",
        f"{samples['recall'].text()} of {samples['made'].text()} at {samples['per s'].text()}/s; lost {samples['lost'].text()}; "
        f"neither told nor lost {samples['not accounted'].text()}{coverage}",
        f"ss -tnE {samples['ss -tnE'].text()}" if samples["ss -tnE"].values else "-",
        "-",
        min(samples["recall"].values) >= _WHOLE_PERCENT if whole else None,
        samples,
    )


def _environment() -> dict[str, str]:
    paths = [str(_ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/"}


def _python_of(user: int | None) -> str | None:
    """A Python with which that user can run the tracer: the one that runs this may be private to root."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}"):
        try:
            with Child([python, "-c", "import tracer.main, numpy"], environment=_environment(), user=user) as child:
                if child.wait(_START_S) == 0:
                    return python
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def _recall(
    command: list[str], user: int | None, servers: Servers, load: tuple[float, float], samples: dict[str, Sample]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "lines")
        made = _told(
            [*command, *servers.registry_options()], user, lines, servers, load, lambda: b'"start"' in lines.read_bytes()
        )
        found = [json.loads(line) for line in lines.read_bytes().splitlines()]
    told = sum(line["type"] == "connection" for line in found)
    summary = found[-1]
    total = made.made + made.failed
    values = (told / total * 100, summary["lost"], total - told - summary["lost"], total, made.per_s)
    for name, value in zip(("recall", "lost", "not accounted", "made", "per s"), values, strict=True):
        samples[name].add(value)
    if summary["coverage"] is not None:
        samples["coverage"].add(summary["coverage"] * 100)


def _recall_of_ss(user: int | None, servers: Servers, load: tuple[float, float], samples: dict[str, Sample]) -> None:
    """Of `ss -tnE`, which prints a line for every socket that ends, both sides of a connection."""
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "lines")
        made = _told(["ss", "-tnE"], user, lines, servers, load, lambda: time.monotonic() > started_s + _SETTLE_S)
        printed = [line.split() for line in lines.read_bytes().splitlines()]
    remotes = tuple(f"{ADDRESS}:{port}".encode() for port in servers.ports)
    told = sum(len(words) > _PEER_COLUMN and words[_PEER_COLUMN] in remotes for words in printed)
    samples["ss -tnE"].add(told / (made.made + made.failed) * 100)


def _told(
    command: list[str],
    user: int | None,
    lines: Path,
    servers: Servers,
    load: tuple[float, float],
    ready: Callable[[], bool],
) -> LoadResult:
    """Run the load while a program writes lines."""
    with lines.open("wb") as stdout, Child(command, stdout=stdout, environment=_environment(), user=user) as child:
        deadline_s = time.monotonic() + _START_S
        while not ready():
            if not child.alive or time.monotonic() > deadline_s:
                raise RuntimeError(f"{child.name} does not start: {child.complaints()}")
            time.sleep(0.02)
        time.sleep(0.5)
        made = run_load(servers.ports, *load)
        time.sleep(0.5)  # the last ones end in softirq, and are told with the next look
        child.stop(signal.SIGINT, _END_S)
    return made
