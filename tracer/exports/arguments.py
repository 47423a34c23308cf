"""What a timeline says of a connection, a finding or a loss when it is clicked on. Pure.

Names and units are those of the JSON lines. What is unknown is left out, and `unknown` says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.collected.collector import Collected
from tracer.collected.tables import Kind, connection_table
from tracer.findings import Finding, Suspect
from tracer.lifecycle import REASON_NAMES, CloseReason, errno_name
from tracer.summary import Loss
from tracer.text import comm_text, duration_text

_SHOWN = (
    "comm", "pid", "container", "runtime", "pod", "unit", "cmdline", "cgroup_id", "netns_name", "laddr", "lport", "raddr",
    "rport", "close_reason", "last_state", "lifetime_ns", "connect_ns", "bytes_received", "bytes_acked", "retransmits", "srtt_us",
    "unread_bytes", "idle_ms", "sk_err", "opened_early_ns", "established_early_ns", "closed_early_ns", "netns",
    "skaddr",
)  # fmt: skip
_ORDINARY = (CloseReason.OPEN, CloseReason.PEER, CloseReason.LOCAL)


@dataclass(frozen=True)
class Argument:
    """One value of each connection.

    Attributes:
        name: as in the JSON lines.
        kind: of its values; INTEGER, TEXT or TRUTH.
        values: as long as there are connections; None is left out.
    """

    name: str
    kind: Kind
    values: list[Any]


def connection_names(collected: Collected) -> list[str]:
    """What each connection is called: who opened it, and how it ended where that is no ordinary end."""
    rows = collected.rows
    key = np.zeros(len(rows), [("comm", "S16"), ("known", "?"), ("reason", "u1")])
    key["comm"], key["known"], key["reason"] = rows["comm"], rows["pid"] >= 0, rows["close_reason"]
    distinct, inverse = np.unique(key, return_inverse=True)
    names = [_name(*each) for each in distinct.tolist()]
    return [names[index] for index in inverse.tolist()]


def _name(comm: bytes, known: bool, reason: int) -> str:
    ended = REASON_NAMES[reason]
    if not known:
        return ended
    return comm_text(comm) if reason in _ORDINARY else f"{comm_text(comm)}: {ended}"


def connection_arguments(collected: Collected) -> list[Argument]:
    """What is known of the connections, value by value."""
    rows, table = collected.rows, connection_table(collected)
    numbers = Argument("connection", Kind.INTEGER, list(range(1, len(rows) + 1)))
    found = [numbers]
    for name in _SHOWN:
        column = table[name]
        values = column.objects()
        if name == "sk_err":
            values = [value if value is None else errno_name(value) for value in values]
            found.append(Argument(name, Kind.TEXT, values))
        elif name.endswith("early_ns"):
            found.append(Argument(name, Kind.INTEGER, [value or None for value in values]))
        else:
            found.append(Argument(name, Kind.TEXT if column.kind is Kind.TEXT else Kind.INTEGER, values))
    still_open = rows["close_reason"] == CloseReason.OPEN
    truths = (("still_open", still_open), ("preexisting", rows["preexisting"] > 0), ("gap", rows["gap"]))
    found += [Argument(name, Kind.TRUTH, [value or None for value in values.tolist()]) for name, values in truths]
    found.append(Argument("unknown", Kind.TEXT, _unknown(rows)))
    return [argument for argument in found if any(value is not None for value in argument.values)]


def _unknown(rows: NDArray[np.void]) -> list[str | None]:
    """Why something of each connection is not known; None: everything is."""
    ended = rows["closed_ns"] >= 0
    reasons = {
        "opening: open before the trace": (rows["opened_ns"] < 0) & (rows["preexisting"] > 0),
        "opening: not seen, events were lost": (rows["opened_ns"] < 0) & (rows["preexisting"] <= 0),
        "end: not yet, open when the trace ended": rows["close_reason"] == CloseReason.OPEN,
        "end: not seen, transitions are missing": ~ended & (rows["close_reason"] != CloseReason.OPEN),
        "lifetime: opened and closed within one look": ended & (rows["opened_ns"] >= 0) & (rows["lifetime_ns"] < 0),
        "owner: not seen": rows["pid"] < 0,
        "bytes: not read": (rows["bytes_received"] < 0) | (rows["bytes_acked"] < 0),
        "states: transitions are missing": rows["gap"],
    }
    texts = list(reasons)
    codes = sum(holds.astype(np.int64) << bit for bit, holds in enumerate(reasons.values()))
    made = {
        code: "; ".join(text for bit, text in enumerate(texts) if code >> bit & 1) or None for code in np.unique(codes).tolist()
    }
    return [made[code] for code in np.asarray(codes).tolist()]


def finding_name(finding: Finding) -> str:
    """The rule, how bad, and how sure."""
    return f"{finding.rule}, {finding.severity.text}, {finding.confidence:.2g}"


def finding_arguments(finding: Finding) -> dict[str, Any]:
    """A finding as JSON values."""
    return {
        "summary": finding.summary,
        "advice": finding.advice,
        "state": finding.state.value,
        "severity": finding.severity.text,
        "confidence": finding.confidence,
        "episode": finding.episode,
        "still_open": finding.ended_ns < 0,
        "suspects": [_suspect(suspect) for suspect in finding.suspects],
        "evidence": finding.evidence,
    }


def _suspect(suspect: Suspect) -> dict[str, Any]:
    found = {
        "comm": comm_text(suspect.comm) if suspect.comm else None,
        "pid": suspect.pid if suspect.pid >= 0 else None,
        "container": suspect.container,
        "unit": suspect.unit,
        "cmdline": suspect.cmdline,
        "opens_per_min": suspect.opens_per_min,
        "share": suspect.share,
    }
    return {name: value for name, value in found.items() if value is not None}


def trace_name(collected: Collected) -> str:
    """What holds for all of it, in a few words."""
    summary = collected.summary
    lost = f"{summary.lost or 'no'} events lost" if summary.loss_known else summary.lost_text
    parts = [summary.source, f"{summary.connections} connections", lost]
    return ", ".join(parts + (["truncated"] if collected.truncated else []))


def loss_name(loss: Loss) -> str:
    """How many events were lost."""
    return "nobody was looking" if loss.lost is None else f"{loss.lost} events lost"


def loss_arguments(loss: Loss) -> dict[str, Any]:
    """A loss as JSON values."""
    lasted = duration_text(loss.until_ns - loss.since_ns)
    return {"lost": "unknown" if loss.lost is None else loss.lost, "since_ns": loss.since_ns, "lasted": lasted}
