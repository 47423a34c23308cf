"""The live view as a listener: polls of the pipeline, a pseudo terminal that is given back, what stays on the screen."""

from __future__ import annotations

import errno
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from tests.live import PATIENCE_S, ROOT
from tests.replays import REPLAYS, trace_of
from tests.stories import LABELS, trying
from tracer.analysis import Analysis, Progress
from tracer.errors import CaptureError
from tracer.events import EventBatch, no_events
from tracer.feed import Feed
from tracer.header import TraceHeader
from tracer.pipeline import POLL_S, Attentive, Listener, Stop, run_live, run_replay
from tracer.rules.settings import RuleSettings
from tracer.screen.live import LiveReport
from tracer.screen.notices import Notices
from tracer.screen.painter import Painter
from tracer.screen.terminal import Terminal

HEADER = TraceHeader("ebpf", "because", 1, endpoints=LABELS)
TAKE, GIVE_BACK = "\x1b[?1049h", "\x1b[?1049l"


class Line:
    """A pseudo terminal whose other end is read all the time."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        self.modes = termios.tcgetattr(self.slave)
        self._seen = b""
        self._hung_up = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # EIO: the other end was closed
            while not self._hung_up and (data := os.read(self._master, 65536)):
                self._seen += data
        os.close(self._master)

    def type(self, data: bytes) -> None:
        os.write(self._master, data)

    def seen(self) -> str:
        return self._seen.decode("utf-8", "replace")

    def all(self) -> str:
        """Everything that was written up to now."""
        mark = f"<{len(self._seen)}>"
        os.write(self.slave, mark.encode())
        end_s = time.monotonic() + PATIENCE_S
        while mark not in self.seen():
            assert time.monotonic() < end_s
            time.sleep(0.001)
        return self.seen().rpartition(mark)[0]

    def hang_up(self) -> None:
        """Nobody is at the other end any more."""
        self._hung_up = True
        os.write(self.slave, b".")  # the reader waits for something
        self._reader.join(PATIENCE_S)

    def close(self) -> None:
        os.close(self.slave)
        self._reader.join(PATIENCE_S)


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


@pytest.fixture
def report(line: Line, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveReport]:
    """A live view on that terminal; keys come from it too."""
    with open(line.slave, "w", closefd=False) as output, open(line.slave, closefd=False) as keyboard:
        monkeypatch.setattr(sys, "stdin", keyboard)
        yield LiveReport(Console(file=output, force_terminal=True, width=80, height=24), transitions=False)


def standing(line: Line, then: Callable[[], None] = lambda: None) -> Iterator[EventBatch]:
    """A trace that stands still once its picture is there, until it is ended; `then` is called when it is there."""
    yield EventBatch(trying(), "ebpf", 1)
    end_s = time.monotonic() + PATIENCE_S
    called = False
    while time.monotonic() < end_s:
        if TAKE in line.seen() and not called:
            called = True
            then()
        time.sleep(POLL_S)
        yield EventBatch(no_events(), "ebpf", 1)
    raise AssertionError("nobody ended it")


def replayed(batches: Iterator[EventBatch], *listeners: Listener) -> Analysis:
    return run_replay(batches, HEADER, list(listeners), Stop(), lambda: None, settings=RuleSettings())


def test_a_key_ends_a_replay_and_what_was_found_stays(line: Line, report: LiveReport) -> None:
    replayed(standing(line, lambda: line.type(b"q")), report)
    after = line.all().rpartition(GIVE_BACK)[2]
    assert "CRITICAL refused" in after
    assert "do:" in after
    assert "findings: 2 in all" in after
    assert termios.tcgetattr(line.slave) == line.modes


@pytest.mark.parametrize("error", [CaptureError("corrupt"), KeyboardInterrupt()])
def test_whatever_ends_it_the_terminal_is_given_back(error: BaseException, line: Line, report: LiveReport) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        replayed(standing(line, fail), report)
    assert line.all().count(TAKE) == line.all().count(GIVE_BACK) == 1
    assert "\x1b[?25h" in line.all().rpartition(TAKE)[2]
    assert "\x1b[?7h" in line.all().rpartition(TAKE)[2]
    assert termios.tcgetattr(line.slave) == line.modes


def test_a_trace_outlives_its_terminal(line: Line, report: LiveReport) -> None:
    nowhere = Path(os.devnull).stat()
    sent = 0

    def batches() -> Iterator[EventBatch]:
        nonlocal sent
        for batch in standing(line, line.hang_up):
            events = trying()
            events["ts_ns"] += sent * 100_000_000_000  # a picture that stands would not be written again
            sent += 1
            yield replace(batch, events=events)
            if os.path.samestat(os.fstat(line.slave), nowhere):  # what is written goes there from now on
                return

    others = Counting(1 << 30)
    analysis = replayed(batches(), others, report)
    assert others.batches == sent
    assert others.finished
    assert analysis.summary().events == sent * len(trying())


def test_another_failure_of_the_terminal_is_one(line: Line, report: LiveReport, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: Terminal, _text: str) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(Terminal, "show", fail)
    with pytest.raises(OSError, match="Bad file descriptor"):
        replayed(standing(line), report)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_replay_whose_terminal_hangs_up_ends_cleanly(number: signal.Signals, line: Line, tmp_path: Path) -> None:
    capture = trace_of(REPLAYS / "lab-loop-429")
    command = [sys.executable, "-m", "tracer", "replay", str(capture), "--speed", "1"]
    variables = os.environ | {"TERM": "xterm-256color"}
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            command, stdin=line.slave, stdout=line.slave, stderr=stderr, cwd=ROOT, env=variables, start_new_session=True
        )
    end_s = time.monotonic() + PATIENCE_S
    while TAKE not in line.seen():
        assert time.monotonic() < end_s
        time.sleep(POLL_S)
    line.hang_up()
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == 0
    assert (tmp_path / "stderr").read_text() == ""


def test_after_a_key_that_could_not_be_read_the_modes_come_back(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int, _size_bytes: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    made = Terminal(line.slave, line.slave)
    assert made.take()
    line.type(b"x")
    end_s = time.monotonic() + PATIENCE_S
    while not select.select([line.slave], [], [], POLL_S)[0]:
        assert time.monotonic() < end_s
    with monkeypatch.context() as patched:
        patched.setattr("tracer.screen.terminal.os.read", fail)
        assert made.pressed() == []
    assert made.pressed() == []  # nobody asks again
    assert termios.tcgetattr(line.slave) != line.modes
    made.close()
    assert termios.tcgetattr(line.slave) == line.modes


def test_while_it_is_shown_keys_are_not_echoed(line: Line, report: LiveReport) -> None:
    local_modes = []

    def look() -> None:
        local_modes.append(termios.tcgetattr(line.slave)[3])
        line.type(b"xyzzyq")

    replayed(standing(line, look), report)
    assert not local_modes[0] & (termios.ECHO | termios.ICANON)
    assert local_modes[0] & termios.ISIG
    assert "xyzzy" not in line.all()


def test_without_a_keyboard_pictures_come_all_the_same(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("q"))
    stop = Stop()
    with open(line.slave, "w", closefd=False) as output:
        report = LiveReport(Console(file=output, force_terminal=True), transitions=False)
        batches = standing(line, lambda: stop.__setattr__("signal", 15))
        run_replay(batches, HEADER, [report], stop, lambda: None)
    assert TAKE in line.all()


def test_a_terminal_that_is_held_delays_nobody(line: Line, report: LiveReport) -> None:
    analysis = Analysis("ebpf", 1, LABELS)
    report.start(HEADER)
    end_s = time.monotonic() + PATIENCE_S
    while TAKE not in line.seen():
        assert report.poll(analysis)
        assert time.monotonic() < end_s
        time.sleep(POLL_S)
    line.all()
    termios.tcflow(line.slave, termios.TCOOFF)
    before = len(line.seen())
    until_s = time.monotonic() + 0.7
    while time.monotonic() < until_s:
        line.type(b"s")
        report.poll(analysis)
        time.sleep(POLL_S)
    held = len(line.seen())
    termios.tcflow(line.slave, termios.TCOON)
    report.finish(analysis, None)
    assert held == before


def test_warnings_do_not_tear_the_picture_and_are_there_afterwards(
    line: Line, report: LiveReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(line.slave, "w", closefd=False) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)

        def warn() -> None:
            sys.stderr.write("regtrace: something is odd\n")
            line.type(b"q")

        replayed(standing(line, warn), report)
        assert sys.stderr is stderr
    _, _, after = line.all().rpartition(GIVE_BACK)
    assert "regtrace: something" in after


class Counting:
    """A listener that is polled, and has enough after some polls."""

    def __init__(self, polls: int) -> None:
        self.polls, self._most = 0, polls
        self.batches, self.finished = 0, False

    def start(self, header: TraceHeader) -> None: ...

    def batch(self, batch: EventBatch, progress: Progress, analysis: Analysis) -> None:
        self.batches += batch.source != ""  # what the analysis says at its end comes with none

    def tick(self, analysis: Analysis) -> None: ...

    def finish(self, analysis: Analysis, truncated: str | None) -> None:
        self.finished = True

    def poll(self, analysis: Analysis) -> bool:
        self.polls += 1
        return self.polls < self._most


class Silent:
    """A source to which nothing happens."""

    name, resolution_ns = "ebpf", 1

    def read(self, *, at_once: bool = False) -> EventBatch:
        return EventBatch(no_events(), "ebpf", 1)

    def sample(self, skaddrs: list[int]) -> bool:
        return True

    def warnings(self) -> list[str]:
        return []


def test_a_listener_may_end_a_live_trace() -> None:
    listener = Counting(3)
    source: Feed = Silent()  # type: ignore[assignment]
    run_live(source, HEADER, [listener], Stop(), PATIENCE_S)
    assert isinstance(listener, Attentive)
    assert listener.polls == 3


def test_a_listener_may_end_a_replay_that_waits() -> None:
    events = trying(period_s=1000)
    listener = Counting(2)
    batches = iter([EventBatch(events, "ebpf", 1)])
    analysis = run_replay(batches, HEADER, [listener], Stop(), lambda: None, speed=1)
    assert listener.polls == 2
    assert 0 < analysis.summary().events < len(events)


def test_only_lines_that_changed_are_painted() -> None:
    painter = Painter(Console(file=io.StringIO(), force_terminal=True))
    first = painter.paint([Text("one"), Text("two"), Text("x" * 10)], 10, 5)
    assert first.startswith("\x1b[0m\x1b[2J")
    assert painter.paint([Text("one"), Text("TWO"), Text("x" * 10)], 10, 5) == "\x1b[2;1HTWO\x1b[K"
    assert painter.paint([Text("one")], 10, 5) == "\x1b[2;1H\x1b[K\x1b[3;1H\x1b[K"
    assert "x" * 10 + "\x1b[K" not in first  # it would erase the last one


def test_another_size_is_painted_anew() -> None:
    painter = Painter(Console(file=io.StringIO(), force_terminal=True))
    painter.paint([Text("one")], 10, 5)
    assert painter.knows(10, 5)
    assert not painter.knows(11, 5)
    assert "one" in painter.paint([Text("one")], 11, 5)


def test_an_encoding_without_bars_gets_as_many_other_characters() -> None:
    file = io.TextIOWrapper(io.BytesIO(), "latin-1")
    painter = Painter(Console(file=file, force_terminal=True))
    painted = painter.paint([Text("▁█ 5µs … é 日", "bold")], 40, 5)
    assert ".@ 5us ~ é ?" in painted
    file.detach()


def test_a_file_gets_warnings_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    heard: list[str] = []
    notices = Notices(heard.append)
    notices.take()
    sys.stderr.write("something\n")
    assert (file.getvalue(), heard) == ("something\n", [])
    notices.give_back()


def test_a_terminal_that_does_not_wait_is_written_to_all_the_same(line: Line) -> None:
    os.set_blocking(line.slave, False)
    Terminal(line.slave, None).show("x" * 500_000 + "y")
    assert line.all().count("x") == 500_000


def test_a_terminal_without_a_size_has_the_usual_one() -> None:
    read_end, write_end = os.pipe()
    try:
        assert Terminal(write_end, None).size() == (80, 24)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_pictures_come_no_faster_than_four_a_second(line: Line, report: LiveReport) -> None:
    analysis = Analysis("ebpf", 1, LABELS)
    report.start(HEADER)
    started_s = time.monotonic()
    while time.monotonic() - started_s < 1.2:
        line.type(b"s")
        report.poll(analysis)
        time.sleep(POLL_S / 5)
    took_s = time.monotonic() - started_s
    report.finish(analysis, None)
    orders = re.findall(r"\x1b\[1;1H", line.all())
    assert 1 <= len(orders) <= took_s * 4 + 1


def test_a_width_of_nothing_does_not_hide_what_was_found(line: Line) -> None:
    """COLUMNS=0, as some environments have it."""
    command = [sys.executable, "-m", "tracer", "replay", str(trace_of(REPLAYS / "lab-loop-429"))]
    own = os.environ | {"TERM": "xterm", "COLUMNS": "0"}
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=line.slave, cwd=ROOT, env=own, check=True, timeout=PATIENCE_S)
    assert "rate-limit" in line.all()
