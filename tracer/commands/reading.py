"""A whole capture for a command that looks at all of it at once."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracer.captures import Trace, open_trace
from tracer.collected.collector import Collected, Collector
from tracer.commands.output import settings_for
from tracer.pipeline import Listener, Stop, run_replay
from tracer.progress import progress_bar
from tracer.rules.settings import RuleSettings


@contextmanager
def opened(options: argparse.Namespace, path: Path) -> Iterator[tuple[Trace, RuleSettings]]:
    """A capture, and the rules that the options ask for, with `rules`, `config` and `benign`, while inside.

    Raises:
        TracerError: the configuration is wrong, or the capture can't be read.
    """
    if options.config is not None:
        settings_for(options)  # say what is wrong with it before the trace is opened
    trace = open_trace(path)
    try:
        yield trace, settings_for(options, trace.header)
    finally:
        trace.close()


def follow(trace: Trace, settings: RuleSettings, listener: Listener, title: str) -> None:
    """Replay a capture to its end, with a progress bar.

    Raises:
        TracerError: the capture can't be read.
        KeyboardInterrupt: a signal came; what the listener heard is not the whole.
    """
    stop = Stop()
    with stop.on_signals(), progress_bar(title) as bar:
        run_replay(bar.reading(trace), trace.header, [listener], stop, lambda: trace.truncated, settings=settings)
    if stop.signal is not None:
        raise KeyboardInterrupt


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
    with opened(options, path) as (trace, settings):
        collector = Collector(with_events, len(settings.rules()))
        follow(trace, settings, collector, f"reading {path.name}")
    return collector.collected
