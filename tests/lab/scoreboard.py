"""The scoreboard: what each rule set makes of every scenario of the lab, beside the truth.

`python -m tests.lab.scoreboard [FOLDER]` reads the captures and labels that `python -m tests.lab` left.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracer.analysis import Analysis
from tracer.captures import open_trace
from tracer.findings import Finding, FindingState
from tracer.roles import Role
from tracer.rows import Connections, blank_connections
from tracer.rules.settings import RuleSettings

SETS = ("evidence", "textbook")
MEANING = {"short-lives": "rate-limit", "churn": "rate-limit", "capacity": "capacity"}
"""What a textbook rule says, where its id says something else."""
NO_ALARM = {"recovered", "idle-close", "token-aging"}
SECOND_NS = 1e9


@dataclass(frozen=True)
class Score:
    """One rule set on one scenario; times in s, None where there is nothing to measure."""

    scenario: str
    client: str
    fault: str | None
    in_tcp: bool
    found: bool
    named: bool
    false_alarms: tuple[str, ...]
    delay_s: float | None
    lead_s: float | None
    pulls: int


def findings_of(folder: Path, rule_set: str, roles: dict[str, str]) -> list[Finding]:
    """Every finding line of a capture under a rule set, with the roles of its endpoints by label."""
    (path,) = folder.glob("trace.*")
    return replayed(path, rule_set, roles)[1]


def replayed(path: Path, rule_set: str, roles: dict[str, str]) -> tuple[Analysis, list[Finding], Connections]:
    """A capture under a rule set: the analysis at its end, every finding line, and the connections that ended in it."""
    trace = open_trace(path)
    try:
        header = trace.header
        settings = RuleSettings(rule_set, roles={label: Role(role) for label, role in roles.items()})
        analysis = Analysis(header.source, header.resolution_ns, header.endpoints, settings, header.roles())
        progress = [analysis.feed(batch) for batch in trace.batches()]
        found = [finding for each in progress for finding in each.findings]
        ended = np.concatenate([blank_connections(0), *(each.ended for each in progress)])
        return analysis, [*found, *analysis.close()], ended
    finally:
        trace.close()


def meaning(finding: Finding) -> str:
    """What a finding says is wrong, in the words of the labels."""
    set_name, _, name = finding.rule.rpartition("/")
    return MEANING.get(name, name) if set_name else name


def score(label: dict[str, Any], findings: list[Finding]) -> Score:
    """Judge the findings of a scenario by its label."""
    fault, fault_ns = label["fault"], label["fault_ns"]
    opened = [finding for finding in findings if finding.state is FindingState.OPEN]
    alarms = [finding for finding in opened if meaning(finding) not in NO_ALARM]
    allowed = {fault, *label["also"]}
    early = [finding for finding in alarms if fault_ns is not None and finding.detected_ns < fault_ns]
    wrong = [finding for finding in alarms if finding in early or meaning(finding) not in allowed]
    right = [finding for finding in alarms if meaning(finding) == fault and finding not in early]
    late = [finding for finding in alarms if finding not in early]
    first_ns = min((finding.detected_ns for finding in right), default=None)
    told_ns = label["told_ns"]
    return Score(
        label["name"],
        label["client"],
        fault,
        label["in_tcp"],
        bool(late) if fault else False,
        bool(right),
        tuple(sorted({finding.rule for finding in wrong})),
        None if first_ns is None or fault_ns is None else (first_ns - fault_ns) / SECOND_NS,
        None if first_ns is None or told_ns is None else (told_ns - first_ns) / SECOND_NS,
        label["pulls"],
    )


def scores(folder: Path, rule_set: str, roles_known: bool = True) -> list[Score]:
    """All scenarios of a folder, by name; with `roles_known` the rules are told what endpoints are for."""
    found = []
    for path in sorted(folder.glob("*/label.json")):
        label = json.loads(path.read_text())
        found.append(score(label, findings_of(path.parent, rule_set, label["endpoints"] if roles_known else {})))
    return found


def table(by_set: dict[str, list[Score]]) -> list[str]:
    """The scoreboard in Markdown: faults, then healthy scenarios, then sums."""
    head = "| scenario | truth |" + "".join(f" {name}: said | after s | lead s | false alarms |" for name in by_set)
    lines = [head, "|---|---|" + "---|---|---|---|" * len(by_set)]
    rows = list(zip(*by_set.values(), strict=True))
    for row in sorted(rows, key=lambda row: (row[0].fault is None, row[0].scenario)):
        truth = (row[0].fault or "healthy") + ("" if row[0].in_tcp else " (not in TCP)")
        lines.append(f"| {row[0].scenario} | {truth} |" + "".join(_cells(own) for own in row))
    lines.append("")
    for name, own in by_set.items():
        faults = [entry for entry in own if entry.fault is not None]
        visible = [entry for entry in faults if entry.in_tcp]
        healthy = [entry for entry in own if entry.fault is None]
        lines.append(
            f"**{name}**: {sum(entry.named for entry in visible)} of {len(visible)} faults that leave a trace in TCP named "
            f"rightly ({sum(entry.named for entry in faults)} of all {len(faults)}); false alarms in "
            f"{sum(bool(entry.false_alarms) for entry in healthy)} of {len(healthy)} healthy scenarios"
            f" ({sum(entry.pulls for entry in healthy)} pulls and checks) and {sum(bool(entry.false_alarms) for entry in faults)}"
            f" of {len(faults)} faulty ones."
        )
    return lines


def _cells(own: Score) -> str:
    said = "-" if own.fault is None else "right" if own.named else "other" if own.found else "missed"
    wrong = ", ".join(own.false_alarms) or "-"
    return f" {said} | {_seconds(own.delay_s)} | {_seconds(own.lead_s)} | {wrong} |"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/lab"))
    parser.add_argument("--no-roles", action="store_true", help="do not tell the rules what endpoints are for")
    options = parser.parse_args()
    if not any(options.folder.glob("*/label.json")):
        print(f"{options.folder} has no captures of the lab; run 'make lab' first", file=sys.stderr)
        return 1
    print("\n".join(table({name: scores(options.folder, name, not options.no_roles) for name in SETS})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
