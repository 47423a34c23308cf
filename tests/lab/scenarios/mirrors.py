"""Mirrors that fail, and clients that quietly go to the next place."""

from __future__ import annotations

import time
from functools import partial

from tests.lab.clients import Containerd, Dockerd, Skopeo, write_hosts
from tests.lab.daemon import free_port
from tests.lab.scenario import Scenario, Stage

MIRROR = "127.0.3.1"
SECOND_MIRROR = "127.0.3.2"
HUB = "127.0.4.1"
PULLS = 5
EVERY_S = 4
LOST = "127.0.5.1"


def _mirror(stage: Stage, kind: str, upstream: str, address: str = MIRROR) -> str:
    """ADDRESS:PORT of a mirror: `dead` (nobody listens), `500` (its upstream died), `503` (behind a proxy), or `healthy`."""
    if kind == "dead":
        host = f"{address}:{free_port(address)}"
    elif kind == "503":
        lines = ["http-request return status 503 content-type text/plain string unavailable"]
        host = stage.haproxy(lines=lines, address=address).host
    else:
        lost = (
            stage.registry(address=LOST) if kind == "500" else None
        )  # a pull-through registry does not start without its upstream
        extra = {"proxy": {"remoteurl": f"http://{lost.host}" if lost else upstream}}
        host = stage.registry(address=address, data=stage.new_folder("mirror-data"), extra=extra).host
        if lost:
            lost.kill()
    stage.endpoint(host, "mirror")
    return host


def _pulls(stage: Stage, client: Skopeo | Containerd | Dockerd, reference: str, kind: str) -> None:
    with stage.recording():
        if kind != "healthy":
            stage.fault_now()
        for _ in range(PULLS):
            stage.pulled(client.pull(reference))
            client.forget(reference)
            time.sleep(EVERY_S)
    assert stage.label.healthy_pulls == PULLS, stage.label.told


def _skopeo_with(stage: Stage, registries_conf: str) -> Skopeo:
    """Debian 12's skopeo reads registries.conf in its home; it does not know CONTAINERS_REGISTRIES_CONF."""
    client = stage.start(Skopeo(registries_conf=registries_conf))
    folder = client.folder / ".config" / "containers"
    folder.mkdir(parents=True)
    (folder / "registries.conf").write_text(registries_conf)
    return client


def _skopeo(kinds: tuple[str, ...], stage: Stage) -> None:
    registry = stage.registry("demo", address=HUB)
    stage.endpoint(registry.host)
    addresses = (MIRROR, SECOND_MIRROR)
    conf = f'[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n'
    for kind, address in zip(kinds, addresses, strict=False):
        host = _mirror(stage, kind, f"http://{registry.host}", address)
        conf += f'[[registry.mirror]]\nlocation = "{host}"\ninsecure = true\n'
    _pulls(stage, _skopeo_with(stage, conf), f"{registry.host}/demo:latest", kinds[0])


def _ctr(kind: str, stage: Stage) -> None:
    registry = stage.registry("demo", address=HUB)
    stage.endpoint(registry.host)
    host = _mirror(stage, kind, f"http://{registry.host}")
    hosts = stage.new_folder("hosts")
    write_hosts(hosts, registry.host, [f"http://{host}"], f"http://{registry.host}")
    _pulls(stage, stage.start(Containerd(hosts)), f"{registry.host}/demo:latest", kind)


def _dockerd(kind: str, stage: Stage) -> None:
    """Dockerd asks mirrors for names of Docker Hub only, so there is a Docker Hub, of its own."""
    authority = stage.authority()
    pair = authority.sign("hub", ["registry-1.docker.io"])
    hub = stage.registry("library/demo", address=HUB, port=443, certificate=pair)
    stage.endpoint(hub.host)
    plain = stage.registry("library/demo", address="127.0.4.2")
    host = _mirror(stage, kind, f"http://{plain.host}")
    names = {"registry-1.docker.io": HUB}
    client = stage.start(Dockerd([f"http://{host}"], ca=authority.certificate, names=names))
    _pulls(stage, client, "docker.io/library/demo:latest", kind)


def _both_down(stage: Stage) -> None:
    """The mirror and what is behind it: the user is told."""
    registry = f"{HUB}:{free_port(HUB)}"
    stage.endpoint(registry)
    host = _mirror(stage, "503", "")
    conf = f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n[[registry.mirror]]\nlocation = "{host}"\ninsecure = true\n'
    client = _skopeo_with(stage, conf)
    with stage.recording():
        stage.fault_now()
        for _ in range(PULLS):
            stage.pulled(client.pull(f"{registry}/demo:latest"))
            time.sleep(EVERY_S)


SCENARIOS = [
    Scenario(
        "skopeo-mirror-dead",
        "Nobody listens where the mirror was; skopeo goes to the registry each time, the user hears nothing.",
        "skopeo",
        "mirror-failure",
        partial(_skopeo, ("dead",)),
        also=("refused",),
    ),
    Scenario(
        "skopeo-mirror-500",
        "The pull-through mirror lost its upstream; skopeo goes to the registry each time.",
        "skopeo",
        "mirror-failure",
        partial(_skopeo, ("500",)),
    ),
    Scenario(
        "skopeo-two-mirrors-503",
        "Two mirrors answer 503 at once; skopeo asks both, then the registry.",
        "skopeo",
        "mirror-failure",
        partial(_skopeo, ("503", "503")),
    ),
    Scenario(
        "ctr-mirror-dead",
        "Nobody listens where the mirror was; ctr goes to the registry each time.",
        "ctr",
        "mirror-failure",
        partial(_ctr, "dead"),
        also=("refused",),
    ),
    Scenario(
        "ctr-mirror-500",
        "The pull-through mirror lost its upstream; ctr goes to the registry each time.",
        "ctr",
        "mirror-failure",
        partial(_ctr, "500"),
    ),
    Scenario(
        "dockerd-mirror-dead",
        "Nobody listens where the mirror was; dockerd goes to Docker Hub (the lab's) each time.",
        "dockerd",
        "mirror-failure",
        partial(_dockerd, "dead"),
        also=("refused",),
    ),
    Scenario(
        "dockerd-mirror-503",
        "The mirror answers 503; dockerd goes to Docker Hub (the lab's) each time.",
        "dockerd",
        "mirror-failure",
        partial(_dockerd, "503"),
    ),
    Scenario(
        "skopeo-mirror-and-registry-down",
        "The mirror answers 503 and nobody listens at the registry: every pull fails.",
        "skopeo",
        "mirror-failure",
        _both_down,
        also=("refused", "retry-storm"),
    ),
    Scenario(
        "healthy-mirror-skopeo",
        "skopeo pulls through a healthy mirror, which asks the registry itself.",
        "skopeo",
        None,
        partial(_skopeo, ("healthy",)),
    ),
    Scenario("healthy-mirror-ctr", "ctr pulls through a healthy mirror.", "ctr", None, partial(_ctr, "healthy")),
    Scenario("healthy-mirror-dockerd", "docker pulls through a healthy mirror.", "dockerd", None, partial(_dockerd, "healthy")),
]
