"""Finding lines. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from tracer.clock import ClockOffset, rfc3339
from tracer.findings import Finding, Suspect
from tracer.lines.values import or_none, rounded
from tracer.text import comm_text


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
        "ended_ns": or_none(finding.ended_ns),
        "at": at[3],
        "ts_ns": finding.at_ns,
        "summary": finding.summary,
        "evidence": finding.evidence,
        "suspects": [_suspect(suspect) for suspect in finding.suspects],
        "advice": finding.advice,
    }


def _suspect(suspect: Suspect) -> dict[str, Any]:
    return {
        "pid": or_none(suspect.pid),
        "comm": comm_text(suspect.comm) if suspect.comm else None,
        "cgroup_id": or_none(suspect.cgroup_id),
        "container": suspect.container,
        "unit": suspect.unit,
        "cmdline": suspect.cmdline,
        "opens_per_min": rounded(suspect.opens_per_min),
        "share": rounded(suspect.share),
    }
