"""Netlink sockets for sock_diag: opened in a namespace, filtered in the kernel, read many datagrams at once; messages walked.

The kernel's messages are trusted for nothing: every length is checked before it is used, and what does not fit is counted, not
raised. Numbers are of include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fallback.sockets import V4_MAPPED
from tracer.errors import SourceError

NETLINK_SOCK_DIAG: Final = 4
HEADER: Final = struct.Struct("=IHHII")  # length with the header, type, flags, sequence number, port
ATTRIBUTE: Final = struct.Struct("=HH")  # length with these four bytes, type
NLMSG_ERROR, NLMSG_DONE, NLMSG_MIN_TYPE = 2, 3, 16
NLM_F_REQUEST, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x10, 0x300
_NLA_TYPE_MASK: Final = 0x3FFF  # the two high bits say "nested" and "network byte order"
_ERROR_CODE: Final = struct.Struct("=i")
_CLONE_NEWNET: Final = 0x40000000
# What CPython's socket module does not name, include/uapi/asm-generic/socket.h; other numbers on sparc, parisc, mips.
_SO_RCVBUFFORCE, _SO_ATTACH_FILTER, _SO_MEMINFO = 33, 26, 55
_MEMINFO_DROPS: Final = 8  # SK_MEMINFO_DROPS, include/uapi/linux/sock_diag.h
_BC_JMP, _BC_D_COND = 1, 8  # INET_DIAG_BC_*
_BYTECODE_BYTES_MAX: Final = 0xF000  # jumps and the attribute's length are of 16 bits
_LD_W, _LD_H, _LD_B, _AND, _JA, _JEQ, _RET = 0x20, 0x28, 0x30, 0x54, 0x05, 0x15, 0x06  # classic BPF, linux/bpf_common.h
_ACCEPT, _BPF_INSTRUCTIONS_MAX = 0xFFFFFFFF, 4096
_FAMILY_AT, _RPORT_AT, _REMOTE_AT = 16, 22, 40  # in a message: struct nlmsghdr and struct inet_diag_msg behind it

Bytes = NDArray[np.uint8]
Indexes = NDArray[np.int64]

_WORD: Final = ctypes.sizeof(ctypes.c_void_p)
_libc = ctypes.CDLL(None, use_errno=True)


def open_netlink(groups: int, netns_fd: int | None, receive_bytes: int, filter_program: bytes = b"") -> socket.socket:
    """A non-blocking NETLINK_SOCK_DIAG socket.

    Args:
        groups: multicast groups as a mask (group 1 is bit 0).
        netns_fd: an open /proc/PID/ns/net; None for the caller's own namespace. Another one needs CAP_SYS_ADMIN.
        receive_bytes: SO_RCVBUF wanted; without CAP_NET_ADMIN net.core.rmem_max cuts it down.
        filter_program: classic BPF, attached before the groups are joined.

    Raises:
        SourceError: the namespace can't be entered, or the kernel (or seccomp) refuses the socket.
    """
    if netns_fd is None:
        return _open(groups, receive_bytes, filter_program)
    opened: list[socket.socket] = []
    failed: list[SourceError] = []

    def enter_and_open() -> None:
        try:
            if _libc.setns(netns_fd, _CLONE_NEWNET):
                raise SourceError(f"can't enter the network namespace: {os.strerror(ctypes.get_errno())}; this needs root")
            opened.append(_open(groups, receive_bytes, filter_program))
        except SourceError as error:
            failed.append(error)

    # setns() moves a thread. One that ends at once leaves nobody else in the wrong namespace; the socket stays where it was made.
    thread = threading.Thread(target=enter_and_open, name="regtrace-setns")
    try:
        thread.start()
    except RuntimeError as error:  # no more threads
        raise SourceError(f"can't enter the network namespace: {error}") from error
    thread.join()
    if failed or not opened:
        raise failed[0] if failed else SourceError("can't enter the network namespace")
    return opened[0]


def _open(groups: int, receive_bytes: int, filter_program: bytes) -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    except OSError as error:
        raise SourceError(f"no sock_diag netlink socket: {error.strerror}{_hint(error)}") from error
    try:
        opened.setblocking(False)
        set_receive_bytes(opened, receive_bytes)
        if filter_program:
            attach_filter(opened, filter_program)
        opened.bind((0, groups))
    except (OSError, SourceError) as error:
        opened.close()
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"can't join sock_diag's groups {groups:#x}: {error.strerror}{_hint(error)}") from error
    return opened


def _hint(error: OSError) -> str:
    if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.ENOENT):
        return " (the kernel has no inet_diag, or may not load it)"
    if error.errno in (errno.EPERM, errno.EACCES):
        return " (seccomp or a security module forbids it)"
    return ""


def set_receive_bytes(sock: socket.socket, receive_bytes: int) -> int:
    """Ask for a receive buffer, by force where that is allowed; what the kernel gave, in bytes (it doubles what is asked)."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_bytes)
    except OSError:  # no CAP_NET_ADMIN
        with contextlib.suppress(OSError):  # the default will do, and overruns are counted
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def attach_filter(sock: socket.socket, program: bytes) -> bool:
    """Let the kernel drop messages that a classic BPF program (struct sock_filter each) returns 0 for; needs no privilege.

    Replaces the one before without a gap. False: the kernel refuses this one (it is longer than net.core.optmem_max allows), and
    all messages pass.

    Raises:
        SourceError: the kernel takes no filter at all.
    """
    for each in (program, _ins(_RET, _ACCEPT)):
        code = ctypes.create_string_buffer(each, len(each))
        try:
            # struct sock_fprog: a count, padding, a pointer that the kernel follows during the call only.
            packed = struct.pack("@HP", len(each) // 8, ctypes.addressof(code))
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, packed)
        except (OSError, struct.error) as error:
            refused = error
        else:
            return each is program
    raise SourceError(f"the kernel takes no filter for sock_diag: {refused}") from refused


def dropped(sock: socket.socket) -> int | None:
    """Messages the kernel could not queue since the socket was made, modulo 2**32; None before Linux 4.12."""
    try:
        answer = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
    except OSError:
        return None
    if len(answer) < 4 * (_MEMINFO_DROPS + 1):
        return None
    return int(struct.unpack_from("=I", answer, 4 * _MEMINFO_DROPS)[0])


_NAME_DTYPE: Final = np.dtype("u2,u2,u4,u4")  # struct sockaddr_nl: family, padding, port, groups
_IOVEC_DTYPE: Final = np.dtype([("base", "uintp"), ("length", "uintp")])
_MMSGHDR_DTYPE: Final = np.dtype(  # struct msghdr, and the length that recvmmsg() adds
    {
        "names": ["name", "name_length", "iov", "iov_length", "control", "control_length", "flags", "length"],
        "formats": ["uintp", "u4", "uintp", "uintp", "uintp", "uintp", "i4", "u4"],
        "offsets": [_WORD * word for word in range(7)] + [7 * _WORD],
        "itemsize": 8 * _WORD,
    }
)


@dataclass(frozen=True)
class Datagrams:
    """What one recvmmsg() brought.

    Attributes:
        rows: uint8, shape (n_datagrams, slot_bytes): a view that the next receive() overwrites.
        lengths: int64, shape (n_datagrams,): bytes of each row; 0 where it is not whole or not the kernel's.
        overrun: ENOBUFS: the kernel dropped messages since the last time it said so.
        empty: nothing was left in the socket.
    """

    rows: Bytes
    lengths: Indexes
    overrun: bool
    empty: bool


class BatchReceiver:
    """Receives datagrams into slots of one array: a system call for hundreds, and no Python object for any.

    Multicast messages come one a datagram, so recv() costs a call and a bytes object each: measured at 10,000 events a
    second 2.3 µs (recv), 1.6 µs (recv_into) and 1.0 µs (this).
    """

    def __init__(self, sock: socket.socket, slots: int = 256, slot_bytes: int = 1024) -> None:
        self._sock = sock
        self._slots = slots
        self._rows = np.zeros((slots, slot_bytes), np.uint8)
        self._names = np.zeros(slots, _NAME_DTYPE)
        self._iovs = np.zeros(slots, _IOVEC_DTYPE)  # the headers hold addresses only: what they point to lives as long as they
        self._headers = np.zeros(slots, _MMSGHDR_DTYPE)
        each = np.arange(slots, dtype=np.uintp)
        self._iovs["base"] = self._rows.ctypes.data + each * slot_bytes
        self._iovs["length"] = slot_bytes
        self._headers["name"] = self._names.ctypes.data + each * _NAME_DTYPE.itemsize
        self._headers["name_length"] = _NAME_DTYPE.itemsize
        self._headers["iov"] = self._iovs.ctypes.data + each * _IOVEC_DTYPE.itemsize
        self._headers["iov_length"] = 1
        self._address = ctypes.c_void_p(self._headers.ctypes.data)

    def receive(self) -> Datagrams:
        """Whatever is there, at most `slots` datagrams; never waits.

        Raises:
            SourceError: the socket died.
        """
        count = int(_libc.recvmmsg(self._sock.fileno(), self._address, self._slots, socket.MSG_DONTWAIT, None))
        if count < 0:
            code = ctypes.get_errno()
            if code not in (errno.EAGAIN, errno.EINTR, errno.ENOBUFS):
                raise SourceError(f"receiving from sock_diag failed: {os.strerror(code)}")
            return Datagrams(self._rows[:0], np.zeros(0, np.int64), code == errno.ENOBUFS, code == errno.EAGAIN)
        received = self._headers[:count]
        # Only a process with CAP_NET_ADMIN could send here, but what it sends is not the kernel's word.
        whole = (received["flags"] & socket.MSG_TRUNC == 0) & (self._names["f2"][:count] == 0)
        return Datagrams(self._rows[:count], np.where(whole, received["length"], 0).astype(np.int64), False, False)


class Message(NamedTuple):
    """One netlink message: where it begins in its buffer, and its header. Length 0: what is there can't be a message."""

    start: int
    length: int
    type: int = 0
    flags: int = 0
    sequence: int = 0


def messages(buffer: memoryview) -> Iterator[Message]:
    """The messages of one datagram, up to the first impossible length; that one is given with length 0."""
    at = 0
    while at + HEADER.size <= len(buffer):
        length, kind, flags, sequence, _ = HEADER.unpack_from(buffer, at)
        if length < HEADER.size or length > len(buffer) - at:
            break
        yield Message(at, length, kind, flags, sequence)
        at += (length + 3) & ~3
    if at < len(buffer):
        yield Message(at, 0)


def find_attribute(buffer: memoryview, start: int, wanted: int) -> tuple[int, int] | None:
    """Where an attribute's value lies: (offset, bytes); None where there is none before the first impossible length."""
    at = start
    while at + ATTRIBUTE.size <= len(buffer):
        length, kind = ATTRIBUTE.unpack_from(buffer, at)
        if length < ATTRIBUTE.size or length > len(buffer) - at:
            return None
        if kind & _NLA_TYPE_MASK == wanted:
            return at + ATTRIBUTE.size, length - ATTRIBUTE.size
        at += (length + 3) & ~3
    return None


class Answer(NamedTuple):
    """One datagram of a dump: the messages in it that carry something, and whether it is the last."""

    found: list[Message]
    malformed: int
    interrupted: bool
    done: bool


def read_answer(datagram: memoryview, sequence: int) -> Answer:
    """Sort the messages of one datagram of the answer to the request of that number; those of others are passed over.

    Raises:
        OSError: the error that the kernel answers with.
    """
    found: list[Message] = []
    malformed, interrupted, done = 0, False, False
    for message in messages(datagram):
        if not message.length:
            malformed += 1
        elif message.sequence != sequence:
            continue
        elif message.type in (NLMSG_ERROR, NLMSG_DONE):
            interrupted |= bool(message.flags & NLM_F_DUMP_INTR)
            code = _ERROR_CODE.unpack_from(datagram, message.start + HEADER.size)[0] if message.length >= HEADER.size + 4 else 0
            if code:
                raise OSError(abs(code), os.strerror(abs(code)))
            done = True
            break
        elif message.type >= NLMSG_MIN_TYPE:
            interrupted |= bool(message.flags & NLM_F_DUMP_INTR)
            found.append(message)
    return Answer(found, malformed, interrupted, done)


def request_dump(sock: socket.socket, kind: int, sequence: int, body: bytes, buffer: bytearray) -> Iterator[Answer]:
    """Ask for a dump and give each datagram of the answer, which is in `buffer` until the next, up to the last.

    Raises:
        OSError: the kernel refuses, or does not answer within the socket's timeout.
    """
    header = HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0)
    sock.sendto(header + body, (0, 0))
    done = False
    while not done:
        count, _, flags, (sender, _) = sock.recvmsg_into([buffer])
        if sender:
            continue  # only the kernel, port 0, answers
        answer = read_answer(memoryview(buffer)[:count], sequence)
        if flags & socket.MSG_TRUNC:
            answer = answer._replace(malformed=answer.malformed + 1)
        done = answer.done
        yield answer


class Remote(NamedTuple):
    """Remote sides to look for: an address prefix (16 bytes, IPv4 as v4-mapped, so 10.0.0.0/8 has 104 bits), port 0 for any."""

    address: bytes
    prefix_bits: int = 128
    port: int = 0

    def of_ipv4(self) -> tuple[bytes, int] | None:
        """The address and bits that AF_INET sockets have to match; None where none can."""
        outer = min(self.prefix_bits, 96)
        if int.from_bytes(self.address, "big") >> (128 - outer) != int.from_bytes(V4_MAPPED, "big") >> (96 - outer):
            return None
        return self.address[12:], max(0, self.prefix_bits - 96)


def dump_filter(remotes: Sequence[Remote]) -> bytes:
    """inet_diag bytecode: any of the remotes; empty (all pass) where there are none or too many for a jump of 16 bits.

    Each condition is followed by a jump to the end, where a program accepts. A condition that fails skips that jump; the last
    one skips to 4 bytes behind the end, which rejects.
    """
    blocks: list[bytes] = []
    for remote in remotes:
        ipv4 = remote.of_ipv4()
        # The kernel compares an AF_INET condition with v4-mapped addresses of AF_INET6 sockets as well.
        sides = [(socket.AF_INET, *ipv4)] if ipv4 else []
        if remote.prefix_bits <= 96 or not ipv4:
            sides.append((socket.AF_INET6, remote.address, remote.prefix_bits))
        blocks += [struct.pack("=BBxxi", family, bits, remote.port or -1) + address for family, address, bits in sides]
    code = bytearray()
    total = sum(8 + len(block) for block in blocks)  # each with its own head and a jump
    if not blocks or total > _BYTECODE_BYTES_MAX:
        return b""
    for number, block in enumerate(blocks):
        step = 4 + len(block)
        code += struct.pack("=BBH", _BC_D_COND, step, step + 4) + block
        if number + 1 < len(blocks):
            code += struct.pack("=BBH", _BC_JMP, 4, total - 4 - len(code))
    return bytes(code)


def destroy_filter(remotes: Sequence[Remote]) -> bytes:
    """Classic BPF over a destroy message: any of the remotes; one instruction that accepts all where there are none or too many.

    A remote port of 0 passes every port's filter: tcp_disconnect() has cleared it.
    """
    ipv4, ipv6 = bytearray(), bytearray()
    for remote in remotes:
        inner = remote.of_ipv4()
        if inner:
            ipv4 += _match(*inner, remote.port)
        ipv6 += _match(remote.address, remote.prefix_bits, remote.port)
    ipv4 += _ins(_RET, 0)
    code = _ins(_LD_B, _FAMILY_AT) + _ins(_JEQ, socket.AF_INET, 1, 0) + _ins(_JA, len(ipv4) // 8) + ipv4 + ipv6 + _ins(_RET, 0)
    return code if remotes and len(code) <= 8 * _BPF_INSTRUCTIONS_MAX else _ins(_RET, _ACCEPT)


def _ins(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, k)


def _match(address: bytes, bits: int, port: int) -> bytes:
    """Instructions that accept where the remote side matches, and run on behind themselves where it does not."""
    steps: list[tuple[bytes, int]] = []  # a load, and what it has to bring
    for index in range((bits + 31) // 32):
        mask = (0xFFFFFFFF << max(0, 32 * (index + 1) - bits)) & 0xFFFFFFFF
        word = int.from_bytes(address[4 * index : 4 * index + 4], "big") & mask
        steps.append((_ins(_LD_W, _REMOTE_AT + 4 * index) + _ins(_AND, mask), word))
    tail = _ins(_RET, _ACCEPT)
    if port:
        tail = _ins(_LD_H, _RPORT_AT) + _ins(_JEQ, port, 1, 0) + _ins(_JEQ, 0, 0, 1) + tail
    for load, word in reversed(steps):
        tail = load + _ins(_JEQ, word, 0, len(tail) // 8) + tail
    return tail
