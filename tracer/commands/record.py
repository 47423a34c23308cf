"""`regtrace record`: a watch that keeps everything in a capture."""

from __future__ import annotations

import argparse

from tracer.captures import check_name
from tracer.commands.watch import follow
from tracer.files import refuse_existing
from tracer.reports.capture_report import CaptureReport


def run(options: argparse.Namespace) -> int:
    """Record until the duration is over or a signal comes."""
    check_name(options.trace)  # before names are looked up and the program is compiled for nothing
    refuse_existing(options.trace, options.force)
    return follow(options, [CaptureReport(options.trace, options.force, options.anonymise)])
