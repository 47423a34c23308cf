"""From the id of a cgroup to its path.

The process that opened a connection may have lived 2 ms and be gone when its event is read; its cgroup still says which container
or service it was. The id in an event is the inode of the cgroup's directory in cgroup v2. The kernel opens a directory by that id
(open_by_handle_at, with the handles of kernfs): 13 µs, however many cgroups there are, and never one that took another's place.
That needs CAP_DAC_READ_SEARCH, which a tracer confined to CAP_BPF lacks. Then the tree is walked: 27 µs a directory, so that
20,000 of them, at once, would stop the reader for longer than the ring lasts. It is walked in pieces, once a second at most.

Paths are kept when their cgroups are gone: ids of cgroups are not used again.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import OrderedDict, deque
from functools import cache
from itertools import islice
from pathlib import Path

from tracer.owners.cgroups import cgroup2_mount

CAPACITY_PATHS = 20_000
WALK_EVERY_NS = 1_000_000_000
WALK_DIRECTORIES_MAX = 2_000
_MOUNTINFO_BYTES_MAX = 1 << 22
_FILEID_KERNFS = 0xFE  # include/linux/exportfs.h: the 64-bit id of a node in kernfs
_REFUSED = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
_ID_MAX = (1 << 64) - 1


class _FileHandle(ctypes.Structure):
    """struct file_handle with the eight bytes that a node in kernfs takes."""

    _fields_ = (("handle_bytes", ctypes.c_uint), ("handle_type", ctypes.c_int), ("id", ctypes.c_uint64))


class CgroupTree:
    """Paths of cgroups v2 by id, from the root of this process' cgroup namespace; remembers the latest CAPACITY_PATHS."""

    def __init__(self, proc_root: Path = Path("/proc"), *, root: Path | None = None, by_handle: bool = True) -> None:
        """Take the places.

        Args:
            proc_root: where /proc is.
            root: where the root of cgroup v2 is mounted; None: looked up in /proc/self/mountinfo.
            by_handle: ask the kernel for single ids, until it refuses; False: walk.
        """
        self._mount = (os.fsencode(root), b"/") if root else _find_mount(proc_root)
        self._by_handle = by_handle
        self._paths: OrderedDict[int, str] = OrderedDict()
        self._to_walk: deque[bytes] = deque()
        self._walked_ns: int | None = None

    @property
    def mounted(self) -> bool:
        """Whether there is a cgroup v2 to look at; without it every path is unknown."""
        return self._mount is not None

    def path_of(self, cgroup_id: int, now_ns: int) -> str:
        """The path of a cgroup; "" if it is unknown, by now or for good.

        Args:
            cgroup_id: as bpf_get_current_cgroup_id gives it; -1 unknown.
            now_ns: of any clock that does not go back.
        """
        if self._mount is None or not 0 < cgroup_id <= _ID_MAX:
            return ""
        if cgroup_id not in self._paths:
            self._look(cgroup_id, now_ns)
        if cgroup_id not in self._paths:
            return ""
        self._paths.move_to_end(cgroup_id)
        return self._paths[cgroup_id]

    def _look(self, cgroup_id: int, now_ns: int) -> None:
        assert self._mount is not None
        if self._by_handle:
            try:
                self._keep(cgroup_id, _open_by_id(self._mount[0], cgroup_id))
            except OSError as error:
                self._by_handle = error.errno not in _REFUSED
        if not self._by_handle and (self._walked_ns is None or now_ns - self._walked_ns >= WALK_EVERY_NS):
            self._walked_ns = now_ns
            self._walk(self._mount[0])

    def _walk(self, mount_point: bytes) -> None:
        """Go on where the walk before ended, or begin again where it had seen all."""
        if not self._to_walk:
            self._to_walk.append(mount_point)
            self._keep_directory(mount_point)
        for _ in range(WALK_DIRECTORIES_MAX):
            if not self._to_walk:
                break
            try:
                with os.scandir(self._to_walk.popleft()) as entries:
                    for entry in islice(entries, CAPACITY_PATHS):
                        # What does not fit is walked the next time, from the top on.
                        if entry.is_dir(follow_symlinks=False) and len(self._to_walk) < CAPACITY_PATHS:
                            self._keep(entry.inode(), entry.path)
                            self._to_walk.append(entry.path)
            except OSError:
                continue  # gone meanwhile, or not to be seen

    def _keep_directory(self, directory: bytes) -> None:
        try:
            self._keep(os.stat(directory).st_ino, directory)  # noqa: PTH116 - pathlib takes no bytes
        except OSError:
            return

    def _keep(self, cgroup_id: int, directory: bytes) -> None:
        assert self._mount is not None
        mount_point, mounted = self._mount
        if directory != mount_point and not directory.startswith(mount_point.rstrip(b"/") + b"/"):
            return  # outside what is mounted here
        below = directory[len(mount_point.rstrip(b"/")) :]
        path = (mounted.rstrip(b"/") + below) or b"/"
        self._paths[cgroup_id] = path.decode("utf-8", "backslashreplace")
        self._paths.move_to_end(cgroup_id)
        while len(self._paths) > CAPACITY_PATHS:
            self._paths.popitem(last=False)


def _find_mount(proc_root: Path) -> tuple[bytes, bytes] | None:
    try:
        with (proc_root / "self/mountinfo").open("rb") as file:
            return cgroup2_mount(file.read(_MOUNTINFO_BYTES_MAX))
    except OSError:
        return None


def _open_by_id(mount_point: bytes, cgroup_id: int) -> bytes:
    """The directory of a cgroup.

    Raises:
        OSError: ESTALE, there is none of this id; EPERM, the capability is missing; EOPNOTSUPP, this is no cgroup v2.
    """
    mount_fd = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        handle = _FileHandle(8, _FILEID_KERNFS, cgroup_id)
        fd: int = _libc().open_by_handle_at(mount_fd, ctypes.byref(handle), os.O_PATH | os.O_CLOEXEC)
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        try:
            return os.fsencode(Path(f"/proc/self/fd/{fd}").readlink())
        finally:
            os.close(fd)
    finally:
        os.close(mount_fd)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
