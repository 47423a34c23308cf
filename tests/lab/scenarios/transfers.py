"""Blobs that don't come through, or are not taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from tests.lab.clients import Client, Containerd, Dockerd
from tests.lab.faults import frozen, reset_established, wait_for_bytes
from tests.lab.scenario import Scenario, Stage
from tests.lab.traffic import Running, now_ns, run, skopeo_command

STALL_S = 40
_IN_BODY = 15_000_000


def _large_through_slow_nginx(stage: Stage) -> tuple[str, int]:
    """(host, pid) of an nginx that sends each body at 10 MB/s, so that there is a middle of a transfer."""
    front = stage.nginx(stage.registry("layer"), server=["limit_rate 10m"])
    stage.endpoint(front.host)
    return front.host, front.pid


def _stalled(stage: Stage) -> None:
    host, pid = _large_through_slow_nginx(stage)
    with stage.recording():
        client = Running(skopeo_command(host, stage.new_folder("pulled"), image="layer"))
        wait_for_bytes(_IN_BODY)
        stage.fault_now()
        with frozen(pid):
            stage.pulled(client.wait(STALL_S))


def _stalled_and_back(stage: Stage) -> None:
    host, pid = _large_through_slow_nginx(stage)
    with stage.recording():
        client = Running(skopeo_command(host, stage.new_folder("pulled"), image="layer"))
        wait_for_bytes(_IN_BODY)
        stage.fault_now()
        with frozen(pid):
            time.sleep(25)
        stage.pulled(client.wait())


def _stalled_daemon(new: Callable[[], Client], stage: Stage) -> None:
    puller = stage.start(new())
    host, pid = _large_through_slow_nginx(stage)
    with stage.recording():
        # Which second of the pull is in its body is not the client's to say, so the freezer is a process of its own.
        freezer = Running(["bash", "-c", f"sleep 3; kill -STOP {pid}"])
        stage.fault_at(now_ns() + 3_000_000_000)
        stage.pulled(puller.pull(f"{host}/layer:latest", timeout_s=STALL_S))
        freezer.wait()


def _no_first_byte(stage: Stage) -> None:
    registry = stage.registry("demo")
    stage.endpoint(registry.host)
    with stage.recording():
        stage.pulled(run(skopeo_command(registry.host, stage.new_folder("pulled"))))
        stage.fault_now()
        with frozen(registry.pid):
            stage.pulled(run(skopeo_command(registry.host, stage.new_folder("pulled"), verify=True), STALL_S))


def _reset(pulls: int, stage: Stage) -> None:
    host, _ = _large_through_slow_nginx(stage)
    address, port = host.split(":")
    with stage.recording():
        for _ in range(pulls):
            client = Running(skopeo_command(host, stage.new_folder("pulled"), image="layer"))
            wait_for_bytes(_IN_BODY)
            if stage.label.fault_ns is None:
                stage.fault_now()
            assert reset_established(address, int(port)), "nothing to reset"
            stage.pulled(client.wait())
            time.sleep(2)


def _reset_dockerd(stage: Stage) -> None:
    """Dockerd asks for the layer again after 5, 10, 15 and 20 s, and only then tells."""
    host, _ = _large_through_slow_nginx(stage)
    puller = stage.start(Dockerd())
    kill = f"ss --no-header -K -tn state established src {host}"
    middlebox = None
    with stage.recording():
        try:
            middlebox = Running(["bash", "-c", f"sleep 1; while :; do sleep 2; {kill}; done"])
            stage.fault_at(now_ns() + 3_000_000_000)
            stage.pulled(puller.pull(f"{host}/layer:latest", timeout_s=90))
        finally:
            if middlebox:
                middlebox.kill()


def _slow_consumer(stage: Stage) -> None:
    """A pipe, because the limit of curl 7.88 itself (--limit-rate) is anything between none and what was asked for."""
    registry = stage.registry("demo")
    stage.endpoint(registry.host)
    url = stage.images.layer_url(registry.host, "demo")
    script = stage.folder / "import.sh"
    reader = "{ head -c 2600000 >/dev/null; sleep 30; cat >/dev/null; }"
    script.write_text(f"curl -sSf -H 'Connection: close' '{url}' | {reader}\n")
    with stage.recording():
        stage.fault_now()
        stage.pulled(run(["bash", str(script)]))


def _frozen_client(stage: Stage) -> None:
    host, _ = _large_through_slow_nginx(stage)
    with stage.recording():
        client = Running(skopeo_command(host, stage.new_folder("pulled"), image="layer"))
        wait_for_bytes(_IN_BODY)
        stage.fault_now()
        with frozen(client.pid):
            time.sleep(30)
        stage.pulled(client.wait())


def _slow_pipe(stage: Stage) -> None:
    """What an import through a slow pipe does: `curl ... | something that takes 25 kB/s`."""
    registry = stage.registry("demo")
    stage.endpoint(registry.host)
    url = stage.images.layer_url(registry.host, "demo", 1)
    reader = "while dd bs=5k count=1 iflag=fullblock status=none | grep -q .; do sleep 0.2; done"
    script = stage.folder / "import.sh"
    script.write_text(f"curl -sSf -H 'Connection: close' '{url}' | {{ {reader}; }}\n")
    with stage.recording():
        stage.fault_now()
        stage.pulled(run(["bash", str(script)]))


SCENARIOS = [
    Scenario(
        "skopeo-stalled",
        f"In the middle of a layer the server freezes; skopeo waits and says nothing (ended after {STALL_S} s).",
        "skopeo",
        "stalled",
        _stalled,
    ),
    Scenario(
        "skopeo-stalled-recovers",
        "In the middle of a layer the server freezes for 25 s; the pull then comes through.",
        "skopeo",
        "stalled",
        _stalled_and_back,
        also=("recovered",),
    ),
    Scenario(
        "ctr-stalled",
        "In the middle of a layer the server freezes; ctr waits.",
        "ctr",
        "stalled",
        partial(_stalled_daemon, Containerd),
    ),
    Scenario(
        "dockerd-stalled",
        "In the middle of a layer the server freezes; dockerd waits.",
        "dockerd",
        "stalled",
        partial(_stalled_daemon, Dockerd),
    ),
    Scenario(
        "skopeo-no-answer",
        "The registry's process hangs: its kernel accepts connections, nobody answers on them.",
        "skopeo",
        "stalled",
        _no_first_byte,
    ),
    Scenario(
        "skopeo-reset",
        "A middlebox resets the connection in the middle of a layer and skopeo gives up; no rule is about one reset.",
        "skopeo",
        "reset",
        partial(_reset, 1),
        in_tcp=False,
    ),
    Scenario(
        "skopeo-reset-again-and-again",
        "A middlebox resets the connection in the middle of a layer, in each of six pulls.",
        "skopeo",
        "reset",
        partial(_reset, 6),
        also=("retry-storm",),
    ),
    Scenario(
        "dockerd-reset-again-and-again",
        "A middlebox resets what runs every 2 s; dockerd takes the layer up again after 5, 10, 15 s, and it comes through.",
        "dockerd",
        "reset",
        _reset_dockerd,
        also=("retry-storm", "recovered"),
    ),
    Scenario(
        "curl-slow-consumer",
        "What reads from curl's pipe stops for 30 s near the layer's end: the server is done and closes, the rest waits unread.",
        "curl",
        "slow-consumer",
        _slow_consumer,
    ),
    Scenario(
        "curl-slow-pipe",
        "curl writes a layer into a pipe whose reader takes its time.",
        "curl",
        "slow-consumer",
        _slow_pipe,
    ),
    Scenario(
        "skopeo-frozen",
        "skopeo itself stands still for 30 s in the middle of a layer, as in a paused container; the window closes.",
        "skopeo",
        "slow-consumer",
        _frozen_client,
        also=("stalled", "recovered"),
    ),
]
