"""Clients of what is watched, whose connections to elsewhere the program follows; its theory is in tcp_states.c."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from bpf.syscall import BpfMap
from tracer.errors import SourceError

CLIENT_NS = 30_000_000_000
"""So long after its last connection to what is watched a client's connections to elsewhere may be its redirects."""
CLIENTS_MAX = 1024
FOLLOWED_MAX = 4096
FOLLOWED_PER_OPENING = 32
"""A pull fetches a handful of blobs at a time; a proxy that talks to everybody must not fill the ring."""
FOLLOWING = struct.Struct("=II")  # struct following
CLIENT_KEY = struct.Struct("=Q16s")  # struct client_key
CLIENT = struct.Struct("=QiI")  # struct client
_ZERO_KEY = b"\0\0\0\0"


class Clients:
    """The two kernel maps that user space writes to."""

    def __init__(self, following: BpfMap, clients: BpfMap) -> None:
        self._following = following
        self._clients = clients
        self._wanted = False

    def follow(self, clients: Iterable[tuple[int, bytes]], now_ns: int) -> None:
        """Follow from now on, those that open connections to what is watched and those named.

        Args:
            clients: (cgroup id, comm) of owners known to have one open; at most CLIENTS_MAX are taken.
            now_ns: boottime.

        Raises:
            SourceError: the kernel refuses.
        """
        try:
            if not self._wanted:
                self._following.update(_ZERO_KEY, FOLLOWING.pack(1, 0))
                self._wanted = True
            for (cgroup_id, comm), _ in zip(clients, range(CLIENTS_MAX), strict=False):
                self._clients.update(CLIENT_KEY.pack(cgroup_id, comm), CLIENT.pack(now_ns, FOLLOWED_PER_OPENING, 0))
        except OSError as error:
            raise SourceError(f"the kernel's map of clients can't be changed: {error.strerror}") from error

    def close(self) -> None:
        """Give the maps back."""
        self._following.close()
        self._clients.close()
