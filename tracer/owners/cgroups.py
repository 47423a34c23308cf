r"""What the path of a cgroup tells: the container, the pod and the systemd unit. Pure.

Nothing but names says which cgroup is a container's: every runtime has its own form, once for systemd's cgroups and once for its
own, and containers hold further ones. Paths are read from the innermost name outwards; the first that is a container's names it.
A name is what whoever may make cgroups chose: root, and users below their own user@UID.service.

    docker       /docker/ID  /system.slice/docker-ID.scope  /docker/buildx/ID  (ECS, --cgroup-parent) /any/ID: nobody says whose
    containerd   /default/ID  /k8s.io/ID  cri-containerd-ID.scope  nerdctl-ID.scope  SLICE:cri-containerd:ID (a misfit of drivers)
    cri-o        crio-ID[.scope]  crio-conmon-ID.scope
    podman       libpod-ID.scope[/container]  libpod_parent/libpod-ID  NAME.service/libpod-payload-ID (quadlet)
    kubernetes   /kubepods/QOS/podUID/ID: nobody says whose  kubepods-QOS-podU_I_D.slice/...
    lxc          /lxc/NAME  lxc.payload.NAME  lxc.payload/NAME  machine-lxc\x2dPID\x2dNAME.scope (libvirt)
    nspawn       machine-NAME.scope  systemd-nspawn@NAME.service
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_ID = "[0-9a-f]{64}"
_BARE = re.compile(_ID)
# docker-ID.scope; crio-ID without systemd; slice:prefix:ID where containerd hands a systemd path to a runc without systemd.
_NAMED = re.compile(
    rf"(?:.*\.slice:)?(?P<prefix>docker|cri-containerd|nerdctl|crio|libpod)[-:](?:conmon-|payload-)?(?P<id>{_ID})(?:\.scope)?"
)
_RUNTIMES = {
    "docker": "docker", "cri-containerd": "containerd", "nerdctl": "containerd", "crio": "cri-o", "libpod": "podman",
}  # fmt: skip
# Whose a bare id is, by the name above it; containerd's are its usual namespaces.
_PARENTS = {"docker": "docker", "buildx": "docker", "default": "containerd", "k8s.io": "containerd"}
_PODMAN_POD_ABOVE = "libpod_parent"
_LXC_PAYLOAD = re.compile(r"lxc\.payload\.(?P<name>.+)")
_LXC_ABOVE = ("lxc", "lxc.payload")
_LIBVIRT_LXC = re.compile(r"machine-lxc\\x2d\d+\\x2d(?P<name>.+)\.scope")
_LIBVIRT_OTHER = re.compile(r"machine-(?:qemu|xen|ch|bhyve)\\x2d\d+\\x2d.+\.scope")
_NSPAWN = re.compile(r"machine-(?P<name>.+)\.scope|systemd-nspawn@(?P<instance>.+)\.service")
# A pod's uid is a UUID, or 32 digits for pods out of files on the node.
_POD = re.compile(
    r"(?:.*kubepods(?:-[a-z]+)*-)?pod(?P<uid>[0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12})(?:\.slice(?::.*)?)?"
    rf"|.*libpod_pod_(?P<podman>{_ID})(?:\.slice)?"
)
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(?:service|scope|socket|mount|swap)")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")
_GONE = b" (deleted)"
_NAMES_MAX = 64  # systemd and Kubernetes make about eight


@dataclass(frozen=True)
class Container:
    """A container, as its cgroup names it; `runtime` and `pod` are "" where that says nothing of them."""

    id: str
    runtime: str
    pod: str


def parse_cgroup(text: bytes) -> tuple[str, ...]:
    """The paths in a /proc/PID/cgroup, each once, the one that tells most first; empty if there are none.

    With hybrid cgroups a container may be found in version 1 only and a unit in version 2 only.
    """
    found: dict[str, int] = {}
    for line in text.split(b"\n"):
        _, _, rest = line.partition(b":")
        controllers, colon, path = rest.partition(b":")
        if colon and path.startswith(b"/"):
            place = {b"": 0, b"name=systemd": 1}.get(controllers, 2)
            shown = path.removesuffix(_GONE).decode("utf-8", "backslashreplace")
            found[shown] = min(place, found.get(shown, place))
    return most_telling(sorted(found, key=found.__getitem__))


def most_telling(paths: Iterable[str]) -> tuple[str, ...]:
    """Those that name a container first, then those that name a unit, then others than the root; equals stay as they were."""

    def rank(path: str) -> int:
        if container_of(path):
            return 0
        if unit_of(path):
            return 1
        return 2 if _names(path) else 3

    return tuple(sorted(dict.fromkeys(paths), key=rank))


def container_of(path: str) -> Container | None:
    """The innermost container in the path of a cgroup; None: there is none."""
    names = _names(path)
    for at in range(len(names) - 1, -1, -1):
        found = _container_at(names, at)
        if found:
            return Container(*found, _pod(names[: at + 1]))
    return None


def unit_of(path: str) -> str:
    """The innermost systemd unit in the path of a cgroup, as systemctl takes it; "" if there is none.

    A scope that only stands for a container is left out: the container's id says it already.
    """
    names = _names(path)
    for at in range(len(names) - 1, -1, -1):
        if _UNIT.fullmatch(names[at]) and not _container_at(names, at):
            # systemd puts a "_" before names that would clash with the kernel's files (cg_escape)
            return names[at].removeprefix("_")
    return ""


def cgroup2_mount(mountinfo: bytes) -> tuple[bytes, bytes] | None:
    """Where a /proc/PID/mountinfo says cgroup v2 is: the mount point, and which cgroup is mounted there; None: nowhere.

    Of several mounts it is the one that shows most: the root, or else the highest.
    """
    mounts = []
    for line in mountinfo.split(b"\n"):
        left, dash, right = line.partition(b" - ")
        columns = left.split(b" ")
        if dash and right.startswith(b"cgroup2 ") and len(columns) >= 5:
            mounts.append((_unescaped(columns[4]), _unescaped(columns[3])))
    return min(mounts, key=lambda mount: (mount[1].rstrip(b"/").count(b"/"), mount), default=None)


def _names(path: str) -> list[str]:
    # From within a cgroup namespace, what is outside of it begins with "..".
    return [name for name in path.split("/") if name not in ("", ".", "..")][-_NAMES_MAX:]


def _container_at(names: Sequence[str], at: int) -> tuple[str, str] | None:
    """(id, runtime) if this name is a container's."""
    name, above = names[at], names[at - 1] if at else ""
    if _BARE.fullmatch(name):
        return None if above == _PODMAN_POD_ABOVE else (name, _PARENTS.get(above, ""))
    named = _NAMED.fullmatch(name)
    if named:
        return named["id"], _RUNTIMES[named["prefix"]]
    lxc = _LXC_PAYLOAD.fullmatch(name)
    if lxc:
        return lxc["name"], "lxc"
    if above in _LXC_ABOVE:
        return name, "lxc"
    libvirt = _LIBVIRT_LXC.fullmatch(name)
    if libvirt:
        return _plain(libvirt["name"]), "lxc"
    machine = None if _LIBVIRT_OTHER.fullmatch(name) else _NSPAWN.fullmatch(name)
    return (_plain(machine["name"] or machine["instance"]), "systemd-nspawn") if machine else None


def _pod(names: Sequence[str]) -> str:
    for name in reversed(names):
        found = _POD.fullmatch(name)
        if found:
            return found["podman"] or found["uid"].replace("_", "-")
    return ""


def _plain(name: str) -> str:
    """A name out of a unit's: systemd writes what a unit's name can't hold as hex digits."""
    raw = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), name)
    try:
        return raw.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return name


def _unescaped(column: bytes) -> bytes:
    """Blanks, tabs, newlines and backslashes are octal in mountinfo."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 0xFF]), column)
