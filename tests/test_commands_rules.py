"""`regtrace rules`, what every rule says of itself, and rules on the command line of a replay."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.stories import LABELS, TALES, Story, Tale, judge, one, trying
from tracer.captures import create_trace
from tracer.events import EventBatch, no_events
from tracer.findings import Severity
from tracer.header import ROLES, TraceHeader, roles_text
from tracer.main import main
from tracer.options import RULE_SETS
from tracer.rules.catalogue import BY_ID, EVIDENCE, SETS, TEXTBOOK, find_rule
from tracer.rules.rule import HEADINGS, SECOND_NS, Rule
from tracer.rules.thresholds import Limit, Thresholds, limits

ALL = SETS["all"]
ROOT = Path(__file__).resolve().parent.parent
by_id = pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.id)


# --- what a rule says of itself


def headings_of(rule: type[Rule[Any]]) -> list[str]:
    return re.findall(r"^(\w[\w ]*): ", (inspect.getdoc(rule) or "").partition("\n\n")[2], re.M)


@by_id
def test_a_rule_explains_itself_under_the_headings(rule: Any) -> None:
    assert headings_of(rule) == list(HEADINGS)


@by_id
def test_a_rule_begins_with_a_sentence(rule: Any) -> None:
    first, blank, *_ = (inspect.getdoc(rule) or "").splitlines()
    assert first.endswith(".")
    assert blank == ""


@by_id
def test_the_parameters_of_a_rule_are_its_thresholds(rule: Any) -> None:
    said = re.search(r"^Parameters: (.*?)\.\n^Cannot", inspect.getdoc(rule) or "", re.M | re.S)
    assert said
    assert re.split(r",\s+", said[1]) == [item.name for item in fields(rule.Settings)]


@by_id
def test_thresholds_are_frozen_and_within_their_limits(rule: Any) -> None:
    made = rule.Settings()
    assert isinstance(made, Thresholds)
    assert is_dataclass(made)
    assert rule.Settings.__dataclass_params__.frozen
    for name, (default, limit) in limits(rule.Settings).items():
        assert isinstance(limit, Limit)
        assert limit.low <= default <= limit.high, name
        assert limit.low < limit.high
        assert limit.text
    assert made.problems() == []


@by_id
def test_a_module_is_named_as_its_rule(rule: Any) -> None:
    expected = rule.id.rpartition("/")[2].replace("-", "_")
    folder = "textbook" if rule.id.startswith("textbook/") else "evidence"
    assert rule.__module__ == f"tracer.rules.{folder}.{expected}"


@by_id
def test_a_rule_needs_only_what_can_be_missing(rule: Any) -> None:
    from tracer.rules.engine import _FLAG_OF

    assert set(rule.needs) <= set(_FLAG_OF)
    assert rule.resolution_ns_max >= SECOND_NS


def test_ids_are_unique_and_have_their_prefix() -> None:
    assert len(BY_ID) == len(ALL)
    assert all(rule.id.startswith("textbook/") for rule in TEXTBOOK)
    assert not any("/" in rule.id for rule in EVIDENCE)
    assert all(re.fullmatch(r"(textbook/)?[a-z]+(-[a-z]+)*", rule.id) for rule in ALL)


def test_the_ids_of_the_design_are_there() -> None:
    assert set(BY_ID) >= {
        "rate-limit", "retry-storm", "churn", "token-expiry", "token-aging", "auth-failure", "unreachable", "refused", "stalled",
        "slow-consumer", "mirror-failure", "idle-close", "recovered",
    }  # fmt: skip


def test_every_rule_of_the_folders_is_in_the_catalogue() -> None:
    files = {
        f"{'textbook/' if path.parent.name == 'textbook' else ''}{path.stem.replace('_', '-')}"
        for path in (ROOT / "tracer/rules").glob("*/*.py")
        if path.stem != "__init__"
    }
    assert files == set(BY_ID)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tracer/rules").glob("*/[!_]*.py")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_a_rule_is_one_class_in_a_file(path: Path) -> None:
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    assert len([node for node in classes if any("Rule[" in ast.unparse(base) for base in node.bases)]) == 1


def test_the_sets_offered_on_the_command_line_are_those_that_exist() -> None:
    assert tuple(SETS) == RULE_SETS


@pytest.mark.parametrize("text", ["rate-limit", "RATE-LIMIT", "Textbook/Rate-Limit"])
def test_a_rule_is_found_in_any_case(text: str) -> None:
    assert find_rule(text).id == text.lower()


# --- regtrace rules


class Done:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self) -> list[dict[str, Any]]:
        def forbidden(name: str) -> None:
            raise AssertionError(f"{name} is no JSON")

        return [json.loads(line, parse_constant=forbidden) for line in self.out.splitlines()]

    @property
    def findings(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["type"] == "finding"]


class Run:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Done:
        try:
            code = main(list(arguments))
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        written = self._capsys.readouterr()
        return Done(code, written.out, written.err)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def test_all_rules_are_listed_in_their_order(run: Run) -> None:
    done = run("rules")
    assert (done.code, done.err) == (0, "")
    assert re.findall(r"^([a-z/-]+) {2,}\S", done.out, re.M) == [rule.id for rule in ALL]


def test_the_list_has_every_threshold(run: Run) -> None:
    out = run("rules").out
    assert [item.name for rule in ALL for item in fields(rule.Settings) if f"{item.name} = " not in out] == []


def test_the_list_says_what_is_benign_and_disabled(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('disabled = ["churn"]\n')
    out = run("rules", "--config", str(path)).out
    assert [line.split()[0] for line in out.splitlines() if "--benign" in line] == [rule.id for rule in ALL if rule.benign]
    assert [line.split()[0] for line in out.splitlines() if "(disabled)" in line] == ["churn"]


@pytest.mark.parametrize("name", ["rate-limit", "RATE-LIMIT"])
def test_a_rule_is_explained_in_any_case(run: Run, name: str) -> None:
    done = run("rules", name)
    assert (done.code, done.err) == (0, "")
    assert all(f"{heading}: " in done.out for heading in HEADINGS)


@by_id
def test_what_is_shown_of_a_rule_can_be_put_into_a_configuration(run: Run, rule: Any, tmp_path: Path) -> None:
    done = run("rules", rule.id)
    path = tmp_path / "r.toml"
    path.write_text(done.out[done.out.rindex("\n[") :])
    again = run("rules", rule.id, "--config", str(path))
    assert (again.code, again.out) == (0, done.out)


def test_thresholds_of_a_configuration_are_shown(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[churn]\nbudget_per_min = 10\n")
    assert "budget_per_min = 10 " in run("rules", "churn", "--config", str(path)).out


def test_rules_are_strict_json(run: Run) -> None:
    done = run("rules", "--json")
    assert (done.code, done.err) == (0, "")
    assert [line["rule"] for line in done.lines] == [rule.id for rule in ALL]
    for line in done.lines:
        assert {"type", "rule", "set", "title", "benign", "disabled", "thresholds", "explanation"} <= set(line)
        for threshold in line["thresholds"].values():
            assert threshold["min"] <= threshold["value"] <= threshold["max"]


def test_one_rule_is_one_line_of_json(run: Run) -> None:
    assert [line["rule"] for line in run("rules", "textbook/churn", "--json").lines] == ["textbook/churn"]


@pytest.mark.parametrize("name", ["nonsense", "", "textbook/", "\x1b[31m"])
def test_an_unknown_rule_is_one_line_and_exit_code_2(run: Run, name: str) -> None:
    done = run("rules", name)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"regtrace: there is no rule [^\n]*\n", done.err)
    assert done.err.replace("\n", "").isprintable()


# --- rules in a replay


def recorded(tale: Tale, path: Path, labels: dict[int, str] | None = None) -> str:
    """A tale as a capture."""
    named = LABELS if labels is None else labels
    header = TraceHeader("ebpf", "a test", 1, endpoints=named, settings={ROLES: roles_text(tale.roles)})
    writer = create_trace(path, header, force=False)
    writer.write(EventBatch(tale.events, "ebpf", 1))
    end_ns = int(tale.events["ts_ns"][0]) + int(tale.until_s * 1e9)
    writer.write(EventBatch(no_events(), "ebpf", 1, until_ns=end_ns))
    writer.close()
    return str(path)


CRITICAL = Tale(trying(), 20)
WARNING = Tale(one("refused"), 20)
HEALTHY = Tale(one("local", received=50_000, acked=100), 20)


def worst_of(tale: Tale) -> Severity | None:
    return judge(tale.events, tale.until_s, settings=tale.settings).worst


@pytest.mark.parametrize(
    ("tale", "options", "code"),
    [
        (CRITICAL, ["--fail-on-finding"], 3),
        (CRITICAL, ["--fail-on-finding", "--rules", "all"], 3),
        (CRITICAL, ["--fail-on-finding", "--json"], 3),
        (CRITICAL, ["--rules", "all"], 0),
        (CRITICAL, ["--fail-on-finding", "--rules", "textbook"], 0),
        (WARNING, ["--fail-on-finding"], 0),
        (HEALTHY, ["--fail-on-finding", "--rules", "all", "--benign"], 0),
    ],
)
def test_the_exit_code_says_whether_a_critical_finding_was_open(
    run: Run, tmp_path: Path, tale: Tale, options: list[str], code: int
) -> None:
    done = run("replay", recorded(tale, tmp_path / "t.jsonl"), *options)
    assert (done.code, done.err) == (code, "")


def test_a_critical_finding_that_is_over_counts(run: Run, tmp_path: Path) -> None:
    story = Story()
    for number in range(6):
        story.connection(number, "refused")
    story.connection(10)
    path = recorded(Tale(story.events(), 600), tmp_path / "t.jsonl")
    done = run("replay", path, "--fail-on-finding", "--json")
    assert done.lines[-1]["open_findings"] == []
    assert done.code == 3


@pytest.mark.parametrize("suffix", ["jsonl", "arrows"])
@pytest.mark.parametrize("rule", sorted(TALES))
def test_a_replay_finds_what_was_found(run: Run, tmp_path: Path, rule: str, suffix: str) -> None:
    tale = TALES[rule]()
    options = ["--rules", "all", "--benign", "--json"]
    if tale.settings.thresholds:
        lines = []
        for rule_id, thresholds in tale.settings.thresholds.items():
            lines += [f'["{rule_id}"]', *(f"{item.name} = {getattr(thresholds, item.name)}" for item in fields(thresholds))]
        (tmp_path / "r.toml").write_text("\n".join(lines))
        options += ["--config", str(tmp_path / "r.toml")]
    done = run("replay", recorded(tale, tmp_path / f"t.{suffix}"), *options)
    assert done.code == 0
    expected = judge(tale.events, tale.until_s, settings=tale.settings, roles=tale.roles)
    told = [(line["rule"], line["state"], line["detected_ns"], line["ts_ns"]) for line in done.findings]
    assert told == [(each.rule, each.state.value, each.detected_ns, each.at_ns) for each in expected.findings]
    assert done.lines[-1]["type"] == "summary"
    assert done.lines[0]["type"] == "start"


def test_the_evidence_rules_run_unless_others_are_asked_for(run: Run, tmp_path: Path) -> None:
    path = recorded(CRITICAL, tmp_path / "t.jsonl")
    plain = {line["rule"] for line in run("replay", path, "--json").findings}
    assert plain == {"refused", "retry-storm"}
    assert {line["rule"] for line in run("replay", path, "--json", "--rules", "textbook").findings} == {"textbook/refused"}


def test_benign_findings_are_shown_if_asked_for(run: Run, tmp_path: Path) -> None:
    path = recorded(TALES["idle-close"](), tmp_path / "t.jsonl")
    assert run("replay", path, "--json").findings == []
    assert {line["rule"] for line in run("replay", path, "--json", "--benign").findings} == {"idle-close"}


def test_a_set_that_does_not_exist_is_exit_code_2(run: Run) -> None:
    done = run("replay", "x.jsonl", "--rules", "nonsense")
    assert (done.code, done.out) == (2, "")
    assert all(name in done.err for name in ("nonsense", *SETS))


def test_roles_of_a_configuration_reach_the_rules(run: Run, tmp_path: Path) -> None:
    """A mirror that answers with a long error is known by its role only."""
    story = Story()
    story.connection(0, received=3000, acked=100)
    story.connection(0.1, received=1_000_000, acked=200, endpoint=2)
    path = recorded(Tale(story.events(), 10, roles={}), tmp_path / "t.jsonl")
    (tmp_path / "r.toml").write_text(f'[roles]\n"{LABELS[1]}" = "mirror"\n')
    assert run("replay", path, "--json").findings == []
    found = run("replay", path, "--json", "--config", str(tmp_path / "r.toml")).findings
    assert {line["rule"] for line in found} == {"mirror-failure"}


def test_the_text_of_a_replay_has_the_findings_and_nothing_a_terminal_obeys(run: Run, tmp_path: Path) -> None:
    events = trying(comm=b"\x1b[2J")
    path = recorded(Tale(events, 20), tmp_path / "t.jsonl", {1: "evil\x1b[31m:443"})
    done = run("replay", path, "--rules", "all")
    assert "retry-storm" in done.out
    assert "\\x1b" in done.out
    assert all(character.isprintable() or character == "\n" for character in done.out)


def test_a_loss_is_in_the_findings_of_a_replay(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    recorded(WARNING, path)
    lines = path.read_text().splitlines()
    loss = {"type": "loss", "ts_ns": int(WARNING.events["ts_ns"][1]), "since_ns": int(WARNING.events["ts_ns"][0]), "lost": 4}
    path.write_text("\n".join([*lines[:2], json.dumps(loss), *lines[2:]]) + "\n")
    found = run("replay", str(path), "--json").findings
    assert [line["evidence"]["lost_events"] for line in found if line["state"] == "open"] == [4]


def test_no_traceback_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = recorded(CRITICAL, tmp_path / "t.arrows")
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "replay", path, "--json", "--rules", "all", "--fail-on-finding"],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, "")
    assert worst_of(CRITICAL) is Severity.CRITICAL
    assert np.all(CRITICAL.events["ts_ns"] > 0)
