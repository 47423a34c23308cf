"""What the options that commands share ask for: a report, rules, an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace

from tracer.analysis import Analysis
from tracer.collected.collector import Collected
from tracer.configuration import read_settings
from tracer.errors import EXIT_FINDING, EXIT_OK, UsageError
from tracer.findings import Severity
from tracer.header import RULES, TraceHeader
from tracer.pipeline import Listener
from tracer.rules.settings import RuleSettings, settings_from_text
from tracer.text import printable

_WIDTH_UNKNOWN = 80


def settings_for(options: argparse.Namespace, recorded: TraceHeader | None = None) -> RuleSettings:
    """The rules to run: what the options and the configuration file say, or else what a capture was recorded with.

    Raises:
        UsageError: the file can't be read, or something in it is wrong.
    """
    if options.config is not None or recorded is None or RULES not in recorded.settings:
        return replace(read_settings(options.config, options.rules or "evidence"), benign=options.benign)
    try:
        settings = settings_from_text(recorded.settings[RULES], options.rules)
    except UsageError as error:  # a later version may have other thresholds: no reason not to read its captures
        sys.stderr.write(f"regtrace: {printable(str(error))}; using the defaults\n")
        settings = RuleSettings(options.rules or "evidence")
    return replace(settings, benign=options.benign)


def exit_code(options: argparse.Namespace, analysis: Analysis) -> int:
    """EXIT_FINDING if a critical finding was open and that is asked for."""
    return EXIT_FINDING if options.fail_on_finding and analysis.worst is Severity.CRITICAL else EXIT_OK


def say_what_is_missing(collected: Collected) -> None:
    """On standard error, where standard output is for programs."""
    from tracer.reports.text_report import warning_texts

    for text in warning_texts(collected.summary, collected.truncated):
        sys.stderr.write(f"regtrace: {text}\n")


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
        if not console.width:  # COLUMNS=0, which would have it draw nothing at all
            console = Console(width=_WIDTH_UNKNOWN)
        if not console.is_dumb_terminal:
            from tracer.screen.live import LiveReport

            return LiveReport(console, options.transitions, now_ns)
    from tracer.reports.text_report import TextReport

    return TextReport(sys.stdout, options.transitions)
