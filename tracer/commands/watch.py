"""`regtrace watch`, and what it shares with `record`: open a source, follow it, report."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tracer.clock import boottime_ns, measure
from tracer.commands.output import exit_code, report_for, settings_for
from tracer.commands.wanted import print_list, wanted
from tracer.errors import EXIT_INTERRUPTED, EXIT_OK
from tracer.guided import GuidedSource, OpenConnections
from tracer.header import ORIGINS, ROLES, RULES, TraceHeader, origins_text, roles_text
from tracer.names.follower import START_S
from tracer.pipeline import Listener, Stop, run_live
from tracer.roles import Role
from tracer.rules.settings import RuleSettings
from tracer.source import Choice, choose_source, open_source, probe_host
from tracer.text import printable
from tracer.watchlist import WatchList

NICE = -10


def run(options: argparse.Namespace) -> int:
    """Watch until the duration is over or a signal comes; or list what would be watched."""
    if options.list:
        print_list(wanted(options, _warn, settings_for(options).roles), options.json)
        return EXIT_OK
    return follow(options, [])


def follow(
    options: argparse.Namespace,
    extra: list[Listener],
    watched: WatchList | None = None,
    on_poll: Callable[[], bool] | None = None,
) -> int:
    """Follow a live source with the report that the options ask for, and the listeners in `extra` before it.

    Raises:
        TracerError: an endpoint can't be parsed or resolved, there is no source, or it failed.
    """
    settings = settings_for(options)
    until_s = time.monotonic() + START_S
    if watched is None:
        watched = wanted(options, _warn, settings.roles)
    stop = Stop()
    with stop.on_signals():
        support = probe_host()
        choice = choose_source(support, options.source)
        open_it = partial(open_source, support, choice, options.source)
        source = GuidedSource(
            open_it, watched, learn=getattr(options, "learn", False), must_resolve=bool(getattr(options, "registry", []))
        )
        _ask_for_priority()
        try:
            source.start(max(until_s - time.monotonic(), 0.0))
            for warning in source.warnings():
                _warn(warning)
            lacking = source.lacks()
            if lacking:
                choice = replace(choice, why="; ".join((choice.why, *lacking)))
            header = live_header(choice, source.resolution_ns, watched, settings)
            if options.json:
                say_what(watched, choice)
            analysis = run_live(
                source,
                header,
                [OpenConnections(source), *extra, report_for(options, boottime_ns)],
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
    """Something that ends nothing, and that one should know, if anybody is there."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"regtrace: {printable(text)}\n")


def _ask_for_priority() -> None:
    """Be run before the load that is watched: on a saturated machine the reader would starve, and the ring overflow.

    It needs little time, but needs it at least once in a few hundred milliseconds. Without permission it stays as it is.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, min(NICE, os.getpriority(os.PRIO_PROCESS, 0)))


def live_header(choice: Choice, resolution_ns: int, watched: WatchList, settings: RuleSettings) -> TraceHeader:
    """What this trace says about itself."""
    known = watched.known()
    roles = {number: settings.roles.get(fact.label, fact.role) for number, fact in known.items()}
    uname = os.uname()
    return TraceHeader(
        source=choice.source or "",
        why=choice.why,
        resolution_ns=resolution_ns,
        host=uname.nodename,
        kernel=f"{uname.sysname} {uname.release} {uname.machine}",
        clock=measure(),
        endpoints=watched.labels(),
        settings={
            "watched": "; ".join(watched.texts()),
            ROLES: roles_text({number: role for number, role in roles.items() if role is not Role.UNKNOWN}),
            ORIGINS: origins_text({number: fact.origin for number, fact in known.items() if fact.origin}),
            RULES: settings.to_text(),
        },
    )


def say_what(watched: WatchList, choice: Choice) -> None:
    """On standard error, where standard output is for a program: what was chosen and why, and the addresses behind names."""
    sys.stderr.write(f"regtrace: source {choice.source}: {choice.why}\n")
    for line in watched.texts():
        if "(" in line:
            sys.stderr.write(f"regtrace: watching {printable(line)}\n")
