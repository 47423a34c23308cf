"""`regtrace diff`: what changed between two captures, how much and how surely, the worst first."""

from __future__ import annotations

import argparse
import sys

from tracer.commands.reading import collect
from tracer.comparison.difference import Difference, difference
from tracer.comparison.presence import is_new_critical
from tracer.errors import EXIT_FINDING, EXIT_OK, UsageError


def run(options: argparse.Namespace) -> int:
    """Read both captures to their ends and compare them."""
    mapped = _mapped(options.map)
    first = collect(options, options.a)
    found = difference(first, collect(options, options.b), mapped)
    sys.stdout.writelines(f"{line}\n" for line in _lines(options, found))
    new = options.fail_on_finding and any(map(is_new_critical, found.only))
    return EXIT_FINDING if new else EXIT_OK


def _lines(options: argparse.Namespace, found: Difference) -> list[str]:
    if options.json:
        from tracer.lines.comparison import difference_lines

        return list(difference_lines(found, everything=options.all))
    from tracer.reports.diff_report import difference_texts

    names = (str(options.a), str(options.b))
    return difference_texts(found, names, everything=options.all, same_rules=options.config is not None)


def _mapped(pairs: list[str]) -> dict[str, str]:
    """Label in B by label in A.

    Raises:
        UsageError: a pair is none, or its endpoint of A was given before.
    """
    mapped: dict[str, str] = {}
    for pair in pairs:
        one, equals, other = pair.partition("=")
        if not (equals and one and other):
            raise UsageError(f"--map {pair!r}: expected A=B, an endpoint of the first trace and one of the second")
        if one in mapped:
            raise UsageError(f"--map {pair!r}: {one!r} of A is given twice")
        mapped[one] = other
    return mapped
