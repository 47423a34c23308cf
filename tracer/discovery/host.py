"""The registries of this host: every source of them looked at, within a bounded time.

A read can hang for minutes, as on a network file system whose server is gone, and nothing can call it off. So each group of
files is read by a thread of its own: one that hangs holds up no other, and none is waited for longer than the deadline. The
threads are daemons, which the end of the program does not wait for, and one that comes back late ends with the read that it is
in. A child process would cost a fork for each group, and a parser that is slow on a hostile file is no quicker there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tracer.discovery.addresses import HUB_HOST
from tracer.discovery.engines import (
    read_buildkit,
    read_containerd,
    read_containers,
    read_docker,
    read_rancher,
    read_user,
)
from tracer.discovery.found import Discovery, Found, Reading, discovery, joined
from tracer.discovery.looking import CalledOffError, Look
from tracer.discovery.services import read_environment, read_processes, read_units
from tracer.roles import companions, role_of

HOMES_MAX = 32
_ORDINARY_UID_MIN = 1000
_NOBODY_UID = 65534
_HUB_ORIGIN = "Docker Hub, always watched"


@dataclass(frozen=True)
class _Home:
    path: str
    uid: int | None


@dataclass(frozen=True)
class _Task:
    """What is looked through, what that is called, and by which thread; None: there was none to be had."""

    name: str
    look: Look
    thread: threading.Thread | None


def discover(
    root: Path = Path("/"),
    environ: Mapping[str, str] | None = None,
    homes: Sequence[Path] | None = None,
    hub: bool = True,
    deadline_s: float = 1.5,
) -> Discovery:
    """Find out what this host's container engines are configured to connect to. Never raises, and keeps to its time.

    Args:
        root: where the host's root folder is; every path is looked for below it and told without it.
        environ: variables to look for proxies and folders in; None: this process's own.
        homes: home folders, as they are called on the host; None: root's, the caller's, and those of ordinary users, at most
            HOMES_MAX.
        hub: whether Docker Hub is always there, configured or not.
        deadline_s: after so many seconds the answer is what was found by then, with a problem for each file that hangs.
    """
    deadline = time.monotonic() + deadline_s
    environ = os.environ if environ is None else environ
    tasks = [_started(root, name, read) for name, read in _SYSTEM]
    tasks.append(_started(root, "the environment", partial(_read_environment, environ=environ)))
    if homes is None:
        known, task = _known_homes(root, environ, deadline)
        tasks.append(task)
    else:
        known = [_Home(str(home), None) for home in homes]
    for home in known:
        tasks.append(_started(root, f"the files in {home.path}", partial(_read_home, home=home)))
    finished = [_finished(task, deadline) for task in tasks]
    looked_at = [path for task in tasks for path in tuple(task.look.looked_at)]
    return discovery(joined([_hub() if hub else Reading(), *finished]), looked_at)


_SYSTEM: tuple[tuple[str, Callable[[Look], None]], ...] = (
    ("Docker's files", read_docker),
    ("containerd's files", read_containerd),
    ("podman's and CRI-O's files", read_containers),
    ("the files of k3s and rke2", read_rancher),
    ("BuildKit's files", read_buildkit),
    ("systemd's units", read_units),
    ("running processes", read_processes),
)


def _hub() -> Reading:
    hosts = (HUB_HOST, *companions(HUB_HOST))
    return Reading(tuple(Found(f"{host}:443", role_of(f"{host}:443"), _HUB_ORIGIN) for host in hosts))


def _started(root: Path, name: str, read: Callable[[Look], None]) -> _Task:
    look = Look(root)

    def run() -> None:
        try:
            read(look)
        except CalledOffError:
            pass
        except Exception as error:  # noqa: BLE001 - what no parser foresaw is a problem too, and the other sources go on
            look.problem(look.at, f"can't be understood ({type(error).__name__})")

    thread = threading.Thread(target=run, name=f"discovery: {name}", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # a limit on processes is reached
        look.problem(name, "not looked at: no thread could be started")
        return _Task(name, look, None)
    return _Task(name, look, thread)


def _finished(task: _Task, deadline: float) -> Reading:
    """What a thread found, at the latest at the deadline."""
    if _ended(task, deadline):
        return task.look.reading()
    task.look.call_off()
    late = f"{task.look.at}: not read in time; what comes after it among {task.name} is left out"
    return joined([task.look.reading(), Reading(problems=(late,))])


def _ended(task: _Task, deadline: float) -> bool:
    """Wait for a thread; False if it still runs at the deadline."""
    if task.thread is None:
        return True
    task.thread.join(max(0.0, deadline - time.monotonic()))
    return not task.thread.is_alive()


def _known_homes(root: Path, environ: Mapping[str, str], deadline: float) -> tuple[list[_Home], _Task]:
    """The homes to look into: root's, the caller's, and ordinary users'."""
    known: list[_Home] = []

    def read(look: Look) -> None:
        known.extend(parse_homes(look.text("/etc/passwd") or "", environ.get("SUDO_USER", "")))

    task = _started(root, "the list of users", read)
    _ended(task, deadline)
    own = environ.get("HOME", "")
    homes = {home.path: home for home in (_Home("/root", 0), *tuple(known)) if home.path}
    if own.startswith("/"):
        homes.setdefault(own, _Home(own, None))
    more = len(homes) - HOMES_MAX
    if more > 0:
        task.look.problem("/etc/passwd", f"{more} homes are left out: more than {HOMES_MAX} may hold a configuration")
    return list(homes.values())[:HOMES_MAX], task


def _read_environment(look: Look, environ: Mapping[str, str]) -> None:
    read_environment(look, environ)
    named = [environ.get(name, "").rstrip("/") for name in ("XDG_CONFIG_HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR")]
    config, docker, runtime = (path if path.startswith("/") else "" for path in named)
    read_user(look, config, docker, runtime)


def _read_home(look: Look, home: _Home) -> None:
    if not look.enterable(home.path):
        return
    runtime = "" if home.uid is None else f"/run/user/{home.uid}"
    read_user(look, f"{home.path}/.config", f"{home.path}/.docker", runtime)
    read_units(look, (f"{home.path}/.config/systemd/user",))


def parse_homes(text: str, caller: str) -> list[_Home]:
    """The homes in an /etc/passwd that may hold a configuration: the caller's first, then those of ordinary users.

    Args:
        text: of the file; lines of another form are passed over.
        caller: name of the user behind sudo; "": none.
    """
    first: list[_Home] = []
    rest: list[_Home] = []
    for line in text.split("\n"):
        fields = line.split(":")
        if len(fields) != 7 or not (fields[2].isascii() and fields[2].isdigit() and len(fields[2]) <= 10):
            continue
        name, uid, path = fields[0], int(fields[2]), fields[5].rstrip("/")
        if not path.startswith("/"):
            continue
        if name == caller:
            first.append(_Home(path, uid))
        elif uid >= _ORDINARY_UID_MIN and uid != _NOBODY_UID:
            rest.append(_Home(path, uid))
    return first + rest
