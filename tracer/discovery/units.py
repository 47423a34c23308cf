"""systemd's units of container engines: their environment and their command lines. Pure.

systemd.unit(5), systemd.service(5), systemd.exec(5): later files add to lists, an empty assignment empties them. Of the
specifiers only %% is known; what others stand for is not needed for a host's name.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_SECTION = "Service"
_VALUE_LENGTH_MAX = 1 << 16
"""Splitting into words takes time by the square of a word's length."""
_PREFIXES = "-@:+!|"
"""Of a command in ExecStart=: how it is run, not what."""


@dataclass
class Service:
    """A unit with its drop-ins, as far as they were read.

    Attributes:
        variables: environment by name, with the place that set each last.
        environment_files: (path, whether it may be missing, place).
        commands: (words, place) of ExecStart=.
        problems: a line each.
    """

    variables: dict[str, tuple[str, str]] = field(default_factory=dict)
    environment_files: list[tuple[str, bool, str]] = field(default_factory=list)
    commands: list[tuple[list[str], str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, text: str, place: str) -> None:
        """Add what a file says; the unit's own comes first, then drop-ins by name."""
        for key, value in _assignments(text):
            if key == "Environment":
                self._add_variables(value, place)
            elif key == "EnvironmentFile":
                self._add_file(value, place)
            elif key == "ExecStart":
                self._add_command(value, place)

    def command(self, words: list[str]) -> list[str]:
        """A command line with $NAME and ${NAME} as words replaced, as systemd does."""
        replaced: list[str] = []
        for word in words:
            name = word[2:-1] if word.startswith("${") and word.endswith("}") else word[1:]
            if not word.startswith("$") or name not in self.variables:
                replaced.append(word)
            elif word.startswith("${"):
                replaced.append(self.variables[name][0])
            else:
                replaced += self.variables[name][0].split()
        return replaced

    def _add_variables(self, value: str, place: str) -> None:
        if not value:
            self.variables.clear()
        for word in self._words(value, "Environment", place):
            name, equals, content = word.partition("=")
            if equals:
                self.variables[name] = content.replace("%%", "%"), place

    def _add_file(self, value: str, place: str) -> None:
        if not value:
            self.environment_files.clear()
            return
        path = value.removeprefix("-")
        if path.startswith("/"):
            self.environment_files.append((path, value.startswith("-"), place))

    def _add_command(self, value: str, place: str) -> None:
        if not value:
            self.commands.clear()
            return
        words = self._words(value.lstrip(_PREFIXES), "ExecStart", place)
        if words:
            self.commands.append((words, place))

    def _words(self, value: str, key: str, place: str) -> list[str]:
        if len(value) > _VALUE_LENGTH_MAX:
            self.problems.append(f"{place}: {key} is longer than {_VALUE_LENGTH_MAX} characters")
            return []
        try:
            return shlex.split(value)
        except ValueError:
            self.problems.append(f"{place}: {key} has a quote or backslash with nothing behind it")
            return []


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    """(key, value) in the section of services; lines that end in a backslash go on in the next one."""
    section = ""
    for line in _logical_lines(text.split("\n")):
        if line.startswith("["):
            section = line.strip("[]")
        elif section == _SECTION:
            key, equals, value = line.partition("=")
            if equals:
                yield key.strip(), value.strip()


def _logical_lines(lines: Iterable[str]) -> Iterator[str]:
    parts: list[str] = []
    for raw in lines:
        line = raw.strip()
        if line.startswith(("#", ";")):  # also between lines that belong together
            continue
        parts.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            yield " ".join(parts).strip()
            parts.clear()
    if parts:
        yield " ".join(parts).strip()


def parse_variables(text: str) -> dict[str, str]:
    """The assignments in an environment file, /etc/environment or /etc/default/*: one a line, quotes and `export` taken off."""
    variables = {}
    for line in _logical_lines(text.split("\n")):
        name, equals, value = line.removeprefix("export ").partition("=")
        value = value.strip()
        if value[:1] in ("'", '"'):
            value = value[1:].partition(value[0])[0]
        if equals and name.strip().isidentifier():
            variables[name.strip()] = value
    return variables
