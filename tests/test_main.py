"""The command line as its users meet it: exit codes, one message, no traceback, nothing left behind."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bpf.syscall import loaded_programs
from tests.live import PATIENCE_S, ROOT, ordinary_user, serving
from tests.test_captures import SUFFIXES, batch_of, events_of, read, write
from tracer.captures import FORMAT_VERSION
from tracer.commands.watch import _warn
from tracer.main import main
from tracer.options import build_parser

COMMANDS = ("watch", "record", "replay", "show", "export", "doctor", "demo")
FULL_BYTES = 64 << 10
UNUSED = "127.0.0.1:1"
"""An endpoint nobody connects to."""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it acts as another user, or mounts")


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **changes}


def regtrace(*arguments: str | bytes, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    options = {"capture_output": True, "cwd": ROOT, "env": environment(), "timeout": PATIENCE_S} | options
    return subprocess.run([sys.executable, "-m", "tracer", *arguments], text=True, errors="surrogateescape", **options)


class Run:
    """`regtrace` in this process: fast, and an exception that it lets through is the test's."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            code = main(list(arguments))
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        written = self._capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, written.out, written.err)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end as a user without any privilege."""
    python, options = ordinary_user()
    return subprocess.run([python, "-m", "tracer", *arguments], capture_output=True, text=True, timeout=PATIENCE_S, **options)


def assert_one_line(stderr: str) -> None:
    assert re.fullmatch(r"regtrace( \w+)?: [^\n]+\n", stderr), stderr


def assert_no_traceback(stderr: str) -> None:
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr


def without_source_line(stderr: str) -> str:
    """What is on standard error beside the line that says which source was chosen."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not line.startswith("regtrace: source "))


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait until it holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"{what}: not within {PATIENCE_S:.0f} s"
        time.sleep(0.02)


class TestUsage:
    @pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=lambda command: command[0] if command else "")
    def test_help_is_printed(self, command: tuple[str, ...]) -> None:
        done = regtrace(*command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: regtrace")

    def test_every_command_is_in_the_help(self) -> None:
        shown = build_parser().format_help()
        assert [name for name in COMMANDS if name not in shown] == []

    def test_the_version_is_printed(self) -> None:
        done = regtrace("--version")
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"regtrace \d+\.\d+\.\d+\n", done.stdout)

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("frobnicate",),
            ("--frobnicate",),
            ("watch", "--frobnicate"),
            ("watch", "--regis", UNUSED),
            ("watch", "--registry"),
            ("watch", "--registry", UNUSED, "--source", "magic"),
            ("watch", "--registry", UNUSED, "stray"),
            ("watch", "--registry", UNUSED, "--duration", "0"),
            ("watch", "--registry", UNUSED, "--duration", "-1"),
            ("watch", "--registry", UNUSED, "--duration", "soon"),
            ("watch", "--registry", UNUSED, "--duration", "nan"),
            ("watch", "--registry", UNUSED, "--duration", "inf"),
            ("watch", "--registry", UNUSED, "--duration", "1e999"),
            ("watch", "--registry", UNUSED, "--duration", ""),
            ("record",),
            ("record", "--registry", UNUSED),
            ("replay",),
            ("replay", "a.jsonl", "b.jsonl"),
            ("replay", "a.jsonl", "--speed", "0"),
            ("replay", "a.jsonl", "--registry", UNUSED),
            ("watch", "--list", "--registry", "a b"),
            ("record", "trace", "--registry", UNUSED),
            ("record", "trace.json", "--registry", UNUSED),
            ("record", "trace.arrow", "--registry", UNUSED),
            ("record", "-", "--registry", UNUSED),
            ("watch", "--\x1b[31mred\nand a second line"),
            ("watch", "--source", "\x1b[31mred\nand a second line"),
        ],
        ids=lambda arguments: " ".join(arguments).encode("unicode_escape").decode() or "nothing",
    )
    def test_what_can_not_be_meant_is_a_usage_error_in_one_line(self, run: Run, arguments: tuple[str, ...]) -> None:
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert_one_line(done.stderr)
        assert done.stderr.removesuffix("\n").isprintable()

    @pytest.mark.parametrize(
        "spec",
        ["", " ", ":443", "registry.example:0", "registry.example:65536", "registry.example:http", "a b", "-x.example", "x..y",
         "300.1.1.1", "1.2.3", "10.0.0.0/33", "[::1", "[::1]x", "http://registry.example",
         "a\nb", "\x1b[31m", "x" * 300, "[]", "/"],
        ids=ascii,
    )  # fmt: skip
    def test_an_endpoint_that_can_not_be_parsed_is_a_usage_error(self, run: Run, spec: str) -> None:
        done = run("watch", f"--registry={spec}", "--duration", "0.1")
        assert (done.returncode, done.stdout) == (2, "")
        assert_one_line(done.stderr)

    def test_one_bad_endpoint_among_good_ones_is_named(self, run: Run) -> None:
        done = run("watch", "--registry", UNUSED, "--registry", "bad:port")
        assert done.returncode == 2
        assert "bad:port" in done.stderr

    def test_an_argument_that_is_not_utf_8_is_a_usage_error(self) -> None:
        done = regtrace("watch", "--registry", b"\xff\xfe")
        assert done.returncode == 2
        assert_one_line(done.stderr)

    def test_verbose_shows_the_cause(self, run: Run, tmp_path: Path) -> None:
        assert "Traceback" in run("-v", "replay", str(tmp_path / "missing.jsonl")).stderr

    def test_what_a_file_says_reaches_no_terminal_by_way_of_the_cause(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('{"type": "start", "format": 99, "version": "\\u001b]0;taken\\u0007"}\n')
        shown = run("replay", "-v", str(tmp_path / "a.jsonl")).stderr
        assert "Traceback" in shown
        assert "\x1b" not in shown

    def test_verbose_may_stand_behind_the_command(self, run: Run, tmp_path: Path) -> None:
        assert "Traceback" in run("replay", "-v", str(tmp_path / "missing.jsonl")).stderr


@needs_root
@pytest.mark.ebpf
def test_a_name_that_does_not_exist_fails_with_its_reason() -> None:
    done = regtrace("watch", "--registry", "registry.does-not-exist.invalid")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing to watch: registry.does-not-exist.invalid: " in done.stderr
    assert "or give an address" in done.stderr
    assert_no_traceback(done.stderr)


@pytest.fixture(params=SUFFIXES)
def capture(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / f"trace{request.param}", [batch_of(events_of(8)), batch_of(events_of(3))])


def replayed(path: Path) -> list[dict[str, Any]]:
    """The lines of a replay that succeeds."""
    done = regtrace("replay", str(path), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


class TestReplay:
    def test_a_whole_capture_has_its_summary_last(self, capture: Path) -> None:
        last = replayed(capture)[-1]
        assert (last["type"], last["events"], last["truncated"]) == ("summary", 11, None)

    def test_a_text_replay_names_the_endpoint(self, run: Run, capture: Path) -> None:
        done = run("replay", str(capture), "--transitions")
        assert (done.returncode, done.stderr) == (0, "")
        assert "registry.example:443: 3 connections" in done.stdout

    def test_a_replay_of_a_replay_is_the_same(self, run: Run, capture: Path, tmp_path: Path) -> None:
        first = run("replay", str(capture), "--json", "--transitions").stdout
        (tmp_path / "again.jsonl").write_text(first)
        again = run("replay", str(tmp_path / "again.jsonl"), "--json", "--transitions").stdout
        assert sorted(again.splitlines()) == sorted(first.splitlines())

    def test_a_cut_capture_says_so_in_its_summary(self, capture: Path) -> None:
        os.truncate(capture, capture.stat().st_size - 20)
        assert replayed(capture)[-1]["truncated"]

    def test_a_cut_capture_says_so_to_people(self, run: Run, capture: Path) -> None:
        os.truncate(capture, capture.stat().st_size - 20)
        assert "INCOMPLETE" in run("replay", str(capture)).stdout

    @pytest.mark.parametrize("length", [1, 3, 5, 100])
    def test_a_capture_cut_within_its_header_fails(self, run: Run, capture: Path, length: int) -> None:
        os.truncate(capture, length)
        done = run("replay", str(capture), "--json")
        assert (done.returncode, done.stdout) == (1, "")
        assert_one_line(done.stderr)

    @pytest.mark.parametrize("name", ["missing.arrows", "missing.jsonl", "missing", "\x1b[31m\n.jsonl", ""])
    def test_a_missing_capture_fails(self, run: Run, name: str, tmp_path: Path) -> None:
        done = run("replay", str(tmp_path / name) if name else "", "--json")
        assert (done.returncode, done.stdout) == (1, "")
        assert_one_line(done.stderr)

    def test_a_missing_capture_whose_name_is_not_utf_8_fails(self, tmp_path: Path) -> None:
        done = regtrace("replay", os.fsencode(tmp_path) + b"/\xff\xfe.jsonl")
        assert done.returncode == 1
        assert_one_line(done.stderr)

    @pytest.mark.parametrize(
        "content", [b"", b"\n", b"# nothing\n", b"hello\n", b"\x1b[31m\n", b"ARROW1\0\0", b"\xff" * 100, b"{}{"]
    )
    def test_what_is_no_capture_fails(self, run: Run, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_bytes(content)
        done = run("replay", str(tmp_path / "a.jsonl"), "--json")
        assert (done.returncode, done.stdout) == (1, "")
        assert_one_line(done.stderr)

    def test_a_directory_fails(self, run: Run, tmp_path: Path) -> None:
        done = run("replay", str(tmp_path))
        assert done.returncode == 1
        assert_one_line(done.stderr)

    def test_another_version_fails_with_what_to_do(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(f'{{"type": "start", "format": {FORMAT_VERSION + 1}, "version": "9.9.9"}}\n')
        done = run("replay", str(tmp_path / "a.jsonl"))
        assert (done.returncode, done.stdout) == (1, "")
        assert "9.9.9" in done.stderr
        assert_one_line(done.stderr)

    def test_a_corrupt_line_fails_and_the_summary_is_still_last(self, run: Run, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", [batch_of(events_of(4))])
        path.write_text(path.read_text() + "oops\n")
        done = run("replay", str(path), "--json")
        assert done.returncode == 1
        assert json.loads(done.stdout.splitlines()[-1])["type"] == "summary"
        assert_one_line(done.stderr)

    @pytest.mark.parametrize(
        "line",
        [
            '{"type": "transition", "ts_ns": 18446744073709551615, "skaddr": 1, "old": "CLOSE", "new": "SYN_SENT"}',
            '{"type": "transition", "ts_ns": 1, "early_ns": -1, "skaddr": 1, "old": "CLOSE", "new": "SYN_SENT"}',
            '{"type": "loss", "lost": 1e999, "since_ns": 1, "ts_ns": 2}',
            '{"type": "start", "format": 1, "clock_offset_ns": 1e999}',
            '{"type": "start", "format": 1, "resolution_ns": 1e999}',
            '{"x": ' + "[" * 100_000,
        ],
        ids=lambda line: line[:70],
    )
    def test_absurd_values_fail_without_a_traceback(self, run: Run, line: str, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(f"{line}\n")
        done = run("replay", str(tmp_path / "a.jsonl"), "--json")
        assert_no_traceback(done.stderr)
        assert done.returncode == 1

    def test_centuries_between_two_events_are_no_problem(self, tmp_path: Path) -> None:
        events = events_of(8, ts_ns=[1, 2, 3, 4, 2**61, 2**61 + 1, 2**61 + 2, 2**61 + 3])
        assert replayed(write(tmp_path / "a.arrows", [batch_of(events)]))[-1]["connections"] == 2

    def test_a_large_endpoint_number_needs_no_large_memory(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.arrows", [batch_of(events_of(4, endpoint_id=100_000))])
        limited = 'ulimit -v 2000000; exec "$@"'
        command = ["sh", "-c", limited, "sh", sys.executable, "-m", "tracer", "replay", str(path), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=PATIENCE_S)
        assert_no_traceback(done.stderr)

    @pytest.mark.parametrize("json_option", [(), ("--json",)], ids=["text", "json"])
    def test_hostile_names_reach_no_terminal(self, run: Run, json_option: tuple[str, ...], tmp_path: Path) -> None:
        events = events_of(4, comm=b"\x1b[2J\x07\xff\n\x9b")
        done = run("replay", str(write(tmp_path / "a.arrows", [batch_of(events)])), "--transitions", *json_option)
        assert done.returncode == 0
        assert all(line.isprintable() for line in done.stdout.splitlines())

    @needs_root
    def test_no_root_is_needed(self, capture: Path) -> None:
        with capture.open("rb") as file:
            content = file.read()
        with _readable_by_all(content, capture.suffix) as path:
            done = as_nobody("replay", str(path), "--json")
        assert (done.returncode, done.stderr) == (0, "")

    @needs_root
    def test_a_capture_that_may_not_be_read_fails_with_the_reason(self, capture: Path) -> None:
        with _readable_by_all(capture.read_bytes(), capture.suffix) as path:
            path.chmod(0o600)
            done = as_nobody("replay", str(path))
        assert done.returncode == 1
        assert "Permission denied" in done.stderr
        assert_one_line(done.stderr)

    def test_a_signal_ends_a_slow_replay_with_its_summary(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.jsonl", [batch_of(events_of(4, ts_ns=[1, 2, 3, 3_600_000_000_000]))])
        with running("replay", str(path), "--json", "--speed", "1", directory=tmp_path) as command:
            command.process.send_signal(signal.SIGINT)
            assert command.wait() == 0
        assert command.lines()[-1]["type"] == "summary"


@contextmanager
def _readable_by_all(content: bytes, suffix: str) -> Iterator[Path]:
    """A file where any user may go (pytest's own directory is private)."""
    directory = Path(f"/tmp/regtrace-test-{os.getpid()}")
    directory.mkdir(mode=0o755)
    try:
        path = directory / f"trace{suffix}"
        path.write_bytes(content)
        path.chmod(0o644)
        yield path
    finally:
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()


class TestStandardOutput:
    def test_a_warning_that_nobody_can_be_told_ends_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Path("/dev/full").open("wb", buffering=0) as full:
            monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(full, write_through=True))
            _warn("something is odd")
            sys.stderr.detach()  # type: ignore[attr-defined]

    @pytest.mark.parametrize("json_option", [(), ("--json",)], ids=["text", "json"])
    def test_a_reader_that_left_is_no_traceback(self, capture: Path, json_option: tuple[str, ...]) -> None:
        with _closed_pipe() as stdout:
            done = regtrace("replay", str(capture), *json_option, stdout=stdout, capture_output=False, stderr=subprocess.PIPE)
        assert done.returncode == 1
        assert_one_line(done.stderr)

    def test_a_reader_that_left_before_the_help_is_no_traceback(self) -> None:
        with _closed_pipe() as stdout:
            done = regtrace("--help", stdout=stdout, capture_output=False, stderr=subprocess.PIPE)
        assert_no_traceback(done.stderr)

    @pytest.mark.parametrize("json_option", [(), ("--json",)], ids=["text", "json"])
    def test_a_full_disk_behind_it_is_an_error_with_the_reason(self, capture: Path, json_option: tuple[str, ...]) -> None:
        with Path("/dev/full").open("w") as full:
            done = regtrace("replay", str(capture), *json_option, stdout=full, capture_output=False, stderr=subprocess.PIPE)
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert_one_line(done.stderr)

    @pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "PYTHONUNBUFFERED"])
    def test_a_signal_while_its_pipe_is_full_cuts_no_line(self, unbuffered: str, tmp_path: Path) -> None:
        path = write(tmp_path / "a.arrows", [batch_of(events_of(4000, ts_ns=range(1000, 5000)))])
        command = [sys.executable, "-m", "tracer", "replay", str(path), "--json", "--transitions"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment(PYTHONUNBUFFERED=unbuffered)
        ) as running:
            assert running.stdout is not None
            first = running.stdout.readline()
            _wait_until_asleep(running.pid)
            running.send_signal(signal.SIGTERM)
            _wait_until_asleep(running.pid)
            lines = [json.loads(line) for line in (first, *running.stdout)]
        assert (lines[0]["type"], lines[-1]["type"]) == ("start", "summary")
        assert len([line for line in lines if line["type"] == "transition"]) == 4000

    def test_none_at_all_is_no_traceback(self, capture: Path) -> None:
        done = _with_closed(">&-", "replay", str(capture))
        assert_no_traceback(done.stderr)

    def test_no_standard_error_changes_no_exit_code(self, tmp_path: Path) -> None:
        assert _with_closed("2>&-", "replay", str(tmp_path / "missing.jsonl")).returncode == 1

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_a_terminal_without_utf_8_is_no_traceback(self, encoding: str, tmp_path: Path) -> None:
        events = events_of(4, ts_ns=[1000, 2000, 3000, 4000], comm="münze".encode())
        path = write(tmp_path / "a.arrows", [batch_of(events)])
        done = regtrace("replay", str(path), env=environment(PYTHONIOENCODING=encoding))
        assert_no_traceback(done.stderr)
        assert done.returncode == 0


def _wait_until_asleep(pid: int) -> None:
    """Until a process sleeps and has done so for a while: it waits for somebody."""
    asleep, until_s = 0, time.monotonic() + PATIENCE_S
    while asleep < 10 and time.monotonic() < until_s:
        time.sleep(0.02)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        asleep = asleep + 1 if state == "S" else 0
    assert asleep == 10


@contextmanager
def _closed_pipe() -> Iterator[int]:
    """The writing end of a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


def _with_closed(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command run by a shell that closes one of its standard files."""
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "tracer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=PATIENCE_S)


class Command:
    """A command that runs in a process group of its own, its output in files."""

    def __init__(self, arguments: tuple[str, ...], directory: Path, wait_for_start: bool) -> None:
        self._out, self._err = directory / "stdout", directory / "stderr"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tracer", *arguments],
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env=environment(),
                start_new_session=True,
            )
        if wait_for_start:
            eventually(lambda: bool(self._out.read_bytes()) or self.process.poll() is not None, "the start line")

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(PATIENCE_S)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._out.read_text().splitlines()]

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def programs(self) -> set[int]:
        """Ids of the BPF programs it holds."""
        found: set[int] = set()
        for info in Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
            match = re.search(r"^prog_id:\s*(\d+)$", info.read_text(), re.MULTILINE)
            found |= {int(match[1])} if match else set()
        return found

    def left_behind(self) -> bool:
        """Whether a process of its group lives."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


@contextmanager
def running(*arguments: str, directory: Path, wait_for_start: bool = True) -> Iterator[Command]:
    command = Command(arguments, directory, wait_for_start)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            os.killpg(command.process.pid, signal.SIGKILL)
            command.wait()


def hang_up(connection: socket.socket) -> None:
    """Close at once."""


def connect(port: int, times: int = 1) -> None:
    for _ in range(times):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.recv(1)


def seen(command: Command) -> bool:
    return any(line["type"] == "connection" for line in command.lines()[:5])


@needs_root
@pytest.mark.ebpf
class TestLive:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_a_watch_with_its_summary(self, number: signal.Signals, tmp_path: Path) -> None:
        with serving(hang_up) as port, running("watch", "--json", f"--registry=127.0.0.1:{port}", directory=tmp_path) as command:
            connect(port)
            eventually(lambda: seen(command), "the connection")
            command.process.send_signal(number)
            assert command.wait() == 0
        assert command.lines()[-1]["type"] == "summary"
        assert without_source_line(command.stderr) == ""

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
    def test_a_signal_before_anything_was_seen_has_its_own_exit_code(
        self, number: signal.Signals, code: int, tmp_path: Path
    ) -> None:
        with running("watch", "--json", "--registry", UNUSED, directory=tmp_path) as command:
            command.process.send_signal(number)
            assert command.wait() == code
        assert command.lines()[-1]["type"] == "summary"

    def test_an_interrupt_from_the_keyboard_while_the_program_is_compiled_is_no_failure(self, tmp_path: Path) -> None:
        with running("watch", "--json", "--registry", UNUSED, directory=tmp_path, wait_for_start=False) as command:
            children = Path(f"/proc/{command.process.pid}/task/{command.process.pid}/children")
            eventually(lambda: bool(children.read_text().strip()) or command.process.poll() is not None, "the compiler")
            os.killpg(command.process.pid, signal.SIGINT)
            assert command.wait() == 130
        assert_no_traceback(command.stderr)

    def test_a_watch_ends_after_its_duration(self) -> None:
        done = regtrace("watch", "--json", "--registry", UNUSED, "--duration", "0.1")
        assert done.returncode == 0
        assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["start", "endpoint", "address", "summary"]

    def test_a_watch_whose_reader_left_ends(self, tmp_path: Path) -> None:
        with serving(hang_up) as port:
            arguments = [sys.executable, "-m", "tracer", "watch", "--json", f"--registry=127.0.0.1:{port}"]
            with subprocess.Popen(
                arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=environment(), start_new_session=True
            ) as process:
                assert process.stdout is not None
                assert process.stderr is not None
                try:
                    process.stdout.readline()  # as head -1 does
                    process.stdout.close()
                    connect(port)
                    assert process.wait(PATIENCE_S) == 1
                finally:
                    process.kill()
                stderr = process.stderr.read().decode()
        assert_one_line(without_source_line(stderr))
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.slow
    def test_a_killed_recorder_leaves_what_was_before_its_last_second(self, suffix: str, tmp_path: Path) -> None:
        trace = tmp_path / f"trace{suffix}"
        with (
            serving(hang_up) as port,
            running("record", str(trace), "--json", f"--registry=127.0.0.1:{port}", directory=tmp_path) as command,
        ):
            connect(port, 20)
            eventually(lambda: _openings(trace, port) >= 20, "what was seen is in the capture")
            connect(port, 3)
            command.process.kill()
            command.wait()
        batches, truncated = read(trace)
        assert truncated
        assert sum(len(batch) for batch in batches) >= 20 * 5

    def test_a_killed_recorder_leaves_no_program_and_no_process(self, tmp_path: Path) -> None:
        with running("record", str(tmp_path / "a.arrows"), "--json", "--registry", UNUSED, directory=tmp_path) as command:
            held = command.programs()
            assert held
            command.process.kill()
            command.wait()
            eventually(lambda: not held & {number for number, _, _ in loaded_programs()}, "the kernel has freed the program")
            eventually(lambda: not command.left_behind(), "every process of the recorder has ended")

    @pytest.mark.slow
    def test_a_recorder_outlives_its_terminal(self, tmp_path: Path) -> None:
        master, slave = pty.openpty()
        with serving(hang_up) as port:
            command = [sys.executable, "-m", "tracer", "record", str(tmp_path / "a.arrows"), f"--registry=127.0.0.1:{port}"]
            variables = environment(TERM="xterm-256color")
            process = subprocess.Popen(
                command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=variables, start_new_session=True
            )
            os.close(slave)
            shown = b""
            while b"\x1b[?1049h" not in shown:
                shown += os.read(master, 65536)
            os.close(master)
            connect(port, times=20)
            time.sleep(1.5)  # for a picture with them to be due
            connect(port, times=20)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        assert sum(line["type"] == "connection" for line in replayed(tmp_path / "a.arrows")) == 40

    def test_a_recorder_that_ended_leaves_a_whole_private_capture(self, tmp_path: Path) -> None:
        trace = tmp_path / "a.arrows"
        with (
            serving(hang_up) as port,
            running("record", str(trace), "--json", f"--registry=127.0.0.1:{port}", directory=tmp_path) as command,
        ):
            connect(port, 5)
            eventually(lambda: seen(command), "a connection")
            command.process.send_signal(signal.SIGTERM)
            assert command.wait() == 0
        assert stat.S_IMODE(trace.stat().st_mode) == 0o600
        assert replayed(trace)[-1]["truncated"] is None

    def test_a_replay_of_a_recording_says_what_the_recorder_said(self, tmp_path: Path) -> None:
        trace = tmp_path / "a.arrows"
        with (
            serving(hang_up) as port,
            running(
                "record", str(trace), "--json", "--transitions", f"--registry=127.0.0.1:{port}", directory=tmp_path
            ) as command,
        ):
            connect(port, 5)
            eventually(lambda: any(line["type"] == "connection" for line in command.lines()), "a connection")
            command.process.send_signal(signal.SIGTERM)
            assert command.wait() == 0
        live = sorted(json.dumps(line) for line in command.lines() if line["type"] == "connection")
        assert sorted(json.dumps(line) for line in replayed(trace) if line["type"] == "connection") == live

    def test_an_existing_capture_is_refused_and_untouched(self, tmp_path: Path) -> None:
        (tmp_path / "a.arrows").write_bytes(b"precious")
        done = regtrace("record", str(tmp_path / "a.arrows"), "--registry", UNUSED, "--duration", "0.1")
        assert (done.returncode, done.stdout) == (1, "")
        assert "--force" in done.stderr
        assert (tmp_path / "a.arrows").read_bytes() == b"precious"

    def test_force_replaces_an_existing_capture(self, tmp_path: Path) -> None:
        (tmp_path / "a.arrows").write_bytes(b"old")
        done = regtrace("record", str(tmp_path / "a.arrows"), "--force", "--registry", UNUSED, "--duration", "0.1")
        assert done.returncode == 0
        assert replayed(tmp_path / "a.arrows")[-1]["events"] == 0

    def test_a_directory_that_does_not_exist_fails_with_the_reason(self, tmp_path: Path) -> None:
        done = regtrace("record", str(tmp_path / "missing" / "a.arrows"), "--registry", UNUSED, "--duration", "0.1")
        assert (done.returncode, done.stdout) == (1, "")
        assert "No such file or directory" in done.stderr
        assert_one_line(without_source_line(done.stderr))

    def test_a_directory_that_can_not_be_written_fails_with_the_reason(self) -> None:
        done = regtrace("record", "/proc/a.arrows", "--registry", UNUSED, "--duration", "0.1")
        assert (done.returncode, done.stdout) == (1, "")
        assert_one_line(without_source_line(done.stderr))

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.slow
    def test_a_full_disk_ends_a_recording_and_keeps_what_was_written(self, suffix: str, small_disk: Path, tmp_path: Path) -> None:
        trace = small_disk / f"trace{suffix}"
        with (
            serving(hang_up) as port,
            running("record", str(trace), "--json", f"--registry=127.0.0.1:{port}", directory=tmp_path) as command,
        ):
            connect(port, 10)
            eventually(lambda: _openings(trace, port) >= 10, "what was seen is in the capture")
            with _traffic(port):
                assert command.wait() == 1
        assert "No space left on device" in command.stderr
        assert_one_line(without_source_line(command.stderr))
        assert command.lines()[-1]["type"] == "summary"
        assert _openings(trace, port) >= 10


@contextmanager
def _traffic(port: int) -> Iterator[None]:
    """Connections, one after the other, while inside."""
    enough = threading.Event()

    def work() -> None:
        while not enough.is_set():
            connect(port)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        enough.set()
        worker.join()


def _openings(trace: Path, port: int) -> int:
    """Openings in a capture that may still be written."""
    if not trace.exists():
        return 0
    batches, _ = read(trace)
    events = [batch.events[(batch.events["new_state"] == 2) & (batch.events["dport"] == port)] for batch in batches]
    return sum(map(len, events))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={FULL_BYTES}", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@needs_root
@pytest.mark.parametrize(
    "command", [("watch",), ("record", "/tmp/regtrace-never-created.arrows")], ids=lambda command: command[0]
)
def test_ebpf_without_privilege_says_what_is_missing_and_what_to_do(command: tuple[str, ...]) -> None:
    done = as_nobody(*command, "--registry", UNUSED, "--source", "ebpf", "--duration", "0.1")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(r"eBPF is not available: .*CAP_BPF.*; .*sudo", done.stderr)
    assert_one_line(done.stderr)


@needs_root
def test_without_privilege_the_next_best_source_is_taken_and_what_it_lacks_is_said() -> None:
    done = as_nobody("watch", "--json", "--registry", UNUSED, "--duration", "0.1")
    assert done.returncode == 0
    start = json.loads(done.stdout.splitlines()[0])
    assert start["source"] == "polled"
    assert re.search(r"CAP_BPF", start["why"])
    assert "owners are known of this user's own processes only" in start["why"]
    assert start["why"] in done.stderr
