"""Findings on a real kernel: live, in time, with the culprit, and the same when the capture is replayed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.live import ROOT, Line, Watching

pytestmark = pytest.mark.ebpf
ATTEMPTS, PERIOD_S = 8, 0.7
PERIOD_ERROR = 0.05


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def try_again_and_again(port: int) -> None:
    """A service that can't reach its registry, from this process."""
    begun_s = time.monotonic()
    for number in range(ATTEMPTS):
        time.sleep(max(0.0, begun_s + number * PERIOD_S - time.monotonic()))
        with socket.socket() as client:
            client.connect_ex(("127.0.0.1", port))


def findings(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line["type"] == "finding"]


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Line]]:
    """A capture of such a service, and the lines that were written while it was taken."""
    trace, port = tmp_path_factory.mktemp("storm") / "storm.arrows", free_port()
    running = Watching("record", str(trace), "--json", f"--registry=127.0.0.1:{port}")
    try:
        try_again_and_again(port)
        time.sleep(1.5)
    finally:
        lines = running.stop()
    return trace, lines


def test_a_storm_is_found_while_it_goes_on(storm: tuple[Path, list[Line]]) -> None:
    (found,) = [line for line in findings(storm[1]) if line["rule"] == "retry-storm" and line["state"] == "open"]
    assert 0 < found["detected_ns"] - found["started_ns"] < 30e9
    assert abs(found["evidence"]["period_s"] / PERIOD_S - 1) < PERIOD_ERROR


def test_the_culprit_is_named(storm: tuple[Path, list[Line]]) -> None:
    for found in findings(storm[1]):
        (suspect,) = found["suspects"]
        assert (suspect["pid"], suspect["comm"]) == (os.getpid(), Path("/proc/self/comm").read_text().strip())


def test_a_refusal_is_found_too(storm: tuple[Path, list[Line]]) -> None:
    assert {line["rule"] for line in findings(storm[1])} == {"refused", "retry-storm"}


def test_a_replay_finds_the_same_at_the_same_times(storm: tuple[Path, list[Line]]) -> None:
    trace, lines = storm
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "replay", "--json", str(trace)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert findings([json.loads(line) for line in done.stdout.splitlines()]) == findings(lines)


def test_a_critical_finding_can_fail_a_watch() -> None:
    port = free_port()
    running = Watching("watch", "--json", f"--registry=127.0.0.1:{port}", "--fail-on-finding", "--duration", "4")
    for _ in range(4):
        with socket.socket() as client:
            client.connect_ex(("127.0.0.1", port))
    running.process.wait(30)
    assert running.process.returncode == 3
    running._reader.join()
    running.process.stdout.close()  # type: ignore[union-attr]
    running.process.stderr.close()  # type: ignore[union-attr]


def test_healthy_connections_find_nothing() -> None:
    from tests.live import read_all, serving

    def treat(accepted: socket.socket) -> None:
        accepted.recv(1000)
        accepted.sendall(b"x" * 100_000)

    with serving(treat) as port:
        running = Watching("watch", "--json", f"--registry=127.0.0.1:{port}", "--rules", "evidence")
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: registry.example\r\n\r\n")
                read_all(client)
        time.sleep(1)
        assert findings(running.stop()) == []
