"""A kernel played from a trace: what pictures and records of ended sockets would have shown of it, at any times.

`polled` runs the polling source on it, so that what comes of a trace through looks can be compared with the trace itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np

from fallback.diag_records import DIAG_DTYPE, DiagFlag, Records
from fallback.differ import Differ, Look, sockets_of
from fallback.namespaces import Namespace, Namespaces
from fallback.netlink import Remote
from fallback.owners import Owner, Owners
from fallback.source import POLLED, PROC, PollingSource
from fallback.windows import Opener, Seen, Window
from tracer.events import EventBatch, EventFlag, Events, TcpState, is_opening, is_sample

S = TcpState
LINGER_NS = 60_000_000_000
NAMESPACE = Namespace(4_026_531_840, None)
_IN_ORDER = ((S.LAST_ACK, S.CLOSE), (S.FIN_WAIT2, S.CLOSE), (S.CLOSING, S.CLOSE))
_ALWAYS = DiagFlag.HAS_LADDR | DiagFlag.HAS_LPORT | DiagFlag.HAS_RPORT | DiagFlag.HAS_SEGS | DiagFlag.HAS_RETRANSMITS
_COUNTED = DiagFlag.HAS_RECEIVED | DiagFlag.HAS_ACKED | DiagFlag.EXACT_RECEIVED | DiagFlag.EXACT_ACKED | DiagFlag.HAS_UNREAD
_UP = DiagFlag.ESTABLISHED | DiagFlag.HAS_LAST_DATA


@dataclass
class Socket:
    """One life: its events, and what is its own for ever."""

    number: int
    events: Events

    @property
    def opened_ns(self) -> int:
        return int(self.events["ts_ns"][0])

    @property
    def closed_ns(self) -> int:
        """Boottime of its end; far away if it did not come."""
        last = self.events[-1]
        return int(last["ts_ns"]) if last["new_state"] == S.CLOSE else 1 << 62

    @property
    def lingers(self) -> bool:
        """Its end leaves a TIME_WAIT."""
        return (self.events["old_state"][-1], self.events["new_state"][-1]) in _IN_ORDER[1:]

    def record(self, now_ns: int) -> Records:
        """What sock_diag shows of it at a time; after its end, its last record."""
        known = self.events[self.events["ts_ns"] <= now_ns]
        made = np.zeros(1, DIAG_DTYPE)
        row, last = made[0], known[-1]
        up = bool(np.isin(known["new_state"], (S.ESTABLISHED,)).any() | (known["old_state"] == S.ESTABLISHED).any())
        flags = _ALWAYS | _COUNTED | (_UP if up else DiagFlag(0))
        row["cookie"], row["state"], row["family"] = self.number, last["new_state"], last["family"]
        row["inode"] = 0 if last["new_state"] == S.CLOSE else self.number + 1_000_000
        row["laddr"] = self.events["saddr"][-1]
        row["raddr"], row["lport"], row["rport"] = last["daddr"], self.events["sport"].max(), last["dport"]
        if up:
            row["bytes_received"], row["bytes_acked"] = last["bytes_received"], last["bytes_acked"]
            row["unread_bytes"], row["last_data_recv_ms"] = last["unread_bytes"], last["idle_ms"]
        if (last["old_state"], last["new_state"]) in _IN_ORDER:
            flags |= DiagFlag.FIN_ACKED
        row["segs_in"] = 1 if up or int(last["sk_err"]) == 111 else 0
        row["flags"], row["received_ns"] = int(flags), now_ns
        return made


class Kernel:
    """The sockets of a trace, of which all events are known."""

    def __init__(self, events: Events) -> None:
        self.sockets: list[Socket] = []
        living: dict[int, list[np.void]] = {}
        for event in events:
            if not is_sample(np.array([event]))[0] and event["old_state"] == event["new_state"]:
                continue
            life = living.setdefault(int(event["skaddr"]), [])
            life.append(event)
            if event["new_state"] == S.CLOSE:
                self._add(living.pop(int(event["skaddr"])))
        for life in living.values():
            self._add(life)
        self.remotes = sorted({(bytes(e["daddr"].tobytes()), int(e["dport"]), int(e["endpoint_id"])) for e in events})

    def _add(self, life: list[np.void]) -> None:
        made = np.array(life)
        if is_opening(made[:1])[0]:
            made["sport"] = made["sport"].max()
            self.sockets.append(Socket(len(self.sockets) + 1, made))

    def owner(self, socket: Socket) -> Owner | None:
        first = socket.events[0]
        if not first["flags"] & EventFlag.OWNER:
            return None
        cgroup_id = int(first["cgroup_id"]) if first["flags"] & EventFlag.HAS_CGROUP else -1
        return Owner(int(first["pid"]), 1, bytes(first["comm"]), cgroup_id)

    def picture(self, now_ns: int) -> Records:
        """Every socket that is there, with what lingers."""
        parts = [np.zeros(0, DIAG_DTYPE)]
        for socket in self.sockets:
            if socket.opened_ns <= now_ns < socket.closed_ns:
                parts.append(socket.record(now_ns))
            elif socket.lingers and socket.closed_ns <= now_ns < socket.closed_ns + LINGER_NS:
                row = socket.record(now_ns)
                row["state"], row["cookie"], row["inode"], row["flags"] = S.TIME_WAIT, 0, 0, 0
                parts.append(row)
        return np.concatenate(parts)

    def ended(self, since_ns: int, until_ns: int) -> Records:
        """The records of those that ended in (since_ns, until_ns]."""
        found = [socket.record(until_ns) for socket in self.sockets if since_ns < socket.closed_ns <= until_ns]
        return np.concatenate([np.zeros(0, DIAG_DTYPE), *found])


class PlayedWindow:
    """Looks at a played kernel; time is set from outside."""

    def __init__(self, kernel: Kernel, with_records: bool, start_ns: int) -> None:
        self.namespace = NAMESPACE
        self.now_ns = self._looked_ns = start_ns
        self._kernel = kernel
        self._with_records = with_records

    def stirred(self) -> bool:
        return True

    def look(self, _: Differ) -> Seen:
        picture = self._kernel.picture(self.now_ns)
        since_ns, self._looked_ns = self._looked_ns, self.now_ns
        if not self._with_records:
            return Seen(Look(sockets_of(picture), self.now_ns, self.now_ns))
        ended = self._kernel.ended(since_ns, self.now_ns)
        ended["since_ns"] = since_ns
        return Seen(Look(sockets_of(picture), self.now_ns, self.now_ns, picture, ended))

    def drain(self) -> None:
        pass

    def move(self, _: Namespace) -> None:
        pass

    def fileno(self) -> int:
        return 0

    def watch(self, _: object) -> None:
        pass

    def close(self) -> None:
        pass


class _PlayedOwners:
    """Knows whose sockets they are while they are there."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def find(self, wanted: Iterable[int]) -> Owners:
        found = {}
        for inode in wanted:
            owner = self._kernel.owner(self._kernel.sockets[int(inode) - 1_000_001])
            if owner is not None:
                found[int(inode)] = owner
        return Owners(found, frozenset(), 0, 0, 0, ())

    def forget(self, _: Iterable[int]) -> None:
        pass


class _OneNamespace:
    """Finds the played one and no other."""

    def refresh(self) -> Namespaces:
        return Namespaces((NAMESPACE,), 0, 0, False, ())


class _PlayedSource(PollingSource):
    """The polling source, on one played namespace."""

    def __init__(self, kernel: Kernel, with_records: bool, start_ns: int) -> None:
        super().__init__(POLLED if with_records else PROC)
        self.window = PlayedWindow(kernel, with_records, start_ns)
        self._finder = _OneNamespace()  # type: ignore[assignment]
        self._owners = _PlayedOwners(kernel)  # type: ignore[assignment]
        self._with_records = with_records

    def _openers(self, fresh: bool) -> list[Opener]:
        def opened(_: Namespace) -> Window:
            return self.window

        return [opened]


def polled(events: Events, times_ns: Sequence[int], with_records: bool) -> list[EventBatch]:
    """What the polling source gives of a trace if it looks at these times, and once before it began."""
    kernel = Kernel(events)
    source = _PlayedSource(kernel, with_records, int(events["ts_ns"].min()) - 1)

    def clock(_: int) -> int:
        return source.window.now_ns

    batches = []
    with patch("fallback.source.clock_gettime_ns", clock), patch("fallback.source.DiagWindow", _diag_if(with_records)):
        source.watch((Remote(address, 128, port), number) for address, port, number in kernel.remotes)
        source.start()
        batches.append(source.read())
        for now_ns in times_ns:
            source.window.now_ns = now_ns
            source.sample([int(number) for number in _open_numbers(source)])
            batches.append(source.read(at_once=True))
    return batches


def _diag_if(with_records: bool) -> type:
    """The class whose windows bring records."""
    return PlayedWindow if with_records else type("Nothing", (), {})


def _open_numbers(source: PollingSource) -> Iterable[int]:
    for view in source._views.values():
        yield from view.differ._before.numbers.tolist()
