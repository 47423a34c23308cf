"""Where container engines keep their configuration: which files are read, and by which parser."""

from __future__ import annotations

from collections.abc import Callable

from tracer.discovery.buildkit import parse_buildkit
from tracer.discovery.containerd import DEFAULT_FOLDER, parse_containerd, parse_hosts
from tracer.discovery.containers import parse_registries
from tracer.discovery.docker import parse_credentials, parse_daemon
from tracer.discovery.found import Reading
from tracer.discovery.looking import Look
from tracer.discovery.rancher import parse_rancher

_IMPORTED_MAX = 64
_WILD = frozenset("*?[")


def read_docker(look: Look) -> None:
    """The file of dockerd, and the folder with the certificates of its registries."""
    _read(look, "/etc/docker/daemon.json", parse_daemon)
    _read_folder(look, "/etc/docker/certs.d")


def read_containerd(look: Look) -> None:
    """The file of containerd, what it imports, and the folders of registries; the usual one also without a file."""
    _read_containerd_file(look, "/etc/containerd/config.toml", DEFAULT_FOLDER)


def read_containers(look: Look) -> None:
    """What podman, CRI-O, skopeo and buildah read as root; the distribution's file only where there is no other."""
    main = "/etc/containers/registries.conf"
    text = look.text(main)
    if text is None:
        main = "/usr/share/containers/registries.conf"
        text = look.text(main)
    _read_registries(look, [] if text is None else [(text, main)], "/etc/containers/registries.conf.d")
    _read_folder(look, "/etc/containers/certs.d")
    _read(look, "/run/containers/0/auth.json", parse_credentials)


def read_rancher(look: Look) -> None:
    """k3s' and rke2's files."""
    _read(look, "/etc/rancher/k3s/registries.yaml", parse_rancher)
    _read(look, "/etc/rancher/rke2/registries.yaml", parse_rancher)


def read_buildkit(look: Look) -> None:
    """BuildKit's file."""
    _read(look, "/etc/buildkit/buildkitd.toml", parse_buildkit)


def read_configuration(look: Look, program: str, path: str) -> None:
    """A file that an engine was told to use.

    Args:
        look: that goes on.
        program: "dockerd", "containerd", "buildkitd", "k3s" or "rke2".
        path: absolute.
    """
    if program == "containerd":
        _read_containerd_file(look, path)
    else:
        parse = {"dockerd": parse_daemon, "buildkitd": parse_buildkit}.get(program, parse_rancher)
        _read(look, path, parse)


def read_user(look: Look, config: str, docker: str, runtime: str) -> None:
    """What rootless engines and clients read.

    Args:
        look: that goes on.
        config: ~/.config, or what XDG_CONFIG_HOME says; "": none.
        docker: ~/.docker, or what DOCKER_CONFIG says; "": none.
        runtime: /run/user/UID, or what XDG_RUNTIME_DIR says; "": none.
    """
    if config:
        _read(look, f"{config}/docker/daemon.json", parse_daemon)
        _read_folder(look, f"{config}/docker/certs.d")
        _read_folder(look, f"{config}/containerd/certs.d")
        main = f"{config}/containers/registries.conf"
        text = look.text(main)
        _read_registries(look, [] if text is None else [(text, main)], f"{main}.d")
        _read(look, f"{config}/buildkit/buildkitd.toml", parse_buildkit)
        _read(look, f"{config}/containers/auth.json", parse_credentials)
    if docker:
        _read(look, f"{docker}/config.json", parse_credentials)
    if runtime:
        _read(look, f"{runtime}/containers/auth.json", parse_credentials)


def _read(look: Look, path: str, parse: Callable[[str, str], Reading]) -> None:
    text = look.text(path)
    if text is not None:
        look.add(parse(text, path))


def _read_registries(look: Look, files: list[tuple[str, str]], folder: str) -> None:
    for name in look.files(folder, "*.conf"):
        path = f"{folder}/{name}"
        text = look.text(path)
        if text is not None:
            files.append((text, path))
    look.add(parse_registries(files))


def _read_folder(look: Look, folder: str) -> None:
    """A folder with one folder for each registry."""
    for name in look.folders(folder):
        path = f"{folder}/{name}"
        text = look.text(f"{path}/hosts.toml")
        look.add(parse_hosts(text, path if text is None else f"{path}/hosts.toml", name))


def _read_containerd_file(look: Look, path: str, *more_folders: str) -> None:
    waiting, seen, folders = [path], {path}, list(more_folders)
    while waiting:
        at = waiting.pop(0)
        text = look.text(at)
        if text is None:
            continue
        file = parse_containerd(text, at)
        look.add(file.reading)
        folders += file.folders
        for pattern in file.imports:
            for imported in _imported(look, at, pattern):
                if imported not in seen and len(seen) < _IMPORTED_MAX:
                    seen.add(imported)
                    waiting.append(imported)
    if len(seen) == _IMPORTED_MAX:
        look.problem(path, f"imports more than {_IMPORTED_MAX - 1} files; the rest is left out")
    for folder in dict.fromkeys(folders):
        _read_folder(look, folder)


def _imported(look: Look, importer: str, pattern: str) -> list[str]:
    """The files that an import means; patterns are followed in the last part of a path only, to walk no trees."""
    path = pattern if pattern.startswith("/") else f"{importer.rpartition('/')[0]}/{pattern}"
    folder, _, name = path.rpartition("/")
    if _WILD.intersection(folder):
        look.problem(importer, "imports has a pattern for folders, which is not followed")
        return []
    return [f"{folder}/{found}" for found in look.files(folder, name)] if _WILD.intersection(name) else [path]
