"""What looks like a secret by itself, whoever says it: names of secrets, tokens of known forms, credentials in URLs. Pure.

It is better to hide what is none than to show one. What an operator needs is left: image digests, paths, ids of containers in
paths.
"""

from __future__ import annotations

import re

HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"pass|pwd|token|secret|key|auth|cred|bearer|cookie|jwt|signature|(?<![a-z])(?:sig|sas|otp|pin)(?![a-z])", re.IGNORECASE
)
# --password-file, --authfile, --password-stdin, credential.helper: what follows says where a secret is, or nothing follows.
_NAME_OF_PLACE = re.compile(r"(?:file|files|path|dir|directory|stdin|helper|helpers|store)\Z", re.IGNORECASE)
_NAME = re.compile(r"""(?<![\w.-])-{0,2}(?P<name>\w[\w.-]*)(?P<quote>\\?["']?\]?)\s*(?P<separator>[=:])\s*""")
# image:tag looks like a header without a blank, so its name must end with the word: auth-server:1.2, but X-Auth-Token:abc
_HEADER_NAME = re.compile(
    r"(?:authorization|auth|art-api|cookie|passw(?:or)?d|pass|secret|token|key|cred(?:ential)?s?)\Z", re.IGNORECASE
)
_SCHEMES = frozenset({"basic", "bearer", "token", "negotiate", "digest", "apikey"})
_SCHEME = re.compile(r"\b(basic|bearer|negotiate)(\s+|%20)\S+", re.IGNORECASE)
_PEM = re.compile(r"-----BEGIN .*", re.DOTALL)
# Greedy: a password may hold "/" and "@" although it should not. A digest behind the "@" is an image's.
_USERINFO = re.compile(
    r"""(?<![A-Za-z0-9+.-])(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s"']*@(?!sha\d+:)"""
    r"""|(?<![^\s=,"'/@])[^\s=,"'/@:]*:(?!//)[^\s"']*@(?!sha\d+:)"""
)
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    # GitHub, GitLab, Docker Hub, Slack, AWS, HashiCorp Vault, Google, DigitalOcean, SendGrid; JSON web tokens
    r"(?:gh[a-z]_|github_pat_|gl[a-z]{2,5}-|dckr_[a-z]+_|xox[a-z]-|xapp-|A(?:KIA|SIA|ROA|IDA)|hv[sbr]\.|ya29\.|AIza|dop_v1_|SG\.|eyJ)"
    r"[A-Za-z0-9_.~+/=-]{8,}"
    # prefixes so short that they begin other words too: npm, PyPI, Hugging Face, payment and model providers
    r"|(?:npm_|pypi-|hf_|sk-|[srp]k_(?:live|test)_)[A-Za-z0-9_.~+/=-]{16,})"
)
_LONG = re.compile(r"[A-Za-z0-9+/_-]{32,}={0,2}")
_LONG_CHARACTERS = 32
_DIGEST = re.compile(r"sha\d+:\Z")
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_BEFORE_WORD = re.compile(r"""[\s=,:"']""")
_PATH = re.compile(r"~?\.{0,2}/")


def is_secret_name(name: str) -> bool:
    """Whether an option, a variable or a header of this name has a secret as its value."""
    return bool(_SECRET_NAME.search(name)) and not _NAME_OF_PLACE.search(name)


def is_scheme(word: str) -> bool:
    """Whether credentials follow this word, as in "Bearer abc"."""
    return word.lower() in _SCHEMES


def is_container_id(word: str) -> bool:
    """64 hex digits, as container ids have them, and some secrets."""
    return bool(_CONTAINER_ID.fullmatch(word))


def name_of_secret(text: str) -> tuple[int, int] | None:
    """Where the first name with a secret behind it begins, and where its value does; None: there is none.

    That is NAME=value, --name=value, "Name: value", {"name": "value"}, ?name=value and [name]=value. Where the value ends is not
    told: secrets hold separators, so all the rest is taken for one.
    """
    for match in _NAME.finditer(text):
        name = match["name"]
        if not is_secret_name(name):
            continue
        if match["separator"] == "=" or match["quote"] or match.end() == len(text) or text[match.end() - 1].isspace():
            return match.start(), match.end()
        if _HEADER_NAME.search(name) and text[match.start() - 1 : match.start()] != "/":
            return match.start(), match.end()
    return None


def without_private_key(text: str) -> str:
    """The text up to a private key, or certificate, that is written out."""
    return _PEM.sub(HIDDEN, text)


def without_secrets(text: str) -> str:
    """The text with all that has the form of a secret hidden."""
    text = _SCHEME.sub(rf"\1 {HIDDEN}", without_private_key(text))
    if "@" in text:
        text = _USERINFO.sub(lambda match: f"{match['scheme'] or ''}{HIDDEN}@", text)
    text = _TOKEN.sub(HIDDEN, text)
    return _LONG.sub(_shown_long, text)


def _shown_long(match: re.Match[str]) -> str:
    run = match[0]
    before = match.string[: match.start()]
    if _DIGEST.search(before[-8:]) and re.fullmatch("[0-9a-f]+", run):
        return run
    word = _BEFORE_WORD.split(before)[-1] + run
    if _PATH.match(word):
        return "/".join(HIDDEN if _is_random(name) and not is_container_id(name) else name for name in run.split("/"))
    return HIDDEN if _is_random(run) else run


def _is_random(run: str) -> bool:
    """Whether it may have been made by a generator: not words joined by dashes, as names are."""
    if len(run) < _LONG_CHARACTERS:
        return False
    if re.search("[A-Z]", run) and re.search("[a-z]", run) and re.search("[0-9]", run):
        return True
    return any(len(part) >= _LONG_CHARACTERS and re.search("[0-9]", part) for part in re.split("[/_+=-]", run))
