"""Command lines of container engines: what their flags configure. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tracer.discovery.addresses import HUB_NAME
from tracer.discovery.docker import take_insecure
from tracer.discovery.found import Reading
from tracer.discovery.gathering import Gathering
from tracer.discovery.proxies import take_proxy
from tracer.roles import Role

_FILE_FLAGS = {
    "dockerd": ("--config-file",),
    "containerd": ("--config", "-c"),
    "buildkitd": ("--config",),
    "k3s": ("--private-registry",),
    "rke2": ("--private-registry",),
}
"""By program: flags that name the file that it is configured by."""
_WORDS_MAX = 4096


@dataclass(frozen=True)
class Command:
    """What a command line says.

    Attributes:
        reading: the registries and proxies in it.
        program: the engine, a key of the flags that are known; "" for every other program.
        files: configuration files that it names, absolute paths.
    """

    reading: Reading
    program: str = ""
    files: tuple[str, ...] = ()


def parse_command(words: Sequence[str], place: str) -> Command:
    """The registries, proxies and files that an engine was told of by flags.

    Args:
        words: the command line, the program first.
        place: where it is from.
    """
    program = words[0].rpartition("/")[2] if words else ""
    if program not in _FILE_FLAGS:
        return Command(Reading())
    gathering = Gathering(place)
    files: list[str] = []
    for flag, value in _flags(words[1:_WORDS_MAX]):
        if flag in _FILE_FLAGS[program]:
            if value.startswith("/"):
                files.append(value)
            else:
                gathering.problem(flag, "names a file that can't be told: its path is not absolute")
        elif program == "dockerd":
            _take(gathering, flag, value)
    return Command(gathering.reading(), program, tuple(files))


def _take(gathering: Gathering, flag: str, value: str) -> None:
    if flag == "--registry-mirror":
        gathering.take(value, flag, Role.MIRROR, of=HUB_NAME)
    elif flag == "--insecure-registry":
        take_insecure(gathering, value, flag)
    elif flag in ("--http-proxy", "--https-proxy"):
        take_proxy(gathering, value, flag)


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(flag, value) of `--flag=value` and of `--flag value`."""
    for at, word in enumerate(words):
        if word.startswith("-"):
            flag, equals, value = word.partition("=")
            if equals:
                yield flag, value
            elif at + 1 < len(words):
                yield flag, words[at + 1]
