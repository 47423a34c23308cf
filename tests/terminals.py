"""A real terminal to test on: tmux with a server of its own, and screens that are expected of it.

`python -m tests.terminals` rewrites the expected screens, after a change that is meant.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.live import PATIENCE_S, ROOT
from tests.replays import REPLAYS, trace_of

SCREENS = ROOT / "tests" / "screens"
STANDING = {"healthy": ("lab-skopeo-pulls-tls", 6.0), "storm": ("lab-loop-429", 50.0), "loss": ("loss-inside-the-window", 45.0)}
"""What is looked at: a replay, and so many seconds after its first event."""
SIZES = ((80, 24), (200, 50), (20, 5))
_SETTINGS = "set -g status off\nset -g default-terminal screen-256color\n"
_EACH_S = 0.05


class Terminal:
    """A shell on a terminal of so many columns and lines."""

    def __init__(self, socket: Path, width: int, height: int, **variables: str) -> None:
        settings = socket.with_suffix(".conf")
        settings.write_text(_SETTINGS)
        self._tmux = ["tmux", "-S", str(socket), "-f", str(settings)]
        given = {"LC_ALL": "C.UTF-8", "PS1": "$ ", "PYTHONPATH": str(ROOT), **variables}
        shell = ["env", "-u", "NO_COLOR", *(f"{name}={value}" for name, value in given.items()), "bash", "--norc", "--noprofile"]
        self.run("new-session", "-d", "-x", str(width), "-y", str(height), "-c", str(ROOT), shlex.join(shell))
        self.until("the shell's prompt", lambda: "$" in self.screen())

    def run(self, *arguments: str) -> str:
        """A command of tmux, and what it says."""
        done = subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
        return done.stdout

    def type(self, line: str) -> None:
        """A line, and Enter."""
        self.run("send-keys", "-l", line)
        self.run("send-keys", "Enter")

    def press(self, *keys: str) -> None:
        """Keys, by their names in tmux."""
        self.run("send-keys", *keys)

    def screen(self, *options: str) -> str:
        """What is to be seen, without blanks at the ends of lines and of the screen."""
        lines = self.run("capture-pane", "-p", *options).splitlines()
        return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"

    def resize(self, width: int, height: int) -> None:
        self.run("resize-window", "-x", str(width), "-y", str(height))

    def modes(self) -> str:
        """Whether the alternate screen is shown, the cursor is, and lines wrap: 0 or 1 each."""
        return self.run("display-message", "-p", "#{alternate_on} #{cursor_flag} #{wrap_flag}").strip()

    def until(self, what: str, true: object) -> None:
        """Wait for something to become true.

        Raises:
            AssertionError: it did not.
        """
        assert callable(true)
        end_s = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < end_s, f"{what} did not come; the screen:\n{self.screen()}"
            time.sleep(_EACH_S)

    def shows(self, text: str) -> None:
        """Wait until the screen has a text."""
        self.until(repr(text), lambda: text in self.screen())

    def close(self) -> None:
        """End the server, and all that runs in it."""
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, timeout=PATIENCE_S)


@contextmanager
def terminal(width: int, height: int, **variables: str) -> Iterator[Terminal]:
    """A terminal while inside; `variables` are of the environment in it."""
    with tempfile.TemporaryDirectory() as folder:
        made = Terminal(Path(folder) / "tmux", width, height, **variables)
        try:
            yield made
        finally:
            made.close()


def stand(on: Terminal, name: str) -> None:
    """Show a standing picture of a replay."""
    folder, span_s = STANDING[name]
    on.type(f"clear; {sys.executable} -m tests.standing {trace_of(REPLAYS / folder)} {span_s}")
    on.until("the picture", lambda: on.modes().startswith("1"))


def expected(name: str, width: int, height: int) -> Path:
    return SCREENS / f"{name}-{width}x{height}.txt"


def steady(screen: str) -> str:
    """Without what depends on the wall clock: how long it has been paused."""
    return re.sub(r"PAUSED \d+s", "PAUSED 0s", screen)


def main() -> None:
    SCREENS.mkdir(exist_ok=True)
    for name in STANDING:
        with terminal(*SIZES[0]) as on:
            stand(on, name)
            for width, height in SIZES:
                on.resize(width, height)
                time.sleep(3)  # for a picture of that size to be there
                expected(name, width, height).write_text(steady(on.screen()))
                print(f"rewrote {expected(name, width, height).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
