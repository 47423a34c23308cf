"""What a user may set about rules, parsed from TOML. Pure: text in, settings out; errors name file, line and key.

disabled = ["churn"]

[roles]
"registry.example:5000" = "mirror"

[rate-limit]
attempts_min = 4

["textbook/rate-limit"]
window_s = 30
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from tracer.endpoints import parse_endpoint
from tracer.errors import UsageError
from tracer.roles import Role, parse_role
from tracer.rules.catalogue import BY_ID, SETS, RuleClass
from tracer.rules.rule import Rule
from tracer.rules.thresholds import Thresholds, limits, shown, wrong

_TOP = ("disabled", "roles")


@dataclass(frozen=True)
class RuleSettings:
    """Which rules run, with which thresholds, and what endpoints are for.

    Attributes:
        rule_set: key of `catalogue.SETS`.
        thresholds: by rule id, those that differ from the defaults.
        roles: by endpoint label, those that were said.
        disabled: rule ids.
        benign: whether rules run that find no faults.
    """

    rule_set: str = "evidence"
    thresholds: dict[str, Thresholds] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    disabled: frozenset[str] = frozenset()
    benign: bool = False

    def rules(self) -> list[Rule[Any]]:
        """The rules of the set, new."""
        wanted = (rule for rule in SETS[self.rule_set] if rule.id not in self.disabled)
        return [rule(self.of(rule)) for rule in wanted if self.benign or not rule.benign]

    def of(self, rule: RuleClass) -> Thresholds:
        """The thresholds of one rule."""
        return self.thresholds.get(rule.id) or rule.Settings()

    def to_text(self) -> str:
        """What differs from the defaults, for a capture's header, as JSON."""
        found: dict[str, Any] = {}
        for rule_id, thresholds in sorted(self.thresholds.items()):
            defaults = limits(type(thresholds))
            changed = {name: value for name, value in asdict(thresholds).items() if value != defaults[name][0]}
            if changed:
                found[rule_id] = changed
        return json.dumps({"set": self.rule_set, "disabled": sorted(self.disabled), "thresholds": found})


def parse_settings(text: str, name: str, rule_set: str = "evidence") -> RuleSettings:
    """Settings from the text of a configuration file.

    Args:
        text: TOML.
        name: of the file, for messages.
        rule_set: which rules to run.

    Raises:
        UsageError: no TOML, an unknown rule or key, a value of another kind or out of range, thresholds that contradict.
    """
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number of more digits than Python reads
        raise UsageError(f"{name} is no TOML: {error}") from error
    lines = _Lines(text, name)
    thresholds: dict[str, Thresholds] = {}
    for key, value in content.items():
        if key in _TOP:
            continue
        if key not in BY_ID:
            raise lines.wrong(
                key, None, f"there is no rule {shown(key)}{_meant(key, [*BY_ID, *_TOP])}; 'regtrace rules' lists them"
            )
        if not isinstance(value, dict):
            raise lines.wrong(None, key, f"{key} is a rule: write its thresholds below a line [{key}]")
        thresholds[key] = _thresholds(BY_ID[key], value, lines)
    return RuleSettings(rule_set, thresholds, _roles(content, lines), _disabled(content, lines))


def _thresholds(rule: RuleClass, values: dict[str, Any], lines: _Lines) -> Thresholds:
    allowed = limits(rule.Settings)
    for name, value in values.items():
        if name not in allowed:
            known = ", ".join(allowed)
            raise lines.wrong(rule.id, name, f"{shown(name)} is no threshold of {rule.id}{_meant(name, allowed)}; it has {known}")
        problem = wrong(name, value, *allowed[name])
        if problem is not None:
            raise lines.wrong(rule.id, name, problem)
    made = rule.Settings(**values)
    for names, problem in made.problems():
        raise lines.wrong(rule.id, next((name for name in names if name in values), names[0]), problem)
    return made


def _roles(content: dict[str, Any], lines: _Lines) -> dict[str, Role]:
    found = content.get("roles", {})
    if not isinstance(found, dict):
        raise lines.wrong(None, "roles", 'roles is a table: write [roles] and below it "HOST:PORT" = "auth"')
    roles: dict[str, Role] = {}
    for label, role in found.items():
        try:
            roles[parse_endpoint(label).label] = parse_role(role[:80] if isinstance(role, str) else shown(role))
        except UsageError as error:
            raise lines.wrong("roles", label, str(error)) from None
    return roles


def _disabled(content: dict[str, Any], lines: _Lines) -> frozenset[str]:
    found = content.get("disabled", [])
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise lines.wrong(None, "disabled", 'disabled is a list of rule ids, as in disabled = ["churn"]')
    for item in found:
        if item not in BY_ID:
            raise lines.wrong(
                None, "disabled", f"there is no rule {shown(item)}{_meant(item, BY_ID)}; 'regtrace rules' lists them"
            )
    return frozenset(found)


def _meant(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word[:80], list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


class _Lines:
    """Where keys are in a file: the parser does not tell."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text.split("\n")  # as TOML counts lines
        self._name = name

    def wrong(self, section: str | None, key: str | None, what: str) -> UsageError:
        return UsageError(f"{self._name}, line {self._number(section, key)}: {what}")

    def _number(self, section: str | None, key: str | None) -> int:
        """The line of a key in a section, or of the section's own beginning; as near as can be told."""
        current: str | None = None
        found = 0
        for number, line in enumerate(self._text, 1):
            header = _header(line)
            if header is not None:
                current = header.strip("\"'")
                if section is not None and key is not None and _same_section(current, f"{section}.{key}"):
                    return number
                begins = section or key
                if not found and current is not None and begins is not None and _same_section(current, begins):
                    found = number
            elif key is not None and current == section and _assigns(line, key):
                return number
            elif current is None and section is not None and _assigns(line, section) and _names(line, key):
                return number  # dotted keys and inline tables: rate-limit.attempts_min = 4
        return found or 1


def _header(line: str) -> str | None:
    """The name in a line [name] or [[name]], quotes left in; None if it is none. No pattern: lines may be long and hostile."""
    stripped = line.strip()
    if not stripped.startswith("["):
        return None
    return stripped.partition("]")[0].lstrip("[").strip()


def _same_section(header: str, name: str) -> bool:
    bare = header.replace('"', "").replace("'", "")
    return header == name or bare.startswith(f"{name}.")


def _names(line: str, key: str | None) -> bool:
    """Whether a line that sets something within a section names this key, before any comment."""
    return key is None or key in line.partition("#")[0]


def _assigns(line: str, key: str) -> bool:
    """Whether a line sets a key, or something within it."""
    return re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[.=]", line) is not None


def settings_from_text(text: str, rule_set: str | None) -> RuleSettings:
    """Settings as `to_text` wrote them, with another rule set if that is named.

    Raises:
        UsageError: they can't be understood; a later version may have other thresholds.
    """
    try:
        content = json.loads(text)
        values = content["thresholds"]
        lines = _Lines("", "the capture's rule settings")
        thresholds = {key: _thresholds(BY_ID[key], value, lines) for key, value in values.items()}
        wanted = rule_set or content["set"]
        if wanted not in SETS:
            raise ValueError(f"rule set {wanted!r:.40}")
        return RuleSettings(wanted, thresholds, {}, frozenset(map(str, content["disabled"])) & frozenset(BY_ID))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"the capture's rule settings can't be understood ({error!r:.200})") from error
