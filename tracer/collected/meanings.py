"""What a transition means: what the kernel did or was told, in the words of TCP. Pure.

The theory is that of `tracer.lifecycle`; where the same transition may have several causes, the words say so.
"""

from __future__ import annotations

from tracer.events import TcpState
from tracer.lifecycle import LinuxErrno

S = TcpState
_MEANINGS = {
    (S.CLOSE, S.SYN_SENT): "connect(): SYN sent",
    (S.SYN_SENT, S.ESTABLISHED): "SYN-ACK received: connected",
    (S.SYN_SENT, S.SYN_RECV): "SYN received: both sides open at once",
    (S.SYN_RECV, S.ESTABLISHED): "our SYN acknowledged: connected",
    (S.ESTABLISHED, S.FIN_WAIT1): "close() or shutdown(): FIN sent first",
    (S.ESTABLISHED, S.CLOSE_WAIT): "FIN received: the peer closed first",
    (S.FIN_WAIT1, S.FIN_WAIT2): "our FIN acknowledged",
    (S.FIN_WAIT1, S.CLOSING): "FIN received before ours was acknowledged: both closed at once",
    (S.FIN_WAIT1, S.CLOSE): "over before our FIN was seen acknowledged",
    (S.FIN_WAIT2, S.CLOSE): "handed over to TIME_WAIT: FIN received, or none waited for",
    (S.CLOSING, S.CLOSE): "our FIN acknowledged: handed over to TIME_WAIT",
    (S.CLOSE_WAIT, S.LAST_ACK): "close(): FIN sent in answer",
    (S.CLOSE_WAIT, S.CLOSE): "over without a FIN of ours",
    (S.LAST_ACK, S.CLOSE): "our FIN acknowledged: over",
}
_AT_CLOSE: dict[int, str] = {
    LinuxErrno.ECONNRESET: "RST received",
    LinuxErrno.EPIPE: "RST received",
    LinuxErrno.ECONNREFUSED: "RST received: nobody listens there",
    LinuxErrno.ETIMEDOUT: "given up: the peer did not answer",
    LinuxErrno.ECONNABORTED: "aborted from outside (ss -K)",
    LinuxErrno.EHOSTUNREACH: "ICMP: host unreachable",
    LinuxErrno.ENETUNREACH: "ICMP: network unreachable",
}
_GAVE_UP = {
    S.SYN_SENT: "given up by its caller before any answer",
    S.ESTABLISHED: "aborted by this side: RST sent (unread data at close(), or SO_LINGER 0)",
}


def meaning(old: TcpState, new: TcpState, sk_err: int | None) -> str:
    """A transition in words; "" for one that Linux does not make.

    Args:
        old, new: states.
        sk_err: the socket's error, None unknown; it says why a connection went straight to CLOSE.
    """
    if new == S.CLOSE and sk_err:
        return _AT_CLOSE.get(sk_err) or _MEANINGS.get((old, new), "ended by an error")
    if new == S.CLOSE and old in _GAVE_UP:
        return _GAVE_UP[old] if sk_err == 0 else "ended; why was not read"
    return _MEANINGS.get((old, new), "")
