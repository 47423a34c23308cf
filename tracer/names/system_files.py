"""The files that tell a host how to turn names into addresses: read in one go, never waited for, bounded."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

HOSTS_PATH = Path("/etc/hosts")
RESOLV_CONF_PATH = Path("/etc/resolv.conf")
FILE_BYTES_MAX = 1 << 20


class Text(NamedTuple):
    """A file's text, as far as it was read, and what was wrong with it ("": nothing)."""

    text: str
    problem: str


def read_text(path: Path) -> Text:
    """A small file of the system's configuration, at most FILE_BYTES_MAX; what is no regular file is not waited for.

    A file that is not there has no text and no problem.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as opened:
            raw = opened.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return Text("", "")
    except (OSError, ValueError) as error:
        return Text("", f"{path} can't be read: {getattr(error, 'strerror', None) or error}")
    if len(raw) <= FILE_BYTES_MAX:
        return Text(raw.decode("utf-8", "replace"), "")
    whole_lines = raw[:FILE_BYTES_MAX].rpartition(b"\n")[0]
    return Text(whole_lines.decode("utf-8", "replace"), f"{path} is longer than {FILE_BYTES_MAX} bytes; the rest is passed over")


def _without_waiting(path: str, flags: int) -> int:
    """Open a regular file.

    Raises:
        OSError: it is something else (EINVAL), or can't be opened.
    """
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "it is no regular file")
