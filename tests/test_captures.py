"""Captures of either format: what was written is what is read, and what is no capture is refused with a reason."""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.traces import START_NS, path, trace
from tracer.analysis import Analysis
from tracer.captures import TraceHeader, check_name, create_trace, open_trace
from tracer.clock import ClockOffset
from tracer.errors import CaptureError, UsageError
from tracer.events import EVENT_DTYPE, TS_NS_MAX, EventBatch, EventFlag, Events, KernelCounts, TcpState, is_sample, valid
from tracer.facts import AddressFact, EndpointFact
from tracer.lines import connection_lines, summary_line
from tracer.owners.owner import OwnerDetail
from tracer.owners.register import details_of
from tracer.roles import Role

SUFFIXES = (".arrows", ".jsonl")
HEADER = TraceHeader(
    source="ebpf",
    why="a test",
    resolution_ns=1,
    host="host-1",
    kernel="Linux 6.1.0 x86_64",
    clock=ClockOffset(1_700_000_000_000_000_000, 70),
    endpoints={1: "registry.example:443", 2: "198.51.100.7:5000"},
    settings={"watched": "registry.example:443"},
)
ALL_FLAGS = EventFlag(sum(EventFlag))
FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def events_of(count: int, **fields: object) -> Events:
    """Whole connections of four transitions, of which everything is known; the last one may be cut off."""
    events = np.zeros(count, EVENT_DTYPE)
    index = np.arange(count)
    states = np.array([TcpState.CLOSE, TcpState.SYN_SENT, TcpState.ESTABLISHED, TcpState.CLOSE_WAIT, TcpState.CLOSE])
    events["ts_ns"] = 1_000_000 * (index + 1)
    events["skaddr"] = np.uint64(0xFFFF_8880_0000_1000) + np.uint64(0x100) * (index // 4).astype(np.uint64)
    events["old_state"], events["new_state"] = states[index % 4], states[index % 4 + 1]
    events["endpoint_id"], events["family"], events["dport"] = 1, 2, 443
    events["saddr"] = np.frombuffer(bytes(10) + b"\xff\xff\xc0\x00\x02\x01", np.uint8)
    events["daddr"] = np.frombuffer(bytes(10) + b"\xff\xff\xc6\x33\x64\x07", np.uint8)
    events["sport"], events["comm"] = 40000 + index // 4, b"dockerd"
    events["flags"] = int(ALL_FLAGS & ~(EventFlag.SAMPLE | EventFlag.ADOPTED))
    events["netns"] = 4026531840
    events["flags"][index % 4 > 0] &= ~np.uint32(EventFlag.OWNER)
    for number, name in enumerate(("pid", "cgroup_id", "bytes_received", "bytes_acked", "srtt_us", "retransmits"), 1):
        events[name] = 100 * number + index
    for name, value in fields.items():
        events[name] = value
    return events


def batch_of(events: Events, **fields: object) -> EventBatch:
    return EventBatch(events, HEADER.source, HEADER.resolution_ns, **fields)  # type: ignore[arg-type]


def write(path: Path, batches: list[EventBatch], header: TraceHeader = HEADER) -> Path:
    """A whole capture, one flush a batch."""
    writer = create_trace(path, header, force=True)
    try:
        for batch in batches:
            writer.write(batch)
            writer.flush()
    finally:
        writer.close()
    return path


def read(path: Path) -> tuple[list[EventBatch], str | None]:
    """(all batches, why the end is missing)."""
    trace = open_trace(path)
    try:
        return list(trace.batches()), trace.truncated
    finally:
        trace.close()


def known_only(events: Events) -> Events:
    """The events with zeros where a value is not valid."""
    known = events.copy()
    for name in EVENT_DTYPE.names or ():
        known[name][~valid(events, name)] = 0
    known["reserved"] = 0
    return known


def rows_of(batches: list[EventBatch]) -> list[tuple[bytes, int]]:
    """(bytes, early_ns) of each event, in order."""
    rows = []
    for batch in batches:
        early_ns = [0] * len(batch) if batch.early_ns is None else batch.early_ns.tolist()
        rows += [(event.tobytes(), early) for event, early in zip(known_only(batch.events), early_ns, strict=True)]
    return rows


def losses_of(batches: list[EventBatch]) -> list[tuple[int, int, int, int]]:
    """(events before it, lost, since_ns, until_ns) of each loss."""
    before, found = 0, []
    for batch in batches:
        if batch.lost:
            found.append((before, batch.lost, batch.lost_since_ns, batch.lost_until_ns))
        before += len(batch)
    return found


def notes_of(batches: list[EventBatch]) -> list[tuple[int, int, str]]:
    """(events before it, endpoint id, label) of each endpoint that became known."""
    before, found = 0, []
    for batch in batches:
        found += [(before, number, label) for number, label in batch.endpoints]
        before += len(batch)
    return found


def lines_of(path: Path) -> list[str]:
    """What a replay says: connections as they end, those still open, the summary."""
    trace = open_trace(path)
    try:
        clock = trace.header.clock
        analysis = Analysis(trace.header.source, trace.header.resolution_ns, trace.header.endpoints)
        lines = []
        for batch in trace.batches():
            ended = analysis.feed(batch).ended
            lines += connection_lines(ended, analysis.endpoints, clock, details_of(ended, analysis.owners))
        still = analysis.open()
        lines += connection_lines(still, analysis.endpoints, clock, details_of(still, analysis.owners))
        return [*lines, summary_line(analysis.summary(), clock, trace.truncated)]
    finally:
        trace.close()


@st.composite
def event_arrays(draw: st.DrawFn, textual: bool) -> Events:
    """Any valid events; with `textual`, such as the text format can tell apart."""
    count = draw(st.integers(0, 6))
    raw = draw(st.binary(min_size=count * EVENT_DTYPE.itemsize, max_size=count * EVENT_DTYPE.itemsize))
    events = np.frombuffer(bytearray(raw), EVENT_DTYPE).copy()
    for field in ("old_state", "new_state"):
        events[field] = events[field] % 12 + 1
    events["flags"] &= np.uint32(ALL_FLAGS)
    events["flags"][is_sample(events)] &= ~np.uint32(EventFlag.ADOPTED)  # no event is both
    events["reserved"] = 0
    events["ts_ns"] %= TS_NS_MAX
    if textual:
        events["endpoint_id"] = events["endpoint_id"] % 2 + 1
        events["family"] = np.where(events["family"] % 2, 2, 10)
        events["sport"] |= 1
        events["saddr"][:, 0] |= 0x20
    return events


@st.composite
def batch_lists(draw: st.DrawFn, textual: bool) -> list[EventBatch]:
    """Valid batches, some of them after a loss, some with new endpoints, some with uncertain times."""
    batches = []
    for number in range(draw(st.integers(0, 4))):
        events = draw(event_arrays(textual))
        early_ns = None
        if draw(st.booleans()):
            values = draw(st.lists(st.integers(0, TS_NS_MAX - 1), min_size=len(events), max_size=len(events)))
            early_ns = np.array(values, np.uint64)
        since_ns, length_ns = draw(st.integers(0, 2**61)), draw(st.integers(1, 2**61 - 1))
        lost = draw(st.integers(0, TS_NS_MAX - 1))
        endpoints = ((number + 10, f"{draw(st.text(max_size=8))}/{number}"),) if draw(st.booleans()) else ()
        interval = {"lost_since_ns": since_ns, "lost_until_ns": since_ns + length_ns} if lost else {}
        batches.append(batch_of(events, lost=lost, early_ns=early_ns, endpoints=endpoints, **interval))
    return batches


def anything(suffix: str) -> st.SearchStrategy[list[EventBatch]]:
    return batch_lists(suffix == ".jsonl")


@pytest.mark.parametrize("suffix", SUFFIXES)
class TestRoundTrip:
    @FUZZ
    @given(data=st.data())
    def test_every_valid_field_and_flag_is_read_as_it_was_written(self, suffix: str, tmp_path: Path, data: st.DataObject) -> None:
        batches = data.draw(anything(suffix))
        found, _ = read(write(tmp_path / f"a{suffix}", batches))
        assert rows_of(found) == rows_of(batches)

    @FUZZ
    @given(data=st.data())
    def test_losses_are_read_at_their_place(self, suffix: str, tmp_path: Path, data: st.DataObject) -> None:
        batches = data.draw(anything(suffix))
        found, _ = read(write(tmp_path / f"a{suffix}", batches))
        assert losses_of(found) == losses_of(batches)

    @FUZZ
    @given(data=st.data())
    def test_endpoints_are_known_no_later_than_they_were(self, suffix: str, tmp_path: Path, data: st.DataObject) -> None:
        batches = data.draw(anything(suffix))
        found, _ = read(write(tmp_path / f"a{suffix}", batches))
        written, noted = notes_of(batches), notes_of(found)
        assert [note[1:] for note in noted] == [note[1:] for note in written]
        assert all(after[0] <= before[0] for after, before in zip(noted, written, strict=True))

    def test_facts_and_totals_are_read_at_their_place(self, suffix: str, tmp_path: Path) -> None:
        facts = (
            EndpointFact(3, "blobs.example:443", Role.BLOB, "learnt: dockerd", learnt=True),
            AddressFact(3, "192.0.2.9", True, 5),
            OwnerDetail(pid=812, comm=b"dockerd", cmdline="dockerd -H fd://", container="c" * 64, runtime="docker"),
        )
        totals = KernelCounts(in_use=5, time_wait=7)
        written = [batch_of(events_of(2)), batch_of(events_of(1), facts=facts), batch_of(events_of(0), kernel=totals)]
        found, _ = read(write(tmp_path / f"a{suffix}", written))
        before = 0
        places = []
        for batch in found:
            places += [(before, fact) for fact in batch.facts] + ([(before, batch.kernel)] if batch.kernel else [])
            before += len(batch)
        assert places == [(2, fact) for fact in facts] + [(3, totals)]

    def test_events_of_endpoints_that_were_learnt_are_read_as_theirs(self, suffix: str, tmp_path: Path) -> None:
        written = []
        for number in (3, 4):
            fact = EndpointFact(number, f"blobs-{number}.example:443", Role.BLOB, "learnt: dockerd", learnt=True)
            written.append(batch_of(events_of(4, endpoint_id=number), facts=(fact,)))
        found, truncated = read(write(tmp_path / f"a{suffix}", written))
        assert truncated is None
        numbers = [number for batch in found for number in batch.events["endpoint_id"].tolist()]
        assert numbers == [3] * 4 + [4] * 4

    def test_a_replay_names_owners_without_the_host(self, suffix: str, tmp_path: Path) -> None:
        owner = OwnerDetail(pid=812, cgroup_id=3001, container="c" * 64, runtime="docker", unit="docker.service")
        events = trace(*path("peer", [START_NS + at for at in range(5)]))
        written = [batch_of(events, facts=(owner,))]
        (line, _) = map(json.loads, lines_of(write(tmp_path / f"a{suffix}", written)))
        assert (line["container"], line["runtime"], line["unit"], line["cmdline"]) == ("c" * 64, "docker", "docker.service", None)

    @pytest.mark.parametrize("flag", list(EventFlag), ids=lambda flag: flag.name)
    def test_a_flag_alone_survives(self, suffix: str, tmp_path: Path, flag: EventFlag) -> None:
        events = events_of(4, flags=int(flag))
        found, _ = read(write(tmp_path / f"a{suffix}", [batch_of(events)]))
        assert [batch.events["flags"].tolist() for batch in found] == [[int(flag)] * 4]

    def test_no_flag_at_all_survives(self, suffix: str, tmp_path: Path) -> None:
        found, _ = read(write(tmp_path / f"a{suffix}", [batch_of(events_of(4, flags=0))]))
        assert [batch.events["flags"].tolist() for batch in found] == [[0] * 4]

    def test_the_header_is_read_as_it_was_written(self, suffix: str, tmp_path: Path) -> None:
        trace = open_trace(write(tmp_path / f"a{suffix}", []))
        trace.close()
        assert trace.header == HEADER

    def test_an_unknown_clock_stays_unknown(self, suffix: str, tmp_path: Path) -> None:
        trace = open_trace(write(tmp_path / f"a{suffix}", [], replace(HEADER, clock=None)))
        trace.close()
        assert trace.header.clock is None

    def test_hostile_text_in_the_header_survives(self, suffix: str, tmp_path: Path) -> None:
        header = replace(HEADER, host='h"\\\x1b[2J\n\u2028é', why="\x01\x7f", endpoints={1: "a\nb:443"}, settings={"ü\n": '"'})
        trace = open_trace(write(tmp_path / f"a{suffix}", [], header))
        trace.close()
        assert trace.header == header

    def test_a_closed_capture_is_whole(self, suffix: str, tmp_path: Path) -> None:
        assert read(write(tmp_path / f"a{suffix}", [batch_of(events_of(5))]))[1] is None

    def test_a_capture_without_events_is_whole(self, suffix: str, tmp_path: Path) -> None:
        assert read(write(tmp_path / f"a{suffix}", [])) == ([], None)

    def test_more_events_than_one_flush_takes_keep_their_order(self, suffix: str, tmp_path: Path) -> None:
        events = events_of(70_000)
        writer = create_trace(tmp_path / f"a{suffix}", HEADER)
        for start in range(0, len(events), 10_000):
            writer.write(batch_of(events[start : start + 10_000].copy()))
        writer.close()
        found, _ = read(tmp_path / f"a{suffix}")
        assert np.concatenate([batch.events["ts_ns"] for batch in found]).tolist() == events["ts_ns"].tolist()

    def test_what_was_flushed_is_readable_before_the_end(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"a{suffix}"
        writer = create_trace(path, HEADER)
        writer.write(batch_of(events_of(8)))
        writer.flush()
        found, truncated = read(path)
        writer.close()
        assert sum(map(len, found)) == 8
        assert truncated is not None

    def test_a_comm_of_any_bytes_survives(self, suffix: str, tmp_path: Path) -> None:
        comms = [b'"\\\x1b[31m\n', b"\xff\xfe\x80", b"\\x41", "münze".encode(), b"a\0b", b"0123456789abcdef", b""]
        events = events_of(len(comms), comm=comms)
        found, _ = read(write(tmp_path / f"a{suffix}", [batch_of(events)]))
        assert found[0].events["comm"].tolist() == comms


@st.composite
def life_batches(draw: st.DrawFn) -> list[EventBatch]:
    """Transitions that look like traffic: few sockets, states in any order, some flags missing, some samples and losses."""
    batches, now_ns = [], 0
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, 8))
        events = events_of(count)
        for event in events:
            now_ns += draw(st.integers(0, 2_000_000_000))
            event["ts_ns"] = now_ns
            event["skaddr"] = 0xFFFF_8880_0000_1000 + draw(st.integers(0, 2))
            event["old_state"], event["new_state"] = draw(st.integers(1, 12)), draw(st.integers(1, 12))
            event["endpoint_id"] = draw(st.integers(1, 2))
            event["flags"] = draw(st.integers(0, int(ALL_FLAGS)))
            event["sk_err"] = draw(st.sampled_from([0, 104, 110, 111, 32]))
            event["sport"] = draw(st.integers(1, 65535))
        lost = draw(st.integers(0, 3))
        interval = {"lost": lost, "lost_since_ns": now_ns, "lost_until_ns": now_ns + 1} if lost else {}
        batches.append(batch_of(events, **interval))
    return batches


@FUZZ
@given(batches=life_batches())
def test_both_formats_give_the_same_connections_and_summary(tmp_path: Path, batches: list[EventBatch]) -> None:
    known = [replace(batch, events=known_only(batch.events)) for batch in batches]
    arrows, jsonl = (lines_of(write(tmp_path / f"a{suffix}", known)) for suffix in SUFFIXES)
    assert arrows == jsonl


@FUZZ
@given(batches=life_batches())
def test_what_stands_in_fields_that_are_not_valid_changes_nothing(tmp_path: Path, batches: list[EventBatch]) -> None:
    known = [replace(batch, events=known_only(batch.events)) for batch in batches]
    left, right = (lines_of(write(tmp_path / "a.arrows", content)) for content in (batches, known))
    assert left == right


@pytest.mark.parametrize(
    ("suffix", "step"),
    [(".jsonl", 1), (".arrows", 11), pytest.param(".arrows", 1, marks=pytest.mark.slow)],
)
def test_a_capture_cut_anywhere_gives_the_first_rows_and_says_that_it_is_cut(suffix: str, step: int, tmp_path: Path) -> None:
    loss = {"lost": 3, "lost_since_ns": 1, "lost_until_ns": 2}
    batches = [batch_of(events_of(2)), batch_of(events_of(1), **loss), batch_of(events_of(0), endpoints=((3, "x:1"),))]
    path = write(tmp_path / f"a{suffix}", batches)
    rows, losses, size = rows_of(batches), losses_of(batches), path.stat().st_size
    mark = size - 1 if suffix == ".jsonl" else size  # without its last line feed, a text is still whole
    for length in range(mark - 1, -1, -step):
        os.truncate(path, length)
        try:
            found, truncated = read(path)
        except CaptureError:
            continue
        assert truncated, f"cut to {length} of {size} bytes, and not a word of it"
        assert rows_of(found) == rows[: len(rows_of(found))], f"cut to {length} of {size} bytes"
        assert losses_of(found) == losses[: len(losses_of(found))], f"cut to {length} of {size} bytes"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_capture_cut_after_its_first_batch_still_gives_that_batch(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{suffix}", [batch_of(events_of(3))])
    whole = path.stat().st_size
    os.truncate(path, whole - 1 if suffix == ".arrows" else path.read_bytes().rindex(b'{"type": "end"'))
    assert rows_of(read(path)[0]) == rows_of([batch_of(events_of(3))])


def _fifo(path: Path, content: bytes) -> threading.Thread:
    os.mkfifo(path)
    feeder = threading.Thread(target=path.write_bytes, args=(content,))
    feeder.start()
    return feeder


class TestNoCapture:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"ARROW1\0\0\xff\xff\xff\xff",
            b"PAR1\x15\x04",
            gzip.compress(b'{"type": "start"}'),
            b"hello\n",
            b"\xff\xff\xff",
            b"\xff\xff\xff\xff",
            b"\xff\xff\xff\xff\0\0\0\0",
            b"\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"\xff\xff\xff\xff\0\0\0\x80",
            b"\xff" * 4096,
            b"\xff\xff\xff\xff" + b"\x10\0\0\0" + bytes(1000),
            b"\x7fELF",
            b"[]",
            b"null",
            b"\n \n",
            b"#!/bin/sh\nexit\n",
            b"# only a comment\n",
            b"{",
            b"{}x\n",
            b'\xef\xbb\xbf{"type": "start"}',
        ],
        ids=lambda content: repr(content[:16]),
    )
    def test_other_files_are_refused(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(CaptureError):
            read(tmp_path / "a")

    def test_a_missing_file_is_named_with_the_reason(self, tmp_path: Path) -> None:
        with pytest.raises(CaptureError, match=r"missing\.arrows can't be read: No such file"):
            open_trace(tmp_path / "missing.arrows")

    def test_a_directory_is_refused_with_the_reason(self, tmp_path: Path) -> None:
        with pytest.raises(CaptureError, match="Is a directory"):
            open_trace(tmp_path)

    def test_an_arrow_file_is_told_from_an_arrow_stream(self, tmp_path: Path) -> None:
        (tmp_path / "a.arrows").write_bytes(b"ARROW1\0\0")
        with pytest.raises(CaptureError, match="Arrow file, not an Arrow stream"):
            open_trace(tmp_path / "a.arrows")

    @pytest.mark.parametrize("content", [b"", b"hello\n"])
    def test_a_pipe_with_no_capture_in_it_is_refused_with_a_reason(self, content: bytes, tmp_path: Path) -> None:
        feeder = _fifo(tmp_path / "pipe", content)
        with pytest.raises(CaptureError) as refused:
            open_trace(tmp_path / "pipe")
        feeder.join(10)
        assert "None" not in str(refused.value)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_capture_is_read_from_a_pipe_or_refused_with_a_reason(self, suffix: str, tmp_path: Path) -> None:
        batches = [batch_of(events_of(4))]
        feeder = _fifo(tmp_path / "pipe", write(tmp_path / f"a{suffix}", batches).read_bytes())
        try:
            assert rows_of(read(tmp_path / "pipe")[0]) == rows_of(batches)
        except CaptureError as refused:
            assert "None" not in str(refused)
        finally:
            feeder.join(10)


@pytest.mark.parametrize("name", ["trace", "trace.arrow", "trace.json", "trace.arrows.gz", ".arrows", "TRACE.ARROWS"])
def test_a_name_without_a_known_suffix_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match=r"\.arrows.*\.jsonl"):
        check_name(Path(name))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_name_with_a_known_suffix_is_taken(suffix: str) -> None:
    check_name(Path(f"some.where/trace.1{suffix}"))


@pytest.fixture
def full_fd(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every capture is created on a device that is always full."""
    monkeypatch.setattr("tracer.files.create_private", lambda _path, _force: os.open("/dev/full", os.O_WRONLY))
    return


@pytest.mark.parametrize("suffix", SUFFIXES)
class TestFull:
    @pytest.mark.usefixtures("full_fd")
    def test_no_room_for_the_header_is_an_error_with_the_reason(self, suffix: str) -> None:
        with pytest.raises(CaptureError, match="No space left"):
            create_trace(Path(f"a{suffix}"), HEADER)

    @pytest.mark.usefixtures("full_fd")
    def test_no_room_for_the_header_leaves_no_descriptor_open(self, suffix: str) -> None:
        before = _open_files()
        with pytest.raises(CaptureError):
            create_trace(Path(f"a{suffix}"), HEADER)
        assert _open_files() == before

    def test_a_piece_that_does_not_fit_is_taken_back(self, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / f"a{suffix}"
        writer = create_trace(path, HEADER)
        writer.write(batch_of(events_of(4)))
        writer.flush()
        with monkeypatch.context() as patch:
            _fill_up(patch, path.stat().st_size + 100)
            writer.write(batch_of(events_of(8)))
            with pytest.raises(CaptureError, match="No space left"):
                writer.flush()
            writer.close()
        assert rows_of(read(path)[0]) == rows_of([batch_of(events_of(4))])

    def test_what_is_written_after_a_failure_never_corrupts_what_was_before(
        self, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / f"a{suffix}"
        writer = create_trace(path, HEADER)
        with monkeypatch.context() as patch:
            _fill_up(patch, path.stat().st_size + 100)
            writer.write(batch_of(events_of(8)))
            with pytest.raises(CaptureError):
                writer.flush()
        writer.write(batch_of(events_of(4)))  # there is room again
        try:
            writer.close()
        except CaptureError:
            found, _ = read(path)
            assert rows_of(found) == []
        else:
            found, _ = read(path)
            assert rows_of(found) in ([], rows_of([batch_of(events_of(4))]))


def _open_files() -> list[str]:
    return sorted(str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())


def _fill_up(patch: pytest.MonkeyPatch, limit_bytes: int) -> None:
    """Files grow to `limit_bytes` and no further, as on a disk that is full: the last write is a short one."""
    real = os.write

    def short_write(fd: int, data: bytes | memoryview) -> int:
        room = limit_bytes - os.fstat(fd).st_size
        if room <= 0:
            raise OSError(28, os.strerror(28))
        return real(fd, bytes(data[:room]))

    patch.setattr("tracer.captures.output.os.write", short_write)
