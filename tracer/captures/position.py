"""How much of a capture has been read."""

from __future__ import annotations

import os
import stat
from typing import IO


def share_read(file: IO[bytes]) -> float | None:
    """0..1; None where nobody knows, as of a pipe."""
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return None
        return min(file.tell() / status.st_size, 1.0)
    except OSError:
        return None
