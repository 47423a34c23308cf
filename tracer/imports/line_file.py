"""A text file, or standard input, read as blocks of lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tracer.captures.position import share_read
from tracer.errors import CaptureError

BLOCK_LINES = 1 << 16
_LINE_BYTES_MAX = 1 << 16
"""No tool writes longer ones; of what does, the rest is passed over."""
_CAPTURES = (b"\xff\xff\xff\xff", b'{"type": "start"', b'{"type":"start"')


class LineFile:
    """See above.

    Attributes:
        name: for messages.
    """

    def __init__(self, path: Path) -> None:
        """Open it; "-" is standard input.

        Raises:
            CaptureError: it can't be opened.
        """
        self.name = "standard input" if str(path) == "-" else str(path)
        try:
            self._file: IO[bytes] = sys.stdin.buffer if str(path) == "-" else path.open("rb")
        except OSError as error:
            raise CaptureError(f"{path} can't be read: {error.strerror}") from error
        except AttributeError:
            raise CaptureError("standard input is closed; name a file instead of -") from None

    def blocks(self) -> Iterator[list[bytes]]:
        """Lines without their ends, so many at a time.

        Raises:
            CaptureError: it can't be read, or is a capture already.
        """
        block: list[bytes] = []
        first = True
        for line in self._lines():
            if first and line.startswith(_CAPTURES):
                raise CaptureError(f"{self.name} is a capture already: 'regtrace replay' and the others take it as it is")
            first = False
            block.append(line)
            if len(block) >= BLOCK_LINES:
                yield block
                block = []
        if block:
            yield block

    def _lines(self) -> Iterator[bytes]:
        try:
            while line := self._file.readline(_LINE_BYTES_MAX):
                rest = line
                while len(rest) >= _LINE_BYTES_MAX and not rest.endswith(b"\n"):
                    rest = self._file.readline(_LINE_BYTES_MAX)
                yield line.rstrip(b"\r\n")
        except OSError as error:
            raise CaptureError(f"{self.name} can't be read: {error.strerror}") from error

    def share_read(self) -> float | None:
        """How much of it has been read, 0..1; None: nobody knows."""
        return share_read(self._file)

    def close(self) -> None:
        """Close it; standard input is left alone."""
        if self._file is not sys.stdin.buffer:
            self._file.close()
