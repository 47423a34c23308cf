"""Golden replays: what the product makes of each trace is what was expected when it was last looked at."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.replays import folders, outcome, trace_of


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
