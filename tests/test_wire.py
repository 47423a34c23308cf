"""The wire record: bpf/tcp_event.h and EVENT_DTYPE are the same bytes, as the system's C compiler sees them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bpf.watch_map import PORT_KEY, PREFIX_KEY, PREFIX_VALUE
from tests.conftest import skip_or_fail
from tracer.events import EVENT_DTYPE, EventFlag

HEADER = Path(__file__).resolve().parent.parent / "bpf" / "tcp_event.h"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Sizeof and offsetof of everything, printed by a compiled program."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        skip_or_fail("no C compiler (apt install gcc)")
    names = list(EVENT_DTYPE.names or ())
    structs = ("tcp_event", "tcp_loss", "watch_prefix_key", "watch_prefix", "watch_port_key")
    prints = [f'printf("sizeof {name} %zu\\n", sizeof(struct {name}));' for name in structs]
    for name in names:
        prints.append(f'printf("offset {name} %zu\\n", offsetof(struct tcp_event, {name}));')
        prints.append(f'printf("size {name} %zu\\n", sizeof(((struct tcp_event *)0)->{name}));')
    prints += [f'printf("flag {flag.name} %d\\n", TCP_EVENT_{flag.name});' for flag in EventFlag]
    source = f'#include <stddef.h>\n#include <stdio.h>\n#include "{HEADER}"\nint main(void) {{ {" ".join(prints)} return 0; }}\n'
    folder = tmp_path_factory.mktemp("wire")
    (folder / "wire.c").write_text(source)
    subprocess.run([str(compiler), "-Wall", "-Werror", "-o", folder / "wire", folder / "wire.c"], check=True)
    output = subprocess.run([folder / "wire"], capture_output=True, text=True, check=True).stdout
    return {line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in output.splitlines()}


def test_record_size(layout: dict[str, int]) -> None:
    assert layout["sizeof tcp_event"] == EVENT_DTYPE.itemsize


def test_every_offset_and_size(layout: dict[str, int]) -> None:
    expected = {}
    for name, (dtype, offset, *_) in (EVENT_DTYPE.fields or {}).items():
        expected |= {f"offset {name}": offset, f"size {name}": dtype.itemsize}
    assert {key: value for key, value in layout.items() if key.startswith(("offset", "size "))} == expected


def test_no_member_of_the_header_is_missing_in_the_dtype() -> None:
    body = re.search(r"struct tcp_event \{(.*?)\n\};", HEADER.read_text(), re.S)
    assert body is not None
    members = re.findall(r"^\s*__u\d+ (\w+)(?:\[\d+\])?;", body.group(1), re.M)
    assert tuple(members) == EVENT_DTYPE.names


def test_record_has_no_hidden_holes(layout: dict[str, int]) -> None:
    """The members' sizes add up to the record's."""
    assert sum(layout[f"size {name}"] for name in EVENT_DTYPE.names or ()) == layout["sizeof tcp_event"]


def test_every_flag_has_its_bit(layout: dict[str, int]) -> None:
    assert {flag.name: layout[f"flag {flag.name}"] for flag in EventFlag} == {flag.name: flag.value for flag in EventFlag}


def test_every_flag_of_the_header_is_known() -> None:
    assert set(re.findall(r"TCP_EVENT_(\w+) =", HEADER.read_text())) == {flag.name for flag in EventFlag}


def test_map_keys(layout: dict[str, int]) -> None:
    sizes = (PREFIX_KEY.size, PREFIX_VALUE.size, PORT_KEY.size, 16)
    assert tuple(layout[f"sizeof {name}"] for name in ("watch_prefix_key", "watch_prefix", "watch_port_key", "tcp_loss")) == sizes
