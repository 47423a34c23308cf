"""Files regtrace creates: private, never through a link, owned by the person behind sudo."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tracer.errors import CaptureError


def create_private(path: Path, force: bool) -> int:
    """Create a file for writing, mode 0600, and return its descriptor.

    Args:
        path: must not exist, unless `force`; a link in its last component is never followed.
        force: replace an existing regular file or link (the link itself, not what it points to).

    Raises:
        CaptureError: it exists, or can't be created.
    """
    if force:
        _remove_replaceable(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except FileExistsError:
        raise CaptureError(f"{path} exists; choose another name, or replace it with --force") from None
    except OSError as error:
        raise CaptureError(f"{path} can't be created: {error.strerror}") from error
    owner = _person_behind_sudo()
    if owner is not None:
        os.fchown(fd, *owner)
    return fd


def _remove_replaceable(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise CaptureError(f"{path} can't be looked at: {error.strerror}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise CaptureError(f"{path} is no regular file; --force replaces regular files and links only")
    try:
        path.unlink()
    except OSError as error:
        raise CaptureError(f"{path} can't be replaced: {error.strerror}") from error


def _person_behind_sudo() -> tuple[int, int] | None:
    """(uid, gid) that sudo was called by; None if this is not root or sudo left no trace."""
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() != 0 or not uid.isascii() or not uid.isdigit() or not gid.isascii() or not gid.isdigit():
        return None
    return int(uid), int(gid)
