"""The summary line, the last of a trace. Pure."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tracer.cadence import Cadence, Owner
from tracer.clock import ClockOffset, rfc3339
from tracer.lifetimes import QUANTILE_ERROR, Distribution
from tracer.lines.values import or_none, rounded
from tracer.summary import EndpointSummary, KernelSpan, Summary
from tracer.text import comm_text


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
            "lost": summary.lost_at_least,
            "gaps": summary.gaps,
            "losses": [{"lost": loss.lost, "since_ns": loss.since_ns, "until_ns": loss.until_ns} for loss in summary.losses],
            "connections": summary.connections,
            "open": summary.open,
            "inbound": summary.inbound,
            "coverage": rounded(summary.coverage),
            "connections_seen": summary.opened if summary.counted else None,
            "connections_counted": summary.counted or None,
            "kernel": None if summary.kernel is None else _kernel(summary.kernel),
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
            "unresolved": list(summary.unresolved),
            "truncated": truncated,
        }
    )


def _kernel(span: KernelSpan) -> dict[str, Any]:
    return {"now": span.last.to_json(), "most": span.most.to_json(), "since_start": span.grown.to_json()}


def _endpoint(endpoint: EndpointSummary) -> dict[str, Any]:
    return {
        "endpoint": endpoint.endpoint,
        "connections": endpoint.connections,
        "open": endpoint.open,
        "opens": endpoint.opens,
        "closes": endpoint.closes,
        "peak_open": endpoint.peak_open,
        "opens_per_s": rounded(endpoint.opens_per_s),
        "closes_per_s": endpoint.closes_per_s and {side: rounded(rate) for side, rate in endpoint.closes_per_s.items()},
        "mean_open": rounded(endpoint.mean_open),
        "turnover": rounded(endpoint.turnover),
        "bytes_received": or_none(endpoint.bytes_received),
        "bytes_acked": or_none(endpoint.bytes_acked),
        "retransmits": or_none(endpoint.retransmits),
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
        "cgroup_id": or_none(owner.cgroup_id),
        "attempts": found.attempts,
        "rhythm": found.rhythm.value,
        "period_ns": or_none(found.period_ns),
        "step_ns": found.step_ns,
        "factor": round(found.factor, 3),
        "deviation": None if np.isnan(found.deviation) else round(found.deviation, 3),
    }
