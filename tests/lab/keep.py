"""Makes replays of the lab's captures: anonymised, cut to a small size, each with its truth and a README.

`python -m tests.lab.keep [FOLDER]` writes replays/lab-NAME for every capture in FOLDER; then `python -m tests.replays` writes
what is expected of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.replays import REPLAYS
from tracer.anonymise import Anonymiser
from tracer.captures import create_trace, open_trace
from tracer.events import EventBatch

PREFIX = "lab-"
EVENTS_MAX = 470
"""Less than 100 kB of a capture."""
MANY = "healthy-200-pulls-"
"""Too long to be kept: shorter ones of the same kind are."""


def keep(capture: Path) -> None:
    """Make a replay of one capture."""
    label = json.loads((capture / "label.json").read_text())
    folder = REPLAYS / f"{PREFIX}{label['name']}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    trace = open_trace(capture / "trace.arrows")
    anonymiser = Anonymiser()
    writer = create_trace(folder / "trace.arrows", anonymiser.header(trace.header))
    cut_ns = None
    left = EVENTS_MAX
    for batch in trace.batches():
        if len(batch) > max(left, 0):
            left = max(left, 0)
            cut_ns = int(batch.events["ts_ns"][left])
            writer.write(anonymiser.batch(EventBatch(batch.events[:left].copy(), batch.source, batch.resolution_ns)))
            break
        left -= len(batch) + (batch.until_ns > 0)
        writer.write(anonymiser.batch(batch))
    writer.close()
    trace.close()
    (folder / "trace.arrows").chmod(0o644)
    (folder / "label.json").write_text(
        json.dumps(truth(label, anonymiser.header(trace.header).endpoints, cut_ns), indent=1) + "\n"
    )
    (folder / "README.md").write_text("\n".join(readme(label, cut_ns)) + "\n")


def truth(label: dict[str, Any], endpoints: dict[int, str], cut_ns: int | None) -> dict[str, Any]:
    """The label without what tells the machine, and without what was cut off."""
    kept = {
        name: label[name] for name in ("name", "summary", "client", "fault", "also", "in_tcp", "fault_ns", "told_ns", "pulls")
    }
    roles = list(label["endpoints"].values())
    kept["endpoints"] = dict(zip(endpoints.values(), roles, strict=True))
    kept["versions"] = label["versions"]
    kept["cut_ns"] = cut_ns
    if cut_ns is not None and kept["told_ns"] is not None and kept["told_ns"] > cut_ns:
        kept["told_ns"] = None
    return kept


def readme(label: dict[str, Any], cut_ns: int | None) -> Iterator[str]:
    """What the replay shows."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(label["versions"].items()) if name != "env")
    since_s = 0.0 if cut_ns is None else (cut_ns - label["started_ns"]) / 1e9
    cut = "" if cut_ns is None else f" Cut after {since_s:.1f} s."
    fault = label["fault"]
    also = ", ".join(f"`{name}`" for name in label["also"])
    yield f"# {label['summary']}"
    yield ""
    yield "## Where it comes from"
    yield ""
    yield f"Scenario `{label['name']}` of the lab (`tests/lab`), addresses replaced.{cut}"
    yield f"Played with {versions or label['client']}."
    yield ""
    yield "## What must be seen"
    yield ""
    if fault is None:
        yield "The connections of a healthy client. No finding of a fault."
    elif label["in_tcp"]:
        told = ""
        if label["told_ns"] is not None and label["fault_ns"] is not None:
            told = f" Its user was told {(label['told_ns'] - label['fault_ns']) / 1e9:.1f} s after the fault began."
        yield f"`{fault}`" + (f"; {also} may be found too." if also else ".") + told
        yield "Where that is not what expected.json has, the scoreboard counts it as missed."
    else:
        yield f"The fault (`{fault}`) leaves no trace in TCP that would tell it from healthy requests; it need not be found."
    yield ""
    yield "## What must not be seen"
    yield ""
    yield "Any other fault (evidence set). What the textbook set says besides is in expected.json, and counted in the scoreboard."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/lab"))
    options = parser.parse_args()
    for path in sorted(options.folder.glob("*/label.json")):
        if not path.parent.name.startswith((MANY, ".")):
            keep(path.parent)
            print(f"kept {PREFIX}{path.parent.name}")


if __name__ == "__main__":
    main()
