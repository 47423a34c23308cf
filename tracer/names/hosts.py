"""The hosts file: read again when it changes, whatever was put in its place. Reading is apart from parsing."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator
from pathlib import Path

from tracer.names.records import Answer, connectable
from tracer.names.system_files import HOSTS_PATH, Text, read_text

_LOOPBACK = ("127.0.0.1", "::1")  # RFC 6761, section 6.3


def hosts_addresses(text: str, host: str) -> list[str]:
    """The addresses a hosts file gives a name; malformed lines are passed over."""
    return list(dict.fromkeys(str(address) for address in _addresses(text, host)))


def _addresses(text: str, host: str) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    wanted = host.lower()
    for line in text.splitlines():
        fields = line.partition("#")[0].lower().split()
        if wanted in fields[1:]:
            try:
                yield ipaddress.ip_address(fields[0].partition("%")[0])
            except ValueError:
                continue


class HostsFile:
    """A hosts file, remembered until it changes. Several threads may ask."""

    def __init__(self, path: Path = HOSTS_PATH) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._read = Text("", "")

    def look_up(self, name: str) -> Answer | None:
        """What the file says of a name; None: nothing, so that DNS is to be asked. Its addresses may change at any time: TTL 0.

        `localhost` and all below it are loopback, unless the file says otherwise.
        """
        text, problem = self._text()
        lowered = name.lower()
        found = list(_addresses(text, lowered)) if lowered in text else []
        if found:
            addresses, refused = connectable(found)
            return Answer(name, addresses, 0, (), "; ".join(each for each in (problem, refused) if each))
        if lowered == "localhost" or lowered.endswith(".localhost"):
            return Answer(name, _LOOPBACK, 0, (), problem)
        return None

    @property
    def problem(self) -> str:
        """What is wrong with the file, as of the last look-up; "" if nothing is."""
        return self._read.problem

    def _text(self) -> Text:
        try:
            status = self._path.stat()
            seen: tuple[int, ...] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        except (OSError, ValueError):
            seen = ()
        with self._lock:
            if seen != self._seen:
                # What is read may be newer than `seen`; then the next look-up reads it once more.
                text, problem = read_text(self._path)
                self._read = Text(text.lower(), problem)
                self._seen = seen
            return self._read
