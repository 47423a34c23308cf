"""Reading the configuration file. It belongs to whoever runs regtrace, but root may be pointed at anything."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tracer.errors import UsageError
from tracer.rules.settings import RuleSettings, parse_settings

CONFIG_BYTES_MAX = 1 << 20


def read_settings(path: Path | None, rule_set: str) -> RuleSettings:
    """The settings in a file; the defaults without one.

    Raises:
        UsageError: it can't be read, is no ordinary file, is too large, no UTF-8, or what it says is wrong.
    """
    if path is None:
        return RuleSettings(rule_set)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO without a writer must not hang us
    except (OSError, ValueError) as error:
        raise UsageError(f"configuration {path} can't be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UsageError(f"configuration {path} is no ordinary file")
    with os.fdopen(fd, "rb") as file:
        content = file.read(CONFIG_BYTES_MAX + 1)
    if len(content) > CONFIG_BYTES_MAX:
        raise UsageError(f"configuration {path} is larger than {CONFIG_BYTES_MAX} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"configuration {path}, line {line}: not UTF-8") from error
    return parse_settings(text, str(path), rule_set)
