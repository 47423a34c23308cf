"""Standard error while the screen is taken: what is written there would tear the picture, and be gone with it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import TextIO


class Notices(io.TextIOBase):
    """Stands in for standard error, hands lines on, and writes them to the real one in the end."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear = hear
        self._real: TextIO | None = None
        self._kept: list[str] = []
        self._begun = ""

    def take(self) -> None:
        """Stand in, where standard error is a terminal; a file may have what it gets at once."""
        if self._real is None and sys.stderr.isatty():
            self._real, sys.stderr = sys.stderr, self

    def give_back(self) -> None:
        """Write what came meanwhile, and stand in no longer."""
        if self._real is None:
            return
        real, self._real = self._real, None
        if sys.stderr is self:
            sys.stderr = real
        real.write("".join([*self._kept, self._begun]))
        real.flush()
        self._kept, self._begun = [], ""

    def write(self, text: str) -> int:
        """Keep it."""
        *lines, self._begun = (self._begun + text).split("\n")
        self._kept += [f"{line}\n" for line in lines]
        for line in lines:
            self._hear(line)
        return len(text)
