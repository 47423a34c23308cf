"""bpf(2) for the few commands the watching process needs: maps, test runs, and looking around.

bcc's own wrappers would bring LLVM into this process (libbcc links it), so these are made directly.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

from tracer.errors import SourceError

# enum bpf_cmd, include/uapi/linux/bpf.h
MAP_CREATE, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, MAP_DELETE_ELEM = 0, 1, 2, 3
PROG_TEST_RUN, PROG_GET_NEXT_ID, PROG_GET_FD_BY_ID, OBJ_GET_INFO_BY_FD = 10, 11, 13, 15
MAP_TYPE_RINGBUF = 27
_SYSCALL_NUMBERS = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64le": 361,
}
_ATTR_BYTES = 128
_POINTER_BYTES = 8
_PROG_INFO_BYTES = 128
_LINK_INFO_BYTES = 64
_KEY_ATTR_BYTES = 16  # of the attributes of map commands: map_fd, padding, key

_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attr: bytes) -> tuple[int, bytes]:
    """One bpf(2) call.

    Args:
        command: enum bpf_cmd.
        attr: the head of union bpf_attr for that command; the rest is zero.

    Returns:
        The call's result, and the attributes as the kernel left them (some commands answer there).

    Raises:
        OSError: what the kernel answered; ENOSYS on an architecture whose system call number is not known here.
    """
    number = _SYSCALL_NUMBERS.get(platform.machine())
    if number is None or struct.calcsize("P") != _POINTER_BYTES:  # a 32-bit process would make another call
        raise OSError(errno.ENOSYS, f"bpf(2) on {platform.machine()}")
    buffer = ctypes.create_string_buffer(attr, _ATTR_BYTES)
    result = int(_libc.syscall(number, command, buffer, _ATTR_BYTES))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result, buffer.raw


class BpfMap:
    """A map of fixed-size keys and values behind a file descriptor that this object owns."""

    def __init__(self, fd: int, key_bytes: int, value_bytes: int) -> None:
        self.fd = fd
        self._key = ctypes.create_string_buffer(key_bytes)
        self._value = ctypes.create_string_buffer(value_bytes)
        self._attr = struct.pack("=IIQQQ", fd, 0, ctypes.addressof(self._key), ctypes.addressof(self._value), 0)

    def lookup(self, key: bytes) -> bytes:
        """The value of a key.

        Raises:
            OSError: ENOENT and what else bpf(2) says.
        """
        self._key.raw = key
        bpf(MAP_LOOKUP_ELEM, self._attr)
        return self._value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """Set a key.

        Raises:
            OSError: ENOSPC or E2BIG when the map is full, and what else bpf(2) says.
        """
        self._key.raw = key
        self._value.raw = value
        bpf(MAP_UPDATE_ELEM, self._attr)

    def delete(self, key: bytes) -> None:
        """Remove a key; one that is not there is no error."""
        self._key.raw = key
        try:
            bpf(MAP_DELETE_ELEM, self._attr[:_KEY_ATTR_BYTES])  # the value's field must be zero here
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def close(self) -> None:
        """Give the file descriptor back."""
        os.close(self.fd)


def possible_cpus(text: str) -> int:
    """How many values a per-CPU map has, from /sys/devices/system/cpu/possible ("0-3" or "0,2-5").

    Raises:
        SourceError: the text is no such list.
    """
    try:
        last = max(int(part.rpartition("-")[2]) for part in text.strip().split(","))
    except ValueError:
        raise SourceError(f"/sys/devices/system/cpu/possible is {text!r}, expected a list of CPUs such as 0-3") from None
    return last + 1


def test_run_raw_tracepoint(program_fd: int, argument: int) -> None:
    """Run a raw tracepoint program once in this thread, with one argument (kernel >= 5.10).

    Raises:
        OSError: EINVAL or EOPNOTSUPP where the kernel can't.
    """
    context = ctypes.c_uint64(argument)
    # prog_fd, retval, data_size_in, data_size_out, data_in, data_out, repeat, duration, ctx_size_in, ctx_size_out, ctx_in
    attr = struct.pack("=IIIIQQIIIIQ", program_fd, 0, 0, 0, 0, 0, 0, 0, 8, 0, ctypes.addressof(context))
    bpf(PROG_TEST_RUN, attr)


def link_is_attached(fd: int) -> bool:
    """Whether a link still is one, with a program (struct bpf_link_info: type, id, prog_id)."""
    info = ctypes.create_string_buffer(_LINK_INFO_BYTES)
    try:
        bpf(OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, _LINK_INFO_BYTES, ctypes.addressof(info)))
    except OSError:
        return False
    return bool(struct.unpack_from("=III", info)[2])


def ring_buffer_error() -> str | None:
    """Why this process may not have a ring buffer map, tried by making the smallest one; None if it may."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    try:
        fd, _ = bpf(MAP_CREATE, struct.pack("=IIIII", MAP_TYPE_RINGBUF, 0, 0, page_bytes, 0))
    except OSError as error:
        return os.strerror(error.errno or 0)
    os.close(fd)
    return None


def loaded_programs() -> list[tuple[int, int, str]]:
    """(id, type, name) of every BPF program in the kernel.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN.
    """
    programs: list[tuple[int, int, str]] = []
    program_id = 0
    while True:
        try:
            _, answer = bpf(PROG_GET_NEXT_ID, struct.pack("=III", program_id, 0, 0))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return programs
            raise
        program_id = struct.unpack_from("=I", answer, 4)[0]
        try:
            fd, _ = bpf(PROG_GET_FD_BY_ID, struct.pack("=III", program_id, 0, 0))
        except OSError:
            continue  # unloaded meanwhile
        try:
            info = ctypes.create_string_buffer(_PROG_INFO_BYTES)
            bpf(OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, _PROG_INFO_BYTES, ctypes.addressof(info)))
            # struct bpf_prog_info: type u32 at 0, name[16] at 64
            programs.append((program_id, struct.unpack_from("=I", info.raw)[0], _text(info.raw[64:80])))
        finally:
            os.close(fd)


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("ascii", "replace")
