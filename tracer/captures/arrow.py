"""Captures as Arrow IPC streams: what polars, DuckDB, pandas, ClickHouse and Spark read as they are.

One row an event, in the columns of the wire record; a value that is not known is null. Rows of other kinds carry what else
belongs into the stream at its place: events lost before the next row, and notes (JSON), such as endpoints learnt while
recording. A recorder that is killed loses what it had not flushed; a file without the end-of-stream mark is read up to its
last whole batch.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import nanoarrow as na
import numpy as np
from nanoarrow.ipc import InputStream, StreamWriter
from numpy.typing import NDArray

from tracer.captures.header import FORMAT_VERSION, TraceHeader
from tracer.captures.output import PieceFile
from tracer.clock import ClockOffset
from tracer.errors import CaptureError, SourceError
from tracer.events import EVENT_DTYPE, FIELD_FLAGS, EventBatch, EventFlag, Events, no_events, valid
from tracer.lifecycle import STATE_NAMES

_KIND_TRANSITION, _KIND_SAMPLE, _KIND_LOSS, _KIND_NOTE = 0, 1, 2, 3
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_FLUSH_EVENTS = 1 << 16
_PREFIX = "regtrace."
_NUMBER_TYPES = {"u1": na.Type.UINT8, "u2": na.Type.UINT16, "u4": na.Type.UINT32, "u8": na.Type.UINT64}


class _Column(NamedTuple):
    name: str
    code: str  # numpy's, "a16" for an address, "bytes" or "text"


_EVENT_COLUMNS = tuple(
    _Column(name, "a16" if name in ("saddr", "daddr") else "bytes" if name == "comm" else EVENT_DTYPE[name].str.lstrip("<|"))
    for name in EVENT_DTYPE.names or ()
    if name != "reserved"
)
_COLUMNS = (
    _Column("kind", "u1"),
    *_EVENT_COLUMNS,
    _Column("early_ns", "u8"),
    _Column("lost", "u8"),
    _Column("since_ns", "u8"),
    _Column("note", "text"),
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
    return {_PREFIX + name: value for name, value in (plain | clock).items()}


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
        if len(batch) or batch.lost or batch.endpoints:
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
    """Batches as the columns of one record batch: special rows stand before the events of their batch."""

    def __init__(self, batches: list[EventBatch]) -> None:
        kinds: list[NDArray[np.uint8]] = []
        parts: list[Events] = []
        early: list[NDArray[np.uint64]] = []
        self.losses: list[tuple[int, int, int]] = []  # row, lost, since_ns
        self.notes: dict[int, bytes] = {}
        row = 0
        for batch in batches:
            special = np.zeros(int(batch.lost > 0) + int(bool(batch.endpoints)), EVENT_DTYPE)
            special["old_state"] = special["new_state"] = 7
            special_kinds = []
            if batch.endpoints:
                note = {"endpoints": {str(number): label for number, label in batch.endpoints}}
                self.notes[row] = json.dumps(note).encode()
                special_kinds.append(_KIND_NOTE)
            if batch.lost:
                special["ts_ns"][-1] = batch.lost_until_ns
                self.losses.append((row + len(special_kinds), batch.lost, batch.lost_since_ns))
                special_kinds.append(_KIND_LOSS)
            sample = batch.events["flags"] & np.uint32(EventFlag.SAMPLE) != 0
            kinds += [np.array(special_kinds, np.uint8), np.where(sample, _KIND_SAMPLE, _KIND_TRANSITION).astype(np.uint8)]
            parts += [special, batch.events]
            own_early = np.zeros(len(batch), np.uint64) if batch.early_ns is None else batch.early_ns
            early += [np.zeros(len(special), np.uint64), own_early]
            row += len(special) + len(batch)
        self.count = row
        self._kinds = np.concatenate(kinds) if kinds else np.zeros(0, np.uint8)
        self._events = np.concatenate(parts) if parts else no_events()
        self._early = np.concatenate(early) if early else np.zeros(0, np.uint64)

    def child(self, column: _Column) -> Any:
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


class _Input:
    """A file for nanoarrow to read, which notices when more was wanted than there is."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.short = False

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer).nbytes
        view = memoryview(buffer).cast("B")
        got = 0
        while got < wanted:
            chunk = self._file.read(wanted - got)
            if not chunk:
                break
            view[got : got + len(chunk)] = chunk
            got += len(chunk)
        self.short |= 0 < got < wanted or (got == 0 and wanted > _MESSAGE_HEAD_BYTES)
        return got


_MESSAGE_HEAD_BYTES = 8


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
        self._ends = _ends_properly(file)
        self._input = _Input(file)
        try:
            self._stream = na.c_array_stream(InputStream.from_readable(self._input))
            schema = self._stream.get_schema()
        except Exception as error:
            what = "is cut off within its header" if self._input.short else f"is corrupt: {_brief(error)}"
            raise CaptureError(f"{name} {what}; nothing can be read from it") from error
        self._columns = self._checked_columns(schema)
        self.header = self._read_header(schema)

    def batches(self) -> Iterator[EventBatch]:
        """The batches in their order; see `Trace`."""
        number = 0
        iterator = iter(self._stream)
        while True:
            try:
                array = next(iterator)
            except StopIteration:
                break
            except Exception as error:
                if not self._input.short:
                    raise CaptureError(f"{self._name} is corrupt after batch {number}: {_brief(error)}") from error
                self.truncated = f"{self._name} is cut off within batch {number + 1}; read up to the last whole batch"
                return
            try:
                yield from self._split(array)
            except (ValueError, TypeError, SourceError, UnicodeDecodeError) as error:
                raise CaptureError(f"{self._name} is corrupt in batch {number + 1}: {_brief(error)}") from error
            number += 1
        if not self._ends:
            self.truncated = f"{self._name} has no end mark: its recorder was killed; read up to the last whole batch"

    def close(self) -> None:
        """Close the file."""
        self._stream.release()
        self._file.close()

    def _checked_columns(self, schema: Any) -> dict[str, int]:
        columns = {child.name: index for index, child in enumerate(schema.children)}
        for name, code in _CODES.items():
            if name not in columns:
                raise CaptureError(f"{self._name} is an Arrow stream, but no capture: it has no column {name}")
            found, wanted = schema.child(columns[name]).format, na.c_schema(_schema(code)).format
            if found != wanted:
                raise CaptureError(f"{self._name} is no capture: column {name} has the Arrow format {found!r}, not {wanted!r}")
        return columns

    def _read_header(self, schema: Any) -> TraceHeader:
        raw = dict(schema.metadata.items()) if schema.metadata is not None else {}
        data = {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in raw.items()}
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
            endpoints = {int(number): str(label) for number, label in json.loads(data[_PREFIX + "endpoints"]).items()}
            return TraceHeader(
                source=data[_PREFIX + "source"],
                why=data[_PREFIX + "why"],
                resolution_ns=int(data[_PREFIX + "resolution_ns"]),
                host=data[_PREFIX + "host"],
                kernel=data[_PREFIX + "kernel"],
                clock=clock,
                endpoints=endpoints,
                version=data[_PREFIX + "version"],
                settings={str(key): str(value) for key, value in json.loads(data[_PREFIX + "settings"]).items()},
            )
        except (KeyError, ValueError, AttributeError) as error:
            raise CaptureError(f"{self._name} is corrupt: its header can't be read ({_brief(error)})") from error

    def _split(self, array: Any) -> Iterator[EventBatch]:
        """One record batch as event batches: each special row begins a new one."""
        view = _View(array, self._columns)
        if not view.count:
            return
        kinds = view.numbers("kind")
        events = view.events()
        early_ns = view.numbers("early_ns")
        early = early_ns if early_ns.any() else None
        special = np.flatnonzero(kinds >= _KIND_LOSS)
        starts = [0, *(special + 1).tolist()]
        ends = [*special.tolist(), view.count]
        for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
            lost, since_ns, until_ns = 0, 0, 0
            endpoints: tuple[tuple[int, str], ...] = ()
            if index:
                row = int(special[index - 1])
                if kinds[row] == _KIND_LOSS:
                    lost, since_ns = int(view.numbers("lost")[row]), int(view.numbers("since_ns")[row])
                    until_ns = int(events["ts_ns"][row])
                elif kinds[row] == _KIND_NOTE:
                    endpoints = _noted_endpoints(view.text("note", row))
            elif start == end:
                continue
            yield EventBatch(
                events[start:end].copy(),
                self.header.source,
                self.header.resolution_ns,
                lost=lost,
                lost_since_ns=since_ns,
                lost_until_ns=until_ns,
                early_ns=early[start:end] if early is not None else None,
                endpoints=endpoints,
            )


class _View:
    """The columns of one record batch as numpy arrays."""

    def __init__(self, array: Any, columns: dict[str, int]) -> None:
        self.count = len(array)
        self._view = array.view()
        self._columns = columns

    def numbers(self, name: str) -> NDArray[Any]:
        child = self._view.child(self._columns[name])
        return np.frombuffer(child.buffer(1), _CODES[name], self.count, offset=child.offset * int(_CODES[name][1:]))

    def events(self) -> Events:
        events = np.zeros(self.count, EVENT_DTYPE)
        for column in _EVENT_COLUMNS:
            if column.code == "a16":
                raw = np.frombuffer(self._view.child(self._columns[column.name]).buffer(1), np.uint8, 16 * self.count)
                events[column.name] = raw.reshape(self.count, 16)
            elif column.code == "bytes":
                events[column.name] = self._padded(column.name)
            else:
                events[column.name] = self.numbers(column.name)
        return events

    def _offsets(self, name: str) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        child = self._view.child(self._columns[name])
        offsets = np.frombuffer(child.buffer(1), np.int32, self.count + 1)
        data = np.frombuffer(child.buffer(2), np.uint8)
        if offsets[0] < 0 or (np.diff(offsets) < 0).any() or offsets[-1] > len(data):
            raise ValueError(f"offsets of column {name} are out of order")
        return offsets, data

    def _padded(self, name: str) -> NDArray[np.bytes_]:
        offsets, data = self._offsets(name)
        width = EVENT_DTYPE[name].itemsize
        lengths = np.diff(offsets)
        if lengths.max() > width:
            raise ValueError(f"column {name} has a value of {lengths.max()} bytes, at most {width} are possible")
        matrix = np.zeros((self.count, width), np.uint8)
        matrix[np.arange(width) < lengths[:, None]] = data[offsets[0] : offsets[-1]]
        return matrix.view(f"S{width}").reshape(self.count)

    def text(self, name: str, row: int) -> str:
        offsets, data = self._offsets(name)
        return data[offsets[row] : offsets[row + 1]].tobytes().decode()


def _noted_endpoints(note: str) -> tuple[tuple[int, str], ...]:
    content = json.loads(note)
    found = content.get("endpoints", {}) if isinstance(content, dict) else {}
    return tuple((int(number), str(label)) for number, label in found.items()) if isinstance(found, dict) else ()


def _ends_properly(file: IO[bytes]) -> bool:
    """Whether the file ends with the end-of-stream mark; True where that can't be looked up (a pipe)."""
    if not file.seekable():
        return True
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(_END_OF_STREAM)))
    tail = file.read()
    file.seek(0)
    return tail == _END_OF_STREAM


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
