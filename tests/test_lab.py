"""A part of the lab, played anew: real registries and clients, faults and none, and what the rules make of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.lab.__main__ import missing_programs
from tests.lab.scenario import Scenario
from tests.lab.scenarios import SCENARIOS
from tests.lab.scoreboard import Score, scores

ROOT = Path(__file__).resolve().parent.parent
FAULTS = (
    "skopeo-429-closed", "ctr-429-kept", "loop-refused", "dockerd-mirror-killed", "skopeo-wrong-password", "curl-slow-consumer",
)  # fmt: skip
HEALTHY = ("healthy-pulls", "healthy-pulls-tls", "ctr-pulls", "dockerd-pulls", "skopeo-token-pulls", "healthy-inspect-loop")
LEAD_MIN_S = 45.0
PATIENCE_S = 900

pytestmark = [pytest.mark.slow, pytest.mark.ebpf, pytest.mark.daemons]


def chosen() -> list[Scenario]:
    return [scenario for scenario in SCENARIOS if scenario.name in (*FAULTS, *HEALTHY)]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The captures of these scenarios."""
    missing = missing_programs(chosen())
    if missing:
        skip_or_fail(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        skip_or_fail("the lab needs root")
    out = tmp_path_factory.mktemp("lab")
    command = [sys.executable, "-m", "tests.lab", "--out", str(out), "--only", *FAULTS, *HEALTHY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def evidence(played: Path) -> dict[str, Score]:
    return {entry.scenario: entry for entry in scores(played, "evidence")}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_rightly(evidence: dict[str, Score], name: str) -> None:
    assert evidence[name].named


@pytest.mark.parametrize("name", [*FAULTS, *HEALTHY])
def test_nothing_else_is_said(evidence: dict[str, Score], name: str) -> None:
    assert evidence[name].false_alarms == ()


@pytest.mark.parametrize("name", FAULTS)
def test_roles_need_not_be_told(played: Path, name: str) -> None:
    found = {entry.scenario: entry for entry in scores(played, "evidence", roles_known=False)}
    assert found[name].named
    assert found[name].false_alarms == ()


def test_a_rate_limit_is_found_long_before_skopeo_tells_its_user(evidence: dict[str, Score]) -> None:
    lead_s = evidence["skopeo-429-closed"].lead_s
    assert lead_s is not None
    assert lead_s >= LEAD_MIN_S


def test_the_textbook_set_cries_wolf_at_healthy_pulls(played: Path) -> None:
    """Or the scoreboard would compare with nothing."""
    found = {entry.scenario: entry for entry in scores(played, "textbook")}
    assert all(found[name].false_alarms for name in ("healthy-pulls", "dockerd-pulls"))


def test_a_capture_of_the_lab_says_what_its_endpoints_are_for(played: Path) -> None:
    from tracer.captures import open_trace

    trace = open_trace(played / "skopeo-token-pulls" / "trace.arrows")
    trace.close()
    label = json.loads((played / "skopeo-token-pulls" / "label.json").read_text())
    said = {trace.header.endpoints[number]: role.value for number, role in trace.header.roles().items()}
    assert said == label["endpoints"]
