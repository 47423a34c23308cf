"""Captures as JSON lines: the `--json --transitions` output itself, small enough to read and to write by hand.

A line needs `ts_ns`, `skaddr`, `old` and `new`, and `raddr` or `endpoint`; what else is missing is unknown. Lines of other types
(connections, findings, summaries) are results, not the trace, and passed over. Empty lines and lines that begin with # too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import IO, Any, NamedTuple

import numpy as np

from tracer.captures.output import PieceFile
from tracer.captures.position import share_read
from tracer.clock import ClockOffset
from tracer.errors import CaptureError, SourceError
from tracer.events import EVENT_DTYPE, FIELD_FLAGS, TS_NS_MAX, EventBatch, EventFlag, KernelCounts, TcpState
from tracer.facts import EndpointFact, Fact, fact_of
from tracer.header import FORMAT_VERSION, TraceHeader
from tracer.lifecycle import LinuxErrno
from tracer.lines import batch_lines, start_line
from tracer.text import comm_bytes

_BATCH_EVENTS = 4096
_LINE_BYTES_MAX = 1 << 24
_AF_INET, _AF_INET6 = 2, 10
_U32, _U64 = 1 << 32, 1 << 64
_WIRE_NAMES = {"lport": "sport", "rport": "dport"}
_KINDS = {"transition": EventFlag(0), "sample": EventFlag.SAMPLE, "adopted": EventFlag.ADOPTED}
_BETWEEN = ("loss", "source", "census", "owner", "address")
_COPIED = (
    "cgroup_id", "netns", "pid", "bytes_received", "bytes_acked", "srtt_us", "retransmits", "unread_bytes", "idle_ms",
)  # fmt: skip


class JsonTraceWriter:
    """Writes a capture as text; see `TraceWriter`."""

    def __init__(self, fd: int, name: str, header: TraceHeader) -> None:
        """Write the start line.

        Raises:
            CaptureError: the file can't be written.
        """
        self._file = PieceFile(fd, name)
        self._header = header
        self._endpoints = dict(header.endpoints)
        self._pending: list[str] = [start_line(header)]
        self.flush()

    def write(self, batch: EventBatch) -> None:
        """Take a batch; see `TraceWriter`."""
        self._endpoints.update(batch.endpoints)
        self._endpoints.update((fact.endpoint_id, fact.label) for fact in batch.facts if isinstance(fact, EndpointFact))
        self._pending += batch_lines(batch, self._endpoints, self._header.clock, samples=True)

    def flush(self) -> None:
        """Write what was taken; see `TraceWriter`."""
        if self._pending:
            piece = "".join(f"{line}\n" for line in self._pending).encode()
            self._pending = []
            self._file.append(piece)

    def close(self) -> None:
        """Flush and mark the end; see `TraceWriter`."""
        try:
            self.flush()
        finally:
            self._file.close(b'{"type": "end"}\n')


class JsonTrace:
    """Reads a capture; see `Trace`."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        """Read up to the first event.

        Raises:
            CaptureError: the start line is of another version, or the first line is no JSON object.
        """
        self._file = file
        self._name = name
        self.truncated: str | None = None
        self._numbers: dict[str, int] = {}
        self._new_endpoints: list[tuple[int, str]] = []
        self._line_number = 0
        self._lines = self._read_lines()
        self._whole = False
        self._recorded = False
        self._first = next(self._lines, None)
        self.header = self._read_header()
        self._source, self._resolution_ns = self.header.source, self.header.resolution_ns

    def _read_header(self) -> TraceHeader:
        first = self._first
        if first is None:
            raise CaptureError(f"{self._name} is empty: no line of a trace is in it")
        if first.get("type") != "start":
            return TraceHeader(source="ebpf", why="a hand-written trace", resolution_ns=1)
        self._first = None
        if first.get("format") != FORMAT_VERSION:
            raise CaptureError(
                f"{self._name} has capture format {first.get('format')}, this regtrace reads {FORMAT_VERSION}; "
                f"use the regtrace that wrote it ({first.get('version')})"
            )
        self._recorded = True
        try:
            for endpoint in first.get("endpoints") or []:
                label = str(endpoint["endpoint"])
                self._numbers[label] = _integer(endpoint["id"], "id", _U32, 1)
            if len(set(self._numbers.values())) != len(self._numbers):
                raise ValueError("two endpoints have one id")
            return TraceHeader(
                source=str(first.get("source") or "ebpf"),
                why=str(first.get("why") or ""),
                resolution_ns=_integer(first.get("resolution_ns", 1), "resolution_ns", TS_NS_MAX),
                host=str(first.get("host") or ""),
                kernel=str(first.get("kernel") or ""),
                clock=_clock(first),
                endpoints={number: label for label, number in self._numbers.items()},
                version=str(first.get("version") or ""),
                settings={str(key): str(value) for key, value in (first.get("settings") or {}).items()},
                loss_known=first.get("loss_known") is not False,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._wrong(f"the start line can't be read: {error}") from error

    def batches(self) -> Iterator[EventBatch]:
        """The batches in their order; see `Trace`."""
        events: list[tuple[np.void, int]] = []
        loss = _NO_LOSS
        for line in self._objects():
            kind = line.get("type")
            if isinstance(kind, str) and kind in _KINDS:
                events.append(self._event(line, _KINDS[kind]))
            elif kind is None and "new" in line:
                events.append(self._event(line, EventFlag(0)))
            if kind == "end":
                self._whole = True
            if kind == "endpoint":
                self._learn(line)
            if kind in _BETWEEN or (kind == "endpoint" and "role" in line):
                yield self._batch(events, loss)
                events, loss = [], _NO_LOSS
                if kind == "loss":
                    loss = self._loss(line)
                else:
                    yield self._between(line)
            elif kind == "clock":
                yield self._batch(events, loss, self._until_ns(line))
                events, loss = [], _NO_LOSS
            elif len(events) >= _BATCH_EVENTS:
                yield self._batch(events, loss)
                events, loss = [], _NO_LOSS
        if events or loss.lost or self._new_endpoints:
            yield self._batch(events, loss)
        if self._recorded and not self._whole and self.truncated is None:
            self.truncated = f"{self._name} has no end mark: its recorder was killed; read up to the last whole line"

    def share_read(self) -> float | None:
        """How far it is; see `Trace`."""
        return share_read(self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _objects(self) -> Iterator[dict[str, Any]]:
        if self._first is not None:
            yield self._first
        yield from self._lines

    def _read_lines(self) -> Iterator[dict[str, Any]]:
        while True:
            raw = self._file.readline(_LINE_BYTES_MAX)
            if not raw:
                return
            self._line_number += 1
            stripped = raw.strip()
            if not stripped or stripped.startswith(b"#"):
                continue
            try:
                line = json.loads(stripped)
            except (ValueError, RecursionError) as error:
                if not raw.endswith(b"\n") and len(raw) < _LINE_BYTES_MAX and self._line_number > 1:
                    self.truncated = f"{self._name} is cut off within line {self._line_number}; read up to the line before"
                    return
                raise self._wrong(f"no JSON: {error}") from error
            if not isinstance(line, dict):
                raise self._wrong("no JSON object")
            if line.get("type") == "summary":  # the output of a watch, kept: it ends here
                self._whole = True
            yield line

    def _wrong(self, what: str) -> CaptureError:
        return CaptureError(f"{self._name}, line {self._line_number}: {what}")

    def _endpoint_id(self, label: str) -> int:
        known = self._numbers.get(label)
        if known is None:
            known = self._numbers[label] = max(self._numbers.values(), default=0) + 1
            self._new_endpoints.append((known, label))
        return known

    def _learn(self, line: dict[str, Any]) -> None:
        """An endpoint line: a label and its id, unless the label is known already."""
        try:
            label, number = str(line["endpoint"]), _integer(line["id"], "id", _U32, 1)
        except (KeyError, TypeError, ValueError) as error:
            raise self._wrong(f"no endpoint: {error}") from error
        if label not in self._numbers:
            if number in self._numbers.values():
                raise self._wrong(f"endpoint id {number} is taken")
            self._numbers[label] = number
            self._new_endpoints.append((number, label))

    def _loss(self, line: dict[str, Any]) -> _Loss:
        try:
            return _Loss(*(_integer(line.get(name), name, TS_NS_MAX) for name in ("lost", "since_ns", "ts_ns")))
        except (TypeError, ValueError) as error:
            raise self._wrong(f"no loss: {error}") from error

    def _between(self, line: dict[str, Any]) -> EventBatch:
        """What stands between events, as a batch of its own."""
        if line["type"] == "source":
            return self._switch(line)
        if line["type"] == "census":
            return self._census(line)
        return replace(self._batch([], _NO_LOSS), facts=(self._fact(line),))

    def _switch(self, line: dict[str, Any]) -> EventBatch:
        """A source line: another one goes on."""
        try:
            self._source, why = str(line["source"]), str(line["why"])
            times = [_integer(line.get(name), name, TS_NS_MAX) for name in ("since_ns", "ts_ns")]
            self._resolution_ns = _integer(line.get("resolution_ns"), "resolution_ns", TS_NS_MAX)
            return replace(self._batch([], _NO_LOSS), switched=why, lost_since_ns=times[0], lost_until_ns=times[1])
        except (KeyError, TypeError, ValueError, SourceError) as error:
            raise self._wrong(f"no change of source: {error}") from error

    def _fact(self, line: dict[str, Any]) -> Fact:
        try:
            fact = fact_of(line)
        except (ValueError, RecursionError) as error:
            raise self._wrong(f"no fact: {error}") from error
        if isinstance(fact, EndpointFact):  # a label that was known before has its number from then
            return replace(fact, endpoint_id=self._numbers[fact.label])
        return fact

    def _census(self, line: dict[str, Any]) -> EventBatch:
        try:
            opened, counted = (_integer(line.get(name), name, TS_NS_MAX) for name in ("opened", "counted"))
            kernel = KernelCounts.from_json(line.get("kernel"))
            return replace(self._batch([], _NO_LOSS), opened=opened, counted=counted, kernel=kernel)
        except (TypeError, ValueError, SourceError) as error:
            raise self._wrong(f"no census: {error}") from error

    def _until_ns(self, line: dict[str, Any]) -> int:
        try:
            return _integer(line.get("ts_ns"), "ts_ns", TS_NS_MAX)
        except (TypeError, ValueError) as error:
            raise self._wrong(f"no clock mark: {error}") from error

    def _event(self, line: dict[str, Any], kind: EventFlag) -> tuple[np.void, int]:
        try:
            return self._parse_event(line, kind)
        except KeyError as error:
            raise self._wrong(f"field {error} is missing or has no such value") from error
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            raise self._wrong(str(error)) from error

    def _parse_event(self, line: dict[str, Any], flags: EventFlag) -> tuple[np.void, int]:
        row = np.zeros(1, EVENT_DTYPE)
        event = row[0]
        event["ts_ns"] = _integer(line["ts_ns"], "ts_ns", TS_NS_MAX)
        skaddr = line["skaddr"]
        event["skaddr"] = _integer(int(skaddr, 16) if isinstance(skaddr, str) else skaddr, "skaddr", _U64)
        event["old_state"], event["new_state"] = TcpState[line["old"]], TcpState[line["new"]]
        remote = _address(line.get("raddr"))
        event["daddr"] = np.frombuffer(remote, np.uint8)
        event["dport"] = _optional(line, "rport")
        label = line.get("endpoint")
        event["endpoint_id"] = self._endpoint_id(f"{line.get('raddr')}:{line.get('rport')}" if label is None else str(label))
        family = _AF_INET if remote[:12] == b"\0" * 10 + b"\xff\xff" else _AF_INET6
        event["family"] = _optional(line, "family", default=family)
        if line.get("laddr") is not None:
            event["saddr"] = np.frombuffer(_address(line["laddr"]), np.uint8)
            flags |= EventFlag.HAS_SADDR
        event["sport"] = _optional(line, "lport")
        if event["sport"]:
            flags |= EventFlag.HAS_SPORT
        for field in _COPIED:
            if line.get(field) is not None:
                event[field] = _optional(line, field)
                flags |= FIELD_FLAGS[field]
        if line.get("sk_err") is not None:
            event["sk_err"] = _errno(line["sk_err"])
            flags |= EventFlag.HAS_SK_ERR
        if line.get("comm") is not None:
            event["comm"] = comm_bytes(str(line["comm"]))
        opening = (line["old"], line["new"]) == ("CLOSE", "SYN_SENT")
        if line.get("owner", opening and EventFlag.HAS_TASK in flags):
            flags |= EventFlag.OWNER
        event["flags"] = flags
        return event, _integer(line.get("early_ns") or 0, "early_ns", TS_NS_MAX)

    def _batch(self, events: list[tuple[np.void, int]], loss: _Loss, until_ns: int = 0) -> EventBatch:
        array = np.array([event for event, _ in events], EVENT_DTYPE)
        early = np.array([early_ns for _, early_ns in events], np.uint64)
        endpoints, self._new_endpoints = tuple(self._new_endpoints), []
        try:
            return EventBatch(
                array,
                self._source,
                self._resolution_ns,
                lost=loss.lost,
                lost_since_ns=loss.since_ns,
                lost_until_ns=loss.until_ns,
                early_ns=early if early.any() else None,
                endpoints=endpoints,
                until_ns=until_ns,
            )
        except SourceError as error:
            raise self._wrong(str(error)) from error


class _Loss(NamedTuple):
    lost: int
    since_ns: int
    until_ns: int


_NO_LOSS = _Loss(0, 0, 0)


def _integer(value: object, name: str, limit: int, least: int = 0) -> int:
    """A whole number in [least, limit); true, 1.0 and "1" are none."""
    if type(value) is not int:
        raise TypeError(f"{name} is {value!r:.80}, expected a whole number")
    if not least <= value < limit:
        raise ValueError(f"{name} is out of range")
    return value


def _optional(line: dict[str, Any], name: str, default: int = 0) -> int:
    """A field of the wire record, by its width; the default where it is null or missing."""
    value = line.get(name)
    bits = 8 * EVENT_DTYPE[_WIRE_NAMES.get(name, name)].itemsize
    return default if value is None else _integer(value, name, 1 << bits)


def _clock(start: dict[str, Any]) -> ClockOffset | None:
    offset_ns = start.get("clock_offset_ns")
    if offset_ns is None:
        return None
    error_ns = start.get("clock_error_ns") or 0
    return ClockOffset(
        _integer(offset_ns, "clock_offset_ns", TS_NS_MAX, -TS_NS_MAX), _integer(error_ns, "clock_error_ns", TS_NS_MAX)
    )


def _address(text: object) -> bytes:
    if text is None:
        return bytes(16)
    ip: IPv4Address | IPv6Address = ip_address(str(text))
    return b"\0" * 10 + b"\xff\xff" + ip.packed if isinstance(ip, IPv4Address) else ip.packed


def _errno(value: object) -> int:
    """A number, or the name of one ("ECONNREFUSED") in a trace written by hand."""
    if isinstance(value, str):
        if value not in LinuxErrno.__members__:
            raise ValueError(f"sk_err is {value!r:.80}, expected a number or one of {', '.join(LinuxErrno.__members__)}")
        return int(LinuxErrno[value])
    return _integer(value, "sk_err", _U32)
