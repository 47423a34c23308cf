"""fallback.proc_net: /proc/net/tcp and tcp6, against the kernel, a slow obvious parser, and broken files."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fallback import proc_net
from fallback.proc_net import AF_INET, AF_INET6, ByteOrder, Parsed, parse_tcp, read_tcp
from fallback.sockets import SOCKET_DTYPE, V4_MAPPED
from tracer.errors import SourceError
from tracer.events import TcpState

PROC = Path("/proc")
FIXTURE = Path(__file__).parent / "fixtures/proc"
TCP = (FIXTURE / "net/tcp").read_bytes()
TCP6 = (FIXTURE / "net/tcp6").read_bytes()
FILES = [pytest.param(TCP, AF_INET, id="tcp"), pytest.param(TCP6, AF_INET6, id="tcp6")]
PATIENCE_S = 20.0
S = TcpState

PREFIX = re.compile(rb"(?=.{1,12}$) *[0-9]{1,10}:")
HEX = b"[0-9A-F]"


def _row(words: int) -> re.Pattern[bytes]:
    address = HEX + b"{%d}" % (8 * words)
    head = b" (%s):(%s{4}) (%s):(%s{4}) (%s{2}) (%s{8}):(%s{8}) (%s{2}):(%s{8}) (%s{8}) " % (
        address, HEX, address, HEX, HEX, HEX, HEX, HEX, HEX, HEX)  # fmt: skip
    return re.compile(rb" *[0-9]{1,10}:" + head + rb"( *([0-9]{1,10}) +-?[0-9]{1,10} +([0-9]{1,19})(?: |\r?\n))")


ROWS = {AF_INET: _row(1), AF_INET6: _row(4)}


def naive_row(line: bytes, family: int, byteorder: str) -> tuple[Any, ...] | None:
    """A line (without its newline) as a tuple of SOCKET_DTYPE, None if it is no row."""
    if not PREFIX.fullmatch(line[: line.find(b":") + 1]):
        return None
    match = ROWS[family].match(line + b"\n")
    if match is None or len(match[11]) > 64:
        return None
    laddr, lport, raddr, rport, state, tx, rx, timer, when, retransmits = (match[at] for at in range(1, 11))
    uid, inode = int(match[12]), int(match[13])
    if uid >= 1 << 32 or not 1 <= int(state, 16) <= 12:
        return None
    addresses = []
    for text in (laddr, raddr):
        words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
        packed = struct.pack(("<" if byteorder == "little" else ">") + "I" * len(words), *words)
        addresses.append(packed if family == AF_INET6 else V4_MAPPED + packed)
    numbers = [int(text, 16) for text in (tx, rx)]
    return (
        0, inode, 0, *addresses, *numbers, uid, int(when, 16), int(retransmits, 16), int(lport, 16), int(rport, 16), family,
        int(state, 16), int(timer, 16), 0,
    )  # fmt: skip


def naive_parse(text: bytes, family: int, byteorder: str = sys.byteorder) -> tuple[list[tuple[Any, ...]], int]:
    """The rows, and how many lines are malformed: plain loops over lines."""
    *lines, rest = text.split(b"\n")
    malformed = int(bool(rest))
    rows = []
    for number, line in enumerate(lines):
        if number == 0 and not PREFIX.fullmatch(line[: line.find(b":") + 1]):
            continue
        row = naive_row(line, family, byteorder)
        if row is None:
            malformed += 1
        else:
            rows.append(row)
    return rows, malformed


def as_tuples(parsed: Parsed) -> list[tuple[Any, ...]]:
    assert parsed.rows.dtype == SOCKET_DTYPE
    return [tuple(bytes(value) if isinstance(value, np.ndarray) else value for value in row) for row in parsed.rows.tolist()]


def assert_as_naive(text: bytes, family: int, byteorder: ByteOrder = "little") -> None:
    parsed = parse_tcp(text, family, byteorder)
    rows, malformed = naive_parse(text, family, byteorder)
    assert (as_tuples(parsed), parsed.malformed) == (rows, malformed), text


def address(text: str) -> bytes:
    """16 bytes, IPv4 as v4-mapped."""
    return socket.inet_pton(socket.AF_INET6, text if ":" in text else f"::ffff:{text}")


# --- what a file says ---


def test_every_field_of_a_line_is_read() -> None:
    line = (
        b"  42: 0100007F:A486 0204A8C0:01BB 02 00000001:00000010 01:0000004C 00000003 165536        7 56562725 1 0 100 0 0 1 -1\n"
    )
    (row,) = as_tuples(parse_tcp(b"header\n" + line, AF_INET, "little"))
    assert row == (
        0, 56562725, 0, address("127.0.0.1"), address("192.168.4.2"), 1, 16, 165536, 0x4C, 3, 0xA486, 443, 2, 2, 1, 0,
    )  # fmt: skip


@pytest.mark.parametrize(("text", "family"), FILES)
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_a_real_file_is_read_as_the_reference_reads_it(text: bytes, family: int, byteorder: ByteOrder) -> None:
    rows, malformed = naive_parse(text, family, byteorder)
    parsed = parse_tcp(text, family, byteorder)
    assert as_tuples(parsed) == rows
    assert (len(rows), parsed.malformed, malformed) == (text.count(b"\n") - 1, 0, 0)


def test_addresses_of_a_big_endian_machine_are_not_reversed() -> None:
    line = b"   0: 7F000001:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5 1\n"
    assert as_tuples(parse_tcp(line, AF_INET, "big"))[0][3] == address("127.0.0.1")


def test_ipv4_spoken_by_an_ipv6_socket_is_v4_mapped_and_of_family_ipv6() -> None:
    rows = parse_tcp(TCP6, AF_INET6, "little").rows
    mapped = rows[(rows["raddr"] == np.frombuffer(address("127.0.0.7"), np.uint8)).all(axis=1)]
    assert mapped["family"].tolist() == [AF_INET6]


@pytest.mark.parametrize(("text", "family"), FILES)
def test_the_header_of_this_kernel_is_known(text: bytes, family: int) -> None:
    assert parse_tcp(text, family).columns_known


@pytest.mark.parametrize("header", [b"  sl  local_address rem_address   st  some new names\n", b"\n", b"#\xff:::\n"])
def test_a_header_of_a_future_kernel_is_reported_and_the_rows_are_read(header: bytes) -> None:
    parsed = parse_tcp(header + TCP.split(b"\n", 1)[1], AF_INET)
    assert (len(parsed.rows), parsed.malformed, parsed.columns_known) == (10, 0, False)


def test_further_columns_of_a_future_kernel_change_nothing() -> None:
    longer = TCP.replace(b" \n", b" more columns 17 \n")
    parsed = parse_tcp(longer, AF_INET)
    assert parsed.columns_known
    assert as_tuples(parsed) == as_tuples(parse_tcp(TCP, AF_INET))


def test_a_column_inserted_before_the_inode_is_said() -> None:
    assert not parse_tcp(TCP.replace(b"uid", b"new uid"), AF_INET).columns_known


@pytest.mark.parametrize(("text", "family"), FILES)
def test_line_ends_of_another_system_change_nothing(text: bytes, family: int) -> None:
    with_returns = parse_tcp(text.replace(b"\n", b"\r\n"), family)
    assert as_tuples(with_returns) == as_tuples(parse_tcp(text, family))
    assert with_returns.columns_known


def test_a_line_that_ends_with_the_inode_is_a_row() -> None:
    line = b"   0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5"
    assert [len(parse_tcp(line + end, AF_INET).rows) for end in (b"\n", b"\r\n", b"", b"\r")] == [1, 1, 0, 0]


@pytest.mark.parametrize("text", [b"", TCP.split(b"\n")[0] + b"\n"], ids=["nothing", "header"])
def test_a_file_without_sockets_has_no_rows_and_no_malformed_line(text: bytes) -> None:
    parsed = parse_tcp(text, AF_INET)
    assert (len(parsed.rows), parsed.malformed) == (0, 0)


def test_a_file_without_a_header_keeps_its_first_row() -> None:
    parsed = parse_tcp(TCP.split(b"\n", 1)[1], AF_INET)
    assert (len(parsed.rows), parsed.columns_known) == (10, False)


@pytest.mark.parametrize("n_columns", range(1, 10))
def test_a_line_with_missing_columns_is_malformed(n_columns: int) -> None:
    header, first, rest = TCP.split(b"\n", 2)
    parsed = parse_tcp(b"\n".join((header, b" ".join(first.split()[:n_columns]), rest)), AF_INET)
    assert (len(parsed.rows), parsed.malformed) == (9, 1)


@pytest.mark.parametrize("state", [b"00", b"0D", b"FF"])
def test_a_state_no_tcp_has_is_malformed(state: bytes) -> None:
    parsed = parse_tcp(TCP.replace(b" 02 ", b" " + state + b" "), AF_INET)
    assert (len(parsed.rows), parsed.malformed) == (9, 1)


@pytest.mark.parametrize("uid", [0, 99_999, 100_000, (1 << 32) - 1])
@pytest.mark.parametrize("inode", [0, 7, (1 << 32) - 1, 10**19 - 1])
@pytest.mark.parametrize("number", [0, 9_999, 10_000, 9_999_999_999])
def test_numbers_of_every_width_are_read(number: int, uid: int, inode: int) -> None:
    head = b"0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000"
    (row,) = parse_tcp(b"%4d: %b %5u %8d %u 1\n" % (number, head, uid, 0, inode), AF_INET).rows
    assert (int(row["uid"]), int(row["inode"])) == (uid, inode)


@pytest.mark.parametrize("tail", [b"4294967296 0 1", b"0 0 10000000000000000000", b"-1 0 1", b"0 0 -1", b"0 - 1", b"0 0 1x"])
def test_a_number_that_can_not_be_one_is_malformed(tail: bytes) -> None:
    line = b"   0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000 " + tail + b" 1\n"
    parsed = parse_tcp(line, AF_INET)
    assert (len(parsed.rows), parsed.malformed) == (0, 1)


@pytest.mark.parametrize("prefix", [b" " * 10 + b"1:", b" " * 11 + b"1:", b"1234567890:", b"12345678901:", b"  1234567890:"])
@pytest.mark.parametrize("tail", [b"%58d 0 5 ", b"%59d 0 5 ", b"%60d 0 5 ", b"%58d 0 5\r"])
def test_wider_padding_of_a_future_kernel_is_read_up_to_the_bounds_of_the_reference(prefix: bytes, tail: bytes) -> None:
    line = prefix + b" 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000 " + tail % 7 + b"\n"
    assert_as_naive(line + line, AF_INET)


def test_a_file_of_the_other_family_has_no_rows() -> None:
    assert (len(parse_tcp(TCP, AF_INET6).rows), len(parse_tcp(TCP6, AF_INET).rows)) == (0, 0)


def test_another_family_is_an_error() -> None:
    with pytest.raises(SourceError):
        parse_tcp(TCP, 1)


def test_ten_thousand_lines_are_all_read() -> None:
    line = b"%4d: %08X:1388 0100007F:%04X 01 00000000:00000000 00:00000000 00000000     0        0 %d 1\n"
    text = b"header\n" + b"".join(line % (at, at, at, 10**6 + at) for at in range(20_000))
    rows = parse_tcp(text, AF_INET).rows
    assert np.array_equal(rows["rport"], np.arange(20_000))
    assert np.array_equal(rows["inode"], 10**6 + np.arange(20_000))


# --- broken files ---


@pytest.mark.parametrize(("text", "family"), FILES)
@pytest.mark.parametrize("flip", [0x01, 0x10, 0x80, 0xFF])
def test_a_flipped_byte_is_never_taken_for_another_row(text: bytes, family: int, flip: int) -> None:
    for at in range(len(text)):
        assert_as_naive(text[:at] + bytes([text[at] ^ flip]) + text[at + 1 :], family)


@pytest.mark.parametrize(("text", "family"), FILES)
@pytest.mark.parametrize("character", [b" ", b"\n", b"\r", b":", b"-", b"0", b"G", b"", b"00"])
def test_a_replaced_byte_is_never_taken_for_another_row(text: bytes, family: int, character: bytes) -> None:
    for at in range(len(text)):
        assert_as_naive(text[:at] + character + text[at + 1 :], family)


@pytest.mark.parametrize(("text", "family"), FILES)
def test_a_file_cut_off_at_any_byte_keeps_its_complete_lines_only(text: bytes, family: int) -> None:
    whole = as_tuples(parse_tcp(text, family, "little"))
    for length in range(len(text)):
        parsed = parse_tcp(text[:length], family, "little")
        assert as_tuples(parsed) == whole[: max(text[:length].count(b"\n") - 1, 0)]
        assert parsed.malformed == (length > 0 and text[length - 1] != ord("\n"))


@pytest.mark.parametrize(("text", "family"), FILES)
def test_a_file_that_begins_at_any_byte_is_read_as_the_reference_reads_it(text: bytes, family: int) -> None:
    for begin in range(len(text)):
        assert_as_naive(text[begin:], family)


PIECES = [
    b" ", b"  ", b"\n", b"\r\n", b":", b"0", b"-1", b"4294967295", b"4294967296", b"99999999999999999999", b"A", b"g", b"\0",
    b"0100007F:1388 ", b"00000000000000000000000001000000:1389 ", b"0A ", b"00000000:00000000 ", b"00:00000000 ", b"00000000 ",
    b"   0: ", b"10000: ", *TCP.splitlines(True), *TCP6.splitlines(True), *TCP.splitlines(), b" " * 40,
    b"   1: 0100007F:1388 0100007F:9260 05 00000000:00000000 03:0000162A 00000000",
]  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=40).map(b"".join), st.sampled_from([AF_INET, AF_INET6]))
@example(b"   0: \n", AF_INET)
@example(b"0:\n" * 200, AF_INET6)
def test_any_bytes_are_read_as_the_reference_reads_them(text: bytes, family: int) -> None:
    assert_as_naive(text, family)
    assert_as_naive(text, family, "big")


HEAD = b"%b: 0100007F:%04X 0200007F:%04X %02X %08X:%08X 01:0000004C 00000002%b%b"
LINES = st.builds(
    lambda prefix, ports, state, queues, tail, rest: HEAD % (prefix, *ports, state, *queues, tail, rest),
    st.integers(0, 10**11).map(lambda number: b"%4d" % number),
    st.tuples(*[st.integers(0, 0xFFFF)] * 2),
    st.integers(0, 15),
    st.tuples(*[st.integers(0, 0xFFFFFFFF)] * 2),
    st.lists(st.tuples(st.integers(1, 30), st.integers(-1, 2**66) | st.integers(0, 9)), min_size=1, max_size=5).map(
        lambda numbers: b"".join(b" %*d" % number for number in numbers)
    ),
    st.sampled_from([b"\n", b"\r\n", b" \n", b" 1 2 3\n", b"x\n", b""]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES, max_size=8).map(b"".join))
def test_lines_of_any_numbers_are_read_as_the_reference_reads_them(text: bytes) -> None:
    assert_as_naive(text, AF_INET)


# --- in pieces ---


@pytest.mark.parametrize(("text", "family"), FILES)
@pytest.mark.parametrize("piece_bytes", [1, 150, 151, 400, 1000])
def test_a_file_parsed_in_pieces_gives_what_it_gives_at_once(
    text: bytes, family: int, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    garbled = text + b"   9: zz\n" + text.split(b"\n")[1] + b"\n" + b"  10: 0100007F"
    whole = parse_tcp(garbled, family, "little")
    monkeypatch.setattr(proc_net, "_PIECE_BYTES", piece_bytes)
    in_pieces = parse_tcp(garbled, family, "little")
    assert as_tuples(in_pieces) == as_tuples(whole)
    assert (in_pieces.malformed, in_pieces.columns_known) == (whole.malformed, whole.columns_known)


# --- reading ---


def _tree(root: Path, files: dict[str, bytes], netns: int = 77) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    for process in ("self", "12"):
        (root / process / "ns").mkdir(parents=True, exist_ok=True)
        (root / process / "ns/net").symlink_to(f"net:[{netns}]")
    return root


def test_a_picture_has_the_rows_of_both_files_and_their_namespace(tmp_path: Path) -> None:
    picture = read_tcp(_tree(tmp_path, {"net/tcp": TCP, "net/tcp6": TCP6}))
    assert (len(picture.rows), picture.files, picture.netns, picture.troubles) == (15, ("tcp", "tcp6"), 77, ())
    assert set(picture.rows["netns"].tolist()) == {77}


def test_a_picture_through_a_process_is_of_its_files(tmp_path: Path) -> None:
    root = _tree(tmp_path, {"net/tcp": TCP, "net/tcp6": TCP6, "12/net/tcp": TCP[:450], "12/net/tcp6": b""})
    assert len(read_tcp(root, 12).rows) == 2


def test_without_ipv6_the_missing_file_is_said(tmp_path: Path) -> None:
    picture = read_tcp(_tree(tmp_path, {"net/tcp": TCP}))
    assert (len(picture.rows), picture.files) == (10, ("tcp",))
    assert [(Path(trouble.path).name, trouble.errno) for trouble in picture.troubles] == [("tcp6", errno.ENOENT)]


def test_a_process_that_is_gone_is_a_trouble(tmp_path: Path) -> None:
    picture = read_tcp(_tree(tmp_path, {"net/tcp": TCP}), 13)
    assert (len(picture.rows), picture.files, picture.columns_known) == (0, (), False)
    assert [trouble.errno for trouble in picture.troubles] == [errno.ENOENT]


def test_an_unknown_namespace_is_zero_and_said(tmp_path: Path) -> None:
    root = _tree(tmp_path, {"net/tcp": TCP, "net/tcp6": TCP6})
    (root / "self/ns/net").unlink()
    picture = read_tcp(root)
    assert (len(picture.rows), picture.netns, picture.troubles[0].errno) == (15, 0, errno.ENOENT)


def test_a_process_that_moves_to_another_namespace_meanwhile_gives_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _tree(tmp_path, {"12/net/tcp": TCP, "12/net/tcp6": TCP6})
    links = iter(["net:[77]", "net:[78]", "net:[78]"])
    monkeypatch.setattr(os, "readlink", lambda *_, **__: next(links))
    picture = read_tcp(root, 12)
    assert (len(picture.rows), [trouble.errno for trouble in picture.troubles]) == (0, [errno.ESTALE] * 2)


def test_a_file_larger_than_the_memory_given_is_read_whole(tmp_path: Path) -> None:
    header, rest = TCP.split(b"\n", 1)
    root = _tree(tmp_path, {"net/tcp": header + b"\n" + rest * 2_000, "net/tcp6": TCP6})
    space = bytearray(10)
    assert len(read_tcp(root, space=space).rows) == 20_005
    assert len(read_tcp(root, space=space).rows) == 20_005


def test_rows_stay_as_they_are_when_the_memory_is_used_again(tmp_path: Path) -> None:
    root = _tree(tmp_path, {"net/tcp": TCP, "net/tcp6": TCP6})
    space = bytearray(1 << 20)
    first = read_tcp(root, space=space)
    before = first.rows.copy()
    (root / "net/tcp").write_bytes(TCP.replace(b"0100007F", b"FFFFFFFF"))
    read_tcp(root, space=space)
    assert np.array_equal(first.rows, before)


# --- the kernel ---


Endpoint = tuple[str, int]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def _listener(stack: ExitStack, host: str, backlog: int = 16, *, only6: bool = False) -> socket.socket:
    listener = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
    if only6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        listener.bind((host, 0))
    except OSError as error:
        pytest.skip(f"no {host} here: {error}")
    listener.listen(backlog)
    return listener


def _pair(stack: ExitStack, host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    """(the side that dialled, the side that accepted)."""
    listener = _listener(stack, host)
    client = stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
    server = stack.enter_context(listener.accept()[0])
    return client, server


def _row_from(local: Endpoint, remote: Endpoint, until: Callable[[Any], bool] = lambda _: True) -> Any:
    """The row with these ends, as soon as it is as it should be."""
    end = time.monotonic() + PATIENCE_S
    while True:
        rows = read_tcp(PROC).rows
        for row in rows[(rows["lport"] == local[1]) & (rows["rport"] == remote[1])]:
            ends = (bytes(row["laddr"]), bytes(row["raddr"]))
            if ends == (address(local[0]), address(remote[0])) and until(row):
                return row
        assert time.monotonic() < end, (local, remote, rows)
        time.sleep(0.01)


def _in(state: TcpState) -> Callable[[Any], bool]:
    return lambda row: bool(row["state"] == state)


def _inode(opened: socket.socket) -> int:
    return os.fstat(opened.fileno()).st_ino


def test_an_established_connection_has_both_ends_in_the_picture(stack: ExitStack) -> None:
    client, server = _pair(stack)
    here, there = client.getsockname(), server.getsockname()
    dialled, accepted = _row_from(here, there), _row_from(there, here)
    assert [int(row["state"]) for row in (dialled, accepted)] == [S.ESTABLISHED] * 2
    assert [int(row["inode"]) for row in (dialled, accepted)] == [_inode(client), _inode(server)]


def test_the_picture_names_its_namespace_and_user(stack: ExitStack) -> None:
    client, server = _pair(stack)
    row = _row_from(client.getsockname(), server.getsockname())
    assert (int(row["netns"]), int(row["uid"])) == (Path("/proc/self/ns/net").stat().st_ino, os.geteuid())


def test_a_listener_has_no_remote_and_counts_who_waits(stack: ExitStack) -> None:
    listener = _listener(stack, "127.0.0.1")
    stack.enter_context(socket.create_connection(listener.getsockname()))
    row = _row_from(listener.getsockname(), ("0.0.0.0", 0), lambda row: bool(row["rx_queue"] == 1))
    assert int(row["state"]) == S.LISTEN


def test_a_connection_without_an_answer_is_in_syn_sent_with_a_retransmission(stack: ExitStack) -> None:
    listener = _listener(stack, "127.0.0.1", 0)
    stack.enter_context(socket.create_connection(listener.getsockname()))  # the backlog is full
    client = stack.enter_context(socket.socket())
    client.setblocking(False)
    client.connect_ex(listener.getsockname())
    row = _row_from(client.getsockname(), listener.getsockname(), lambda row: bool(row["retransmits"] >= 1))
    assert (int(row["state"]), int(row["timer"])) == (S.SYN_SENT, 1)
    assert 0 < row["timer_ticks"] <= 4 * os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("n_bytes", [0, 1000])
def test_unread_bytes_and_the_end_of_a_peer_that_closed_wait_in_the_queue(stack: ExitStack, n_bytes: int) -> None:
    client, server = _pair(stack)
    here, there = client.getsockname(), server.getsockname()
    server.sendall(bytes(n_bytes))
    server.close()
    assert int(_row_from(here, there, _in(S.CLOSE_WAIT))["rx_queue"]) == n_bytes + 1


def test_bytes_the_peer_does_not_take_wait_in_the_queue(stack: ExitStack) -> None:
    client, server = _pair(stack)
    client.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += client.send(bytes(1 << 16))
    here, there = client.getsockname(), server.getsockname()
    received = int(_row_from(there, here, lambda row: bool(row["rx_queue"] > 0))["rx_queue"])
    assert int(_row_from(here, there, lambda row: bool(row["tx_queue"] == sent - received))["tx_queue"]) > 0


def test_a_half_closed_connection_is_in_fin_wait2_and_still_has_its_inode(stack: ExitStack) -> None:
    client, server = _pair(stack)
    client.shutdown(socket.SHUT_WR)
    row = _row_from(client.getsockname(), server.getsockname(), _in(S.FIN_WAIT2))
    assert int(row["inode"]) == _inode(client)


def test_a_closed_connection_the_peer_holds_is_in_fin_wait2_without_an_inode(stack: ExitStack) -> None:
    client, server = _pair(stack)
    here, there = client.getsockname(), server.getsockname()
    client.close()
    assert int(_row_from(here, there, _in(S.FIN_WAIT2))["inode"]) == 0


def test_the_side_that_closed_first_is_in_time_wait_without_an_inode(stack: ExitStack) -> None:
    client, server = _pair(stack)
    here, there = client.getsockname(), server.getsockname()
    client.close()
    server.recv(1)
    server.close()
    row = _row_from(here, there, _in(S.TIME_WAIT))
    assert (int(row["inode"]), int(row["timer"])) == (0, 3)


def test_ipv6_connections_are_of_family_ipv6(stack: ExitStack) -> None:
    client, server = _pair(stack, "::1")
    row = _row_from(client.getsockname()[:2], server.getsockname()[:2])
    assert (int(row["family"]), int(row["inode"])) == (AF_INET6, _inode(client))


def test_ipv4_from_an_ipv6_socket_has_the_address_ipv4_has(stack: ExitStack) -> None:
    listener = _listener(stack, "127.0.0.1")
    client = stack.enter_context(socket.socket(socket.AF_INET6))
    try:
        client.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    row = _row_from(("127.0.0.1", client.getsockname()[1]), listener.getsockname())
    assert (int(row["family"]), int(row["inode"])) == (AF_INET6, _inode(client))


def test_the_running_kernel_writes_nothing_malformed(stack: ExitStack) -> None:
    _pair(stack)
    picture = read_tcp(PROC)
    assert (picture.malformed, picture.columns_known) == (0, True)


def test_the_kernel_gives_a_process_its_own_sockets_by_number(stack: ExitStack) -> None:
    listener = _listener(stack, "127.0.0.1")
    assert _inode(listener) in read_tcp(PROC, os.getpid()).rows["inode"]


def test_rows_are_whole_words_without_holes() -> None:
    assert SOCKET_DTYPE.itemsize % 8 == 0
    fields = SOCKET_DTYPE.fields
    assert fields is not None
    assert sum(field[0].itemsize for field in fields.values()) == SOCKET_DTYPE.itemsize
