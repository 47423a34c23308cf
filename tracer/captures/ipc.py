"""Reading Arrow IPC streams from people one need not trust: framing and FlatBuffers, every access bounds-checked.

nanoarrow writes our captures, but on damaged ones its reader crashes the process (0.9: a changed byte in a message is enough).
What a capture needs of the format is little: a schema of plain columns, and record batches without compression or
dictionaries. Format: the "Encapsulated message format" of the Arrow columnar specification, and its Schema.fbs and Message.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

CONTINUATION = b"\xff\xff\xff\xff"
_PREFIX_BYTES = 8
_READ_BYTES = 1 << 24
_HEADER_SCHEMA, _HEADER_RECORD_BATCH = 1, 3
_TYPE_INT, _TYPE_BINARY, _TYPE_UTF8, _TYPE_FIXED_SIZE_BINARY = 2, 4, 5, 15
# Columns of these types are passed over: number, floating point, bool, decimal, date, time, timestamp, interval, duration...
_OTHER_FIXED_TYPES = frozenset((_TYPE_INT, 3, 6, 7, 8, 9, 10, 11, _TYPE_FIXED_SIZE_BINARY, 18))
_OTHER_VARIABLE_TYPES = frozenset((19, 20))  # ... and large binary and text
_COLUMNS_MAX = 1024


class IpcError(ValueError):
    """The bytes are no Arrow IPC stream of the kind read here."""


class CutOffError(IpcError):
    """The file ends within a message."""


class _Table:
    """A FlatBuffers table: fields are found through a vtable that the table points to."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position
        self._vtable = position - int(self._number(position, "<i"))
        self._vtable_bytes = int(self._number(self._vtable, "<H"))

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, int(struct.unpack_from("<I", data)[0])) if len(data) >= 4 else cls(data, len(data))

    def _number(self, position: int, code: str) -> int:
        if not 0 <= position <= len(self._data) - struct.calcsize(code):
            raise IpcError(f"offset {position} lies outside of a message of {len(self._data)} bytes")
        return int(struct.unpack_from(code, self._data, position)[0])

    def _field(self, index: int) -> int | None:
        """Where a field is; None if the table does not have it."""
        slot = 4 + 2 * index
        if slot + 2 > self._vtable_bytes:
            return None
        offset = self._number(self._vtable + slot, "<H")
        return self._position + offset if offset else None

    def number(self, index: int, code: str, default: int = 0) -> int:
        position = self._field(index)
        return default if position is None else self._number(position, code)

    def table(self, index: int) -> _Table | None:
        position = self._field(index)
        return None if position is None else _Table(self._data, position + self._number(position, "<I"))

    def _vector(self, index: int, item_bytes: int) -> tuple[int, int]:
        """(where its items begin, how many) of a vector; nothing if the table does not have it."""
        position = self._field(index)
        if position is None:
            return 0, 0
        start = position + self._number(position, "<I")
        count = self._number(start, "<I")
        if start + 4 + count * item_bytes > len(self._data):
            raise IpcError(f"a vector of {count} items reaches beyond its message")
        return start + 4, count

    def tables(self, index: int) -> list[_Table]:
        start, count = self._vector(index, 4)
        places = range(start, start + 4 * min(count, _COLUMNS_MAX), 4)
        return [_Table(self._data, place + self._number(place, "<I")) for place in places]

    def text(self, index: int) -> str:
        start, count = self._vector(index, 1)
        return self._data[start : start + count].decode("utf-8", "replace")

    def pairs(self, index: int) -> list[tuple[int, int]]:
        """A vector of structures of two 64-bit integers."""
        start, count = self._vector(index, 16)
        return list(struct.iter_unpack("<qq", self._data[start : start + 16 * count]))


@dataclass(frozen=True)
class Column:
    """A column of the schema.

    `code` is numpy's for unsigned numbers, "a16" for 16 fixed bytes, "bytes", "text", or "type N" for what captures don't use.
    """

    name: str
    code: str

    @property
    def buffers(self) -> int:
        """How many it has: validity, offsets where values differ in length, and values."""
        variable = self.code in ("bytes", "text") or self.code in {f"type {kind}" for kind in _OTHER_VARIABLE_TYPES}
        return 3 if variable else 2


class RecordBatch:
    """Columns of one batch, as views of its bytes.

    Attributes:
        rows: how many.
    """

    def __init__(self, columns: list[Column], header: _Table, body: bytes) -> None:
        self.rows = header.number(0, "<q")
        nodes, buffers = header.pairs(1), header.pairs(2)
        if header.table(3) is not None:
            raise IpcError("the batch is compressed; captures are not")
        expected = sum(column.buffers for column in columns)
        if len(nodes) != len(columns) or len(buffers) != expected:
            raise IpcError(f"{len(nodes)} nodes and {len(buffers)} buffers for {len(columns)} columns")
        if any(length != self.rows for length, _ in nodes) or self.rows < 0:
            raise IpcError("its columns differ in length")
        if any(offset < 0 or length < 0 or offset + length > len(body) for offset, length in buffers):
            raise IpcError("a buffer lies outside of the batch")
        self._body = body
        self._buffers: dict[str, tuple[str, list[tuple[int, int]]]] = {}
        first = 0
        for column in columns:
            self._buffers[column.name] = (column.code, buffers[first : first + column.buffers])
            first += column.buffers

    def _array(self, name: str, index: int, code: str, count: int) -> NDArray[np.generic]:
        offset, length = self._buffers[name][1][index]
        if count * np.dtype(code).itemsize > length:
            raise IpcError(f"column {name} has {length} bytes for {count} values")
        return np.frombuffer(self._body, code, count, offset)

    def numbers(self, name: str) -> NDArray[np.unsignedinteger]:
        """A column of unsigned integers, shape (rows,); what is null has any value."""
        return self._array(name, 1, "<" + self._buffers[name][0], self.rows)  # type: ignore[return-value]

    def addresses(self, name: str) -> NDArray[np.uint8]:
        """A column of 16 bytes each, shape (rows, 16)."""
        return self._array(name, 1, "u1", 16 * self.rows).reshape(self.rows, 16)  # type: ignore[return-value]

    def _offsets(self, name: str) -> NDArray[np.int32]:
        offsets: NDArray[np.int32] = self._array(name, 1, "<i4", self.rows + 1)  # type: ignore[assignment]
        if offsets[0] < 0 or (np.diff(offsets) < 0).any() or int(offsets[-1]) > self._buffers[name][1][2][1]:
            raise IpcError(f"offsets of column {name} are out of order")
        return offsets

    def padded(self, name: str, width: int) -> NDArray[np.bytes_]:
        """A column of byte strings as fixed ones, shape (rows,)."""
        if not self.rows:
            return np.zeros(0, f"S{width}")
        offsets = self._offsets(name)
        lengths = np.diff(offsets)
        if lengths.max() > width:
            raise IpcError(f"column {name} has a value of {lengths.max()} bytes, at most {width} are possible")
        data = self._array(name, 2, "u1", int(offsets[-1]))
        matrix = np.zeros((self.rows, width), np.uint8)
        matrix[np.arange(width) < lengths[:, None]] = data[offsets[0] :]
        return matrix.view(f"S{width}").reshape(self.rows)

    def text(self, name: str, row: int) -> str:
        """One value of a column of texts."""
        offsets = self._offsets(name)
        data = self._array(name, 2, "u1", int(offsets[-1]))
        return data[offsets[row] : offsets[row + 1]].tobytes().decode("utf-8", "replace")


class IpcStream:
    """A stream being read: first its schema, then its batches.

    Attributes:
        columns: of the schema.
        metadata: of the schema.
        marked: whether the end-of-stream mark was there, once `batches` is exhausted.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Read the schema.

        Raises:
            IpcError: it is none; CutOffError if the file ends within it.
        """
        self._file = file
        self.marked = False
        message = self._message()
        if message is None:
            raise CutOffError("no schema")
        kind, header, _ = message
        if kind != _HEADER_SCHEMA:
            raise IpcError("the first message is no schema")
        self.columns = [Column(field.text(0), _code(field)) for field in header.tables(1)]
        self.metadata = {pair.text(0): pair.text(1) for pair in header.tables(2)}
        if len({column.name for column in self.columns}) != len(self.columns):
            raise IpcError("two columns have one name")

    def batches(self) -> Iterator[RecordBatch]:
        """The record batches.

        Raises:
            IpcError: something else is met; CutOffError if the file ends within a message.
        """
        while (message := self._message()) is not None:
            kind, header, body = message
            if kind != _HEADER_RECORD_BATCH:
                raise IpcError(f"message of kind {kind} among record batches")
            yield RecordBatch(self.columns, header, body)

    def _message(self) -> tuple[int, _Table, bytes] | None:
        """(kind, header, body) of the next message; None at the end, marked or not."""
        prefix = self._exactly(_PREFIX_BYTES, may_end=True)
        if not prefix:
            return None
        metadata_bytes = struct.unpack("<I", prefix[4:])[0]
        if prefix[:4] != CONTINUATION:
            raise IpcError("a message does not begin where the one before ends")
        if metadata_bytes == 0:
            self.marked = True
            if self._file.read(1):
                raise IpcError("something follows the end mark")
            return None
        message = _Table.root(self._exactly(metadata_bytes))
        header, body_bytes = message.table(2), message.number(3, "<q")
        if header is None or body_bytes < 0:
            raise IpcError("a message without header")
        return message.number(1, "<B"), header, self._exactly(body_bytes)

    def _exactly(self, count: int, may_end: bool = False) -> bytes:
        """So many bytes, read in pieces: a claimed length is no reason to set memory aside."""
        pieces = []
        missing = count
        while missing:
            piece = self._file.read(min(missing, _READ_BYTES))
            if not piece:
                break
            pieces.append(piece)
            missing -= len(piece)
        if missing and not (may_end and missing == count):
            raise CutOffError(f"{missing} of {count} bytes are missing")
        return b"".join(pieces)


def _code(field: _Table) -> str:
    kind, details = field.number(2, "<B"), field.table(3)
    if kind == _TYPE_INT and details is not None and not details.number(1, "<B"):
        bits = details.number(0, "<i")
        if bits in (8, 16, 32, 64):
            return f"u{bits // 8}"
    if kind == _TYPE_FIXED_SIZE_BINARY and details is not None and details.number(0, "<i") == 16:
        return "a16"
    if kind in (_TYPE_BINARY, _TYPE_UTF8):
        return "bytes" if kind == _TYPE_BINARY else "text"
    if kind in _OTHER_FIXED_TYPES or kind in _OTHER_VARIABLE_TYPES:
        return f"type {kind}"
    raise IpcError(f"column {field.text(0)} is of a type that captures don't have")
