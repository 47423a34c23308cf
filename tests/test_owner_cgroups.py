r"""tracer.owners.cgroups: paths as the runtimes make them.

The forms are those of runc's and crun's cgroup drivers, of kubelet, of systemd and of lxc; ids are made up.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.owners.cgroups import Container, cgroup2_mount, container_of, most_telling, parse_cgroup, unit_of

A, B = "a1" * 32, "0f" * 32
UID = "1c2d3e4f-0011-2233-4455-66778899aabb"
UNDER = UID.replace("-", "_")
STATIC = "8daa50c3a64c9ff60bb9eab7b44b56fd"
USER = "/user.slice/user-1000.slice/user@1000.service"
KUBE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDER}.slice"
KIND = f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{UNDER}.slice"

CONTAINERS = [
    # docker: its own driver, systemd's, rootless, BuildKit's builder, with a --cgroup-parent
    (f"/docker/{A}", A, "docker", "", ""),
    (f"/system.slice/docker-{A}.scope", A, "docker", "", ""),
    (f"{USER}/user.slice/docker-{A}.scope", A, "docker", "", "user@1000.service"),
    (f"/docker/buildx/{A}", A, "docker", "", ""),
    (f"/docker/buildx/{A}/buildkit/k3x1p9", A, "docker", "", ""),
    (f"/ci.slice/docker-{A}.scope", A, "docker", "", ""),
    (f"/ci/{A}", A, "", "", ""),
    (f"/ecs/0123456789abcdef/{A}", A, "", "", ""),
    (f"/{A}", A, "", "", ""),
    # containerd: ctr, nerdctl, Kubernetes, and a systemd path given to a runc that does not use systemd
    (f"/default/{A}", A, "containerd", "", ""),
    (f"/k8s.io/{A}", A, "containerd", "", ""),
    (f"/system.slice/nerdctl-{A}.scope", A, "containerd", "", ""),
    (f"{KUBE}/cri-containerd-{A}.scope", A, "containerd", UID, ""),
    (f"/kubepods.slice/kubepods-pod{UNDER}.slice/cri-containerd-{A}.scope", A, "containerd", UID, ""),
    (f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{STATIC}.slice/cri-containerd-{A}.scope",
     A, "containerd", STATIC, ""),
    (f"/system.slice/containerd.service/kubepods-burstable-pod{UNDER}.slice:cri-containerd:{A}",
     A, "containerd", UID, "containerd.service"),
    (f"/kubepods/burstable/pod{UID}/{A}", A, "", UID, ""),
    (f"/kubepods/pod{UID}/{A}", A, "", UID, ""),
    (f"/system.slice/k3s.service/kubepods/besteffort/pod{UID}/{A}", A, "", UID, "k3s.service"),
    # CRI-O
    (f"{KUBE}/crio-{A}.scope", A, "cri-o", UID, ""),
    (f"{KUBE}/crio-{A}.scope/container", A, "cri-o", UID, ""),
    (f"/kubepods/burstable/pod{UID}/crio-{A}", A, "cri-o", UID, ""),
    (f"{KUBE}/crio-conmon-{A}.scope", A, "cri-o", UID, ""),
    # podman: systemd's driver, its own, rootless, in pods, in units made by quadlet
    (f"/machine.slice/libpod-{A}.scope", A, "podman", "", ""),
    (f"/machine.slice/libpod-{A}.scope/container", A, "podman", "", ""),
    (f"/libpod_parent/libpod-{A}", A, "podman", "", ""),
    (f"/libpod_parent/{B}/libpod-{A}", A, "podman", "", ""),
    (f"{USER}/user.slice/libpod-{A}.scope/container", A, "podman", "", "user@1000.service"),
    (f"/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope/container", A, "podman", B, ""),
    (f"{USER}/user.slice/user-libpod_pod_{B}.slice/libpod-{A}.scope", A, "podman", B, "user@1000.service"),
    (f"/system.slice/web.service/libpod-payload-{A}", A, "podman", "", "web.service"),
    # LXC, LXD, Proxmox, libvirt
    ("/lxc/web", "web", "lxc", "", ""),
    ("/lxc/101/ns/system.slice/nginx.service", "101", "lxc", "", "nginx.service"),
    ("/lxc.payload.project_web/init.scope", "project_web", "lxc", "", "init.scope"),
    ("/lxc.payload/web", "web", "lxc", "", ""),
    (r"/machine.slice/machine-lxc\x2d812\x2dold\x2dweb.scope", "old-web", "lxc", "", ""),
    # systemd-nspawn
    ("/machine.slice/machine-web.scope", "web", "systemd-nspawn", "", ""),
    (r"/machine.slice/machine-old\x2dweb.scope/payload/system.slice/nginx.service",
     "old-web", "systemd-nspawn", "", "nginx.service"),
    ("/machine.slice/systemd-nspawn@web.service/payload", "web", "systemd-nspawn", "", ""),
    # One in another: kind, Docker in Docker, Docker in a pod, podman in LXC
    (f"/system.slice/docker-{B}.scope/{KIND}/cri-containerd-{A}.scope", A, "containerd", UID, ""),
    (f"/docker/{B}/kubelet/kubepods/burstable/pod{UID}/{A}", A, "", UID, ""),
    (f"/docker/{B}/docker/{A}", A, "docker", "", ""),
    (f"{KUBE}/cri-containerd-{B}.scope/docker/{A}", A, "docker", UID, ""),
    (f"/lxc/web/machine.slice/libpod-{A}.scope", A, "podman", "", ""),
    # systemd within a container
    (f"/docker/{A}/system.slice/sshd.service", A, "docker", "", "sshd.service"),
    # Seen from within a cgroup namespace
    (f"/../../docker/{A}", A, "docker", "", ""),
    (f"/../cri-containerd-{A}.scope", A, "containerd", "", ""),
]  # fmt: skip

HOSTS = [
    ("/", ""),
    ("/init.scope", "init.scope"),
    ("/system.slice/docker.service", "docker.service"),
    ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
    ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
    (f"{USER}/init.scope", "init.scope"),
    (f"{USER}/app.slice/app-org.example.Term\\x2d12.scope", "app-org.example.Term\\x2d12.scope"),
    (f"{USER}/app.slice/pull.service/child", "pull.service"),
    ("/system.slice/_cpu.service", "cpu.service"),
    ("/system.slice", ""),
    ("/lxc.monitor.web", ""),
    (f"/kubepods/burstable/pod{UID}", ""),
    (f"/docker/{A[:-1]}", ""),
    (f"/docker/{A}0", ""),
    (f"/docker/{A.upper()}", ""),
    (f"/system.slice/docker-{A[:12]}.scope", f"docker-{A[:12]}.scope"),
    (f"/libpod_parent/{A}", ""),
    (f"/system.slice/{A}x", ""),
]


@pytest.mark.parametrize(("path", "container", "runtime", "pod", "unit"), CONTAINERS)
def test_a_container_is_known_by_its_path(path: str, container: str, runtime: str, pod: str, unit: str) -> None:
    assert container_of(path) == Container(container, runtime, pod)
    assert unit_of(path) == unit


@pytest.mark.parametrize(("path", "unit"), HOSTS)
def test_a_path_of_the_host_has_at_most_a_unit(path: str, unit: str) -> None:
    assert (container_of(path), unit_of(path)) == (None, unit)


def test_a_virtual_machine_is_no_container() -> None:
    path = r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator"
    assert (container_of(path), unit_of(path)) == (None, r"machine-qemu\x2d1\x2dvm.scope")


@pytest.mark.parametrize("path", [case[0] for case in CONTAINERS])
def test_what_a_container_makes_within_itself_changes_nothing(path: str) -> None:
    assert container_of(path + "/buildkit/x7") == container_of(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # version 2
        (f"0::/system.slice/docker-{A}.scope\n", (f"/system.slice/docker-{A}.scope",)),
        # version 1, docker's own driver
        (f"12:pids:/docker/{A}\n1:name=systemd:/docker/{A}\n0::/system.slice/containerd.service\n",
         (f"/docker/{A}", "/system.slice/containerd.service")),
        # hybrid, a service
        ("9:memory:/system.slice\n1:name=systemd:/system.slice/cron.service\n0::/system.slice/cron.service\n",
         ("/system.slice/cron.service", "/system.slice")),
        # none says anything: version 2 first
        ("9:memory:/a\n1:name=systemd:/b\n0::/c\n", ("/c", "/b", "/a")),
        ("2:cpu,cpuacct:/\n0::/\n", ("/",)),
        ("0::/system.slice/web.service (deleted)\n", ("/system.slice/web.service",)),
        ("3:memory:/with:colon\n", ("/with:colon",)),
        ("", ()),
        ("nonsense\n::\n0::relative\n", ()),
    ],
)  # fmt: skip
def test_the_line_that_says_most_comes_first(text: str, expected: tuple[str, ...]) -> None:
    assert parse_cgroup(text.encode()) == expected


def test_paths_that_say_as_much_stay_in_their_order() -> None:
    assert most_telling(["/x", "/b.service", f"/docker/{A}", "/a.service", "/"]) == (
        f"/docker/{A}", "/b.service", "/a.service", "/x", "/",
    )  # fmt: skip


def test_of_several_mounts_the_one_that_shows_most_is_taken() -> None:
    line = "31 23 0:28 {} {} rw,relatime shared:5 - cgroup2 cgroup2 rw,nsdelegate\n"
    text = "30 23 0:27 / /sys rw - sysfs sysfs rw\n" + line.format("/part", "/a") + line.format("/", r"/with\040blank")
    assert cgroup2_mount(text.encode()) == (b"/with blank", b"/")


def test_without_cgroups_of_version_2_there_is_no_mount() -> None:
    assert cgroup2_mount(b"33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\n- cgroup2 \n") is None


NAMES = st.sampled_from(
    ["", "..", "docker", A, f"docker-{A}.scope", f"libpod-{A}", "x.service", "lxc", "machine-.scope", f"pod{UID}",
     "kubepods-pod.slice", "a.slice:cri-containerd:", "machine-lxc\\x2d1\\x2d\\xff.scope", "\\x2d", ":", "0::"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(NAMES | st.text(max_size=6), max_size=80).map("/".join))
def test_any_path_is_read_or_says_nothing(path: str) -> None:
    container = container_of(path)
    assert container is None or container.id
    assert unit_of(path) == "" or "." in unit_of(path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_to_absolute_paths(text: bytes) -> None:
    assert all(path.startswith("/") for path in parse_cgroup(text))
    cgroup2_mount(text)


@given(st.text("0123456789abcdef", min_size=1, max_size=80).filter(lambda text: len(text) != 64))
def test_hex_digits_of_another_length_are_no_container(digits: str) -> None:
    for path in (f"/docker/{digits}", f"/system.slice/docker-{digits}.scope", f"/machine.slice/libpod-{digits}.scope/container"):
        assert container_of(path) is None
