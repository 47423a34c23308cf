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
    for unit, length_ns in (("s", 1_000_000_000), ("ms", 1_000_000), ("µs", 1_000)):
        if duration_ns >= length_ns:
            return (
                f"{duration_ns / length_ns:.3g}{unit}"
                if duration_ns < 1000 * length_ns
                else f"{duration_ns / length_ns:.0f}{unit}"
            )
    return f"{duration_ns}ns"


def bytes_text(count: int) -> str:
    """A number of bytes with three digits and a unit; "-" if it is negative, which says "unknown"."""
    if count < 0:
        return "-"
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g}{unit}" if unit != "B" else f"{count}B"
        amount /= 1000
    return f"{amount:.3g}TB"
