"""`regtrace` with a meter in its polling source, or with a shorter queue of destroy records.

Run as `python -m tests.bench.looking meter FILE ARGUMENTS...`: FILE holds two numbers of 64 bits meanwhile, CPU time in ns that
its thread has spent in the source's `read`, and how many looks it took. Run as `python -m tests.bench.looking queue BYTES
ARGUMENTS...`: it asks for a receive buffer of so many bytes, as if net.core.rmem_max of this host were no larger.
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from time import thread_time_ns

from fallback.netlink import Remote

NUMBERS = struct.Struct("=QQ")


def read_meter(path: Path) -> tuple[float, int]:
    """(CPU time in s, looks) so far."""
    spent_ns, looks = NUMBERS.unpack(path.read_bytes()[: NUMBERS.size])
    return spent_ns / 1e9, looks


def _shorten(receive_bytes: int) -> None:
    from fallback import windows
    from fallback.sock_diag import DestroyListener

    class Shorter(DestroyListener):
        def __init__(self, netns_fd: int | None = None, remotes: Sequence[Remote] = ()) -> None:
            super().__init__(netns_fd, remotes, receive_bytes)

    vars(windows)["DestroyListener"] = Shorter


def _meter(path: Path) -> None:
    from fallback.source import PollingSource
    from tracer.events import EventBatch

    path.write_bytes(bytes(NUMBERS.size))
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), NUMBERS.size)
    spent_ns = looks = seen_ns = 0
    read = PollingSource.read

    def metered(source: PollingSource, *, at_once: bool = False) -> EventBatch:
        nonlocal spent_ns, looks, seen_ns
        started_ns = thread_time_ns()
        batch = read(source, at_once=at_once)
        spent_ns += thread_time_ns() - started_ns
        looks += batch.until_ns != seen_ns  # it stands still where nothing was looked at
        seen_ns = batch.until_ns
        NUMBERS.pack_into(shared, 0, spent_ns, looks)
        return batch

    PollingSource.read = metered  # type: ignore[assignment]


if __name__ == "__main__":
    from tracer.main import main

    if sys.argv[1] == "meter":
        _meter(Path(sys.argv[2]))
    else:
        _shorten(int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
