"""What a user may set about rules: every mistake is one message that names file, line and key and says what is allowed."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import fields
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.configuration import CONFIG_BYTES_MAX, read_settings
from tracer.errors import UsageError
from tracer.main import main
from tracer.roles import Role
from tracer.rules.catalogue import BY_ID, SETS
from tracer.rules.settings import RuleSettings, parse_settings, settings_from_text
from tracer.rules.thresholds import Limit, limits, wrong

NAME = "rules.toml"
ROOT = Path(__file__).resolve().parent.parent
TRACE = ROOT / "replays/missing-syn/trace.jsonl"


def problem(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_settings(text, NAME)
    return str(caught.value)


def line_of(message: str) -> int:
    found = re.match(rf"{NAME}, line (\d+): ", message)
    assert found, message
    return int(found[1])


# --- what is meant


def test_an_empty_file_is_the_defaults() -> None:
    assert parse_settings("", NAME, "all") == RuleSettings("all")


def test_a_threshold_is_taken_and_the_others_stay() -> None:
    made = parse_settings("[rate-limit]\nattempts_min = 4\n", NAME).of(BY_ID["rate-limit"])
    assert made == BY_ID["rate-limit"].Settings(attempts_min=4)  # type: ignore[call-arg]


def test_a_rule_that_is_not_named_has_its_defaults() -> None:
    made = parse_settings("[rate-limit]\nattempts_min = 4\n", NAME)
    assert made.of(BY_ID["churn"]) == BY_ID["churn"].Settings()


def test_a_textbook_rule_is_named_in_quotes() -> None:
    made = parse_settings('["textbook/rate-limit"]\nwindow_s = 30\n', NAME).of(BY_ID["textbook/rate-limit"])
    assert made == BY_ID["textbook/rate-limit"].Settings(window_s=30)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "text",
    ["rate-limit.hold_s = 7", "rate-limit = {hold_s = 7}", "['rate-limit']\n'hold_s' = 7", "[ rate-limit ] # x\r\nhold_s=7\r\n"],
)
def test_every_way_of_writing_a_table_is_understood(text: str) -> None:
    assert parse_settings(text, NAME).of(BY_ID["rate-limit"]).hold_s == 7  # type: ignore[attr-defined]


def test_a_whole_number_is_fine_where_a_fraction_may_be() -> None:
    assert parse_settings("[stalled]\nsilence_s = 20", NAME).of(BY_ID["stalled"]).silence_s == 20  # type: ignore[attr-defined]


FRACTIONS = [
    (rule_id, item.name)
    for rule_id, rule in BY_ID.items()
    for item in fields(rule.Settings)
    if not float(item.metadata["limit"].low).is_integer()
]


@pytest.mark.parametrize(("rule_id", "name"), FRACTIONS)
def test_half_a_second_is_taken_where_the_limits_allow_it(rule_id: str, name: str) -> None:
    """From 0.001 to 60: 0.5 is no mistake, nor 1.5."""
    default, limit = limits(BY_ID[rule_id].Settings)[name]
    assert [wrong(name, value, default, limit) for value in (limit.low, (limit.low + limit.high) / 2)] == [None, None]


def test_a_threshold_declared_as_a_float_takes_a_fraction() -> None:
    refused = [
        f"{rule_id}: {item.name}"
        for rule_id, rule in BY_ID.items()
        for item in fields(rule.Settings)
        if item.type == "float" and wrong(item.name, item.default + 0.25, *limits(rule.Settings)[item.name])
    ]
    refused = [each for each in refused if not each.endswith("failed_share")]  # at most 1
    assert refused == []


def test_what_has_to_be_whole_is_said_to_be() -> None:
    """To say that it is not whole and that a number of seconds is expected would tell nobody what to write."""
    message = problem('["textbook/churn"]\nwindow_s = 1.5')
    assert "whole number" in message


def test_the_limits_themselves_are_allowed() -> None:
    for rule_id, rule in BY_ID.items():
        for name, (_, limit) in limits(rule.Settings).items():
            for value in (limit.low, limit.high):
                try:
                    parse_settings(f'["{rule_id}"]\n{name} = {value}\n', NAME)
                except UsageError as error:
                    assert "out of range" not in str(error)


def test_roles_are_by_label_with_the_port_written_out() -> None:
    made = parse_settings('[roles]\n"registry.example" = "mirror"\n"10.0.0.1:5000" = "auth"\n', NAME)
    assert made.roles == {"registry.example:443": Role.MIRROR, "10.0.0.1:5000": Role.AUTH}


def test_disabled_rules_do_not_run() -> None:
    made = parse_settings('disabled = ["churn", "textbook/churn"]', NAME, "all")
    assert not {rule.id for rule in made.rules()} & {"churn", "textbook/churn"}


@pytest.mark.parametrize("rule_set", list(SETS))
def test_benign_rules_run_only_if_asked_for(rule_set: str) -> None:
    assert not [rule.id for rule in RuleSettings(rule_set).rules() if rule.benign]
    assert [rule.id for rule in RuleSettings(rule_set, benign=True).rules()] == [rule.id for rule in SETS[rule_set]]


def test_rules_have_their_thresholds() -> None:
    made = parse_settings("[churn]\nbudget_per_min = 10", NAME)
    assert next(rule for rule in made.rules() if rule.id == "churn").settings.budget_per_min == 10


# --- mistakes

WRONG = {
    "unknown-rule": ("[rate-limits]\nhold_s = 1", 1, ["rate-limits", "did you mean 'rate-limit'", "regtrace rules"]),
    "unknown-rule-far-off": ("[xyzzy]\nhold_s = 1", 1, ["xyzzy", "regtrace rules"]),
    "unknown-key": ("[rate-limit]\nholds_s = 1", 2, ["holds_s", "did you mean 'hold_s'", "attempts_min"]),
    "unknown-key-far-off": ("[rate-limit]\nxyzzy = 1", 2, ["xyzzy", "attempts_min", "hold_s"]),
    "unit": ('[rate-limit]\nhold_s = "60s"', 2, ["hold_s", "60s", "seconds", "1 to 3600"]),
    "text": ('[rate-limit]\nhold_s = "60"', 2, ["hold_s", "no number"]),
    "bool": ("[rate-limit]\nhold_s = true", 2, ["hold_s", "no number"]),
    "list": ("[rate-limit]\nhold_s = [1]", 2, ["hold_s", "no number"]),
    "table": ("[rate-limit]\nhold_s = {a = 1}", 2, ["hold_s", "no number"]),
    "date": ("[rate-limit]\nhold_s = 2026-01-01", 2, ["hold_s", "no number"]),
    "fraction": ("[rate-limit]\nattempts_min = 3.0", 2, ["attempts_min", "not whole", "3 to 32"]),
    "negative": ("[rate-limit]\nhold_s = -1", 2, ["hold_s", "-1", "out of range", "1 to 3600"]),
    "too-large": ("[rate-limit]\nhold_s = 3601", 2, ["hold_s", "out of range", "1 to 3600"]),
    "nan": ("[rate-limit]\nhold_s = nan", 2, ["hold_s", "nan", "1 to 3600"]),
    "inf": ("[rate-limit]\nhold_s = inf", 2, ["hold_s", "inf", "1 to 3600"]),
    "huge": (f"[rate-limit]\nattempts_min = {10**300}", 2, ["attempts_min", "out of range"]),
    "contradiction": ("[rate-limit]\nfactor_min = 5\nfactor_max = 4", 3, ["factor_max", "factor_min"]),
    "contradiction-with-a-default": ("[rate-limit]\nattempts_min = 4\nfactor_min = 5", 3, ["factor_max", "factor_min"]),
    "overlap": ('["textbook/short-lives"]\nhealthy_min_s = 8', 2, ["healthy_min_s", "overlaps"]),
    "short-lives": ('["textbook/short-lives"]\nlife_min_s = 12\nlife_max_s = 11', 3, ["life_max_s"]),
    "token-age": ('["textbook/token-aging"]\nage_s = 300', 2, ["age_s", "token_s"]),
    "role": ('[roles]\n"a.example" = "mirrors"', 2, ["mirrors", "mirror", "auth", "api"]),
    "role-number": ('[roles]\n"a.example" = 3', 2, ["3", "mirror"]),
    "role-endpoint": ('[roles]\n"a b" = "mirror"', 2, ["a b", "HOST"]),
    "roles-no-table": ('roles = "mirror"', 1, ["roles", "table"]),
    "disabled-unknown": ('disabled = ["churns"]', 1, ["churns", "did you mean 'churn'"]),
    "disabled-text": ('disabled = "churn"', 1, ["disabled", "list"]),
    "disabled-number": ("disabled = [1]", 1, ["disabled", "list"]),
    "rule-no-table": ("churn = 3", 1, ["churn", "[churn]"]),
    "rule-list": ("\n[[churn]]\nhold_s = 3", 2, ["churn"]),
    "disabled-below-a-table": ('[churn]\ndisabled = ["churn"]', 2, ["disabled", "churn"]),
}  # fmt: skip


@pytest.mark.parametrize("case", list(WRONG))
def test_a_mistake_is_named_with_what_is_allowed(case: str) -> None:
    text, _, parts = WRONG[case]
    message = problem(text)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize("case", list(WRONG))
def test_a_mistake_is_named_with_its_line(case: str) -> None:
    text, line, _ = WRONG[case]
    assert line_of(problem(text)) == line


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("case", list(WRONG))
def test_what_stands_before_moves_the_line(case: str, newline: str) -> None:
    text, line, _ = WRONG[case]
    before = ["# hold_s = 7, [rate-limit], attempts_min", "", "disabled = []", ""]
    if "disabled =" in text and not text.startswith("["):
        before[2] = "# nothing"
    assert line_of(problem(newline.join([*before, *text.split("\n")]))) == line + len(before)


LINES = {
    "the-same-key-in-another-section": ("[refused]\nhold_s = 5\n[rate-limit]\nhold_s = 0", 4),
    "the-same-key-in-a-later-section": ("[rate-limit]\nhold_s = 0\n[refused]\nhold_s = 5", 2),
    "dotted": ("refused.hold_s = 5\nrate-limit.hold_s = 0", 2),
    "dotted-with-blanks": ("refused.hold_s = 5\n  rate-limit . hold_s = 0", 2),
    "dotted-in-quotes": ('"textbook/churn".window_s = 5\n"textbook/churn"."opens_min" = 0', 2),
    "dotted-after-a-comment-with-the-key": ("rate-limit.attempts_min = 4 # see hold_s\nrate-limit.hold_s = 0", 2),
    "inline": ("refused = {hold_s = 5}\nrate-limit = {attempts_min = 4, hold_s = 0}", 2),
    "quoted-key": ("[rate-limit]\nattempts_min = 4\n'hold_s' = 0", 3),
    "comment-after-the-header": ("[rate-limit] # [refused]\n# hold_s = 7\nhold_s = 0", 3),
    "indented": ("  [rate-limit]\n\thold_s = 0", 2),
    "a-longer-key-before": ("[stalled]\nidle_margin_s = 4\nsilence_s = 0", 3),
    "a-text-over-lines-before": ('disabled = [\n "churn",\n]\n[rate-limit]\nhold_s = 0', 5),
    "a-table-below": ("[rate-limit]\nhold_s = 5\n[rate-limit.more]\nx = 1", 3),
    "an-unknown-key-at-the-top": ("# first\n\nnonsense = 1", 3),
    "an-unknown-dotted-rule": ("# first\n\nnonsense.hold_s = 1", 3),
    "a-line-separator-in-a-comment": ("# one\u2028two\n[rate-limit]\nhold_s = 0", 3),
    "a-next-line-in-a-comment": ("# one\x85two\n[rate-limit]\nhold_s = 0", 3),
    "roles-dotted": ('disabled = []\nroles."a.example" = "nonsense"', 2),
    "a-rule-after-others": ('[rate-limit]\nhold_s = 5\n[nonsense]', 3),
}  # fmt: skip


@pytest.mark.parametrize("case", list(LINES))
def test_the_line_is_that_of_the_key(case: str) -> None:
    text, line = LINES[case]
    assert line_of(problem(text)) == line


@pytest.mark.parametrize(
    "text",
    [
        "[rate-limit", "hold_s", "= 3", "[rate-limit]\nhold_s = 1\nhold_s = 2", "[churn]\n[churn]", 'a = "', "a = 1 2", "\x00",
        "\ufeff",
        "a = 0x", "[[churn]]\n[churn]", "a = 2026-13-01", "a = " + "[" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_toml_is_said_with_the_place(text: str) -> None:
    message = problem(text)
    assert NAME in message
    assert "no TOML" in message


@pytest.mark.parametrize("value", ["9" * 5000, "0x" + "f" * 5000, "-" + "9" * 5000, "1e999", "9" * 5000 + ".0"])
def test_a_number_of_thousands_of_digits_is_a_mistake_like_another(value: str) -> None:
    message = problem(f"[rate-limit]\nhold_s = {value}")
    assert NAME in message
    assert len(message) < 1000


def test_a_message_stays_short_whatever_the_key_is() -> None:
    assert len(problem("x" * 100_000 + " = 1")) < 2000
    assert len(problem(f"[rate-limit]\n{'x' * 100_000} = 1")) < 2000
    assert len(problem(f'[rate-limit]\nhold_s = "{"x" * 100_000}"')) < 2000


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_text_is_settings_or_a_usage_error(text: str) -> None:
    try:
        parse_settings(text, NAME)
    except UsageError as error:
        assert str(error).startswith(NAME)


_VALUES = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(max_size=5), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2), st.dates(),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(_VALUES)
def test_a_value_is_right_only_if_it_is_a_number_in_range(value: Any) -> None:
    allowed = isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value <= 60
    assert (wrong("hold_s", value, 5.0, Limit(1, 60, "")) is None) == allowed
    assert (wrong("attempts_min", value, 5, Limit(1, 60, "")) is None) == (allowed and isinstance(value, int))


# --- the file


def test_no_file_is_the_defaults() -> None:
    assert read_settings(None, "textbook") == RuleSettings("textbook")


def refused_file(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_settings(path, "all")
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text("[churn]\nbudget_per_min = 10\n")
    assert read_settings(path, "all").of(BY_ID["churn"]).budget_per_min == 10  # type: ignore[attr-defined]


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    assert "No such file" in refused_file(tmp_path / "none.toml")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    refused_file(tmp_path)


def test_a_fifo_without_a_writer_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    assert "ordinary" in refused_file(path)


def test_a_device_is_no_file() -> None:
    assert "ordinary" in refused_file(Path("/dev/zero"))


def test_a_name_with_a_null_byte_is_said() -> None:
    with pytest.raises(UsageError):
        read_settings(Path("a\0b"), "all")


def test_a_file_of_a_megabyte_is_read_and_no_larger_one(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(b"#" * CONFIG_BYTES_MAX)
    assert read_settings(path, "all") == RuleSettings("all")
    path.write_bytes(b"#" * (CONFIG_BYTES_MAX + 1))
    assert str(CONFIG_BYTES_MAX) in refused_file(path)


def test_a_file_that_is_not_utf_8_is_said_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(b"# one\n# two\xff\n")
    message = refused_file(path)
    assert "line 2" in message
    assert "UTF-8" in message


def test_a_file_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text("")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")
    refused_file(path)


# --- through the command line


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    return tmp_path / NAME


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(list(arguments))
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    written = capsys.readouterr()
    return code, written.out, written.err


@pytest.mark.parametrize("case", list(WRONG))
def test_a_mistake_is_one_line_and_exit_code_2(case: str, configuration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration.write_text(WRONG[case][0])
    code, out, err = run(capsys, "replay", str(TRACE), "--config", str(configuration))
    assert (code, out) == (2, "")
    assert re.fullmatch(r"regtrace: [^\n]+, line \d+: [^\n]+\n", err), err
    assert str(configuration) in err


@pytest.mark.parametrize("command", [("rules",), ("replay", str(TRACE)), ("watch", "--registry", "127.0.0.1:1")])
@pytest.mark.parametrize("what", ["missing", "directory", "fifo", "no-toml", "not-utf-8", "digits"])
def test_a_file_that_can_not_be_read_is_one_line_and_exit_code_2(
    command: tuple[str, ...], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / NAME
    if what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what != "missing":
        path.write_bytes({"no-toml": b"[", "not-utf-8": b"\xff", "digits": b"churn.hold_s = " + b"9" * 5000}[what])
    code, out, err = run(capsys, *command, "--config", str(path))
    assert (code, out) == (2, "")
    assert re.fullmatch(r"regtrace: [^\n]+\n", err), err
    assert str(path) in err


def test_escapes_in_a_configuration_do_not_reach_the_terminal(configuration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration.write_text('"\\u001b[31mred" = 1')
    code, _, err = run(capsys, "rules", "--config", str(configuration))
    assert code == 2
    assert "\x1b" not in err


def test_a_mistake_makes_no_traceback_in_a_process_of_its_own(configuration: Path) -> None:
    import sys

    configuration.write_text("[rate-limit]\nhold_s = '60s'")
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "replay", str(TRACE), "--config", str(configuration)],
        capture_output=True, text=True, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "line 2" in done.stderr


# --- in a capture's header


def test_the_defaults_differ_in_nothing() -> None:
    assert settings_from_text(RuleSettings("all").to_text(), "") == RuleSettings("all")


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_settings_come_back_from_their_text(data: st.DataObject) -> None:
    thresholds = {}
    for rule_id in data.draw(st.sets(st.sampled_from(sorted(BY_ID)), max_size=4)):
        made = BY_ID[rule_id].Settings
        values = {}
        for name, (default, limit) in limits(made).items():
            whole = isinstance(default, int)
            values[name] = data.draw(st.integers(ceil(limit.low), int(limit.high)) if whole else st.floats(limit.low, limit.high))
        candidate = made(**values)
        if not candidate.problems() and candidate != made():
            thresholds[rule_id] = candidate
    disabled = frozenset(data.draw(st.sets(st.sampled_from(sorted(BY_ID)), max_size=3)))
    chosen = RuleSettings("textbook", thresholds, disabled=disabled)
    assert settings_from_text(chosen.to_text(), "") == chosen


def test_a_named_set_wins_over_that_of_the_text() -> None:
    assert settings_from_text(RuleSettings("textbook").to_text(), "evidence").rule_set == "evidence"


def test_a_disabled_rule_that_is_gone_is_passed_over() -> None:
    made = settings_from_text('{"set": "all", "thresholds": {}, "disabled": ["churn", "gone"]}', "")
    assert made.disabled == {"churn"}


@pytest.mark.parametrize(
    "text",
    [
        "", "[", "3", "[]", "null", "{}", '{"thresholds": 3}', '{"set": "all", "thresholds": {"gone": {}}, "disabled": []}',
        '{"set": "all", "thresholds": {"churn": 3}, "disabled": []}',
        '{"set": "all", "thresholds": {"churn": {"gone": 1}}, "disabled": []}',
        '{"set": "all", "thresholds": {"churn": {"hold_s": "x"}}, "disabled": []}',
        '{"set": "all", "thresholds": {}, "disabled": 3}',
        '{"set": "gone", "thresholds": {}, "disabled": []}',
        '{"set": 3, "thresholds": {}, "disabled": []}', "[" * 100_000,
    ],
)  # fmt: skip
def test_text_that_is_not_settings_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        settings_from_text(text, "").rules()


def test_every_threshold_may_be_set_alone_to_its_default() -> None:
    for rule_id, rule in BY_ID.items():
        for item in fields(rule.Settings):
            text = f'["{rule_id}"]\n{item.name} = {item.default}\n'
            assert parse_settings(text, NAME).of(rule) == rule.Settings()
