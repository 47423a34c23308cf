"""What engines are started with: systemd's units, running processes, and environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tracer.discovery.commands import parse_command
from tracer.discovery.engines import read_configuration
from tracer.discovery.found import Reading
from tracer.discovery.looking import Look
from tracer.discovery.proxies import VARIABLES, parse_environ, parse_environment
from tracer.discovery.units import Service, parse_variables

SYSTEM_UNITS = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
"""systemd.unit(5): what an earlier folder has, the later ones' files of the same name don't count for."""
_SERVICES = ("docker", "containerd", "crio", "k3s", "k3s-agent", "rke2-server", "rke2-agent", "buildkit", "podman")
_PROGRAMS = frozenset(
    ("dockerd", "containerd", "crio", "podman", "buildkitd", "k3s", "k3s-server", "k3s-agent", "rke2", "skopeo", "buildah")
)
_NO_PROXY = ("NO_PROXY", "no_proxy")


def read_units(look: Look, folders: Sequence[str] = SYSTEM_UNITS) -> None:
    """The units of container engines with their drop-ins."""
    for name in _SERVICES:
        _read_unit(look, f"{name}.service", folders)


def read_processes(look: Look) -> None:
    """The flags and proxies of engines that run now."""
    for pid in look.processes():
        comm = look.process_text(f"/proc/{pid}/comm", noted=False)
        if comm is None or comm.rstrip("\n") not in _PROGRAMS:
            continue
        place = f"/proc/{pid}/cmdline"
        line = look.process_text(place, noted=True)
        if line:
            _read_command(look, line.rstrip("\0").split("\0"), place)
        place = f"/proc/{pid}/environ"
        environ = look.process_text(place, noted=True)
        if environ:
            look.add(parse_environment(parse_environ(environ), place))


def read_environment(look: Look, environ: Mapping[str, str]) -> None:
    """The environment that we were started with, and those that services and log-ins get."""
    look.add(parse_environment({name: environ[name] for name in VARIABLES if name in environ}, "environment"))
    for path in ("/etc/environment", "/etc/default/docker", "/etc/sysconfig/docker"):
        text = look.text(path)
        if text is not None:
            look.add(parse_environment(parse_variables(text), path))


def _read_unit(look: Look, name: str, folders: Sequence[str]) -> None:
    service = Service()
    for path in (f"{folder}/{name}" for folder in folders):
        if look.masked(path):
            return
        text = look.text(path)
        if text is not None:
            service.add(text, path)
            break
    drop_ins: dict[str, str] = {}
    for folder in (f"{folder}/{name}.d" for folder in folders):
        for file in look.files(folder, "*.conf"):
            drop_ins.setdefault(file, f"{folder}/{file}")
    for file in sorted(drop_ins):
        path = drop_ins[file]
        text = None if look.masked(path) else look.text(path)
        if text is not None:
            service.add(text, path)
    _use(look, service)


def _use(look: Look, service: Service) -> None:
    look.add(Reading(problems=tuple(service.problems)))
    for path, may_be_missing, place in service.environment_files:
        text = look.text(path)
        if text is not None:
            service.variables |= {name: (value, path) for name, value in parse_variables(text).items()}
        elif not may_be_missing:
            look.problem(place, "EnvironmentFile names a file that can't be read")
    by_place: dict[str, dict[str, str]] = {}
    for name, (value, place) in service.variables.items():
        by_place.setdefault(place, {})[name] = value
    excepted = {name: service.variables[name][0] for name in _NO_PROXY if name in service.variables}
    for place, variables in by_place.items():
        look.add(parse_environment(variables | excepted, place))
    for words, place in service.commands:
        _read_command(look, service.command(words), place)


def _read_command(look: Look, words: Sequence[str], place: str) -> None:
    command = parse_command(words, place)
    look.add(command.reading)
    for path in command.files:
        read_configuration(look, command.program, path)
