"""Output files of commands: whole, or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tracer.errors import OutputError
from tracer.files import create_private


@contextmanager
def created(path: Path, force: bool) -> Iterator[BinaryIO]:
    """A new file for writing; where anything fails or interrupts before the end, it is removed.

    Raises:
        OutputError: it exists (without `force`), or can't be created or written.
    """
    fd = create_private(path, force)
    try:
        with os.fdopen(fd, "wb") as stream:
            yield stream
    except BaseException as error:
        with contextlib.suppress(OSError):
            path.unlink()
        if isinstance(error, OSError):
            raise OutputError(f"{path} can't be written: {error.strerror}; it was removed again") from error
        raise
