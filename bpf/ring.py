"""The zero-copy reader of a BPF ring buffer whose records are all events.

Theory of operation (kernel/bpf/ringbuf.c). The kernel maps the consumer's position (one page, read-write), the producer's
position (one page, read-only) and, after it, the data area *twice*, so that a record that wraps around the end is one piece
of memory. Positions only grow; `position & (size - 1)` is the offset. A record is an 8-byte header, whose low word is its
length with a BUSY bit (reserved, not yet submitted) and a DISCARD bit, and the payload, padded to 8 bytes. Every record
here is one `struct tcp_event`, so what lies between the two positions *is* an array, and a batch is one view of it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading

import numpy as np
from numpy.typing import NDArray

from tracer.errors import SourceError
from tracer.events import EVENT_DTYPE, Events, no_events

# include/uapi/linux/bpf.h
BUSY = np.uint32(1 << 31)
DISCARD = np.uint32(1 << 30)

RECORD_DTYPE = np.dtype([("length", "u4"), ("page_offset", "u4"), ("event", EVENT_DTYPE)])
_HEADER_WORDS = 1


class RingReader:
    """Reads events out of mapped ring memory. Knows positions and headers; owns no file descriptor.

    Attributes:
        discarded: records skipped because the program gave them up.
    """

    def __init__(self, consumer: NDArray[np.uint64], producer: NDArray[np.uint64], data: NDArray[np.uint8]) -> None:
        """Take the mapped memory.

        Args:
            consumer: shape (1,), the consumer's position, writable.
            producer: shape (1,), the producer's position.
            data: shape (2 * size_bytes,), the data area mapped twice; size_bytes is a power of two.

        Raises:
            SourceError: the size is no power of two.
        """
        self._consumer = consumer
        self._producer = producer
        self._data = data
        self.size_bytes = len(data) // 2
        self.discarded = 0
        self._fence = threading.Lock()
        if self.size_bytes < RECORD_DTYPE.itemsize or self.size_bytes & (self.size_bytes - 1):
            raise SourceError(f"a ring of {self.size_bytes} bytes is no power of two")

    def read(self) -> Events:
        """Everything submitted since the last read, in the order of reservation, up to the first record still busy.

        Returns:
            EVENT_DTYPE, shape (n_events,); a copy, made in one piece, so that the space is the kernel's again at once.

        Raises:
            SourceError: a record has another length: the ring does not belong to this program.
        """
        with self._fence:
            start = int(self._consumer[0])
            available = int(self._producer[0]) - start
        n_records = min(available, self.size_bytes) // RECORD_DTYPE.itemsize
        if n_records <= 0:
            return no_events()
        # The headers must be read after the producer's position, and the payloads after the headers. Giving a lock back and
        # taking it again orders them on machines that reorder loads; on x86 it costs nothing that matters.
        with self._fence:
            records = np.frombuffer(self._data, RECORD_DTYPE, n_records, offset=start & (self.size_bytes - 1))
            lengths = records["length"].copy()
        busy = np.flatnonzero(lengths & BUSY)
        if busy.size:
            n_records = int(busy[0])
            lengths = lengths[:n_records]
        wrong = np.flatnonzero((lengths & ~DISCARD) != EVENT_DTYPE.itemsize)
        if wrong.size:
            raise SourceError(
                f"ring record {int(wrong[0])} is {int(lengths[wrong[0]])} bytes long, expected {EVENT_DTYPE.itemsize}: "
                "the program and this reader do not belong together"
            )
        kept = (lengths & DISCARD) == 0
        with self._fence:
            # As words: numpy copies structures field by field, plain rows in one go.
            words = records[:n_records].view(np.uint64).reshape(n_records, RECORD_DTYPE.itemsize // 8)[:, _HEADER_WORDS:]
            payload = words.copy() if kept.all() else words[kept]
            events = payload.reshape(-1).view(EVENT_DTYPE)
        self.discarded += n_records - len(events)
        with self._fence:  # every byte is out before the kernel may write over it
            self._consumer[0] = start + n_records * RECORD_DTYPE.itemsize
        return events


class MappedRing:
    """A ring buffer map, mapped into this process. Owns the mappings and the file descriptor."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        """Map the ring.

        Raises:
            OSError: the kernel refuses the mapping.
        """
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        self.fd = fd
        self._consumer_map = mmap.mmap(fd, page_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._producer_map = mmap.mmap(fd, page_bytes + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page_bytes)
        self.reader = RingReader(
            np.frombuffer(self._consumer_map, np.uint64, 1),
            np.frombuffer(self._producer_map, np.uint64, 1),
            np.frombuffer(self._producer_map, np.uint8, offset=page_bytes),
        )

    def close(self) -> None:
        """Unmap and close."""
        del self.reader  # its arrays hold the mappings open
        for mapping in (self._consumer_map, self._producer_map):
            with contextlib.suppress(BufferError):  # a traceback still shows them: unmapped when it goes
                mapping.close()
        os.close(self.fd)
