"""The program on kernels that lack something: what can't be read is not compiled in, and flagged invalid, never guessed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bpf.layout import OPTIONAL
from bpf.support import probe
from tests.live import ROOT

pytestmark = pytest.mark.ebpf

# Compiles with some members missing, makes one connection, and prints the flags of its events.
PROGRAM = """
import json, os, socket, struct, sys, threading
root, bcc_dir, jiffy_ns, missing = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
sys.path.insert(0, root)
os.environ["BCC_KERNEL_SOURCE"] = root + "/bpf"
from bpf import attach as child, layout
from bpf.btf import Btf
from bpf.ring import MappedRing
from bpf.loader import FOLLOWING
from bpf.syscall import BpfMap
from bpf.watch_map import WatchEntry, WatchMap
real = Btf.member
Btf.member = lambda self, structure, path: None if f"{structure}.{path}" in missing else real(self, structure, path)
found = layout.kernel_layout(Btf(child.BTF_PATH.read_bytes()), jiffy_ns)
assert set(found.missing_optional) == set(missing), found
settings = {"RING_PAGES": 16, "WATCH_PREFIXES_MAX": 16, "WATCH_PORTS_MAX": 16} | FOLLOWING
keep, fds = child.attach(child.import_bcc(bcc_dir), settings | found.macros)
fds = dict(zip(child.FDS, fds))
ring = MappedRing(fds["events"], 16 * os.sysconf("SC_PAGE_SIZE"))
listener = socket.create_server(("127.0.0.1", 0))
watch = WatchMap(BpfMap(fds["watch_prefixes"], 20, 8), BpfMap(fds["watch_ports"], 8, 4))
watch.replace([WatchEntry(bytes(10) + b"\\xff\\xff\\x7f\\0\\0\\1", 128, listener.getsockname()[1], 1)])
answer = threading.Thread(target=lambda: listener.accept()[0].sendall(b"x" * 10))
answer.start()
client = socket.create_connection(listener.getsockname())
answer.join()
client.recv(10, socket.MSG_WAITALL)
client.close()
events = ring.reader.read()
print(json.dumps([[int(flags) for flags in events["flags"]], [int(count) for count in events["bytes_received"]]]))
sys.stdout.flush()
os._exit(0)
"""
EVERYTHING = [f"{structure}.{path}" for structure, path, _ in OPTIONAL.values()]


def flags_without(missing: list[str]) -> tuple[list[int], list[int]]:
    support = probe()
    command = [sys.executable, "-c", PROGRAM, str(ROOT), str(support.bcc_dir), str(support.jiffy_ns), json.dumps(missing)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    flags, received = json.loads(done.stdout)
    return flags, received


def test_a_kernel_that_has_everything_gives_everything() -> None:
    flags, received = flags_without([])
    assert received[-1] == 10
    assert all(flag & 1 << 6 for flag in flags)


def test_a_kernel_that_has_nothing_optional_gives_what_is_required() -> None:
    """The transitions are there; no counter is, and every flag says so."""
    flags, received = flags_without(EVERYTHING)
    optional = sum(1 << bit for bit in (3, 6, 7, 8, 9, 10, 11, 12))
    assert len(flags) >= 4
    assert not any(flag & optional for flag in flags)
    assert not any(received)


@pytest.mark.slow
@pytest.mark.parametrize("member", EVERYTHING)
def test_any_one_member_may_be_missing(member: str) -> None:
    """Compiled, verified, attached, and still tracing."""
    assert len(flags_without([member])[0]) >= 4
