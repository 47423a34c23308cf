"""What is watched without being told: from this host's configuration, as the command shows it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tracer.commands.wanted import wanted
from tracer.discovery import host
from tracer.discovery.found import Discovery, Found
from tracer.roles import Role

ROOT = Path(__file__).resolve().parent.parent
MARK = "c2VjcmV0OnRvcC1zZWNyZXQ="
CONFIG = {"auths": {"private.example:5000": {"auth": MARK}}, "credHelpers": {"helped.example": "ecr-login"}}
PATIENCE_S = 60


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return os.environ | {"DOCKER_CONFIG": str(tmp_path), "HOME": str(tmp_path), "HTTPS_PROXY": "http://u:p@proxy.example:3128"}


def regtrace(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracer", *arguments], capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT, env=environ
    )


def listed(environ: dict[str, str], *arguments: str) -> dict[str, dict[str, object]]:
    """By label."""
    done = regtrace(environ, "watch", "--list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return {line["endpoint"]: line for line in map(json.loads, done.stdout.splitlines())}


def test_configured_registries_are_listed_with_role_and_origin(environ: dict[str, str], tmp_path: Path) -> None:
    found = listed(environ)
    assert found["private.example:5000"]["role"] == "private"
    assert str(tmp_path / "config.json") in str(found["private.example:5000"]["origin"])
    assert found["proxy.example:3128"]["role"] == "proxy"
    assert "helped.example:443" in found


def test_a_proxy_is_watched_with_its_caveat(environ: dict[str, str]) -> None:
    done = regtrace(environ, "watch", "--list")
    (line,) = (line for line in done.stderr.splitlines() if "proxy.example:3128" in line)
    assert "registries behind it can't be told apart" in line


def test_docker_hub_is_always_there(environ: dict[str, str]) -> None:
    found = listed(environ)
    roles = {name: found[f"{name}:443"]["role"] for name in ("registry-1.docker.io", "auth.docker.io")}
    assert roles == {"registry-1.docker.io": "api", "auth.docker.io": "auth"}


def test_docker_hub_is_left_out_if_told_so(environ: dict[str, str]) -> None:
    assert not [label for label in listed(environ, "--no-hub") if "docker.io" in label]


def test_what_is_named_is_all_that_is_watched(environ: dict[str, str]) -> None:
    found = listed(environ, "--registry", "10.0.0.1:5000")
    assert {label: line["origin"] for label, line in found.items()} == {"10.0.0.1:5000": "--registry"}


def test_people_get_a_line_for_each(environ: dict[str, str]) -> None:
    lines = regtrace(environ, "watch", "--list").stdout.splitlines()
    (line,) = (line for line in lines if line.startswith("private.example:5000 "))
    assert " private " in line


@pytest.mark.parametrize("arguments", [("watch", "--list"), ("watch", "--list", "--json"), ("doctor",), ("doctor", "--json")])
def test_no_secret_is_shown(environ: dict[str, str], arguments: tuple[str, ...]) -> None:
    done = regtrace(environ, *arguments)
    assert "private.example:5000" in done.stdout
    assert MARK not in done.stdout + done.stderr
    assert "u:p" not in done.stdout + done.stderr


def test_no_secret_is_in_a_capture(environ: dict[str, str], tmp_path: Path) -> None:
    for name in ("t.jsonl", "t.arrows"):
        done = regtrace(
            environ, "record", str(tmp_path / name), "--no-learn", "--no-hub", "--duration", "0.2", "--source", "polled"
        )
        assert done.returncode == 0, done.stderr
        written = (tmp_path / name).read_bytes()
        assert b"private.example:5000" in written
        assert MARK.encode() not in written
        assert b"u:p" not in written


def test_a_watch_without_arguments_says_what_it_watches_and_what_it_can_not_resolve(environ: dict[str, str]) -> None:
    done = regtrace(environ, "watch", "--json", "--no-learn", "--duration", "0.2", "--source", "polled")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    labels = {endpoint["endpoint"] for endpoint in lines[0]["endpoints"]}
    assert {"private.example:5000", "registry-1.docker.io:443"} <= labels
    assert set(lines[-1]["unresolved"]) <= labels


def test_a_configuration_that_is_broken_is_a_line_and_the_rest_works(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auths": [')
    done = regtrace(environ, "watch", "--list")
    assert done.returncode == 0
    assert "registry-1.docker.io:443" in done.stdout
    assert [line for line in done.stderr.splitlines() if str(tmp_path / "config.json") in line]


def test_a_network_of_a_configuration_is_not_taken_for_a_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (
        Found("10.0.0.0/8:*", Role.PRIVATE, "a file: insecure-registries"),
        Found("10.0.0.1:*", Role.PRIVATE, "a file"),
        Found("r.example:443", Role.API, "a file"),
    )
    monkeypatch.setattr(host, "discover", lambda **_: Discovery(found, (), ()))
    warnings: list[str] = []
    made = wanted(argparse.Namespace(registry=[], hub=True), warnings.append, {})
    assert list(made.labels().values()) == ["10.0.0.1:*", "r.example:443"]
    assert "10.0.0.0/8:* (a file: insecure-registries) is not watched" in warnings[0]


@pytest.mark.parametrize("name", ["docker.io", "index.docker.io"])
def test_docker_hubs_name_in_images_means_the_hosts_that_serve_it(environ: dict[str, str], name: str) -> None:
    found = listed(environ, "--registry", name)
    assert {"registry-1.docker.io:443", "auth.docker.io:443"} <= set(found)
    assert f"{name}:443" not in found


def test_roles_that_were_said_are_shown(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[roles]\n"10.0.0.1:5000" = "mirror"\n')
    found = listed(environ, "--registry", "10.0.0.1:5000", "--config", str(tmp_path / "r.toml"))
    assert found["10.0.0.1:5000"]["role"] == "mirror"


def test_a_password_in_a_registry_is_not_repeated(environ: dict[str, str]) -> None:
    for spec in (f"u:{MARK}@r.example", f"https://u:{MARK}@r.example/v2"):
        done = regtrace(environ, "watch", "--list", "--registry", spec)
        assert done.returncode == 2
        assert "leave out scheme, user and path" in done.stderr
        assert MARK not in done.stderr
