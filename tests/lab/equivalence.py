"""`python -m tests.lab.equivalence`: scenarios recorded by every source at once, and what each makes of the same traffic.

eBPF is taken for the truth; both polling sources record beside it. What they saw is compared in `tests.lab.likeness`, what the
rules say of it here, after each capture was replayed as the product does it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from tests.lab.__main__ import enter_namespace, lacks, play_all, scenarios
from tests.lab.likeness import Likeness, defect_lines, likeness, seen_table
from tests.lab.scoreboard import NO_ALARM, SECOND_NS, Score, replayed, score, table
from tracer.findings import Finding, FindingState
from tracer.rows import Connections

OUT = Path("build/equivalence")
TRUTH, OTHERS = "ebpf", ("polled", "proc")
CAPTURES = {source: f"{source}.arrows" for source in (TRUTH, *OTHERS)}
RULES = "evidence"
APART = NO_ALARM | {"churn"}
"""Rules that name no fault, or only its consequence."""
DEFECTS_MAX = 8
"""Examples of each kind that are printed."""

Where = tuple[str, str]
"""(rule, label of the endpoint)."""


@dataclass(frozen=True)
class Account:
    """What one source makes of a scenario.

    Attributes:
        findings: every line.
        endpoints: label by endpoint id.
        connections: ended and open, by the time at which they were first seen.
        transitions: how many were told.
    """

    findings: list[Finding]
    endpoints: dict[int, str]
    connections: Connections
    transitions: int


@dataclass(frozen=True)
class Change:
    """How the episodes of one source differ from the truth's.

    Attributes:
        same: what both opened, with how much later (s) the other did so first.
        missing, extra: what one of them opened only.
    """

    same: dict[Where, float]
    missing: tuple[Where, ...]
    extra: tuple[Where, ...]


def account_of(path: Path, roles: dict[str, str]) -> Account:
    """Replay a capture."""
    analysis, findings, ended = replayed(path, RULES, roles)
    rows = np.concatenate([ended, analysis.open()])
    rows = rows[np.argsort(rows["first_seen_ns"], kind="stable")]
    return Account(findings, analysis.endpoints, rows, analysis.summary().events)


def first_opened(account: Account) -> dict[Where, int]:
    """When (boottime, ns) each rule first opened an episode at each endpoint."""
    found: dict[Where, int] = {}
    for finding in account.findings:
        if finding.state is FindingState.OPEN:
            where = finding.rule, account.endpoints[finding.endpoint_id]
            found[where] = min(found.get(where, finding.detected_ns), finding.detected_ns)
    return found


def change(truth: Account, other: Account) -> Change:
    """Compare the findings of two sources."""
    expected, found = first_opened(truth), first_opened(other)
    same = {where: (found[where] - expected[where]) / SECOND_NS for where in sorted(expected.keys() & found.keys())}
    return Change(same, tuple(sorted(expected.keys() - found.keys())), tuple(sorted(found.keys() - expected.keys())))


def compared(scenario: str, truth: Account, other: Account) -> Likeness:
    """Compare the connections and transitions of two sources."""
    found = likeness(scenario, truth.connections, other.connections)
    found.counts["transitions"] += other.transitions
    found.counts["true transitions"] += truth.transitions
    return found


def findings_table(played: dict[str, dict[str, Account]], wanted: Callable[[str], bool]) -> list[str]:
    """What each source opened, in Markdown, of the rules that are wanted; without scenarios in which no source said anything."""
    head = "".join(f" {source}: same (s later) | missing | extra |" for source in OTHERS)
    lines = [f"| scenario | {TRUTH} |{head}", "|---|---|" + "---|---|---|" * len(OTHERS)]
    for name, accounts in played.items():
        opened = [where for where in first_opened(accounts[TRUTH]) if wanted(where[0])]
        cells = [_list(sorted(opened))]
        for source in OTHERS:
            found = change(accounts[TRUTH], accounts[source])
            same = {where: later_s for where, later_s in found.same.items() if wanted(where[0])}
            cells.append(", ".join(f"{_name(where)} ({later_s:+.1f})" for where, later_s in same.items()) or "-")
            cells += [_list(where for where in each if wanted(where[0])) for each in (found.missing, found.extra)]
        if set(cells) != {"-"}:
            lines.append(f"| {name} |" + "".join(f" {cell} |" for cell in cells))
    return lines


def _name(where: Where) -> str:
    return f"{where[0]} @{where[1]}"


def _list(found: Iterable[Where]) -> str:
    return ", ".join(map(_name, found)) or "-"


def report(labels: dict[str, dict[str, Any]], played: dict[str, dict[str, Account]], most: int = DEFECTS_MAX) -> list[str]:
    """Everything, in Markdown.

    Args:
        labels: label.json by scenario.
        played: what each source makes of each scenario.
        most: so many examples of each kind of defect.
    """
    scores: dict[str, list[Score]] = defaultdict(list)
    totals = {source: Likeness() for source in OTHERS}
    for name, accounts in played.items():
        for source, account in accounts.items():
            scores[source].append(score(labels[name], account.findings))
        for source in OTHERS:
            totals[source] += compared(name, accounts[TRUTH], accounts[source])
    since_ns = {name: label["started_ns"] for name, label in labels.items()}
    lines = ["## Truth named", "", *table(dict(scores)), ""]
    lines += ["## Findings", "", *findings_table(played, lambda rule: rule not in APART), ""]
    lines += ["## Findings that name no fault", "", *findings_table(played, lambda rule: rule in APART), ""]
    lines += ["## Seen", "", *seen_table(totals), "", "## Defects", ""]
    for source, found in totals.items():
        lines += defect_lines(source, found.defects, since_ns, most)
    return lines


def compare_folder(folder: Path, globs: list[str] | None, most: int) -> int:
    """Print what the captures in a folder say; 1 if there are none."""
    labels, played = {}, {}
    for path in sorted(folder.glob("[!.]*/label.json")):
        if not globs or any(fnmatch(path.parent.name, glob) for glob in globs):
            label = json.loads(path.read_text())
            labels[label["name"]] = label
            played[label["name"]] = {
                source: account_of(path.parent / name, label["endpoints"]) for source, name in CAPTURES.items()
            }
    if not played:
        print(f"equivalence: {folder} has no captures of the lab", file=sys.stderr)
        return 1
    print("\n".join(report(labels, played, most)))
    return 0


def main() -> int:
    """Play and compare, or compare only; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.equivalence", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="GLOB", help="scenarios whose name matches one of these")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"where captures go (default: {OUT})")
    parser.add_argument("--compare-only", action="store_true", help="compare the captures that are in FOLDER")
    parser.add_argument("--defects", type=int, default=DEFECTS_MAX, metavar="N", help="examples of each kind that are printed")
    options = parser.parse_args()
    failed = 0
    if not options.compare_only:
        chosen = scenarios(options.only)
        lacking = lacks(chosen, options.only)
        if lacking is not None:
            print(f"equivalence: {lacking}", file=sys.stderr)
            return 1
        enter_namespace("tests.lab.equivalence")
        failed = play_all(chosen, options.out.resolve(), CAPTURES)
    return compare_folder(options.out, options.only, options.defects) or failed


if __name__ == "__main__":
    sys.exit(main())
