"""The live view on a real terminal (tmux): screens, keys, sizes, and the terminal as it was afterwards."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.replays import REPLAYS, trace_of
from tests.terminals import SIZES, STANDING, Terminal, expected, stand, steady, terminal

GIVEN_BACK, TAKEN = "0 1 1", "1 0 0"
"""Alternate screen, cursor, wrapping."""
LASTING = trace_of(REPLAYS / "lab-loop-429")
"""A minute of a client that is refused."""


@pytest.fixture(autouse=True)
def _needs_tmux() -> None:
    if shutil.which("tmux") is None:
        skip_or_fail("tmux is not installed")


@pytest.fixture
def storm() -> Iterator[Terminal]:
    """The picture of a retry loop, on 80 x 24."""
    with terminal(80, 24) as on:
        stand(on, "storm")
        on.shows("CRITICAL rate-limit")
        yield on


def replay(on: Terminal, *options: str) -> None:
    """A replay in real time, from the shell, until its picture is there."""
    on.type(f"clear; stty -g > before; {sys.executable} -m tracer replay {LASTING} --speed 1 {' '.join(options)}")
    on.until("the picture", lambda: on.modes() == TAKEN)
    on.shows("replay of ebpf")


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Terminal]:
    """A shell in a folder of its own."""
    with terminal(80, 24) as on:
        on.type(f"cd {tmp_path}")
        yield on


def assert_as_before(on: Terminal, folder: Path) -> None:
    """The terminal shows, echoes and wraps as it did."""
    on.type("stty -g > after; echo told")
    on.shows("\ntold\n")
    assert on.modes() == GIVEN_BACK
    assert (folder / "after").read_text() == (folder / "before").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", STANDING)
def test_the_picture_is_as_expected_at_every_size_one_after_the_other(name: str) -> None:
    with terminal(*SIZES[0]) as on:
        stand(on, name)
        for width, height in SIZES:
            on.resize(width, height)
            wanted = expected(name, width, height).read_text()
            on.until(f"{name} at {width}x{height}:\n{wanted}", lambda wanted=wanted: steady(on.screen()) == wanted)


def test_without_colours_the_words_are_the_same() -> None:
    with terminal(80, 24, NO_COLOR="1") as on:
        stand(on, "storm")
        wanted = expected("storm", 80, 24).read_text()
        on.until("the picture", lambda: on.screen() == wanted)
        assert not any(f"\x1b[3{colour}m" in on.screen("-e") for colour in range(8))


def test_an_encoding_without_blocks_gets_plain_bars() -> None:
    with terminal(80, 24, PYTHONIOENCODING="ascii") as on:
        stand(on, "storm")
        on.shows("CRITICAL rate-limit")
        screen = on.screen()
        assert screen.isascii()
        assert "@   @       @" in screen
        assert "937us" in screen


def test_pausing_says_so_and_the_picture_stands(storm: Terminal) -> None:
    before = storm.screen().splitlines()
    storm.press("p")
    storm.shows("PAUSED")
    assert storm.screen().splitlines()[1:] == before[1:]
    storm.press("Space")
    storm.until("going on", lambda: "PAUSED" not in storm.screen())


def test_a_filter_is_typed_shown_and_cleared(storm: Terminal) -> None:
    storm.press("f")
    storm.shows("filter: _")
    storm.type("nothing like it")
    storm.shows("no endpoint matches the filter")
    assert "filter: nothing like it" in storm.screen()
    assert "CRITICAL rate-limit" in storm.screen()
    storm.press("Escape")
    storm.shows("registry-1:39493          ")
    assert "filter" not in storm.screen()


def test_transitions_take_the_place_of_connections_in_the_log(storm: Terminal) -> None:
    storm.press("t")
    storm.shows("SYN_SENT -> ESTABLISHED")
    assert "LAST ENDED" not in storm.screen()
    storm.press("t")
    storm.shows("LAST ENDED")


@pytest.mark.slow
def test_the_order_is_said_and_changes(storm: Terminal) -> None:
    storm.resize(120, 24)
    for order in ("name", "open", "opens/s", "failures", "name"):
        storm.shows(f"by {order}  ")
        storm.press("s")


def test_help_explains_the_keys_below_the_findings(storm: Terminal) -> None:
    storm.press("?")
    storm.shows("pause: the picture stands")
    assert "CRITICAL rate-limit" in storm.screen()
    storm.press("Escape")
    storm.until("the help gone", lambda: "pause: the" not in storm.screen())


@pytest.mark.slow
def test_q_ends_with_findings_and_summary_on_the_normal_screen(shell: Terminal, tmp_path: Path) -> None:
    replay(shell, "; echo code $?")
    shell.press("q", "l", "s", "Enter")  # the last three are too late, and no command
    shell.shows("code 0")
    assert "$ ls" not in shell.screen()
    assert "source ebpf" in shell.screen()
    assert_as_before(shell, tmp_path)


@pytest.mark.slow
def test_ctrl_c_gives_the_terminal_back(shell: Terminal, tmp_path: Path) -> None:
    replay(shell, "; echo code $?")
    shell.press("C-c")
    shell.until("the end", lambda: shell.modes() == GIVEN_BACK)
    shell.shows("still open")
    assert_as_before(shell, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(number: signal.Signals, shell: Terminal, tmp_path: Path) -> None:
    shell.type("ulimit -c 0")
    replay(shell, "& echo $! > pid; fg")
    shell.run("run-shell", f"kill -{int(number)} $(cat {tmp_path}/pid)")
    shell.until("the end", lambda: shell.modes() == GIVEN_BACK)
    assert_as_before(shell, tmp_path)


@pytest.mark.slow
def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(shell: Terminal, tmp_path: Path) -> None:
    replay(shell)
    shell.press("C-z")
    shell.shows("Stopped")
    assert_as_before(shell, tmp_path)
    shell.type("fg")
    shell.until("the picture again", lambda: shell.modes() == TAKEN and "replay of ebpf" in shell.screen())
    shell.press("q")
    shell.until("the end", lambda: shell.modes() == GIVEN_BACK)
    assert_as_before(shell, tmp_path)


@pytest.mark.slow
def test_a_job_in_the_background_leaves_the_terminal_alone(shell: Terminal, tmp_path: Path) -> None:
    replay(shell)
    shell.press("C-z")
    shell.shows("Stopped")
    shell.type("bg; sleep 2; echo waited")
    shell.shows("\nwaited")
    assert_as_before(shell, tmp_path)
    shell.type("fg")
    shell.until("the picture", lambda: shell.modes() == TAKEN)
    shell.press("q")
    shell.until("the end", lambda: shell.modes() == GIVEN_BACK)


@pytest.mark.slow
def test_a_stop_that_nobody_can_catch_is_followed_by_a_whole_picture(shell: Terminal, tmp_path: Path) -> None:
    replay(shell, "& echo $! > pid; fg")
    shell.run("run-shell", f"kill -STOP $(cat {tmp_path}/pid)")
    shell.shows("Stopped")
    shell.type("fg")
    shell.until("the picture", lambda: shell.screen().startswith("replay of ebpf"))
    shell.press("q")
    shell.shows("still open")
    assert_as_before(shell, tmp_path)


def stopped(on: Terminal, folder: Path) -> None:
    """A replay in real time that nobody could tell of being stopped."""
    replay(on, "& echo $! > pid; fg")
    on.run("run-shell", f"kill -STOP $(cat {folder}/pid)")
    on.shows("Stopped")


@pytest.mark.slow
def test_after_such_a_stop_it_goes_on_in_the_background_too(shell: Terminal, tmp_path: Path) -> None:
    stopped(shell, tmp_path)
    shell.type("clear; bg; sleep 2; jobs")
    shell.shows("Running")
    shell.type("fg")
    shell.until("the picture", lambda: shell.screen().startswith("replay of ebpf"))
    shell.press("q")
    shell.shows("still open")
    assert_as_before(shell, tmp_path)


@pytest.mark.slow
def test_after_such_a_stop_it_can_be_ended(shell: Terminal, tmp_path: Path) -> None:
    stopped(shell, tmp_path)
    shell.type("clear; kill %1; wait %1; echo code $?")
    shell.shows("code 0")


@pytest.mark.slow
def test_a_trace_that_is_over_at_once_shows_no_picture(shell: Terminal) -> None:
    shell.type(f"clear; {sys.executable} -m tracer replay {LASTING}")
    shell.shows("findings: 1 in all")
    assert shell.modes() == GIVEN_BACK
    assert "watching registry-1:39493" in shell.screen("-S", "-")


@pytest.mark.slow
def test_a_terminal_without_abilities_gets_lines(shell: Terminal) -> None:
    shell.type(f"clear; TERM=dumb {sys.executable} -m tracer replay {LASTING}")
    shell.shows("findings: 1 in all")
    assert "skopeo[3570]  :42302 -> registry-1:39493" in shell.screen("-S", "-", "-J")
