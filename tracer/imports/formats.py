"""The formats there are, and which one lines are of. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tracer.imports.bpftrace import BpftraceText
from tracer.imports.ftrace import FtraceText
from tracer.imports.readings import Parser, Transition
from tracer.imports.tcpstates import TcpstatesText
from tracer.imports.tcpstates_csv import TcpstatesCsv

_LOOKED_AT = 2000


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: as in `--from`.
        title: in a sentence.
        lacks: what its lines can't tell, in words.
        parser: makes a parser for one file.
    """

    name: str
    title: str
    lacks: str
    parser: Callable[[], Parser]


_TCPSTATES_LACKS = "errors, bytes, retransmits, cgroups, network namespaces; names are cut to 10 characters without -w and -s"
FORMATS = (
    Format("tcpstates", "tcpstates text", _TCPSTATES_LACKS, TcpstatesText),
    Format("tcpstates-csv", "tcpstates CSV", _TCPSTATES_LACKS, TcpstatesCsv),
    Format(
        "ftrace",
        "ftrace lines",
        "errors, bytes, retransmits, cgroups, network namespaces, addresses of sockets; pids are those of threads",
        FtraceText,
    ),
    Format("bpftrace", "key=value lines", "bytes, retransmits, and what the lines leave out", BpftraceText),
)
"""Where two understand equally many lines, the first: ftrace's fields look like keys and values too."""


def format_named(name: str) -> Format:
    """The format of a name; it must exist."""
    return next(each for each in FORMATS if each.name == name)


def told(lines: Sequence[bytes], among: Sequence[Format] = FORMATS) -> Format | None:
    """The format that understands most of the first lines that any understands; None: none does any."""
    for start in range(0, len(lines), _LOOKED_AT):
        some = lines[start : start + _LOOKED_AT]
        counts = [sum(isinstance(found, Transition) for found in map(each.parser().parse, some)) for each in among]
        if any(counts):
            return among[counts.index(max(counts))]
    return None
