"""`regtrace replay`: a capture through the same analysis and the same reports as a live trace."""

from __future__ import annotations

import argparse

from tracer.captures import open_trace
from tracer.commands.output import report_for
from tracer.errors import EXIT_OK
from tracer.pipeline import Stop, run_replay


def run(options: argparse.Namespace) -> int:
    """Replay a capture to its end."""
    trace = open_trace(options.trace)
    try:
        stop = Stop()
        with stop.on_signals():
            run_replay(trace.batches(), trace.header, [report_for(options)], stop, lambda: trace.truncated, options.speed)
    finally:
        trace.close()
    return EXIT_OK
