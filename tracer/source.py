"""Which source to take, in three steps: probe the host, decide (pure), open. Alone in importing `bpf` and `fallback`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tracer.endpoints import Endpoint, network_label, parse_endpoint, prefix_of
from tracer.errors import SourceError
from tracer.events import EventBatch

if TYPE_CHECKING:
    from bpf.support import EbpfSupport

AUTO, EBPF = "auto", "ebpf"
WANTED = (AUTO, EBPF)
"""What `--source` takes. The polling sources will add their names here."""


class Source(Protocol):
    """Where events come from."""

    @property
    def name(self) -> str:
        """The value of `source` in every output."""
        ...

    @property
    def resolution_ns(self) -> int:
        """How exact times are, in ns."""
        ...

    def watch(self, endpoints: dict[int, tuple[Endpoint, ...]]) -> None:
        """Watch these, by endpoint id, and nothing else, from now on."""
        ...

    def read(self) -> EventBatch:
        """Everything there is now; does not wait. Raises SourceError if the source died."""
        ...

    def sample(self, skaddrs: Iterable[int]) -> bool:
        """Ask for the counters of open sockets, which come with the next read; False if this source can't."""
        ...

    def close(self) -> None:
        """Stop and leave nothing behind."""
        ...


@dataclass(frozen=True)
class HostSupport:
    """Facts about this host and process, by source."""

    ebpf: EbpfSupport


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

    return HostSupport(probe())


def choose_source(support: HostSupport, wanted: str) -> Choice:
    """Decide. Pure: facts in, decision out.

    Args:
        support: the host's facts.
        wanted: one of WANTED.
    """
    lacking = _ebpf_lacks(support.ebpf)
    if lacking is None:
        return Choice(EBPF, "BPF may be loaded, the kernel has BTF, and bcc is installed")
    reason, remedy = lacking
    if wanted == EBPF:
        return Choice(None, f"eBPF is not available: {reason}", remedy)
    return Choice(None, f"eBPF is not available: {reason}; this version has no other source", remedy)


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


def ebpf_facts(support: HostSupport) -> dict[str, object]:
    """What `doctor` shows of eBPF: name to value, None where unknown (or not to be known without privileges)."""
    from bpf.support import describe

    return describe(support.ebpf)


def open_source(support: HostSupport, choice: Choice) -> Source:
    """Open what was chosen.

    Raises:
        SourceError: nothing can be, or opening it failed.
    """
    if choice.source is None:
        raise SourceError(f"{choice.why}; {choice.remedy}")
    return _EbpfAdapter(support.ebpf)


class _EbpfAdapter:
    """bpf.source.EbpfSource, told what to watch in terms of endpoints (bpf knows addresses only)."""

    def __init__(self, support: EbpfSupport) -> None:
        from bpf.source import EbpfSource

        self._source = EbpfSource(support)
        self.name: str = self._source.name
        self.resolution_ns: int = self._source.resolution_ns
        self.read = self._source.read
        self.sample = self._source.sample
        self.close = self._source.close

    def watch(self, endpoints: dict[int, tuple[Endpoint, ...]]) -> None:
        from bpf.watch_map import WatchEntry

        self._source.watch(
            WatchEntry(*prefix_of(resolved.network), resolved.port, number)
            for number, members in endpoints.items()
            for resolved in members
            if resolved.network is not None
        )


def resolve_endpoints(endpoints: Iterable[Endpoint]) -> dict[int, tuple[Endpoint, ...]]:
    """Give each endpoint a number from 1, and its addresses.

    Returns:
        By endpoint id: the endpoint itself, or for a name one endpoint per address, all with the name's label.

    Raises:
        ResolveError: a name has no address.
    """
    from tracer.names import resolve

    numbered: dict[int, tuple[Endpoint, ...]] = {}
    for endpoint in {endpoint.label: endpoint for endpoint in endpoints}.values():
        members: tuple[Endpoint, ...] = (endpoint,)
        if endpoint.host is not None:
            addresses = [parse_endpoint(address).network for address in resolve(endpoint.host)]
            members = tuple(Endpoint(endpoint.label, endpoint.host, address, endpoint.port) for address in addresses)
        numbered[len(numbered) + 1] = members
    return numbered


def watched_text(endpoints: dict[int, tuple[Endpoint, ...]]) -> list[str]:
    """One line per endpoint for people: its label, and the addresses behind a name."""
    lines = []
    for members in endpoints.values():
        addresses = [network_label(member.network) for member in members if member.host and member.network]
        lines.append(members[0].label + (f" ({', '.join(addresses)})" if addresses else ""))
    return lines
