"""The whole pipeline while there is load: what it takes from the machine, what it loses, what it costs.

Throughput is measured twice. *Saturated*: one pair of processes per core and no idle time, so that every cycle the tracer uses,
in the kernel or outside, is one the load lacks. *One pair*: the load waits for itself, half of two cores is idle, and what
counts is what the tracer adds to each connection. Rounds go untraced, regtrace, tcpstates, bpftrace, untraced, ... and ratios
are made within a round.
"""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.load import TRANSITIONS_PER_CONNECTION, LoadResult, Servers, run_load
from tests.bench.machine import cpu_s, memory
from tests.bench.peers import BPFTRACE, PEERS, missing, start_peer, start_regtrace
from tests.bench.processes import Child
from tests.bench.table import Row, Sample, ratios

Say = Callable[[str], None]
THROUGHPUT_REACH, CPU_REACH_PERCENT = 0.95, 15.0
RATE_PER_S = 10_000
_END_S = 60.0
_REGTRACE = "regtrace"
_CAPTURE_BYTES_PER_EVENT = 200


def _start(tool: str, servers: Servers, ports: list[int]) -> Child:
    if tool == _REGTRACE:
        return start_regtrace("watch", *servers.registry_options(ports))
    return start_peer(tool, ports)


def measure_throughput(servers: Servers, rounds: int, seconds_s: float, say: Say) -> list[Row]:
    """Row 3: connections per second untraced and under each tool, with one pair of processes and saturated."""
    rows = []
    for name, ports in (("saturated", servers.ports), ("one pair", servers.ports[:1])):
        samples = {tool: Sample("/s") for tool in ("untraced", _REGTRACE, *PEERS)}
        absent = {peer: reason for peer in PEERS if (reason := missing(peer))}
        busy = Sample()
        for number in range(rounds):
            say(f"throughput ({name}), round {number + 1} of {rounds}")
            result = run_load(ports, seconds_s)
            samples["untraced"].add(result.per_s)
            busy.add(result.busy)
            for tool in (_REGTRACE, *PEERS):
                if tool in absent:
                    continue
                try:
                    with _start(tool, servers, ports):
                        samples[tool].add(run_load(ports, seconds_s).per_s)
                except RuntimeError as error:
                    if tool == _REGTRACE:
                        raise
                    absent[tool] = f"{tool}: {error}"
        rows.append(_throughput_row(f"{name}, {busy.median:.0%} of all cores busy untraced", samples, absent))
    return rows


def _throughput_row(name: str, samples: dict[str, Sample], absent: dict[str, str]) -> Row:
    shares = {tool: ratios(samples[tool], samples["untraced"]) for tool in (_REGTRACE, *PEERS)}
    beside = [f"untraced {samples['untraced'].text()}"]
    beside += [absent.get(peer, f"{peer} {samples[peer].text()}") for peer in PEERS]
    return Row(
        f"connect/close throughput with the tracer on ({name})",
        ">= 0.95 of untraced",
        samples[_REGTRACE].text(),
        "; ".join(beside),
        "; ".join(f"{tool} {share.text()}" for tool, share in shares.items() if share.values),
        shares[_REGTRACE].median >= THROUGHPUT_REACH,
        samples,
    )


@dataclass(frozen=True)
class _Recorded:
    load: LoadResult
    lost: int
    connections: int
    capture_bytes: int
    end_s: float


def _record(servers: Servers, seconds_s: float, folder: Path) -> _Recorded:
    capture, lines = folder / "capture.arrows", folder / "lines.jsonl"
    with lines.open("wb") as stdout:
        options = ["record", str(capture), "--force", "--json", *servers.registry_options()]
        child = start_regtrace(*options, stdout=stdout)
        try:
            load = run_load(servers.ports, seconds_s)
            time.sleep(0.2)  # the last closes run in softirq
        finally:
            stopped_s = time.monotonic()
            code = child.stop(signal.SIGINT, _END_S)
            end_s = time.monotonic() - stopped_s
    if code:
        raise RuntimeError(f"regtrace record ended with {code}: {child.complaints()}")
    with lines.open("rb") as file:
        file.seek(max(0, lines.stat().st_size - (1 << 20)))
        summary = json.loads(file.read().splitlines()[-1])
    return _Recorded(load, summary["lost"], summary["connections"], capture.stat().st_size, end_s)


def measure_loss(servers: Servers, rounds: int, seconds_s: float, say: Say) -> list[Row]:
    """Row 4: `record --json` at saturation: events lost, and connections counted against those made."""
    names = ("lost", "connections missed", "connections made", "per s", "bytes per connection", "end_s")
    samples = {name: Sample() for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            say(f"loss at saturation, round {number + 1} of {rounds}")
            found = _record(servers, seconds_s, Path(folder))
            made = found.load.made + found.load.failed
            values = (found.lost, made - found.connections, made, found.load.per_s, found.capture_bytes / made, found.end_s)
            for name, value in zip(names, values, strict=True):
                samples[name].add(value)
        beside = [_peer_loss(peer, servers, seconds_s, Path(folder), samples) for peer in PEERS]
    lost, missed = samples["lost"], samples["connections missed"]
    whole = not any(lost.values) and not any(missed.values)
    return [
        Row(
            "loss at saturation, whole pipeline on (record --json)",
            "0 lost, all connections counted",
            f"{lost.text()} lost, {missed.text()} of {samples['connections made'].text()} connections missed "
            f"at {samples['per s'].text()}/s; {samples['bytes per connection'].text()} B a connection in the capture; "
            f"SIGINT to end {samples['end_s'].text()} s",
            "; ".join(beside),
            "-",
            whole,
            samples,
        )
    ]


def _peer_loss(peer: str, servers: Servers, seconds_s: float, folder: Path, samples: dict[str, Sample]) -> str:
    """What share of the transitions a peer prints under the same load, and at what rate: it slows the load down itself."""
    reason = missing(peer)
    if reason:
        return reason
    path = folder / f"{peer}.txt"
    try:
        with path.open("wb") as stdout, start_peer(peer, servers.ports, stdout) as child:
            load = run_load(servers.ports, seconds_s)
            time.sleep(1.0)
            child.stop(signal.SIGINT)
    except RuntimeError as error:
        return f"{peer}: {error}"
    wanted = [f":{port}".encode() if peer == BPFTRACE else f" {port} ".encode() for port in servers.ports]
    with path.open("rb") as file:
        printed = sum(any(port in line for port in wanted) for line in file)
    path.unlink()
    share = printed / (load.made * TRANSITIONS_PER_CONNECTION)
    samples[f"{peer} printed share"] = Sample("", [share])
    samples[f"{peer} per s"] = Sample("/s", [load.per_s])
    return f"{peer} printed {share:.1%} of the transitions, at {load.per_s:,.0f}/s"


def measure_cpu(servers: Servers, rounds: int, seconds_s: float, say: Say) -> list[Row]:
    """Row 5: CPU time of the user side at 10,000 connections/s (or what the machine makes), by way of output."""
    modes = {"text": ["watch"], "--json": ["watch", "--json"], "record": ["record"], "record --json": ["record", "--json"]}
    samples = {mode: Sample(" %") for mode in modes}
    per_1000 = {f"{mode}, per 1,000/s": Sample(" %") for mode in modes}
    tools = {tool: Sample(" %") for tool in PEERS}
    rates, resident = Sample("/s"), Sample(" MB")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            say(f"CPU of the user side, round {number + 1} of {rounds}")
            for mode, words in modes.items():
                target = [str(Path(folder, f"{number}.arrows")), "--force"] if words[0] == "record" else []
                with start_regtrace(words[0], *target, *words[1:], *servers.registry_options()) as child:
                    percent, rate = _percent(child, servers, seconds_s)
                    resident.add(memory(child.pid).rss_mb)
                samples[mode].add(percent)
                per_1000[f"{mode}, per 1,000/s"].add(percent / rate * 1000)
                rates.add(rate)
            for tool in PEERS:
                if missing(tool) is None:
                    with start_peer(tool, servers.ports) as child:
                        tools[tool].add(_percent(child, servers, seconds_s)[0])
    beside = [missing(tool) or f"{tool} {tools[tool].text()}" for tool in PEERS]
    per = "; ".join(f"{mode} {per_1000[f'{mode}, per 1,000/s'].median:.2f}" for mode in modes)
    row = Row(
        f"CPU of the user side at {rates.text()} connections, in % of a core",
        f"<= 15 % at {RATE_PER_S:,}/s",
        "; ".join(f"{mode} {samples[mode].text()}" for mode in modes)
        + f"; per 1,000 connections/s: {per}; resident {resident.text()}",
        "; ".join(beside),
        _cpu_ratios(samples["text"], tools),
        max(samples["text"].median, samples["--json"].median, samples["record"].median)
        <= CPU_REACH_PERCENT * rates.median / RATE_PER_S,
        samples | per_1000 | tools | {"connections per s": rates, "resident": resident},
    )
    return [row]


def _percent(child: Child, servers: Servers, seconds_s: float) -> tuple[float, float]:
    """(CPU in % of a core, connections per s) while the paced load runs."""
    before_s, started_s = cpu_s(child.pid), time.monotonic()
    result = run_load(servers.ports, seconds_s, RATE_PER_S)
    time.sleep(0.1)  # the last poll's work belongs to the load
    used_s = cpu_s(child.pid) - before_s
    if result.per_s <= 0 or time.monotonic() <= started_s:
        raise RuntimeError("the load made no connections")
    return used_s / result.seconds_s * 100, result.per_s


def _cpu_ratios(text: Sample, tools: dict[str, Sample]) -> str:
    found = [f"text {ratios(text, sample).text()} of {tool}" for tool, sample in tools.items() if sample.values]
    return "; ".join(found) or "-"
