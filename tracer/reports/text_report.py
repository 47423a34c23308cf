"""Plain lines, for pipes, logs and terminals that are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TextIO

import numpy as np

from tracer.analysis import Analysis, Progress
from tracer.cadence import Cadence, Rhythm
from tracer.clock import ClockOffset, rfc3339
from tracer.events import EventBatch, EventFlag, is_transition, valid
from tracer.exactness import exactness_text
from tracer.facts import AddressFact, EndpointFact
from tracer.findings import Finding, FindingState, Severity, Suspect
from tracer.header import TraceHeader
from tracer.lifecycle import REASON_NAMES, STATE_NAMES
from tracer.owners.owner import OwnerDetail
from tracer.owners.register import OwnerRegister, details_of
from tracer.remotes import where_text
from tracer.rows import Connections
from tracer.summary import EndpointSummary, KernelSpan, Summary
from tracer.text import address_text, bytes_text, comm_text, duration_text, printable

_ID_SHOWN = 12
"""Characters of a container's id, as docker ps and crictl ps show it (crictl: 13)."""


class TextReport:
    """One line for each connection that ended (and each transition, if wanted), a summary at the end."""

    def __init__(self, stream: TextIO, transitions: bool) -> None:
        self._stream = stream
        self._transitions = transitions
        self._clock: ClockOffset | None = None
        self._begun = False

    def start(self, header: TraceHeader) -> None:
        """Say what is watched, with which source."""
        self._clock = header.clock
        self._write(start_text(header))

    def batch(self, batch: EventBatch, progress: Progress, analysis: Analysis) -> None:
        """Write what happened."""
        lines = []
        if batch.lost:
            lines.append(f"LOST {batch.lost} events: the ring buffer was full; what follows has gaps")
        if batch.switched:
            lines.append(f"SOURCE {printable(batch.source)} from here on ({printable(batch.switched)}); there is a gap before")
        if self._transitions:
            lines += transition_texts(batch, analysis.endpoints, self._clock)
        lines += learnt_texts(batch)
        if self._begun:  # what is known at the start stands in the first lines
            lines += moved_texts(batch, analysis.endpoints, self._clock)
        self._begun = True
        lines += connection_texts(progress.ended, analysis.endpoints, self._clock, analysis.owners)
        for finding in progress.findings:
            lines += finding_texts(finding, analysis.endpoints, self._clock)
        self._write(lines)

    def tick(self, analysis: Analysis) -> None:
        """Nothing: lines come as they are known."""

    def finish(self, analysis: Analysis, truncated: str | None) -> None:
        """Write the open connections and the summary."""
        self._write(connection_texts(analysis.open(), analysis.endpoints, self._clock, analysis.owners))
        self._write(summary_texts(analysis.summary(), truncated))

    def _write(self, lines: list[str]) -> None:
        if lines:
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()


def start_text(header: TraceHeader) -> list[str]:
    """What is watched, where and how."""
    watched = ", ".join(printable(label) for label in header.endpoints.values()) or "no endpoint named"
    where = f" on {printable(header.host)}" if header.host else ""
    error = f"; wall clock within {duration_text(header.clock.error_ns)}" if header.clock else "; wall clock unknown"
    return [
        f"watching {watched}{where}",
        f"source {printable(header.source)}, {exactness_text(header.resolution_ns)}{error}",
        f"why: {printable(header.why)}",
        *(f"addresses: {printable(line)}" for line in header.settings.get("watched", "").split("; ") if "(" in line),
    ]


def _clock_texts(ts_ns: object, clock: ClockOffset | None) -> list[str]:
    times = np.asarray(ts_ns, np.int64)
    if clock is None:
        return [f"{time_ns / 1e9:.6f}" for time_ns in times.tolist()]
    return [text[11:26] if text else "-" for text in rfc3339(times, clock)]


def _endpoint(endpoints: dict[int, str], number: int) -> str:
    return printable(endpoints.get(number, f"endpoint {number}"))


def transition_texts(batch: EventBatch, endpoints: dict[int, str], clock: ClockOffset | None) -> list[str]:
    """One line per transition: time, socket, endpoint, states, who was running."""
    events = batch.events[is_transition(batch.events)]
    has_task = valid(events, "comm").tolist()
    lines = []
    for event, at, task in zip(events, _clock_texts(events["ts_ns"], clock), has_task, strict=True):
        name = f"{printable(comm_text(event['comm']))}[{event['pid']}]" if task else "-"
        role = "by" if event["flags"] & EventFlag.OWNER else "while"
        states = f"{STATE_NAMES[event['old_state']]} -> {STATE_NAMES[event['new_state']]}"
        lines.append(f"{at}  {event['skaddr']:016x}  {_endpoint(endpoints, event['endpoint_id'])}  {states}  {role} {name}")
    return lines


def learnt_texts(batch: EventBatch) -> list[str]:
    """Hosts that were in no list and are watched from here on."""
    return [
        f"LEARNT {printable(fact.label)} ({fact.role.value}): {printable(fact.origin.removeprefix('learnt: '))}"
        for fact in batch.facts
        if isinstance(fact, EndpointFact) and fact.learnt
    ]


def moved_texts(batch: EventBatch, endpoints: dict[int, str], clock: ClockOffset | None) -> list[str]:
    """Addresses that names got or lost."""
    facts = [fact for fact in batch.facts if isinstance(fact, AddressFact)]
    times = _clock_texts([fact.ts_ns for fact in facts], clock)
    return [
        f"{at}  {_endpoint(endpoints, fact.endpoint_id)} is {'at' if fact.added else 'no longer at'} {printable(fact.address)}"
        for at, fact in zip(times, facts, strict=True)
    ]


def connection_texts(
    rows: Connections, endpoints: dict[int, str], clock: ClockOffset | None, owners: OwnerRegister | None = None
) -> list[str]:
    """One line per connection: when it ended, who had it, with whom, how long, how it ended, how much."""
    shown_ns = np.where(rows["closed_ns"] >= 0, rows["closed_ns"], rows["last_ns"])
    columns = (
        _clock_texts(shown_ns, clock),
        owner_texts(rows, owners),
        rows["lport"].tolist(),
        remote_texts(rows, endpoints),
        rows["close_reason"].tolist(),
        span_texts(rows, "lifetime_ns", "closed"),
        span_texts(rows, "connect_ns", "established"),
        *(map(bytes_text, rows[field].tolist()) for field in ("bytes_received", "bytes_acked")),
        remark_texts(rows),
    )
    return [
        f"{at}  {owner}  :{lport if lport >= 0 else '?'} -> {remote}  {REASON_NAMES[reason]}"
        f"  life {life}  connect {connect}  in {received}  out {acked}{remarks}"
        for at, owner, lport, remote, reason, life, connect, received, acked, remarks in zip(*columns, strict=True)
    ]


def finding_texts(finding: Finding, endpoints: dict[int, str], clock: ClockOffset | None) -> list[str]:
    """A finding in a few lines: what and how sure, since when, who, what to do; when it is over, one line."""
    started, at = _clock_texts([finding.started_ns, finding.at_ns], clock)
    head = f"{at}  {_SEVERITY_MARKS[finding.severity]} {finding.rule}"
    if finding.state is FindingState.CLOSED:
        if finding.rule.endswith("recovered"):
            return []  # it was one moment; that it is shown no more is no news
        head = f"{at}  {_SEVERITY_MARKS[Severity.NOTICE]} {finding.rule}"
        lasted = duration_text(finding.ended_ns - finding.started_ns)
        return [f"{head} is over after {lasted}: {_endpoint(endpoints, finding.endpoint_id)}"]
    again = "still: " if finding.state is FindingState.UPDATE else ""
    lines = [f"{head} ({finding.confidence:.0%} sure, since {started}): {again}{printable(finding.summary)}"]
    causes = finding.evidence.get("causes")
    if causes:
        lines.append("    may be: " + ", ".join(f"{name} {confidence:.0%}" for name, confidence in causes.items()))
    coverage = finding.evidence.get("coverage")
    if coverage is not None and coverage < 1:
        lines.append(f"    seen:   {coverage:.0%} of the connections that were opened")
    where = where_text(finding.evidence)
    if where:
        lines.append(f"    where:  {where}")
    if finding.suspects:
        lines.append("    who:    " + "; ".join(map(suspect_text, finding.suspects)))
    if finding.state is FindingState.OPEN:
        lines.append(f"    do:     {printable(finding.advice)}")
    return lines


_SEVERITY_MARKS = {Severity.NOTICE: "--- NOTICE  ", Severity.WARNING: "!!  WARNING ", Severity.CRITICAL: "!!! CRITICAL"}


def suspect_text(suspect: Suspect) -> str:
    """Who, with the share of the connections and the rate."""
    name = printable(comm_text(suspect.comm)) or "unknown"
    pid = f"[{suspect.pid}]" if suspect.pid >= 0 else ""
    place = suspect.container[:_ID_SHOWN] if suspect.container else suspect.unit
    where = f" in {printable(place)}" if place else ""
    rate = "" if suspect.opens_per_min is None else f", {suspect.opens_per_min:.3g} a minute"
    of_what = "of these connections" if suspect.opens_per_min is None else "of the connections"
    return f"{name}{pid}{where} {suspect.share:.0%} {of_what}{rate}"


def owner_texts(rows: Connections, owners: OwnerRegister | None = None) -> list[str]:
    """comm[pid] of each connection's owner and the container it is in, or "?"."""
    return owner_names(rows, [None] * len(rows) if owners is None else details_of(rows, owners))


def owner_names(rows: Connections, details: Sequence[OwnerDetail | None]) -> list[str]:
    """The same of owners that were looked up already, as long as `rows`."""
    return [
        f"{printable(comm_text(comm))}[{pid}]{container_text(detail)}" if pid >= 0 else "?"
        for comm, pid, detail in zip(rows["comm"].tolist(), rows["pid"].tolist(), details, strict=True)
    ]


def container_text(detail: OwnerDetail | None) -> str:
    """@runtime:id, as much of the id as engines show; "" for none."""
    if detail is None or not detail.container:
        return ""
    return printable(f" @{detail.runtime or 'container'}:{detail.container[:_ID_SHOWN]}")


def remote_texts(rows: Connections, endpoints: dict[int, str]) -> list[str]:
    """The endpoint's label, and the remote address where the label does not say it."""
    known: dict[tuple[int, bytes], str] = {}
    texts = []
    addresses = np.ascontiguousarray(rows["raddr"]).view("V16").reshape(len(rows)).tolist()
    for key in zip(rows["endpoint_id"].tolist(), addresses, strict=True):
        text = known.get(key)
        if text is None:
            label, address = _endpoint(endpoints, key[0]), address_text(key[1]) or "?"
            text = known[key] = label if address in label else f"{label} ({address})"
        texts.append(text)
    return texts


def span_texts(rows: Connections, field: str, end: str) -> list[str]:
    """How long; where both ends were seen in one look, how long at most."""
    texts = list(map(duration_text, rows[field].tolist()))
    bounded = (rows[field] < 0) & (rows["opened_ns"] >= 0) & (rows[f"{end}_ns"] >= 0)
    most_ns = rows[f"{end}_ns"] - rows["opened_ns"] + rows["opened_early_ns"]
    for index in np.flatnonzero(bounded).tolist():
        texts[index] = f"<{duration_text(int(most_ns[index]))}"
    return texts


def remark_texts(rows: Connections) -> list[str]:
    """What is out of the ordinary; "" for most rows."""
    texts = [""] * len(rows)
    early_ns = np.maximum(rows["opened_early_ns"], np.maximum(rows["established_early_ns"], rows["closed_early_ns"]))
    odd = (rows["retransmits"] > 0) | (rows["unread_bytes"] > 0) | (rows["preexisting"] == 1) | rows["gap"] | (early_ns > 0)
    for index in np.flatnonzero(odd).tolist():
        row = rows[index]
        remarks = []
        if row["retransmits"] > 0:
            remarks.append(f"{row['retransmits']} retransmits")
        if row["unread_bytes"] > 0:
            remarks.append(f"{bytes_text(int(row['unread_bytes']))} not yet read at its end")
        if row["preexisting"] == 1:
            remarks.append("was open before")
        if row["gap"]:
            remarks.append("transitions missing")
        if early_ns[index] > 0:
            remarks.append(f"times may be {duration_text(int(early_ns[index]))} earlier")
        texts[index] = f"  ({', '.join(remarks)})"
    return texts


def coverage_text(summary: Summary) -> str:
    """How much was seen, in words."""
    if summary.counted:
        return f"{summary.opened} of {summary.counted} opened connections seen"
    if summary.coverage != 1.0:
        return "coverage unknown"
    return "every transition seen" + (" of what has an address" if summary.unresolved else "")


def kernel_text(span: KernelSpan) -> str:
    """The sockets of the host (of this network namespace), to any address, and what went wrong meanwhile."""

    def count(value: int) -> str:
        return str(value) if value >= 0 else "?"

    now, most, grown = span.last, span.most, span.grown
    held = f"{count(now.in_use)} TCP sockets in use, {count(now.time_wait)} in TIME_WAIT (at most {count(most.time_wait)})"
    went = f"{count(grown.active_opens)} opened, {count(grown.attempt_fails)} failed, {count(grown.resets_sent)} resets sent"
    return f"this network namespace, to any address: {held}; {went}, {count(grown.segments_sent_again)} segments sent again"


def warning_texts(summary: Summary, truncated: str | None = None) -> list[str]:
    """What of a trace is missing, one line each; none for one that is whole."""
    lines = []
    if truncated:
        lines.append(f"INCOMPLETE  {printable(truncated)}")
    switches = sum(loss.lost is None for loss in summary.losses)
    if summary.lost:
        intervals = len(summary.losses) - switches
        lines.append(f"LOST        {summary.lost} events in {intervals} interval(s): counts below are too low")
    if switches:
        lines.append(f"SWITCHED    another source went on {switches} time(s): in between nobody was looking")
    if summary.gaps:
        lines.append(f"GAPS        {summary.gaps} connections with missing transitions: their times are not whole")
    if summary.unresolved:
        lines.append(f"UNSEEN      {printable(', '.join(summary.unresolved))}: no address is known, so nothing of it was watched")
    return lines


def summary_texts(summary: Summary, truncated: str | None = None) -> list[str]:
    """The whole trace in a few lines, loss first."""
    lines = ["", *warning_texts(summary, truncated)]
    lines.append(
        f"source {printable(summary.source)}, {summary.events} transitions, {summary.lost_text}, {coverage_text(summary)}; "
        f"{summary.connections} connections, {summary.open} still open"
    )
    if summary.kernel is not None:
        lines.append(kernel_text(summary.kernel))
    for endpoint in summary.endpoints:
        lines += _endpoint_texts(endpoint)
    labels = {endpoint.endpoint_id: endpoint.endpoint for endpoint in summary.endpoints}
    lines += [
        f"rhythm: {printable(comm_text(owner.comm))} connects to {_endpoint(labels, owner.endpoint_id)} {cadence_text(found)}"
        for owner, found in summary.cadences.items()
        if found.rhythm is not Rhythm.NONE
    ]
    lines += [
        f"{rule} did not judge: {printable(reason)}" if rule != "*" else printable(reason) for rule, reason in summary.abstained
    ]
    still = [finding for finding in summary.findings if not finding.rule.endswith("recovered")]
    if still:
        shown = ", ".join(
            f"{finding.rule} at {_endpoint(labels, finding.endpoint_id)} ({finding.severity.text})" for finding in still
        )
        lines.append(f"findings: {summary.episodes} in all, still open: {shown}")
    elif summary.episodes:
        lines.append(f"findings: {summary.episodes} in all, none open")
    else:
        silent = len({rule for rule, _ in summary.abstained if rule != "*"})
        lines.append("findings: none" + (f"; {silent} rules did not judge" if silent else ""))
    lines += [
        f"unknown transition {old} -> {new}: {count} times; please report it"
        for (old, new), count in summary.unknown_transitions.items()
    ]
    return lines


def _endpoint_texts(endpoint: EndpointSummary) -> Iterator[str]:
    yield f"{printable(endpoint.endpoint)}: {endpoint.connections} connections, at most {endpoint.peak_open} at a time"
    if not endpoint.connections:
        return
    rate = "" if endpoint.opens_per_s is None else f" ({endpoint.opens_per_s:.3g}/s)"
    ended = ", ".join(f"{count} {reason}" for reason, count in endpoint.closes.items()) or "none"
    yield f"    opened {endpoint.opens}{rate}; ended by: {ended}; still open: {endpoint.open}"
    moved = f"in {bytes_text(endpoint.bytes_received)}, out {bytes_text(endpoint.bytes_acked)}"
    yield f"    {moved}, retransmits {endpoint.retransmits if endpoint.retransmits >= 0 else '-'}"
    for name in ("lifetime", "connect", "ESTABLISHED", "CLOSE_WAIT"):
        found = endpoint.distributions.get(name)
        if found is not None:
            quantiles = (found.min_ns, found.p50_ns, found.p90_ns, found.p99_ns, found.max_ns)
            shown = " / ".join(duration_text(value) for value in quantiles)
            yield f"    {name:<11} min/p50/p90/p99/max  {shown}  (n={found.count})"


def cadence_text(found: Cadence) -> str:
    """A rhythm in words."""
    if found.rhythm is Rhythm.FIXED:
        return f"every {duration_text(found.period_ns)} ({found.attempts} attempts)"
    if found.rhythm is Rhythm.LINEAR:
        return (
            f"after {duration_text(found.period_ns)}, then {duration_text(found.step_ns)} longer each time "
            f"({found.attempts} attempts)"
        )
    if found.rhythm is Rhythm.EXPONENTIAL:
        return (
            f"after {duration_text(found.period_ns)}, then {found.factor:.2g} times longer each time ({found.attempts} attempts)"
        )
    return f"without a rhythm ({found.attempts} attempts)"
