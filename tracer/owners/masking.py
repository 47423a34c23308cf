"""Command lines without their secrets. Pure.

A secret is told by what stands before it (an option, a variable or a header with such a name), by the program whose short option
takes one, or by its own form (`secret_text`). Arguments with blanks may be commands for a shell, or titles a process gave itself:
they are looked through word by word, with quotes as a shell takes them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from tracer.owners.secret_text import (
    HIDDEN,
    is_container_id,
    is_scheme,
    is_secret_name,
    name_of_secret,
    without_private_key,
    without_secrets,
)
from tracer.text import printable

LENGTH_MAX = 1024
_ELLIPSIS = "…"
_ARGUMENT_BYTES_MAX = 4096
# Short options whose value is a secret, and long ones that are no secrets elsewhere. "login" is a word that many have: docker,
# podman, skopeo, crane auth, helm registry, oras.
_PROGRAMS: dict[str, tuple[str, frozenset[str]]] = {
    "login": ("p", frozenset()),
    "oras": ("p", frozenset()),
    "curl": ("uUbE", frozenset({"user", "proxy-user", "cert", "proxy-cert"})),
    "ctr": ("u", frozenset({"user"})),
    "kubectl": ("", frozenset({"from-literal"})),
    "lftp": ("u", frozenset({"user"})),
    "smbclient": ("U", frozenset({"user"})),
    "ab": ("APC", frozenset()),
    "http": ("a", frozenset()),
    "https": ("a", frozenset()),
    "redis-cli": ("a", frozenset()),
    **dict.fromkeys(("ldapsearch", "ldapadd", "ldapmodify", "ldapdelete"), ("w", frozenset())),
    **dict.fromkeys(("zip", "unzip"), ("P", frozenset())),
    **dict.fromkeys(
        ("mysql", "mysqldump", "mysqladmin", "mysqlimport", "mysqlshow", "mysqlcheck", "mariadb", "mariadb-dump", "mariadb-admin",
         "mongo", "mongosh", "mongodump", "mongorestore", "sshpass", "7z"),
        ("p", frozenset()),
    ),
}  # fmt: skip
# Whatever they are given may be a secret: echo SECRET | docker login --password-stdin
_TELLERS = frozenset({"echo", "printf", "htpasswd"})
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "su", "busybox"})
_SCRIPT_OPTION = re.compile("-[a-z]*c")
_ID_OPTIONS = frozenset({"-id", "--id", "--container-id", "--sandbox-id", "--cid"})
_OPTION = re.compile(r"--?(?P<name>[A-Za-z][\w.-]*)(?P<value>=.*)?", re.DOTALL)
_SHELL_WORD = re.compile(
    r"""(?:[^\s"'\\;|&()<>]|\\(?:.|\Z)|"(?:[^"\\]|\\.)*(?:"|\\?\Z)|'[^']*(?:'|\Z))+|(?P<end>[;|&()]+)""", re.DOTALL
)
_QUOTES = re.compile(r"""\\(.)|["'\\]""", re.DOTALL)
_PLAIN = re.compile(r"[\w@%+=:,./*~…-]+")


def masked(argv: Sequence[bytes]) -> str:
    """A command line to show: arguments quoted as for a shell, secrets replaced by ***, safe for a terminal.

    Args:
        argv: the arguments, the program first; one of more than 4,096 bytes is not looked through, but hidden.

    Returns:
        At most LENGTH_MAX characters; longer ones end with an ellipsis.
    """
    words = _Words()
    shown: list[str] = []
    length = 0
    for raw in argv:
        if length > LENGTH_MAX:
            break
        known = len(raw) <= _ARGUMENT_BYTES_MAX
        shown.append(_quoted(words.argument(raw.decode("utf-8", "backslashreplace")) if known else HIDDEN))
        length += len(shown[-1]) + 1
    line = " ".join(shown)
    return line if len(line) <= LENGTH_MAX else line[: LENGTH_MAX - 1] + _ELLIPSIS


def _quoted(word: str) -> str:
    shown = printable(word)
    return shown if _PLAIN.fullmatch(shown) else shlex.quote(shown)


class _Words:
    """Goes through the words of one command line, and knows what the ones before say of the next."""

    def __init__(self) -> None:
        self._next_is_secret = False
        self._next_is_id = False
        self._next_is_script = False
        self._in_shell = False
        self._tells = False
        self._letters = ""
        self._options: frozenset[str] = frozenset()

    def argument(self, text: str) -> str:
        """One argument, masked."""
        text = without_private_key(text)
        is_script, self._next_is_script = self._next_is_script, False
        if self._next_is_secret or not (is_script or re.search(r"\s", text)):
            return self._word(text, text)
        found = None if is_script else name_of_secret(text)
        if found and not re.search(r"\s", text[: found[0]].strip("{\"' ")):
            self._next_is_secret = found[1] == len(text)
            return text[: found[1]] + HIDDEN
        return self._script(text)

    def _script(self, text: str) -> str:
        parts = []
        at = 0
        for match in _SHELL_WORD.finditer(text):
            parts.append(text[at : match.start()])
            at = match.end()
            if match["end"]:
                self._tells = False
                parts.append(match[0])
                continue
            plain = _QUOTES.sub(r"\1", match[0])
            shown = self._word(plain, match[0])
            parts.append(match[0] if shown in (plain, match[0]) else _quoted(shown))
        return "".join(parts) + text[at:]

    def _word(self, word: str, raw: str) -> str:
        """One word.

        Args:
            word: without the quotes of a shell.
            raw: as it is written; quotes tell names in JSON.
        """
        is_secret = self._next_is_secret or (self._tells and not word.startswith("-"))
        is_id = self._next_is_id and is_container_id(word)
        # The word may be an option in spite of what stands before it: --no-auth --password X
        shown = self._told(word, raw)
        self._note_program(word)
        if is_secret:
            return HIDDEN
        if shown is not None:
            return shown
        return word if is_id else without_secrets(word)

    def _told(self, word: str, raw: str) -> str | None:
        """The word as it is shown if an option or a name in it says so; notes what it says of the next one."""
        self._next_is_id = word in _ID_OPTIONS
        self._next_is_script = self._in_shell and bool(_SCRIPT_OPTION.fullmatch(word))
        self._next_is_secret = is_scheme(word)
        # Before names: -psecret is a password, not an option of that name.
        short = re.match(rf"-[A-Za-z0-9#]*?[{self._letters}]", word) if self._letters else None
        option = _OPTION.fullmatch(word)
        if option and (option["name"] in self._options or is_secret_name(option["name"])):
            self._next_is_secret = option["value"] is None
            if not short:
                return word if option["value"] is None else f"{word[: option.start('value')]}={HIDDEN}"
        if short:
            self._next_is_secret = self._next_is_secret or short.end() == len(word)
            return short[0] + HIDDEN * (short.end() < len(word))
        return self._told_by_name(word, raw)

    def _told_by_name(self, word: str, raw: str) -> str | None:
        for text in (raw, word):
            found = name_of_secret(text)
            if found:
                self._next_is_secret = found[1] == len(text)
                return without_secrets(text[: found[0]]) + text[found[0] : found[1]] + HIDDEN * (found[1] < len(text))
        return None

    def _note_program(self, word: str) -> None:
        name = word.rpartition("/")[2]
        self._in_shell = self._in_shell or name.lstrip("-") in _SHELLS
        self._tells = self._tells or name in _TELLERS
        if name in _PROGRAMS:
            letters, options = _PROGRAMS[name]
            self._letters += letters
            self._options |= options
