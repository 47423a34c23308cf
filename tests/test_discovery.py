"""tracer.discovery: whole hosts made of files, as found in the wild and as made to do harm."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import skip_or_fail
from tests.discovered import CASES, HOSTS, PATIENCE_S, as_json, look_at
from tracer.discovery import looking
from tracer.discovery.files import FILE_BYTES_MAX, read_text
from tracer.discovery.found import FOUND_MAX, Discovery
from tracer.discovery.host import HOMES_MAX, discover, parse_homes
from tracer.endpoints import parse_endpoint
from tracer.roles import Role

ROOT = Path(__file__).resolve().parent.parent
SECRET = "mArKeDsEcReT"  # noqa: S105 - marked, to be looked for


def specs(found: Discovery) -> list[str]:
    return [one.spec for one in found.found]


def put(root: Path, path: str, content: str | bytes | None = None) -> Path:
    """A file of a host, or with None only the folder that it would be in."""
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


# --- hosts as in the wild ---


@pytest.mark.parametrize("case", CASES)
def test_what_is_discovered_on_a_host_is_what_is_expected(case: str) -> None:
    """After a change that is meant: python -m tests.discovered, and read what it changed."""
    assert as_json(look_at(HOSTS / case)) == json.loads((HOSTS / case / "expected.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_every_spec_is_the_label_of_an_endpoint(case: str) -> None:
    found = specs(look_at(HOSTS / case))
    assert [parse_endpoint(spec).label for spec in found] == found
    assert len(set(found)) == len(found)


def test_docker_hub_is_watched_on_a_host_without_any_configuration(tmp_path: Path) -> None:
    found = look_at(tmp_path, hub=True)
    assert [(one.spec, one.role) for one in found.found[:2]] == [
        ("registry-1.docker.io:443", Role.API), ("auth.docker.io:443", Role.AUTH),
    ]  # fmt: skip
    assert {one.role for one in found.found[2:]} == {Role.BLOB}
    assert {one.origin for one in found.found} == {"Docker Hub, always watched"}
    assert (found.problems, found.looked_at) == ((), ())


def test_the_hub_comes_first_and_keeps_the_origins_of_its_configuration(tmp_path: Path) -> None:
    put(tmp_path, "root/.docker/config.json", '{"auths": {"https://index.docker.io/v1/": {}}}')
    found = look_at(tmp_path, hub=True)
    assert found.found[0].origin == "Docker Hub, always watched; /root/.docker/config.json: auths"


def test_nothing_is_found_where_there_is_no_root(tmp_path: Path) -> None:
    assert look_at(tmp_path / "missing") == Discovery((), (), ())


def test_this_host_is_looked_at_without_an_argument() -> None:
    found = discover()
    assert {"registry-1.docker.io:443", "auth.docker.io:443"} <= set(specs(found))


# --- the environment and homes ---


def test_the_environment_names_proxies_and_folders(tmp_path: Path) -> None:
    put(tmp_path, "srv/config/containers/auth.json", '{"auths": {"a.example": {}}}')
    put(tmp_path, "srv/docker/config.json", '{"auths": {"b.example": {}}}')
    put(tmp_path, "srv/run/containers/auth.json", '{"auths": {"c.example": {}}}')
    environ = {
        "HTTPS_PROXY": "http://p.example:3128", "XDG_CONFIG_HOME": "/srv/config", "DOCKER_CONFIG": "/srv/docker/",
        "XDG_RUNTIME_DIR": "/srv/run", "HOME": "relative",
    }  # fmt: skip
    assert specs(look_at(tmp_path, environ=environ)) == ["p.example:3128", "a.example:443", "b.example:443", "c.example:443"]


def test_homes_that_are_given_are_the_only_ones(tmp_path: Path) -> None:
    for home in ("root", "srv/user"):
        put(tmp_path, f"{home}/.docker/config.json", json.dumps({"auths": {f"{home.replace('/', '-')}.example": {}}}))
    assert specs(look_at(tmp_path, homes=[Path("/srv/user")])) == ["srv-user.example:443"]


def test_the_homes_of_the_caller_come_before_those_of_other_ordinary_users() -> None:
    text = (
        "root:x:0:0::/root:/bin/sh\na:x:1000:1000::/home/a:/bin/sh\nlow:x:999:999::/low:/bin/sh\nb:x:998:998::/home/b/:/bin/sh\n"
    )
    assert [home.path for home in parse_homes(text, "b")] == ["/home/b", "/home/a"]


@pytest.mark.parametrize(
    "line", ["", ":::::::", "a:x:-5:0::/a:", "a:x:1000:0::relative:", "a:x:1000:0:/a", "a:x:٣٣٣٣:0::/a:", "a:x:1000:0:::"]
)
def test_lines_of_another_form_name_no_home(line: str) -> None:
    assert parse_homes(line, "") == []


def test_homes_are_bounded_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    put(tmp_path, "etc/passwd", "".join(f"u{n}:x:{1000 + n}:1000::/home/u{n}:/bin/sh\n" for n in range(500)))
    for n in range(500):
        put(tmp_path, f"home/u{n}/.docker/config.json", json.dumps({"auths": {f"u{n}.example": {}}}))
    found = look_at(tmp_path)
    assert len(specs(found)) == HOMES_MAX - 1  # and root's
    assert found.problems == (
        f"/etc/passwd: {501 - HOMES_MAX} homes are left out: more than {HOMES_MAX} may hold a configuration",
    )


def test_rootless_engines_have_units_of_their_own(tmp_path: Path) -> None:
    put(
        tmp_path, "root/.config/systemd/user/docker.service.d/p.conf", "[Service]\nEnvironment=HTTP_PROXY=http://p.example:3128\n"
    )
    assert specs(look_at(tmp_path)) == ["p.example:3128"]


# --- units and imports ---


def test_a_masked_unit_is_none(tmp_path: Path) -> None:
    put(tmp_path, "etc/systemd/system/docker.service").symlink_to("/dev/null")
    put(tmp_path, "usr/lib/systemd/system/docker.service", "[Service]\nEnvironment=HTTP_PROXY=http://p.example\n")
    assert look_at(tmp_path) == Discovery((), (), ())


def test_imports_that_go_round_are_read_once(tmp_path: Path) -> None:
    put(tmp_path, "etc/containerd/config.toml", 'imports = ["*.toml", "/etc/*/x.toml", "missing.toml"]')
    found = look_at(tmp_path)
    assert found.looked_at == ("/etc/containerd/config.toml",)
    assert found.problems == ("/etc/containerd/config.toml: imports has a pattern for folders, which is not followed",)


# --- made to do harm ---


def _spoil(root: Path) -> None:
    put(root, "etc/docker/daemon.json")
    os.mkfifo(root / "etc/docker/daemon.json")
    put(root, "etc/containerd/config.toml").symlink_to("config.toml")
    with put(root, "etc/containers/registries.conf").open("wb") as file:
        file.truncate(1 << 30)
    put(root, "etc/rancher/k3s/registries.yaml", b"\xff\xfe")
    put(root, "etc/buildkit/buildkitd.toml/inside", "")
    put(root, "etc/systemd/system/docker.service.d/p.conf", "[Service]\nEnvironment=HTTP_PROXY=http://p.example:3128\n")


def test_what_can_not_be_read_is_one_line_each_and_the_rest_works(tmp_path: Path) -> None:
    _spoil(tmp_path)
    found = look_at(tmp_path)
    assert found.problems == (
        "/etc/docker/daemon.json: is no regular file",
        "/etc/containerd/config.toml: can't be read: Too many levels of symbolic links",
        f"/etc/containers/registries.conf: is larger than {FILE_BYTES_MAX} bytes",
        "/etc/rancher/k3s/registries.yaml: is no UTF-8 (line 1)",
        "/etc/buildkit/buildkitd.toml: is no regular file",
    )
    assert specs(found) == ["p.example:3128"]


AS_NOBODY = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import encodings.idna, encodings.utf_8_sig, yaml
from tracer.discovery.host import discover
os.setgroups([]); os.setgid(65534); os.setuid(65534)
found = discover(Path(sys.argv[2]), {}, hub=False, deadline_s=60)
print(*(one.spec for one in found.found), *found.problems, sep="\\n")
"""


def test_homes_that_may_not_be_entered_are_one_line_each(tmp_path: Path) -> None:
    if os.geteuid():
        skip_or_fail("becoming another user needs root")
    put(tmp_path, "root/.docker/config.json", '{"auths": {"a.example": {}}}')
    put(tmp_path, "etc/docker/daemon.json", '{"registry-mirrors": ["m.example"]}')
    put(tmp_path, "etc/rancher/k3s/registries.yaml", "{}").chmod(0o600)
    (tmp_path / "root").chmod(0o700)
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", AS_NOBODY, str(ROOT), str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "m.example:443",
        "/etc/rancher/k3s/registries.yaml: can't be read: Permission denied",
        "/root: can't be read: Permission denied",
    ], done.stderr


def test_names_of_files_are_shown_without_control_characters(tmp_path: Path) -> None:
    put(tmp_path, "etc/docker/certs.d/a.example:99999\x1b[31m/ca.crt", "")
    put(tmp_path, "etc/containers/registries.conf.d/\x07.conf", 'unqualified-search-registries = ["a.example", 5]')
    found = look_at(tmp_path)
    shown = [*found.problems, *found.looked_at, *(one.origin for one in found.found)]
    assert len(found.problems) == 2
    assert all(line.isprintable() for line in shown)


def test_a_thousand_endpoints_are_watched_and_the_rest_is_counted(tmp_path: Path) -> None:
    for name in ("docker/daemon.json", "docker-2/daemon.json"):
        put(
            tmp_path,
            f"srv/{name}",
            json.dumps({"registry-mirrors": [f"{name[:8].replace('/', '')}-{n}.example" for n in range(900)]}),
        )
    unit = "[Service]\nExecStart=/usr/bin/dockerd --config-file=/srv/docker/daemon.json\n"
    put(tmp_path, "etc/systemd/system/docker.service", unit + unit.partition("\n")[2].replace("docker/", "docker-2/"))
    found = look_at(tmp_path)
    assert len(found.found) == FOUND_MAX
    assert found.problems == (f"800 endpoints are left out: more than {FOUND_MAX} are configured",)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A file of which no read comes back before the test ends, as on a file system whose server is gone."""
    over = threading.Event()
    name = "daemon.json"

    def read(path: Path) -> str | None:
        if path.name == name:
            over.wait(PATIENCE_S)
        return read_text(path)

    monkeypatch.setattr(looking, "read_text", read)
    yield name
    over.set()


def test_a_file_that_hangs_is_named_and_holds_up_nothing_else(tmp_path: Path, hanging: str) -> None:
    put(tmp_path, f"etc/docker/{hanging}", '{"registry-mirrors": ["late.example"]}')
    put(tmp_path, "etc/docker/certs.d/behind.example/ca.crt", "")
    put(tmp_path, "etc/buildkit/buildkitd.toml", '[registry."a.example"]')
    put(tmp_path, "etc/passwd", "")
    before = time.monotonic()
    found = look_at(tmp_path, deadline_s=1.0, homes=[])
    assert time.monotonic() - before < 10
    assert found.problems == (f"/etc/docker/{hanging}: not read in time; what comes after it among Docker's files is left out",)
    assert specs(found) == ["a.example:443"]


def test_what_was_read_before_the_file_that_hangs_is_kept(tmp_path: Path, hanging: str) -> None:
    put(tmp_path, "usr/bin/x")
    unit = f"[Service]\nExecStart=/usr/bin/dockerd --config-file=/srv/{hanging} --registry-mirror=m.example\n"
    put(tmp_path, "etc/systemd/system/docker.service", unit)
    found = look_at(tmp_path, deadline_s=1.0, homes=[])
    assert f"/srv/{hanging}: not read in time; what comes after it among systemd's units is left out" in found.problems
    assert specs(found) == ["m.example:443"]


def test_without_threads_it_is_said_what_was_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    found = look_at(tmp_path, hub=True)
    assert specs(found)[0] == "registry-1.docker.io:443"
    assert "Docker's files: not looked at: no thread could be started" in found.problems


# --- secrets ---

WITH_SECRETS = {
    "etc/docker/daemon.json": {"registry-mirrors": [f"https://u:{SECRET}@m.example", f"https://u:{SECRET}@a b", {SECRET: SECRET}],
                               "proxies": {"http-proxy": f"http://u:{SECRET}@p.example:3128", "https-proxy": f"x://{SECRET}"},
                               "insecure-registries": {SECRET: SECRET}, SECRET: SECRET},
    "root/.docker/config.json": {"auths": {"r.example": {"auth": SECRET, "token": SECRET}, f"https://{SECRET}@b c": SECRET},
                                 "HttpHeaders": {"X": SECRET}, "credHelpers": {f"{SECRET} x": SECRET}},
    "etc/docker/certs.d/d.example/hosts.toml":
        f'server = "https://u:{SECRET}@s.example"\n[host."https://u:{SECRET}@h.example".header]\nauthorization = "{SECRET}"\n'
        f'[host."x://{SECRET}"]\n',
    "etc/containerd/config.toml":
        f'imports = ["/{SECRET}*/x", 5]\n[plugins.cri.registry.configs."c.example".auth]\npassword = "{SECRET}"\n'
        f'[plugins.cri.registry.mirrors]\n"{SECRET} x" = 5\n"u:{SECRET}@q.example" = 5\n',
    "etc/containers/registries.conf":
        f'[[registry]]\nprefix = "*.u:{SECRET}@w.example"\nlocation = "u:{SECRET}@l.example"\n'
        f'[[registry]]\nprefix = "*.{SECRET} x"\nlocation = "x://{SECRET}"\n',
    "etc/rancher/k3s/registries.yaml":
        f"mirrors:\n  \"{SECRET} x\": {SECRET}\nconfigs:\n  y.example: {{auth: {{password: {SECRET}, token: {SECRET}}}}}\n",
    "etc/buildkit/buildkitd.toml": f'[registry."u:{SECRET}@k.example"]\nmirrors = ["{SECRET} x", "u:{SECRET}@z.example"]\n',
    "etc/systemd/system/docker.service":
        f"[Service]\nEnvironment=HTTPS_PROXY=http://u:{SECRET}@e.example OTHER={SECRET}\nEnvironment='{SECRET}\n"
        f"ExecStart=/usr/bin/dockerd --registry-mirror=https://u:{SECRET}@f.example --registry-mirror={SECRET}:x --x={SECRET}\n",
    "etc/environment": f"HTTP_PROXY={SECRET}:http://x\nTOKEN={SECRET}\n",
    "proc/9/comm": "containerd\n",
    "proc/9/cmdline": f"/usr/bin/containerd\0--{SECRET}\0--config\0{SECRET}\0",
    "proc/9/environ": f"TOKEN={SECRET}\0ALL_PROXY=http://u:{SECRET}@i.example\0HTTP_PROXY=http://{SECRET}@\0",
}  # fmt: skip
BROKEN = [
    "{SECRET",
    '{{"{SECRET}": "{SECRET}"',
    '"{SECRET}" = {SECRET}',
    "{SECRET}: '{SECRET}",
    "[{SECRET}]\n[{SECRET}]\n",
    "a: !{SECRET} b",
]


def reachable(start: object) -> Iterator[object]:
    """Every object that can be reached from one, but for modules, classes and functions, by which all can be reached."""
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | type(sys) | type(reachable)):
            continue
        seen.add(id(one))
        yield one
        waiting += gc.get_referents(one)


def assert_no_secret(found: Any) -> None:
    texts = [str(one) for one in reachable(found) if isinstance(one, str | bytes)]
    assert texts
    assert not [text for text in texts if SECRET.lower() in text.lower()]


def test_no_secret_can_be_reached_from_what_is_discovered(tmp_path: Path) -> None:
    for path, content in WITH_SECRETS.items():
        put(tmp_path, path, content if isinstance(content, str) else json.dumps(content))
    environ = {"HTTP_PROXY": f"http://u:{SECRET}@o.example", "https_proxy": f"{SECRET} x", "DOCKER_AUTH_CONFIG": SECRET}
    found = look_at(tmp_path, environ=environ, hub=True)
    assert_no_secret(found)
    names = {one.spec.partition(".")[0] for one in found.found}
    assert names >= set("mprshclykzefqio"), "what is no secret beside them is found"
    assert len(found.problems) >= 15


@pytest.mark.parametrize("text", BROKEN)
def test_no_secret_can_be_reached_where_files_can_not_be_parsed(tmp_path: Path, text: str) -> None:
    for path in WITH_SECRETS:
        if not path.startswith("proc"):
            put(tmp_path, path, text.replace("{SECRET}", SECRET).replace("{{", "{"))
    assert_no_secret(look_at(tmp_path, hub=True))
