"""`regtrace watch`, and what it shares with `record`: open a source, follow it, report."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace

from tracer.analysis import Analysis
from tracer.clock import boottime_ns, measure
from tracer.commands.output import exit_code, report_for, settings_for
from tracer.endpoints import Endpoint, parse_endpoint
from tracer.errors import EXIT_INTERRUPTED, UsageError
from tracer.header import ROLES, RULES, TraceHeader, roles_text
from tracer.pipeline import Listener, Stop, run_live
from tracer.rules.settings import RuleSettings
from tracer.source import Choice, choose_source, open_source, probe_host, resolve_endpoints, watched_text
from tracer.text import printable

NICE = -10


def run(options: argparse.Namespace) -> int:
    """Watch until the duration is over or a signal comes."""
    return follow(options, [])


def follow(
    options: argparse.Namespace,
    extra: list[Listener],
    endpoints: list[Endpoint] | None = None,
    on_poll: Callable[[], bool] | None = None,
) -> int:
    """Follow a live source with the report that the options ask for, and the listeners in `extra` before it.

    Raises:
        TracerError: an endpoint can't be parsed or resolved, there is no source, or it failed.
    """
    if endpoints is None:
        if not options.registry:
            raise UsageError("no registry to watch: name one with --registry HOST[:PORT], for example registry-1.docker.io")
        endpoints = [parse_endpoint(spec) for spec in options.registry]
    settings = settings_for(options)
    stop = Stop()
    with stop.on_signals():
        support = probe_host()
        choice = choose_source(support, options.source)
        numbered = resolve_endpoints(endpoints)
        source = open_source(support, choice, options.source)
        _ask_for_priority()
        try:
            source.watch(numbered)
            source.start()
            lacking = source.lacks()
            if lacking:
                choice = replace(choice, why="; ".join((choice.why, *lacking)))
            header = live_header(choice, source.resolution_ns, numbered, settings)
            if options.json:
                say_what(numbered, choice)
            analysis = run_live(
                source,
                header,
                [*extra, report_for(options, boottime_ns)],
                stop,
                getattr(options, "duration", None),
                on_poll,
                settings,
                _warn,
            )
        finally:
            source.close()
    interrupted = stop.signal == signal.SIGINT and analysis.now_ns < 0
    return EXIT_INTERRUPTED if interrupted else exit_code(options, analysis)


def _warn(text: str) -> None:
    """Something that ends nothing, and that one should know."""
    sys.stderr.write(f"regtrace: {printable(text)}\n")


def _ask_for_priority() -> None:
    """Be run before the load that is watched: on a saturated machine the reader would starve, and the ring overflow.

    It needs little time, but needs it at least once in a few hundred milliseconds. Without permission it stays as it is.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, min(NICE, os.getpriority(os.PRIO_PROCESS, 0)))


def live_header(
    choice: Choice, resolution_ns: int, numbered: dict[int, tuple[Endpoint, ...]], settings: RuleSettings
) -> TraceHeader:
    """What this trace says about itself."""
    labels = {number: members[0].label for number, members in numbered.items()}
    roles = Analysis("", resolution_ns, labels, settings).roles
    uname = os.uname()
    return TraceHeader(
        source=choice.source or "",
        why=choice.why,
        resolution_ns=resolution_ns,
        host=uname.nodename,
        kernel=f"{uname.sysname} {uname.release} {uname.machine}",
        clock=measure(),
        endpoints=labels,
        settings={"watched": "; ".join(watched_text(numbered)), ROLES: roles_text(roles), RULES: settings.to_text()},
    )


def say_what(numbered: dict[int, tuple[Endpoint, ...]], choice: Choice) -> None:
    """On standard error, where standard output is for a program: what was chosen and why, and the addresses behind names."""
    sys.stderr.write(f"regtrace: source {choice.source}: {choice.why}\n")
    for line in watched_text(numbered):
        if "(" in line:
            sys.stderr.write(f"regtrace: watching {printable(line)}\n")
