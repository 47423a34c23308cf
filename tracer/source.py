"""Which source to take, in three steps: probe the host, decide (pure), open. Alone in importing `bpf` and `fallback`.

A source that was chosen by itself is replaced by the next best if it dies while it runs, and the stream says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tracer.adoption import with_found
from tracer.endpoints import ANY_PORT, Network, prefix_of
from tracer.errors import SourceError
from tracer.events import EventBatch, Events, no_events
from tracer.failover import Failover
from tracer.feed import Source
from tracer.watchlist import Watch

if TYPE_CHECKING:
    from bpf.support import EbpfSupport
    from fallback.netlink import Remote
    from fallback.source import PollingSource
    from fallback.support import PollingSupport

AUTO, EBPF, POLLED, PROC = "auto", "ebpf", "polled", "proc"
WANTED = (AUTO, EBPF, POLLED, PROC)
"""What `--source` takes."""
_ADOPTION_SHARE = 0.1
"""Of the time, what looking up open connections may take."""
_KERNEL_ADDRESSES = 1 << 48
"""Socket addresses below are made up."""


@dataclass(frozen=True)
class HostSupport:
    """Facts about this host and process, by source."""

    ebpf: EbpfSupport
    polling: PollingSupport


@dataclass(frozen=True)
class Choice:
    """What will be used.

    Attributes:
        source: its name; None if there is none.
        why: the reason, in a sentence without a final stop.
        remedy: what to do to get a better source, "" if there is nothing better.
    """

    source: str | None
    why: str
    remedy: str = ""


def probe_host() -> HostSupport:
    """Look at this host. Never raises."""
    from bpf.support import probe
    from fallback.support import probe as probe_polling

    return HostSupport(probe(), probe_polling())


def choose_source(support: HostSupport, wanted: str) -> Choice:
    """Decide. Pure: facts in, decision out.

    Args:
        support: the host's facts.
        wanted: one of WANTED.
    """
    lacking = _ebpf_lacks(support.ebpf)
    if wanted in (AUTO, EBPF) and lacking is None:
        return Choice(EBPF, "BPF may be loaded, the kernel has BTF, and bcc is installed")
    reason, remedy = lacking or ("", "")
    because = f"eBPF is not available: {reason}"
    if wanted == EBPF:
        return Choice(None, because, remedy)
    polled = "sock_diag reports every connection that ends, and open ones are looked at several times a second"
    proc = "/proc is looked at from time to time; a connection that lives less than that is not seen"
    no_diag, no_proc = support.polling.sock_diag, support.polling.proc
    if wanted == POLLED:
        return Choice(None, f"sock_diag can't be used: {no_diag}", "use --source proc") if no_diag else Choice(POLLED, polled)
    if wanted == PROC:
        return Choice(None, f"/proc can't be used: {no_proc}", "use --source auto") if no_proc else Choice(PROC, proc)
    if not no_diag:
        return Choice(POLLED, f"{because}; {polled}", remedy)
    if not no_proc:
        return Choice(PROC, f"{because}; sock_diag can't be used: {no_diag}; {proc}", remedy)
    return Choice(None, f"{because}; sock_diag can't be used: {no_diag}; /proc can't be used: {no_proc}", remedy)


def _ebpf_lacks(ebpf: EbpfSupport) -> tuple[str, str] | None:
    """(what is missing, what to do about it), the first thing that is; None if nothing."""
    if not ebpf.privileged:
        return (
            "this process may not load BPF programs (needs root, or CAP_BPF and CAP_PERFMON)",
            "run it as root, for example with sudo",
        )
    if not ebpf.btf:
        return (
            "the kernel does not describe its structures (/sys/kernel/btf/vmlinux is missing)",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF, as distributions' kernels since 2020 are",
        )
    if ebpf.ring_buffer_error is not None:
        return (
            f"the kernel gives no BPF ring buffer ({ebpf.ring_buffer_error})",
            "use a kernel that has one (5.8 or later), and check that no security policy forbids bpf(2)",
        )
    if ebpf.bcc_dir is None:
        return (
            "the distribution's bcc is not installed (PyPI's package of that name is another program)",
            "install it: apt install python3-bpfcc, or dnf install python3-bcc",
        )
    return None


def source_facts(support: HostSupport) -> dict[str, object]:
    """What `doctor` shows of the sources: name to value, None where unknown (or not to be known without privileges)."""
    from bpf.support import describe
    from fallback.support import describe as describe_polling

    return describe(support.ebpf) | describe_polling(support.polling)


def open_source(support: HostSupport, choice: Choice, wanted: str = AUTO) -> Source:
    """Open what was chosen.

    Args:
        support: the host's facts.
        choice: the decision.
        wanted: what `choice` is the answer to; what was left to us is replaced by something else if it dies.

    Raises:
        SourceError: nothing can be, or opening it failed.
    """
    if choice.source is None:
        raise SourceError(f"{choice.why}; {choice.remedy}")
    source: Source = _EbpfAdapter(support.ebpf) if choice.source == EBPF else _PollingAdapter(choice.source)
    left = ((POLLED, support.polling.sock_diag), (PROC, support.polling.proc))[choice.source != EBPF :]
    names = [name for name, reason in left if reason is None and name != choice.source]
    return Failover(source, [partial(_PollingAdapter, name) for name in names]) if wanted == AUTO else source


def _remotes(endpoints: Watch) -> Iterable[tuple[Remote, int]]:
    """What is watched, as the polling sources take it."""
    from fallback.netlink import Remote

    for number, members in endpoints.items():
        for resolved in members:
            if resolved.network is not None:
                yield Remote(*prefix_of(resolved.network), resolved.port), number


def _open_now(endpoints: Watch, numbers: Callable[[int], NDArray[np.uint64]] | None = None) -> tuple[EventBatch, list[str]]:
    """The sockets that are open to what is watched, and what went wrong; none where they can't be seen."""
    from fallback.source import PollingSource

    warnings: list[str] = []
    for name in (POLLED, PROC):
        snapshot = PollingSource(name, numbers=numbers)
        try:
            snapshot.watch(_remotes(endpoints))
            snapshot.start()
            return snapshot.read(), [*warnings, *snapshot.warnings()]
        except SourceError as error:
            warnings.append(f"connections that are open already can't be looked up: {error}")
        finally:
            snapshot.close()
    return EventBatch(no_events(), PROC, 1), warnings


def _added(before: Watch, after: Watch) -> Watch:
    """What is watched now and was not, under any number: what is open to the rest is known already."""
    ports: dict[Network | None, set[int]] = {}
    for members in before.values():
        for member in members:
            ports.setdefault(member.network, set()).add(member.port)
    fresh = {
        number: tuple(member for member in members if not {member.port, ANY_PORT} & ports.get(member.network, set()))
        for number, members in after.items()
    }
    return {number: members for number, members in fresh.items() if members}


class _EbpfAdapter:
    """bpf.source.EbpfSource, told what to watch in terms of endpoints, and told what was open before it began."""

    def __init__(self, support: EbpfSupport) -> None:
        from bpf.source import EbpfSource
        from fallback.differ import numbers_from

        self._source = EbpfSource(support)
        self._numbers = numbers_from()  # one for all snapshots: no two sockets have the same
        self.name: str = self._source.name
        self.resolution_ns: int = self._source.resolution_ns
        self.close = self._source.close
        self._watched: Watch = {}
        self._started = False
        self._added: Watch = {}
        self._adopt_due_ns = 0
        self._adopted: list[Events] = []
        self._warnings: list[str] = []
        self._warned: set[str] = set()

    def watch(self, endpoints: Watch) -> None:
        from bpf.watch_map import WatchEntry

        before, self._watched = self._watched, endpoints
        self._source.watch(
            WatchEntry(*prefix_of(resolved.network), resolved.port, number)
            for number, members in endpoints.items()
            for resolved in members
            if resolved.network is not None
        )
        if self._started:
            for number, members in _added(before, endpoints).items():
                self._added[number] = (*self._added.get(number, ()), *members)

    def start(self) -> None:
        self._source.read()  # what came in before now was not promised
        self._started = True
        self._added = dict(self._watched)
        self._adopt()

    def _adopt(self) -> None:
        """Have what is open to what was added told; the more namespaces there are, the rarer, as it costs more."""
        started_ns = time.monotonic_ns()
        if not self._added or started_ns < self._adopt_due_ns:
            return
        found, warnings = _open_now(self._added, self._numbers)
        self._added = {}
        self._adopt_due_ns = started_ns + int((time.monotonic_ns() - started_ns) / _ADOPTION_SHARE)
        self._adopted.append(found.events)
        self._warnings += [text for text in warnings if text not in self._warned]
        self._warned.update(warnings)

    def read(self, *, at_once: bool = False) -> EventBatch:
        self._adopt()
        batch = self._source.read()
        if not self._adopted:
            return batch
        adopted, self._adopted = np.concatenate(self._adopted), []
        return replace(batch, events=with_found(adopted, batch.events))

    def follow(self, clients: Iterable[tuple[int, bytes]]) -> None:
        self._source.follow(clients)

    def sample(self, skaddrs: Iterable[int]) -> bool:
        return self._source.sample(skaddr for skaddr in skaddrs if skaddr >= _KERNEL_ADDRESSES)

    def warnings(self) -> list[str]:
        told, self._warnings = self._warnings, []
        return told

    def lacks(self) -> list[str]:
        return []


class _PollingAdapter:
    """fallback.source.PollingSource, told what to watch in terms of endpoints."""

    def __init__(self, name: str) -> None:
        from fallback.source import PollingSource

        self._source: PollingSource = PollingSource(name)
        self.name = name
        self.start = self._source.start
        self.read = self._source.read
        self.sample = self._source.sample
        self.warnings = self._source.warnings
        self.lacks = self._source.lacks
        self.close = self._source.close

    @property
    def resolution_ns(self) -> int:
        return self._source.resolution_ns

    def watch(self, endpoints: Watch) -> None:
        self._source.watch(_remotes(endpoints))

    def follow(self, clients: Iterable[tuple[int, bytes]]) -> None:
        """What is over by the next look can't be told."""
