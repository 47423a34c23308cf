"""The owner of connections: what was found out about one process. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from tracer.text import comm_bytes, comm_text

UNKNOWN = -1
_TEXT_LENGTH_MAX = 4096  # PATH_MAX; no other text is longer
_COMM_BYTES_MAX = 64  # TASK_COMM_LEN is 16; kernel threads (workqueues) show up to 64
_NUMBER_MAX = (1 << 63) - 1
_CGROUP_ID_MAX = (1 << 64) - 1  # the wire record has it unsigned
_ESCAPED = re.compile(r"\\(?!x[0-9a-f]{2})")


@dataclass(frozen=True)
class OwnerDetail:
    """One process, or what its cgroup alone tells of a process that ended before it could be looked at.

    Texts are as they were found, not yet safe for a terminal, but for `cmdline`.

    Attributes:
        pid: its number, as seen from the pid namespace of /proc.
        started_ns: boottime at which it began, rounded down to a tick of USER_HZ (10 ms); -1 unknown, as of one that had ended.
        comm: the name of its first thread when it was looked at, raw; empty: unknown.
        cmdline: its arguments, quoted as for a shell, secrets masked, at most 1,024 characters; "" unknown, or a kernel thread.
        cgroup_id: the cgroup v2 in which it connected, as bpf_get_current_cgroup_id gives it; -1 unknown.
        cgroup: path of the cgroup that tells most about it; "" unknown.
        container: id (64 hex digits) or, with lxc and systemd-nspawn, name; "" none.
        runtime: "docker", "containerd", "podman", "cri-o", "lxc" or "systemd-nspawn"; "" no container, or nobody says whose.
        pod: uid of the Kubernetes pod, or id of the podman pod; "" none.
        unit: the systemd unit; "" none, or one that only stands for the container.
        netns: inode of its network namespace; -1 unknown.
        netns_name: "host", a name in /run/netns, "own" (the tracer's), "container"; "" unknown.
        uid: its effective user; -1 unknown.
    """

    pid: int
    started_ns: int = UNKNOWN
    comm: bytes = b""
    cmdline: str = ""
    cgroup_id: int = UNKNOWN
    cgroup: str = ""
    container: str = ""
    runtime: str = ""
    pod: str = ""
    unit: str = ""
    netns: int = UNKNOWN
    netns_name: str = ""
    uid: int = UNKNOWN

    def to_json(self) -> dict[str, Any]:
        """All fields under their names; comm as `tracer.text.comm_text` writes it."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"comm": comm_text(self.comm)}

    @classmethod
    def from_json(cls, value: object) -> OwnerDetail:
        """What `to_json` made, out of a file that anybody may have written.

        Raises:
            ValueError: fields are missing, unknown, of another type or out of range.
        """
        if not isinstance(value, dict) or set(value) != _TYPES.keys():
            raise ValueError("an owner has other fields than " + ", ".join(_TYPES))
        for name, kind in _TYPES.items():
            if kind == "int":
                _check_number(name, value[name])
            else:
                _check_text(name, value[name])
        comm = comm_bytes(value["comm"]) if not _ESCAPED.search(value["comm"]) else None
        if comm is None or len(comm) > _COMM_BYTES_MAX:
            raise ValueError(f"comm of an owner is no name of a process: {value['comm'][:_COMM_BYTES_MAX]!r}")
        return cls(**(value | {"comm": comm}))


_TYPES = {field.name: str(field.type) for field in fields(OwnerDetail)}


def _check_number(name: str, value: object) -> None:
    # bool is an int to isinstance
    most = _CGROUP_ID_MAX if name == "cgroup_id" else _NUMBER_MAX
    if type(value) is not int or not (0 if name == "pid" else UNKNOWN) <= value <= most:
        raise ValueError(f"{name} of an owner is no number in its range")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or len(value) > _TEXT_LENGTH_MAX:
        raise ValueError(f"{name} of an owner is no text of at most {_TEXT_LENGTH_MAX} characters")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{name} of an owner has a lone surrogate") from None
