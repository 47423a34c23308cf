"""Captures as Arrow IPC streams: what polars, DuckDB, pandas, ClickHouse and Spark read as they are.

One row an event, in the columns of the wire record; a value that is not known is null. Rows of other kinds carry what else
belongs into the stream at its place: events lost before the next row, and notes (JSON), such as endpoints learnt while
recording. A recorder that is killed loses what it had not flushed; a file without the end-of-stream mark is read up to its
last whole batch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import IO, Any

import nanoarrow as na
import numpy as np
from nanoarrow.ipc import StreamWriter
from numpy.typing import NDArray

from tracer.captures.ipc import Column, CutOffError, IpcError, IpcStream, RecordBatch
from tracer.captures.notes import Noted, endpoints_of, note_of, read_note
from tracer.captures.output import PieceFile
from tracer.captures.position import share_read
from tracer.clock import ClockOffset
from tracer.errors import CaptureError, SourceError
from tracer.events import EVENT_DTYPE, FIELD_FLAGS, EventBatch, EventFlag, Events, is_adopted, is_sample, no_events, valid
from tracer.header import FORMAT_VERSION, TraceHeader
from tracer.lifecycle import STATE_NAMES

_KIND_TRANSITION, _KIND_SAMPLE, _KIND_LOSS, _KIND_NOTE, _KIND_CLOCK, _KIND_ADOPTED = range(6)
_EVENT_KINDS = (_KIND_TRANSITION, _KIND_SAMPLE, _KIND_ADOPTED)
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_FLUSH_EVENTS = 1 << 16
_PREFIX = "regtrace."
_NUMBER_TYPES = {"u1": na.Type.UINT8, "u2": na.Type.UINT16, "u4": na.Type.UINT32, "u8": na.Type.UINT64}


_EVENT_COLUMNS = tuple(
    Column(name, "a16" if name in ("saddr", "daddr") else "bytes" if name == "comm" else EVENT_DTYPE[name].str.lstrip("<|"))
    for name in EVENT_DTYPE.names or ()
    if name != "reserved"
)
_COLUMNS = (
    Column("kind", "u1"),
    *_EVENT_COLUMNS,
    Column("early_ns", "u8"),
    Column("lost", "u8"),
    Column("since_ns", "u8"),
    Column("note", "text"),
)
_CODES = {column.name: column.code for column in _COLUMNS}


def _schema(code: str) -> na.Schema:
    if code == "a16":
        return na.fixed_size_binary(16)
    if code in ("bytes", "text"):
        return na.binary() if code == "bytes" else na.string()
    return na.Schema(_NUMBER_TYPES[code])


def _metadata(header: TraceHeader) -> dict[str, str]:
    clock = {} if header.clock is None else {
        "clock_offset_ns": str(header.clock.offset_ns), "clock_error_ns": str(header.clock.error_ns)
    }  # fmt: skip
    plain = {
        "format": str(FORMAT_VERSION),
        "version": header.version,
        "source": header.source,
        "why": header.why,
        "resolution_ns": str(header.resolution_ns),
        "host": header.host,
        "kernel": header.kernel,
        "endpoints": json.dumps({str(number): label for number, label in header.endpoints.items()}),
        "settings": json.dumps(header.settings),
        "states": json.dumps(dict(enumerate(STATE_NAMES))),
        "flags": json.dumps({flag.name: flag.value for flag in EventFlag}),
    }
    loss = {} if header.loss_known else {"loss_known": "false"}
    return {_PREFIX + name: value for name, value in (plain | clock | loss).items()}


class ArrowTraceWriter:
    """Writes a capture, a record batch at each flush."""

    def __init__(self, fd: int, name: str, header: TraceHeader) -> None:
        """Write the schema.

        Raises:
            CaptureError: the file can't be written.
        """
        self._file = PieceFile(fd, name)
        self._buffer = io.BytesIO()
        self._writer = StreamWriter.from_writable(self._buffer)
        schema = na.struct({column.name: _schema(column.code) for column in _COLUMNS})
        self._c_schema = na.c_schema(schema).modify(metadata=_metadata(header))
        self._pending: list[EventBatch] = []
        self._pending_events = 0
        self._writer.write_stream(na.c_array_stream(self._record_batch([])))
        self._drain()

    def write(self, batch: EventBatch) -> None:
        """Take a batch; see `TraceWriter`."""
        if batch.says_something or batch.until_ns:
            self._pending.append(batch)
            self._pending_events += len(batch)
        if self._pending_events >= _FLUSH_EVENTS:
            self.flush()

    def flush(self) -> None:
        """Write what was taken; see `TraceWriter`."""
        if not self._pending:
            return
        pending, self._pending, self._pending_events = self._pending, [], 0
        self._writer.write_stream(na.c_array_stream(self._record_batch(pending)))
        self._drain()

    def close(self) -> None:
        """Flush and mark the end; see `TraceWriter`."""
        try:
            self.flush()
        finally:
            self._writer.release()
            self._file.close(_END_OF_STREAM)

    def _drain(self) -> None:
        piece = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        self._file.append(piece)

    def _record_batch(self, pending: list[EventBatch]) -> Any:
        rows = _Rows(pending)
        children = [rows.child(column) for column in _COLUMNS]
        return na.c_array_from_buffers(self._c_schema, rows.count, [None], children=children)


class _Rows:
    """Batches as the columns of one record batch: special rows stand before the events of their batch, clock marks after."""

    def __init__(self, batches: list[EventBatch]) -> None:
        kinds: list[NDArray[np.uint8]] = []
        parts: list[Events] = []
        early: list[NDArray[np.uint64]] = []
        self.losses: list[tuple[int, int, int]] = []  # row, lost, since_ns
        self.notes: dict[int, bytes] = {}
        row = 0
        for batch in batches:
            note = note_of(batch)
            special = np.zeros(int(batch.lost > 0) + int(bool(note)), EVENT_DTYPE)
            special["old_state"] = special["new_state"] = 7
            special_kinds = []
            if note:
                self.notes[row] = json.dumps(note).encode()
                special_kinds.append(_KIND_NOTE)
            if batch.lost:
                special["ts_ns"][-1] = batch.lost_until_ns
                self.losses.append((row + len(special_kinds), batch.lost, batch.lost_since_ns))
                special_kinds.append(_KIND_LOSS)
            own_kinds = np.where(is_sample(batch.events), _KIND_SAMPLE, _KIND_TRANSITION).astype(np.uint8)
            own_kinds[is_adopted(batch.events)] = _KIND_ADOPTED
            kinds += [np.array(special_kinds, np.uint8), own_kinds]
            own_early = np.zeros(len(batch), np.uint64) if batch.early_ns is None else batch.early_ns
            mark = np.zeros(int(batch.until_ns > 0), EVENT_DTYPE)
            mark["ts_ns"], mark["old_state"], mark["new_state"] = batch.until_ns, 7, 7
            kinds.append(np.full(len(mark), _KIND_CLOCK, np.uint8))
            parts += [special, batch.events, mark]
            early += [np.zeros(len(special), np.uint64), own_early, np.zeros(len(mark), np.uint64)]
            row += len(special) + len(batch) + len(mark)
        self.count = row
        self._kinds = np.concatenate(kinds) if kinds else np.zeros(0, np.uint8)
        self._events = np.concatenate(parts) if parts else no_events()
        self._early = np.concatenate(early) if early else np.zeros(0, np.uint64)

    def child(self, column: Column) -> Any:
        """One column as an Arrow array."""
        known: NDArray[np.bool_] | None = None
        if column.name == "kind":
            values: NDArray[Any] = self._kinds
        elif column.name == "early_ns":
            values = self._early
        elif column.name in ("lost", "since_ns"):
            values = np.zeros(self.count, np.uint64)
            known = np.zeros(self.count, bool)
            for row, lost, since_ns in self.losses:
                values[row] = lost if column.name == "lost" else since_ns
                known[row] = True
        elif column.name == "note":
            return self._texts([self.notes.get(row) for row in range(self.count)] if self.notes else None)
        else:
            values = self._events[column.name]
            if column.name in FIELD_FLAGS:
                known = valid(self._events, column.name)
            if column.code == "bytes":
                return self._bytes(values, known)
        validity = None if known is None or known.all() else np.packbits(known, bitorder="little")
        data = np.ascontiguousarray(values).reshape(-1)
        return na.c_array_from_buffers(_schema(column.code), self.count, [validity, data], null_count=-1)

    def _bytes(self, values: NDArray[np.bytes_], known: NDArray[np.bool_] | None) -> Any:
        matrix = np.ascontiguousarray(values).view(np.uint8).reshape(self.count, values.dtype.itemsize)
        lengths = np.char.str_len(values)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        data = matrix[np.arange(matrix.shape[1]) < lengths[:, None]]
        validity = None if known is None or known.all() else np.packbits(known, bitorder="little")
        return na.c_array_from_buffers(na.binary(), self.count, [validity, offsets, data], null_count=-1)

    def _texts(self, texts: list[bytes | None] | None) -> Any:
        if texts is None:
            validity, offsets, data = np.zeros((self.count + 7) // 8, np.uint8), np.zeros(self.count + 1, np.int32), b""
        else:
            validity = np.packbits([text is not None for text in texts], bitorder="little")
            offsets = np.concatenate([[0], np.cumsum([len(text or b"") for text in texts])]).astype(np.int32)
            data = b"".join(text or b"" for text in texts)
        return na.c_array_from_buffers(na.string(), self.count, [validity, offsets, data], null_count=-1)


class ArrowTrace:
    """Reads a capture; see `Trace`."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        """Read the schema.

        Raises:
            CaptureError: it is not regtrace's, of another version, or cut off.
        """
        self._file = file
        self._name = name
        self.truncated: str | None = None
        try:
            self._stream = IpcStream(file)
        except CutOffError as error:
            raise CaptureError(f"{name} is cut off within its header; nothing can be read from it") from error
        except IpcError as error:
            raise CaptureError(f"{name} is corrupt, or an Arrow stream but no capture: {error}") from error
        self.header = self._read_header(self._stream.metadata)
        self._check_columns()
        self._source, self._resolution_ns = self.header.source, self.header.resolution_ns

    def batches(self) -> Iterator[EventBatch]:
        """The batches in their order; see `Trace`."""
        number = 0
        try:
            for batch in self._stream.batches():
                number += 1
                yield from self._split(batch)
        except CutOffError:
            self.truncated = f"{self._name} is cut off within a batch; read up to the last whole one"
            return
        except (IpcError, SourceError) as error:
            raise CaptureError(f"{self._name} is corrupt in or after batch {number}: {error}") from error
        if not self._stream.marked:
            self.truncated = f"{self._name} has no end mark: its recorder was killed; read up to the last whole batch"

    def share_read(self) -> float | None:
        """How far it is; see `Trace`."""
        return share_read(self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _check_columns(self) -> None:
        found = {column.name: column.code for column in self._stream.columns}
        for name, code in _CODES.items():
            if name not in found:
                raise CaptureError(f"{self._name} is an Arrow stream, but no capture: it has no column {name}")
            if found[name] != code:
                raise CaptureError(f"{self._name} is no capture: column {name} is of {found[name]}, not {code}")

    def _read_header(self, data: dict[str, str]) -> TraceHeader:
        version = data.get(_PREFIX + "format")
        if version is None:
            raise CaptureError(f"{self._name} is an Arrow stream, but no capture: it names no regtrace format")
        if version != str(FORMAT_VERSION):
            raise CaptureError(
                f"{self._name} has capture format {version}, this regtrace reads {FORMAT_VERSION}; "
                f"use the regtrace that wrote it ({data.get(_PREFIX + 'version', 'version not named')})"
            )
        try:
            offset = data.get(_PREFIX + "clock_offset_ns")
            clock = ClockOffset(int(offset), int(data[_PREFIX + "clock_error_ns"])) if offset is not None else None
            return TraceHeader(
                source=data[_PREFIX + "source"],
                why=data[_PREFIX + "why"],
                resolution_ns=int(data[_PREFIX + "resolution_ns"]),
                host=data[_PREFIX + "host"],
                kernel=data[_PREFIX + "kernel"],
                clock=clock,
                endpoints=dict(endpoints_of(json.loads(data[_PREFIX + "endpoints"]))),
                version=data[_PREFIX + "version"],
                settings={str(key): str(value) for key, value in json.loads(data[_PREFIX + "settings"]).items()},
                loss_known=data.get(_PREFIX + "loss_known") != "false",
            )
        except (KeyError, ValueError, AttributeError, RecursionError) as error:
            raise CaptureError(f"{self._name} is corrupt: its header can't be read ({error!r})") from error

    def _split(self, batch: RecordBatch) -> Iterator[EventBatch]:
        """One record batch as event batches: each special row begins a new one."""
        if not batch.rows:
            return
        kinds = batch.numbers("kind")
        events = _events(batch)
        early_ns = batch.numbers("early_ns")
        special = np.flatnonzero(~np.isin(kinds, _EVENT_KINDS))
        starts = [0, *(special + 1).tolist()]
        ends = [*special.tolist(), batch.rows]
        for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if not index and start == end:
                continue
            row = int(special[index - 1]) if index else -1
            if index and kinds[row] == _KIND_CLOCK:
                yield self._clock_mark(int(events["ts_ns"][row]))
                if start == end:
                    continue
            lost, since_ns, until_ns = 0, 0, 0
            noted = Noted()
            if index and kinds[row] == _KIND_LOSS:
                lost, since_ns = int(batch.numbers("lost")[row]), int(batch.numbers("since_ns")[row])
                until_ns = int(events["ts_ns"][row])
            elif index and kinds[row] == _KIND_NOTE:
                noted = read_note(batch.text("note", row))
                since_ns, until_ns = noted.since_ns, noted.until_ns
                if noted.switched:
                    self._source, self._resolution_ns = noted.source, noted.resolution_ns
            yield EventBatch(
                events[start:end].copy(),
                self._source,
                self._resolution_ns,
                lost=lost,
                lost_since_ns=since_ns,
                lost_until_ns=until_ns,
                early_ns=early_ns[start:end].astype(np.uint64) if early_ns.any() else None,
                endpoints=noted.endpoints,
                opened=noted.opened,
                counted=noted.counted,
                switched=noted.switched,
                kernel=noted.kernel,
                facts=noted.facts,
            )

    def _clock_mark(self, until_ns: int) -> EventBatch:
        return EventBatch(no_events(), self._source, self._resolution_ns, until_ns=until_ns)


def _events(batch: RecordBatch) -> Events:
    batch.numbers("kind")  # as many rows as it says, before memory is set aside for them
    events = np.zeros(batch.rows, EVENT_DTYPE)
    for column in _EVENT_COLUMNS:
        if column.code == "a16":
            events[column.name] = batch.addresses(column.name)
        elif column.code == "bytes":
            events[column.name] = batch.padded(column.name, EVENT_DTYPE[column.name].itemsize)
        else:
            events[column.name] = batch.numbers(column.name)
    return events
