"""`regtrace export` as its users meet it: what is written where, what is refused, and that nothing half is left behind."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from tests.live import PATIENCE_S, ROOT
from tests.replays import REPLAYS, trace_of
from tests.test_main import Run, assert_no_traceback, assert_one_line, environment, eventually, regtrace, run
from tests.timelines import read
from tests.whole import collected_file
from tracer.commands.writing import created
from tracer.errors import MissingError, OutputError
from tracer.exports import export, writer_of
from tracer.lifecycle import REASON_NAMES
from tracer.options import BINARY, EXPORTS, TABLES

__all__ = ["run"]  # a fixture

PULL = trace_of(REPLAYS / "registry-pull")
LOST = trace_of(REPLAYS / "lost-events")
EACH = ["csv", "perfetto", *(pytest.param(to, marks=pytest.mark.slow) for to in ("jsonl", "parquet"))]
"""Where each takes a process of its own."""
EMPTY = '{"type": "start", "format": 1, "source": "ebpf", "resolution_ns": 1, "endpoints": []}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where nothing may be left but what a test asks for."""
    made = tmp_path / "out"
    made.mkdir()
    return made


class TestFormats:
    def test_json_lines_are_those_of_a_replay(self, run: Run, folder: Path) -> None:
        file = folder / "a.jsonl"
        assert run("export", str(LOST), "--to", "jsonl", "-o", str(file)).returncode == 0
        assert file.read_text() == run("replay", str(LOST), "--json", "--transitions").stdout

    @pytest.mark.parametrize("name", ["registry-pull", "lab-skopeo-429-kept", "lost-events", "missing-syn", "lab-swarm-1s"])
    def test_json_lines_are_a_capture_with_the_same_connections(self, run: Run, folder: Path, name: str) -> None:
        file = folder / "a.jsonl"
        assert run("export", str(trace_of(REPLAYS / name)), "--to", "jsonl", "-o", str(file)).returncode == 0
        before, after = collected_file(trace_of(REPLAYS / name)), collected_file(file)
        assert (after.rows == before.rows).all()
        assert after.details == before.details
        assert after.findings == before.findings
        assert (after.summary.lost, after.summary.connections) == (before.summary.lost, before.summary.connections)

    @pytest.mark.parametrize("what", ["connections", "transitions", "findings"])
    def test_tables_have_a_row_for_each(self, run: Run, folder: Path, what: str) -> None:
        trace = trace_of(REPLAYS / "lab-skopeo-429-kept")
        collected = collected_file(trace)
        count = {"connections": len(collected.rows), "transitions": len(collected.events), "findings": len(collected.findings)}[
            what
        ]
        for to in ("csv", "parquet"):
            assert run("export", str(trace), "--to", to, "--what", what, "-o", str(folder / to)).returncode == 0
        assert len(pl.read_parquet(folder / "parquet")) == count
        assert len(pl.read_csv(folder / "csv")) == count

    def test_connections_are_the_table_that_is_written(self, run: Run) -> None:
        done = run("export", str(PULL), "--to", "csv")
        assert done.stdout.startswith("endpoint,role,laddr")
        assert "close_reason" in done.stdout.splitlines()[0]

    def test_a_timeline_has_the_connections(self, run: Run, folder: Path) -> None:
        file = folder / "a.pftrace"
        assert run("export", str(PULL), "--to", "perfetto", "-o", str(file)).returncode == 0
        found = [each.arguments["close_reason"] for each in read(file.read_bytes()).of("connection")]
        assert found == [REASON_NAMES[reason] for reason in collected_file(PULL).rows["close_reason"]]

    @pytest.mark.parametrize("to", EACH)
    def test_standard_output_has_what_a_file_has(self, folder: Path, to: str) -> None:
        file = folder / "a"
        assert regtrace("export", str(LOST), "--to", to, "-o", str(file)).returncode == 0
        command = [sys.executable, "-m", "tracer", "export", str(LOST), "--to", to, "-o", "-"]
        done = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment(), timeout=PATIENCE_S)
        assert done.returncode == 0
        assert done.stdout == file.read_bytes()

    @pytest.mark.parametrize("to", EXPORTS)
    def test_a_trace_without_events_is_written(self, run: Run, folder: Path, to: str) -> None:
        (folder / "empty.jsonl").write_text(EMPTY)
        done = run("export", str(folder / "empty.jsonl"), "--to", to, "-o", str(folder / "a"))
        assert done.returncode == 0
        assert (folder / "a").stat().st_size > 0

    @pytest.mark.parametrize("to", EXPORTS)
    def test_a_truncated_capture_is_written_as_far_as_it_goes(self, run: Run, folder: Path, to: str) -> None:
        whole = trace_of(REPLAYS / "lab-skopeo-429-kept").read_bytes()
        (folder / "cut.arrows").write_bytes(whole[:-1000])
        done = run("export", str(folder / "cut.arrows"), "--to", to, "-o", str(folder / "a"))
        assert done.returncode == 0
        content = (folder / "a").read_bytes()
        if to == "jsonl":
            assert json.loads(content.splitlines()[-1])["truncated"]
        elif to == "parquet":
            assert pl.read_parquet_metadata(folder / "a")["regtrace.truncated"] != "no"
        elif to == "perfetto":
            (trace,) = read(content).of("trace")
            assert trace.arguments["truncated"] != "no"
            assert trace.name.endswith("truncated")

    def test_rules_are_those_that_are_asked_for(self, run: Run) -> None:
        trace = str(trace_of(REPLAYS / "textbook-close-wait-threshold-hit"))
        evidence = run("export", trace, "--to", "csv", "--what", "findings", "--rules", "evidence").stdout
        textbook = run("export", trace, "--to", "csv", "--what", "findings", "--rules", "textbook").stdout
        assert "textbook/" in textbook
        assert "textbook/" not in evidence

    @pytest.mark.parametrize("to", ["csv", "parquet", "perfetto"])
    def test_what_is_missing_is_said(self, run: Run, folder: Path, to: str) -> None:
        done = run("export", str(LOST), "--to", to, "-o", str(folder / "a"))
        assert done.returncode == 0
        assert "5 events" in done.stderr
        assert run("export", str(PULL), "--to", to, "-o", str(folder / "b")).stderr == ""

    @pytest.mark.parametrize("what", TABLES)
    def test_a_table_of_more_rows_than_a_part_is_whole(self, run: Run, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
        command = ("export", str(trace_of(REPLAYS / "lab-loop-refused")), "--to", "csv", "--what", what)
        whole = run(*command).stdout
        monkeypatch.setattr("tracer.exports.csv_file._PART_ROWS", 3)
        assert run(*command).stdout == whole
        assert whole.count("\r\n") > (1 if what == "findings" else 4)


class TestUsage:
    @pytest.mark.parametrize("to", BINARY)
    def test_a_binary_format_needs_a_file(self, run: Run, to: str) -> None:
        done = run("export", str(PULL), "--to", to)
        assert (done.returncode, done.stdout) == (2, "")
        assert "-o FILE" in done.stderr
        assert_one_line(done.stderr)

    @pytest.mark.parametrize("to", BINARY)
    def test_nothing_binary_is_written_to_a_terminal(self, to: str) -> None:
        leader, follower = pty.openpty()
        try:
            done = regtrace(
                "export", str(PULL), "--to", to, "-o", "-", stdout=follower, stderr=subprocess.PIPE, capture_output=False
            )
            os.set_blocking(leader, False)
            with pytest.raises(BlockingIOError):
                os.read(leader, 1)
        finally:
            os.close(leader)
            os.close(follower)
        assert done.returncode == 2
        assert "terminal" in done.stderr
        assert_one_line(done.stderr)

    def test_text_on_a_terminal_has_no_escapes(self, folder: Path) -> None:
        line = EMPTY.replace('"endpoints": []', r'"endpoints": [{"id": 1, "endpoint": "\u001b[31m:443"}]')
        (folder / "a.jsonl").write_text(
            line + '{"type": "transition", "ts_ns": 1, "skaddr": "0x1", "endpoint": "\\u001b[31m:443", "raddr": "192.0.2.1", '
            '"rport": 443, "old": "CLOSE", "new": "SYN_SENT", "owner": true, "pid": 1, "comm": "\\u001b[2J"}\n'
        )
        leader, follower = pty.openpty()
        try:
            done = regtrace(
                "export", str(folder / "a.jsonl"), "--to", "csv", stdout=follower, stderr=subprocess.PIPE, capture_output=False
            )
            os.set_blocking(leader, False)
            shown = os.read(leader, 1 << 16)
        finally:
            os.close(leader)
            os.close(follower)
        assert done.returncode == 0
        assert b"\x1b" not in shown
        assert b"\\x1b" in shown

    @pytest.mark.parametrize("to", ["jsonl", "perfetto"])
    def test_what_is_for_tables(self, run: Run, to: str) -> None:
        done = run("export", str(PULL), "--to", to, "--what", "findings", "-o", "-" if to == "jsonl" else "x")
        assert done.returncode == 2
        assert "--what" in done.stderr

    @pytest.mark.parametrize("to", EXPORTS)
    def test_the_capture_itself_is_not_overwritten(self, run: Run, folder: Path, to: str) -> None:
        trace = folder / "trace.arrows"
        trace.write_bytes(PULL.read_bytes())
        done = run("export", str(trace), "--to", to, "--force", "-o", str(folder / ".." / "out" / "trace.arrows"))
        assert done.returncode == 2
        assert trace.read_bytes() == PULL.read_bytes()

    @pytest.mark.parametrize("to", EXPORTS)
    def test_a_capture_that_is_none_leaves_nothing(self, run: Run, folder: Path, to: str) -> None:
        (folder / "none").write_bytes(b"\x00\x01")
        for trace in ("none", "missing"):
            done = run("export", str(folder / trace), "--to", to, "-o", str(folder / "a"))
            assert done.returncode == 1
            assert_one_line(done.stderr)
        assert [each.name for each in folder.iterdir()] == ["none"]

    def test_a_later_version_is_refused(self, run: Run, folder: Path) -> None:
        (folder / "later.jsonl").write_text(EMPTY.replace('"format": 1', '"format": 999'))
        done = run("export", str(folder / "later.jsonl"), "--to", "csv")
        assert done.returncode == 1
        assert "999" in done.stderr


class TestFiles:
    @pytest.mark.parametrize("to", EXPORTS)
    def test_a_file_is_private(self, run: Run, folder: Path, to: str) -> None:
        assert run("export", str(PULL), "--to", to, "-o", str(folder / "a")).returncode == 0
        assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o600

    @pytest.mark.parametrize("to", EXPORTS)
    def test_an_existing_file_is_replaced_only_by_force(self, run: Run, folder: Path, to: str) -> None:
        file = folder / "a"
        file.write_text("mine")
        done = run("export", str(PULL), "--to", to, "-o", str(file))
        assert done.returncode == 1
        assert "--force" in done.stderr
        assert file.read_text() == "mine"
        assert run("export", str(PULL), "--to", to, "-o", str(file), "--force").returncode == 0
        assert file.read_bytes() != b"mine"

    @pytest.mark.parametrize("to", EXPORTS)
    def test_a_link_is_not_followed(self, run: Run, folder: Path, to: str) -> None:
        (folder / "target").write_text("mine")
        (folder / "a").symlink_to(folder / "target")
        assert run("export", str(PULL), "--to", to, "-o", str(folder / "a")).returncode == 1
        assert run("export", str(PULL), "--to", to, "-o", str(folder / "a"), "--force").returncode == 0
        assert (folder / "target").read_text() == "mine"

    def test_a_directory_that_is_not_there_is_said(self, run: Run, folder: Path) -> None:
        done = run("export", str(PULL), "--to", "csv", "-o", str(folder / "none" / "a.csv"))
        assert done.returncode == 1
        assert "can't be created" in done.stderr
        assert_one_line(done.stderr)

    @pytest.mark.parametrize("to", EACH)
    def test_a_file_that_does_not_fit_is_removed(self, folder: Path, to: str) -> None:
        program = (
            "import resource, sys\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            "from tracer.main import main\n"
            "sys.exit(main(sys.argv[1:]))"
        )
        arguments = ["export", str(PULL), "--to", to, "-o", str(folder / "a")]
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(),
            timeout=PATIENCE_S,
        )
        assert done.returncode == 1
        assert "can't be written: File too large" in done.stderr
        assert_one_line(done.stderr)
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize("to", EACH)
    def test_full_standard_output_is_an_error(self, to: str) -> None:
        with Path("/dev/full").open("w") as full:
            done = regtrace("export", str(PULL), "--to", to, "-o", "-", stdout=full, stderr=subprocess.PIPE, capture_output=False)
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert_no_traceback(done.stderr)

    @pytest.mark.parametrize("to", EACH)
    def test_a_reader_that_leaves_is_no_traceback(self, to: str) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = regtrace(
                "export", str(PULL), "--to", to, "-o", "-", stdout=writer, stderr=subprocess.PIPE, capture_output=False
            )
        finally:
            os.close(writer)
        assert done.returncode == 1
        assert "closed by its reader" in done.stderr
        assert_no_traceback(done.stderr)


class TestInterrupted:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_while_lines_are_written_leaves_nothing(self, folder: Path, number: signal.Signals) -> None:
        pipe = folder / "trace"
        os.mkfifo(pipe)
        command = [sys.executable, "-m", "tracer", "export", str(pipe), "--to", "jsonl", "-o", str(folder / "a.jsonl")]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment()) as process:
            with pipe.open("w") as capture:
                capture.write(EMPTY)
                capture.flush()
                eventually(lambda: len(list(folder.iterdir())) > 1, "the file is created")
                process.send_signal(number)
                capture.write('{"type": "clock", "ts_ns": 5}\n')
            _, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130
        assert stderr == "regtrace: interrupted\n"
        assert list(folder.iterdir()) == [pipe]

    @pytest.mark.parametrize("to", ["csv", "parquet", "perfetto"])
    def test_an_interrupted_export_leaves_nothing(self, folder: Path, to: str) -> None:
        def told(_: float) -> None:
            raise KeyboardInterrupt

        collected = collected_file(PULL)
        with pytest.raises(KeyboardInterrupt), created(folder / "a", force=False) as stream:
            export(collected, to, "connections", stream, told)
        assert list(folder.iterdir()) == []

    def test_a_file_whose_end_does_not_fit_is_removed(self, folder: Path) -> None:
        with pytest.raises(OutputError, match="can't be written"), created(folder / "a", force=False) as stream:
            os.dup2(os.open("/dev/full", os.O_WRONLY), stream.fileno())
            stream.write(b"what is still in a buffer when the file is closed")
        assert list(folder.iterdir()) == []

    def test_what_is_replaced_is_there_until_the_new_file_is_whole(self, folder: Path) -> None:
        file = folder / "a"
        file.write_text("old")
        with created(file, force=True) as stream:
            stream.write(b"new")
            stream.flush()
            assert file.read_text() == "old"
        assert file.read_text() == "new"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert list(folder.iterdir()) == [file]

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), OutputError("no room"), OSError(5, "I/O error")])
    def test_what_fails_leaves_the_old_file(self, folder: Path, error: BaseException) -> None:
        (folder / "a").write_text("old")
        with pytest.raises(type(error)) as raised, created(folder / "a", force=True) as stream:
            stream.write(b"new")
            raise error
        assert raised.value is error  # of another file: not told as one of this
        assert [file.read_text() for file in folder.iterdir()] == ["old"]

    @pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("target")])
    def test_a_name_that_was_taken_meanwhile_is_refused(self, folder: Path, make: Callable[[Path], None]) -> None:
        with pytest.raises(OutputError, match=r"exists.*--force"), created(folder / "a", force=False) as stream:
            stream.write(b"new")
            make(folder / "a")
        assert list(folder.iterdir()) == [folder / "a"]
        assert (folder / "a").is_symlink() or (folder / "a").is_dir() or (folder / "a").read_bytes() == b""

    def test_force_replaces_a_link_and_not_what_it_points_to(self, folder: Path) -> None:
        (folder / "target").write_text("mine")
        with created(folder / "a", force=True) as stream:
            stream.write(b"new")
            (folder / "a").symlink_to("target")
        assert (folder / "target").read_text() == "mine"
        assert (folder / "a").read_text() == "new"
        assert not (folder / "a").is_symlink()

    def test_force_replaces_no_fifo_that_came_meanwhile(self, folder: Path) -> None:
        with pytest.raises(OutputError, match="no regular file"), created(folder / "a", force=True) as stream:
            stream.write(b"new")
            os.mkfifo(folder / "a")
        assert [file.is_fifo() for file in folder.iterdir()] == [True]


class TestMissing:
    @pytest.mark.parametrize(("to", "library"), [("parquet", "polars"), ("perfetto", "perfetto")])
    def test_a_missing_library_is_one_clear_error(self, folder: Path, to: str, library: str) -> None:
        program = f"import sys; sys.modules[{library!r}] = None\nfrom tracer.main import main\nsys.exit(main(sys.argv[1:]))"
        arguments = ["export", str(PULL), "--to", to, "-o", str(folder / "a")]
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(),
            timeout=PATIENCE_S,
        )
        assert done.returncode == 1
        assert "pip install 'regtrace[export]', or in a checkout: .venv/bin/pip install '.[export]'" in done.stderr
        assert library in done.stderr
        assert_one_line(done.stderr)
        assert list(folder.iterdir()) == []

    def test_text_needs_no_extra(self, folder: Path) -> None:
        program = (
            "import sys\n"
            "for name in ('polars', 'perfetto', 'google.protobuf', 'pyarrow', 'pandas'): sys.modules[name] = None\n"
            "from tracer.main import main\n"
            "sys.exit(main(sys.argv[1:]))"
        )
        for to in ("csv", "jsonl"):
            arguments = ["export", str(PULL), "--to", to, "-o", str(folder / to)]
            subprocess.run(
                [sys.executable, "-c", program, *arguments], check=True, cwd=ROOT, env=environment(), timeout=PATIENCE_S
            )

    def test_a_library_that_does_not_fit_its_own_is_missing_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "tracer.exports.perfetto", raising=False)
        monkeypatch.setitem(sys.modules, "perfetto.protos.perfetto.trace.perfetto_trace_pb2", None)
        with pytest.raises(MissingError, match=r"regtrace\[export\]"):
            writer_of("perfetto")
