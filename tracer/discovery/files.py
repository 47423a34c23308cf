"""Reading configuration files that anybody may have put there: never hanging, never more than is sensible."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

FILE_BYTES_MAX = 1 << 20
ENTRIES_MAX = 10_000
"""Of a folder, all looked at to find those that are wanted, which are read in the order of their names."""
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ESRCH)
"""Not there, or a process that ended: no problem."""


class UnusableFileError(Exception):
    """A file is there and can't be used; the message says why, to be put behind its name."""


def read_bytes(path: Path) -> bytes | None:
    """The content of a regular file; None if it is missing.

    Raises:
        UnusableFileError: it can't be read, is no regular file, or is larger than FILE_BYTES_MAX.
    """
    try:
        place_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            return _read_at(place_fd)
        finally:
            os.close(place_fd)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        _unless_missing(error)
        return None


def read_text(path: Path) -> str | None:
    """The content of a regular file of UTF-8, with or without a byte order mark; None if it is missing.

    Raises:
        UnusableFileError: as `read_bytes` does, or it is no UTF-8.
    """
    content = read_bytes(path)
    if content is None:
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UnusableFileError(f"is no UTF-8 (line {line})") from None


def folder_names(path: Path, *, folders: bool, entries_max: int = ENTRIES_MAX) -> list[str] | None:
    """The names in a folder, sorted: of its folders or of what else is in it; None if it is missing.

    Raises:
        UnusableFileError: it can't be read, or has more than `entries_max` entries.
    """
    names: list[str] = []
    try:
        with os.scandir(path) as entries:
            for count, entry in enumerate(entries):
                if count >= entries_max:
                    raise UnusableFileError(f"has more than {entries_max} entries")
                if _is_folder(entry) == folders:
                    names.append(entry.name)
    except (OSError, ValueError) as error:
        _unless_missing(error)
        return None
    return sorted(names)


def may_enter(path: Path) -> bool:
    """Whether a folder is there.

    Raises:
        UnusableFileError: it is, and may not be entered.
    """
    try:
        os.stat(f"{path}/.")  # noqa: PTH116 - pathlib drops the dot, and with it the question
    except (OSError, ValueError) as error:
        _unless_missing(error)
        return False
    return True


def is_masked(path: Path) -> bool:
    """Whether a unit was switched off by a link to /dev/null, systemd's way."""
    try:
        return str(path.readlink()) == os.devnull
    except (OSError, ValueError):
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links: no folder, and as a file it will say so
        return False


def _read_at(place_fd: int) -> bytes:
    """The content of the file that an O_PATH descriptor is about.

    It is opened only once it is known to be regular: a user's link may lead to a device, and opening some has effects (a watchdog
    starts and later reboots the machine), as has opening a FIFO, whose writer goes on.

    Raises:
        UnusableFileError: it is no regular file, or is larger than FILE_BYTES_MAX.
        OSError: it can't be read.
    """
    status = os.fstat(place_fd)
    if not stat.S_ISREG(status.st_mode):
        raise UnusableFileError("is no regular file")
    try:
        fd = os.open(f"/proc/self/fd/{place_fd}", _FLAGS)
    except FileNotFoundError:
        raise UnusableFileError("can't be read: /proc is not mounted") from None
    try:
        content = b"" if status.st_size > FILE_BYTES_MAX else _read(fd)
    finally:
        os.close(fd)
    if max(status.st_size, len(content)) > FILE_BYTES_MAX:
        raise UnusableFileError(f"is larger than {FILE_BYTES_MAX} bytes")
    return content


def _read(fd: int) -> bytes:
    """At most one byte more than is allowed; files of /proc have no size, and others may grow."""
    parts: list[bytes] = []
    left = FILE_BYTES_MAX + 1
    while left and (part := os.read(fd, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _unless_missing(error: OSError | ValueError) -> None:
    """Raise what makes a file unusable; that it is missing makes none."""
    if isinstance(error, OSError) and error.errno in _MISSING:
        return
    raise UnusableFileError(f"can't be read: {getattr(error, 'strerror', None) or 'its name is none'}") from None
