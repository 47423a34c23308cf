"""Tokens and credentials: a registry that sends its clients to a token server, both with TLS, as the public ones do."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tests.lab.clients import Client, Containerd, Credentials, Dockerd, Skopeo
from tests.lab.registry import DockerRegistry, make_image, skopeo_copy
from tests.lab.scenario import Scenario, Stage
from tests.lab.scenarios.daemons import CLIENTS, DAEMONS, HEALTHY_PULLS, Make, pull, repeat
from tests.lab.servers import Nginx
from tests.lab.tls import Authority
from tests.lab.token_server import Behaviour, TokenServer
from tests.lab.traffic import now_ns

USER = Credentials("ann", "made up for the lab")
WRONG = Credentials("ann", "mistyped")
PULLS = 10
LOOP, LOOP_S = 9, 5  # a service that is restarted every 5 s
BOUND_S = 40.0
# Lived by a token whose server says it lives longer, as on a host whose clock is ahead: no client has a reason to renew it.
SHORT_LIFE_S = 2.0
# `medium` has layers of 2, 8 and 20 MB: one at a time, the last is asked for after more than 3 s.
SLOW_BYTES_PER_S = 2_000_000
# dockerd believes no token to live less than 60 s, and asks for another one with the next layer after that.
RENEWED_AFTER_S = 60
LAYERS, LAYER_BYTES, VERY_SLOW_BYTES_PER_S = 11, 1_000_000, 130_000  # 7 s each


class _Guarded:
    """A registry, its token server, and their endpoints on the stage.

    Args:
        images: in the registry.
        bytes_per_s: of each of its bodies; 0 is as fast as it goes.
        data: another storage than the stage's.
        asked: whether anybody will ask the token server.
    """

    def __init__(self, stage: Stage, *images: str, bytes_per_s: int = 0, data: Path | None = None, asked: bool = True) -> None:
        trusted: Authority = stage.authority()
        certificate = trusted.sign("token-server", ["127.0.3.1"])
        known = Behaviour(USER.user, USER.password)
        self.tokens = stage.start(TokenServer(stage.new_folder("tokens"), known, certificate=certificate))
        self.ca = trusted.certificate
        options: dict[str, Any] = {"extra": self.tokens.auth, **({"data": data} if data else {})}
        if bytes_per_s:
            plain: DockerRegistry = stage.registry(*images, **options)
            front: Nginx = stage.nginx(
                plain, server=[f"limit_rate {bytes_per_s}"], certificate=trusted.sign("front", ["127.0.2.2"])
            )
            self.host = front.host
        else:
            self.host = stage.registry(*images, **options, certificate=trusted.sign("registry", ["127.0.1.1"])).host
        stage.endpoint(self.host)
        if asked:
            stage.endpoint(self.tokens.host, "auth")


def _healthy(stage: Stage, make: Make) -> None:
    guarded = _Guarded(stage, "demo")
    client = stage.start(make(ca=guarded.ca, credentials=USER))
    with stage.recording():
        repeat(stage, client, guarded.host, PULLS, 1)


def _renewed(stage: Stage, *, refused: bool) -> None:
    """A pull that lasts longer than its token, which dockerd renews in time; it gets another one, or does not."""
    image, data = stage.new_folder("image"), stage.new_folder("data")
    make_image(image, (LAYER_BYTES,) * LAYERS)
    with DockerRegistry(stage.new_folder("publish"), address="127.0.9.1", data=data) as publish:
        skopeo_copy(f"oci:{image}:latest", f"docker://{publish.host}/many:latest")
    guarded = _Guarded(stage, bytes_per_s=VERY_SLOW_BYTES_PER_S, data=data)
    guarded.tokens.change(expires_in_s=RENEWED_AFTER_S)  # the registry would take the token longer
    client = stage.start(Dockerd(ca=guarded.ca, credentials=USER, concurrent=1))
    with ThreadPoolExecutor(1) as beside, stage.recording():
        pulling = beside.submit(pull, stage, client, guarded.host, image="many")
        begun_ns = now_ns()
        if refused:
            time.sleep(RENEWED_AFTER_S / 2)
            guarded.tokens.change(status=401)
        told = pulling.result()
    if refused:
        stage.fault_at(begun_ns + RENEWED_AFTER_S * 1_000_000_000)
    assert told.ok != refused, f"the renewal was {'refused' if refused else 'granted'}: {told}"
    assert len(guarded.tokens.answers()) > 1, "the token was not renewed"


def _renewed_after_401(stage: Stage) -> None:
    """Each pull outlives its token: ctr meets 401, asks for another one and goes on."""
    guarded = _Guarded(stage, "medium", bytes_per_s=SLOW_BYTES_PER_S)
    guarded.tokens.change(lifetime_s=SHORT_LIFE_S)
    client = stage.start(Containerd(ca=guarded.ca, credentials=USER, concurrent=1))
    with stage.recording():
        repeat(stage, client, guarded.host, HEALTHY_PULLS, image="medium")
    # Two tokens a pull (one to find the manifest, one to fetch) would do if none had died.
    assert guarded.tokens.answers().count(200) == 3 * HEALTHY_PULLS, guarded.tokens.answers()


def _expired(stage: Stage, make: Make) -> None:
    """A token dies in the middle of a pull. dockerd takes the 401 for an answer; ctr asks for another token and is refused."""
    guarded = _Guarded(stage, "demo", "medium", bytes_per_s=SLOW_BYTES_PER_S)
    client = stage.start(make(ca=guarded.ca, credentials=USER, concurrent=1))
    with ThreadPoolExecutor(1) as beside, stage.recording():
        repeat(stage, client, guarded.host, HEALTHY_PULLS)
        guarded.tokens.change(lifetime_s=SHORT_LIFE_S)
        stage.fault_at(now_ns() + int(SHORT_LIFE_S * 1e9))  # or up to a second earlier: a JWT's exp has no fractions
        pulling = beside.submit(pull, stage, client, guarded.host, image="medium")
        time.sleep(SHORT_LIFE_S / 2)
        guarded.tokens.change(status=401)
        told = pulling.result()
    assert not told.ok, "the pull came through"


def _static_token(stage: Stage) -> None:
    """A job was given a token that lasts 15 s, and pulls every 2 s for 40 s."""
    guarded = _Guarded(stage, "demo", asked=False)
    life_s = 15
    given = Credentials(token=guarded.tokens.token("demo", life_s))
    begun_ns = now_ns()
    client = stage.start(Skopeo(ca=guarded.ca, credentials=given))
    with stage.recording():
        repeat(stage, client, guarded.host, 20, 2)
    stage.fault_at(begun_ns + life_s * 1_000_000_000)
    assert stage.label.healthy_pulls, "the token was dead from the start"
    assert stage.label.told is not None, "the token did not expire"


def _wrong(stage: Stage, make: Make, attempts: int, pause_s: float) -> None:
    guarded = _Guarded(stage, "demo")
    client: Client = stage.start(make(ca=guarded.ca, credentials=USER))
    with stage.recording():
        repeat(stage, client, guarded.host, HEALTHY_PULLS)
        client.credentials = WRONG
        stage.fault_now()
        results = repeat(stage, client, guarded.host, attempts, pause_s)
    assert not any(told.ok for told in results), "a wrong password was taken"


def _changed(stage: Stage, make: Make, attempts: int, pause_s: float, **change: Any) -> None:
    """The token server changes its mind in the middle of a series of pulls."""
    guarded = _Guarded(stage, "demo")
    client = stage.start(make(ca=guarded.ca, credentials=USER))
    with stage.recording():
        repeat(stage, client, guarded.host, PULLS, pause_s)
        guarded.tokens.change(**change)
        stage.fault_now()
        results = repeat(stage, client, guarded.host, attempts, pause_s)
    assert not any(told.ok for told in results), f"a pull came through after {change}"


def _down(stage: Stage, make: Make) -> None:
    guarded = _Guarded(stage, "demo")
    client = stage.start(make(ca=guarded.ca, credentials=USER))
    with stage.recording():
        repeat(stage, client, guarded.host, HEALTHY_PULLS)
        guarded.tokens.kill()
        stage.fault_now()
        results = repeat(stage, client, guarded.host, 6, 2)
    assert not any(told.ok for told in results), "there is no token server"


def _silent(stage: Stage, make: Make) -> None:
    guarded = _Guarded(stage, "demo")
    client = stage.start(make(ca=guarded.ca, credentials=USER))
    with stage.recording():
        repeat(stage, client, guarded.host, HEALTHY_PULLS)
        guarded.tokens.change(delay_s=3600)
        stage.fault_now()
        pull(stage, client, guarded.host, timeout_s=BOUND_S)


def _of_each() -> list[Scenario]:
    """The same stories for each client."""
    found: list[Scenario] = []
    for name, make in CLIENTS.items():

        def story(title: str, summary: str, fault: str | None, run: Callable[[Stage], None], *also: str, who: str = name) -> None:
            found.append(Scenario(f"{who}-{title}", summary, who, fault, run, also))

        story("token-pulls", f"{PULLS} whole pulls, each with a token of its own.", None, partial(_healthy, make=make))
        once, loop = (partial(_wrong, make=make, attempts=n, pause_s=s) for n, s in ((1, 0), (LOOP, LOOP_S)))
        story("wrong-password", "After healthy pulls, one with a wrong password.", "auth-failure", once)
        story("wrong-password-loop", f"A service tries a wrong password every {LOOP_S} s.", "auth-failure", loop, "retry-storm")
        revoked = partial(_changed, make=make, attempts=PULLS, pause_s=1, user="nobody we know")
        story(
            "revoked",
            "The password is changed in a long series of pulls.",
            "auth-failure",
            revoked,
            "retry-storm",
            "token-expiry",
        )
        denied = partial(_changed, make=make, attempts=5, pause_s=1, status=403)
        story("token-denied", "The token server begins to answer 403.", "auth-failure", denied, "retry-storm")
        story(
            "token-server-down",
            "The token server is killed.",
            "refused",
            partial(_down, make=make),
            "auth-failure",
            "retry-storm",
        )
        story("token-server-silent", "The token server takes requests and says nothing.", "stalled", partial(_silent, make=make))
    return found


SCENARIOS = [
    *_of_each(),
    Scenario(
        "dockerd-token-renewed",
        "A pull lasts longer than its token; dockerd asks for another one and goes on.",
        "dockerd",
        None,
        partial(_renewed, refused=False),
    ),
    Scenario(
        "dockerd-token-not-renewed",
        "A pull lasts longer than its token, and the token server refuses another one.",
        "dockerd",
        "token-expiry",
        partial(_renewed, refused=True),
        ("auth-failure",),
    ),
    Scenario("ctr-token-renewed", "Tokens die during slow pulls; ctr gets others.", "ctr", None, _renewed_after_401),
    *(
        Scenario(
            f"{name}-token-expired",
            "A token dies during a slow pull, earlier than was said, and there is no other one.",
            name,
            "token-expiry",
            partial(_expired, make=make),
            ("auth-failure",),
        )
        for name, make in DAEMONS.items()
    ),
    Scenario(
        "skopeo-token-expired",
        "A CI job pulls every 2 s with a token it was given, until the token is dead and after.",
        "skopeo",
        "token-expiry",
        _static_token,
        ("auth-failure", "retry-storm"),
    ),
]
