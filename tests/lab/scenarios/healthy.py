"""What is no fault, however much it looks like one."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from random import Random

from tests.lab.clients import Client, Containerd, Curl, Dockerd, Skopeo
from tests.lab.faults import link_rate
from tests.lab.scenario import Scenario, Stage
from tests.lab.traffic import (
    Running,
    get_command,
    head_command,
    inspect_command,
    looping,
    run,
    skopeo_command,
    starve,
)

PULLS = 20
MANY = 200
PARALLEL = 4
CHECKS = 60


def _pulls(new: Callable[[], Client], pulls: int, pause_s: float, stage: Stage) -> None:
    client = stage.start(new())
    registry = stage.registry("demo")
    reference = f"{registry.host}/demo:latest"
    stage.endpoint(registry.host)
    with stage.recording():
        for _ in range(pulls):
            stage.pulled(client.pull(reference))
            client.forget(reference)
            time.sleep(pause_s)


def _pulls_tls(stage: Stage) -> None:
    authority = stage.authority()
    front = stage.haproxy(stage.registry("demo"), certificate=authority.sign("registry", ["127.0.2.1"]))
    client = stage.start(Skopeo(ca=authority.certificate))
    stage.endpoint(front.host)
    with stage.recording():
        for _ in range(10):
            stage.pulled(client.pull(f"{front.host}/demo:latest"))


def _parallel(stage: Stage) -> None:
    registry = stage.registry("large")
    stage.endpoint(registry.host)
    _at_once(stage, registry.host, "large", PARALLEL)


def _at_once(stage: Stage, host: str, image: str, count: int) -> None:
    with stage.recording():
        clients = [Running(skopeo_command(host, stage.new_folder("pulled"), image=image)) for _ in range(count)]
        stage.pulled(*(client.wait() for client in clients))


def _nginx_slow(stage: Stage) -> None:
    front = stage.nginx(stage.registry("medium"), server=["limit_rate 1m"])
    stage.endpoint(front.host)
    _at_once(stage, front.host, "medium", 3)


def _slow_line(stage: Stage) -> None:
    registry = stage.registry("medium")
    stage.endpoint(registry.host)
    with link_rate(40):
        _at_once(stage, registry.host, "medium", 2)


def _slow_disk(stage: Stage) -> None:
    registry = stage.registry("medium")
    stage.endpoint(registry.host)
    with stage.recording():
        for _ in range(3):
            client = Running(skopeo_command(registry.host, stage.new_folder("pulled"), image="medium"))
            starve(client, 0.02, 0.3, 60)
            stage.pulled(client.wait())


def _tag_checks(jitter_s: float, stage: Stage) -> None:
    registry = stage.registry("demo")
    random = Random(7)
    stage.endpoint(registry.host)
    with stage.recording():
        for _ in range(CHECKS):
            stage.pulled(run(head_command(registry.host)))
            time.sleep(1 + random.uniform(-jitter_s, jitter_s))


def _tag_checks_tls(stage: Stage) -> None:
    authority = stage.authority()
    front = stage.haproxy(stage.registry("demo"), certificate=authority.sign("registry", ["127.0.2.1"]))
    stage.endpoint(front.host)
    with stage.recording(), looping(head_command(front.host, tls=True), 1, stage.folder / "checks") as loop:
        time.sleep(45)
        loop.stop()
        stage.pulled(*loop.results())


def _waiting_for_tag(stage: Stage) -> None:
    """404 every 2 s, then it is there: to TCP this is a refusal like any other."""
    registry = stage.registry("demo")
    stage.endpoint(registry.host)
    url = f"http://{registry.host}/v2/demo/manifests/not-yet"
    with stage.recording():
        for _ in range(15):
            stage.pulled(run(["curl", "-sSI", "-o", "/dev/null", url]))
            time.sleep(2)
        stage.pulled(run(skopeo_command(registry.host, stage.new_folder("pulled"))))


def _idle_closes(stage: Stage) -> None:
    front = stage.haproxy(stage.registry("demo"), keep_alive_s=3)
    stage.endpoint(front.host)
    with stage.recording():
        stage.pulled(run(head_command(front.host, times=10, every_s=5)))


def _keepalive_requests(stage: Stage) -> None:
    front = stage.nginx(stage.registry("demo"), server=["keepalive_requests 5"])
    puller = stage.start(Containerd())
    stage.endpoint(front.host)
    reference = f"{front.host}/demo:latest"
    with stage.recording():
        stage.pulled(run(head_command(front.host, times=40, every_s=0.5)))
        for _ in range(5):
            stage.pulled(puller.pull(reference))
            puller.forget(reference)


def _inspect(stage: Stage) -> None:
    registry = stage.registry("demo")
    stage.endpoint(registry.host)
    with stage.recording(), looping(inspect_command(registry.host), 1, stage.folder / "inspect") as loop:
        time.sleep(40)
        loop.stop()
        stage.pulled(*loop.results())


def _loop(stage: Stage) -> None:
    registry = stage.registry("demo")
    target = stage.new_folder("pulled")
    stage.endpoint(registry.host)
    command = skopeo_command(registry.host, target)
    with stage.recording(), looping(command, 5, stage.folder / "loop", target) as loop:
        time.sleep(42)
        loop.stop()
        stage.pulled(*loop.results())


def _curl_throttled(stage: Stage) -> None:
    registry = stage.registry("medium")
    stage.endpoint(registry.host)
    url = stage.images.layer_url(registry.host, "medium")
    with stage.recording():
        stage.pulled(run(get_command(url, "--limit-rate", "500k")))


def _bursts(stage: Stage) -> None:
    """The jobs of a CI run begin together."""
    registry = stage.registry("demo")
    stage.endpoint(registry.host)
    with stage.recording():
        for _ in range(3):
            clients = [Running(skopeo_command(registry.host, stage.new_folder("pulled"))) for _ in range(8)]
            stage.pulled(*(client.wait() for client in clients))
            time.sleep(6)


def _many_layers(stage: Stage) -> None:
    registry = stage.registry("many")
    stage.endpoint(registry.host)
    with stage.recording():
        for _ in range(3):
            stage.pulled(run(skopeo_command(registry.host, stage.new_folder("pulled"), image="many")))
            time.sleep(3)


def _doubling(stage: Stage) -> None:
    registry = stage.registry("demo")
    stage.endpoint(registry.host)
    with stage.recording():
        for pause_s in (2, 4, 8, 16, 0):
            stage.pulled(run(head_command(registry.host)))
            time.sleep(pause_s)


SCENARIOS = [
    Scenario("healthy-pulls", f"skopeo pulls {PULLS} times in a row.", "skopeo", None, partial(_pulls, Skopeo, PULLS, 0)),
    Scenario("healthy-pulls-tls", "skopeo pulls ten times over TLS, one after another.", "skopeo", None, _pulls_tls),
    Scenario("healthy-pulls-ctr", "ctr pulls ten times.", "ctr", None, partial(_pulls, Containerd, 10, 0.5)),
    Scenario("healthy-pulls-dockerd", "docker pulls ten times.", "dockerd", None, partial(_pulls, Dockerd, 10, 0.5)),
    *(
        Scenario(f"healthy-{MANY}-pulls-{name}", f"{MANY} whole pulls by {name}.", name, None, partial(_pulls, new, MANY, 0.1))
        for name, new in {"skopeo": Skopeo, "ctr": Containerd, "dockerd": Dockerd, "curl": Curl}.items()
    ),
    Scenario("healthy-pulls-curl", "A script with curl pulls 20 times.", "curl", None, partial(_pulls, Curl, 20, 1)),
    Scenario("healthy-parallel-large", f"{PARALLEL} skopeo pull 140 MB each at once.", "skopeo", None, _parallel),
    Scenario("healthy-slow-server", "nginx sends each body at 1 MB/s; three pulls at once.", "skopeo", None, _nginx_slow),
    Scenario("healthy-slow-line", "Two pulls share a line of 40 Mbit/s.", "skopeo", None, _slow_line),
    Scenario("healthy-slow-disk", "skopeo gets to run by turns only, as on a slow disk.", "skopeo", None, _slow_disk),
    Scenario(
        "healthy-tag-checks",
        f"curl asks for the manifest's digest {CHECKS} times, once a second, over a new connection each time.",
        "curl",
        None,
        partial(_tag_checks, 0),
    ),
    Scenario(
        "healthy-tag-checks-jitter",
        f"curl asks for the manifest's digest {CHECKS} times, every 0.5 to 1.5 s.",
        "curl",
        None,
        partial(_tag_checks, 0.5),
    ),
    Scenario("healthy-tag-checks-tls", "curl asks for the digest every second over TLS.", "curl", None, _tag_checks_tls),
    Scenario(
        "healthy-waiting-for-tag",
        "A script asks every 2 s for a tag that is not there yet (404); then an image is pulled.",
        "curl",
        None,
        _waiting_for_tag,
    ),
    Scenario(
        "healthy-idle-closes",
        "A poller asks every 5 s over a connection that the server closes after 3 idle seconds.",
        "curl",
        None,
        _idle_closes,
        also=("idle-close",),
    ),
    Scenario(
        "healthy-keepalive-requests",
        "nginx closes each connection after 5 requests; a poller, and pulls by ctr.",
        "ctr",
        None,
        _keepalive_requests,
    ),
    Scenario("healthy-inspect-loop", "skopeo inspect in a shell loop, every second.", "skopeo", None, _inspect),
    Scenario("healthy-loop", "A shell loop pulls every 5 s and gets its image.", "skopeo", None, _loop),
    Scenario(
        "healthy-throttled",
        "curl takes half a megabyte a second of a layer of 20 MB, as its user asked for.",
        "curl",
        None,
        _curl_throttled,
        also=("slow-consumer",),
    ),
    Scenario("healthy-bursts", "Eight pulls begin at once, three times.", "skopeo", None, _bursts),
    Scenario("healthy-many-small-layers", "An image with 30 layers of the same few hundred bytes.", "skopeo", None, _many_layers),
    Scenario("healthy-doubling-pace", "curl asks after 2, 4, 8 and 16 s, and is answered each time.", "curl", None, _doubling),
]
