"""tracer.discovery.files: whatever stands where a configuration is expected, it is read, missing, or refused with a reason."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tracer.discovery.files import (
    ENTRIES_MAX,
    FILE_BYTES_MAX,
    UnusableFileError,
    folder_names,
    is_masked,
    may_enter,
    read_bytes,
    read_text,
)

ROOT = Path(__file__).resolve().parent.parent

AS_NOBODY = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tracer.discovery.files import UnusableFileError, folder_names, may_enter, read_text
os.setgroups([]); os.setgid(65534); os.setuid(65534)
folder = Path(sys.argv[2])
for reading in (lambda: read_text(folder / "a"), lambda: folder_names(folder, folders=True), lambda: may_enter(folder)):
    try:
        reading()
    except UnusableFileError as error:
        print(error)
"""


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    content = "ä" * (FILE_BYTES_MAX // 2)
    (tmp_path / "a").write_text(content)
    assert read_text(tmp_path / "a") == content


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf{}")
    assert read_text(tmp_path / "a") == "{}"


def test_a_file_of_proc_is_read_although_its_size_is_none() -> None:
    content = read_bytes(Path("/proc/self/cmdline"))
    assert content is not None
    assert content.count(b"\0")


@pytest.mark.parametrize("name", ["missing", "missing/below", "a/below", "dangling"])
def test_what_is_missing_is_no_problem(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    assert read_text(tmp_path / name) is None
    assert folder_names(tmp_path / name, folders=True) is None
    assert not may_enter(tmp_path / name)


def test_nothing_but_a_regular_file_is_read_and_none_of_them_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for path in (tmp_path, tmp_path / "fifo", tmp_path / "socket", Path("/dev/null"), Path("/dev/zero")):
            with pytest.raises(UnusableFileError, match="is no regular file"):
                read_text(path)


def test_what_is_no_regular_file_is_not_even_opened(tmp_path: Path) -> None:
    """Whoever waits for a FIFO to be opened goes on waiting."""
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen(["sh", "-c", 'echo ready; echo > "$0"', str(tmp_path / "fifo")], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        for _ in range(100):
            with pytest.raises(UnusableFileError, match="is no regular file"):
                read_text(tmp_path / "fifo")
            time.sleep(0.005)
        assert writer.poll() is None
        writer.kill()


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UnusableFileError, match="can't be read: Too many levels"):
        read_text(tmp_path / "a")
    assert folder_names(tmp_path, folders=True) == []


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnusableFileError, match="can't be read"):
        read_text(tmp_path / name)


@pytest.mark.parametrize("size_bytes", [FILE_BYTES_MAX + 1, 1 << 30])
def test_a_large_file_is_refused_without_reading_it(tmp_path: Path, size_bytes: int) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(size_bytes)
    with pytest.raises(UnusableFileError, match=f"larger than {FILE_BYTES_MAX} bytes"):
        read_text(tmp_path / "sparse")


def test_other_encodings_are_refused_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\ntwo \xff")
    with pytest.raises(UnusableFileError, match=r"is no UTF-8 \(line 2\)"):
        read_text(tmp_path / "a")


def test_names_are_sorted_and_folders_are_told_from_files(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("a")
    assert folder_names(tmp_path, folders=True) == ["a", "b", "link"]
    assert folder_names(tmp_path, folders=False) == ["file"]


def test_a_folder_with_too_many_entries_is_refused(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / str(number)).touch()
    with pytest.raises(UnusableFileError, match="more than 3 entries"):
        folder_names(tmp_path, folders=False, entries_max=3)
    assert ENTRIES_MAX > 3


def test_what_may_not_be_read_is_refused(tmp_path: Path) -> None:
    if os.geteuid():
        skip_or_fail("becoming another user needs root")
    # The folders above belong to root alone: what is below can't be reached by others.
    (tmp_path / "a").touch(0o600)
    tmp_path.chmod(0o700)
    command = [sys.executable, "-c", AS_NOBODY, str(ROOT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["can't be read: Permission denied"] * 3, done.stderr


def test_a_unit_is_masked_by_a_link_to_null_only(tmp_path: Path) -> None:
    (tmp_path / "off").symlink_to("/dev/null")
    (tmp_path / "on").symlink_to("off")
    (tmp_path / "file").touch()
    assert [is_masked(tmp_path / name) for name in ("off", "on", "file", "missing", "a\0")] == [True, False, False, False, False]
