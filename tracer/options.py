"""What can be typed: the commands and their options. Imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tracer import __version__
from tracer.errors import EXIT_USAGE

Add = Callable[[str, str], argparse.ArgumentParser]
"""Adds a command: its name, and what it does in a sentence."""

SOURCES = ("auto", "ebpf", "polled", "proc")  # tracer.source.WANTED, without importing it
_SPEC_HELP = (
    "HOST[:PORT], IP[:PORT], CIDR[:PORT] or [v6]:PORT; PORT may be * for any, default 443; repeatable; "
    "default: what this host's container engines are configured to use, and Docker Hub"
)
FORMATS = ("text", "csv", "json")
REPORT_FORMATS = ("html", "png", "md")
RULE_SETS = ("evidence", "textbook", "all")  # tracer.rules.catalogue.SETS, without importing it
EXPORTS = ("csv", "jsonl", "parquet", "perfetto")
"""Formats of `regtrace export`."""
BINARY = ("parquet", "perfetto")
"""Those that no terminal shows."""
TABLES = ("connections", "transitions", "findings")
"""What there are tables of."""
IMPORT_FORMATS = (
    "auto",
    "tcpstates",
    "tcpstates-csv",
    "ftrace",
    "bpftrace",
)  # tracer.imports.formats.FORMATS, without importing it
_IMPORT_GRAMMAR = """\
  ns=N                          boottime or uptime in ns; or time=SECONDS.FRACTION, or time=HH:MM:SS[.FRACTION]
  sk=HEX                        address of the socket (skaddr); without it connections are told apart by their ends
  old=STATE new=STATE           numbers, or names with or without TCP_ (oldstate, newstate)
  laddr= lport= raddr= rport=   (saddr, sport, daddr, dport)
  pid= cgroup= netns= sk_err=   numbers, where they are known
  comm=NAME                     last in its line: all that follows is the name"""
_EPILOG = (
    "Exit codes: 0 fine, 1 failed, 2 usage, 3 a critical finding was open (with --fail-on-finding), "
    "130 interrupted before anything was seen."
)


class _Parser(argparse.ArgumentParser):
    """argparse, with messages of our form."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where help is, and exit with the usage code."""
        from tracer.text import printable

        sys.stderr.write(f"{self.prog}: {printable(message)}; see '{self.prog} --help'\n")
        raise SystemExit(EXIT_USAGE)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("expected a number above 0")
    return value


_seconds.__name__ = "number"


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("expected a whole number above 0")
    return value


_count.__name__ = "whole number"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="regtrace",
        description="Traces the TCP connections to container registries, transition by transition, from inside the kernel.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"regtrace {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the cause of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, epilog=_EPILOG, allow_abbrev=False)
        command.add_argument("-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="show the cause of an error")
        return command

    for define in (_watch, _record, _replay, _show, _report, _diff, _export, _import, _rules, _doctor, _demo):
        define(add)
    return parser


def _watch(add: Add) -> None:
    watch = add("watch", "Watch connections to registries as they happen: those named, or those this host is configured to use.")
    watch.add_argument("--list", action="store_true", help="show what would be watched, why, and end")
    _add_live_options(watch)
    _add_output_options(watch)


def _record(add: Add) -> None:
    record = add("record", "Watch, and keep everything in a capture.")
    record.add_argument("trace", type=Path, metavar="TRACE", help="file to create: .arrows (Arrow IPC stream) or .jsonl (text)")
    record.add_argument("--force", action="store_true", help="replace an existing file")
    record.add_argument(
        "--anonymise", action="store_true", help="replace addresses, host and process names in the capture, consistently"
    )
    _add_live_options(record)
    _add_output_options(record)


def _replay(add: Add) -> None:
    replay = add("replay", "Run a capture through the same analysis, on any machine and without root.")
    _add_trace(replay)
    replay.add_argument("--speed", type=_seconds, metavar="N", help="1: as fast as it happened; default: as fast as possible")
    _add_output_options(replay)


def _diff(add: Add) -> None:
    diff = add("diff", "Say what changed between two captures, how much and how surely, the worst first.")
    diff.add_argument("a", type=Path, metavar="A", help="the capture to compare with, such as one of a healthy hour")
    diff.add_argument("b", type=Path, metavar="B", help="the capture in question")
    diff.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="A=B",
        help="take this endpoint of A for that one of B; repeatable; without it: equal labels, else hosts, else roles",
    )
    diff.add_argument("--all", action="store_true", help="show the comparisons that did not move too")
    diff.add_argument("--json", action="store_true", help="JSON lines on standard output, and nothing else")
    _add_rule_options(diff)
    diff.add_argument("--fail-on-finding", action="store_true", help="exit with 3 if B has a critical finding that A has not")


def _show(add: Add) -> None:
    show = add("show", "Show the connections of a capture as a table, or its transitions or findings, or one connection in full.")
    _add_trace(show)
    what = show.add_mutually_exclusive_group()
    what.add_argument("--transitions", action="store_true", help="show state transitions instead of connections")
    what.add_argument("--findings", action="store_true", help="show what the rules found, one row an episode")
    what.add_argument(
        "--connection", type=_count, metavar="N", help="show one connection in full: its number in the table's first column"
    )
    _add_filter_options(show)
    show.add_argument(
        "--sort", metavar="COLUMN[:desc]", help="by any column, unknown values last; default: by time, as first seen"
    )
    show.add_argument("--limit", type=_count, metavar="N", help="show the first N rows only")
    show.add_argument(
        "--columns",
        type=_names,
        metavar="A,B,...",
        help="which columns, named as in the heading or as the fields of --json; a wrong name says which there are",
    )
    show.add_argument("--format", choices=FORMATS, default="text", help="json: the lines of 'replay --json' (default: text)")
    _add_rule_options(show)


def _export(add: Add) -> None:
    export = add("export", "Write a capture as CSV, JSON lines, Parquet, or a timeline for ui.perfetto.dev.")
    _add_trace(export)
    export.add_argument(
        "--to", choices=EXPORTS, required=True, help="format to write; parquet and perfetto need regtrace[export]"
    )
    export.add_argument(
        "-o", "--output", metavar="FILE", help="file to create, - for standard output (the default of csv and jsonl)"
    )
    export.add_argument("--what", choices=TABLES, help="table to write as csv or parquet (default: connections)")
    export.add_argument("--force", action="store_true", help="replace an existing file")
    _add_rule_options(export)


def _report(add: Add) -> None:
    report = add("report", "Show what a capture says as one page, picture or text: verdict, charts, tables.")
    _add_trace(report)
    report.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="file to create, - for standard output (default: TRACE's name, .html, here)",
    )
    report.add_argument(
        "--format",
        choices=REPORT_FORMATS,
        help="html: a page that opens offline; png: a picture for a ticket; md: a post-mortem to go on writing; default: by FILE",
    )
    report.add_argument("--title", metavar="TEXT", help="heading of the report")
    report.add_argument("--force", action="store_true", help="replace an existing file")
    _add_rule_options(report)


def _import(add: Add) -> None:
    command = add("import", "Make a capture out of what tcpstates, ftrace, perf script or a program for bpftrace has printed.")
    command.add_argument("file", nargs="?", type=Path, metavar="FILE", help="text to read; - for standard input")
    command.add_argument("-o", "--output", type=Path, metavar="TRACE", help="file to create: .arrows or .jsonl")
    command.add_argument("--force", action="store_true", help="replace an existing file")
    command.add_argument(
        "--from",
        dest="format",
        choices=IMPORT_FORMATS,
        default="auto",
        help="what the lines are (default: told by what they say)",
    )
    command.add_argument(
        "--registry",
        action="append",
        default=[],
        metavar="SPEC",
        help="IP[:PORT], CIDR[:PORT], [v6]:PORT, or NAME=ADDRESS[:PORT] to call it by its name (no look-ups); repeatable",
    )
    command.add_argument(
        "--port",
        action="append",
        default=[],
        type=_port,
        metavar="N",
        help="every remote address at this port is an endpoint; repeatable; default, without --registry: 443, 80, 5000",
    )
    command.add_argument("--program", action="store_true", help="print a program for bpftrace that writes such lines, and end")
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = (
        f"Lines of key=value, divided by spaces, as the program of --program prints them:\n{_IMPORT_GRAMMAR}\n\n{_EPILOG}"
    )


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: expected 1..65535")
    return int(text)


def _rules(add: Add) -> None:
    rules = add("rules", "List the rules with their thresholds, or explain one.")
    rules.add_argument("rule", nargs="?", metavar="RULE", help="id of a rule, such as rate-limit or textbook/rate-limit")
    rules.add_argument("--config", type=Path, metavar="FILE", help="show the thresholds that this file sets")
    rules.add_argument("--json", action="store_true", help="one JSON object a rule on standard output")


def _doctor(add: Add) -> None:
    doctor = add("doctor", "Say what this host offers, what will be used, and why.")
    doctor.add_argument("--json", action="store_true", help="one JSON object on standard output")


def _demo(add: Add) -> None:
    demo = add("demo", "Trace a small registry stand-in on loopback addresses: pulls that work and pulls that fail.")
    demo.add_argument("--source", choices=SOURCES, default="auto", help="where events come from (default: auto)")
    _add_output_options(demo)


def _add_trace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", type=Path, metavar="TRACE", help="a capture, .arrows or .jsonl")


def _add_filter_options(parser: argparse.ArgumentParser) -> None:
    """Which connections are wanted; `tracer.filters.filters.parse_filters` takes them."""
    filters = parser.add_argument_group(
        "filters",
        "Repeatable, but for times: of one kind any has to fit, of different kinds all. With --transitions, "
        "endpoint, state and time are the transition's own, everything else is its connection's.",
    )

    def repeatable(name: str, metavar: str, text: str) -> None:
        filters.add_argument(name, action="append", default=[], metavar=metavar, help=text)

    repeatable("--endpoint", "PATTERN", "label, host, remote address or role (api, auth, blob, ...); * stands for anything")
    filters.add_argument(
        "--port",
        action="append",
        default=[],
        type=_port,
        metavar="N",
        help="local or remote port; the local one is the :N before the arrow in the lines of 'replay'",
    )
    repeatable(
        "--owner",
        "PATTERN",
        "process name, pid, NAME[PID], systemd unit, or container or pod id (its first 4 characters are enough); "
        "* stands for anything, a single ? for owners that nobody knows",
    )
    repeatable("--state", "STATE", "in this TCP state at any time; with --transitions: into or out of it")
    repeatable("--close-reason", "REASON", "ended so: peer, local, reset, refused, ...; open: still open at the end")
    filters.add_argument(
        "--since",
        metavar="TIME",
        help="there at or after a time: HH:MM:SS[.ffffff] UTC, or as in the output of --json, or "
        "+SECONDS or +MM:SS since the trace's beginning; --since=-SECONDS: before its end",
    )
    filters.add_argument("--until", metavar="TIME", help="there before a time, which is given in the same ways")
    repeatable(
        "--slower-than",
        "[WHAT=]DURATION",
        "lasted longer (250ms, 1.5s, 20us), as far as was seen; WHAT is lifetime (the "
        "default), connect (the handshake, also one that failed or is under way) or a state: ESTABLISHED=2s",
    )
    repeatable(
        "--finding",
        "N|RULE",
        "lies in this finding: it was there at any time between the finding's first and last evidence, at "
        "its endpoint, and was opened by one of its suspects (same process name, and same cgroup where both are known), if it "
        "names any",
    )


def _add_live_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--registry", action="append", default=[], metavar="SPEC", help=_SPEC_HELP)
    parser.add_argument(
        "--no-hub", dest="hub", action="store_false", help="without --registry: leave out Docker Hub where it is not configured"
    )
    parser.add_argument(
        "--no-learn",
        dest="learn",
        action="store_false",
        help="do not look at DNS answers for hosts that serve blobs and are in no list",
    )
    parser.add_argument("--source", choices=SOURCES, default="auto", help="where events come from (default: auto)")
    parser.add_argument("--duration", type=_seconds, metavar="S", help="end after so many seconds")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="JSON lines on standard output, and nothing else")
    parser.add_argument("--transitions", action="store_true", help="show every state transition too")
    _add_rule_options(parser)
    parser.add_argument("--fail-on-finding", action="store_true", help="exit with 3 if a critical finding was open")


def _add_rule_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rules", choices=RULE_SETS, help="which rules judge (default: evidence; in a replay as when recorded)")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="thresholds and roles of endpoints, in TOML; see 'regtrace rules'"
    )
    parser.add_argument("--benign", action="store_true", help="show findings too that are no faults (idle-close, token-aging)")
