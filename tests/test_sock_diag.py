"""sock_diag: what a real kernel reports of the test's own sockets, and that no bytes break the parser."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback import netlink, sock_diag
from fallback.diag_records import DiagFlag, Records, parse_datagrams, parse_messages
from fallback.netlink import Remote
from fallback.sock_diag import DestroyListener, Dumper, Snapshot, dump, probe
from tests.test_netlink import message, packed
from tracer.errors import SourceError
from tracer.events import TcpState

PATIENCE_S = 5.0
REQUEST, ANSWER = 100, 1000
LOOPBACK = packed("127.0.0.1")
REASON = probe()
needs_sock_diag = pytest.mark.skipif(REASON is not None, reason=f"sock_diag: {REASON}")
LINGER_0 = struct.pack("ii", 1, 0)


class Talk:
    """A listening socket, connections to it, and the listener that hears of them only."""

    def __init__(self, family: int = socket.AF_INET, host: str = "127.0.0.1") -> None:
        self.family = family
        self.server = socket.create_server((host, 0), family=family)
        self.port: int = self.server.getsockname()[1]
        self.listener = DestroyListener(remotes=[Remote(packed(host), 128, self.port)])

    def pair(self, host: str = "") -> tuple[socket.socket, socket.socket]:
        """A client and its accepted socket, which have exchanged a request and an answer."""
        family = socket.AF_INET6 if ":" in host else self.family
        client = socket.socket(family)
        client.connect((host or self.server.getsockname()[0], self.port))
        accepted, _ = self.server.accept()
        client.sendall(bytes(REQUEST))
        receive(accepted, REQUEST)
        accepted.sendall(bytes(ANSWER))
        receive(client, ANSWER)
        return client, accepted

    def end(self, count: int = 1) -> Records:
        """The records of `count` clients that ended."""
        return heard(self.listener, count, self.port)


def receive(sock: socket.socket, count: int) -> None:
    while count:
        count -= len(sock.recv(count))


def heard(listener: DestroyListener, count: int, server_port: int = 0) -> Records:
    """Records as they come, until there are `count`; not those of accepted sockets, whose filter a cleared remote port passes."""
    parts: list[Records] = []
    deadline = time.monotonic() + PATIENCE_S
    while sum(map(len, parts)) < count:
        assert time.monotonic() < deadline, f"{sum(map(len, parts))} of {count} destroy events came"
        time.sleep(0.005)
        records = listener.read().records
        parts.append(records[records["lport"] != server_port] if server_port else records)
    return np.concatenate(parts)


def until_state(talk: Talk, state: TcpState) -> Records:
    """The client in the state it gets into next."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = dump(1 << state, [Remote(LOOPBACK, 128, talk.port)]).records
        if len(found):
            return found
        time.sleep(0.002)
    raise AssertionError(f"never in {state.name}")


@pytest.fixture
def talk() -> Iterator[Talk]:
    if REASON:
        pytest.skip(f"sock_diag: {REASON}")
    made = Talk()
    yield made
    made.listener.close()
    made.server.close()


def flags_of(record: np.void) -> DiagFlag:
    return DiagFlag(int(record["flags"]))


def payload(record: np.void) -> tuple[int, int]:
    return int(record["bytes_received"]), int(record["bytes_acked"])


def test_peer_first_is_exact_where_the_end_was_not_read(talk: Talk) -> None:
    client, accepted = talk.pair()
    accepted.close()
    until_state(talk, TcpState.CLOSE_WAIT)
    client.close()
    [ended] = talk.end()
    assert payload(ended) == (ANSWER, REQUEST)
    assert flags_of(ended) & (wanted := DiagFlag.EXACT_RECEIVED | DiagFlag.FIN_RECEIVED | DiagFlag.FIN_ACKED) == wanted


def test_peer_first_counts_the_fin_that_was_read_and_says_so(talk: Talk) -> None:
    client, accepted = talk.pair()
    accepted.close()
    assert client.recv(1) == b""
    client.close()
    [ended] = talk.end()
    assert payload(ended) == (ANSWER + 1, REQUEST)
    assert not flags_of(ended) & DiagFlag.EXACT_RECEIVED


def test_local_first_is_reported_before_the_peer_closes(talk: Talk) -> None:
    client, accepted = talk.pair()
    client.close()
    [ended] = talk.end()
    accepted.close()
    assert payload(ended) == (ANSWER, REQUEST)
    assert flags_of(ended) & DiagFlag.FIN_ACKED


def test_a_half_close_counts_what_came_after_it(talk: Talk) -> None:
    client, accepted = talk.pair()
    client.shutdown(socket.SHUT_WR)
    accepted.sendall(bytes(50))
    accepted.close()
    receive(client, 50)
    assert client.recv(1) == b""
    client.close()
    [ended] = talk.end()
    assert payload(ended) == (ANSWER + 50 + 1, REQUEST)
    assert not flags_of(ended) & DiagFlag.EXACT_RECEIVED


def test_a_reset_by_the_peer_has_no_acknowledged_fin(talk: Talk) -> None:
    client, accepted = talk.pair()
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    accepted.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    client.close()
    [ended] = talk.end()
    assert payload(ended) == (ANSWER, REQUEST)
    assert flags_of(ended) & (DiagFlag.FIN_ACKED | DiagFlag.EXACT_ACKED) == DiagFlag.EXACT_ACKED


def test_a_close_with_unread_data_tells_how_much(talk: Talk) -> None:
    client, accepted = talk.pair()
    accepted.sendall(bytes(77))
    assert client.recv(77, socket.MSG_PEEK | socket.MSG_WAITALL) == bytes(77)
    client.close()
    [ended] = talk.end()
    accepted.close()
    assert int(ended["unread_bytes"]) == 77
    assert payload(ended) == (ANSWER + 77, REQUEST)
    assert not flags_of(ended) & DiagFlag.FIN_ACKED


def test_linger_0_clears_what_was_counted_and_the_record_says_so(talk: Talk) -> None:
    client, accepted = talk.pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    port = client.getsockname()[1]
    client.close()
    [ended] = talk.end()
    accepted.close()
    assert ended["lport"] == port
    assert flags_of(ended) == DiagFlag.DISCONNECTED | DiagFlag.HAS_LPORT


def test_no_payload_is_exact_whoever_closes_first(talk: Talk) -> None:
    for first_is_client in (True, False):
        client = socket.create_connection(talk.server.getsockname())
        accepted, _ = talk.server.accept()
        for each in (client, accepted) if first_is_client else (accepted, client):
            each.close()
    ended = talk.end(2)
    assert [payload(each) for each in ended] == [(0, 0)] * 2
    assert all(flags_of(each) & DiagFlag.EXACT_RECEIVED for each in ended)


def refused_port() -> socket.socket:
    """A bound port that nobody listens on."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


@needs_sock_diag
@pytest.mark.parametrize("blocking", [False, True])
def test_a_refused_connect_is_reported(blocking: bool) -> None:
    with refused_port() as bound:
        port = bound.getsockname()[1]
        with contextlib.closing(DestroyListener(remotes=[Remote(LOOPBACK, 128, port)])) as listener:
            client = socket.socket()
            client.settimeout(None if blocking else PATIENCE_S)
            with pytest.raises(ConnectionRefusedError):
                client.connect(("127.0.0.1", port))
            local = client.getsockname()[1]
            client.close()
            found = heard(listener, 1)
            [ended] = found[found["lport"] == local]
    if blocking:  # tcp_disconnect() has cleared it
        assert flags_of(ended) & DiagFlag.DISCONNECTED
    else:
        assert (int(ended["rport"]), int(ended["segs_in"]), payload(ended)) == (port, 1, (0, 0))
        assert not flags_of(ended) & DiagFlag.ESTABLISHED


@needs_sock_diag
def test_ipv6_keeps_its_addresses() -> None:
    try:
        talk = Talk(socket.AF_INET6, "::1")
    except OSError as error:
        pytest.skip(f"no IPv6: {error}")
    client, accepted = talk.pair()
    accepted.close()
    client.close()
    [ended] = talk.end()
    talk.listener.close()
    talk.server.close()
    assert ended["raddr"].tobytes() == ended["laddr"].tobytes() == packed("::1")
    assert ended["family"] == socket.AF_INET6


def test_ipv4_through_an_ipv6_socket_has_the_same_address(talk: Talk) -> None:
    try:
        client, accepted = talk.pair("::ffff:127.0.0.1")
    except OSError as error:
        pytest.skip(f"no IPv6: {error}")
    found = dump(remotes=[Remote(LOOPBACK, 128, talk.port)]).records
    assert len(found) == 1
    accepted.close()
    client.close()
    [ended] = talk.end()
    assert ended["raddr"].tobytes() == LOOPBACK
    assert ended["family"] == socket.AF_INET6


def test_times_lie_in_the_interval_of_the_read(talk: Talk) -> None:
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    talk.listener.read()
    client, accepted = talk.pair()
    accepted.close()
    client.close()
    time.sleep(0.1)
    got = talk.listener.read()
    assert len(got.records) == 1
    assert before_ns <= got.since_ns < got.records["received_ns"][0] <= got.until_ns


def test_what_is_received_before_it_is_read_keeps_its_own_interval(talk: Talk) -> None:
    received_ns = []
    for _ in range(3):
        client, accepted = talk.pair()
        accepted.close()
        client.close()
        time.sleep(0.1)
        talk.listener.receive()
        received_ns.append(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        assert talk.listener.holds
    got = talk.listener.read()
    assert not talk.listener.holds
    assert len(got.records) == 3
    edges_ns = [got.since_ns, *received_ns]
    for record, since_ns, until_ns in zip(got.records, edges_ns, edges_ns[1:], strict=False):
        assert since_ns - 100_000_000 <= record["since_ns"] < record["received_ns"] <= until_ns


def test_records_are_parsed_before_they_take_much_memory(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sock_diag, "_ROWS_MAX", 4)
    for _ in range(10):
        client, accepted = talk.pair()
        accepted.close()
        client.close()
    time.sleep(0.1)
    talk.listener.receive()
    assert not talk.listener.holds
    assert len(talk.listener.read().records) == 10


def test_a_new_watch_list_is_heard_at_once(talk: Talk) -> None:
    client, accepted = talk.pair()
    talk.listener.watch([Remote(packed("192.0.2.1"), 128, 443)])
    client.close()
    accepted.close()
    time.sleep(0.1)
    assert len(talk.listener.read().records) == 0
    talk.listener.watch([Remote(packed("127.0.0.0"), 104, talk.port)])
    client, accepted = talk.pair()
    client.close()
    assert len(talk.end()) == 1
    accepted.close()


@needs_sock_diag
def test_what_does_not_fit_is_counted_to_the_last_one() -> None:
    ended = 500
    with contextlib.closing(DestroyListener(receive_bytes=4096)) as listener:
        for _ in range(ended):
            socket.socket().close()
        time.sleep(0.3)
        got = listener.read()
    assert got.overruns >= 1
    assert got.lost is not None
    assert got.lost + len(got.records) >= ended
    assert got.since_ns < got.until_ns


@needs_sock_diag
def test_a_thousand_short_connections_are_all_reported_to_nobody() -> None:
    program = (
        "import encodings.idna, os, socket, time\n"
        "import numpy as np\n"
        "from fallback.netlink import Remote\n"
        "from fallback.sock_diag import DestroyListener, probe\n"
        "os.geteuid() or (os.setgroups([]), os.setegid(65534), os.seteuid(65534))\n"
        "assert probe() is None\n"
        "server = socket.create_server(('127.0.0.1', 0)); address = server.getsockname()\n"
        "remote = Remote(bytes(10) + b'\\xff\\xff' + socket.inet_aton('127.0.0.1'), 128, address[1])\n"
        "listener = DestroyListener(remotes=[remote]); got = []; lost = 0\n"
        "for turn in range(20):\n"
        "    for _ in range(50):\n"
        "        client = socket.create_connection(address); accepted, _ = server.accept(); client.close(); accepted.close()\n"
        "    time.sleep(0.02); read = listener.read(); got.append(read.records); lost += read.lost\n"
        "time.sleep(0.2); got.append(listener.read().records)\n"
        "print(len(np.unique(np.concatenate(got)['cookie'])), lost)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["1000", "0"], done.stderr


@needs_sock_diag
def test_another_namespace_is_heard_through_its_descriptor() -> None:
    child = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", "import socket; print(); input(); socket.socket().close(); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        if not child.stdout.readline():
            pytest.skip("no network namespace may be made here")
        fd = os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY)
        try:
            with contextlib.closing(DestroyListener(fd)) as inside:
                assert probe(fd) is None
                child.stdin.write("\n")
                child.stdin.flush()
                assert len(heard(inside, 1)) == 1
        finally:
            os.close(fd)
    finally:
        child.communicate("\n\n", timeout=PATIENCE_S)


def test_a_dump_knows_the_owner_and_the_cookie_of_the_end(talk: Talk) -> None:
    client, accepted = talk.pair()
    inode = os.fstat(client.fileno()).st_ino
    [opened] = dump(remotes=[Remote(LOOPBACK, 128, talk.port)]).records
    assert (int(opened["inode"]), int(opened["uid"]), payload(opened)) == (inode, os.geteuid(), (ANSWER, REQUEST))
    assert (int(opened["lport"]), int(opened["state"])) == (client.getsockname()[1], TcpState.ESTABLISHED)
    accepted.close()
    client.close()
    [ended] = talk.end()
    assert ended["cookie"] == opened["cookie"]
    assert not flags_of(ended) & DiagFlag.HAS_OWNER


def test_a_dump_leaves_the_fin_out(talk: Talk) -> None:
    client, accepted = talk.pair()
    accepted.sendall(bytes(7))
    accepted.close()
    [waiting] = until_state(talk, TcpState.CLOSE_WAIT)
    client.close()
    assert (payload(waiting), int(waiting["unread_bytes"])) == ((ANSWER + 7, REQUEST), 7)
    assert flags_of(waiting) & DiagFlag.EXACT_RECEIVED


def test_a_dump_brings_the_remotes_asked_for_and_no_other(talk: Talk) -> None:
    client, accepted = talk.pair()
    port = client.getsockname()[1]
    elsewhere = [Remote(packed("192.0.2.1")), Remote(packed("2001:db8::1"), 64, 443)]
    for remotes, expected in (
        ([*elsewhere, Remote(LOOPBACK, 128, talk.port)], {port}),
        ([Remote(packed("127.0.0.0"), 104, port), *elsewhere], {talk.port}),
        ([Remote(packed("::"), 0, talk.port)], {port}),
        (elsewhere, set()),
    ):
        assert set(dump(remotes=remotes).records["lport"].tolist()) == expected
    client.close()
    accepted.close()


def test_one_walk_for_both_families_finds_what_two_find(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [talk.pair(), *([talk.pair("::ffff:127.0.0.1")] if talk.server.family == socket.AF_INET6 else [])]
    with contextlib.closing(Dumper()) as dumper:
        remotes = [Remote(LOOPBACK, 128, talk.port)]
        at_once = dumper.dump(remotes=remotes).records
        ask = Dumper._ask

        def refuse_old(self: Dumper, requests: list[tuple[int, bytes]], bytecode: bytes, since_ns: int) -> Snapshot:
            if len(requests) == 1:
                raise OSError(errno.EINVAL, "an older kernel, or a sandbox")
            return ask(self, requests, bytecode, since_ns)

        monkeypatch.setattr(Dumper, "_ask", refuse_old)
        one_by_one = dumper.dump(remotes=remotes).records
    assert len(at_once) == len(pairs)
    for field in ("cookie", "lport", "rport", "inode", "state", "family", "bytes_received"):
        assert sorted(at_once[field].tolist()) == sorted(one_by_one[field].tolist()), field
    for client, accepted in pairs:
        accepted.close()
        client.close()


@needs_sock_diag
def test_a_dump_the_kernel_refuses_is_a_source_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "dump_filter", lambda _: b"\xff" * 8)
    with pytest.raises(SourceError, match="the dump of TCP sockets by sock_diag failed"):
        dump()


def test_a_sandbox_without_netlink_gives_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "socket", refuse)
    assert probe() == "no sock_diag netlink socket: Operation not permitted (seccomp or a security module forbids it)"


def test_a_sandbox_that_never_reports_gives_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    if REASON:
        pytest.skip(f"sock_diag: {REASON}")
    monkeypatch.setattr(sock_diag, "_GROUPS", 0)
    assert probe() == "sock_diag does not report the end of sockets"


def diag_message(info: bytes | None = bytes(280), family: int = 2, state: int = 7, port: int = 443, before: bytes = b"") -> bytes:
    """A destroy message with a remote port and maybe tcp_info, behind other attributes."""
    body = struct.pack("!BBBBHH", family, state, 0, 0, 1234, port) + bytes(16) + LOOPBACK + bytes(32) + before
    if info is not None:
        body += struct.pack("=HH", 4 + len(info), 2) + info
    return message(body)


def parse(*datagrams: bytes) -> tuple[Records, int]:
    rows = np.zeros((len(datagrams), 1024), np.uint8)
    for row, datagram in zip(rows, datagrams, strict=True):
        row[: len(datagram)] = np.frombuffer(datagram, np.uint8)
    lengths = np.array([len(datagram) for datagram in datagrams])
    return parse_datagrams(rows, lengths, np.full(len(lengths), 4), np.full(len(lengths), 5))


def tcp_info(size: int) -> bytes:
    info = bytearray(280)
    struct.pack_into("=QQ", info, 120, 101, 1000)  # bytes_acked, bytes_received
    struct.pack_into("=I", info, 152, 3)  # data_segs_in
    struct.pack_into("=Q", info, 200, 100)  # bytes_sent
    return bytes(info[:size])


@pytest.mark.parametrize(
    ("size", "there"),
    [
        (104, DiagFlag.HAS_RETRANSMITS),
        (128, DiagFlag.HAS_RETRANSMITS | DiagFlag.HAS_ACKED),
        (144, DiagFlag.HAS_RETRANSMITS | DiagFlag.HAS_ACKED | DiagFlag.HAS_RECEIVED | DiagFlag.HAS_SEGS),
        (
            216,
            DiagFlag.HAS_RETRANSMITS | DiagFlag.HAS_ACKED | DiagFlag.HAS_RECEIVED | DiagFlag.HAS_SEGS | DiagFlag.EXACT_ACKED,
        ),
    ],
)
def test_fields_beyond_the_end_of_an_old_kernels_tcp_info_are_not_there(size: int, there: DiagFlag) -> None:
    records, _ = parse(diag_message(tcp_info(size)))
    every = (
        DiagFlag.HAS_RETRANSMITS | DiagFlag.HAS_ACKED | DiagFlag.HAS_RECEIVED | DiagFlag.HAS_SEGS | DiagFlag.EXACT_ACKED
    )  # fmt: skip
    assert flags_of(records[0]) & every == there


def test_messages_of_many_shapes_in_one_batch_keep_their_order() -> None:
    shapes = [
        diag_message(tcp_info(280), port=1),
        diag_message(None, port=2),
        diag_message(tcp_info(280), port=3, before=struct.pack("=HHI", 8, 77, 0)),
        diag_message(tcp_info(104), port=4),
        diag_message(tcp_info(280), port=5),
    ]
    records, malformed = parse(*shapes)
    assert malformed == 0
    assert records["rport"].tolist() == [1, 2, 3, 4, 5]
    assert records["bytes_received"].tolist() == [1000, 0, 1000, 0, 1000]
    assert records["received_ns"].tolist() == [5] * 5


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\x00" * 16,
        message(kind=2, body=struct.pack("=i", -1)),
        message(bytes(71)),
        diag_message()[:80],
        message(length=0xFFFFFFFF),
        diag_message(family=1),
        diag_message(state=0),
        diag_message(state=13),
    ],
    ids=["empty", "zeros", "error", "short", "truncated", "huge", "family", "state 0", "state 13"],
)
def test_what_is_no_socket_is_counted_and_its_neighbours_are_kept(wrong: bytes) -> None:
    records, malformed = parse(diag_message(), wrong, diag_message())
    assert (len(records), malformed) == (2, 1)


@given(st.lists(st.tuples(st.integers(0, 379), st.integers(0, 255)), max_size=20), st.integers(0, 380))
def test_any_change_of_a_message_is_parsed_or_counted(changes: list[tuple[int, int]], length: int) -> None:
    datagram = bytearray(diag_message(tcp_info(280), before=struct.pack("=HHI", 5, 20, 6)))
    for at, value in changes:
        datagram[at] = value
    records, malformed = parse(diag_message(), bytes(datagram[:length]), diag_message(tcp_info(280)))
    assert len(records) + malformed == 3
    assert len(records) >= 2


@given(st.lists(st.binary(min_size=88, max_size=200), max_size=8))
def test_any_bytes_of_a_dump_are_parsed_or_counted(bodies: list[bytes]) -> None:
    buffer = np.frombuffer(b"".join(bodies) + b"\0", np.uint8)
    sizes = np.array([len(body) for body in bodies], np.int64)
    records, malformed = parse_messages(buffer, np.cumsum(sizes) - sizes, sizes)
    assert len(records) + malformed == len(bodies)
