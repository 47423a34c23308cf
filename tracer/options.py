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
RULE_SETS = ("evidence", "textbook", "all")  # tracer.rules.catalogue.SETS, without importing it
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

    for define in (_watch, _record, _replay, _import, _rules, _doctor, _demo):
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
