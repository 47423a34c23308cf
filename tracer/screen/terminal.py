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
from collections.abc import Iterator
from types import FrameType
from typing import Any

from tracer.screen.keys import KeyReader

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_ENDING = (signal.SIGTSTP, signal.SIGQUIT)
"""Stop or end the process by default: the terminal is given back before that."""
_READ_BYTES = 4096
_STDERR = 2
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
        self._hears = True  # whether there are keys to come
        self._gone = False
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
        """Take it, unless somebody else has it (this is a job in the background) or it is gone; whether it is taken now."""
        if self._taken:
            return True
        if self._gone or not self._is_ours():
            return False
        self._listen()
        self._taken = True
        self._write(_ENTER)
        self._take_keyboard()
        return True

    def give_back(self) -> None:
        """As it was. A terminal that is gone, or that somebody else has by now, is nobody's concern."""
        if not self._taken:
            return
        self._taken = False
        if not self._is_ours():
            return
        with _not_stopped():
            try:
                if self._modes is not None and self._keyboard is not None:
                    with contextlib.suppress(termios.error, OSError):
                        termios.tcflush(self._keyboard, termios.TCIFLUSH)  # a key too many is no command for the shell
                        # At once, even if Ctrl-S holds the output.
                        termios.tcsetattr(self._keyboard, termios.TCSANOW, self._modes)
            finally:
                self._modes = None
                with contextlib.suppress(OSError):
                    self._write(_LEAVE)

    def lose(self) -> None:
        """It hung up: never take it again. What is still written to it, or to standard error on it, goes nowhere."""
        self._taken, self._gone = False, True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            with contextlib.suppress(OSError):  # there may be no standard error
                if os.path.sameopenfile(self._output, _STDERR):
                    os.dup2(nowhere, _STDERR)
            os.dup2(nowhere, self._output)
        finally:
            os.close(nowhere)

    def close(self) -> None:
        """Give it back for good."""
        self.give_back()
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: of no Python code
        self._handlers = {}

    def poll(self) -> bool:
        """Do what signals ask for; whether the screen has to be drawn anew because of them."""
        if self._taken and not self._is_ours():
            # SIGSTOP gave no time to give it back, and this went on in the background. To touch the terminal would stop it again;
            # the shell has set it for itself. The modes it had at first are still those to give back, once it is taken again.
            self._taken, self._continued = False, True
        if self._noted is not None:
            number, self._noted = self._noted, None
            self.give_back()
            self._as_by_default(number)
        if self._continued:
            self._continued = False
            if self._taken:  # stopped by SIGSTOP too, and in the foreground again
                self._write(_ENTER)
                self._set_cbreak()
            return True
        return False

    def pressed(self) -> list[str]:
        """What was pressed since the last time; never waits."""
        if not self._taken or self._keyboard is None or self._modes is None or not self._hears:
            return []
        ready, _, _ = select.select([self._keyboard], [], [], 0)
        if not ready:
            return []
        try:
            data = os.read(self._keyboard, _READ_BYTES)
        except OSError:  # it hung up, or this has become a job in the background
            data = b""
        if not data:
            self._hears = False
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
        self._hears = True
        with contextlib.suppress(termios.error, OSError):
            if self._modes is None:
                self._modes = termios.tcgetattr(self._keyboard)
            self._set_cbreak()

    def _set_cbreak(self) -> None:
        if self._keyboard is not None and self._modes is not None:
            with contextlib.suppress(termios.error, OSError):
                tty.setcbreak(self._keyboard, termios.TCSANOW)

    def _is_ours(self) -> bool:
        """Whether this process may touch it: a shell has not put it into the background."""
        return all(_in_foreground(each) for each in (self._output, self._keyboard) if each is not None)

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


def _in_foreground(descriptor: int) -> bool:
    """Whether the terminal is this process group's."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # not the terminal that controls this process: nobody takes turns there
        return True


@contextlib.contextmanager
def _not_stopped() -> Iterator[None]:
    """Whoever is put into the background just now is not stopped for touching the terminal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
