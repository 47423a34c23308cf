"""The live view of a trace that stands still: `python -m tests.standing TRACE SECONDS` on a terminal.

It feeds a capture up to so many seconds after its first event and shows what there is, until q or a signal ends it. The
product's own view on a real terminal, whose picture does not depend on how fast the machine is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from tracer.analysis import Analysis
from tracer.captures import open_trace
from tracer.events import EventBatch
from tracer.pipeline import POLL_S, Stop
from tracer.rules.settings import RuleSettings
from tracer.screen.live import LiveReport


def up_to(batches: Iterator[EventBatch], span_s: float) -> Iterator[EventBatch]:
    """The batches of a trace, without what happened later than so many seconds after its first event."""
    first_ns: int | None = None
    for batch in batches:
        times = batch.events["ts_ns"]
        if first_ns is None and len(times):
            first_ns = int(times[0])
        end_ns = (first_ns or 0) + int(span_s * 1e9)
        within = int(np.searchsorted(times, end_ns)) if first_ns is not None else len(batch)
        until_ns = min(batch.until_ns, end_ns) if first_ns is not None else batch.until_ns
        early_ns = None if batch.early_ns is None else batch.early_ns[:within]
        yield replace(batch, events=batch.events[:within].copy(), early_ns=early_ns, until_ns=until_ns)
        if within < len(batch):
            return


def main() -> None:
    """Feed, and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", type=Path)
    parser.add_argument("span_s", type=float)
    options = parser.parse_args()
    trace = open_trace(options.trace)
    header = trace.header
    analysis = Analysis(header.source, header.resolution_ns, header.endpoints, RuleSettings(), header.roles())
    report = LiveReport(Console(), transitions=False)
    stop = Stop()
    with stop.on_signals():
        report.start(header)
        try:
            for batch in up_to(trace.batches(), options.span_s):
                report.batch(batch, analysis.feed(batch), analysis)
            while stop.signal is None and report.poll(analysis):
                time.sleep(POLL_S)
        finally:
            trace.close()
            report.finish(analysis, None)


if __name__ == "__main__":
    main()
