"""What is known of the programs that pull images, by process name. Pure.

Sources: the programs' code as of August 2026: moby daemon/internal/distribution (dockerd), containerd core/remotes/docker,
containers/image docker/docker_client.go, BuildKit util/resolver, go-containerregistry pkg/v1/remote, swarmkit api/defaults,
kubelet's imageBackOffPeriod. A process name is cut to 15 bytes by the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Family:
    """How a family of clients behaves.

    Attributes:
        name: as in findings.
        idle_s: it closes an idle connection itself after so long; one that is open and silent for longer waits for something.
        one_shot: the process ends when its work is done, and does not keep idle connections for later.
        backs_off: it repeats a request refused with 429 after 2, 4, 8, 16 s, and nothing else it repeats like that.
        bursts: it repeats such a request at once, several times.
        puller: it is there to pull or push images; it may look at a tag too.
        engine: it only talks to a registry in order to pull or push; it never just looks whether a tag changed.
    """

    name: str
    idle_s: float
    one_shot: bool = False
    backs_off: bool = False
    bursts: bool = False
    puller: bool = True
    engine: bool = False


_CONTAINERS_IMAGE = Family("containers/image", 90, one_shot=True, backs_off=True)
_CONTAINERS_IMAGE_DAEMON = Family("containers/image", 90, backs_off=True, engine=True)
_CONTAINERD = Family("containerd", 30, bursts=True, engine=True)
_DOCKERD = Family("dockerd", 30, engine=True)

UNKNOWN = Family("unknown", 125, puller=False)
"""Longer than the idle time-out of any client known."""

FAMILIES: dict[bytes, Family] = {
    b"dockerd": _DOCKERD,
    b"containerd": _CONTAINERD,
    b"ctr": Family("containerd", 30, one_shot=True, bursts=True),
    b"nerdctl": Family("containerd", 30, one_shot=True, bursts=True),
    b"k3s": _CONTAINERD,
    b"k3s-agent": _CONTAINERD,
    b"k3s-server": _CONTAINERD,
    b"rke2": _CONTAINERD,
    b"skopeo": _CONTAINERS_IMAGE,
    b"podman": _CONTAINERS_IMAGE,
    b"buildah": _CONTAINERS_IMAGE,
    b"crio": _CONTAINERS_IMAGE_DAEMON,
    b"buildkitd": Family("BuildKit", 120, bursts=True, engine=True),
    b"crane": Family("go-containerregistry", 90, one_shot=True),
    b"executor": Family("go-containerregistry", 90, one_shot=True),
    b"kubelet": Family("kubelet", 90, engine=True),
    b"curl": Family("curl", 60, one_shot=True, puller=False),
    b"wget": Family("wget", 60, one_shot=True, puller=False),
}
"""By process name."""


def family_of(comm: bytes) -> Family:
    """The family of a process name."""
    return FAMILIES.get(comm, UNKNOWN)
