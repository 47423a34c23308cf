"""`regtrace show` as its users meet it: what is printed is what `replay` says, chosen, sorted, and safe in each format."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len

from tests.replays import REPLAYS, trace_of
from tests.test_captures import HEADER, SUFFIXES, batch_of, events_of, write
from tests.test_main import Run, assert_no_traceback, environment, run
from tests.traces import MS, SECOND, START_NS, event, path, trace
from tests.whole import collected_file, collected_replay
from tracer.collected.tables import connection_table, transition_table
from tracer.events import EventBatch, EventFlag, TcpState, no_events
from tracer.owners.owner import OwnerDetail

S = TcpState
STORM, PULL = trace_of(REPLAYS / "lab-loop-429"), trace_of(REPLAYS / "registry-pull")
REAL = ["registry-pull", "lab-loop-429", "lab-skopeo-refused", "lost-events", "missing-syn", "lab-dockerd-stalled"]
HOSTILE = b'=\x1b[2J\xff,"\n'
__all__ = ["run"]


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def body(text: str) -> list[str]:
    """Heading and rows of a grid."""
    return text.partition("\n\n")[2].splitlines()


def capture(folder: Path, *batches: EventBatch, **header: Any) -> str:
    return str(write(folder / "t.arrows", list(batches), replace(HEADER, **header)))


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    """A capture in which everything that somebody may choose is as bad as it gets."""
    label = "evil\x1b]0;x\x07\u202e漢字e\u0301:443"
    owner = OwnerDetail(
        100, cgroup_id=200, comm=b"evil", container="\x1b[31m=c\n" + "c" * 60, runtime="=do\tcker", unit="@u\r\n.service",
        cmdline='+cmd|"/c calc"!A0 \x1b[2J', pod="-pod",
    )  # fmt: skip
    events = events_of(8, comm=HOSTILE)
    events["pid"], events["cgroup_id"] = 100, 200
    return capture(tmp_path, batch_of(events, facts=(owner,)), endpoints={1: label})


class TestJson:
    @pytest.mark.parametrize("name", REAL)
    def test_the_lines_of_connections_are_those_of_a_replay(self, run: Run, name: str) -> None:
        file = str(trace_of(REPLAYS / name))
        said = [line for line in run("replay", file, "--json").stdout.splitlines() if '"type": "connection"' in line[:30]]
        shown = run("show", file, "--format", "json").stdout.splitlines()
        assert sorted(shown) == sorted(said)
        assert shown
        assert shown == sorted(shown, key=lambda line: json.loads(line)["first_seen_ns"])

    @pytest.mark.parametrize("name", REAL)
    def test_the_lines_of_transitions_are_those_of_a_replay(self, run: Run, name: str) -> None:
        file = str(trace_of(REPLAYS / name))
        said = [
            line for line in run("replay", file, "--json", "--transitions").stdout.splitlines() if '"transition"' in line[:30]
        ]
        assert run("show", file, "--transitions", "--format", "json").stdout.splitlines() == said

    def test_the_lines_of_findings_are_the_last_ones_of_their_episodes(self, run: Run) -> None:
        said = [line for line in run("replay", str(STORM), "--json").stdout.splitlines() if '"type": "finding"' in line[:30]]
        last = {json.loads(line)["episode"]: line for line in said}
        assert run("show", str(STORM), "--findings", "--format", "json").stdout.splitlines() == list(last.values())

    def test_owners_are_told_as_in_a_replay(self, run: Run, hostile: str) -> None:
        said = [line for line in run("replay", hostile, "--json").stdout.splitlines() if '"type": "connection"' in line[:30]]
        assert run("show", hostile, "--format", "json").stdout.splitlines() == said
        assert "calc" in said[0]


class TestCsv:
    @pytest.mark.parametrize("name", REAL)
    @pytest.mark.parametrize("kind", ["connections", "transitions"])
    def test_pandas_reads_the_numbers_of_the_trace(self, run: Run, name: str, kind: str) -> None:
        file = str(trace_of(REPLAYS / name))
        more = ("--transitions",) if kind == "transitions" else ()
        frame = pd.read_csv(io.StringIO(run("show", file, "--format", "csv", *more).stdout), dtype=object, keep_default_na=False)
        table = (connection_table if kind == "connections" else transition_table)(collected_replay(name))
        assert list(frame.columns) == list(table)
        for column in table.values():
            read = frame[column.name].tolist()
            assert [cell == "" for cell in read] == (~column.known).tolist() or column.kind.value == "text"
            if column.kind.value in ("integer", "unsigned"):
                assert [int(cell) for cell in read if cell] == column.values[column.known].tolist()

    def test_columns_are_those_that_are_named_in_that_order(self, run: Run) -> None:
        done = run("show", str(PULL), "--format", "csv", "--columns", "number,lifetime,close_reason", "--limit", "1")
        assert done.stdout.splitlines()[0] == "number,lifetime_ns,close_reason"

    def test_the_number_of_a_transition_is_its_connections(self, run: Run) -> None:
        done = run("show", str(STORM), "--transitions", "--format", "csv", "--columns", "number,skaddr,new")
        rows = list(csv.DictReader(io.StringIO(done.stdout)))
        assert [row["number"] for row in rows if row["new"] == "SYN_SENT"] == [str(number) for number in range(1, 17)]

    def test_nothing_that_was_chosen_by_others_is_a_formula(self, run: Run, hostile: str) -> None:
        for row in csv.DictReader(io.StringIO(run("show", hostile, "--format", "csv").stdout)):
            texts = [row[name] for name in ("comm", "container", "unit", "cmdline", "pod", "endpoint", "runtime")]
            assert [text for text in texts if text.startswith(("=", "+", "-", "@", "\t", "\r"))] == []
            assert (row["comm"][:2], row["pod"]) == ("'=", "'-pod")

    @pytest.mark.parametrize("more", [(), ("--transitions",), ("--findings",)])
    def test_every_column_can_be_named(self, run: Run, more: tuple[str, ...]) -> None:
        every = run("show", str(STORM), "--format", "csv", *more).stdout
        assert run("show", str(STORM), "--format", "csv", *more, "--columns", every.split("\r\n")[0]).stdout == every

    def test_an_empty_choice_is_a_header(self, run: Run) -> None:
        done = run("show", str(STORM), "--format", "csv", "--owner", "nobody")
        assert (done.stdout.count("\n"), done.returncode) == (1, 0)
        assert done.stderr == "regtrace: none of the 16 connections fits these filters\n"


class TestText:
    def test_a_pipe_is_not_cut(self, run: Run) -> None:
        done = run("show", str(STORM), "--findings")
        assert "growing distances" in done.stdout

    def test_the_head_says_how_much_of_what_is_shown(self, run: Run) -> None:
        head = run("show", str(STORM), "--close-reason", "local", "--limit", "2").stdout.partition("\n\n")[0].splitlines()
        assert head == [
            "trace.arrows; source ebpf, times exact to 1ns",
            "80 transitions, 0 lost, every transition seen",
            "6 of 16 connections, the first 2 shown; times are UTC of 2026-11-21",
        ]

    def test_columns_stand_below_their_headings(self, run: Run) -> None:
        heading, *rows = body(run("show", str(STORM)).stdout)
        for title, right in (("time", True), ("owner", False), ("remote", False), ("reason", False), ("received", True)):
            at = heading.index(title) + (len(title) if right else 0)
            edge = at if right else at - 1
            assert all(row[edge : edge + 1] in ("", " ") and row[at - 1 if right else at] != " " for row in rows), title

    def test_times_are_of_the_day_that_the_head_names(self, run: Run) -> None:
        done = run("show", str(STORM), "--limit", "1")
        (line,) = objects(run("show", str(STORM), "--format", "json", "--limit", "1").stdout)
        assert f"UTC of {line['opened_at'][:10]}" in done.stdout
        assert body(done.stdout)[1].split()[1] == line["opened_at"][11:26]

    def test_a_trace_over_midnight_names_the_day_in_each_row(self, run: Run, tmp_path: Path) -> None:
        events = trace(*path("refused", [START_NS, START_NS + 86_400 * SECOND]))
        done = run("show", capture(tmp_path, batch_of(events)), "--transitions")
        assert [re.findall(r"2023-11-\d\d", row) for row in body(done.stdout)[1:]] == [["2023-11-14"], ["2023-11-15"]]

    def test_a_trace_without_a_clock_has_seconds_since_its_beginning(self, run: Run) -> None:
        done = run("show", str(trace_of(REPLAYS / "missing-syn")))
        assert "seconds since the trace's beginning" in done.stdout
        assert [row.split()[1] for row in body(done.stdout)[1:]] == ["0.000000", "0.500000", "1.000000"]

    def test_loss_and_gaps_are_in_the_head(self, run: Run) -> None:
        done = run("show", str(trace_of(REPLAYS / "lost-events")))
        assert "\nLOST        5 events" in done.stdout
        assert "\nGAPS        1 connections" in done.stdout

    @pytest.mark.parametrize("form", ["csv", "json"])
    def test_loss_is_said_beside_what_programs_read(self, run: Run, form: str) -> None:
        done = run("show", str(trace_of(REPLAYS / "lost-events")), "--format", form)
        assert "regtrace: LOST        5 events" in done.stderr
        assert "LOST" not in done.stdout

    def test_what_was_seen_in_one_look_has_a_bound(self, run: Run, tmp_path: Path) -> None:
        events = trace(*path("peer", [START_NS] * 5))
        batch = EventBatch(events, "polled", 50 * MS, early_ns=np.full(5, 80 * MS, np.uint64))
        file = capture(tmp_path, batch, source="polled", resolution_ns=50 * MS)
        assert "<80ms" in run("show", file).stdout
        assert "may be 80ms earlier" in run("show", file, "--transitions").stdout
        assert "may be earlier by" in run("show", file, "--connection", "1").stdout

    @pytest.mark.parametrize("more", [(), ("--transitions",), ("--connection", "1"), ("--findings",)])
    def test_nothing_that_was_chosen_by_others_reaches_a_terminal(self, run: Run, hostile: str, more: tuple[str, ...]) -> None:
        done = run("show", hostile, *more)
        assert all(line.isprintable() for line in done.stdout.splitlines())
        assert done.returncode == 0

    def test_hostile_names_keep_the_columns_aligned(self, run: Run, hostile: str) -> None:
        heading, *rows = body(run("show", hostile).stdout)
        edge = heading.index("reason")
        for row in rows:
            before = row[: row.index("  peer") + 2]
            assert cell_len(before) == edge

    def test_columns_stay_aligned_where_the_encoding_lacks_characters(self, hostile: str) -> None:
        command = [sys.executable, "-m", "tracer", "show", hostile]
        shown = subprocess.run(command, capture_output=True, env=environment(PYTHONIOENCODING="ascii"), timeout=60).stdout
        heading, *rows = body(shown.decode("ascii"))
        assert [row.index("  peer") + 2 for row in rows] == [heading.index("reason")] * 2

    def test_any_column_of_the_table_can_be_shown(self, run: Run) -> None:
        names = run("show", str(STORM), "--format", "csv").stdout.splitlines()[0]
        done = run("show", str(STORM), "--columns", names, "--limit", "2")
        assert (done.returncode, len(body(done.stdout))) == (0, 3)
        assert "15099" not in done.stdout  # boottimes are shown as times of day

    def test_rules_that_did_not_judge_are_said_with_the_findings(self, run: Run) -> None:
        done = run("show", str(trace_of(REPLAYS / "missing-syn")), "--findings")
        said = objects(run("replay", str(trace_of(REPLAYS / "missing-syn")), "--json").stdout)[-1]["abstained"]
        assert all(each["reason"] in done.stdout for each in said)


class TestSort:
    def values(self, run: Run, column: str, sort: str, name: str = "missing-syn") -> list[str]:
        done = run("show", str(trace_of(REPLAYS / name)), "--format", "csv", "--columns", column, "--sort", sort)
        return [row[0] for row in list(csv.reader(io.StringIO(done.stdout)))[1:] if row]

    @pytest.mark.parametrize("sort", ["lifetime", "lifetime:desc", "lifetime:asc", "lifetime_ns"])
    def test_rows_are_in_order_and_unknown_ones_last(self, run: Run, sort: str) -> None:
        found = [int(value) for value in self.values(run, "lifetime_ns", sort, "lab-loop-429")]
        assert found == sorted(found, reverse=sort.endswith(":desc"))
        for order in ("bytes_received", "bytes_received:desc"):
            assert self.values(run, "bytes_received,number", order)[-1] == ""

    def test_rows_of_one_value_stay_in_their_order_both_ways(self, run: Run) -> None:
        for order in ("rport", "rport:desc"):
            assert self.values(run, "number", order, "lab-loop-429") == [str(number) for number in range(1, 17)]

    def test_the_longest_stay_in_a_state_comes_first(self, run: Run) -> None:
        done = run("show", str(STORM), "--transitions", "--sort", "after:desc", "--format", "csv", "--columns", "after_ns")
        found = [int(cell) for cell in done.stdout.split()[1:] if cell != '""']
        assert found == sorted(found, reverse=True)


class TestPort:
    def test_the_port_of_a_line_of_the_replay_finds_its_connection(self, run: Run) -> None:
        line = next(line for line in run("replay", str(STORM)).stdout.splitlines() if " -> " in line)
        port = line.partition(" -> ")[0].rpartition(":")[2]
        heading, row = body(run("show", str(STORM), "--port", port).stdout)
        assert row[: heading.index("port") + len("port")].split()[-1] == port
        assert line.split()[1] in row

    def test_any_port_of_several_may_be_either_end(self, run: Run) -> None:
        lines = objects(run("show", str(STORM), "--format", "json").stdout)
        remote, local = lines[0]["rport"], lines[3]["lport"]
        assert objects(run("show", str(STORM), "--format", "json", "--port", str(remote)).stdout) == lines
        assert objects(run("show", str(STORM), "--format", "json", "--port", str(local), "--port", "9").stdout) == [
            line for line in lines if line["lport"] == local
        ]

    def test_transitions_are_those_of_its_connections(self, run: Run) -> None:
        lines = objects(run("show", str(STORM), "--format", "json").stdout)
        shown = run("show", str(STORM), "--transitions", "--port", str(lines[2]["lport"]), "--columns", "number").stdout
        assert set(body(shown)[1:]) == {"3"}

    def test_rows_are_sorted_by_it(self, run: Run) -> None:
        table = run("show", str(STORM), "--columns", "port", "--sort", "port:desc", "--format", "csv").stdout
        ports = [int(cell) for cell in table.split()[1:]]
        assert ports == sorted(ports, reverse=True)


class TestConnection:
    def test_it_is_told_whole(self, run: Run) -> None:
        (told,) = objects(run("show", str(STORM), "--connection", "3", "--format", "json").stdout)
        (line,) = objects(run("show", str(STORM), "--format", "json").stdout)[2:3]
        assert {name: told[name] for name in line} == line
        assert [(each["old"], each["new"]) for each in told["transitions"]] == [
            ("CLOSE", "SYN_SENT"), ("SYN_SENT", "ESTABLISHED"), ("ESTABLISHED", "FIN_WAIT1"), ("FIN_WAIT1", "FIN_WAIT2"),
            ("FIN_WAIT2", "CLOSE"),
        ]  # fmt: skip
        assert sum(each["after_ns"] or 0 for each in told["transitions"]) == line["lifetime_ns"]
        assert [each["since_first_ns"] for each in told["transitions"]][0::4] == [0, line["lifetime_ns"]]
        assert all(each["meaning"] for each in told["transitions"])
        assert (told["number"], [each["rule"] for each in told["findings"]]) == (3, ["rate-limit"])

    def test_the_text_has_its_owner_its_ends_and_every_step(self, run: Run) -> None:
        text = run("show", str(STORM), "--connection", "3").stdout
        ends = ("skopeo[2734]", "198.18.0.1:41654", "198.18.0.2:39493", "(api)", "connection 3 of 16")
        steps = ("SYN_SENT -> ESTABLISHED", "SYN-ACK received", "this side closed first", "rate-limit (critical", "not known")
        assert [part for part in ends + steps if part not in text] == []

    @pytest.mark.parametrize("name", ["lab-skopeo-refused"])
    def test_an_error_is_told_by_its_name(self, run: Run, name: str) -> None:
        text = run("show", str(trace_of(REPLAYS / name)), "--connection", "1").stdout
        assert text.count("sk_err ECONNREFUSED") == 2
        assert "nobody listens there" in text

    def test_an_address_that_was_used_again_at_once_is_two_connections(self, run: Run, tmp_path: Path) -> None:
        first = path("refused", [START_NS, START_NS + MS])
        second = path("peer", [START_NS + MS + each for each in range(5)], comm=b"other")
        file = capture(tmp_path, batch_of(trace(*first, *second)))
        counts = [
            len(objects(run("show", file, "--connection", number, "--format", "json").stdout)[0]["transitions"])
            for number in "12"
        ]
        assert counts == [2, 5]

    def test_what_was_before_the_trace_is_said_to_be_unknown(self, run: Run) -> None:
        (told,) = objects(run("show", str(trace_of(REPLAYS / "missing-syn")), "--connection", "1", "--format", "json").stdout)
        assert "when it was opened: it was open before the trace began" in told["unknown"]
        assert "who opened it" in told["unknown"]

    def test_a_socket_that_was_only_found_open_has_no_transitions(self, run: Run, tmp_path: Path) -> None:
        found = event(S.ESTABLISHED, S.ESTABLISHED, START_NS, also=EventFlag.ADOPTED)
        file = capture(tmp_path, batch_of(trace(found)))
        text = run("show", file, "--connection", "1").stdout
        assert "none in the trace" in text
        assert "open: still open at the end of the trace, last seen in ESTABLISHED" in text

    @pytest.mark.parametrize("number", ["17", "99999999999999999999"])
    def test_one_that_there_is_not_is_said_with_those_that_there_are(self, run: Run, number: str) -> None:
        done = run("show", str(STORM), "--connection", number)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"no connection {number} in this trace: it has 16, from 1 to 16" in done.stderr


class TestMistakes:
    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (("--state", "OPEN"), "expected one of ESTABLISHED"),
            (("--state", "TIME_WAIT"), "FIN_WAIT2"),
            (("--close-reason", "fin"), "expected one of open, peer"),
            (("--sort", "size"), "expected one of endpoint, role"),
            (("--sort", "lifetime:down"), "COLUMN:desc"),
            (("--columns", "number,size"), "'size' is no column"),
            (("--columns", "lifetme"), "did you mean lifetime_ns"),
            (("--port", "0"), "is no port"),
            (("--findings", "--port", "443"), "findings have no port"),
            (("--columns", "remarks", "--format", "csv"), "'remarks' is no column"),
            (("--columns", ",", "--format", "csv"), "no column is named"),
            (("--columns", "pid", "--format", "json"), "JSON lines"),
            (("--since", "noon"), "no time"),
            (("--slower-than", "fast"), "no duration"),
            (("--finding", "4"), "expected one of 1 rate-limit"),
            (("--finding", "429"), "no finding 429"),
            (("--finding", "429s"), "neither the number of a finding nor a rule"),
            (("--connection", "1", "--format", "csv"), "text or json"),
            (("--connection", "1", "--owner", "x"), "leave out filters"),
            (("--connection", "0"), "above 0"),
            (("--connection", "1", "--transitions"), "not allowed with"),
            (("--limit", "0"), "above 0"),
            (("--limit", "x"), "whole number"),
            (("--findings", "--close-reason", "peer"), "findings have no"),
            (("--format", "xml"), "invalid choice"),
        ],
    )  # fmt: skip
    def test_a_mistake_is_one_line_that_says_what_is_allowed(self, run: Run, more: tuple[str, ...], said: str) -> None:
        done = run("show", str(STORM), *more)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert said in done.stderr

    @pytest.mark.parametrize("more", [(), ("--transitions",), ("--connection", "1")])
    def test_no_capture_is_one_line(self, run: Run, tmp_path: Path, more: tuple[str, ...]) -> None:
        (tmp_path / "t.arrows").write_bytes(b"no capture")
        for name in ("t.arrows", "missing.jsonl"):
            done = run("show", str(tmp_path / name), *more)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)

    def test_a_pattern_that_matches_nothing_is_no_mistake(self, run: Run) -> None:
        done = run("show", str(STORM), "--endpoint", "elsewhere")
        assert (done.returncode, body(done.stdout)) == (0, [])
        assert "0 of 16 connections" in done.stdout
        assert done.stderr == "regtrace: none of the 16 connections fits these filters\n"


class TestEdges:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("form", ["text", "csv", "json"])
    @pytest.mark.parametrize("more", [(), ("--transitions",), ("--findings",), ("--sort", "number:desc")])
    def test_an_empty_trace_is_an_empty_table(
        self, run: Run, tmp_path: Path, suffix: str, form: str, more: tuple[str, ...]
    ) -> None:
        file = write(tmp_path / f"t{suffix}", [batch_of(no_events())])
        done = run("show", str(file), "--format", form, *more)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("\n") == {"csv": 1, "json": 0}.get(form, done.stdout.count("\n"))

    def test_an_empty_trace_has_no_connection_to_show(self, run: Run, tmp_path: Path) -> None:
        done = run("show", capture(tmp_path, batch_of(no_events())), "--connection", "1")
        assert (done.returncode, "it has none" in done.stderr) == (2, True)

    @pytest.mark.parametrize(
        "more", [(), ("--transitions",), ("--connection", "1"), ("--slower-than", "1us"), ("--state", "SYN_SENT")]
    )
    def test_connections_that_are_all_open_are_shown(self, run: Run, tmp_path: Path, more: tuple[str, ...]) -> None:
        done = run("show", capture(tmp_path, batch_of(trace(*path("peer", [START_NS, START_NS + MS])))), *more)
        assert (done.returncode, done.stderr) == (0, "")
        assert "dockerd[812]" in done.stdout

    def test_an_open_connection_says_its_state(self, run: Run, tmp_path: Path) -> None:
        steps = path("peer", [START_NS + each for each in range(3)])
        assert body(run("show", capture(tmp_path, batch_of(trace(*steps)))).stdout)[1].endswith("  in CLOSE_WAIT")

    @pytest.mark.parametrize("form", ["text", "csv", "json"])
    def test_a_truncated_capture_is_shown_as_far_as_it_goes_and_says_so(self, run: Run, tmp_path: Path, form: str) -> None:
        file = Path(capture(tmp_path, batch_of(events_of(8)), batch_of(events_of(8))))
        file.write_bytes(file.read_bytes()[:-700])
        done = run("show", str(file), "--format", form)
        assert done.returncode == 0
        assert "INCOMPLETE" in (done.stdout if form == "text" else done.stderr)

    def test_a_change_of_source_is_in_the_head(self, run: Run, tmp_path: Path) -> None:
        times = {"lost_since_ns": START_NS + 2, "lost_until_ns": START_NS + SECOND}
        after = EventBatch(no_events(), "polled", 50 * MS, switched="ebpf died", **times)
        done = run("show", capture(tmp_path, batch_of(trace(*path("peer", [START_NS, START_NS + 1]))), after))
        assert "SWITCHED" in done.stdout

    def test_a_reader_that_leaves_early_is_no_traceback(self) -> None:
        command = f"{sys.executable} -m tracer show {STORM} --transitions --format csv | head -1"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment(), timeout=60)
        assert done.stdout.startswith("ts_ns,at,")
        assert_no_traceback(done.stderr)


Draw = Callable[..., str]


@pytest.fixture
def terminal() -> Draw:
    """Runs the command on a terminal of so many columns; gives what is drawn."""

    def draw(columns: int, *arguments: str, **changes: str) -> str:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        child = subprocess.Popen(
            [sys.executable, "-m", "tracer", *arguments], stdout=slave, stderr=subprocess.DEVNULL,
            env=environment(**{"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", "NO_COLOR": "", **changes}),
        )  # fmt: skip
        os.close(slave)
        drawn = b""
        try:
            while part := os.read(master, 1 << 16):
                drawn += part
        except OSError:  # the other end is closed
            pass
        finally:
            os.close(master)
            child.wait(60)
        return drawn.decode().replace("\r\n", "\n")

    return draw


class TestTerminal:
    @pytest.mark.parametrize(
        ("columns", "more"), [(20, ()), (20, ("--connection", "3")), (80, ()), (80, ("--findings",)), (80, ("--connection", "3"))]
    )
    def test_no_line_is_wider_than_the_terminal(self, terminal: Draw, columns: int, more: tuple[str, ...]) -> None:
        drawn = terminal(columns, "show", str(STORM), *more, NO_COLOR="1")
        assert len(drawn.splitlines()) > 5
        assert [line for line in drawn.splitlines() if cell_len(line) > columns] == []

    def test_wide_characters_are_counted_as_the_terminal_does(self, terminal: Draw, hostile: str) -> None:
        drawn = terminal(80, "show", hostile, NO_COLOR="1")
        assert [line for line in drawn.splitlines() if cell_len(line) > 80 or not line.isprintable()] == []

    def test_columns_that_do_not_fit_are_named(self, terminal: Draw) -> None:
        assert "too narrow for:" in terminal(60, "show", str(STORM))

    def test_colours_are_only_for_terminals_that_want_them(self, terminal: Draw) -> None:
        assert "\x1b[" in terminal(80, "show", str(STORM))
        assert "\x1b[" not in terminal(80, "show", str(STORM), NO_COLOR="1")
        assert "\x1b[" not in terminal(80, "show", str(STORM), TERM="dumb")

    def test_csv_on_a_terminal_obeys_nobody(self, terminal: Draw, hostile: str) -> None:
        drawn = terminal(80, "show", hostile, "--format", "csv")
        assert all(line.isprintable() for line in drawn.splitlines())


def test_a_filter_is_the_same_as_choosing_from_the_lines(run: Run) -> None:
    every = objects(run("show", str(STORM), "--format", "json").stdout)
    chosen = objects(run("show", str(STORM), "--format", "json", "--close-reason", "local", "--slower-than", "500us").stdout)
    assert chosen == [line for line in every if line["close_reason"] == "local" and line["lifetime_ns"] > 500_000]
    assert chosen
    assert len(collected_file(STORM).rows) == len(every)
