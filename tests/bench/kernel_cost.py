"""What a transition costs inside the kernel, in ns, by bpf_stats.

Method. bpf_stats adds up the time of every run of a program. The tracer's program runs at every transition of the machine: at
the client's, which are watched, and at the server's, whose remote side is another address. So:

- unwatched: watch an address that nobody talks to (192.0.2.1, documentation), load, and divide time by runs. Among them are the
  kernel's reports of a state that does not change (tcp_close_state()), at which the program leaves at once.
- watched: watch the servers, load, and solve `time = watched * x + (runs - watched) * unwatched` for x, with `watched` counted
  from the events that came out of the ring (and those lost, which paid as well).

bpf_stats itself reads the clock twice a run, and part of that lies inside what it measures. The floor, an empty program on the
same tracepoint in the same run, shows how much; nothing is subtracted, from ours or from the others. Peers run unfiltered, so
that each of their runs is an event that they report. All programs are measured under saturation: a pair of processes per core,
no idle time.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

from bpf.source import EbpfSource
from bpf.support import probe
from bpf.watch_map import WatchEntry
from tests.bench.load import ADDRESS, run_load
from tests.bench.machine import FloorProgram, ProgramStats, bpf_stats, fd_stats, program_stats
from tests.bench.peers import PEERS, TCPSTATES, missing, start_peer
from tests.bench.table import Row, Sample, ratios
from tracer.endpoints import prefix_of

WATCHED_REACH_NS, UNWATCHED_REACH_NS, PEER_RATIO_REACH = 700, 150, 1 / 8
_UNUSED_ADDRESS = "192.0.2.1"
_OTHER_PREFIXES = 1000


def _entry(address: str, port: int, number: int = 1) -> WatchEntry:
    return WatchEntry(*prefix_of(ipaddress.ip_network(address)), port, number)


def _many_prefixes() -> list[WatchEntry]:
    """As many as the address ranges of a large registry's content network have."""
    return [_entry(f"198.{18 + index // 256}.{index % 256}.0/24", 443, index + 1) for index in range(_OTHER_PREFIXES)]


@contextmanager
def _opened() -> Iterator[EbpfSource]:
    source = EbpfSource(probe())
    try:
        yield source
    finally:
        with suppress(BufferError):  # an interrupt out of read() still holds views of the ring: they go with this process
            source.close()


def _drain(source: EbpfSource) -> int:
    """Events that were sent, the lost ones included."""
    batch = source.read()
    return len(batch) + batch.lost


def _measured(source: EbpfSource, entries: list[WatchEntry], ports: list[int], seconds_s: float) -> tuple[ProgramStats, int]:
    """(statistics, watched events) of a load while these are watched."""
    source.watch(entries)
    _drain(source)
    events = 0

    def poll() -> None:
        nonlocal events
        events += _drain(source)

    before = fd_stats(source.program_fd)
    run_load(ports, seconds_s, on_poll=poll)
    poll()
    return fd_stats(source.program_fd).since(before), events


def _own_round(ports: list[int], seconds_s: float, samples: dict[str, Sample]) -> None:
    unused = _entry(_UNUSED_ADDRESS, 443)
    with _opened() as source:
        unwatched, _ = _measured(source, [unused], ports, seconds_s)
        many, _ = _measured(source, [unused, *_many_prefixes()], ports, seconds_s)
        source.follow()
        following, _ = _measured(source, [unused], ports, seconds_s)
    with _opened() as source:
        stats, events = _measured(source, [_entry(ADDRESS, port) for port in ports], ports, seconds_s)
    samples["unwatched"].add(unwatched.mean_ns)
    samples["unwatched, 1,000 prefixes"].add(many.mean_ns)
    samples["unwatched, following"].add(following.mean_ns)
    if events:
        others_ns = (stats.run_count - events) * unwatched.mean_ns
        samples["watched"].add((stats.run_time_ns - others_ns) / events)


def _floor_round(ports: list[int], seconds_s: float) -> float:
    with closing(FloorProgram()) as floor:
        run_load(ports, seconds_s)
        return floor.stats().mean_ns


def measure_kernel_cost(ports: list[int], rounds: int, seconds_s: float, say: Callable[[str], None]) -> list[Row]:
    """Rows 1 and 2: in-kernel cost of a watched and of an unwatched transition.

    Args:
        ports: of the servers.
        rounds: each measures every program once, one after the other.
        seconds_s: of load for each.
        say: progress.
    """
    names = ("watched", "unwatched", "unwatched, 1,000 prefixes", "unwatched, following", "floor", *PEERS)
    samples = {name: Sample(" ns") for name in names}
    absent = {peer: reason for peer in PEERS if (reason := missing(peer))}
    with bpf_stats():
        run_load(ports, min(1.0, seconds_s))  # warm up
        for number in range(rounds):
            say(f"in-kernel cost, round {number + 1} of {rounds}")
            _own_round(ports, seconds_s, samples)
            samples["floor"].add(_floor_round(ports, seconds_s))
            for peer in PEERS:
                if peer in absent:
                    continue
                try:
                    with start_peer(peer, None) as child:
                        before = program_stats(child.pid)
                        run_load(ports, seconds_s)
                        samples[peer].add(program_stats(child.pid).since(before).mean_ns)
                except RuntimeError as error:
                    absent[peer] = f"{peer}: {error}"
    return _rows(samples, absent)


def _rows(samples: dict[str, Sample], absent: dict[str, str]) -> list[Row]:
    watched, unwatched, many = samples["watched"], samples["unwatched"], samples["unwatched, 1,000 prefixes"]
    following = samples["unwatched, following"]
    by_peer = {peer: ratios(watched, samples[peer]) for peer in PEERS}
    watched_ok = watched.median <= WATCHED_REACH_NS
    if by_peer[TCPSTATES].values:
        watched_ok = watched_ok and by_peer[TCPSTATES].median <= PEER_RATIO_REACH
    return [
        Row(
            "in-kernel cost of a watched transition (bpf_stats)",
            "<= 700 ns, <= 1/8 of tcpstates",
            watched.text(),
            "; ".join([absent.get(peer, f"{peer} {samples[peer].text()}") for peer in PEERS]
                      + [f"empty program {samples['floor'].text()}"]),
            "; ".join(f"{ratio.text()} of {peer}" for peer, ratio in by_peer.items() if ratio.values) or "-",
            watched_ok,
            {name: samples[name] for name in ("watched", "floor", *PEERS)},
        ),
        Row(
            "the same, unwatched traffic",
            "<= 150 ns",
            unwatched.text(),
            f"empty program {samples['floor'].text()}; 1,000 prefixes watched {many.text()}; "
            f"while hosts may be learnt {following.text()}",
            f"{ratios(unwatched, samples['floor']).text()} of an empty program",
            unwatched.median <= UNWATCHED_REACH_NS,
            {"unwatched": unwatched, "unwatched, 1,000 prefixes": many, "unwatched, following": following},
        ),
    ]  # fmt: skip
