"""The TCP life cycle as the hook shows it: a table, and the theory above it.

Rules of this module: tables and lookups only; no I/O, no state, nothing that depends on how events were read.

Theory of operation. `inet_sock_set_state` fires on every assignment of a full socket's state:

    connect()            CLOSE -> SYN_SENT            in the caller's context; the source port is not yet chosen
    handshake done       SYN_SENT -> ESTABLISHED
    handshake failed     SYN_SENT -> CLOSE            sk_err says why; 0: the caller gave up (or never found a free port)
    we close first       ESTABLISHED -> FIN_WAIT1 -> FIN_WAIT2 -> CLOSE, or -> CLOSING -> CLOSE
    the peer first       ESTABLISHED -> CLOSE_WAIT -> LAST_ACK -> CLOSE
    reset either way     any -> CLOSE                 sk_err is 0 when this side aborted

TIME_WAIT never appears: the kernel hands it to a mini-socket and closes the full one, so FIN_WAIT2 -> CLOSE (or CLOSING ->
CLOSE, or FIN_WAIT1 -> CLOSE) is where a connection ends, and where pollers are made to agree. Simultaneous opens pass
SYN_SENT -> SYN_RECV. A socket first seen in SYN_RECV or LISTEN was opened from outside: it is no connection *to* a registry.

Who ended a connection is decided by the first transition that leaves ESTABLISHED (or the handshake) and never revised: a
reset that follows the peer's FIN does not make it the peer's reset.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tracer.events import N_STATES, TcpState

S = TcpState


class CloseReason(IntEnum):
    """How a connection ended; the names are `close_reason` in every output (with "-" for "_")."""

    UNDECIDED = 0
    OPEN = 1
    PEER = 2
    LOCAL = 3
    RESET = 4
    LOCAL_RESET = 5
    REFUSED = 6
    TIMEOUT = 7
    UNREACHABLE = 8
    ABORTED = 9
    UNKNOWN = 10


REASON_NAMES = tuple(reason.name.lower().replace("_", "-") for reason in CloseReason)
"""By CloseReason."""

STATE_NAMES = ("", *(TcpState(state).name for state in range(1, N_STATES)))
"""By TcpState; index 0 is unused."""

KNOWN_TRANSITIONS = frozenset(
    {
        (S.CLOSE, S.SYN_SENT),
        (S.CLOSE, S.LISTEN),
        (S.LISTEN, S.CLOSE),
        (S.LISTEN, S.SYN_RECV),
        (S.SYN_SENT, S.ESTABLISHED),
        (S.SYN_SENT, S.SYN_RECV),
        (S.SYN_SENT, S.CLOSE),
        (S.SYN_RECV, S.ESTABLISHED),
        (S.SYN_RECV, S.FIN_WAIT1),
        (S.SYN_RECV, S.CLOSE_WAIT),
        (S.SYN_RECV, S.CLOSE),
        (S.ESTABLISHED, S.FIN_WAIT1),
        (S.ESTABLISHED, S.CLOSE_WAIT),
        (S.ESTABLISHED, S.CLOSE),
        (S.FIN_WAIT1, S.FIN_WAIT2),
        (S.FIN_WAIT1, S.CLOSING),
        (S.FIN_WAIT1, S.CLOSE),
        (S.FIN_WAIT2, S.CLOSE),
        (S.CLOSING, S.CLOSE),
        (S.CLOSE_WAIT, S.LAST_ACK),
        (S.CLOSE_WAIT, S.CLOSE),
        (S.LAST_ACK, S.CLOSE),
    }
)
"""What Linux does. Anything else is counted and reported, by old and new state."""


def _known_table() -> NDArray[np.bool_]:
    table = np.zeros((N_STATES, N_STATES), bool)
    for old, new in KNOWN_TRANSITIONS:
        table[old, new] = True
    table.flags.writeable = False
    return table


KNOWN = _known_table()
"""bool, shape (N_STATES, N_STATES), indexed [old, new]."""


def is_known(old: NDArray[np.uint8], new: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which transitions Linux makes, shape (n,)."""
    return KNOWN.ravel().take(_flat(old, new))


def _flat(old: NDArray[np.uint8], new: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One index for [old, new], which is quicker to look up than two; 12 * 13 + 12 still fits into a byte."""
    return old * np.uint8(N_STATES) + new


# How far along its life a state is; a later event never has an earlier old state unless it is another connection's.
_RANKS = {
    S.SYN_SENT: 0, S.NEW_SYN_RECV: 0, S.LISTEN: 0, S.SYN_RECV: 1, S.ESTABLISHED: 2, S.FIN_WAIT1: 3, S.CLOSE_WAIT: 3,
    S.FIN_WAIT2: 4, S.CLOSING: 4, S.LAST_ACK: 4, S.TIME_WAIT: 5, S.CLOSE: 6,
}  # fmt: skip
RANK = np.array([0, *(_RANKS[TcpState(state)] for state in range(1, N_STATES))], np.int8)
"""int8, shape (N_STATES,)."""


class LinuxErrno(IntEnum):
    """include/uapi/asm-generic/errno*.h: sk_err is the tracing kernel's, and a capture may be read on another system."""

    EACCES = 13
    EPIPE = 32
    EPROTO = 71
    ENOPROTOOPT = 92
    ENETDOWN = 100
    ENETUNREACH = 101
    ECONNABORTED = 103
    ECONNRESET = 104
    ETIMEDOUT = 110
    ECONNREFUSED = 111
    EHOSTDOWN = 112
    EHOSTUNREACH = 113


def errno_name(number: int) -> str:
    """Its name, as far as sockets have them; "0" says that there was no error."""
    return _ERRNO_NAMES.get(number, f"errno {number}")


_ERRNO_NAMES = {int(errno): errno.name for errno in LinuxErrno} | {0: "0"}
_LOCAL_ABORT = {0, LinuxErrno.ECONNABORTED}
_PEER_RESET = {LinuxErrno.ECONNRESET, LinuxErrno.EPIPE}
_UNREACHABLE = {
    LinuxErrno.EHOSTUNREACH, LinuxErrno.ENETUNREACH, LinuxErrno.ENETDOWN, LinuxErrno.EHOSTDOWN, LinuxErrno.EACCES,
    LinuxErrno.EPROTO, LinuxErrno.ENOPROTOOPT,
}  # fmt: skip
"""What ICMP and ICMPv6 errors become (net/ipv4/icmp.c icmp_err_convert, net/ipv6/icmp.c tab_unreach)."""
N_ERRNO = 256
_HANDSHAKE = (S.SYN_SENT, S.SYN_RECV)


def _closed_by(old: TcpState, sk_err: int) -> CloseReason:
    """The reason of a transition straight to CLOSE, out of the handshake or out of ESTABLISHED."""
    if sk_err == LinuxErrno.ETIMEDOUT:
        return CloseReason.TIMEOUT
    if sk_err in _UNREACHABLE:
        return CloseReason.UNREACHABLE
    if old in _HANDSHAKE and sk_err == LinuxErrno.ECONNREFUSED:
        return CloseReason.REFUSED
    if sk_err in _LOCAL_ABORT:
        return CloseReason.ABORTED if old in _HANDSHAKE else CloseReason.LOCAL_RESET
    return CloseReason.RESET if sk_err in _PEER_RESET else CloseReason.UNKNOWN


def _reason_tables() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    by_transition = np.zeros((N_STATES, N_STATES), np.uint8)
    for new in (S.CLOSE_WAIT, S.LAST_ACK):
        by_transition[:, new] = CloseReason.PEER
    for new in (S.FIN_WAIT1, S.FIN_WAIT2, S.CLOSING):
        by_transition[:, new] = CloseReason.LOCAL
    # Where the deciding transition was not seen, the state it led to still tells.
    for old in (S.CLOSE_WAIT, S.LAST_ACK):
        by_transition[old, :] = CloseReason.PEER
    for old in (S.FIN_WAIT1, S.FIN_WAIT2, S.CLOSING):
        by_transition[old, :] = CloseReason.LOCAL
    by_errno = np.full((N_STATES, N_ERRNO), CloseReason.UNKNOWN, np.uint8)
    for old in (*_HANDSHAKE, S.ESTABLISHED):
        by_errno[old] = [_closed_by(old, sk_err) for sk_err in range(N_ERRNO)]
    by_transition.flags.writeable = by_errno.flags.writeable = False
    return by_transition, by_errno


REASON_BY_TRANSITION, REASON_BY_ERRNO = _reason_tables()
"""uint8 CloseReason: [old, new], 0 where undecided; and [old, sk_err] for transitions to CLOSE that the first leaves open."""


def close_reasons(
    old: NDArray[np.uint8], new: NDArray[np.uint8], sk_err: NDArray[np.uint32], sk_err_valid: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """What each transition says about who ended its connection.

    Args:
        old, new: states, shape (n,).
        sk_err: errno, shape (n,); ignored where `sk_err_valid` is False.
        sk_err_valid: shape (n,).

    Returns:
        CloseReason, uint8, shape (n,); UNDECIDED where the transition ends nothing.
    """
    reasons = REASON_BY_TRANSITION.ravel().take(_flat(old, new))
    straight = np.flatnonzero((reasons == CloseReason.UNDECIDED) & (new == S.CLOSE) & (old != S.CLOSE) & (old != S.LISTEN))
    if straight.size:
        known = sk_err_valid[straight] & (sk_err[straight] < N_ERRNO)
        by_errno = REASON_BY_ERRNO[old[straight], np.where(known, sk_err[straight], 0)]
        reasons[straight] = np.where(known, by_errno, CloseReason.UNKNOWN)
    return reasons
