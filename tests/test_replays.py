"""Golden replays: what the product makes of each trace is what was expected when it was last looked at."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from tests.replays import folders, outcome, trace_of
from tracer.commands.reading import collect


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_replay_gives_what_is_expected(folder: Path) -> None:
    assert outcome(folder) == json.loads((folder / "expected.json").read_text())


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_replay_explains_itself(folder: Path) -> None:
    """A README with purpose, origin and what must be seen."""
    headings = re.findall(r"^## (.+)$", (folder / "README.md").read_text(), re.M)
    assert headings == ["Where it comes from", "What must be seen", "What must not be seen"]


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_replay_is_small(folder: Path) -> None:
    assert trace_of(folder).stat().st_size < 100_000


def test_there_are_replays() -> None:
    assert {"registry-pull", "missing-syn", "lost-events"} <= {folder.name for folder in folders()}


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_nothing_works_again_before_it_failed(folder: Path) -> None:
    """A token that was put to use shows it seconds later, when the next one may have been refused already."""
    options = argparse.Namespace(rules="evidence", config=None, benign=False)
    recovered = [finding for finding in collect(options, trace_of(folder)).findings if finding.rule == "recovered"]
    assert all(finding.evidence["lasted_s"] >= 0 for finding in recovered)
