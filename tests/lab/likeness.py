"""How like two traces of the same traffic are, connection by connection: one is taken for the truth. Pure.

Connections are paired by their ends and by time. What is unknown is no error; what is said and is not so is one, and is kept.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracer.lifecycle import REASON_NAMES, STATE_NAMES, CloseReason
from tracer.rows import Connections
from tracer.text import comm_text, printable

MS_NS = 1_000_000
TOLERANCE_NS = 5 * MS_NS
"""By which a time may lie outside of the interval that is given for it: the clocks are read on different paths."""
NEAR_NS = 3_000 * MS_NS
"""So far apart in time are two accounts of one connection at most, where one of them is wrong about the time."""
LIVES = (("under 1 ms", MS_NS), ("1 to 50 ms", 50 * MS_NS), ("longer", 1 << 62))
"""Classes of lifetimes, each with where it ends in ns; what did not end is longer."""
TIMES = ("opened_ns", "closed_ns")
BYTES = ("bytes_received", "bytes_acked")
_STILL = (CloseReason.OPEN, CloseReason.UNKNOWN)

Row = Any
"""One of Connections."""


@dataclass(frozen=True)
class Defect:
    """Something that is not so: what, in which scenario, the true row, and the other (None: there is none)."""

    kind: str
    scenario: str
    truth: Row | None
    other: Row | None


@dataclass
class Likeness:
    """What came of comparing; sums.

    Attributes:
        counts: by what was found out.
        errors_ns: how far times were off (other minus true), by field.
        defects: in the order of the true connections.
    """

    counts: Counter[str] = field(default_factory=Counter)
    errors_ns: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    defects: list[Defect] = field(default_factory=list)

    def __add__(self, more: Likeness) -> Likeness:
        errors_ns = {name: [*self.errors_ns.get(name, ()), *more.errors_ns.get(name, ())] for name in TIMES}
        return Likeness(self.counts + more.counts, defaultdict(list, errors_ns), [*self.defects, *more.defects])

    def share(self, part: str, of: Iterable[str]) -> float | None:
        """A count among several; None where there are none."""
        whole = sum(self.counts[name] for name in of)
        return self.counts[part] / whole if whole else None


def pairs(truth: Connections, other: Connections) -> list[tuple[int, int]]:
    """Which rows are of the same connection: the same ends at the same time, or else nearly so; each in one pair at most.

    What overlaps goes before what does not, then the nearest.
    """
    by_ends: dict[tuple[bytes, int, bytes, int], list[int]] = defaultdict(list)
    for index, row in enumerate(other):
        by_ends[_ends(row)].append(index)
    near = []
    for index, row in enumerate(truth):
        since_ns, until_ns = _span(row)
        for there in by_ends.get(_ends(row), ()):
            its_since_ns, its_until_ns = _span(other[there])
            apart_ns = max(its_since_ns - until_ns, since_ns - its_until_ns)
            if apart_ns <= NEAR_NS:
                near.append((apart_ns > TOLERANCE_NS, abs(its_since_ns - since_ns), index, there))
    taken: dict[int, int] = {}
    used: set[int] = set()
    for _, _, index, there in sorted(near):
        if index not in taken and there not in used:
            taken[index] = there
            used.add(there)
    return sorted(taken.items())


def likeness(scenario: str, truth: Connections, other: Connections) -> Likeness:
    """Compare what two sources saw of one scenario."""
    found = Likeness()
    paired = pairs(truth, other)
    seen, used = dict(paired), {there for _, there in paired}
    for index, row in enumerate(truth):
        life = life_of(row)
        found.counts[f"lived {life}"] += 1
        if index in seen:
            found.counts[f"seen {life}"] += 1
            _judge(scenario, row, other[seen[index]], found)
        else:
            found.defects.append(Defect("not seen", scenario, row, None))
    for index, row in enumerate(other):
        if index not in used:
            found.counts["of nothing"] += 1
            found.defects.append(Defect("of nothing", scenario, None, row))
    return found


def life_of(row: Row) -> str:
    """Its class among LIVES."""
    life_ns = int(row["lifetime_ns"])
    return next(name for name, end_ns in LIVES if 0 <= life_ns < end_ns or end_ns == LIVES[-1][1])


def _judge(scenario: str, truth: Row, other: Row, found: Likeness) -> None:
    """One pair."""
    verdicts = {
        **{name: _time(name, truth, other, found) for name in TIMES},
        **{name: _bytes(name, truth, other) for name in BYTES},
        "close_reason": _reason(truth, other),
        "owner": _owner(truth, other),
    }
    for name, verdict in verdicts.items():
        if verdict is not None:
            found.counts[f"{name} {verdict}"] += 1
            if verdict.isupper():
                found.defects.append(Defect(f"{name} {verdict}", scenario, truth, other))


def _time(name: str, truth: Row, other: Row, found: Likeness) -> str | None:
    true_ns, told_ns = int(truth[name]), int(other[name])
    if true_ns < 0 and told_ns < 0:
        return None
    if told_ns < 0:
        return "unknown"
    if true_ns < 0:
        return "of nothing"
    found.errors_ns[name].append(told_ns - true_ns)
    early_ns = int(other[name.replace("_ns", "_early_ns")])
    return "within" if -TOLERANCE_NS <= told_ns - true_ns <= early_ns + TOLERANCE_NS else "OUTSIDE"


def _bytes(name: str, truth: Row, other: Row) -> str | None:
    """Of connections that ended; those that are open were looked at at different times."""
    if truth[name] < 0 or truth["closed_ns"] < 0 or other["closed_ns"] < 0:
        return None
    if other[name] < 0:
        return "unknown"
    off = abs(int(other[name]) - int(truth[name]))
    return "exact" if not off else "off by 1" if off == 1 else "WRONG"


def _reason(truth: Row, other: Row) -> str | None:
    said = CloseReason(other["close_reason"])
    if truth["close_reason"] == CloseReason.UNKNOWN:
        return None
    if truth["close_reason"] == said:
        return None if said is CloseReason.OPEN else "right"
    if said is CloseReason.OPEN:
        return "STILL OPEN"
    return "unknown" if said is CloseReason.UNKNOWN else "WRONG"


def _owner(truth: Row, other: Row) -> str | None:
    if truth["pid"] < 0:
        return None
    if other["pid"] < 0:
        return "unknown"
    if truth["pid"] != other["pid"]:
        return "WRONG"
    return "right" if truth["comm"] == other["comm"] else "OTHER COMM"


def _ends(row: Row) -> tuple[bytes, int, bytes, int]:
    return row["laddr"].tobytes(), int(row["lport"]), row["raddr"].tobytes(), int(row["rport"])


def _span(row: Row) -> tuple[int, int]:
    """[first, last] boottime that it may have lived at."""
    since_ns = int(row["opened_ns"]) - int(row["opened_early_ns"]) if row["opened_ns"] >= 0 else int(row["first_seen_ns"])
    return since_ns, int(row["closed_ns"]) if row["closed_ns"] >= 0 else 1 << 62


def seen_table(by_source: dict[str, Likeness]) -> list[str]:
    """What each source saw, in Markdown: a line for each thing that was measured."""
    columns = [_figures(found) for found in by_source.values()]
    lines = ["| what |" + "".join(f" {name} |" for name in by_source), "|---|" + "---|" * len(by_source)]
    return lines + [f"| {name} |" + "".join(f" {column[name]} |" for column in columns) for name in columns[0]]


def _figures(found: Likeness) -> dict[str, str]:
    counts = found.counts
    lives = [name for name, _ in LIVES]
    seen, lived = sum(counts[f"seen {name}"] for name in lives), sum(counts[f"lived {name}"] for name in lives)
    lines = {"connections seen": _of(seen, lived)}
    lines |= {f"those that lived {name}": _of(counts[f"seen {name}"], counts[f"lived {name}"]) for name in lives}
    lines["connections that were not there"] = str(counts["of nothing"])
    lines["transitions, of those of ebpf"] = _of(counts["transitions"], counts["true transitions"])
    for name in TIMES:
        known = counts[f"{name} within"] + counts[f"{name} OUTSIDE"]
        lines[f"{name}: known"] = _of(known, known + counts[f"{name} unknown"])
        lines[f"{name}: off by, p50 / p99 ms"] = _quantiles_ms(found.errors_ns.get(name, []))
        lines[f"{name}: outside of its interval"] = _of(counts[f"{name} OUTSIDE"], known)
    for name in BYTES:
        lines[f"{name}: exact / off by 1 / unknown / WRONG"] = _each(counts, name, ("exact", "off by 1", "unknown", "WRONG"))
    lines["close_reason: right / unknown / still open / WRONG"] = _each(
        counts, "close_reason", ("right", "unknown", "STILL OPEN", "WRONG")
    )
    lines["owner: right / other comm / unknown / WRONG"] = _each(counts, "owner", ("right", "OTHER COMM", "unknown", "WRONG"))
    return lines


def _each(counts: Counter[str], name: str, verdicts: Iterable[str]) -> str:
    return " / ".join(str(counts[f"{name} {verdict}"]) for verdict in verdicts)


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.1%})" if whole else "-"


def _quantiles_ms(errors_ns: list[int]) -> str:
    if not errors_ns:
        return "-"
    p50, p99 = np.quantile(np.abs(errors_ns), (0.5, 0.99)) / MS_NS
    return f"{p50:.2f} / {p99:.1f}"


def defect_lines(source: str, defects: Iterable[Defect], since_ns: dict[str, int], most: int) -> list[str]:
    """Defects of each kind with both rows, `most` of them at most; times in s since the scenario's beginning."""
    by_kind: dict[str, list[Defect]] = defaultdict(list)
    for defect in defects:
        by_kind[defect.kind].append(defect)
    lines = []
    for kind, all_of_it in sorted(by_kind.items()):
        where = Counter(defect.scenario for defect in all_of_it)
        lines += [f"**{source}, {kind}**: " + ", ".join(f"{name} {count}" for name, count in where.items()), ""]
        for defect in all_of_it[:most]:
            start_ns = since_ns[defect.scenario]
            lines += [f"    {defect.scenario}"]
            lines += ["      ebpf   " + _row_text(defect.truth, start_ns)] if defect.truth is not None else []
            lines += [f"      {source:6} " + _row_text(defect.other, start_ns)] if defect.other is not None else []
        lines.append("")
    return lines


def _row_text(row: Row, start_ns: int) -> str:
    times = []
    for name in ("opened", "established", "closed"):
        at_ns, early_ns = int(row[f"{name}_ns"]), int(row[f"{name}_early_ns"])
        said = "-" if at_ns < 0 else f"{(at_ns - start_ns) / 1e9:.6f}" + (f"(-{early_ns / 1e9:.6f})" if early_ns else "")
        times.append(f"{name} {said}")
    address = ".".join(map(str, row["raddr"][12:].tolist()))
    left = "pre " if row["preexisting"] == 1 else ""
    return (
        f":{row['lport']} -> {address}:{row['rport']} {left}{' '.join(times)} {REASON_NAMES[row['close_reason']]}"
        f" last {STATE_NAMES[row['last_state']]} in {row['bytes_received']} out {row['bytes_acked']} sk_err {row['sk_err']}"
        f" {printable(comm_text(bytes(row['comm'])))}[{row['pid']}]{' gap' if row['gap'] else ''}"
    )
