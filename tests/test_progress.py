"""The progress bar: on a terminal's standard error, after a while, and nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import sys, time
from tracer import progress
progress.QUIET_S = float(sys.argv[2])
with progress.progress_bar(sys.argv[1]) as bar:
    for number in bar.over(range(30), 30):
        time.sleep(0.02)
print("done", "rich" in sys.modules)
"""
HOSTILE = "a[red]b\x1b[31m\u202ec"


def run_on_a_terminal(title: str, quiet_s: float, **environment: str) -> tuple[str, str]:
    """(standard output, what reached the terminal on standard error)."""
    master, slave = pty.openpty()
    try:
        command = [sys.executable, "-c", PROGRAM, title, str(quiet_s)]
        own = os.environ | {"TERM": "xterm", "COLUMNS": "80"} | environment
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, text=True, cwd=ROOT, env=own) as child:
            out, _ = child.communicate(timeout=30)
        os.close(slave)
        slave = -1
        shown = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # EIO: nobody holds the other end any more
                break
            if not piece:
                break
            shown += piece
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)
    return out, shown.decode()


def test_it_shows_what_is_done_and_goes_away() -> None:
    out, shown = run_on_a_terminal("reading x", 0.1)
    assert out == "done True\n"
    assert "reading x" in shown
    assert "%" in shown
    assert shown.rstrip().endswith("\x1b[2K")  # the line is erased at the end


def test_what_is_quick_shows_nothing_and_loads_nothing() -> None:
    assert run_on_a_terminal("reading x", 5.0) == ("done False\n", "")


def test_a_terminal_that_can_not_draw_gets_nothing() -> None:
    assert run_on_a_terminal("reading x", 0.1, TERM="dumb")[1] == ""


def test_a_title_can_not_draw_by_itself() -> None:
    _, shown = run_on_a_terminal(HOSTILE, 0.1)
    assert r"a[red]b\x1b[31m\u202ec" in shown


def test_no_terminal_gets_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "reading x", "0.1"], capture_output=True, text=True, cwd=ROOT, timeout=30
    )
    assert (done.stdout, done.stderr) == ("done False\n", "")
