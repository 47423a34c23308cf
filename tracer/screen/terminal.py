"""The terminal: taken for a while, and given back as it was, whatever happens.

While it is taken, the alternate screen is shown (what was on the screen comes back afterwards, and a resize leaves nothing
behind), the cursor is hidden, lines do not wrap, and keys come one by one without being echoed. What Ctrl-C and Ctrl-Z send
stays a signal: they work even if nobody reads keys.

Signals are only noted by their handlers and acted upon at the next poll, so that no picture is torn in two by one.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from types import FrameType
from typing import Any

from tracer.screen.keys import KeyReader

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_ENDING = (signal.SIGTSTP, signal.SIGQUIT)
"""Stop or end the process by default: the terminal is given back before that."""
_READ_BYTES = 4096
_SIZE = os.terminal_size((80, 24))
"""Where a terminal has none (a serial line)."""


class Terminal:
    """The terminal of standard output, and of standard input where that is one."""

    def __init__(self, output: int, keyboard: int | None) -> None:
        """Take nothing yet.

        Args:
            output: file descriptor of a terminal.
            keyboard: of the terminal that keys come from; None: there are no keys.
        """
        self._output = output
        self._keyboard = keyboard
        self._keys = KeyReader()
        self._taken = False
        self._modes: list[Any] | None = None
        self._noted: signal.Signals | None = None
        self._continued = False
        self._handlers: dict[signal.Signals, Any] = {}

    @property
    def taken(self) -> bool:
        """Whether it shows pictures now."""
        return self._taken

    def take(self) -> bool:
        """Take it, unless somebody else has it (this is a job in the background); whether it is taken now."""
        if self._taken:
            return True
        if not _in_foreground(self._output):
            return False
        self._listen()
        self._taken = True
        self._write(_ENTER)
        self._take_keyboard()
        return True

    def give_back(self) -> None:
        """As it was. A terminal that is gone is nobody's concern."""
        if not self._taken:
            return
        self._taken = False
        try:
            if self._modes is not None and self._keyboard is not None:
                with contextlib.suppress(termios.error, OSError):
                    termios.tcflush(self._keyboard, termios.TCIFLUSH)  # a key too many is no command for the shell
                    termios.tcsetattr(self._keyboard, termios.TCSANOW, self._modes)  # at once, even if Ctrl-S holds the output
        finally:
            self._modes = None
            with contextlib.suppress(OSError):
                self._write(_LEAVE)

    def close(self) -> None:
        """Give it back for good."""
        self.give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: of no Python code
        self._handlers = {}

    def poll(self) -> bool:
        """Do what signals ask for; whether the screen has to be drawn anew because of them."""
        if self._noted is not None:
            number, self._noted = self._noted, None
            self.give_back()
            self._as_by_default(number)
        if self._continued:
            self._continued = False
            if self._taken:  # SIGSTOP gave no time to give it back, and the shell has set it for itself since
                self._write(_ENTER)
                self._set_cbreak()
            return True
        return False

    def pressed(self) -> list[str]:
        """What was pressed since the last time; never waits."""
        if not self._taken or self._keyboard is None or self._modes is None:
            return []
        ready, _, _ = select.select([self._keyboard], [], [], 0)
        if not ready:
            return []
        try:
            data = os.read(self._keyboard, _READ_BYTES)
        except OSError:  # it hung up, or this has become a job in the background
            data = b""
        if not data:
            self._keyboard = None
        return self._keys.feed(data)

    def size(self) -> os.terminal_size:
        """Columns and lines now."""
        try:
            size = os.get_terminal_size(self._output)
        except OSError:
            return _SIZE
        return size if size.columns > 0 and size.lines > 0 else _SIZE

    def ready(self) -> bool:
        """Whether it takes what is written: not while Ctrl-S holds it, or a slow line is behind."""
        _, ready, _ = select.select([], [self._output], [], 0)
        return bool(ready)

    def show(self, text: str) -> None:
        """Write, with control sequences."""
        self._write(text)

    def _write(self, text: str) -> None:
        data = memoryview(text.encode("utf-8", "replace"))
        while data:
            try:
                data = data[os.write(self._output, data) :]
            except BlockingIOError:  # somebody else who has this terminal open made it so
                select.select([], [self._output], [])

    def _take_keyboard(self) -> None:
        if self._keyboard is None:
            return
        with contextlib.suppress(termios.error, OSError):
            self._modes = termios.tcgetattr(self._keyboard)
            self._set_cbreak()

    def _set_cbreak(self) -> None:
        if self._keyboard is not None and self._modes is not None:
            with contextlib.suppress(termios.error, OSError):
                tty.setcbreak(self._keyboard, termios.TCSANOW)

    def _listen(self) -> None:
        if self._handlers:
            return
        for number in _ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._note)
        self._handlers[signal.SIGCONT] = signal.signal(signal.SIGCONT, self._note_continued)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted = signal.Signals(number)

    def _note_continued(self, _number: int, _frame: FrameType | None) -> None:
        self._continued = True

    def _as_by_default(self, number: signal.Signals) -> None:
        """Let the signal do what it does to every program; where it only stopped this one, go on listening."""
        sys.stdout.flush()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        signal.signal(number, self._note)


def _in_foreground(output: int) -> bool:
    """Whether this process may write to the terminal's screen: a shell has not put it into the background."""
    try:
        return os.tcgetpgrp(output) == os.getpgrp()
    except OSError:  # not the terminal that controls this process: nobody takes turns there
        return True
