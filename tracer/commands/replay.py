"""`regtrace replay`: a capture through the same analysis and the same reports as a live trace."""

from __future__ import annotations

import argparse
import sys

from tracer.captures import open_trace
from tracer.commands.output import exit_code, report_for, settings_for
from tracer.pipeline import Stop, run_replay
from tracer.progress import progress_bar


def run(options: argparse.Namespace) -> int:
    """Replay a capture to its end."""
    if options.config is not None:
        settings_for(options)  # say what is wrong with it before the trace is opened
    trace = open_trace(options.trace)
    try:
        settings = settings_for(options, trace.header)
        stop = Stop()
        with stop.on_signals(), progress_bar(f"replaying {options.trace.name}") as bar:
            # On a terminal the report itself shows how far it is, and what waits on purpose needs no bar.
            quiet = sys.stdout.isatty() or options.speed is not None
            batches = trace.batches() if quiet else bar.reading(trace)
            report = [report_for(options)]
            analysis = run_replay(batches, trace.header, report, stop, lambda: trace.truncated, options.speed, settings)
    finally:
        trace.close()
    return exit_code(options, analysis)
