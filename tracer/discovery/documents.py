"""JSON, TOML and YAML of configuration files that anybody may have written. Pure.

The parsers' own messages quote the file, and the file may hold secrets: of a message only the line is passed on.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

_LINE = re.compile(r"\bline (\d+)")
_STRING = re.compile(r""""(?:[^"\\]|\\.)*+"|'[^']*+'""")
_KEY_DOTS_MAX = 100
"""Outside of strings, in a line of TOML. tomllib walks a key from the root for every line below its header: many lines below one
deep header take minutes."""
_LINE_DOTS_MAX = 10_000
"""In a line of TOML, wherever. The time for one key grows by the square of its parts, and a string of several lines can hide
it."""
_NODES_MAX = 50_000
"""Values in a YAML file, with aliases counted as what they stand for: nine lines of aliases can stand for a billion values."""


class DocumentError(ValueError):
    """A file can't be parsed; the message says why, to be put behind its name."""


def parse_json(text: str) -> dict[str, Any]:
    """The object in a JSON file; empty for an empty file.

    Raises:
        DocumentError: it is not JSON, is nested too deeply, or holds something other than an object.
    """
    if not text.strip():
        return {}
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DocumentError(f"not JSON (line {error.lineno})") from None
    except ValueError:  # a number of more digits than int() takes
        raise DocumentError("not JSON that can be read: a number is too long") from None
    except RecursionError:
        raise DocumentError("nested too deeply") from None
    return _table(content, "object")


def parse_toml(text: str) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        DocumentError: it is not TOML, or is nested too deeply.
    """
    for number, line in enumerate(text.split("\n"), 1):
        dots = line.count(".")
        if dots > _LINE_DOTS_MAX:
            raise DocumentError(f"more than {_LINE_DOTS_MAX} dots in a line (line {number})")
        if dots > _KEY_DOTS_MAX and not line.lstrip().startswith("#") and _STRING.sub("", line).count(".") > _KEY_DOTS_MAX:
            raise DocumentError(f"nested too deeply (line {number})")
    try:
        return tomllib.loads(text)
    except ValueError as error:
        line_number = _LINE.search(str(error))
        raise DocumentError(f"not TOML (line {line_number[1]})" if line_number else "not TOML") from None
    except RecursionError:
        raise DocumentError("nested too deeply") from None


def parse_yaml(text: str) -> dict[str, Any]:
    """The mapping in a YAML file of one document; empty for an empty file.

    Raises:
        DocumentError: it is not YAML, is nested too deeply, holds too much, or something other than a mapping.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe, and bounded: see _NODES_MAX."""

        n_nodes = 0

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            before = self.n_nodes
            alias = self.check_event(yaml.AliasEvent)
            node = super().compose_node(parent, index)
            if alias:
                # An alias within what it stands for has no size yet, and no end.
                self.n_nodes += getattr(node, "n_nodes", _NODES_MAX)
            else:
                self.n_nodes += 1
                setattr(node, "n_nodes", self.n_nodes - before)  # noqa: B010 - yaml.Node declares no such attribute
            if self.n_nodes > _NODES_MAX:
                raise DocumentError(f"holds more than {_NODES_MAX} values, or values that hold themselves")
            return node

    try:
        content = yaml.load(text, Loader=Loader)  # noqa: S506 - it is a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise DocumentError(f"not YAML (line {mark.line + 1})" if mark else "not YAML") from None
    except DocumentError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, OverflowError):  # impossible dates and numbers are ValueErrors
        raise DocumentError("not YAML") from None
    except RecursionError:
        raise DocumentError("nested too deeply") from None
    return {} if content is None else _table(content, "mapping")


def _table(content: object, called: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DocumentError(f"holds something other than one {called}")
    return content
