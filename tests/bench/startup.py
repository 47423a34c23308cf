"""How soon a tool shows something, what it keeps in memory, and whether it leaves anything behind.

A client connects a few hundred times a second meanwhile, so that the first event does not wait for traffic. Times count from just
before the program is started. The peers are asked for everything on the same port; their output is a pipe, which they fill by the
block, and a few hundred lines a second fill one in less than 0.1 s.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable

from tests.bench.load import Servers, start_continuous
from tests.bench.machine import Memory, children, memory
from tests.bench.peers import BPFTRACE, PEERS, missing, peer_command, regtrace_command
from tests.bench.processes import Child
from tests.bench.table import Row, Sample, ratios

START_REACH_S, MEMORY_REACH_MB = 1.5, 80.0
_RATE_PER_S = 300.0
_TIMEOUT_S = 30.0
_RUNNING_S = 1.0
_REGTRACE = "regtrace"
_MEASURES = ("first event", "rss", "peak", "pss")


def _is_event(tool: str, port: int) -> Callable[[str], bool]:
    if tool == _REGTRACE:
        return lambda line: json.loads(line)["type"] == "connection"
    wanted = f":{port}" if tool == BPFTRACE else f" {port} "
    return lambda line: wanted in line


def _keep_reading(child: Child, seconds_s: float) -> None:
    end_s = time.monotonic() + seconds_s
    while time.monotonic() < end_s:
        child.poll_line(0.05)


def _one(tool: str, servers: Servers, samples: dict[str, Sample]) -> None:
    ports = servers.ports[:1]
    command = (
        regtrace_command("watch", "--json", *servers.registry_options(ports)) if tool == _REGTRACE else peer_command(tool, ports)
    )
    with Child(command, pipe=True) as child:
        if tool == _REGTRACE:
            samples["regtrace start line"].add(child.wait_for_line(lambda line: json.loads(line)["type"] == "start", _TIMEOUT_S))
        samples[f"{tool} first event"].add(child.wait_for_line(_is_event(tool, ports[0]), _TIMEOUT_S))
        _keep_reading(child, _RUNNING_S)
        used: Memory = memory(child.pid)
        for name, value in zip(_MEASURES[1:], used, strict=True):
            samples[f"{tool} {name}"].add(value)
        if tool == _REGTRACE:
            samples["regtrace children"].add(len(children(child.pid)))
        child.stop(signal.SIGINT)


def measure_startup(servers: Servers, rounds: int, say: Callable[[str], None]) -> list[Row]:
    """Row 7: start to first event, and memory once running.

    Args:
        servers: the first one is connected to.
        rounds: each starts every tool once.
        say: progress.
    """
    samples = {
        f"{tool} {name}": Sample(" s" if name == "first event" else " MB") for tool in (_REGTRACE, *PEERS) for name in _MEASURES
    }
    samples |= {"regtrace start line": Sample(" s"), "regtrace children": Sample()}
    absent = {peer: reason for peer in PEERS if (reason := missing(peer))}
    seconds_s = rounds * (1 + len(PEERS)) * _TIMEOUT_S
    with start_continuous(servers.ports[0], seconds_s, _RATE_PER_S):
        for number in range(rounds):
            say(f"start and memory, round {number + 1} of {rounds}")
            for tool in (_REGTRACE, *PEERS):
                if tool in absent:
                    continue
                try:
                    _one(tool, servers, samples)
                except (RuntimeError, TimeoutError) as error:
                    if tool == _REGTRACE:
                        raise
                    absent[tool] = f"{tool}: {error}"
    return _rows(samples, absent)


def _rows(samples: dict[str, Sample], absent: dict[str, str]) -> list[Row]:
    first, rss, left = samples["regtrace first event"], samples["regtrace rss"], samples["regtrace children"]

    def beside(name: str) -> str:
        return "; ".join(absent.get(peer, f"{peer} {samples[f'{peer} {name}'].text()}") for peer in PEERS)

    def ratio(name: str) -> str:
        found = {peer: ratios(samples[f"regtrace {name}"], samples[f"{peer} {name}"]) for peer in PEERS}
        return "; ".join(f"{share.text()} of {peer}" for peer, share in found.items() if share.values) or "-"

    return [
        Row(
            "start to first event (exec of `watch --json` to its first connection line)",
            "<= 1.5 s",
            f"{first.text()}; start line {samples['regtrace start line'].text()}",
            beside("first event"),
            ratio("first event"),
            first.median <= START_REACH_S,
            {name: sample for name, sample in samples.items() if name.endswith(("first event", "start line"))},
        ),
        Row(
            "resident memory once running",
            "<= 80 MB, no child process",
            f"{rss.text()}; peak {samples['regtrace peak'].text()}, Pss {samples['regtrace pss'].text()}; "
            f"{max(left.values, default=0):.0f} children",
            beside("rss"),
            ratio("rss"),
            rss.median <= MEMORY_REACH_MB and not any(left.values),
            {name: sample for name, sample in samples.items() if name.endswith(("rss", "peak", "pss", "children"))},
        ),
    ]
