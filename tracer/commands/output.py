"""Which report the options and the terminal ask for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from tracer.pipeline import Listener


def report_for(options: argparse.Namespace, now_ns: Callable[[], int] | None = None) -> Listener:
    """JSON lines, the live view on a terminal, or plain lines.

    Args:
        options: with `json` and `transitions`.
        now_ns: the boottime that rates are shown for; None means event time (a replay).
    """
    if options.json:
        from tracer.reports.json_report import JsonReport

        return JsonReport(sys.stdout, options.transitions)
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        if not console.is_dumb_terminal:
            from tracer.reports.live_report import LiveReport

            return LiveReport(console, options.transitions, now_ns)
    from tracer.reports.text_report import TextReport

    return TextReport(sys.stdout, options.transitions)
