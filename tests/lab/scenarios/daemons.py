"""What only a daemon or a loop around one shows: series of pulls by containerd and dockerd, and Swarm's restart loop."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.lab.clients import Client, Containerd, Dockerd, Skopeo, write_hosts
from tests.lab.daemon import free_port
from tests.lab.faults import syn_dropped
from tests.lab.scenario import Scenario, Stage
from tests.lab.servers import HAProxy, abuse_limit, pull_limit
from tests.lab.traffic import Told, now_ns

PULLS = 20
HEALTHY_PULLS = 3  # before a fault
LOOP = 30  # attempts of a loop that goes on every second
# /v2/ (not ctr), HEAD and GET of the manifest, configuration, three layers.
REQUESTS_PER_PULL = {"ctr": 6, "dockerd": 7}
HUB, HUB_NAME = "127.0.5.1", "registry-1.docker.io"
MIRROR = "127.0.5.3"

Make = Callable[..., Client]
DAEMONS: dict[str, Make] = {"ctr": Containerd, "dockerd": Dockerd}
CLIENTS: dict[str, Make] = {"skopeo": Skopeo, **DAEMONS}


def pull(stage: Stage, client: Client, host: str, *, image: str = "demo", timeout_s: float = 120) -> Told:
    """Pull all of an image once, and note it."""
    reference = f"{host}/{image}:latest"
    told = client.pull(reference, timeout_s)
    stage.pulled(told)
    client.forget(reference)
    return told


def repeat(stage: Stage, client: Client, host: str, times: int, pause_s: float = 0.5, *, image: str = "demo") -> list[Told]:
    """Pull again and again, as a shell loop with a sleep does."""
    results = []
    for _ in range(times):
        results.append(pull(stage, client, host, image=image))
        time.sleep(pause_s)
    return results


def boottime_of(wall_us: int) -> int:
    """CLOCK_BOOTTIME of a time in a log, in µs since 1970."""
    return wall_us * 1000 - (time.time_ns() - now_ns())


def _healthy(stage: Stage, make: Make) -> None:
    registry = stage.registry("demo")
    stage.endpoint(registry.host)
    client = stage.start(make())
    with stage.recording():
        repeat(stage, client, registry.host, PULLS)


def _healthy_tls(stage: Stage, make: Make) -> None:
    trusted = stage.authority()
    registry = stage.registry("demo", certificate=trusted.sign("registry", ["127.0.1.1"]))
    stage.endpoint(registry.host)
    client = stage.start(make(ca=trusted.certificate))
    with stage.recording():
        repeat(stage, client, registry.host, PULLS)


def _limited(stage: Stage, name: str, *, kept: bool, attempts: int, pause_s: float = 0.0, tls: bool = False) -> None:
    """Some healthy pulls, then attempts that meet the limit."""
    registry = stage.registry("demo")
    lines = pull_limit(HEALTHY_PULLS, 600) if kept else abuse_limit(HEALTHY_PULLS * REQUESTS_PER_PULL[name], 300)
    options: dict[str, Any] = {}
    front_options: dict[str, Any] = {"lines": lines}
    if tls:
        trusted = stage.authority()
        options["ca"] = trusted.certificate
        front_options["certificate"] = trusted.sign("front", ["127.0.2.1"])
    front: HAProxy = stage.haproxy(registry, **front_options)
    stage.endpoint(front.host)
    client = stage.start(DAEMONS[name](**options))
    with stage.recording():
        results = repeat(stage, client, front.host, HEALTHY_PULLS)
        assert all(told.ok for told in results), f"before the limit: {results}"
        results = repeat(stage, client, front.host, attempts, pause_s)
        assert not any(told.ok for told in results), "a pull came through under the limit"
    stage.fault_at(boottime_of(front.answered(429)[0]))


def _refused(stage: Stage, make: Make, attempts: int, pause_s: float) -> None:
    host = f"127.0.1.1:{free_port('127.0.1.1')}"
    stage.endpoint(host)
    client = stage.start(make())
    with stage.recording():
        stage.fault_now()
        repeat(stage, client, host, attempts, pause_s)


def _killed_and_back(stage: Stage, make: Make) -> None:
    registry = stage.registry("demo")
    stage.endpoint(registry.host)
    client = stage.start(make())
    with stage.recording():
        repeat(stage, client, registry.host, HEALTHY_PULLS, 1)
        registry.kill()
        stage.fault_now()
        results = repeat(stage, client, registry.host, 6, 2)
        assert not any(told.ok for told in results), "there is no registry"
        registry.start()
        results = repeat(stage, client, registry.host, 6, 2)
        assert all(told.ok for told in results), f"the registry is back: {results}"


def _mirror(stage: Stage, name: str, *, dropped: bool) -> None:
    """A mirror that goes away in the middle of a series; the pulls come through from the registry itself.

    dockerd takes mirrors for Docker Hub's names only, so a registry here plays the Hub: on port 443, with a certificate for its
    name, which means this address to that one dockerd. containerd takes them for any registry.
    """
    trusted = stage.authority()
    image = "library/demo"
    registry = stage.registry(image, address=HUB, port=443, certificate=trusted.sign("hub", [HUB_NAME, HUB]))
    mirror = stage.registry(image, address=MIRROR)
    stage.endpoint(mirror.host, "mirror")
    stage.endpoint(registry.host)
    if name == "dockerd":
        host = "docker.io"
        client: Client = Dockerd([f"http://{mirror.host}"], ca=trusted.certificate, names={HUB_NAME: HUB})
    else:
        host, hosts = "registry.lab", stage.new_folder("certs.d")
        write_hosts(hosts, host, [f"http://{mirror.host}"], f"https://{registry.host}", trusted.certificate)
        client = Containerd(hosts)
    stage.start(client)
    with stage.recording():
        results = repeat(stage, client, host, HEALTHY_PULLS, image=image)
        if dropped:
            stage.fault_now()
            with syn_dropped(mirror.address, mirror.port):
                results.append(pull(stage, client, host, image=image))  # ctr tries the mirror for each object, 30 s long
        else:
            mirror.kill()
            stage.fault_now()
            results += repeat(stage, client, host, 6, 1, image=image)
    assert all(told.ok for told in results), f"the registry behind the mirror is well: {results}"


def _docker(dockerd: Dockerd, *arguments: str) -> str:
    done = dockerd.run(*dockerd.docker(*arguments))
    if done.returncode:
        raise subprocess.SubprocessError(f"docker {arguments[0]} {arguments[1]}: {done.stderr.strip()}")
    return done.stdout


def _swarm(stage: Stage, delay_s: int, for_s: float, *, replicas: int = 1, refused: bool = False) -> None:
    """A service whose tasks can't start is started again and again, and each start asks the registry.

    With `--no-resolve-image`, as where the manager could not resolve the digest: a task with a digest would pull once only.
    Nobody is told: the service was created, and nobody looks.
    """
    lines = ("http-request deny deny_status 429",) if refused else ()
    front: HAProxy = stage.haproxy(stage.registry("demo"), lines=lines)
    stage.endpoint(front.host)
    dockerd = stage.start(Dockerd())
    _docker(dockerd, "swarm", "init", "--advertise-addr=127.0.0.1", "--listen-addr=127.0.0.1:2377")
    with stage.recording():
        stage.fault_now()
        service = ["--detach", "--no-resolve-image", "--network=host", f"--replicas={replicas}", f"--restart-delay={delay_s}s"]
        mount = "--mount=type=bind,source=/not-there,target=/data"
        _docker(dockerd, "service", "create", "--name=broken", *service, mount, f"{front.host}/demo:latest")
        time.sleep(for_s)
    tasks = _docker(dockerd, "service", "ps", "--quiet", "broken").split()
    assert len(tasks) > replicas, "no task was started again"
    _docker(dockerd, "service", "rm", "broken")
    _docker(dockerd, "swarm", "leave", "--force")


def _of_each() -> list[Scenario]:
    """The same stories for each daemon."""
    found: list[Scenario] = []
    for name, make in DAEMONS.items():

        def story(title: str, summary: str, fault: str | None, run: Callable[[Stage], None], *also: str, who: str = name) -> None:
            found.append(Scenario(f"{who}-{title}", summary, who, fault, run, also))

        story("pulls", f"{PULLS} whole pulls, one after another.", None, partial(_healthy, make=make))
        for kept, how, end in (
            (False, "closed", "all requests are limited, 429 closes"),
            (True, "kept", "pulls are limited, 429 keeps the connection"),
        ):
            loop = partial(_limited, name=name, kept=kept, attempts=LOOP, pause_s=1)
            summary = f"A loop pulls once a second under a limit: {end}."
            story(f"429-{how}-loop", summary, "rate-limit", loop, "retry-storm")
        refused = partial(_refused, make=make, attempts=8, pause_s=5)
        story("refused-loop", "A service pulls every 5 s where nobody listens.", "refused", refused, "retry-storm")
        story(
            "registry-killed",
            "The registry is killed, and is back after 12 s; a loop pulls every 2 s.",
            "refused",
            partial(_killed_and_back, make=make),
            "recovered",
            "retry-storm",
        )
        gone, silent = partial(_mirror, name=name, dropped=False), partial(_mirror, name=name, dropped=True)
        story("mirror-killed", "The mirror is killed between pulls; they come through.", "mirror-failure", gone, "refused")
        story("mirror-dropped", "The mirror's host is silent; pulls come through, late.", "mirror-failure", silent, "unreachable")
        limited = partial(_limited, name=name, kept=False, attempts=1, tls=True)
        summary = "One pull meets a limit of all requests, with TLS."
        found.append(Scenario(f"{name}-429-tls", summary, name, "rate-limit", limited))
    for name, make in CLIENTS.items():
        tls = partial(_healthy_tls, make=make)
        found.append(Scenario(f"{name}-pulls-tls", f"{PULLS} whole pulls with TLS.", name, None, tls))
    kept_once = partial(_limited, name="dockerd", kept=True, attempts=1)
    summary = "One docker pull meets a limit of pulls; the server would keep the connection."
    found.append(Scenario("dockerd-429-kept", summary, "dockerd", "rate-limit", kept_once))
    return found


SCENARIOS = [
    *_of_each(),
    Scenario(
        "swarm-1s",
        "A Swarm task whose mount fails is restarted every second, and asks the registry each time.",
        "dockerd",
        "retry-storm",
        partial(_swarm, delay_s=1, for_s=45),
    ),
    Scenario(
        "swarm-5s",
        "The same with Swarm's default delay of 5 s.",
        "dockerd",
        "retry-storm",
        partial(_swarm, delay_s=5, for_s=60),
    ),
    Scenario(
        "swarm-429",
        "Three Swarm tasks are restarted every 5 s while the registry answers everything with 429.",
        "dockerd",
        "rate-limit",
        partial(_swarm, delay_s=5, for_s=60, replicas=3, refused=True),
        ("retry-storm",),
    ),
]
