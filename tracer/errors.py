"""One error tree, raised below and printed once, in `tracer.main`.

A message says what failed, where, why, and what to do. Exit codes are the contract of the command line.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_FINDING = 3
EXIT_INTERRUPTED = 130


class TracerError(Exception):
    """Base of every error regtrace raises on purpose."""

    exit_code = EXIT_FAILED


class UsageError(TracerError):
    """What the user typed can't be meant: an endpoint that can't be parsed, an option out of range."""

    exit_code = EXIT_USAGE


class SourceError(TracerError):
    """A source of events can't be opened, or died."""


class ResolveError(TracerError):
    """A registry's name can't be turned into addresses."""


class CaptureError(TracerError):
    """A capture can't be written, or is no capture, or of another version, or corrupt."""


class MissingError(TracerError):
    """A library that an extra brings is not installed, or does not fit."""


class OutputError(TracerError):
    """A file can't be created or written."""
