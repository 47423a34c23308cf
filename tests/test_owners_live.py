"""Owners as their operator would name them, of real processes: in a cgroup and a namespace of their own, and in a container."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.lab.clients.daemons import Dockerd
from tests.live import Watching, connections, serving
from tracer.owners.cgroups import cgroup2_mount

pytestmark = pytest.mark.ebpf
CONTAINER = "5" + "c" * 63
SETTLE_S = 0.4
LOOKED_AT_S = 1.5
CLIENT = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as client:
    client.sendall(b"GET")
    client.recv(100)
"""
STATIC_CLIENT = r"""
#include <arpa/inet.h>
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **words)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
	char answer[256];
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (int left = 3; left; left--) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(fd, (struct sockaddr *)&to, sizeof to) || write(fd, "GET", 3) != 3)
			return 1;
		while (read(fd, answer, sizeof answer) > 0)
			;
		close(fd);
		usleep(200000);
	}
	return 0;
}
"""


def answer(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(b"x" * 100)


def answer_slowly(connection: socket.socket) -> None:
    """Slowly enough to be looked at."""
    time.sleep(LOOKED_AT_S)
    answer(connection)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup as dockerd makes it under systemd."""
    mount = cgroup2_mount(Path("/proc/self/mountinfo").read_bytes())
    if mount is None:
        skip_or_fail("no cgroup v2 is mounted")
    made = Path(os.fsdecode(mount[0]), f"docker-{CONTAINER}.scope")
    try:
        made.mkdir()
    except OSError as error:
        skip_or_fail(f"cgroups can't be made: {error}")
    try:
        yield made
    finally:
        for _ in range(50):  # the kernel lets go of the last process a moment after it was waited for
            try:
                made.rmdir()
                break
            except OSError:
                time.sleep(0.02)


def run_in(cgroup: Path, *command: str) -> int:
    """Run a command as a process of a cgroup from its first instruction on; its pid."""
    enter = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup), *command]
    process = subprocess.Popen(enter)
    assert process.wait(30) == 0
    return process.pid


def test_a_process_that_is_gone_at_once_is_named_by_its_cgroup(cgroup: Path) -> None:
    with serving(answer) as port:
        running = Watching("watch", "--json", f"--registry=127.0.0.1:{port}")
        pid = run_in(cgroup, sys.executable, "-S", "-c", CLIENT, str(port))
        time.sleep(SETTLE_S)
        (row,) = connections(running.stop())
    assert (row["pid"], row["container"], row["runtime"]) == (pid, CONTAINER, "docker")


def test_a_process_in_a_namespace_of_its_own_is_seen_with_both(cgroup: Path) -> None:
    inside = (
        "import socket, subprocess, sys, threading, time\n"
        "subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)\n"
        "server = socket.create_server(('127.0.0.1', 5999))\n"
        "threading.Thread(target=lambda: server.accept()[0].sendall(b'x'), daemon=True).start()\n"
        "client = socket.create_connection(('127.0.0.1', 5999))\n"
        "client.recv(1)\n"
        "time.sleep(0.5)\n"
        "client.close()\n"
    )
    running = Watching("watch", "--json", "--registry=127.0.0.1:5999")
    run_in(cgroup, "unshare", "--net", sys.executable, "-c", inside)
    time.sleep(SETTLE_S)
    (row,) = connections(running.stop())
    assert (row["container"], row["netns_name"]) == (CONTAINER, "container")
    assert row["netns"] != Path("/proc/self/ns/net").stat().st_ino
    assert "-c" in row["cmdline"]


@pytest.mark.slow
@pytest.mark.daemons
@pytest.mark.parametrize("source", ["ebpf", "polled"])
def test_a_container_of_a_real_dockerd_is_named(source: str, tmp_path: Path) -> None:
    for program in ("dockerd", "docker", "cc"):
        if shutil.which(program) is None:
            skip_or_fail(f"{program} is not installed")
    (tmp_path / "client.c").write_text(STATIC_CLIENT)
    subprocess.run(["cc", "-static", "-o", tmp_path / "client", tmp_path / "client.c"], check=True)
    with tarfile.open(tmp_path / "image.tar", "w") as image:
        image.add(tmp_path / "client", "client")
    with serving(answer_slowly) as port, Dockerd() as docker:
        assert docker.run(*docker.docker("import", tmp_path / "image.tar", "client:1")).returncode == 0
        running = Watching("watch", "--json", "--source", source, f"--registry=127.0.0.1:{port}")
        options = ("--rm", "--network=host", "--cidfile", tmp_path / "id")
        done = docker.run(*docker.docker("run", *options, "client:1", "/client", str(port)))
        assert done.returncode == 0, done.stderr
        time.sleep(1.0)
        rows = connections(running.stop())
    assert len(rows) == 3
    container = (tmp_path / "id").read_text()
    assert {(row["comm"], row["container"], row["runtime"]) for row in rows} == {("client", container, "docker")}
    assert all(row["cmdline"] == f"/client {port}" for row in rows)
