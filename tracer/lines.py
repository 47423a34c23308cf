"""The objects of `--json` and of `.jsonl` captures, one a line. Pure: arrays in, text out.

Field names, units and order are a contract that replays, dashboards and scripts rely on. Times are integer ns of boottime
(`*_ns`) and RFC 3339 (`*_at`); null is "unknown". Addresses of sockets are text, because 64-bit integers are not safe in
every JSON reader. Lines are formatted column by column: a busy host makes ten thousand a second.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tracer.analysis import EndpointSummary, Summary
from tracer.cadence import Cadence, Owner
from tracer.clock import ClockOffset, rfc3339
from tracer.events import N_STATES, EventBatch, EventFlag, Events, TcpState, is_transition, valid
from tracer.findings import Finding, Suspect
from tracer.header import FORMAT_VERSION, TraceHeader
from tracer.lifecycle import RANK, REASON_NAMES, STATE_NAMES
from tracer.lifetimes import QUANTILE_ERROR, Distribution
from tracer.rows import Connections
from tracer.text import address_text, comm_text

_NO_CLOCK = ClockOffset(0, 0)


def start_line(header: TraceHeader) -> str:
    """The first line of a trace."""
    clock = header.clock
    return json.dumps(
        {
            "type": "start",
            "version": header.version,
            "format": FORMAT_VERSION,
            "source": header.source,
            "why": header.why,
            "resolution_ns": header.resolution_ns,
            "host": header.host or None,
            "kernel": header.kernel or None,
            "clock_offset_ns": clock.offset_ns if clock else None,
            "clock_error_ns": clock.error_ns if clock else None,
            "endpoints": [{"id": number, "endpoint": label} for number, label in header.endpoints.items()],
            "settings": header.settings,
        }
    )


def loss_line(batch: EventBatch) -> str:
    """Events that were lost before the next ones, in the interval [since_ns, ts_ns)."""
    return json.dumps({"type": "loss", "ts_ns": batch.lost_until_ns, "since_ns": batch.lost_since_ns, "lost": batch.lost})


def census_line(batch: EventBatch) -> str:
    """Connections that were seen to open since the census before, and how many the kernel counted."""
    return json.dumps({"type": "census", "opened": batch.opened, "counted": batch.counted})


def source_line(batch: EventBatch) -> str:
    """Another source goes on; in [since_ns, ts_ns) nobody was looking."""
    times = {"ts_ns": batch.lost_until_ns, "since_ns": batch.lost_since_ns}
    line = {"type": "source", "source": batch.source, "resolution_ns": batch.resolution_ns, "why": batch.switched}
    return json.dumps(line | times)


def clock_line(batch: EventBatch) -> str:
    """Nothing more happened up to this time."""
    return json.dumps({"type": "clock", "ts_ns": batch.until_ns})


def endpoint_line(number: int, label: str) -> str:
    """An endpoint that became known while the trace was taken."""
    return json.dumps({"type": "endpoint", "id": number, "endpoint": label})


def _json_or_null(value: object) -> str:
    return "null" if value is None else json.dumps(value)


def _cached(make: Callable[[Any], str]) -> Callable[[Any], str]:
    """Few values, many lines: format each once."""
    known: dict[Any, str] = {}

    def get(value: Any) -> str:
        text = known.get(value)
        if text is None:
            text = known[value] = make(value)
        return text

    return get


def _addresses(column: Any) -> list[str]:
    raw = np.ascontiguousarray(column).tobytes()
    text = _cached(lambda address: _json_or_null(address_text(address)))
    return [text(raw[start : start + 16]) for start in range(0, len(raw), 16)]


def _times(ts_ns: Any, clock: ClockOffset | None) -> list[str]:
    if clock is None:
        return ["null"] * len(ts_ns)
    return ["null" if text is None else f'"{text}"' for text in rfc3339(ts_ns.astype(np.int64), clock)]


def _known(values: Any, known: Any) -> list[str]:
    """Integers as text, null where not known."""
    return [str(value) if have else "null" for value, have in zip(values.tolist(), known.tolist(), strict=True)]


def _or_null(values: Any) -> list[int | str]:
    """Integers, null where they are negative."""
    if values.min(initial=0) >= 0:
        return values.tolist()
    return [value if value >= 0 else "null" for value in values.tolist()]


_TRANSITION = (
    '{{"type": "{}", "ts_ns": {}, "at": {}, "skaddr": "{:#x}", "endpoint": {}, "laddr": {}, "lport": {}, "raddr": {}, '
    '"rport": {}, "old": "{}", "new": "{}", "pid": {}, "comm": {}, "owner": {}, "cgroup_id": {}, "netns": {}, "family": {}, '
    '"bytes_received": {}, "bytes_acked": {}, "srtt_us": {}, "retransmits": {}, "unread_bytes": {}, "idle_ms": {}, '
    '"sk_err": {}, "early_ns": {}}}'
).format


def transition_lines(batch: EventBatch, endpoints: dict[int, str], clock: ClockOffset | None, samples: bool = False) -> list[str]:
    """One line per transition, in the order of the batch.

    With `samples` also one per sample ("type": "sample") and per socket that was found open ("type": "adopted").
    """
    events: Events = batch.events
    early_ns = np.zeros(len(events), np.uint64) if batch.early_ns is None else batch.early_ns
    if not samples:
        transition = is_transition(events)
        events, early_ns = events[transition], early_ns[transition]
    label = _cached(lambda number: json.dumps(endpoints.get(number, f"endpoint {number}")))
    comm = _cached(lambda name: json.dumps(comm_text(name)))
    has_saddr = valid(events, "saddr").tolist()
    has_task = valid(events, "comm").tolist()
    columns = [
        [_KIND_OF[flags & _NO_TRANSITION] for flags in events["flags"].tolist()],
        events["ts_ns"].tolist(),
        _times(events["ts_ns"], clock),
        events["skaddr"].tolist(),
        [label(number) for number in events["endpoint_id"].tolist()],
        [text if have else "null" for text, have in zip(_addresses(events["saddr"]), has_saddr, strict=True)],
        _known(events["sport"], valid(events, "sport")),
        _addresses(events["daddr"]),
        events["dport"].tolist(),
        [STATE_NAMES[state] for state in events["old_state"].tolist()],
        [STATE_NAMES[state] for state in events["new_state"].tolist()],
        _known(events["pid"], valid(events, "pid")),
        [comm(name) if have else "null" for name, have in zip(events["comm"].tolist(), has_task, strict=True)],
        ["true" if flags & EventFlag.OWNER else "false" for flags in events["flags"].tolist()],
        _known(events["cgroup_id"], valid(events, "cgroup_id")),
        _known(events["netns"], valid(events, "netns")),
        events["family"].tolist(),
        *(_known(events[field], valid(events, field)) for field in _COUNTERS),
        early_ns.tolist(),
    ]
    return [_TRANSITION(*row) for row in zip(*columns, strict=True)]


_NO_TRANSITION = int(EventFlag.SAMPLE | EventFlag.ADOPTED)
_KIND_OF = {0: "transition", int(EventFlag.SAMPLE): "sample", int(EventFlag.ADOPTED): "adopted", _NO_TRANSITION: "sample"}
"""By the flags of no transition; no source sets both, but a capture may have been made by anybody."""
_COUNTERS = ("bytes_received", "bytes_acked", "srtt_us", "retransmits", "unread_bytes", "idle_ms", "sk_err")

_PREEXISTING = {1: "true", 0: "false", -1: "null"}
_LIFE_ORDER = (np.argsort(RANK[1:], kind="stable") + 1).tolist()
_OUTCOME = ("bytes_received", "bytes_acked", "retransmits", "srtt_us", "unread_bytes", "idle_ms", "sk_err")


def _connection_line(
    endpoint: str, laddr: str, lport: int | str, raddr: str, rport: int | str, pid: int | str, comm: str, opened_at: str,
    opened_ns: int | str, established_ns: int | str, closed_at: str, closed_ns: int | str, connect_ns: int | str,
    lifetime_ns: int | str, close_reason: str, bytes_received: int | str, bytes_acked: int | str, retransmits: int | str,
    srtt_us: int | str, unread_bytes: int | str, idle_ms: int | str, sk_err: int | str, states: str, preexisting: str,
    gap: str, family: int, netns: int | str, cgroup_id: int | str, skaddr: int, first_seen_ns: int,
    opened_early_ns: int, established_early_ns: int, closed_early_ns: int,
) -> str:  # fmt: skip
    return (
        f'{{"type": "connection", "endpoint": {endpoint}, "laddr": {laddr}, "lport": {lport}, "raddr": {raddr}, '
        f'"rport": {rport}, "pid": {pid}, "comm": {comm}, "container": null, "opened_at": {opened_at}, '
        f'"opened_ns": {opened_ns}, "established_ns": {established_ns}, "closed_at": {closed_at}, "closed_ns": {closed_ns}, '
        f'"connect_ns": {connect_ns}, "lifetime_ns": {lifetime_ns}, "close_reason": "{close_reason}", '
        f'"bytes_received": {bytes_received}, "bytes_acked": {bytes_acked}, "retransmits": {retransmits}, '
        f'"srtt_us": {srtt_us}, "unread_bytes": {unread_bytes}, "idle_ms": {idle_ms}, "sk_err": {sk_err}, '
        f'"states": {{{states}}}, "preexisting": {preexisting}, "gap": {gap}, "family": {family}, "netns": {netns}, '
        f'"cgroup_id": {cgroup_id}, "skaddr": "{skaddr:#x}", "first_seen_ns": {first_seen_ns}, '
        f'"opened_early_ns": {opened_early_ns}, "established_early_ns": {established_early_ns}, '
        f'"closed_early_ns": {closed_early_ns}}}'
    )


def connection_lines(rows: Connections, endpoints: dict[int, str], clock: ClockOffset | None) -> list[str]:
    """One line per connection, in the order of the rows."""
    label = _cached(lambda number: json.dumps(endpoints.get(number, f"endpoint {number}")))
    comm = _cached(lambda name: json.dumps(comm_text(name)))
    has_owner = (rows["pid"] >= 0).tolist()
    return list(
        map(
            _connection_line,
            [label(number) for number in rows["endpoint_id"].tolist()],
            _addresses(rows["laddr"]),
            _or_null(rows["lport"]),
            _addresses(rows["raddr"]),
            _or_null(rows["rport"]),
            _or_null(rows["pid"]),
            [comm(name) if have else "null" for name, have in zip(rows["comm"].tolist(), has_owner, strict=True)],
            _times(rows["opened_ns"], clock),
            *(_or_null(rows[field]) for field in ("opened_ns", "established_ns")),
            _times(rows["closed_ns"], clock),
            *(_or_null(rows[field]) for field in ("closed_ns", "connect_ns", "lifetime_ns")),
            [REASON_NAMES[reason] for reason in rows["close_reason"].tolist()],
            *(_or_null(rows[field]) for field in _OUTCOME),
            _states(rows),
            [_PREEXISTING[value] for value in rows["preexisting"].tolist()],
            ["true" if gap else "false" for gap in rows["gap"].tolist()],
            rows["family"].tolist(),
            _or_null(rows["netns"]),
            _or_null(rows["cgroup_id"]),
            rows["skaddr"].tolist(),
            rows["first_seen_ns"].tolist(),
            *(rows[field].tolist() for field in ("opened_early_ns", "established_early_ns", "closed_early_ns")),
        )
    )


def _states(rows: Connections) -> list[str]:
    """The inside of "states": time in each state that was seen, null for one that an open connection is in since then.

    Few different sets of states occur, so that each set is one format string.
    """
    texts = [""] * len(rows)
    known = rows["state_ns"] >= 0
    sets = known @ (1 << np.arange(N_STATES)) * N_STATES + rows["last_state"]
    for code in np.unique(sets).tolist():
        index = np.flatnonzero(sets == code)
        last = code % N_STATES
        seen = [state for state in _LIFE_ORDER if code // N_STATES >> state & 1]
        names = [f'"{STATE_NAMES[state]}": %d' for state in seen]
        if last not in seen and last != TcpState.CLOSE:
            names.append(f'"{STATE_NAMES[last]}": null')
        form = ", ".join(names)
        for row, spent in zip(index.tolist(), rows["state_ns"][index][:, seen].tolist(), strict=True):
            texts[row] = form % tuple(spent)
    return texts


def finding_lines(findings: Iterable[Finding], endpoints: dict[int, str], clock: ClockOffset | None) -> list[str]:
    """One line per finding."""
    return [json.dumps(_finding(finding, endpoints, clock)) for finding in findings]


def _finding(finding: Finding, endpoints: dict[int, str], clock: ClockOffset | None) -> dict[str, Any]:
    times_ns = [finding.started_ns, finding.detected_ns, finding.ended_ns, finding.at_ns]
    at = rfc3339(np.array(times_ns, np.int64), clock) if clock else [None] * len(times_ns)
    return {
        "type": "finding",
        "rule": finding.rule,
        "episode": finding.episode,
        "state": finding.state.value,
        "severity": finding.severity.text,
        "confidence": finding.confidence,
        "benign": finding.benign,
        "endpoint": endpoints.get(finding.endpoint_id, f"endpoint {finding.endpoint_id}"),
        "started_at": at[0],
        "started_ns": finding.started_ns,
        "detected_at": at[1],
        "detected_ns": finding.detected_ns,
        "ended_at": at[2] if finding.ended_ns >= 0 else None,
        "ended_ns": _or_none(finding.ended_ns),
        "at": at[3],
        "ts_ns": finding.at_ns,
        "summary": finding.summary,
        "evidence": finding.evidence,
        "suspects": [_suspect(suspect) for suspect in finding.suspects],
        "advice": finding.advice,
    }


def _suspect(suspect: Suspect) -> dict[str, Any]:
    return {
        "pid": _or_none(suspect.pid),
        "comm": comm_text(suspect.comm) if suspect.comm else None,
        "cgroup_id": _or_none(suspect.cgroup_id),
        "container": suspect.container,
        "unit": suspect.unit,
        "opens_per_min": _rounded(suspect.opens_per_min),
        "share": _rounded(suspect.share),
    }


def summary_line(summary: Summary, clock: ClockOffset | None, truncated: str | None = None) -> str:
    """The last line of a trace."""
    bounds = np.array([summary.first_ns, summary.last_ns], np.int64)
    first_at, last_at = rfc3339(bounds, clock) if clock else (None, None)
    return json.dumps(
        {
            "type": "summary",
            "source": summary.source,
            "resolution_ns": summary.resolution_ns,
            "events": summary.events,
            "lost": summary.lost,
            "gaps": summary.gaps,
            "losses": [{"lost": loss.lost, "since_ns": loss.since_ns, "until_ns": loss.until_ns} for loss in summary.losses],
            "connections": summary.connections,
            "open": summary.open,
            "inbound": summary.inbound,
            "coverage": _rounded(summary.coverage),
            "connections_seen": summary.opened if summary.counted else None,
            "connections_counted": summary.counted or None,
            "first_ns": summary.first_ns if summary.first_ns >= 0 else None,
            "first_at": first_at,
            "last_ns": summary.last_ns if summary.last_ns >= 0 else None,
            "last_at": last_at,
            "quantile_error": QUANTILE_ERROR,
            "abstained": [{"rule": rule, "reason": reason} for rule, reason in summary.abstained],
            "episodes": summary.episodes,
            "open_findings": [{"rule": finding.rule, "episode": finding.episode} for finding in summary.findings],
            "endpoints": [_endpoint(endpoint) for endpoint in summary.endpoints],
            "cadences": [_cadence(owner, found, summary) for owner, found in summary.cadences.items()],
            "unknown_transitions": [
                {"old": old, "new": new, "count": count} for (old, new), count in summary.unknown_transitions.items()
            ],
            "truncated": truncated,
        }
    )


def _endpoint(endpoint: EndpointSummary) -> dict[str, Any]:
    return {
        "endpoint": endpoint.endpoint,
        "connections": endpoint.connections,
        "open": endpoint.open,
        "opens": endpoint.opens,
        "closes": endpoint.closes,
        "peak_open": endpoint.peak_open,
        "opens_per_s": _rounded(endpoint.opens_per_s),
        "closes_per_s": endpoint.closes_per_s and {side: _rounded(rate) for side, rate in endpoint.closes_per_s.items()},
        "mean_open": _rounded(endpoint.mean_open),
        "turnover": _rounded(endpoint.turnover),
        "bytes_received": _or_none(endpoint.bytes_received),
        "bytes_acked": _or_none(endpoint.bytes_acked),
        "retransmits": _or_none(endpoint.retransmits),
        "lifetimes": {name: _distribution(found) for name, found in endpoint.distributions.items()},
    }


def _distribution(found: Distribution) -> dict[str, int]:
    return {
        "count": found.count,
        "min_ns": found.min_ns,
        "p50_ns": found.p50_ns,
        "p90_ns": found.p90_ns,
        "p99_ns": found.p99_ns,
        "max_ns": found.max_ns,
    }


def _cadence(owner: Owner, found: Cadence, summary: Summary) -> dict[str, Any]:
    labels = {endpoint.endpoint_id: endpoint.endpoint for endpoint in summary.endpoints}
    return {
        "endpoint": labels.get(owner.endpoint_id),
        "comm": comm_text(owner.comm),
        "cgroup_id": _or_none(owner.cgroup_id),
        "attempts": found.attempts,
        "rhythm": found.rhythm.value,
        "period_ns": _or_none(found.period_ns),
        "step_ns": found.step_ns,
        "factor": round(found.factor, 3),
        "deviation": None if np.isnan(found.deviation) else round(found.deviation, 3),
    }


def _rounded(value: float | None) -> float | None:
    """Six digits: more would pretend."""
    return None if value is None else float(f"{value:.6g}")


def _or_none(value: int) -> int | None:
    return value if value >= 0 else None


def batch_lines(batch: EventBatch, endpoints: dict[int, str], clock: ClockOffset | None, samples: bool) -> Iterable[str]:
    """Everything a batch says, in its order: new endpoints, loss, transitions, how far it reaches."""
    for number, label in batch.endpoints:
        yield endpoint_line(number, label)
    if batch.switched:
        yield source_line(batch)
    if batch.lost:
        yield loss_line(batch)
    if batch.counted:
        yield census_line(batch)
    yield from transition_lines(batch, endpoints, clock, samples)
    if batch.until_ns:
        yield clock_line(batch)
