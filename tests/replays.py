"""Golden replays: one folder a behaviour. `python -m tests.replays` rewrites what is expected, after a change that is meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tracer.analysis import Analysis
from tracer.captures import open_trace
from tracer.lines import connection_lines, summary_line

REPLAYS = Path(__file__).resolve().parent.parent / "replays"


def folders() -> list[Path]:
    """Every replay."""
    return sorted(path for path in REPLAYS.iterdir() if path.is_dir())


def trace_of(folder: Path) -> Path:
    """The replay's trace, in either format."""
    (trace,) = folder.glob("trace.*")
    return trace


def outcome(folder: Path) -> dict[str, Any]:
    """What the product makes of a trace: its connection lines and its summary, as objects."""
    trace = open_trace(trace_of(folder))
    try:
        analysis = Analysis(trace.header.source, trace.header.resolution_ns, trace.header.endpoints)
        lines = []
        for batch in trace.batches():
            ended = analysis.feed(batch)
            lines += connection_lines(ended, analysis.endpoints, trace.header.clock)
        lines += connection_lines(analysis.open(), analysis.endpoints, trace.header.clock)
        summary = summary_line(analysis.summary(), trace.header.clock, trace.truncated)
    finally:
        trace.close()
    return {
        "rewritten by": "python -m tests.replays",
        "connections": [json.loads(line) for line in lines],
        "summary": json.loads(summary),
    }


def main() -> None:
    for folder in folders():
        (folder / "expected.json").write_text(json.dumps(outcome(folder), indent=1) + "\n")
        print(f"rewrote {folder.name}/expected.json")


if __name__ == "__main__":
    main()
