"""One connection in full, for people: who and whom, what became of it, step by step, and what is not known."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from tracer.collected.collector import Collected
from tracer.collected.dossier import Dossier
from tracer.events import EventFlag, valid
from tracer.exactness import exactness_text
from tracer.findings import Finding
from tracer.lifecycle import RANK, REASON_NAMES, STATE_NAMES, CloseReason, errno_name
from tracer.reports.cells import UNKNOWN, TimeTexts
from tracer.reports.grid import GridColumn, grid_lines, laid_out
from tracer.reports.text_report import span_texts, suspect_text
from tracer.text import address_text, bytes_text, comm_text, duration_text, printable

_LABEL_WIDTH = 12
_ROOMY = 60
"""Cells of a terminal on which texts are set beside their labels, and not below them."""
_FAMILIES = {2: "IPv4", 10: "IPv6"}
_IN_WORDS = {
    CloseReason.OPEN: "still open at the end of the trace",
    CloseReason.PEER: "the peer closed first",
    CloseReason.LOCAL: "this side closed first",
    CloseReason.RESET: "reset by the peer",
    CloseReason.LOCAL_RESET: "aborted by this side",
    CloseReason.REFUSED: "nobody listened there",
    CloseReason.TIMEOUT: "no answer",
    CloseReason.UNREACHABLE: "the network said that there is no way",
    CloseReason.ABORTED: "given up by its caller before it was established",
    CloseReason.UNKNOWN: "nobody saw how it ended",
}
_LIFE_ORDER = [state for state in (np.argsort(RANK[1:], kind="stable") + 1).tolist() if STATE_NAMES[state]]
_COUNTERS = (
    ("bytes_received", "received", bytes_text),
    ("bytes_acked", "acked", bytes_text),
    ("retransmits", "retransmits", str),
    ("srtt_us", "srtt", lambda value: duration_text(value * 1_000)),
    ("unread_bytes", "unread", bytes_text),
    ("idle_ms", "idle", lambda value: duration_text(value * 1_000_000)),
)


def dossier_texts(dossier: Dossier, collected: Collected, width: int | None, colours: bool, ellipsis: str) -> Iterator[str]:
    """All of it, line by line.

    Args:
        dossier: the connection.
        collected: its trace.
        width: cells of a line; None: as many as it takes.
        colours: bold headings.
        ellipsis: one character that says that a text was cut.
    """
    times = TimeTexts(collected)
    yield _heading(f"connection {dossier.number} of {dossier.among}", colours)
    yield from _wrapped(times.said, width, "  ")
    for label, text in _fields(dossier, times):
        yield from _field(label, text, width)
    yield ""
    yield _heading("transitions", colours)
    yield from _transitions(dossier, times, width, ellipsis)
    if dossier.findings:
        yield ""
        yield _heading("findings", colours)
        for finding in dossier.findings:
            yield from _wrapped(_finding_text(finding, times), width, "    ")
    if dossier.unknown:
        yield ""
        yield _heading("not known", colours)
        for text in dossier.unknown:
            yield from _wrapped(text, width, "  ")


def _heading(text: str, colours: bool) -> str:
    return f"\x1b[1m{text}\x1b[0m" if colours else text


def _field(label: str, text: str, width: int | None) -> Iterator[str]:
    indent = " " * (_LABEL_WIDTH + 2 if width is None or width >= _ROOMY else 4)
    yield from _wrapped(f"{label:<{_LABEL_WIDTH}}{text}", width, indent)


def _wrapped(text: str, width: int | None, indent: str) -> list[str]:
    """A text over as many lines as it takes; the first one indented by two."""
    line = f"  {text}"
    if width is None or len(line) <= width:
        return [line]
    return textwrap.wrap(line, width, subsequent_indent=indent)


def _fields(dossier: Dossier, times: TimeTexts) -> Iterator[tuple[str, str]]:
    row, detail = dossier.rows[0], dossier.detail
    yield "owner", f"{printable(comm_text(row['comm'])) or UNKNOWN}[{row['pid']}]" if row["pid"] >= 0 else "unknown"
    if detail is not None:
        if detail.container:
            pod = f", pod {detail.pod}" if detail.pod else ""
            yield "container", printable(f"{detail.runtime or 'unknown runtime'}:{detail.container}{pod}")
        if detail.unit:
            yield "unit", printable(detail.unit)
        if detail.cmdline:
            yield "command", printable(detail.cmdline)
    yield "local", _end_text(row["laddr"].tobytes(), int(row["lport"]))
    yield (
        "remote",
        f"{_end_text(row['raddr'].tobytes(), int(row['rport']))}, {printable(dossier.endpoint)} ({dossier.role.value})",
    )
    yield "socket", _socket_text(row, printable(detail.netns_name) if detail is not None else "")
    yield "outcome", _outcome_text(row)
    yield "first seen", _first_text(dossier, times)
    (lifetime,), (connect,) = (
        span_texts(dossier.rows, "lifetime_ns", "closed"),
        span_texts(dossier.rows, "connect_ns", "established"),
    )
    yield "lifetime", f"{lifetime}, connect {connect}"
    yield "in states", _states_text(row)
    yield "bytes", f"received {bytes_text(int(row['bytes_received']))}, acknowledged {bytes_text(int(row['bytes_acked']))}"
    yield "quality", _quality_text(row)


def _end_text(address: bytes, port: int) -> str:
    text = address_text(address) or "?"
    shown = f"[{text}]" if ":" in text else text
    return f"{shown}:{port if port >= 0 else '?'}"


def _socket_text(row: np.void, netns_name: str) -> str:
    named = f" ({netns_name})" if netns_name else ""
    netns = f"network namespace {row['netns']}{named}" if row["netns"] >= 0 else "network namespace unknown"
    cgroup = f"cgroup {row['cgroup_id']}" if row["cgroup_id"] >= 0 else "cgroup unknown"
    return f"{row['skaddr']:#x}, {_FAMILIES.get(int(row['family']), 'family unknown')}, {netns}, {cgroup}"


def _outcome_text(row: np.void) -> str:
    reason = CloseReason(row["close_reason"])
    state = f", last seen in {STATE_NAMES[row['last_state']]}" if row["closed_ns"] < 0 else ""
    error = f", sk_err {errno_name(int(row['sk_err']))}" if row["sk_err"] > 0 else ""
    return f"{REASON_NAMES[reason]}: {_IN_WORDS[reason]}{state}{error}"


def _first_text(dossier: Dossier, times: TimeTexts) -> str:
    row = dossier.rows[0]
    first, closed = times.boottimes(np.array([row["first_seen_ns"], row["closed_ns"]], np.int64))
    early_ns = max(int(row[name]) for name in ("opened_early_ns", "established_early_ns", "closed_early_ns"))
    exact = (
        f"times may be up to {duration_text(early_ns)} earlier"
        if early_ns
        else exactness_text(dossier.resolution_ns).removeprefix("times ")
    )
    return f"{first}, closed {closed}; {exact}"


def _states_text(row: np.void) -> str:
    shown = [
        f"{STATE_NAMES[state]} {duration_text(int(row['state_ns'][state]))}"
        for state in _LIFE_ORDER
        if row["state_ns"][state] >= 0
    ]
    return ", ".join(shown) or UNKNOWN


def _quality_text(row: np.void) -> str:
    retransmits = str(row["retransmits"]) if row["retransmits"] >= 0 else UNKNOWN
    srtt = duration_text(int(row["srtt_us"]) * 1_000) if row["srtt_us"] >= 0 else UNKNOWN
    unread = bytes_text(int(row["unread_bytes"]))
    idle = duration_text(int(row["idle_ms"]) * 1_000_000) if row["idle_ms"] >= 0 else UNKNOWN
    return f"srtt {srtt}, retransmits {retransmits}; when its data ended: {unread} unread, nothing received for {idle}"


def _transitions(dossier: Dossier, times: TimeTexts, width: int | None, ellipsis: str) -> Iterator[str]:
    if not len(dossier.events):
        yield "  none in the trace"
        return
    ts_ns = dossier.ts_ns
    states = [
        f"{STATE_NAMES[old]} -> {STATE_NAMES[new]}"
        for old, new in zip(dossier.events["old_state"].tolist(), dossier.events["new_state"].tolist(), strict=True)
    ]
    since = [duration_text(span_ns) for span_ns in (ts_ns - dossier.rows["first_seen_ns"][0]).tolist()]
    after = [UNKNOWN, *(duration_text(max(span_ns, 0)) for span_ns in np.diff(ts_ns).tolist())]
    early = [duration_text(span_ns) for span_ns in dossier.early_ns.tolist()]
    brief = [
        _fixed("time", times.boottimes(ts_ns)),
        _fixed("after", after, right=True),
        _fixed("since first", since, right=True),
        _fixed("transition", states),
        *([_fixed("may be earlier by", early, right=True)] if dossier.early_ns.any() else []),
    ]
    words, changed, ran = dossier.meanings(), _changes(dossier), _runners(dossier)
    columns = [*brief, _fixed("what it is", words), _fixed("what changed", changed), _fixed("who ran", ran)]
    index, inside = np.arange(len(ts_ns)), None if width is None else max(width - 2, 1)
    layout = laid_out(columns, index, inside)
    narrow = bool(layout.left_out)
    layout = laid_out(brief, index, inside) if narrow else layout
    lines = grid_lines(layout, index, False, ellipsis)
    yield f"  {next(lines)}"
    for line, *texts in zip(lines, states, words, changed, ran, strict=True):
        yield f"  {line}"
        if narrow:
            more = texts if "transition" in layout.left_out else texts[1:]
            yield from _wrapped(f"  {'; '.join(filter(None, more))}", width, "    ")


def _fixed(title: str, texts: Sequence[str], right: bool = False) -> GridColumn:
    return GridColumn(title, lambda index: [texts[at] for at in index.tolist()], right)


def _changes(dossier: Dossier) -> list[str]:
    """What each transition's counters show that those before did not."""
    events = dossier.events
    said: list[list[str]] = [[] for _ in range(len(events))]
    for name, title, show in _COUNTERS:
        before = 0
        for at, (value, known) in enumerate(zip(events[name].tolist(), valid(events, name).tolist(), strict=True)):
            if known and value != before:
                said[at].append(f"{title} {show(value)}")
                before = value
    for at, (error, known) in enumerate(zip(events["sk_err"].tolist(), valid(events, "sk_err").tolist(), strict=True)):
        if known and error:
            said[at].append(f"sk_err {errno_name(error)}")
    return [", ".join(texts) for texts in said]


def _runners(dossier: Dossier) -> list[str]:
    """The task of each transition: the owner's own, or whoever the softirq interrupted."""
    events = dossier.events
    columns = (events[name].tolist() for name in ("comm", "pid", "flags"))
    return [
        f"{'by' if flags & EventFlag.OWNER else 'while'} {printable(comm_text(comm))}[{pid}]" if known else UNKNOWN
        for comm, pid, flags, known in zip(*columns, valid(events, "comm").tolist(), strict=True)
    ]


def _finding_text(finding: Finding, times: TimeTexts) -> str:
    started, ended = times.boottimes(np.array([finding.started_ns, finding.ended_ns], np.int64))
    until = f"until {ended}" if finding.ended_ns >= 0 else "and still open"
    who = f"; {suspect_text(finding.suspects[0])}" if finding.suspects else ""
    sure = f"{finding.severity.text}, {finding.confidence:.0%} sure, from {started} {until}"
    return f"{finding.episode}  {finding.rule} ({sure}): {printable(finding.summary)}{who}"
