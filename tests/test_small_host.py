"""Names that move and blobs from a host in no list, on a small host of its own; see tests/small_host.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.small_host import BLOB_BYTES, BLOBS, CDN, FIRST, REGISTRY, SECOND

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes namespaces")
RUN_S = 90
LEARNT = f"{CDN}:8443"
LISTED = f"{REGISTRY}:5000"


@pytest.fixture(
    scope="module", params=[pytest.param("ebpf", marks=pytest.mark.ebpf), pytest.param("polled", marks=pytest.mark.slow)]
)
def told(request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """What regtrace said, and what was done."""
    command = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.small_host", request.param]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    yield [json.loads(line) for line in done.stdout.splitlines()]


def of(told: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in told if line["type"] == kind]


def connections(told: list[dict[str, Any]], endpoint: str) -> list[dict[str, Any]]:
    return [line for line in of(told, "connection") if line["endpoint"] == endpoint]


def test_connections_are_seen_wherever_the_name_moves(told: list[dict[str, Any]]) -> None:
    assert [line["raddr"] for line in connections(told, LISTED)] == [FIRST, FIRST, SECOND]


def test_a_new_address_is_told_and_the_old_one_stays_for_its_time_of_grace(told: list[dict[str, Any]]) -> None:
    told_of = [(line["address"], line["added"]) for line in of(told, "address") if line["id"] == 1]
    assert told_of == [(FIRST, True), (SECOND, True)]


def test_blobs_from_a_host_in_no_list_are_there_and_are_of_the_pull(told: list[dict[str, Any]]) -> None:
    (facts,) = of(told, "facts")
    found = connections(told, LEARNT)
    assert [line["pid"] for line in found] == [facts["first"], facts["second"], facts["moved"]]
    assert all(line["bytes_received"] in (BLOB_BYTES, BLOB_BYTES + 1) for line in found)


def test_others_who_talk_to_that_host_are_left_out(told: list[dict[str, Any]]) -> None:
    (facts,) = of(told, "facts")
    assert not {line["pid"] for line in of(told, "connection")} & set(facts["bystanders"])


def test_a_learnt_host_is_marked_with_its_reason(told: list[dict[str, Any]]) -> None:
    (learnt,) = (line for line in of(told, "endpoint") if line["learnt"])
    assert (learnt["endpoint"], learnt["role"]) == (LEARNT, "blob")
    assert learnt["origin"].startswith("learnt: skopeo connected to it ")
    assert LISTED in learnt["origin"]
    assert BLOBS in [line["address"] for line in of(told, "address") if line["id"] == learnt["id"]]


def test_owners_have_their_command_line_and_namespace(told: list[dict[str, Any]]) -> None:
    for line in connections(told, LEARNT):
        assert line["cmdline"].split()[1] == "-c"
        assert line["netns_name"] == "own"
