"""No way to the registry: nobody listens, nobody answers, or somebody on the way says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from tests.lab.clients import Client, Containerd, Dockerd, Skopeo
from tests.lab.daemon import free_port
from tests.lab.faults import firewall, syn_dropped, to
from tests.lab.scenario import Scenario, Stage
from tests.lab.traffic import get_command, head_command, looping, run, skopeo_command

ADDRESS = "127.0.1.1"

NewClient = Callable[[], Client]


def _refused(new: NewClient, stage: Stage) -> None:
    client = stage.start(new())
    host = f"{ADDRESS}:{free_port(ADDRESS)}"
    stage.endpoint(host)
    with stage.recording():
        stage.fault_now()
        stage.pulled(client.pull(f"{host}/demo:latest"))


def _syn_dropped(new: NewClient, timeout_s: float, stage: Stage) -> None:
    client = stage.start(new())
    registry = stage.registry("demo")
    reference = f"{registry.host}/demo:latest"
    stage.endpoint(registry.host)
    with stage.recording():
        stage.pulled(client.pull(reference))
        client.forget(reference)
        stage.fault_now()
        with syn_dropped(registry.address, registry.port):
            stage.pulled(client.pull(reference, timeout_s=timeout_s))


def _skopeo_syn_dropped(stage: Stage) -> None:
    """Over TLS: without, skopeo dials twice as often (TLS first), and its user waits for two minutes."""
    authority = stage.authority()
    registry = stage.registry("demo", certificate=authority.sign("registry", [ADDRESS]))
    client = stage.start(Skopeo(ca=authority.certificate))
    reference = f"{registry.host}/demo:latest"
    stage.endpoint(registry.host)
    with stage.recording():
        stage.pulled(client.pull(reference))
        stage.fault_now()
        with syn_dropped(registry.address, registry.port):
            stage.pulled(client.pull(reference, timeout_s=75))


def _curl_syn_dropped(stage: Stage) -> None:
    registry = stage.registry("demo")
    stage.endpoint(registry.host)
    command = [*head_command(registry.host), "--connect-timeout", "5"]
    with stage.recording(), looping(command, 2, stage.folder / "checks") as loop:
        time.sleep(10)
        stage.fault_now()
        with syn_dropped(registry.address, registry.port):
            time.sleep(30)
            loop.stop()
        stage.pulled(*loop.results())


def _unreachable(stage: Stage) -> None:
    client = stage.start(Skopeo())
    registry = stage.registry("demo")
    stage.endpoint(registry.host)
    with stage.recording():
        stage.pulled(client.pull(f"{registry.host}/demo:latest"))
        stage.fault_now()
        with firewall(to(registry.address, registry.port), "reject with icmp type host-unreachable"):
            stage.pulled(client.pull(f"{registry.host}/demo:latest"))


def _restarted(stage: Stage) -> None:
    registry = stage.registry("demo")
    stage.endpoint(registry.host)
    manifest = get_command(f"http://{registry.host}/v2/demo/manifests/latest")
    with stage.recording(), looping(manifest, 1, stage.folder / "checks") as loop:
        time.sleep(10)
        stage.fault_now()
        registry.kill()
        time.sleep(12)
        registry.start()
        time.sleep(12)
        loop.stop()
        stage.pulled(*loop.results())


def _killed_between_pulls(stage: Stage) -> None:
    registry = stage.registry("demo")
    stage.endpoint(registry.host)

    def pull() -> None:
        command = skopeo_command(registry.host, stage.new_folder("pulled"))
        stage.pulled(run([*command, "--retry-times=5"]))

    with stage.recording():
        for _ in range(3):
            pull()
        stage.fault_now()
        registry.kill()
        pull()
        registry.start()
        for _ in range(3):
            pull()


SCENARIOS = [
    Scenario("skopeo-refused", "skopeo pulls where nobody listens.", "skopeo", "refused", partial(_refused, Skopeo)),
    Scenario("ctr-refused", "ctr pulls where nobody listens.", "ctr", "refused", partial(_refused, Containerd)),
    Scenario("dockerd-refused", "docker pulls where nobody listens.", "dockerd", "refused", partial(_refused, Dockerd)),
    Scenario(
        "skopeo-syn-dropped",
        "After a healthy pull a firewall drops every SYN; skopeo gives up dialling after 30 s, twice.",
        "skopeo",
        "unreachable",
        _skopeo_syn_dropped,
    ),
    Scenario(
        "ctr-syn-dropped",
        "After a healthy pull a firewall drops every SYN; ctr gives up dialling after 30 s.",
        "ctr",
        "unreachable",
        partial(_syn_dropped, Containerd, 45),
    ),
    Scenario(
        "dockerd-syn-dropped",
        "After a healthy pull a firewall drops every SYN; dockerd gives up its ping after 15 s, twice.",
        "dockerd",
        "unreachable",
        partial(_syn_dropped, Dockerd, 45),
    ),
    Scenario(
        "curl-checks-syn-dropped",
        "A healthy poller of a tag meets a firewall that drops every SYN; each of its tries gives up after 5 s.",
        "curl",
        "unreachable",
        _curl_syn_dropped,
        also=("retry-storm",),
    ),
    Scenario(
        "skopeo-host-unreachable",
        "After a healthy pull a router answers that the host can't be reached.",
        "skopeo",
        "unreachable",
        _unreachable,
    ),
    Scenario(
        "curl-registry-restarted",
        "The registry is killed under a poller that asks every second, and is back 12 s later.",
        "curl",
        "refused",
        _restarted,
        also=("retry-storm", "recovered"),
    ),
    Scenario(
        "skopeo-registry-killed",
        "skopeo with --retry-times=5 pulls while the registry is down; then the registry is back and pulls are healthy.",
        "skopeo",
        "refused",
        _killed_between_pulls,
        also=("retry-storm", "recovered"),
    ),
]
