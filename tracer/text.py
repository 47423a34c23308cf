"""Text for people and machines out of bytes that anybody may have chosen. Pure.

Process names are set by the process, labels by whoever wrote the configuration: nothing of them may reach a terminal as a
control sequence, and no byte may be lost between a trace and its replay.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address

_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")
_CACHED = 4096


@lru_cache(_CACHED)
def comm_text(comm: bytes) -> str:
    r"""A process name as text: UTF-8, with a backslash and every byte that is not UTF-8 written as \xNN."""
    return comm.replace(b"\\", rb"\x5c").decode("utf-8", "backslashreplace")


def comm_bytes(text: str) -> bytes:
    """The process name that `comm_text` made this text of."""
    parts = _ESCAPE.split(text)  # literal, hex digits, literal, ...
    return b"".join(
        bytes.fromhex(part) if index % 2 else part.encode("utf-8", "surrogatepass") for index, part in enumerate(parts)
    )


def printable(text: str) -> str:
    r"""Text that is safe on a terminal: what is not printable is written as \xNN or \uNNNN."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in text)


@lru_cache(_CACHED)
def address_text(address: bytes) -> str | None:
    """16 bytes as an address: v4-mapped ones as IPv4; None if all zero, which says "unknown"."""
    if not any(address):
        return None
    ip = IPv6Address(address)
    return str(ip.ipv4_mapped or ip)


def duration_text(duration_ns: int) -> str:
    """A duration with three digits and a unit; "-" if it is negative, which says "unknown"."""
    if duration_ns < 0:
        return "-"
    return _three_digits(duration_ns, (("ns", 1), ("µs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)))


def _three_digits(amount: int, units: tuple[tuple[str, int], ...]) -> str:
    """In the smallest unit of which there are, rounded to three digits, fewer than a thousand; else in the last one."""
    for unit, length in units:
        shown = f"{amount / length:.3g}"
        if float(shown) < 1000:
            return f"{shown}{unit}"
    unit, length = units[-1]
    return f"{amount / length:.0f}{unit}"


def bytes_text(count: int) -> str:
    """A number of bytes with three digits and a unit; "-" if it is negative, which says "unknown"."""
    if count < 0:
        return "-"
    return _three_digits(count, (("B", 1), ("kB", 10**3), ("MB", 10**6), ("GB", 10**9), ("TB", 10**12)))
