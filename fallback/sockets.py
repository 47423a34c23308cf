"""The row of a picture: what /proc shows of one TCP socket at one moment. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.errors import SourceError
from tracer.events import N_STATES

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


@dataclass(frozen=True)
class Wanted:
    """Which sockets the caller cares for; a socket must be among the remotes and among the states. None: all.

    Attributes:
        remotes: (address of 16 bytes as in SOCKET_DTYPE, port) pairs. An IPv4 one also finds IPv6 sockets that speak IPv4 to it.
        states: numbers of TcpState.
    """

    remotes: frozenset[tuple[bytes, int]] | None = None
    states: frozenset[int] | None = None

    def __post_init__(self) -> None:
        """Validate.

        Raises:
            SourceError: an address is not 16 bytes long, or there is no such port or state.
        """
        wrong_remotes = [remote for remote in self.remotes or () if len(remote[0]) != 16 or not 0 <= remote[1] < 1 << 16]
        if wrong_remotes:
            raise SourceError(f"no remote of a socket can be {wrong_remotes[:5]}")
        wrong_states = [state for state in self.states or () if not 0 < state < N_STATES]
        if wrong_states:
            raise SourceError(f"no TCP has the state {wrong_states[:5]}")

    def among(self, rows: Sockets) -> NDArray[np.bool_]:
        """Which rows are wanted: bool, shape (n_sockets,)."""
        wanted = np.ones(len(rows), bool)
        if self.states is not None:
            wanted &= np.isin(rows["state"], np.array(sorted(self.states), np.uint8))
        if self.remotes is not None:
            # Of fixed length: that numpy ignores zero bytes at the end of an S18 makes no two of them equal that are not.
            keys = np.array([address + port.to_bytes(2, "big") for address, port in sorted(self.remotes)], "S18")
            found = np.empty((len(rows), 18), np.uint8)
            found[:, :16] = rows["raddr"]
            found[:, 16:] = rows["rport"].astype(">u2").view(np.uint8).reshape(len(rows), 2)
            wanted &= np.isin(found.view("S18")[:, 0], keys)
        return wanted
