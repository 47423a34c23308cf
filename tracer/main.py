"""The command line: parses, calls a command, and is the one place that prints an error and chooses the exit code.

Commands are imported when they run, so that `--help` needs neither numpy nor rich.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from tracer import __version__
from tracer.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, TracerError

SOURCES = ("auto", "ebpf", "polled", "proc")  # tracer.source.WANTED, without importing it
_SPEC_HELP = (
    "HOST[:PORT], IP[:PORT], CIDR[:PORT] or [v6]:PORT; PORT may be * for any, default 443; repeatable; "
    "default: what this host's container engines are configured to use, and Docker Hub"
)
RULE_SETS = ("evidence", "textbook", "all")  # tracer.rules.catalogue.SETS, without importing it
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

    watch = add("watch", "Watch connections to registries as they happen: those named, or those this host is configured to use.")
    watch.add_argument("--list", action="store_true", help="show what would be watched, why, and end")
    _add_live_options(watch)
    _add_output_options(watch)

    record = add("record", "Watch, and keep everything in a capture.")
    record.add_argument("trace", type=Path, metavar="TRACE", help="file to create: .arrows (Arrow IPC stream) or .jsonl (text)")
    record.add_argument("--force", action="store_true", help="replace an existing file")
    record.add_argument(
        "--anonymise", action="store_true", help="replace addresses, host and process names in the capture, consistently"
    )
    _add_live_options(record)
    _add_output_options(record)

    replay = add("replay", "Run a capture through the same analysis, on any machine and without root.")
    replay.add_argument("trace", type=Path, metavar="TRACE", help="a capture, .arrows or .jsonl")
    replay.add_argument("--speed", type=_seconds, metavar="N", help="1: as fast as it happened; default: as fast as possible")
    _add_output_options(replay)

    rules = add("rules", "List the rules with their thresholds, or explain one.")
    rules.add_argument("rule", nargs="?", metavar="RULE", help="id of a rule, such as rate-limit or textbook/rate-limit")
    rules.add_argument("--config", type=Path, metavar="FILE", help="show the thresholds that this file sets")
    rules.add_argument("--json", action="store_true", help="one JSON object a rule on standard output")

    doctor = add("doctor", "Say what this host offers, what will be used, and why.")
    doctor.add_argument("--json", action="store_true", help="one JSON object on standard output")

    demo = add("demo", "Trace a small registry stand-in on loopback addresses: pulls that work and pulls that fail.")
    demo.add_argument("--source", choices=SOURCES, default="auto", help="where events come from (default: auto)")
    _add_output_options(demo)
    return parser


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
    parser.add_argument("--rules", choices=RULE_SETS, help="which rules judge (default: evidence; in a replay as when recorded)")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="thresholds and roles of endpoints, in TOML; see 'regtrace rules'"
    )
    parser.add_argument("--benign", action="store_true", help="show findings too that are no faults (idle-close, token-aging)")
    parser.add_argument("--fail-on-finding", action="store_true", help="exit with 3 if a critical finding was open")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit code."""
    _prepare_streams()
    verbose = False
    try:
        options = _parse(arguments)
        verbose = options.verbose
        command = importlib.import_module(f"tracer.commands.{options.command}")
        code = int(command.run(options))
        sys.stdout.flush()
        return code
    except TracerError as error:
        _print_error(str(error), verbose)
        return error.exit_code
    except BrokenPipeError:
        # The reader of a pipe left; nobody can be told anything there.
        _give_up_stdout()
        _print_error("standard output was closed by its reader; ended early", verbose)
        return EXIT_FAILED
    except KeyboardInterrupt:
        _print_error("interrupted", verbose)
        return EXIT_INTERRUPTED
    except OSError as error:
        # Standard output on a full disk, for one; a command's own files raise TracerError.
        _give_up_stdout()
        where = f"{error.filename}: " if error.filename else ""
        _print_error(f"{where}{error.strerror or error}", verbose)
        return EXIT_FAILED


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; where the parser has printed what was asked for instead, it is written out before anything else."""
    try:
        return build_parser().parse_args(arguments)
    except SystemExit:
        sys.stdout.flush()
        raise


def _give_up_stdout() -> None:
    """What is still in its buffer can't be written; Python must not try that at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _prepare_streams() -> None:
    """Make both streams take anything: closed ones swallow it, and what their encoding lacks is escaped.

    With PYTHONUNBUFFERED, as container images set it, Python writes text straight to the descriptor and drops what one
    write(2) did not take, which happens where a signal comes while a pipe is full; a buffer under the text writes it all.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            if isinstance(stream.buffer, io.RawIOBase):
                raw, encoding = stream.buffer, stream.encoding
                stream.detach()
                stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding, line_buffering=name == "stderr")
                setattr(sys, name, stream)
            stream.reconfigure(errors="backslashreplace")


def _print_error(message: str, verbose: bool) -> None:
    from tracer.text import printable

    sys.stderr.write(f"regtrace: {printable(message)}\n")
    if verbose:
        traceback.print_exc()


if __name__ == "__main__":
    sys.exit(main())
