"""Ways: the states a socket must have gone through between two looks at it. Tables only, pure.

A look shows states, not transitions. Where a socket's state changed, the transitions that can't have been skipped are made up
for: ESTABLISHED then LAST_ACK was CLOSE_WAIT in between; one that is new and in CLOSE_WAIT was opened, established, and closed
by the peer. Where there is more than one way (ESTABLISHED, then TIME_WAIT: by FIN_WAIT2 or by CLOSING; ESTABLISHED, then
nothing: by anybody), the step in doubt is left out, and how the connection ended stays unknown. TIME_WAIT is an end, as it is
for the hook in the kernel.
"""

from __future__ import annotations

from tracer.events import TcpState

S = TcpState
Way = tuple[TcpState, ...]
"""The states on the way, the last one included."""

INBOUND = (S.LISTEN, S.SYN_RECV, S.NEW_SYN_RECV)
"""States of sockets that were not opened by us."""

_UP = (S.SYN_SENT, S.ESTABLISHED)
_FROM_ESTABLISHED: dict[TcpState, Way] = {
    S.CLOSE_WAIT: (S.CLOSE_WAIT,),
    S.LAST_ACK: (S.CLOSE_WAIT, S.LAST_ACK),
    S.FIN_WAIT1: (S.FIN_WAIT1,),
    S.FIN_WAIT2: (S.FIN_WAIT1, S.FIN_WAIT2),
    S.CLOSING: (S.FIN_WAIT1, S.CLOSING),
    S.TIME_WAIT: (S.FIN_WAIT1, S.CLOSE),
}
WAYS: dict[TcpState, dict[TcpState, Way]] = {
    S.CLOSE: {S.SYN_SENT: (S.SYN_SENT,), S.ESTABLISHED: _UP, **{to: (*_UP, *way) for to, way in _FROM_ESTABLISHED.items()}},
    S.SYN_SENT: {S.ESTABLISHED: (S.ESTABLISHED,), **{to: (S.ESTABLISHED, *way) for to, way in _FROM_ESTABLISHED.items()}},
    S.ESTABLISHED: _FROM_ESTABLISHED,
    S.CLOSE_WAIT: {S.LAST_ACK: (S.LAST_ACK,)},
    S.FIN_WAIT1: {S.FIN_WAIT2: (S.FIN_WAIT2,), S.CLOSING: (S.CLOSING,), S.TIME_WAIT: (S.CLOSE,)},
    S.FIN_WAIT2: {S.TIME_WAIT: (S.CLOSE,)},
    S.CLOSING: {S.TIME_WAIT: (S.CLOSE,)},
}
"""By state before and after; what is not there needs another connection."""


def end(before: TcpState, established: bool, fin_acked: bool, lingers: bool) -> Way:
    """The way to its end of a socket that the kernel has freed.

    One that was established when it was last seen, was closed in order and does not linger may have been closed by its peer
    first. Or a reset, sent or received, took away what lingered, or the kernel had no room for it. So nobody is blamed.

    Args:
        before: the last state that was seen; CLOSE if it was never seen.
        established: the handshake was completed.
        fin_acked: its own FIN was acknowledged, so that it was closed in order.
        lingers: its ends are in TIME_WAIT now, so that this side closed first.
    """
    if before in (S.CLOSE, S.SYN_SENT):
        start = (S.SYN_SENT,) if before is S.CLOSE else ()
        if not established:
            return (*start, S.CLOSE)
        return (*start, S.ESTABLISHED, *end(S.ESTABLISHED, established, fin_acked, lingers))
    if before is S.ESTABLISHED and lingers:
        return (S.FIN_WAIT1, S.CLOSE)
    if before is S.CLOSE_WAIT and fin_acked:
        return (S.LAST_ACK, S.CLOSE)
    return (S.CLOSE,)
