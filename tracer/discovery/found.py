"""What was found out about a host's registries: endpoints with their origins, and what went wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tracer.roles import Role
from tracer.text import printable

FOUND_MAX = 1_000
"""Endpoints in all, and of one file: each is resolved and put into the watch map, and no real host comes near."""
PROBLEMS_MAX = 200
_ORIGINS_MAX = 8
ANY_REGISTRY = "*"
_BEST_FIRST = (Role.PROXY, Role.MIRROR, Role.PRIVATE, Role.AUTH, Role.BLOB, Role.API, Role.UNKNOWN)
"""What somebody configured an endpoint for says more than what its name is known for, and that more than nothing."""


@dataclass(frozen=True)
class Found:
    """An endpoint that a container engine may connect to.

    Attributes:
        spec: a specification for `tracer.endpoints.parse_endpoint`, its port always written; equal to the endpoint's label.
        role: what it is for.
        origin: file and key that it is from; after merging all of them, with "; " between.
        mirror_of: registry that it is asked instead of, after merging with ", " between; "*": any; "": none.
    """

    spec: str
    role: Role
    origin: str
    mirror_of: str = ""


@dataclass(frozen=True)
class Reading:
    """What one file says.

    Attributes:
        found: endpoints in the order of the file; one may be there several times.
        problems: one line for each thing that is wrong; none quotes the file, which may hold secrets.
    """

    found: tuple[Found, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Discovery:
    """The registries of a host.

    Attributes:
        found: at most FOUND_MAX, each spec once.
        problems: at most PROBLEMS_MAX, one line each, printable, each once.
        looked_at: files that were there and read, as they are called on the host.
    """

    found: tuple[Found, ...]
    problems: tuple[str, ...]
    looked_at: tuple[str, ...]


def joined(readings: Iterable[Reading]) -> Reading:
    """Several readings as one, in their order."""
    parts = tuple(readings)
    return Reading(
        tuple(found for part in parts for found in part.found), tuple(problem for part in parts for problem in part.problems)
    )


def merged(found: Iterable[Found]) -> tuple[Found, ...]:
    """One entry for each spec, in the order in which they first came.

    Of several roles it is the first of: proxy, mirror, private, auth, blob, api, unknown. Origins are kept, joined and bounded.
    """
    by_spec: dict[str, list[Found]] = {}
    for one in found:
        by_spec.setdefault(one.spec, []).append(one)
    return tuple(_one(spec, same) for spec, same in by_spec.items())


def _one(spec: str, same: list[Found]) -> Found:
    role = min((one.role for one in same), key=_BEST_FIRST.index)
    origins = list(dict.fromkeys(one.origin for one in same))
    more = len(origins) - _ORIGINS_MAX
    shown = origins[:_ORIGINS_MAX] + ([f"and {more} more"] if more > 0 else [])
    mirrored = list(dict.fromkeys(one.mirror_of for one in same if one.mirror_of))
    mirror_of = ANY_REGISTRY if ANY_REGISTRY in mirrored else ", ".join(mirrored[:_ORIGINS_MAX])
    return Found(spec, role, "; ".join(shown), mirror_of)


def discovery(reading: Reading, looked_at: Iterable[str]) -> Discovery:
    """The result: merged, bounded, every line once and safe to show."""
    found = merged(reading.found)
    problems = []
    if len(found) > FOUND_MAX:
        problems.append(f"{len(found) - FOUND_MAX} endpoints are left out: more than {FOUND_MAX} are configured")
    problems += reading.problems
    lines = list(dict.fromkeys(printable(problem) for problem in problems))
    if len(lines) > PROBLEMS_MAX:
        lines[PROBLEMS_MAX - 1 :] = [f"{len(lines) - PROBLEMS_MAX + 1} more problems"]
    return Discovery(
        found[:FOUND_MAX],
        tuple(lines),
        tuple(dict.fromkeys(printable(path) for path in looked_at)),
    )
