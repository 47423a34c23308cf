"""A capture's file while it is written: whole pieces only."""

from __future__ import annotations

import contextlib
import os

from tracer.errors import CaptureError


class PieceFile:
    """Appends pieces to a file; one that does not fit is taken back, so that the file always ends with a whole piece."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self._end_bytes = 0
        self._failed = False

    def append(self, piece: bytes | memoryview) -> None:
        """Write one piece.

        Raises:
            CaptureError: the file system does not take it; what was written before stays readable.
        """
        if self._failed:
            raise CaptureError(f"{self._name} could not be written before; nothing more is added to it")
        view = memoryview(piece)
        written = 0
        try:
            while written < len(view):
                written += os.write(self._fd, view[written:])
        except OSError as error:
            self._failed = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end_bytes)
            raise CaptureError(
                f"{self._name} can't be written: {error.strerror}; recording ended, the {self._end_bytes} bytes before are whole"
            ) from error
        self._end_bytes += written

    def close(self, last_piece: bytes = b"") -> None:
        """Write the last piece, unless an earlier one failed, and close."""
        if self._fd < 0:
            return
        try:
            if last_piece and not self._failed:
                self.append(last_piece)
        finally:
            os.close(self._fd)
            self._fd = -1
