"""/proc/net/tcp and tcp6: read in one go, parsed as arrays. Reading and parsing know nothing of each other.

Theory of operation. The kernel writes one header and one line a socket (net/ipv4/tcp_ipv4.c get_tcp4_sock, tcp_ipv6.c):

       0: 0100007F:1F90 0200007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 62145 1 ...
    prefix|--------------------------------- head ---------------------------------|---- tail ----|  not read

The head's columns have fixed widths behind the first colon, so it is checked and decoded as one block of bytes. The number in
front of it and the three decimal numbers behind it vary in width; a table-driven automaton walks them, one column of all lines
at a time. A line is taken only if everything up to the inode's end is as the kernel writes it; what follows is not looked at. A
line without its newline was cut off, perhaps within its last number, and is never taken.

Addresses are 32-bit words in host order, written as numbers: on a little-endian machine each word's bytes are reversed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fallback.namespaces import OpenProcess, Trouble
from fallback.sockets import AF_INET, AF_INET6, SOCKET_DTYPE, V4_MAPPED, Sockets, no_sockets
from tracer.errors import SourceError
from tracer.events import N_STATES

ByteOrder = Literal["little", "big"]
Text = bytes | bytearray | memoryview
HOST_ORDER: ByteOrder = sys.byteorder
INITIAL_BYTES = 1 << 18  # 1,700 sockets
_PIECE_BYTES = 1 << 24  # 110,000 sockets; parsing takes about four times as much memory besides

FILES = (("tcp", AF_INET), ("tcp6", AF_INET6))
COLUMNS = b"sl local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode".split()
_REMOTE_NAMES = (b"rem_address", b"remote_address")  # as tcp and tcp6 call it
_REMOTE_COLUMN = 2

Bytes = NDArray[np.uint8]
Positions = NDArray[np.intp]


@dataclass(frozen=True)
class Parsed:
    """What one file held.

    Attributes:
        rows: SOCKET_DTYPE, shape (n_sockets,), in the order of the lines; netns and cookie are 0.
        malformed: lines that are no row (the header not counted), the cut-off last one among them.
        columns_known: the header names the columns up to the inode as Linux does. False where it is missing or says something
            else: then the rows have the right form, but a caller may doubt what their numbers mean.
    """

    rows: Sockets
    malformed: int
    columns_known: bool


@dataclass(frozen=True)
class Picture:
    """The sockets of one namespace at one time, as far as they could be read.

    Attributes:
        rows: SOCKET_DTYPE, shape (n_sockets,), IPv4's first, netns filled in. Not atomic: the kernel walks its table bucket by
            bucket, so a socket that moves meanwhile can be in it twice, or be missing.
        netns: inode of the namespace; 0 where it may not be known.
        malformed: as in `Parsed`, of both files.
        columns_known: as in `Parsed`, of all files that were read; False if none was.
        files: which of "tcp" and "tcp6" were read to the end.
        troubles: what could not be read. A "tcp6" that does not exist (ENOENT) means a host without IPv6.
    """

    rows: Sockets
    netns: int
    malformed: int
    columns_known: bool
    files: tuple[str, ...]
    troubles: tuple[Trouble, ...]


class _Layout:
    """Where the columns of a family's head are, in bytes from the colon behind the line's number."""

    def __init__(self, family: int, words: int) -> None:
        self.family = family
        address = b"0" * 8 * words
        fields = (address, b"0000", address, b"0000", b"00", b"00000000", b"00000000", b"00", b"00000000", b"00000000")
        separators = (b": ", b":", b" ", b":", b" ", b" ", b":", b" ", b":", b" ")
        template = b""
        offsets = []
        for separator, field in zip(separators, fields, strict=True):
            template += separator
            offsets.append(len(template))
            template += field
        template += b" "
        (self.laddr, self.lport, self.raddr, self.rport, self.state, self.tx_queue, self.rx_queue, self.timer, self.timer_ticks,
         self.retransmits) = offsets  # fmt: skip
        self.words = words
        self.n_bytes = len(template)
        self.kinds = _DECODE[np.frombuffer(template, np.uint8)] & _KIND


# A byte's nibble, and above it what it is: 0 a digit of a number as %X writes it.
_KIND = np.uint8(0xF0)
_SPACE, _COLON, _OTHER = 0x10, 0x20, 0x40
_DECODE = np.full(256, _OTHER, np.uint8)
_DECODE[np.frombuffer(b"0123456789ABCDEF", np.uint8)] = np.arange(16)
_DECODE[ord(" ")] = _SPACE
_DECODE[ord(":")] = _COLON

_LAYOUTS = {AF_INET: _Layout(AF_INET, 1), AF_INET6: _Layout(AF_INET6, 4)}

# "%4d:" of a line's number, with room for wider padding.
_PREFIX_MAX = 12
# "%5u %8d %lu" up to the inode's end, with room for wider padding.
_TAIL_MAX = 64
_UID_DIGITS, _TIMEOUT_DIGITS, _INODE_DIGITS = 10, 10, 19  # numbers of 19 digits always fit into 64 bits
_UID_MAX = (1 << 32) - 1


class _Automaton:
    """A table of next states. The two last states are sinks: `done`, and `bad`, where everything not allowed leads."""

    def __init__(self, n_states: int) -> None:
        self.done = n_states
        self.bad = n_states + 1
        self._rows = np.full((n_states + 2, 256), self.bad, np.uint8)
        self._rows[self.done] = self.done
        self.table = self._rows.reshape(-1)

    def number(self, gap: int, first: int, n_digits: int) -> None:
        """Behind blanks in state `gap`, the states `first` to `first + n_digits - 1`, in which 1 to n_digits were read."""
        self.on(range(gap, gap + 1), " ", gap)
        for state, following in ((gap, first), *((at, at + 1) for at in range(first, first + n_digits - 1))):
            self._rows[state, ord("0") : ord("9") + 1] = following

    def on(self, states: range, byte: str, to: int) -> None:
        self._rows[states.start : states.stop, ord(byte)] = to

    def step(self, states: Bytes, column: Bytes) -> Bytes:
        """The states after one more byte of each line."""
        return self.table.take((states.astype(np.intp) << 8) + column)


def _prefix_automaton() -> _Automaton:
    """Blanks, a number, a colon."""
    automaton = _Automaton(11)
    automaton.number(0, 1, 10)
    automaton.on(range(1, 11), ":", automaton.done)
    return automaton


_GAP_UID, _GAP_TIMEOUT, _MINUS, _GAP_INODE, _CR, _UID = range(6)
_TIMEOUT = _UID + _UID_DIGITS
_INODE = _TIMEOUT + _TIMEOUT_DIGITS
_TAIL_STATES = _INODE + _INODE_DIGITS


def _tail_automaton() -> _Automaton:
    """Blanks, uid, blanks, timeout (the kernel's %d), blanks, inode, and a blank or the line's end."""
    automaton = _Automaton(_TAIL_STATES)
    automaton.number(_GAP_UID, _UID, _UID_DIGITS)
    automaton.number(_GAP_TIMEOUT, _TIMEOUT, _TIMEOUT_DIGITS)
    automaton.number(_MINUS, _TIMEOUT, _TIMEOUT_DIGITS)
    automaton.number(_GAP_INODE, _INODE, _INODE_DIGITS)
    automaton.on(range(_MINUS, _MINUS + 1), " ", automaton.bad)
    automaton.on(range(_GAP_TIMEOUT, _GAP_TIMEOUT + 1), "-", _MINUS)
    automaton.on(range(_UID, _TIMEOUT), " ", _GAP_TIMEOUT)
    automaton.on(range(_TIMEOUT, _INODE), " ", _GAP_INODE)
    automaton.on(range(_INODE, _TAIL_STATES), "\r", _CR)
    for states in (range(_INODE, _TAIL_STATES), range(_CR, _CR + 1)):
        automaton.on(states, "\n", automaton.done)
    automaton.on(range(_INODE, _TAIL_STATES), " ", automaton.done)
    return automaton


_PREFIX = _prefix_automaton()
_TAIL = _tail_automaton()


def parse_tcp(text: Text, family: int, byteorder: ByteOrder = HOST_ORDER) -> Parsed:
    """The sockets of a /proc/net/tcp (family 2) or tcp6 (family 10).

    The first line is the header unless it begins with a number and a colon. Large files are parsed in pieces, so that what is
    needed besides the rows stays small.

    Args:
        text: the file's bytes, whatever they are.
        family: AF_INET or AF_INET6.
        byteorder: of the machine that wrote it.

    Raises:
        SourceError: there is no file for that family.
    """
    layout = _LAYOUTS.get(family)
    if layout is None:
        raise SourceError(f"/proc/net shows TCP of the families {sorted(_LAYOUTS)}, not of {family}")
    data = np.frombuffer(text, np.uint8) if len(text) else np.zeros(0, np.uint8)
    parts: list[Parsed] = []
    start = 0
    while start < len(data) or not parts:
        piece = data[start : start + _PIECE_BYTES]
        if start + len(piece) < len(data):
            last = np.flatnonzero(piece == ord("\n"))[-1:]
            piece = piece[: int(last[0]) + 1] if len(last) else data[start:]
        parts.append(_parse_piece(piece, layout, byteorder, not parts))
        start += max(len(piece), 1)
    if len(parts) == 1:
        return parts[0]
    return Parsed(np.concatenate([part.rows for part in parts]), sum(part.malformed for part in parts), parts[0].columns_known)


def _parse_piece(data: Bytes, layout: _Layout, byteorder: ByteOrder, first: bool) -> Parsed:
    """The rows of whole lines, and of what is cut off behind them; the `first` piece may begin with a header."""
    ends = np.flatnonzero(data == ord("\n"))
    n_complete_bytes = int(ends[-1]) + 1 if len(ends) else 0
    cut_off = int(len(data) > n_complete_bytes)
    if not len(ends):
        return Parsed(no_sockets(), cut_off, False)
    starts = np.empty_like(ends)
    starts[0] = 0
    np.add(ends[:-1], 1, out=starts[1:])
    colons, numbered = _find_colons(data, starts)
    n_lines = len(ends)
    columns_known = False
    if first and not numbered[0]:
        n_lines -= 1
        columns_known = _names_known_columns(bytes(data[: ends[0]]))

    # A line can't be one where not even the head fits before the end; the window of its head must not leave the buffer.
    candidates = colons[numbered & (colons + layout.n_bytes < n_complete_bytes)]
    rows = _decode(data, candidates, layout, byteorder)
    return Parsed(rows, n_lines - len(rows) + cut_off, columns_known)


def _names_known_columns(header: bytes) -> bool:
    """Whether the columns up to the inode are called as they have been since Linux 2.6."""
    names = header.split()[: len(COLUMNS)]
    if len(names) == len(COLUMNS) and names[_REMOTE_COLUMN] in _REMOTE_NAMES:
        names[_REMOTE_COLUMN] = COLUMNS[_REMOTE_COLUMN]
    return names == COLUMNS


def _find_colons(data: Bytes, starts: Positions) -> tuple[Positions, NDArray[np.bool_]]:
    """Where the colon behind each line's number is.

    Returns:
        Positions, shape (n_lines,), and whether the line begins with a number and a colon; where not, the position means nothing.
    """
    at = starts.copy()
    states = np.zeros(len(starts), np.uint8)
    for _ in range(_PREFIX_MAX):
        states = _PREFIX.step(states, data.take(at, mode="clip"))
        running = states < _PREFIX.done
        if not running.any():
            break
        at += running
    return at, states == _PREFIX.done


def _decode(data: Bytes, colons: Positions, layout: _Layout, byteorder: ByteOrder) -> Sockets:
    """The rows of those lines that are rows; the head of none of them may reach beyond the text."""
    head, whole = _head(data, colons, layout)
    uid, inode, ended = _tail(data, colons + layout.n_bytes)
    state = _bytes_of(head, layout.state, 1)[:, 0]
    good = ended & (uid <= _UID_MAX) & (state > 0) & (state < N_STATES)
    if whole is not None:
        good &= whole
    if not good.all():
        head, uid, inode, state = head[good], uid[good], inode[good], state[good]
    rows = np.zeros(len(head), SOCKET_DTYPE)
    first = 16 - 4 * layout.words
    for field, offset in (("laddr", layout.laddr), ("raddr", layout.raddr)):
        words = _bytes_of(head, offset, 4 * layout.words).reshape(len(head), layout.words, 4)
        if byteorder == "little":
            words = words[:, :, ::-1]
        rows[field][:, first:] = words.reshape(len(head), 4 * layout.words)
        rows[field][:, :first] = np.frombuffer(V4_MAPPED[:first], np.uint8) if first else 0
    for field in ("lport", "rport"):
        rows[field] = _bytes_of(head, getattr(layout, field), 2).view(">u2")[:, 0]
    for field in ("tx_queue", "rx_queue", "timer_ticks", "retransmits"):
        rows[field] = _bytes_of(head, getattr(layout, field), 4).view(">u4")[:, 0]
    rows["timer"] = _bytes_of(head, layout.timer, 1)[:, 0]
    rows["state"] = state
    rows["family"] = layout.family
    rows["uid"] = uid
    rows["inode"] = inode
    return rows


def _windows(data: Bytes, at: Positions, n_bytes: int) -> NDArray[np.void]:
    """The n_bytes from each position on: shape (n,), void; copied in pieces of that size, not byte by byte."""
    every = np.ndarray((max(len(data) - n_bytes + 1, 0),), f"V{n_bytes}", data, strides=(1,))
    return every[at]


def _head(data: Bytes, colons: Positions, layout: _Layout) -> tuple[Bytes, NDArray[np.bool_] | None]:
    """The heads as nibbles, shape (n, layout.n_bytes), and which are as the kernel writes them; None: all."""
    text = _windows(data, colons, layout.n_bytes).view(np.uint8).reshape(len(colons), layout.n_bytes)
    nibbles = _DECODE.take(text)
    wrong = (nibbles & _KIND) != layout.kinds
    return nibbles, ~wrong.any(axis=1) if wrong.any() else None


def _bytes_of(nibbles: Bytes, offset: int, n_bytes: int) -> Bytes:
    """Two hexadecimal digits a byte, from a column on: shape (n, n_bytes), contiguous."""
    end = offset + 2 * n_bytes
    high: Bytes = nibbles[:, offset:end:2] << np.uint8(4)
    high |= nibbles[:, offset + 1 : end : 2]
    return high


def _tail(data: Bytes, at: Positions) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]]:
    """The uid and inode from the decimal columns that begin at each position, and where all is as the kernel writes it.

    A newline ends every line, and is a sink: no walk goes on into the next line.
    """
    at = at.copy()
    states = np.full(len(at), _GAP_UID, np.uint8)
    uid = np.zeros(len(at), np.uint64)
    inode = np.zeros(len(at), np.uint64)
    for _ in range(_TAIL_MAX):
        column = data.take(at, mode="clip")
        states = _TAIL.step(states, column)
        for number, first, after in ((uid, _UID, _TIMEOUT), (inode, _INODE, _TAIL_STATES)):
            inside = (states >= first) & (states < after)
            if inside.any():
                np.multiply(number, 10, out=number, where=inside)
                np.add(number, column - np.uint8(ord("0")), out=number, where=inside)
        if not len(states) or states.min() >= _TAIL.done:
            break
        at += 1
    return uid, inode, states == _TAIL.done


def read_tcp(proc_root: Path, pid: int | None = None, *, space: bytearray | None = None) -> Picture:
    """Take a picture of a namespace: both files, each read in one go.

    Args:
        proc_root: where /proc is.
        pid: a process in the namespace; None: this process.
        space: memory to read into; it grows as needed. A poller gives the same one each time, to save its allocation.

    Returns:
        What could be read. Nothing that the host or its processes may do raises: a process that ended (ENOENT, ESRCH), one that
        may not be looked at (EACCES, EPERM) or that moves to another namespace while it is read (ESTALE) is a trouble.
    """
    space = bytearray(INITIAL_BYTES) if space is None else space
    parsed: list[Parsed] = []
    files: list[str] = []
    with OpenProcess(proc_root, pid) as process:
        for name, family in FILES:
            n_bytes = process.read_into(f"net/{name}", space)
            if n_bytes is not None:
                parsed.append(parse_tcp(memoryview(space)[:n_bytes], family))
                files.append(name)
    rows = np.concatenate([part.rows for part in parsed]) if parsed else no_sockets()
    rows["netns"] = process.netns
    return Picture(
        rows,
        process.netns,
        sum(part.malformed for part in parsed),
        bool(parsed) and all(part.columns_known for part in parsed),
        tuple(files),
        tuple(process.troubles),
    )
