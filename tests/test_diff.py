"""`regtrace diff` as its users meet it, and what it says of the replays: healthy ones, and ones that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.comparing import halves, pulls, replay
from tests.live import PATIENCE_S, ROOT
from tests.replays import REPLAYS, folders, trace_of
from tests.stories import LABELS
from tests.test_captures import write
from tests.test_main import Run, assert_no_traceback, assert_one_line, environment, regtrace
from tracer.captures import FORMAT_VERSION
from tracer.comparison.compared import P_MAX, Comparison
from tracer.comparison.difference import Difference, difference
from tracer.comparison.presence import Presence
from tracer.events import EventBatch
from tracer.header import TraceHeader

HEADER = TraceHeader("ebpf", "", 1, endpoints=dict(LABELS))
FAILING = {"failed", "refused", "timeout", "unreachable", "aborted"}
SIZES = {"bytes_received"}
RETRIES = {"bytes_received", "opens_per_min", "interval_ns"}
CAUSES = [
    ("lab-healthy-loop", "lab-skopeo-429-kept", {"rate-limit"}, RETRIES),
    ("lab-healthy-loop", "lab-skopeo-429-closed", {"rate-limit"}, RETRIES),
    ("lab-skopeo-pulls-tls", "lab-skopeo-429-tls", {"rate-limit"}, RETRIES),
    ("lab-healthy-inspect-loop", "lab-loop-429-retry-after-0", {"rate-limit", "retry-storm"}, RETRIES),
    ("lab-healthy-inspect-loop", "lab-loop-503", {"rate-limit", "retry-storm"}, RETRIES),
    ("lab-healthy-loop", "lab-loop-refused", {"refused"}, FAILING),
    ("lab-healthy-loop", "lab-skopeo-registry-killed", {"refused"}, FAILING),
    ("lab-healthy-loop", "lab-skopeo-reset-again-and-again", {"reset"}, {"reset"}),
    ("lab-skopeo-token-pulls", "lab-skopeo-token-denied", {"auth-failure"}, SIZES),
    ("lab-skopeo-token-pulls", "lab-skopeo-wrong-password-loop", {"auth-failure"}, SIZES),
    ("lab-skopeo-token-pulls", "lab-skopeo-token-server-down", {"refused"}, FAILING),
    ("lab-healthy-loop", "lab-skopeo-syn-dropped", {"unreachable"}, FAILING),
    ("lab-healthy-loop", "lab-skopeo-silent-drop", {"stalled"}, {"silent"}),
    ("lab-healthy-loop", "lab-skopeo-tarpit", {"stalled"}, {"silent"}),
    ("lab-healthy-loop", "lab-skopeo-no-answer", {"stalled"}, {"silent"}),
    ("lab-healthy-mirror-skopeo", "lab-skopeo-mirror-dead", {"mirror-failure", "refused"}, FAILING),
    ("lab-dockerd-pulls", "lab-dockerd-429-closed-loop", {"rate-limit", "retry-storm"}, RETRIES),
    ("lab-dockerd-pulls", "lab-dockerd-429-kept-loop", {"rate-limit", "retry-storm"}, RETRIES),
    ("lab-dockerd-pulls", "lab-dockerd-registry-killed", {"refused"}, FAILING),
    ("lab-dockerd-pulls", "lab-dockerd-refused-loop", {"refused"}, FAILING),
    ("lab-dockerd-token-pulls", "lab-dockerd-token-denied", {"auth-failure"}, SIZES),
    ("lab-dockerd-token-pulls", "lab-dockerd-token-server-down", {"refused"}, FAILING),
    ("lab-healthy-mirror-dockerd", "lab-dockerd-mirror-killed", {"mirror-failure", "refused"}, FAILING),
    ("lab-ctr-pulls", "lab-ctr-429-closed-loop", {"rate-limit"}, RETRIES),
    ("lab-ctr-pulls", "lab-ctr-registry-killed", {"refused"}, FAILING),
    ("lab-ctr-pulls", "lab-ctr-refused-loop", {"refused"}, FAILING),
    ("lab-ctr-token-pulls", "lab-ctr-token-denied", {"auth-failure"}, SIZES),
    ("lab-ctr-token-pulls", "lab-ctr-token-server-down", {"refused"}, FAILING),
    ("lab-healthy-tag-checks", "lab-curl-checks-429", {"rate-limit"}, SIZES),
    ("lab-healthy-tag-checks", "lab-curl-checks-rejected", {"rate-limit", "retry-storm"}, SIZES),
    ("lab-healthy-tag-checks", "lab-curl-registry-restarted", {"refused"}, FAILING),
    ("lab-healthy-tag-checks", "lab-curl-checks-syn-dropped", {"unreachable"}, FAILING),
]
"""(healthy, failing, rules that name the cause, metrics that show it)."""
WITHOUT_RULES = 16
"""In so many of them the distributions alone show it among the first three; the others have a handful of visits."""
CUT_SHORT = "lab-healthy-bursts"
"""It was cut off in its second burst, so that what is left of its second half lacks the downloads: a person sees that as well."""


def is_cause(told: Comparison | Presence, rules: set[str], metrics: set[str]) -> bool:
    return told.name in rules if isinstance(told, Presence) else told.metric.name in metrics


def changes_told(found: Difference) -> list[Comparison]:
    return [told for told in found.told if isinstance(told, Comparison)]


def compared(one: str, other: str) -> Difference:
    return difference(replay(one), replay(other))


def healthy() -> list[str]:
    names = (folder.name for folder in folders())
    return [name for name in names if "-healthy-" in name or name.endswith(("pulls", "pulls-tls", "renewed"))]


# --- what it says of the replays


@pytest.mark.parametrize(("one", "other", "rules", "metrics"), CAUSES, ids=[f"{one}-{other}" for one, other, *_ in CAUSES])
def test_the_cause_is_among_the_first_three(one: str, other: str, rules: set[str], metrics: set[str]) -> None:
    assert any(is_cause(told, rules, metrics) for told in compared(one, other).told[:3])


def test_distributions_alone_show_the_cause_where_there_are_visits_enough() -> None:
    shown = [
        any(is_cause(change, set(), metrics) for change in changes_told(compared(one, other))[:3])
        for one, other, _, metrics in CAUSES
    ]
    assert sum(shown) >= WITHOUT_RULES


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in healthy() if name != CUT_SHORT])
def test_the_halves_of_a_healthy_replay_have_not_moved(name: str) -> None:
    assert difference(*halves(name)).moved == []


@pytest.mark.slow
@pytest.mark.slow
def test_p_values_of_healthy_halves_are_as_small_as_they_should_be() -> None:
    p_values = [each.p for name in healthy() if name != CUT_SHORT for each in difference(*halves(name)).comparisons]
    assert len(p_values) > 300
    assert sum(p < P_MAX for p in p_values) <= 2 * P_MAX * len(p_values)


@pytest.mark.slow
@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_no_replay_differs_from_itself(folder: Path) -> None:
    found = compared(folder.name, folder.name)
    assert (found.told, found.only) == ((), ())


# --- the command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def path_of(name: str) -> str:
    return str(trace_of(REPLAYS / name))


GOOD, BAD = path_of("lab-healthy-loop"), path_of("lab-loop-refused")


def lines_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_person_reads_the_worst_first(run: Run) -> None:
    lines = run("diff", GOOD, BAD).stdout.splitlines()
    assert lines[0].startswith(f"A  {GOOD}: since 20")
    assert lines[0].endswith(", source ebpf, exact to 1ns, 41.4s, 63 connections in 9 visits, every transition seen")
    assert "registry-1:40309 of A is compared with registry-1:56087 of B (same host, other port)" in lines
    assert (
        "  1. connections to registry-1:56087 that were refused went from 0% to 100% "
        "(0 of 63 and 160 of 160; in 9 and 40 visits; p < 1e-6)"
    ) in lines
    assert "    refused at registry-1:56087: 160 connections of B ended so, none of A" in lines


def test_the_same_capture_twice_says_that_nothing_moved(run: Run) -> None:
    done = run("diff", GOOD, GOOD)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nnothing moved: " in done.stdout


def test_columns_are_aligned(run: Run) -> None:
    table = [line for line in run("diff", GOOD, BAD).stdout.splitlines() if "▲" in line or "▼" in line]
    assert len(table) > 2
    assert len({max(line.find("  ▲"), line.find("  ▼")) for line in table}) == 1


def test_all_shows_what_did_not_move(run: Run) -> None:
    assert " =    p = " not in run("diff", GOOD, BAD).stdout
    assert "  =  " in run("diff", GOOD, path_of("lab-skopeo-429-kept"), "--all").stdout


def test_json_has_the_changes_by_rank_and_the_totals_last(run: Run) -> None:
    lines = lines_of(run("diff", GOOD, BAD, "--json"))
    ranks = [line["rank"] for line in lines[:-1] if line["rank"] is not None]
    assert ranks == list(range(1, len(ranks) + 1))
    first, last = lines[0], lines[-1]
    assert (first["type"], first["metric"], first["endpoint"]) == ("change", "refused", "registry-1:56087")
    assert (first["a"], first["b"]) == (
        {"n": 63, "visits": 9, "hits": 0, "share": 0.0}, {"n": 160, "visits": 40, "hits": 160, "share": 1.0},
    )  # fmt: skip
    assert first["adjusted_p"] < P_MAX
    assert last["type"] == "diff"
    assert last["moved"] == sum(line["type"] == "change" for line in lines)
    assert last["new_findings"] == sum(line.get("kind") == "finding" for line in lines if line.get("rank"))
    assert last["endpoints"] == [{"a": "registry-1:40309", "b": "registry-1:56087", "matched_by": "host"}]


def test_json_is_lines_of_one_object_each_whatever_was_compared(run: Run) -> None:
    names = {line["type"] for line in lines_of(run("diff", BAD, GOOD, "--json", "--all"))}
    assert names == {"change", "appeared", "disappeared", "diff"}


def test_all_json_has_as_many_changes_as_comparisons(run: Run) -> None:
    lines = lines_of(run("diff", GOOD, BAD, "--json", "--all"))
    assert sum(line["type"] == "change" for line in lines) == lines[-1]["compared"]


def test_durations_in_json_are_whole_nanoseconds(run: Run) -> None:
    spans = [line for line in lines_of(run("diff", GOOD, BAD, "--json")) if line.get("unit") == "ns"]
    assert spans
    assert {type(value) for line in spans for value in line["a"].values()} == {int}


def test_endpoints_can_be_mapped(run: Run) -> None:
    done = run("diff", GOOD, BAD, "--map", "registry-1:40309=registry-1:56087")
    assert "registry-1:40309 of A is compared with registry-1:56087 of B (as you say)" in done.stdout


def test_endpoints_that_may_be_the_same_are_pointed_at(run: Run) -> None:
    assert "are compared with --map A=B" in run("diff", path_of("registry-pull"), path_of("lost-events")).stdout
    assert "--map" not in run("diff", GOOD, BAD).stdout


@pytest.mark.parametrize("given", ["x", "=", "a=", "=b", "x=registry-1:56087", "registry-1:40309=x", "\x1b[31m=\n"])
def test_a_map_that_can_not_be_meant_is_a_usage_error(run: Run, given: str) -> None:
    done = run("diff", GOOD, BAD, "--map", given)
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_line(done.stderr)


def test_an_endpoint_can_not_be_mapped_twice(run: Run) -> None:
    pair = "registry-1:40309=registry-1:56087"
    done = run("diff", GOOD, BAD, "--map", pair, "--map", pair)
    assert done.returncode == 2
    assert "is given twice" in done.stderr


@pytest.mark.parametrize(("one", "other", "code"), [(GOOD, BAD, 3), (BAD, GOOD, 0), (BAD, BAD, 0), (GOOD, GOOD, 0)])
def test_a_new_critical_finding_fails_if_asked(run: Run, one: str, other: str, code: int) -> None:
    assert run("diff", one, other, "--fail-on-finding").returncode == code
    assert run("diff", one, other).returncode == 0


def test_rules_can_be_chosen(run: Run) -> None:
    found = [line for line in lines_of(run("diff", GOOD, BAD, "--json", "--rules", "textbook")) if line.get("kind") == "finding"]
    assert found
    assert {line["name"].partition("/")[0] for line in found} == {"textbook"}


# --- what goes wrong


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("content", [None, b"", b"hello\n", b"\xff" * 100, b"ARROW1\0\0"])
def test_what_is_no_capture_fails_on_either_side(run: Run, tmp_path: Path, place: int, content: bytes | None) -> None:
    path = tmp_path / "b.arrows"
    if content is not None:
        path.write_bytes(content)
    paths = [GOOD, GOOD]
    paths[place] = str(path)
    done = run("diff", *paths)
    assert (done.returncode, done.stdout) == (1, "")
    assert "b.arrows" in done.stderr
    assert_one_line(done.stderr)


def test_a_capture_of_a_later_version_fails_with_what_to_do(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"type": "start", "format": {FORMAT_VERSION + 1}, "version": "9.9.9"}}\n')
    done = run("diff", GOOD, str(tmp_path / "a.jsonl"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "9.9.9" in done.stderr


@pytest.mark.parametrize(
    "arguments", [(), (GOOD,), (GOOD, BAD, GOOD), (GOOD, BAD, "--speed", "1"), (GOOD, BAD, "--config", "none")]
)
def test_what_can_not_be_meant_is_a_usage_error(run: Run, arguments: tuple[str, ...]) -> None:
    done = run("diff", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_line(done.stderr)


@pytest.mark.parametrize("suffix", [".arrows", ".jsonl"])
def test_a_capture_with_a_header_only_is_compared(run: Run, tmp_path: Path, suffix: str) -> None:
    done = run("diff", str(write(tmp_path / f"a{suffix}", [], HEADER)), BAD)
    assert done.returncode == 0
    assert "nothing could be compared" in done.stdout


def test_a_truncated_capture_says_so(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrows", [EventBatch(pulls(number + 2).copy(), "ebpf", 1) for number in range(2)], HEADER)
    os.truncate(path, path.stat().st_size - 20)
    assert "\nB  INCOMPLETE  " in run("diff", GOOD, str(path)).stdout
    assert lines_of(run("diff", GOOD, str(path), "--json"))[-1]["b"]["truncated"]


def test_a_switch_of_the_source_and_loss_are_said(run: Run) -> None:
    assert "\nB  LOST  5 events in 1 interval(s): its counts are too low" in run("diff", GOOD, path_of("lost-events")).stdout


def test_centuries_between_two_events_are_no_problem(run: Run, tmp_path: Path) -> None:
    events = pulls(30)
    events["ts_ns"][-4:] += 2**60
    path = write(tmp_path / "a.arrows", [EventBatch(events, "ebpf", 1)], HEADER)
    assert run("diff", str(path), str(path)).returncode == 0
    assert run("diff", GOOD, str(path)).returncode == 0


HOSTILE = "\x1b[2J<b>\u202e[red]\n=1+1,\"';\x9b\ud7ff"


@pytest.mark.parametrize("options", [(), ("--json",), ("--all",)], ids=" ".join)
def test_hostile_names_reach_no_terminal(run: Run, tmp_path: Path, options: tuple[str, ...]) -> None:
    header = TraceHeader("ebpf", "", 1, endpoints={1: HOSTILE}, host=HOSTILE)
    events = pulls(30, comm=b"\x1b[2J\x07\xff\n\x9b", failing=0.5, kind="refused")
    one = write(tmp_path / "a.jsonl", [EventBatch(pulls(30, comm=b"\x1b]0;x\x07"), "ebpf", 1)], header)
    other = write(tmp_path / "b.jsonl", [EventBatch(events, "ebpf", 1)], header)
    done = run("diff", str(one), str(other), *options)
    assert done.returncode == 0
    assert all(line.isprintable() for line in done.stdout.splitlines())


def test_a_reader_that_leaves_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tracer", "diff", GOOD, BAD, "--json", "--all"]
    shell = 'set -o pipefail; "$@" | true'
    options: dict[str, Any] = {"cwd": ROOT, "env": environment(PYTHONUNBUFFERED="1"), "timeout": PATIENCE_S}
    done = subprocess.run(["bash", "-c", shell, "bash", *command], capture_output=True, text=True, **options)
    assert_no_traceback(done.stderr)


def test_it_runs_as_a_program() -> None:
    done = regtrace("diff", GOOD, GOOD)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("A  ")


def test_help_explains_itself() -> None:
    done = regtrace("diff", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: regtrace diff" in done.stdout
