"""Keys, out of the bytes that a terminal sends. Pure."""

from __future__ import annotations

import codecs

ENTER, ESCAPE, BACKSPACE, CLEAR, REDRAW = "enter", "escape", "backspace", "clear", "redraw"
_NAMES = {"\r": ENTER, "\n": ENTER, "\x7f": BACKSPACE, "\x08": BACKSPACE, "\x15": CLEAR, "\x0c": REDRAW}
_SEQUENCE_LENGTH_MAX = 32


class KeyReader:
    """Turns what was read into keys, however it was cut.

    Keys are printable characters as they are, and the names above; what cursor and function keys send is passed over.
    """

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("ignore").decode
        self._sequence = ""  # an escape sequence that has begun

    def feed(self, data: bytes) -> list[str]:
        """The keys that were pressed; an escape with nothing behind it in the same read is the key."""
        keys: list[str] = []
        for character in self._decode(data):
            if self._sequence:
                self._go_on(character, keys)
            elif character == "\x1b":
                self._sequence = character
            elif character.isprintable():
                keys.append(character)
            elif character in _NAMES:
                keys.append(_NAMES[character])
        if self._sequence == "\x1b":
            self._sequence = ""
            keys.append(ESCAPE)
        return keys

    def _go_on(self, character: str, keys: list[str]) -> None:
        """ESC [ parameters final, ESC O final, or ESC and a character (a key with Alt held)."""
        if self._sequence == "\x1b" and character == "\x1b":
            keys.append(ESCAPE)
            return
        self._sequence += character
        introduced = self._sequence[1] in "[O"
        ended = len(self._sequence) > 2 and "@" <= character <= "~"
        if not introduced or ended or len(self._sequence) > _SEQUENCE_LENGTH_MAX:
            self._sequence = ""
