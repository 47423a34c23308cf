"""Hosts without eBPF: what one picture of all sockets costs, beside the tools that take one.

CPU time counts, user and system: of this thread for what runs in this process, of the whole child for a program, its start
included (about a millisecond, which is most of `cat` at 1,000 sockets). Each is asked in turn, round by round, and ratios are
made within a round. psutil looks up the processes of the sockets too, which neither `read_tcp` nor `ss -tn` does, and the dump
brings tcp_info's counters, for which `ss` has to be asked (-i).
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from fallback.namespaces import OpenProcess
from fallback.netlink import V4_MAPPED, Remote
from fallback.proc_net import FILES, INITIAL_BYTES, read_tcp
from fallback.sock_diag import ALL_STATES, Dumper
from tests.bench.crowd import Crowd
from tests.bench.polling_watch import measure_recall, measure_watching
from tests.bench.processes import cost_of_program
from tests.bench.table import Row, Sample, ratios
from tracer.events import TcpState

Say = Callable[[str], None]
CAT_REACH = 1.5
_PROC = Path("/proc")
_CROWD, _WANTED = 71, 72  # networks
_WANTED_SOCKETS = 20  # 10 connections: 10 sockets have the remote that is asked for
_PARSED, _READ, _DUMPED, _FILTERED = "read_tcp", "reading alone", "dump of all", "dump of 10"
_CAT, _SS, _PSUTIL = "cat", "ss -tn", "psutil"
_PROGRAMS = {_CAT: ["cat", "/proc/net/tcp", "/proc/net/tcp6"], _SS: ["ss", "-tn"]}


@dataclass(frozen=True)
class PollingPlan:
    """How much of what.

    Attributes:
        pictures: (sockets, rounds) for the cost of a picture.
        watching: sockets that are there while `watch` runs.
        windows: (how many, s each) for its share of a core.
        recall: (rounds, s of load).
    """

    pictures: tuple[tuple[int, int], ...]
    watching: tuple[int, ...]
    windows: tuple[int, float]
    recall: tuple[int, float]


@dataclass
class _Cost:
    """Of one way to take a picture, in ms."""

    cpu: Sample = field(default_factory=lambda: Sample(" ms"))
    wall: Sample = field(default_factory=lambda: Sample(" ms"))


def measure_polling(plan: PollingPlan, say: Say) -> list[Row]:
    """Rows of hosts without eBPF: a picture's cost, the share of a core that watching takes, and recall."""
    rows: list[Row] = []
    for sockets, rounds in plan.pictures:
        rows += measure_pictures(sockets, rounds, say)
    for sockets in plan.watching:
        rows += measure_watching(sockets, *plan.windows, say)
    return rows + measure_recall(*plan.recall, say)


def measure_pictures(sockets: int, rounds: int, say: Say) -> list[Row]:
    """What one picture costs with so many established sockets, through /proc and through sock_diag."""
    say(f"a picture of {sockets:,} sockets, {rounds} rounds")
    with (
        Crowd(sockets - _WANTED_SOCKETS, _CROWD) as crowd,
        Crowd(_WANTED_SOCKETS, _WANTED) as wanted,
        closing(Dumper()) as dumper,
    ):
        ways = _ways(dumper, _remote(wanted.remotes[0]))
        made = crowd.sockets + wanted.sockets
        costs = {name: _Cost() for name in ways}
        for way in ways.values():
            way()  # what is grown and cached at the first time is there at every other
        for _ in range(rounds):
            for name, way in ways.items():
                cpu_s, wall_s = way()
                costs[name].cpu.add(cpu_s * 1e3)
                costs[name].wall.add(wall_s * 1e3)
    absent = "" if _PSUTIL in ways else "psutil is missing (pip install psutil)"
    absent += "" if _SS in ways else "; ss is missing (package iproute2)"
    samples = {f"{name} cpu": cost.cpu for name, cost in costs.items()} | {
        f"{name} wall": cost.wall for name, cost in costs.items()
    }
    return [_proc_row(made, costs, absent, samples), _diag_row(made, costs)]


def _proc_row(made: int, costs: dict[str, _Cost], absent: str, samples: dict[str, Sample]) -> Row:
    parsed = costs[_PARSED]
    peers = [name for name in (_CAT, _SS, _PSUTIL) if name in costs]
    shares = {name: ratios(parsed.cpu, costs[name].cpu) for name in (*peers, _READ)}
    return Row(
        f"CPU of one picture of {made:,} sockets through /proc/net/tcp and tcp6",
        f"<= {CAT_REACH} x cat",
        f"read_tcp {parsed.cpu.text()}, reading alone {costs[_READ].cpu.text()}",
        "; ".join([_beside(name, costs[name]) for name in peers] + ([absent] if absent else [])),
        "; ".join(f"{shares[name].text()} of {name}" for name in shares),
        shares[_CAT].median <= CAT_REACH,
        samples,
    )


def _diag_row(made: int, costs: dict[str, _Cost]) -> Row:
    peers = [name for name in (_SS, _PARSED) if name in costs]
    return Row(
        f"CPU of one picture of {made:,} sockets through sock_diag",
        "",
        f"all of them, with counters {costs[_DUMPED].cpu.text()}; 10 of them, by remote {costs[_FILTERED].cpu.text()}",
        "; ".join(_beside(name, costs[name]) for name in peers),
        "; ".join(f"all {ratios(costs[_DUMPED].cpu, costs[name].cpu).text()} of {name}" for name in peers),
    )


def _beside(name: str, cost: _Cost) -> str:
    return f"{name} {cost.cpu.text()}, wall {cost.wall.text()}"


def _remote(text: str) -> Remote:
    """Of ADDRESS:PORT, IPv4."""
    address, _, port = text.rpartition(":")
    return Remote(V4_MAPPED + bytes(map(int, address.split("."))), 128, int(port))


def _ways(dumper: Dumper, remote: Remote) -> dict[str, Callable[[], tuple[float, float]]]:
    """The ways to take a picture, each giving its (CPU time, wall time) in s; programs that are not installed are left out."""
    space = bytearray(INITIAL_BYTES)
    states = ALL_STATES & ~(1 << TcpState.LISTEN)

    def read() -> None:
        with OpenProcess(_PROC, None) as process:
            for name, _ in FILES:
                process.read_into(f"net/{name}", space)

    ways = {
        _PARSED: lambda: _of_thread(lambda: read_tcp(_PROC, space=space)),
        _READ: lambda: _of_thread(read),
        _DUMPED: lambda: _of_thread(lambda: dumper.dump(states)),
        _FILTERED: lambda: _of_thread(lambda: dumper.dump(states, [remote])),
    }
    for name, command in _PROGRAMS.items():
        if shutil.which(command[0]):
            ways[name] = lambda command=command: cost_of_program(command)  # type: ignore[misc]
    if importlib.util.find_spec("psutil"):
        import psutil  # type: ignore[import-untyped]

        ways[_PSUTIL] = lambda: _of_thread(lambda: psutil.net_connections("tcp"))
    return ways


def _of_thread(work: Callable[[], object]) -> tuple[float, float]:
    """(CPU time of this thread, wall time) of some work, in s."""
    started_s, before_s = time.perf_counter(), time.thread_time()
    work()
    return time.thread_time() - before_s, time.perf_counter() - started_s
