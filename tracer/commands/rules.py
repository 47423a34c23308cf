"""`regtrace rules`: the rules that there are with their thresholds, or one of them explained from its docstring."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from tracer.configuration import read_settings
from tracer.errors import EXIT_OK
from tracer.rules.catalogue import SETS, RuleClass, find_rule
from tracer.rules.settings import RuleSettings
from tracer.rules.thresholds import limits, unit_of


def run(options: argparse.Namespace) -> int:
    """List or explain."""
    settings = read_settings(options.config, "all")
    rules = SETS["all"] if options.rule is None else (find_rule(options.rule),)
    if options.json:
        lines: Iterator[str] = (json.dumps(_object(rule, settings)) for rule in rules)
    elif options.rule is None:
        lines = (line for rule in rules for line in _listed(rule, settings))
    else:
        lines = _explained(rules[0], settings)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return EXIT_OK


def _set_of(rule: RuleClass) -> str:
    return "textbook" if rule.id.startswith("textbook/") else "evidence"


def _title(rule: RuleClass) -> str:
    return (inspect.getdoc(rule) or "").partition("\n")[0]


def _listed(rule: RuleClass, settings: RuleSettings) -> Iterator[str]:
    benign = "  (benign: runs with --benign)" if rule.benign else ""
    off = "  (disabled)" if rule.id in settings.disabled else ""
    yield f"{rule.id:<24} {_title(rule)}{benign}{off}"
    values = ", ".join(f"{name} = {value:g}" for name, value in asdict(settings.of(rule)).items())
    yield f"{'':<24} {values}"


def _explained(rule: RuleClass, settings: RuleSettings) -> Iterator[str]:
    yield f"{rule.id}  ({_set_of(rule)} set)"
    yield ""
    yield from (inspect.getdoc(rule) or "").splitlines()
    yield ""
    yield f"[{rule.id}]" if "/" not in rule.id else f'["{rule.id}"]'
    allowed = limits(rule.Settings)
    for name, value in asdict(settings.of(rule)).items():
        default, limit = allowed[name]
        yield (
            f"{name} = {value:g}".ljust(28)
            + f"# {limit.text}; {unit_of(name)}, {limit.low:g} to {limit.high:g}, default {default:g}"
        )


def _object(rule: RuleClass, settings: RuleSettings) -> dict[str, Any]:
    allowed = limits(rule.Settings)
    return {
        "type": "rule",
        "rule": rule.id,
        "set": _set_of(rule),
        "title": _title(rule),
        "benign": rule.benign,
        "disabled": rule.id in settings.disabled,
        "thresholds": {
            name: {"value": value, "default": allowed[name][0], "min": allowed[name][1].low, "max": allowed[name][1].high}
            for name, value in asdict(settings.of(rule)).items()
        },
        "explanation": inspect.getdoc(rule),
    }
