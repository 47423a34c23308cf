"""BTF: hand-made blobs, and the running kernel's."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpf.attach import BTF_PATH
from bpf.btf import Btf, BtfError, Member
from bpf.layout import OPTIONAL, REQUIRED, TRACEPOINT, kernel_layout

INT, PTR, ARRAY, STRUCT, UNION, ENUM, TYPEDEF, CONST = 1, 2, 3, 4, 5, 6, 8, 10


class Blob:
    """Builds BTF, type by type; `add` returns the type's id."""

    def __init__(self) -> None:
        self._types = b""
        self._strings = b"\0"
        self._count = 0

    def name(self, text: str) -> int:
        if not text:
            return 0
        offset = len(self._strings)
        self._strings += text.encode() + b"\0"
        return offset

    def add(self, name: str, kind: int, vlen: int, size_or_type: int, trailer: bytes = b"", kind_flag: bool = False) -> int:
        info = kind << 24 | vlen | kind_flag << 31
        self._types += struct.pack("<III", self.name(name), info, size_or_type) + trailer
        self._count += 1
        return self._count

    def int(self, name: str, size: int) -> int:
        return self.add(name, INT, 0, size, struct.pack("<I", size * 8))

    def struct(self, name: str, size: int, *members: tuple[str, int, int], kind: int = STRUCT, bits: bool = False) -> int:
        trailer = b"".join(struct.pack("<III", self.name(member), type_id, offset) for member, type_id, offset in members)
        return self.add(name, kind, len(members), size, trailer, bits)

    def bytes(self) -> bytes:
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self._types), len(self._types), len(self._strings))
        return header + self._types + self._strings


def kernel_like() -> Blob:
    """A little of what the program needs, with every construct that hides a member in real kernels."""
    blob = Blob()
    u16, u32 = blob.int("unsigned short", 2), blob.int("unsigned int", 4)
    be16 = blob.add("__be16", TYPEDEF, 0, u16)
    constant = blob.add("", CONST, 0, be16)
    pair = blob.struct("", 4, ("skc_dport", be16, 0), ("skc_num", u16, 16))
    union = blob.struct("", 4, ("skc_portpair", u32, 0), ("", pair, 0), kind=UNION)
    inner = blob.struct("", 8, ("ato", u32, 8 << 24 | 0), ("lrcvtime", u32, 32), bits=True)
    blob.struct("sock_common", 32, ("skc_family", constant, 128), ("", union, 96), ("icsk_ack", inner, 160))
    blob.add("sock_flags", ENUM, 2, 4, struct.pack("<IiIi", blob.name("SOCK_DEAD"), 0, blob.name("SOCK_DONE"), 1))
    return blob


def test_member_behind_typedef_and_const() -> None:
    assert Btf(kernel_like().bytes()).member("sock_common", "skc_family") == Member(16, 2)


def test_member_in_anonymous_union_and_structure() -> None:
    assert Btf(kernel_like().bytes()).member("sock_common", "skc_num") == Member(14, 2)


def test_member_of_a_named_structure_beside_bit_fields() -> None:
    assert Btf(kernel_like().bytes()).member("sock_common", "icsk_ack.lrcvtime") == Member(24, 4)


@pytest.mark.parametrize("path", ["icsk_ack.ato", "absent", "icsk_ack.absent", "skc_family.deeper"])
def test_what_is_no_plain_member_is_none(path: str) -> None:
    """A bit field, a member that does not exist, a member of something that has none."""
    assert Btf(kernel_like().bytes()).member("sock_common", path) is None


def test_unknown_structure_is_none() -> None:
    assert Btf(kernel_like().bytes()).member("tcp_sock", "x") is None


def test_enumerator() -> None:
    btf = Btf(kernel_like().bytes())
    assert (btf.enumerator("SOCK_DONE"), btf.enumerator("SOCK_NONE")) == (1, None)


def test_a_name_that_ends_another_one_is_not_taken_for_it() -> None:
    """Strings may share their ends: "sock" lies inside "inet_sock"."""
    blob = Blob()
    number = blob.int("int", 4)
    blob.struct("inet_sock", 4, ("a", number, 0))
    assert Btf(blob.bytes()).member("sock", "a") is None


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_malformed_data_is_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    blob = bytearray(kernel_like().bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(blob)))
    try:
        btf = Btf(bytes(blob[:cut]))
        btf.member("sock_common", "skc_num")
        btf.enumerator("SOCK_DONE")
        kernel_layout(btf, 0)
    except BtfError:
        return


def test_a_layout_says_what_is_missing() -> None:
    """Required and optional members apart; one of another size counts as missing."""
    layout = kernel_layout(Btf(kernel_like().bytes()), 4_000_000)
    assert "sock_common.skc_daddr" in layout.missing_required
    assert "tcp_sock.bytes_received" in layout.missing_optional
    assert layout.macros["OFF_FAMILY"] == 16
    assert layout.macros["JIFFY_NS"] == 4_000_000


def test_an_unknown_jiffy_gives_no_macro() -> None:
    assert "JIFFY_NS" not in kernel_layout(Btf(kernel_like().bytes()), 0).macros


@pytest.mark.ebpf
def test_the_running_kernel_has_everything() -> None:
    btf = Btf(BTF_PATH.read_bytes())
    layout = kernel_layout(btf, 1)
    assert (layout.missing_required, layout.missing_optional) == ((), ())
    assert set(REQUIRED) | set(OPTIONAL) <= set(layout.macros)
    assert btf.has_typedef(f"btf_trace_{TRACEPOINT}")
