"""The painter: lines onto a screen, only those that changed, so that nothing flickers and a slow line has little to carry."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from tracer.screen.sparkline import BLOCKS, PLAIN
from tracer.screen.table import ELLIPSIS

_PLAIN = str.maketrans(BLOCKS + ELLIPSIS + "µ±", PLAIN + "~u" + "~")
_TO_THE_END = "\x1b[K"


class Painter:
    """Remembers what is on the screen."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: list[Text] = []
        self._size = (0, 0)
        self._unicode = console.encoding.startswith("utf")

    def forget(self) -> None:
        """Nobody knows what is on the screen."""
        self._size = (0, 0)

    def knows(self, width: int, height: int) -> bool:
        """Whether what is on the screen was painted for this size."""
        return (width, height) == self._size

    def paint(self, lines: list[Text], width: int, height: int) -> str:
        """What makes the screen show these lines, at most `height` of at most `width` cells."""
        parts = []
        if (width, height) != self._size:
            self._size, self._shown = (width, height), []
            parts.append("\x1b[0m\x1b[2J")
        blank = Text("")
        for row in range(max(len(lines), len(self._shown))):
            line = lines[row] if row < len(lines) else blank
            if row < len(self._shown) and _same(self._shown[row], line):
                continue
            # Behind a full line the cursor stays on its last cell, which would be erased.
            end = _TO_THE_END if line.cell_len < width else ""
            parts.append(f"\x1b[{row + 1};1H{self._in_ansi(line)}{end}")
        self._shown = list(lines)
        return "".join(parts)

    def _in_ansi(self, line: Text) -> str:
        if not self._unicode:
            line = self._in_encoding(line)
        with self._console.capture() as capture:
            self._console.print(line, end="", soft_wrap=True, highlight=False)
        return capture.get()

    def _in_encoding(self, line: Text) -> Text:
        """With as many characters, each of which the terminal's encoding has."""
        plain = line.plain.translate(_PLAIN).encode(self._console.encoding, "replace").decode(self._console.encoding)
        made = line.copy()
        made.plain = plain
        return made


def _same(one: Text, other: Text) -> bool:
    return one == other and one.style == other.style
