"""The row of a picture: what /proc shows of one TCP socket at one moment. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

AF_INET = 2
AF_INET6 = 10

SOCKET_DTYPE = np.dtype(
    [
        # Inode of the network namespace the picture was taken in. 0: unknown.
        ("netns", "u8"),
        # Inode of the socket's file, as in "socket:[123]" of /proc/PID/fd. 0: no process holds it any more (TIME_WAIT, orphaned
        # FIN_WAIT, LAST_ACK, CLOSING) or none does yet (SYN_RECV, ESTABLISHED but not accepted).
        ("inode", "u8"),
        # The kernel's id of the socket, never used twice while the machine runs (sock_diag). 0: unknown; /proc never shows it.
        ("cookie", "u8"),
        # Own address in network order, IPv4 as ::ffff:a.b.c.d.
        ("laddr", "u1", (16,)),
        # The peer's address in the same form; of a LISTEN socket the unspecified address (for IPv4 ::ffff:0.0.0.0).
        ("raddr", "u1", (16,)),
        # Bytes written and not yet acknowledged (write_seq - snd_una), SYN and FIN count one each; of LISTEN always 0.
        ("tx_queue", "u4"),
        # Bytes received and not yet read (rcv_nxt - copied_seq), a FIN nobody has read counts one; of LISTEN the connections
        # that wait to be accepted.
        ("rx_queue", "u4"),
        # The user who made the socket, in the reader's user namespace; 0 also for TIME_WAIT, where the kernel forgot it.
        ("uid", "u4"),
        # Time until the timer of `timer` goes off, in ticks of USER_HZ (os.sysconf("SC_CLK_TCK")); 0: it is due, or none runs.
        ("timer_ticks", "u4"),
        # Retransmissions of the oldest segment without an answer so far, back to 0 with the answer; of SYN_RECV those of SYN+ACK.
        ("retransmits", "u4"),
        # Ports in host order; rport 0: LISTEN.
        ("lport", "u2"),
        ("rport", "u2"),
        # AF_INET (2) or AF_INET6 (10), as the socket was made: 10 with ::ffff:a.b.c.d is IPv4 spoken by an IPv6 socket.
        ("family", "u2"),
        # tracer.events.TcpState; 1 to 12.
        ("state", "u1"),
        # Which timer runs: 0 none, 1 retransmission (or loss probe), 2 keep-alive (or another of the socket), 3 that of TIME_WAIT
        # (a FIN_WAIT2 that nobody holds has it too), 4 window probe.
        ("timer", "u1"),
        # Fills the last word; always 0.
        ("reserved", "u4"),
    ]
)
"""One socket of a picture. 88 bytes, no holes."""

Sockets = NDArray[np.void]
"""A structured array of SOCKET_DTYPE, shape (n_sockets,)."""

V4_MAPPED = bytes(10) + b"\xff\xff"
"""The first twelve bytes of an IPv4 address written as an IPv6 one (RFC 4291, 2.5.5.2)."""


def no_sockets() -> Sockets:
    """An empty picture."""
    return np.zeros(0, SOCKET_DTYPE)
