"""The ring reader, on memory that this test fills as the kernel would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpf.ring import BUSY, DISCARD, RECORD_DTYPE, RingReader
from tracer.errors import SourceError
from tracer.events import EVENT_DTYPE

SIZE_BYTES = 4096
CAPACITY = SIZE_BYTES // RECORD_DTYPE.itemsize


class FakeKernel:
    """The producer's side: one data area that is seen twice, and two positions."""

    def __init__(self, start: int = 0) -> None:
        self.consumer = np.array([start], np.uint64)
        self.producer = np.array([start], np.uint64)
        self._doubled = np.zeros(2 * SIZE_BYTES, np.uint8)
        self.reader = RingReader(self.consumer, self.producer, self._doubled)
        self.next_ts = 0

    def put(self, length_bits: int = 0, length: int = EVENT_DTYPE.itemsize) -> bool:
        """Reserve and submit one record; False if there is no room."""
        position = int(self.producer[0])
        if position + RECORD_DTYPE.itemsize - int(self.consumer[0]) > SIZE_BYTES:
            return False
        record = np.zeros(1, RECORD_DTYPE)
        record["length"] = length | length_bits
        record["event"]["ts_ns"] = self.next_ts
        record["event"]["old_state"] = record["event"]["new_state"] = 1
        self.next_ts += 1
        self._write(position, record.view(np.uint8))
        self.producer[0] = position + RECORD_DTYPE.itemsize
        return True

    def submit(self, index: int, start: int = 0) -> None:
        """Clear the busy bit of the record that was the index-th put."""
        length = np.array([EVENT_DTYPE.itemsize], np.uint32).view(np.uint8)
        self._write(start + index * RECORD_DTYPE.itemsize, length)

    def _write(self, position: int, data: np.ndarray) -> None:
        for index, byte in enumerate(data.tolist()):
            offset = (position + index) % SIZE_BYTES
            self._doubled[offset] = self._doubled[offset + SIZE_BYTES] = byte

    def read(self) -> list[int]:
        return [int(ts) for ts in self.reader.read()["ts_ns"]]


def test_empty_ring_gives_nothing() -> None:
    assert FakeKernel().read() == []


def test_records_come_in_order_once() -> None:
    ring = FakeKernel()
    for _ in range(5):
        ring.put()
    assert (ring.read(), ring.read()) == ([0, 1, 2, 3, 4], [])


def test_a_busy_record_holds_back_what_follows() -> None:
    ring = FakeKernel()
    ring.put()
    ring.put(int(BUSY))
    ring.put()
    assert ring.read() == [0]
    ring.submit(1)
    assert ring.read() == [1, 2]


def test_a_discarded_record_is_skipped_and_counted() -> None:
    ring = FakeKernel()
    ring.put()
    ring.put(int(DISCARD))
    ring.put()
    assert ring.read() == [0, 2]
    assert ring.reader.discarded == 1


def test_space_is_given_back_by_reading() -> None:
    ring = FakeKernel()
    while ring.put():
        pass
    assert not ring.put()
    assert len(ring.read()) == CAPACITY
    assert ring.put()


def test_a_record_of_another_length_is_refused() -> None:
    ring = FakeKernel()
    ring.put(length=64)
    with pytest.raises(SourceError, match="64 bytes long"):
        ring.read()


def test_events_are_a_copy() -> None:
    """What was read does not change when the kernel writes over its place."""
    ring = FakeKernel()
    ring.put()
    first = ring.reader.read()
    for _ in range(2 * CAPACITY):
        ring.put()
        ring.read()
    assert first["ts_ns"].tolist() == [0]


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 100).map(lambda records: records * RECORD_DTYPE.itemsize),
    st.lists(st.tuples(st.integers(0, CAPACITY), st.sampled_from([0, 0, 0, int(DISCARD)])), max_size=30),
)
def test_wrap_around_loses_and_invents_nothing(start: int, rounds: list[tuple[int, int]]) -> None:
    """Whatever was put, over many times the size of the ring, is read once and in order."""
    ring = FakeKernel(start)
    expected: list[int] = []
    got: list[int] = []
    for count, bits in rounds:
        for _ in range(count):
            ts = ring.next_ts
            if ring.put(bits) and not bits:
                expected.append(ts)
        got += ring.read()
    assert got == expected
