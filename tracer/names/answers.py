"""DNS answers that arrive at this host, for whichever program: what registries' clients were told, when they were told.

Two packet sockets, one for IPv4 and one for IPv6: those take incoming packets only, where a socket for all protocols would make
the kernel copy every packet that is sent too. On lo each packet is both, and counts once, as it comes in; systemd-resolved's
answers are there. The filter is attached before the socket is bound, and an unbound packet socket (protocol 0) gets nothing, so
that no packet slips in between.

Seen is the network namespace of this process: containers' answers only where they pass through its interfaces. Not seen are
encrypted DNS, answers from other ports than 53, and those that a local cache gives without a packet. Anybody may forge what is
seen: `NameBook.take` wants to be told that it was overheard.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Container, Iterator
from types import TracebackType
from typing import Final, Self

from tracer.errors import SourceError
from tracer.names.packets import DNS_PORT, dns_messages
from tracer.names.records import Answer
from tracer.names.wire import parse_message

PACKETS_MAX: Final = 256
_READ_BYTES_MAX: Final = 1 << 17
"""Of each protocol in one read: ordinary answers are far smaller, and forged ones of this size take some 30 ms to parse."""
_RECEIVE_BYTES: Final = 1 << 20
_PACKET_BYTES_MAX: Final = 1 << 16
# What CPython's socket module does not name: asm-generic/socket.h (other numbers on sparc, parisc, mips), linux/if_packet.h.
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_STATISTICS: Final = struct.Struct("=II")  # struct tpacket_stats: packets, drops; reading sets both to 0
_ADDRESS: Final = struct.Struct("=H2si12x")  # struct sockaddr_ll: family, protocol in network byte order, interface; rest unused
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
# Classic BPF, linux/bpf_common.h; offsets count from the network header.
_LD_H, _LD_B, _LD_H_X, _LDX_HEADER, _JEQ, _JSET, _RET = 0x28, 0x30, 0x48, 0xB1, 0x15, 0x45, 0x06
_PACKET_TYPE_AT: Final = 0xFFFFF000 + 4  # SKF_AD_OFF + SKF_AD_PKTTYPE
_PACKET_HOST: Final = 0  # to this host: neither sent by it, nor another's that a sniffer lets in
_FRAGMENT_BITS: Final = 0x3FFF
_UDP, _TCP = 17, 6
_V6_EXTENSIONS: Final = (0, 43, 60)

_libc = ctypes.CDLL(None, use_errno=True)

Instruction = tuple[int, int, int, int]
"""struct sock_filter: operation, how many to pass over if its condition holds and if it doesn't, constant."""
_ACCEPT: Final[Instruction] = (_RET, 0, 0, _PACKET_BYTES_MAX)
_REFUSE: Final[Instruction] = (_RET, 0, 0, 0)
IPV4_FILTER: Final[tuple[Instruction, ...]] = (
    (_LD_B, 0, 0, _PACKET_TYPE_AT),
    (_JEQ, 0, 8, _PACKET_HOST),
    (_LD_H, 0, 0, 6),
    (_JSET, 6, 0, _FRAGMENT_BITS),
    (_LD_B, 0, 0, 9),
    (_JEQ, 1, 0, _UDP),
    (_JEQ, 0, 3, _TCP),
    (_LDX_HEADER, 0, 0, 0),
    (_LD_H_X, 0, 0, 0),
    (_JEQ, 1, 0, DNS_PORT),
    _REFUSE,
    _ACCEPT,
)
IPV6_FILTER: Final[tuple[Instruction, ...]] = (
    (_LD_B, 0, 0, _PACKET_TYPE_AT),
    (_JEQ, 0, 8, _PACKET_HOST),
    (_LD_B, 0, 0, 6),
    *((_JEQ, 7 - at, 0, extension) for at, extension in enumerate(_V6_EXTENSIONS)),  # rare; `packets` walks them
    (_JEQ, 1, 0, _UDP),
    (_JEQ, 0, 2, _TCP),
    (_LD_H, 0, 0, 40),
    (_JEQ, 1, 0, DNS_PORT),
    _REFUSE,
    _ACCEPT,
)


class AnswerWatcher:
    """Answers as they come in.

    Attributes:
        dropped: packets that the kernel had no room for, as of the last `read`.
    """

    def __init__(self, receive_bytes: int = _RECEIVE_BYTES) -> None:
        """Begin to see.

        Args:
            receive_bytes: room in the kernel for packets between two reads, each protocol's.

        Raises:
            SourceError: packets may not be seen here.
        """
        self.dropped = 0
        self._passed_over: list[bytes] = []
        self._sockets: list[socket.socket] = []
        self._buffer = memoryview(bytearray(_PACKET_BYTES_MAX))
        try:
            for ethertype, program in ((_ETH_P_IP, IPV4_FILTER), (_ETH_P_IPV6, IPV6_FILTER)):
                self._sockets.append(_open(ethertype, program, receive_bytes))
        except OSError as error:
            self.close()
            remedy = "this needs root or CAP_NET_RAW; " if error.errno in (errno.EPERM, errno.EACCES) else ""
            raise SourceError(
                f"DNS answers on this host can't be seen: {error.strerror}; {remedy}names are looked up all the same"
            ) from error

    def read(self, wanted: Container[str] | None = None) -> list[Answer]:
        """What came since the last call, at most PACKETS_MAX packets of it, and the rest at the next calls; never waits.

        Args:
            wanted: names of interest, lower case; None: all, also what was passed over at the call before: who wants all of them
                since a moment ago can't know whether an answer came before it was asked for.
        """
        answers = []
        passed_over, self._passed_over = self._passed_over if wanted is None else [], []
        for packet in passed_over:
            answers += _answers(packet, None)
        for each in self._sockets:
            for packet in self._packets(each):
                found = _answers(packet, wanted)
                answers += found
                if not found and wanted is not None:
                    self._passed_over.append(packet)
            with contextlib.suppress(OSError, struct.error):
                self.dropped += _STATISTICS.unpack(each.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size))[1]
        return answers

    def _packets(self, opened: socket.socket) -> Iterator[bytes]:
        left_bytes = _READ_BYTES_MAX
        for _ in range(PACKETS_MAX // len(self._sockets)):
            if left_bytes <= 0:
                return
            try:
                n_bytes = opened.recv_into(self._buffer)
            except OSError:  # nothing left; or an interface went down, which is told once
                return
            left_bytes -= n_bytes
            yield bytes(self._buffer[:n_bytes])

    def close(self) -> None:
        """See no more."""
        for each in self._sockets:
            each.close()
        self._sockets.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _answers(packet: bytes, wanted: Container[str] | None) -> list[Answer]:
    parsed = (parse_message(message, wanted) for message in dns_messages(packet))
    return [answer for answer in parsed if answer is not None]


def _open(ethertype: int, program: tuple[Instruction, ...], receive_bytes: int) -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    try:
        with contextlib.suppress(OSError):  # no CAP_NET_ADMIN: the default will do, and drops are counted
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_bytes)
        packed = b"".join(struct.pack("=HBBI", *each) for each in program)
        code = ctypes.create_string_buffer(packed, len(packed))
        # struct sock_fprog: a count, padding, a pointer that the kernel follows during the call only.
        opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))
        # Python's bind() insists on one interface; 0 is all of them, those to come too.
        anywhere = _ADDRESS.pack(socket.AF_PACKET, ethertype.to_bytes(2, "big"), 0)
        if _libc.bind(opened.fileno(), anywhere, len(anywhere)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except OSError:
        opened.close()
        raise
    return opened
