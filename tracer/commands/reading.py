"""A whole capture for a command that looks at all of it at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from tracer.captures import open_trace
from tracer.collected import Collected, Collector
from tracer.commands.output import settings_for
from tracer.pipeline import Stop, run_replay
from tracer.progress import progress_bar


def collect(options: argparse.Namespace, path: Path, *, with_events: bool = False) -> Collected:
    """Replay a capture with the rules that the options ask for, and keep all of it.

    Args:
        options: with `rules`, `config` and `benign`.
        path: of the capture.
        with_events: keep its transitions too.

    Raises:
        TracerError: the configuration is wrong, or the capture can't be read.
        KeyboardInterrupt: a signal came; what was read by then is not the whole.
    """
    if options.config is not None:
        settings_for(options)  # say what is wrong with it before the trace is opened
    trace = open_trace(path)
    collector = Collector(with_events)
    stop = Stop()
    try:
        settings = settings_for(options, trace.header)
        with stop.on_signals(), progress_bar(f"reading {path.name}") as bar:
            run_replay(bar.reading(trace), trace.header, [collector], stop, lambda: trace.truncated, settings=settings)
    finally:
        trace.close()
    if stop.signal is not None:
        raise KeyboardInterrupt
    return collector.collected
