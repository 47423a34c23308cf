"""Golden replays: one folder a behaviour. `python -m tests.replays` rewrites what is expected, after a change that is meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tracer.analysis import Analysis
from tracer.captures import open_trace
from tracer.findings import Finding
from tracer.lines import connection_lines, finding_lines, summary_line
from tracer.rules.settings import RuleSettings

REPLAYS = Path(__file__).resolve().parent.parent / "replays"


def folders() -> list[Path]:
    """Every replay."""
    return sorted(path for path in REPLAYS.iterdir() if path.is_dir())


def trace_of(folder: Path) -> Path:
    """The replay's trace, in either format."""
    (trace,) = folder.glob("trace.*")
    return trace


def outcome(folder: Path) -> dict[str, Any]:
    """What the product makes of a trace, all rules on: its findings, connection lines and summary, as objects."""
    trace = open_trace(trace_of(folder))
    try:
        header = trace.header
        settings = RuleSettings("all", benign=True)
        analysis = Analysis(header.source, header.resolution_ns, header.endpoints, settings, header.roles())
        lines: list[str] = []
        findings: list[Finding] = []
        for batch in trace.batches():
            progress = analysis.feed(batch)
            lines += connection_lines(progress.ended, analysis.endpoints, header.clock)
            findings += progress.findings
        findings += analysis.close()
        lines += connection_lines(analysis.open(), analysis.endpoints, header.clock)
        summary = summary_line(analysis.summary(), trace.header.clock, trace.truncated)
    finally:
        trace.close()
    found = [json.loads(line) for line in finding_lines(findings, analysis.endpoints, header.clock)]
    if (folder / "label.json").exists():  # of the lab: the connections are as a client made them, what matters is what is said
        told = {"abstained": json.loads(summary)["abstained"], "open_findings": json.loads(summary)["open_findings"]}
        return {"rewritten by": "python -m tests.replays", "findings": list(map(essence, found)), **told}
    return {
        "rewritten by": "python -m tests.replays",
        "findings": found,
        "connections": [json.loads(line) for line in lines],
        "summary": json.loads(summary),
    }


def essence(finding: dict[str, Any]) -> dict[str, Any]:
    """A finding without the wording and the lists, which would make every replay change with a sentence."""
    kept = ("rule", "episode", "state", "severity", "confidence", "endpoint", "started_ns", "detected_ns", "ended_ns", "ts_ns")
    return {name: finding[name] for name in kept}


def main() -> None:
    for folder in folders():
        (folder / "expected.json").write_text(json.dumps(outcome(folder), indent=1) + "\n")
        print(f"rewrote {folder.name}/expected.json")


if __name__ == "__main__":
    main()
