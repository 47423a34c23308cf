"""The same attempt again and again, by something that does not know better."""

from __future__ import annotations

import time
from functools import partial

from tests.lab.daemon import free_port
from tests.lab.scenario import Scenario, Stage
from tests.lab.servers import abuse_limit
from tests.lab.traffic import get_command, looping, skopeo_command

STORM_S = 40
UNAVAILABLE = ("http-request return status 503 content-type text/plain string unavailable",)


def _skopeo_loop(stage: Stage, host: str, pause_s: float, seconds: float) -> None:
    """The loop of an entry point, around skopeo."""
    target = stage.new_folder("pulled")
    stage.endpoint(host)
    with stage.recording():
        stage.fault_now()
        with looping(skopeo_command(host, target), pause_s, stage.folder / "loop", target) as loop:
            time.sleep(seconds)
        stage.pulled(*loop.results())


def _refused(stage: Stage) -> None:
    _skopeo_loop(stage, f"127.0.1.1:{free_port('127.0.1.1')}", 1, STORM_S)


def _unavailable(pause_s: float, stage: Stage) -> None:
    _skopeo_loop(stage, stage.haproxy(lines=UNAVAILABLE).host, pause_s, STORM_S)


def _limited(stage: Stage) -> None:
    front = stage.haproxy(stage.registry("demo"), lines=abuse_limit(0, 120))
    _skopeo_loop(stage, front.host, 1, 75)  # long enough for the first round to end, and be told


def _limited_without_pause(stage: Stage) -> None:
    front = stage.haproxy(stage.registry("demo"), lines=abuse_limit(0, 120), retry_after="0")
    _skopeo_loop(stage, front.host, 1, STORM_S)


def _limited_curl(stage: Stage) -> None:
    front = stage.haproxy(stage.registry("demo"), lines=abuse_limit(10, 120))
    stage.endpoint(front.host)
    command = get_command(f"http://{front.host}/v2/demo/manifests/latest")
    with stage.recording():
        stage.fault_now()
        with looping(command, 0.2, stage.folder / "loop") as loop:
            time.sleep(30)
        stage.pulled(*loop.results())


def _two_loops(stage: Stage) -> None:
    """One service of two restarts every 5 s because its image is refused; the other pulls as often, and gets it."""
    refuse = "http-request deny deny_status 503 if { path_beg /v2/broken/ }"
    front = stage.haproxy(stage.registry("demo"), lines=[refuse])
    good, bad = stage.new_folder("good"), stage.new_folder("bad")
    stage.endpoint(front.host)
    with stage.recording():
        stage.fault_now()
        with (
            looping(skopeo_command(front.host, good), 5, stage.folder / "good", good) as healthy,
            looping(skopeo_command(front.host, bad, image="broken"), 5, stage.folder / "bad", bad) as broken,
        ):
            time.sleep(60)
        stage.pulled(*broken.results(), *healthy.results())


SCENARIOS = [
    Scenario(
        "loop-refused",
        "A shell loop pulls every second from a port that nobody listens on.",
        "skopeo",
        "refused",
        _refused,
        also=("retry-storm",),
    ),
    Scenario(
        "loop-503",
        "A shell loop pulls every second from a registry that is down behind its proxy (503).",
        "skopeo",
        "retry-storm",
        partial(_unavailable, 1),
    ),
    Scenario(
        "loop-429",
        "A shell loop around skopeo and its own back-off, against a limit of all requests.",
        "skopeo",
        "rate-limit",
        _limited,
        also=("retry-storm",),
    ),
    Scenario(
        "loop-429-retry-after-0",
        "A shell loop against a limit that says Retry-After: 0, which takes skopeo's own pauses away.",
        "skopeo",
        "retry-storm",
        _limited_without_pause,
        also=("rate-limit",),
    ),
    Scenario(
        "loop-429-curl",
        "A shell loop asks for a manifest five times a second and runs into a limit.",
        "curl",
        "retry-storm",
        _limited_curl,
        also=("rate-limit",),
    ),
    Scenario(
        "loop-two-services",
        "Two services restart every 5 s against one registry: one gets its image, the other is refused.",
        "skopeo",
        "retry-storm",
        _two_loops,
        also=("rate-limit",),
    ),
]
