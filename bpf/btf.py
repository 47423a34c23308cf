"""BPF Type Format: where the members of the running kernel's structures are. Parsing only; the caller reads the file.

Format: Documentation/bpf/btf.rst of the Linux kernel. No numpy and no table of Python objects: one pass notes where each
type's record starts, and look-ups decode what they meet on the way.
"""

from __future__ import annotations

import struct
from array import array
from typing import NamedTuple

MAGIC = 0xEB9F

# BTF_KIND_* and the bytes that follow the 12-byte head: (fixed, per element counted by vlen)
_TRAILER = {
    0: (0, 0),  # UNKN, the void type
    1: (4, 0),  # INT
    2: (0, 0),  # PTR
    3: (12, 0),  # ARRAY
    4: (0, 12),  # STRUCT
    5: (0, 12),  # UNION
    6: (0, 8),  # ENUM
    7: (0, 0),  # FWD
    8: (0, 0),  # TYPEDEF
    9: (0, 0),  # VOLATILE
    10: (0, 0),  # CONST
    11: (0, 0),  # RESTRICT
    12: (0, 0),  # FUNC
    13: (0, 8),  # FUNC_PROTO
    14: (4, 0),  # VAR
    15: (0, 12),  # DATASEC
    16: (0, 0),  # FLOAT
    17: (4, 0),  # DECL_TAG
    18: (0, 0),  # TYPE_TAG
    19: (0, 12),  # ENUM64
}
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _TYPEDEF, _ENUM64 = 1, 2, 3, 4, 5, 6, 8, 19
_MODIFIERS = {_TYPEDEF, 9, 10, 11, 18}
_MAX_DEPTH = 32


class BtfError(ValueError):
    """The data is no BTF this module can read."""


class Member(NamedTuple):
    """A member of a structure: byte offset from the structure's start, and size in bytes (0 if unknown)."""

    offset_bytes: int
    size_bytes: int


class Btf:
    """One parsed BTF blob.

    Raises:
        BtfError: from the constructor and every method, when the data is malformed.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        try:
            magic, _version, _flags, header_bytes, type_off, type_len, str_off, str_len = struct.unpack_from("<HBBIIIII", data)
        except struct.error:
            raise BtfError("shorter than a BTF header") from None
        if magic != MAGIC:
            raise BtfError(f"magic {magic:#x}, expected {MAGIC:#x}")
        self._strings = header_bytes + str_off
        self._strings_end = self._strings + str_len
        if self._strings_end > len(data) or header_bytes + type_off + type_len > len(data):
            raise BtfError("sections reach beyond the end of the data")
        self._records = array("I", [0])  # position of the record of type id i; id 0 is void
        self._index(header_bytes + type_off, header_bytes + type_off + type_len)

    def _index(self, position: int, end: int) -> None:
        unpack, append, data = struct.Struct("<I").unpack_from, self._records.append, self._data
        trailers = [_TRAILER.get(kind) for kind in range(32)]
        while position + 12 <= end:
            append(position)
            info = unpack(data, position + 4)[0]
            trailer = trailers[info >> 24 & 31]
            if trailer is None:
                raise BtfError(f"unknown kind {info >> 24 & 31} of type {len(self._records) - 1}")
            position += 12 + trailer[0] + trailer[1] * (info & 0xFFFF)

    def _head(self, type_id: int) -> tuple[int, int, int, int, int]:
        """(record position, name offset, kind, vlen, size or referenced type) of a type."""
        if not 0 < type_id < len(self._records):
            raise BtfError(f"no type {type_id}")
        position = self._records[type_id]
        name, info, size = struct.unpack_from("<III", self._data, position)
        return position, name, info >> 24 & 31, info & 0xFFFF, size

    def _name(self, offset: int) -> bytes:
        start = self._strings + offset
        end = self._data.find(b"\0", start, self._strings_end)
        if end < 0:
            raise BtfError(f"string {offset} has no end")
        return self._data[start:end]

    def _resolve(self, type_id: int) -> int:
        """The type behind typedefs, const, volatile and tags."""
        for _ in range(_MAX_DEPTH):
            _, _, kind, _, target = self._head(type_id)
            if kind not in _MODIFIERS:
                return type_id
            type_id = target
        raise BtfError(f"type {type_id} is modified without end")

    def _size_bytes(self, type_id: int) -> int:
        type_id = self._resolve(type_id)
        position, _, kind, _, size = self._head(type_id)
        if kind == _PTR:
            return 8
        if kind == _ARRAY:
            element, _, count = struct.unpack_from("<III", self._data, position + 12)
            return self._size_bytes(element) * int(count)
        return size if kind in (_INT, _STRUCT, _UNION, _ENUM, _ENUM64) else 0

    def _find(self, name: str, kinds: tuple[int, ...]) -> int | None:
        wanted = name.encode()
        start = self._data.find(b"\0" + wanted + b"\0", self._strings, self._strings_end)
        if start < 0:
            return None
        name_offset = struct.pack("<I", start + 1 - self._strings)  # strings are stored once, but a suffix may be shared
        for type_id in range(1, len(self._records)):
            position = self._records[type_id]
            if self._data[position : position + 4] == name_offset and self._data[position + 7] & 31 in kinds:
                return type_id
        for type_id in range(1, len(self._records)):
            _, offset, kind, _, _ = self._head(type_id)
            if kind in kinds and self._name(offset) == wanted:
                return type_id
        return None

    def has_typedef(self, name: str) -> bool:
        """Whether the kernel has a typedef of that name; `btf_trace_NAME` exists for each raw tracepoint NAME."""
        return self._find(name, (_TYPEDEF,)) is not None

    def member(self, struct_name: str, path: str) -> Member | None:
        """Where a member is, `path` being names joined by dots; anonymous structures and unions are looked through.

        Returns None where the kernel has no such structure or member, or where it is a bit field.
        """
        type_id = self._find(struct_name, (_STRUCT, _UNION, _TYPEDEF))
        offset_bits = 0
        size_bytes = 0
        for name in path.split("."):
            if type_id is None:
                return None
            found = self._member(self._resolve(type_id), name.encode(), 0)
            if found is None:
                return None
            bits, type_id = found
            offset_bits += bits
            size_bytes = self._size_bytes(type_id)
        return None if offset_bits % 8 else Member(offset_bits // 8, size_bytes)

    def _member(self, type_id: int, wanted: bytes, depth: int) -> tuple[int, int] | None:
        """(offset in bits, type id) of a member; None if absent or a bit field."""
        position, _, kind, vlen, _ = self._head(type_id)
        if kind not in (_STRUCT, _UNION) or depth > _MAX_DEPTH:
            return None
        has_bit_fields = self._data[position + 7] & 0x80  # then offsets carry a bit size in their top byte
        for index in range(vlen):
            name, member_type, offset = struct.unpack_from("<III", self._data, position + 12 + 12 * index)
            if has_bit_fields:
                bits, offset = offset >> 24, offset & 0xFFFFFF
            else:
                bits = 0
            if name and self._name(name) == wanted:
                return None if bits else (offset, member_type)
            if not name:
                inner = self._member(self._resolve(member_type), wanted, depth + 1)
                if inner is not None:
                    return offset + inner[0], inner[1]
        return None

    def enumerator(self, name: str) -> int | None:
        """The value of an enumeration constant, or None where the kernel has none of that name."""
        wanted = name.encode()
        for type_id in range(1, len(self._records)):
            position = self._records[type_id]
            if self._data[position + 7] & 31 != _ENUM:
                continue
            for index in range(self._head(type_id)[3]):
                name_offset, value = struct.unpack_from("<Ii", self._data, position + 12 + 8 * index)
                if self._data.startswith(wanted + b"\0", self._strings + name_offset):
                    return int(value)
        return None
