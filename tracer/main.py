"""The command line: calls a command, and is the one place that prints an error and chooses the exit code.

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

from tracer.errors import EXIT_FAILED, EXIT_INTERRUPTED, TracerError
from tracer.options import build_parser


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
        sys.stderr.write("".join(f"{printable(line)}\n" for line in traceback.format_exc().splitlines()))


if __name__ == "__main__":
    sys.exit(main())
