"""Filters as values, out of what was typed; what can match nothing at all is an error here. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tracer.errors import UsageError
from tracer.events import N_STATES, TcpState
from tracer.filters.spans import Moment, parse_duration, parse_moment
from tracer.lifecycle import REASON_NAMES, STATE_NAMES, CloseReason
from tracer.rules.catalogue import BY_ID
from tracer.text import comm_text, printable

LIFETIME, CONNECT = "lifetime", "connect"
UNKNOWN_OWNER = "?"
_PREFIX_MIN = 4
"""Characters of an id that are enough to mean it; engines show twelve."""
_SHOWN_MAX = 40
_PROCESS = re.compile(r"(.*)\[(\d{1,10})\]", re.DOTALL | re.ASCII)


@dataclass(frozen=True)
class Slower:
    """Longer than a duration.

    Attributes:
        what: LIFETIME, CONNECT (the handshake), or the name of a state.
        than_ns: what is longer is wanted.
    """

    what: str
    than_ns: int


@dataclass(frozen=True)
class Filters:
    """What is wanted: of each kind that is not empty, one must fit.

    Attributes:
        endpoints: patterns of labels, their hosts, addresses or roles.
        ports: local or remote ones.
        owners: patterns of process names, containers and units, pids, or NAME[PID]; "?": nobody knows whose.
        states: TcpState.
        close_reasons: CloseReason.
        since, until: the time [since, until) that is wanted; None: without a bound.
        slower: each kind of `what` is a kind of filter.
        findings: episode numbers or rule ids.
    """

    endpoints: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    owners: tuple[str, ...] = ()
    states: tuple[int, ...] = ()
    close_reasons: tuple[int, ...] = ()
    since: Moment | None = None
    until: Moment | None = None
    slower: tuple[Slower, ...] = ()
    findings: tuple[int | str, ...] = ()

    @property
    def of_connections(self) -> bool:
        """Whether anything is asked that only a connection can answer, and no transition by itself."""
        return bool(self.ports or self.owners or self.close_reasons or self.slower or self.findings)


def parse_filters(
    *,
    endpoints: Sequence[str] = (),
    ports: Sequence[int] = (),
    owners: Sequence[str] = (),
    states: Sequence[str] = (),
    close_reasons: Sequence[str] = (),
    since: str | None = None,
    until: str | None = None,
    slower_than: Sequence[str] = (),
    findings: Sequence[str] = (),
) -> Filters:
    """The filters that these texts ask for.

    Raises:
        UsageError: one can't be understood, or names a state, close reason or rule that there is not.
    """
    return Filters(
        tuple(endpoints),
        tuple(ports),
        tuple(owners),
        tuple(map(parse_state, states)),
        tuple(map(_close_reason, close_reasons)),
        None if since is None else parse_moment(since),
        None if until is None else parse_moment(until),
        tuple(map(_slower, slower_than)),
        tuple(map(_finding, findings)),
    )


def parse_state(text: str) -> int:
    """A state by its name, in any case.

    Raises:
        UsageError: there is none, or no transition into it is ever seen.
    """
    name = text.upper().replace("-", "_")
    if name == "TIME_WAIT":
        raise UsageError(
            "TIME_WAIT is never seen: the kernel hands it to a mini-socket and closes the full one; "
            "look for FIN_WAIT2, which is where this side closed first"
        )
    if name not in STATE_NAMES[1:]:
        allowed = ", ".join(STATE_NAMES[state] for state in range(1, N_STATES) if state != TcpState.TIME_WAIT)
        raise UsageError(f"{text[:_SHOWN_MAX]!r} is no state: expected one of {allowed}")
    return STATE_NAMES.index(name)


def _close_reason(text: str) -> int:
    name = text.lower().replace("_", "-")
    if name not in REASON_NAMES[CloseReason.OPEN :]:
        raise UsageError(
            f"{text[:_SHOWN_MAX]!r} is no close reason: expected one of {', '.join(REASON_NAMES[CloseReason.OPEN :])}"
        )
    return REASON_NAMES.index(name)


def _slower(text: str) -> Slower:
    what, equals, duration = text.rpartition("=")
    if not equals or what.lower() in (LIFETIME, CONNECT):
        return Slower(what.lower() or LIFETIME, parse_duration(duration))
    return Slower(STATE_NAMES[parse_state(what)], parse_duration(duration))


def _finding(text: str) -> int | str:
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    name = text.lower()
    if name not in BY_ID:
        raise UsageError(
            f"{text[:_SHOWN_MAX]!r} is neither the number of a finding nor a rule: expected one of {', '.join(BY_ID)}"
        )
    return name


def matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a text is one of these, in any case; * stands for any characters, and nothing else is special."""
    forms = "|".join(".*".join(map(re.escape, pattern.lower().split("*"))) for pattern in patterns)
    expression = re.compile(forms, re.DOTALL)
    return lambda text: expression.fullmatch(text.lower()) is not None


def named_processes(patterns: Sequence[str]) -> list[tuple[str, int]]:
    """(pattern of the name, pid) of those that are NAME[PID], as every output has it."""
    return [(found[1], int(found[2])) for found in map(_PROCESS.fullmatch, patterns) if found]


def shown_name(comm: bytes) -> str:
    """A process name as every output has it."""
    return printable(comm_text(comm))


def id_matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether an id, of a container or pod, is one of these or begins with one."""
    fits = matcher(patterns)
    prefixes = tuple(pattern.lower() for pattern in patterns if len(pattern) >= _PREFIX_MIN)
    return lambda text: fits(text) or text.lower().startswith(prefixes)
