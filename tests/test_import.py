"""`regtrace import` as its users meet it: a capture that replays, or one message and no file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import printed
from tests.live import PATIENCE_S, ROOT
from tests.test_captures import HEADER, SUFFIXES, write
from tests.test_imports_formats import SAMPLES
from tests.test_imports_importer import lives
from tests.test_main import Run, assert_no_traceback, assert_one_line, environment
from tests.traces import Life, build
from tracer.analysis import Analysis
from tracer.captures import open_trace
from tracer.events import EventBatch
from tracer.imports.formats import FORMATS
from tracer.main import main
from tracer.options import IMPORT_FORMATS
from tracer.pipeline import Stop, run_replay
from tracer.reports.text_report import summary_texts


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def text_file(tmp_path: Path, lines: list[bytes], name: str = "states.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def summary_of(run: Run, trace: Path) -> dict[str, Any]:
    replayed = run("replay", str(trace), "--json")
    assert replayed.returncode == 0, replayed.stderr
    return json.loads(replayed.stdout.splitlines()[-1])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_true_output_becomes_a_capture_that_replays(run: Run, tmp_path: Path, sample: Path, suffix: str) -> None:
    trace = tmp_path / f"trace{suffix}"
    done = run("import", str(sample), "-o", str(trace))
    assert (done.returncode, done.stderr if "order" not in done.stderr else "") == (0, "")
    summary = summary_of(run, trace)
    assert {endpoint["endpoint"] for endpoint in summary["endpoints"]} == {
        f"{address}:{port}" for address in ("198.18.0.1", "[2001:db8::1]") for port in (443, 5000)
    }
    assert summary["connections"] >= 15
    assert (summary["coverage"], summary["lost"], summary["truncated"]) == (None, None, None)


EXACT = [path for path in SAMPLES if path.stem.endswith(("_t", "_tT", "_st", "_wtT"))]


@pytest.mark.parametrize("sample", EXACT, ids=lambda path: path.stem)
def test_the_time_in_each_state_is_what_the_tool_measured(run: Run, tmp_path: Path, sample: Path) -> None:
    """Times come from TIME(s), MS from the tool's own second look at the clock; they agree to 0.2 ms."""
    trace = tmp_path / "trace.jsonl"
    run("import", str(sample), "-o", str(trace))
    lines = [json.loads(line) for line in run("replay", str(trace), "--json").stdout.splitlines()]
    states = [line["states"] for line in lines if line["type"] == "connection"]
    own = sorted(each["ESTABLISHED"] / 1e6 for each in states if "ESTABLISHED" in each)
    words = [line.replace(",", " ").replace("->", " ").split() for line in sample.read_text().splitlines()]
    theirs = sorted(float(each[-1]) for each in words if each[-3] == "ESTABLISHED")
    assert len(own) == len(theirs) > 5
    assert max(abs(one - other) for one, other in zip(own, theirs, strict=True)) < 0.2


def test_no_times_means_that_no_rule_judges(run: Run, tmp_path: Path) -> None:
    trace = tmp_path / "trace.arrows"
    done = run("import", str(text_file(tmp_path, printed.tcpstates(lives(1)))), "-o", str(trace))
    assert "durations only" in done.stdout
    replayed = run("replay", str(trace))
    assert "finding" not in replayed.stdout.replace("findings", "")
    summary = summary_of(run, trace)
    assert summary["open_findings"] == []
    assert len(summary["abstained"]) > 10
    for said in (run("show", str(trace)), run("show", str(trace), "--connection", "1"), run("diff", str(trace), str(trace))):
        assert "no times, durations only" in said.stdout
        assert "e+04" not in said.stdout
    report = run("report", str(trace), "--format", "md", "-o", "-").stdout
    assert "**Can't say: " in report
    assert "There are no times: durations are right, but not when anything happened." in report
    assert "e+04" not in report


def test_a_name_of_a_registry_is_in_the_capture(run: Run, tmp_path: Path) -> None:
    trace = tmp_path / "trace.arrows"
    source = text_file(tmp_path, printed.key_value(lives(2)))
    assert run("import", str(source), "-o", str(trace), "--registry", "ghcr.io=203.0.113.1").returncode == 0
    opened = open_trace(trace)
    opened.close()
    assert opened.header.endpoints == {1: "ghcr.io:443"}
    assert "ghcr.io:443" in run("replay", str(trace)).stdout


def test_standard_input_is_read(tmp_path: Path) -> None:
    lines = b"\n".join(printed.key_value(lives(3)))
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "import", "-", "-o", str(tmp_path / "trace.arrows")],
        input=lines, capture_output=True, cwd=ROOT, env=environment(), timeout=PATIENCE_S,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"standard input" in done.stdout


def test_lines_that_can_not_be_understood_are_told(run: Run, tmp_path: Path) -> None:
    source = text_file(tmp_path, [*printed.key_value(lives(4)), b"\x1b[2Jrubbish", b"a", b"b", b"c"])
    done = run("import", str(source), "-o", str(tmp_path / "trace.arrows"))
    assert done.returncode == 0
    assert "4 of " in done.stderr
    assert done.stderr.count(": line ") == 3
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("content", [b"\n\n", b"hello\nworld\n", bytes(range(256)) * 300, b"x" * 300_000])
def test_what_is_no_tools_output_is_refused_with_the_formats_there_are(run: Run, tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "states.txt"
    source.write_bytes(content)
    done = run("import", str(source), "-o", str(tmp_path / "trace.arrows"))
    assert done.returncode == 1
    assert all(each.name in done.stderr for each in FORMATS)
    assert [path.name for path in tmp_path.iterdir()] == ["states.txt"]


def test_an_empty_file_is_said_to_be_empty(run: Run, tmp_path: Path) -> None:
    done = run("import", str(text_file(tmp_path, [])), "-o", str(tmp_path / "trace.arrows"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "is empty: the tool that should have written it has probably failed" in done.stderr


def test_a_format_that_is_named_is_the_only_one(run: Run, tmp_path: Path) -> None:
    source = text_file(tmp_path, printed.ftrace(lives(5)))
    done = run("import", str(source), "-o", str(tmp_path / "trace.arrows"), "--from", "tcpstates")
    assert done.returncode == 1
    assert run("import", str(source), "-o", str(tmp_path / "trace.arrows"), "--from", "ftrace").returncode == 0


def test_nothing_that_is_wanted_is_said_with_what_there_is(run: Run, tmp_path: Path) -> None:
    source = text_file(tmp_path, printed.key_value(lives(6)))
    done = run("import", str(source), "-o", str(tmp_path / "trace.arrows"), "--port", "8443")
    assert done.returncode == 1
    assert "203.0.113.1:443" in done.stderr
    assert_one_line(done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["states.txt"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("import",),
        ("import", "states.txt"),
        ("import", "states.txt", "-o", "trace.txt"),
        ("import", "states.txt", "-o", "trace.arrows", "--port", "0"),
        ("import", "states.txt", "-o", "trace.arrows", "--registry", "ghcr.io"),
        ("import", "states.txt", "-o", "trace.arrows", "--from", "pcap"),
    ],
)
def test_what_can_not_be_meant_is_a_usage_error(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert_one_line(done.stderr)


def test_a_file_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    done = run("import", str(tmp_path / "nothing"), "-o", str(tmp_path / "trace.arrows"))
    assert done.returncode == 1
    assert "nothing can't be read" in done.stderr


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_capture_is_not_imported_again(run: Run, tmp_path: Path, suffix: str) -> None:
    capture = tmp_path / f"old{suffix}"
    write(capture, [])
    done = run("import", str(capture), "-o", str(tmp_path / "trace.arrows"))
    assert done.returncode == 1
    assert "replay" in done.stderr


def test_an_existing_file_is_replaced_only_by_force_and_never_by_nothing(run: Run, tmp_path: Path) -> None:
    source, trace = text_file(tmp_path, printed.key_value(lives(7))), tmp_path / "trace.arrows"
    trace.write_bytes(b"mine")
    assert run("import", str(source), "-o", str(trace)).returncode == 1
    assert run("import", str(text_file(tmp_path, [b"x"], "x")), "-o", str(trace), "--force").returncode == 1
    assert trace.read_bytes() == b"mine"
    assert run("import", str(source), "-o", str(trace), "--force").returncode == 0
    assert trace.stat().st_mode & 0o777 == 0o600


def test_the_file_that_is_read_is_not_written(run: Run, tmp_path: Path) -> None:
    source = text_file(tmp_path, printed.key_value(lives(8)), "states.jsonl")
    before = source.read_bytes()
    assert run("import", str(source), "-o", str(source), "--force").returncode == 2
    assert source.read_bytes() == before


def test_a_folder_that_takes_nothing_is_named(run: Run, tmp_path: Path) -> None:
    source = text_file(tmp_path, printed.key_value(lives(9)))
    done = run("import", str(source), "-o", str(tmp_path / "missing" / "trace.arrows"))
    assert done.returncode == 1
    assert_one_line(done.stderr)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_import_that_is_interrupted_leaves_no_file(tmp_path: Path, number: signal.Signals) -> None:
    trace = tmp_path / "trace.arrows"
    process = _feeding(trace)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert_no_traceback(stderr.decode())
    assert not list(tmp_path.iterdir())


def test_ctrl_c_at_a_pipe_is_the_tools_and_what_it_wrote_is_kept(tmp_path: Path) -> None:
    trace = tmp_path / "trace.arrows"
    process = _feeding(trace)
    process.send_signal(signal.SIGINT)
    out, stderr = process.communicate(timeout=PATIENCE_S)  # which ends its input
    assert (process.returncode, stderr) == (0, b"")
    assert b"70000 lines" in out
    assert trace.exists()


def _feeding(trace: Path) -> subprocess.Popen[bytes]:
    """An import that has begun to write, and waits for more."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tracer", "import", "-", "-o", str(trace)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=environment(),
    )  # fmt: skip
    assert process.stdin is not None
    lines = printed.key_value(lives(10))
    process.stdin.write(b"".join(line + b"\n" for line in (lines * (70_000 // len(lines) + 1))[:70_000]))
    process.stdin.flush()
    until_s = time.monotonic() + PATIENCE_S
    while not trace.exists() and time.monotonic() < until_s:
        time.sleep(0.02)
    assert trace.exists()
    return process


def test_a_closed_standard_input_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["import", "-", "-o", str(tmp_path / "trace.arrows")]) == 1
    assert "standard input is closed" in capsys.readouterr().err


def test_the_formats_that_can_be_named_are_those_there_are() -> None:
    assert set(IMPORT_FORMATS) == {"auto", *(each.name for each in FORMATS)}


def test_the_program_for_bpftrace_is_printed(run: Run) -> None:
    done = run("import", "--program")
    assert done.returncode == 0
    assert "tracepoint:sock:inet_sock_set_state" in done.stdout
    assert "// Needs tracefs; where it is not mounted: mount -t tracefs tracefs /sys/kernel/tracing\n" in done.stdout


def test_help_explains_the_lines(run: Run) -> None:
    shown = run("import", "--help").stdout
    assert all(key in shown for key in ("ns=", "sk=", "old=", "raddr=", "comm=", "Exit codes"))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("known", [True, False])
def test_a_capture_says_whether_its_losses_are_known(tmp_path: Path, suffix: str, known: bool) -> None:
    path = tmp_path / f"trace{suffix}"
    write(path, [], header=replace(HEADER, loss_known=known))
    opened = open_trace(path)
    opened.close()
    assert opened.header.loss_known is known


def test_a_trace_whose_losses_are_unknown_claims_nothing() -> None:
    events = printed.only_transitions(build([Life("peer"), Life("local", socket=1, skip=1)]))
    header = replace(HEADER, source="ebpf", loss_known=False)
    batches = iter([EventBatch(events, "ebpf", 1)])
    made: Analysis = run_replay(batches, header, [], Stop(), lambda: None)
    summary = made.summary()
    assert summary.coverage is None
    assert "loss unknown, coverage unknown" in "\n".join(summary_texts(summary))


def test_what_was_open_before_is_not_told_from_what_was_lost() -> None:
    events = printed.only_transitions(build([Life("local", skip=1)]))
    known, unknown = (
        Analysis("ebpf", 1, {}, loss_known=each).feed(EventBatch(events, "ebpf", 1)).ended for each in (True, False)
    )
    assert (known["preexisting"].tolist(), unknown["preexisting"].tolist()) == ([1], [-1])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["show"], "loss unknown, coverage unknown"),
        (["report", "-o", "-", "--format", "md"], "does not say what it lost"),
        (["diff"], "LOSS UNKNOWN"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_who_looks_at_an_import_is_told_that_nobody_knows_what_was_lost(
    run: Run, tmp_path: Path, command: list[str], said: str
) -> None:
    trace = tmp_path / "trace.arrows"
    run("import", str(SAMPLES[0]), "-o", str(trace))
    name, *options = command
    done = run(name, str(trace), *([str(trace)] if name == "diff" else []), *options)
    assert said in done.stdout
