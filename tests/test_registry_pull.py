"""A real pull: skopeo from docker-registry, checked against the registry's own access log."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.lab.registry import DockerRegistry, make_image, missing_programs, skopeo_copy
from tests.live import Line, connections, summary, watching

pytestmark = [pytest.mark.ebpf, pytest.mark.daemons]

LAYER_BYTES = (200_000, 1_000_000, 3_000_000)
HEADER_BYTES_MAX = 1024  # of one response
TLS_REFUSAL_BYTES = 103  # "HTTP/1.0 400 Bad Request ...": skopeo tries TLS first; Go's server does not log what is no HTTP

Pull = tuple[list[Line], dict[int, list[int]]]


@pytest.fixture(scope="module")
def pull(tmp_path_factory: pytest.TempPathFactory, ebpf_reason: str | None) -> Pull:
    """The lines of a watch during one pull, and the registry's log of it."""
    if ebpf_reason:
        skip_or_fail(ebpf_reason)
    missing = missing_programs()
    if missing:
        skip_or_fail(f"not installed: {', '.join(missing)}")
    folder: Path = tmp_path_factory.mktemp("pull")
    make_image(folder / "image", LAYER_BYTES)
    with DockerRegistry(folder / "registry") as registry:
        skopeo_copy(f"oci:{folder}/image:latest", registry.reference)
        before = registry.log_lines()
        with watching(f"127.0.0.1:{registry.port}") as running:
            skopeo_copy(registry.reference, f"dir:{folder}/pulled")
            lines = running.stop()
        return lines, registry.body_bytes_by_client_port(before)


@pytest.fixture
def served(pull: Pull) -> dict[int, Line]:
    """By client port: the connections over which HTTP was spoken."""
    return {row["lport"]: row for row in connections(pull[0]) if row["bytes_received"] != TLS_REFUSAL_BYTES}


def test_ports_are_those_of_the_access_log(pull: Pull, served: dict[int, Line]) -> None:
    assert set(served) == set(pull[1])


def test_the_only_other_connection_is_the_refused_tls_attempt(pull: Pull, served: dict[int, Line]) -> None:
    assert len(connections(pull[0])) == len(served) + 1


def test_bytes_are_those_of_the_access_log(pull: Pull, served: dict[int, Line]) -> None:
    """What the client received is what the registry wrote, and headers."""
    for port, bodies in pull[1].items():
        headers = served[port]["bytes_received"] - sum(bodies)
        assert 0 < headers <= HEADER_BYTES_MAX * len(bodies), (port, bodies, served[port])


def test_every_layer_is_seen(served: dict[int, Line]) -> None:
    largest = sorted(row["bytes_received"] for row in served.values())[-len(LAYER_BYTES) :]
    assert all(received >= size for received, size in zip(largest, LAYER_BYTES, strict=True))


def test_owner_is_skopeo(pull: Pull) -> None:
    assert {row["comm"] for row in connections(pull[0])} == {"skopeo"}
    assert len({row["pid"] for row in connections(pull[0])}) == 1


def test_nothing_is_lost_or_unknown(pull: Pull) -> None:
    last = summary(pull[0])
    assert (last["lost"], last["unknown_transitions"], last["coverage"]) == (0, [], 1.0)
