"""Files regtrace creates: private, never through a link, owned by the person behind sudo."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from tracer.errors import OutputError, UsageError

_ID_MAX = (1 << 32) - 1  # uid_t of all ones says "unchanged"
_ID_DIGITS = len(str(_ID_MAX))


def create_private(path: Path, force: bool) -> int:
    """Create a file for writing, mode 0600, and return its descriptor.

    Args:
        path: must not exist, unless `force`; a link in its last component is never followed.
        force: replace an existing regular file or link (the link itself, not what it points to).

    Raises:
        OutputError: it exists, or can't be created.
    """
    if force:
        _remove_replaceable(path)
    return _create(path, path)


def create_beside(path: Path, force: bool) -> tuple[int, Path]:
    """Create a file like `create_private`, in the same directory, that takes the place of another once it is whole.

    Args:
        path: the place it is for; what is there stays until `put_in_place`.
        force: whether something may be there.

    Returns:
        Its descriptor, and where it is.

    Raises:
        OutputError: the place is taken (without `force`, or by what is no regular file or link), or nothing can be created there.
    """
    refuse_existing(path, force)
    _is_replaceable(path)
    beside = path.with_name(f".regtrace-{secrets.token_hex(8)}")
    return _create(beside, path), beside


def put_in_place(beside: Path, path: Path, force: bool) -> None:
    """Give a file of `create_beside` its name, in place of what `force` allows to be replaced.

    Raises:
        OutputError: the place was taken meanwhile, or the file system refuses; both files are as they were.
    """
    if force:
        _is_replaceable(path)
        _rename(beside, path)
        return
    # Not every file system has hard links: an empty file claims the name, if nobody has it.
    os.close(_create(path, path))
    try:
        _rename(beside, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _rename(beside: Path, path: Path) -> None:
    try:
        beside.rename(path)
    except OSError as error:
        raise OutputError(f"{path} can't be replaced: {error.strerror}") from error


def _create(file: Path, path: Path) -> int:
    """Create a private file, for a place that errors name."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(file, flags, 0o600)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise OutputError(f"{path} can't be created: {error.strerror}") from error
    owner = _person_behind_sudo()
    if owner is not None:
        try:
            os.fchown(fd, *owner)
        except OSError as error:
            os.close(fd)
            file.unlink(missing_ok=True)
            raise OutputError(f"{path} can't be given to the user behind sudo: {error.strerror}") from error
    return fd


def refuse_existing(path: Path, force: bool) -> None:
    """Say early what `create_private` would say after a long wait; it alone is free of races.

    Raises:
        OutputError: it exists, without `force`.
    """
    if not force and os.path.lexists(path):
        raise _exists(path)


def refuse_itself(path: Path, read: Path) -> None:
    """What is written must not take the place of what is read, whatever `force` says.

    Raises:
        UsageError: both are one file.
    """
    if path.exists() and read.exists() and path.samefile(read):
        raise UsageError(f"{path} is the capture itself; choose another name")


def _exists(path: Path) -> OutputError:
    return OutputError(f"{path} exists; choose another name, or replace it with --force")


def _remove_replaceable(path: Path) -> None:
    if not _is_replaceable(path):
        return
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(f"{path} can't be replaced: {error.strerror}") from error


def _is_replaceable(path: Path) -> bool:
    """Whether there is something that may be replaced; False: there is nothing. Anything else is an error."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OutputError(f"{path} can't be looked at: {error.strerror}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise OutputError(f"{path} is no regular file; --force replaces regular files and links only")
    return True


def _person_behind_sudo() -> tuple[int, int] | None:
    """(uid, gid) that sudo was called by; None if this is not root or sudo left no trace."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() != 0 or not _is_id(uid) or not _is_id(gid):
        return None
    return int(uid), int(gid)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS and int(text) < _ID_MAX
