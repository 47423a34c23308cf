"""sock_diag's messages as records: what struct inet_diag_msg and tcp_info say of one TCP socket, open or ended. Pure.

The kernel reports a socket when it frees it, in state CLOSE, with the counters of tcp_info. What that leaves open:

- `bytes_acked` counts SYN and FIN. Where all was acknowledged, the payload is what was sent (exact, whoever opened and closed);
  elsewhere the SYN is taken off, which is right for sockets that connected, and one too many for accepted ones.
- `bytes_received` counts the peer's FIN, and nothing says whether one came, but: no data segment came, or our FIN was
  acknowledged and exactly one sequence number was left unread: the FIN of a peer that answered our close(). Else the
  payload is `bytes_received` or one less, and EXACT_RECEIVED is clear. Who saw the socket in CLOSE_WAIT or LAST_ACK before (same
  cookie) can subtract the one.
- A close() before the peer's FIN frees the socket when the FIN is acknowledged: what comes later is in no counter.
- A blocking connect() that failed and a close() with SO_LINGER 0 go through tcp_disconnect(), which clears the remote port and
  every counter. The remote address stays: such a record has `rport` 0 and DISCONNECTED.
- sk_err, inode, uid and cgroup are not reported, nor when the socket was opened.
Layouts are of include/uapi/linux/{inet_diag,tcp}.h. tcp_info has grown from 104 bytes; fields beyond its end are flagged.
"""

from __future__ import annotations

import socket
from enum import IntFlag
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fallback import netlink
from fallback.netlink import Bytes, Indexes
from fallback.sockets import V4_MAPPED
from tracer.events import N_STATES, TcpState

DIAG_DTYPE: Final = np.dtype(
    [
        ("since_ns", "i8"), ("received_ns", "i8"), ("cookie", "u8"), ("inode", "u8"),
        ("bytes_received", "u8"), ("bytes_acked", "u8"), ("segs_in", "u4"), ("segs_out", "u4"), ("retransmits", "u4"),
        ("rtt_us", "u4"), ("last_data_recv_ms", "u4"), ("unread_bytes", "u4"), ("uid", "u4"), ("flags", "u4"),
        ("lport", "u2"), ("rport", "u2"), ("family", "u2"),
        ("state", "u1"), ("timer", "u1"), ("laddr", "u1", (16,)), ("raddr", "u1", (16,)),
    ]
)  # fmt: skip
"""One socket. Addresses IPv4 as v4-mapped, ports in host order; a value is valid where its flag is set (DiagFlag).

since_ns, received_ns: CLOCK_BOOTTIME when the queue was last seen empty, and when the record was read. segs_in, segs_out,
retransmits: segments (SYN and pure ACKs count in the first two). rtt_us: smoothed. last_data_recv_ms: since the last payload, or
since the handshake where none came.
"""

Records = NDArray[np.void]
"""A structured array of DIAG_DTYPE, shape (n_sockets,)."""


class DiagFlag(IntFlag):
    """Bits of a record's `flags`."""

    HAS_OWNER = 1 << 0  # inode and uid; a destroyed or orphaned socket has neither
    HAS_LADDR = 1 << 1
    HAS_LPORT = 1 << 2
    HAS_RPORT = 1 << 3
    HAS_RECEIVED = 1 << 4
    HAS_ACKED = 1 << 5
    HAS_SEGS = 1 << 6
    HAS_RETRANSMITS = 1 << 7
    HAS_RTT = 1 << 8
    HAS_LAST_DATA = 1 << 9
    HAS_UNREAD = 1 << 10
    EXACT_RECEIVED = 1 << 11  # clear: bytes_received, and unread_bytes unless 0, may count the peer's FIN
    EXACT_ACKED = 1 << 12  # clear: bytes_acked may count our FIN (before Linux 4.19)
    FIN_RECEIVED = 1 << 13  # it is certain that the peer sent one
    FIN_ACKED = 1 << 14  # ours was acknowledged: closed in order; known for sockets that connected, not for accepted ones
    ESTABLISHED = 1 << 15  # the handshake was completed; clear in a destroyed one with counters: refused, timed out, given up
    DISCONNECTED = 1 << 16  # tcp_disconnect() has cleared the counters and the remote port


SOCK_DIAG_BY_FAMILY, INET_DIAG_INFO = 20, 2
_FIRST_ATTRIBUTE: Final = netlink.HEADER.size + 72  # behind struct inet_diag_msg
_FIN_SENT: Final = (TcpState.FIN_WAIT1, TcpState.FIN_WAIT2, TcpState.LAST_ACK, TcpState.CLOSING)
_FIN_RECEIVED: Final = (TcpState.CLOSE_WAIT, TcpState.LAST_ACK, TcpState.CLOSING)

_DIAG_MSG: Final = np.dtype(
    [
        ("family", "u1"), ("state", "u1"), ("timer", "u1"), ("retrans", "u1"), ("lport", ">u2"), ("rport", ">u2"),
        ("laddr", "u1", (16,)), ("raddr", "u1", (16,)), ("interface", "u4"), ("cookie", "u4", (2,)), ("expires", "u4"),
        ("rqueue", "u4"), ("wqueue", "u4"), ("uid", "u4"), ("inode", "u4"),
    ]
)  # fmt: skip
_INFO: Final = np.dtype(
    {
        "names": [
            "last_data_recv", "rtt", "total_retrans", "bytes_acked", "bytes_received", "segs_out", "segs_in", "data_segs_in",
            "bytes_sent", "bytes_retrans",
        ],
        "formats": ["u4", "u4", "u4", "u8", "u8", "u4", "u4", "u4", "u8", "u8"],
        "offsets": [52, 68, 100, 120, 128, 136, 140, 152, 200, 208],
        "itemsize": 216,
    }
)  # fmt: skip
"""The part of struct tcp_info that is used."""


def parse_datagrams(rows: Bytes, lengths: Indexes, since_ns: Indexes, received_ns: Indexes) -> tuple[Records, int]:
    """Destroy messages, one a row: the records in order, and how many rows held none.

    `rows` is uint8, shape (n, slot_bytes), contiguous; `lengths` int64, shape (n,), the bytes received in each row;
    `since_ns` and `received_ns`, int64, shape (n,), go into the records.
    """
    heads = rows[:, :8].copy()
    sizes = heads[:, :4].view("=u4")[:, 0].astype(np.int64)
    fits = (heads[:, 4:6].view("=u2")[:, 0] == SOCK_DIAG_BY_FAMILY) & (sizes <= lengths)
    starts = np.flatnonzero(fits) * rows.shape[1]
    records, wrong = parse_messages(rows.reshape(-1), starts, sizes[fits], since_ns[fits], received_ns[fits])
    return records, wrong + len(rows) - int(fits.sum())


def parse_messages(
    buffer: Bytes, starts: Indexes, sizes: Indexes, since_ns: Indexes | int = 0, received_ns: Indexes | int = 0
) -> tuple[Records, int]:
    """Messages of struct inet_diag_msg and attributes.

    Messages of one size are parsed together: the attributes of the first are walked, and those with tcp_info at the same
    place go with it; the others wait for a round of their own.

    Args:
        buffer: uint8, one-dimensional; every [start, start + size) lies in it.
        starts, sizes: int64, shape (n,), of the messages with their headers.
        since_ns, received_ns: go into the records.

    Returns:
        The records in the order of `starts`, and how many messages give none because they are malformed.
    """
    records = np.zeros(len(starts), DIAG_DTYPE)
    good = np.zeros(len(starts), bool)
    todo = np.arange(len(starts))
    while len(todo):
        size = int(sizes[todo[0]])
        same = todo[sizes[todo] == size]
        if size >= _FIRST_ATTRIBUTE:
            windows: Bytes = np.ndarray((len(buffer) - size + 1, size), np.uint8, buffer, 0, (1, 1))
            messages = windows[starts[same]]
            info = netlink.find_attribute(memoryview(messages[0]), _FIRST_ATTRIBUTE, INET_DIAG_INFO)
            if info:
                head = slice(info[0] - netlink.ATTRIBUTE.size, info[0])
                alike = (messages[:, head] == messages[0, head]).all(axis=1)
            else:
                alike = np.array(
                    [netlink.find_attribute(memoryview(row), _FIRST_ATTRIBUTE, INET_DIAG_INFO) is None for row in messages]
                )
            same, messages = same[alike], messages[alike]
            records[same] = _convert(messages, info)
            good[same] = True
        todo = np.setdiff1d(todo, same, assume_unique=True)
    records["since_ns"], records["received_ns"] = since_ns, received_ns
    good &= np.isin(records["family"], (socket.AF_INET, socket.AF_INET6)) & (records["state"] > 0) & (records["state"] < N_STATES)
    return records[good], int(len(good) - good.sum())


def _convert(messages: Bytes, info: tuple[int, int] | None) -> Records:
    """Records of messages, uint8, shape (n, size), whose tcp_info is at info = (offset, bytes)."""
    head = messages[:, netlink.HEADER.size : _FIRST_ATTRIBUTE].copy().view(_DIAG_MSG)[:, 0]
    records = np.zeros(len(messages), DIAG_DTYPE)
    for field in ("family", "state", "timer", "lport", "rport", "uid", "inode"):
        records[field] = head[field]
    records["cookie"] = head["cookie"][:, 0] | head["cookie"][:, 1].astype(np.uint64) << np.uint64(32)
    ipv4 = head["family"] == socket.AF_INET
    for field in ("laddr", "raddr"):
        records[field] = head[field]
        records[field][ipv4, 12:] = head[field][ipv4, :4]
        records[field][ipv4, :12] = np.frombuffer(V4_MAPPED, np.uint8)
    records["flags"] = (
        _where(head["inode"] != 0, DiagFlag.HAS_OWNER)
        | _where(head["laddr"].any(axis=1), DiagFlag.HAS_LADDR)
        | _where(head["lport"] != 0, DiagFlag.HAS_LPORT)
        | _where(head["rport"] != 0, DiagFlag.HAS_RPORT)
        | _where((head["rport"] == 0) & head["raddr"].any(axis=1), DiagFlag.DISCONNECTED)
    )
    if info:
        values = np.zeros((len(messages), _INFO.itemsize), np.uint8)
        size = min(info[1], _INFO.itemsize)
        values[:, :size] = messages[:, info[0] : info[0] + size]
        # TIME_WAIT has no tcp_info; a listener's and an unconnected socket's says nothing.
        valid = (head["rport"] != 0) & (head["state"] != TcpState.LISTEN)
        _fill_counters(records, head, values.view(_INFO)[:, 0], info[1], valid)
    return records


def _where(mask: NDArray[np.bool_] | np.bool_, flag: DiagFlag) -> NDArray[np.uint32]:
    return np.asarray(mask).astype(np.uint32) * np.uint32(flag)


def _fill_counters(records: Records, head: Records, info: Records, info_bytes: int, valid: NDArray[np.bool_]) -> None:
    """What tcp_info says, payload without SYN and FIN: in place. See the module's docstring for what is exact."""
    reaches = {name: info_bytes >= offset + dtype.itemsize for name, (dtype, offset, *_) in (_INFO.fields or {}).items()}
    established: NDArray[np.bool_] = valid & ((info["bytes_acked"] > 0) | (info["bytes_received"] > 0) | (info["rtt"] > 0))
    ended = head["state"] == TcpState.CLOSE
    all_acked = head["wqueue"] == 0
    # An open socket's state says which FINs there were; SYN counts for who connected.
    controls = (info["bytes_acked"] > 0) + (np.isin(head["state"], _FIN_SENT) & all_acked).astype(np.int64)
    if reaches["bytes_retrans"]:
        payload_sent = info["bytes_sent"].astype(np.int64) - info["bytes_retrans"].astype(np.int64)
        excess = np.clip(info["bytes_acked"].astype(np.int64) - payload_sent, 0, 2)
        controls = np.where(ended & all_acked, excess, controls)
    fin_acked = established & (controls == 2)
    no_data = ended & (info["data_segs_in"] == 0) & reaches["data_segs_in"]
    fin_unread = ended & fin_acked & (head["rqueue"] == 1)
    fin_received = established & (np.isin(head["state"], _FIN_RECEIVED) | fin_unread | (no_data & (info["bytes_received"] > 0)))
    exact_received = valid & (~ended | fin_unread | no_data | ~established)
    acked = info["bytes_acked"] - np.minimum(controls.astype(np.uint64), info["bytes_acked"])
    received, unread = info["bytes_received"], head["rqueue"]
    values: tuple[tuple[str, NDArray[np.unsignedinteger], bool, DiagFlag, NDArray[np.bool_]], ...] = (
        ("bytes_acked", acked, reaches["bytes_acked"], DiagFlag.HAS_ACKED, valid),
        ("bytes_received", received - (fin_received & (received > 0)), reaches["bytes_received"], DiagFlag.HAS_RECEIVED, valid),
        ("unread_bytes", unread - (fin_received & (unread > 0)), True, DiagFlag.HAS_UNREAD, established),
        ("segs_in", info["segs_in"], reaches["segs_in"], DiagFlag.HAS_SEGS, valid),
        ("segs_out", info["segs_out"], reaches["segs_in"], DiagFlag.HAS_SEGS, valid),
        ("retransmits", info["total_retrans"], reaches["total_retrans"], DiagFlag.HAS_RETRANSMITS, valid),
        ("rtt_us", info["rtt"], reaches["rtt"], DiagFlag.HAS_RTT, valid & (info["rtt"] > 0)),
        ("last_data_recv_ms", info["last_data_recv"], reaches["last_data_recv"], DiagFlag.HAS_LAST_DATA, established),
    )
    for field, value, there, flag, where in values:
        if there:
            records[field] = np.where(where, value, 0)
            records["flags"] |= _where(where, flag)
    exact_acked = valid & (~ended | ~all_acked | ~established | reaches["bytes_retrans"])
    records["flags"] |= (
        _where(established, DiagFlag.ESTABLISHED)
        | _where(fin_acked, DiagFlag.FIN_ACKED)
        | _where(fin_received, DiagFlag.FIN_RECEIVED)
        | _where(exact_received & reaches["bytes_received"], DiagFlag.EXACT_RECEIVED)
        | _where(exact_acked & reaches["bytes_acked"], DiagFlag.EXACT_ACKED)
    )
