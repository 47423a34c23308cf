"""A look at some files of a host: what they say, how far it came, and a way to call it off."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from tracer.discovery.files import UnusableFileError, folder_names, is_masked, may_enter, read_bytes, read_text
from tracer.discovery.found import Reading, joined
from tracer.text import printable

PROCESSES_MAX = 1 << 16


class CalledOffError(Exception):
    """The look was called off: nobody waits for what it would still find."""


class Look:
    """Files read one after the other by one thread; another may ask at any time what was found so far.

    Attributes:
        at: what is being read, as it is called on the host.
        looked_at: files that were there and read.
    """

    def __init__(self, root: Path) -> None:
        """Begin.

        Args:
            root: where the host's root folder is. Links lead where they lead for this process.
        """
        self._root = root
        self._readings: list[Reading] = []
        self._late = False
        self.at = ""
        self.looked_at: list[str] = []

    def call_off(self) -> None:
        """Let the thread end with the read that it is in."""
        self._late = True

    def reading(self) -> Reading:
        """What was found so far."""
        return joined(tuple(self._readings))

    def add(self, reading: Reading) -> None:
        """Keep what a file says."""
        self._readings.append(reading)

    def problem(self, place: str, why: str) -> None:
        """Keep a problem that is no parser's."""
        self.add(Reading(problems=(f"{printable(place)}: {why}",)))

    def text(self, path: str) -> str | None:
        """The content of a file; None if it is missing, or can't be used, which is then noted."""
        try:
            text = read_text(self._enter(path))
        except UnusableFileError as problem:
            self.problem(path, str(problem))
            return None
        if text is not None:
            self.looked_at.append(path)
        return text

    def process_text(self, path: str, *, noted: bool) -> str | None:
        """A file of /proc, whatever bytes a process put into it.

        Args:
            path: its name on the host.
            noted: whether it counts as looked at, and failing to read it is a problem.
        """
        try:
            content = read_bytes(self._enter(path))
        except UnusableFileError as problem:
            if noted:
                self.problem(path, str(problem))
            return None
        if content is None:
            return None
        if noted:
            self.looked_at.append(path)
        return content.decode("utf-8", "replace")

    def folders(self, path: str) -> list[str]:
        """The names of the folders in a folder, sorted."""
        return self._names(path, folders=True)

    def files(self, path: str, pattern: str) -> list[str]:
        """The names in a folder that fit a pattern and are no folders, sorted."""
        return fnmatch.filter(self._names(path, folders=False), pattern)

    def processes(self) -> list[str]:
        """The pids of /proc as text."""
        try:
            names = folder_names(self._enter("/proc"), folders=True, entries_max=PROCESSES_MAX)
        except UnusableFileError as problem:
            self.problem("/proc", str(problem))
            return []
        return [name for name in names or () if name.isdecimal()]

    def enterable(self, path: str) -> bool:
        """Whether a folder is there and may be entered; where it may not, that is a problem of its own, not one for each file."""
        try:
            return may_enter(self._enter(path))
        except UnusableFileError as problem:
            self.problem(path, str(problem))
            return False

    def masked(self, path: str) -> bool:
        """Whether a unit was switched off."""
        return is_masked(self._enter(path))

    def _names(self, path: str, *, folders: bool) -> list[str]:
        try:
            return folder_names(self._enter(path), folders=folders) or []
        except UnusableFileError as problem:
            self.problem(path, str(problem))
            return []

    def _enter(self, path: str) -> Path:
        if self._late:
            raise CalledOffError(path)
        self.at = path
        return self._root / path.lstrip("/")
