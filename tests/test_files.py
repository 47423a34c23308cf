"""Files are created private, never through a link, and belong to the person behind sudo."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tracer.errors import OutputError
from tracer.files import create_private

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files are given to another user")


@pytest.fixture(autouse=True)
def _no_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.delenv("SUDO_GID", raising=False)


def created(path: Path, force: bool = False) -> os.stat_result:
    """What was created."""
    fd = create_private(path, force)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def everything(directory: Path) -> dict[str, tuple[int, bytes | None]]:
    """Mode and content of all that is in a directory."""
    return {
        path.name: (path.lstat().st_mode, path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else None)
        for path in directory.iterdir()
    }


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_file_is_readable_by_its_owner_only(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        assert stat.S_IMODE(created(tmp_path / "a").st_mode) == 0o600
    finally:
        os.umask(before)


def test_what_is_written_arrives(tmp_path: Path) -> None:
    fd = create_private(tmp_path / "a", force=False)
    os.write(fd, b"content")
    os.close(fd)
    assert (tmp_path / "a").read_bytes() == b"content"


def test_the_descriptor_is_not_inherited(tmp_path: Path) -> None:
    fd = create_private(tmp_path / "a", force=False)
    inheritable = os.get_inheritable(fd)
    os.close(fd)
    assert not inheritable


def test_an_existing_file_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    before = everything(tmp_path)
    with pytest.raises(OutputError, match=r"exists.*--force"):
        create_private(tmp_path / "a", force=False)
    assert everything(tmp_path) == before


def test_force_replaces_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    assert created(tmp_path / "a", force=True).st_size == 0


def test_force_makes_a_readable_file_private(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o666)
    assert stat.S_IMODE(created(tmp_path / "a", force=True).st_mode) == 0o600


def test_force_leaves_a_second_name_of_the_old_file_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"old")
    (tmp_path / "a").hardlink_to(tmp_path / "kept")
    created(tmp_path / "a", force=True)
    assert (tmp_path / "kept").read_bytes() == b"old"


def test_force_needs_no_existing_file(tmp_path: Path) -> None:
    assert stat.S_ISREG(created(tmp_path / "a", force=True).st_mode)


@pytest.mark.parametrize("target", ["target", "missing"])
def test_a_link_is_refused_and_never_followed(target: str, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "a").symlink_to(target)
    before = everything(tmp_path)
    with pytest.raises(OutputError):
        create_private(tmp_path / "a", force=False)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("target", ["target", "missing", "a"])
def test_force_replaces_a_link_and_not_what_it_points_to(target: str, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "a").symlink_to(target)
    fd = create_private(tmp_path / "a", force=True)
    os.write(fd, b"new")
    os.close(fd)
    assert everything(tmp_path) == {"target": everything(tmp_path)["target"], "a": (stat.S_IFREG | 0o600, b"new")}
    assert (tmp_path / "target").read_bytes() == b"precious"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "fifo"])
@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_is_refused_and_stays(make: Callable[[Path], None], force: bool, tmp_path: Path) -> None:
    make(tmp_path / "a")
    before = everything(tmp_path)
    with pytest.raises(OutputError):
        create_private(tmp_path / "a", force)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("force", [False, True])
def test_a_device_is_refused(force: bool) -> None:
    with pytest.raises(OutputError):
        create_private(Path("/dev/null"), force)


@needs_root
@pytest.mark.parametrize("force", [False, True])
def test_a_device_of_our_own_is_refused_and_stays(force: bool, tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "a", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("devices can't be made here")
    with pytest.raises(OutputError):
        create_private(tmp_path / "a", force)
    assert stat.S_ISCHR((tmp_path / "a").lstat().st_mode)


def test_a_missing_directory_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing/a can't be created: No such file or directory"):
        create_private(tmp_path / "missing" / "a", force=False)


@pytest.mark.parametrize("force", [False, True])
def test_a_file_in_place_of_a_directory_is_an_error_with_the_reason(force: bool, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Not a directory"):
        create_private(tmp_path / "file" / "a", force)


@pytest.mark.parametrize("force", [False, True])
def test_a_name_that_is_too_long_is_an_error_with_the_reason(force: bool, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long"):
        create_private(tmp_path / ("x" * 300), force)


def test_no_room_is_an_error_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("tracer.files.os.open", full)
    with pytest.raises(OutputError, match="can't be created: No space left on device"):
        create_private(tmp_path / "a", force=False)


@needs_root
def test_the_file_belongs_to_the_person_behind_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "65533")
    monkeypatch.setenv("SUDO_GID", "65532")
    found = created(tmp_path / "a")
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (65533, 65532, 0o600)


@needs_root
@pytest.mark.parametrize(
    ("uid", "gid"), [(None, None), ("65533", None), (None, "65533"), ("", ""), ("-1", "5"), ("x", "5"), ("٣", "5")]
)
def test_without_a_usable_trace_of_sudo_the_file_is_ours(
    uid: str | None, gid: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SUDO_UID", uid), ("SUDO_GID", gid)):
        if value is not None:
            monkeypatch.setenv(name, value)
    found = created(tmp_path / "a")
    assert (found.st_uid, found.st_gid) == (os.geteuid(), os.getegid())


@needs_root
def test_an_impossible_person_behind_sudo_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "9" * 20)
    monkeypatch.setenv("SUDO_GID", "0")
    try:
        found = created(tmp_path / "a")
    except OutputError:
        return
    assert found.st_uid == os.geteuid()


@needs_root
def test_a_file_system_that_refuses_the_owner_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setenv("SUDO_UID", "65533")
    monkeypatch.setenv("SUDO_GID", "65533")
    monkeypatch.setattr("tracer.files.os.fchown", refuse)
    before = len(list(Path("/proc/self/fd").iterdir()))
    try:
        created(tmp_path / "a")
    except OutputError:
        assert len(list(Path("/proc/self/fd").iterdir())) == before
