"""Registries that refuse because they were asked too often."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from tests.lab.clients import Client, Containerd, Dockerd, Skopeo
from tests.lab.daemon import Daemon
from tests.lab.scenario import Scenario, Stage
from tests.lab.servers import HAProxy, abuse_limit, pull_limit
from tests.lab.traffic import head_command, looping, now_ns, run

PULLS = 3  # healthy ones before the limit is met
REQUESTS_PER_PULL = {"skopeo": 6, "ctr": 7, "dockerd": 9}  # roughly: /v2/, manifest, configuration, three layers
KUBELET_S = (0, 10, 30, 70)  # an image pull back-off of 10, 20, 40 s; a kubelet would go on to 300 s
SWARM_S = tuple(range(0, 60, 5))  # the default restart delay

Front = Callable[[Stage, str], Daemon]


def closed(stage: Stage, client: str, retry_after: str = "") -> HAProxy:
    """A limit of all requests that closes the connection."""
    limit = abuse_limit(PULLS * REQUESTS_PER_PULL[client], 120)
    return stage.haproxy(stage.registry("demo"), lines=limit, retry_after=retry_after)


def kept(stage: Stage, _client: str) -> HAProxy:
    """A limit of pulls that keeps the connection."""
    return stage.haproxy(stage.registry("demo"), lines=pull_limit(PULLS, 600))


def nginx(stage: Stage, client: str) -> Daemon:
    """Nginx's limit_req, which keeps the connection."""
    zone = "limit_req_zone $binary_remote_addr zone=pulls:1m rate=1r/m"
    burst = PULLS * REQUESTS_PER_PULL[client]
    return stage.nginx(
        stage.registry("demo"), http=[zone], server=[f"limit_req zone=pulls burst={burst} nodelay", "limit_req_status 429"]
    )


def meet(stage: Stage, client: Client, front: Daemon, at_s: Sequence[float] = (0,)) -> None:
    """Healthy pulls, then at these seconds pulls that meet the limit."""
    stage.endpoint(front.host)
    reference = f"{front.host}/demo:latest"
    with stage.recording():
        for _ in range(PULLS - 1):
            stage.pulled(client.pull(reference))
            client.forget(reference)
            time.sleep(1)
        while stage.label.told is None:  # how many requests a pull makes is the client's matter
            assert stage.label.pulls <= 2 * PULLS, "the limit was not met"
            stage.fault_now()
            stage.pulled(client.pull(reference))
            client.forget(reference)
        for before, after in pairwise(at_s):
            time.sleep(after - before)
            stage.pulled(client.pull(reference))
            client.forget(reference)
    if isinstance(front, HAProxy):
        stage.fault_at(front.answered(429)[0] * 1000 - (time.time_ns() - now_ns()))


def _skopeo(front: Front, stage: Stage) -> None:
    meet(stage, stage.start(Skopeo()), front(stage, "skopeo"))


def _ctr(front: Front, at_s: Sequence[float], stage: Stage) -> None:
    meet(stage, stage.start(Containerd()), front(stage, "ctr"), at_s)


def _dockerd(front: Front, at_s: Sequence[float], stage: Stage) -> None:
    meet(stage, stage.start(Dockerd()), front(stage, "dockerd"), at_s)


def _skopeo_tls(stage: Stage) -> None:
    authority = stage.authority()
    limit = abuse_limit(PULLS * REQUESTS_PER_PULL["skopeo"], 120)
    pair = authority.sign("registry", ["127.0.2.1"])
    front = stage.haproxy(stage.registry("demo"), lines=limit, certificate=pair)
    meet(stage, stage.start(Skopeo(ca=authority.certificate)), front)


def _curl_checks(refusal: str, stage: Stage) -> None:
    lines = [*abuse_limit(20, 120)[:2], f"http-request {refusal} if {{ sc_http_req_rate(0) gt 20 }}"]
    front = stage.haproxy(stage.registry("demo"), lines=lines)
    stage.endpoint(front.host)
    with stage.recording(), looping(head_command(front.host), 1, stage.folder / "checks") as loop:
        time.sleep(50)
        loop.stop()
        stage.pulled(*loop.results())
    stage.fault_at(next(result.started_ns for result in loop.results() if not result.ok))


def _curl_kept(stage: Stage) -> None:
    """The one connection is opened before the limit and closed at the end: nothing else is there to be seen."""
    refuse = "http-request return status 429 content-type text/plain string slow-down if { sc_http_req_rate(0) gt 10 }"
    front = stage.haproxy(stage.registry("demo"), lines=[*abuse_limit(10, 120)[:2], refuse])
    stage.endpoint(front.host)
    with stage.recording():
        # Without -f, which would close the connection at the first 429.
        result = run([word.replace("-skSIf", "-skSI") for word in head_command(front.host, times=25, every_s=1)])
    fault_ns = front.answered(429)[0] * 1000 - (time.time_ns() - now_ns())
    stage.fault_at(fault_ns)
    stage.pulled(result._replace(ok=False, text="HTTP 429 in place of each further answer", told_ns=fault_ns))


def _tarpit(stage: Stage) -> None:
    lines = abuse_limit(12, 120)
    front = stage.haproxy(stage.registry("demo"), lines=[*lines[:2], "http-request tarpit if { sc_http_req_rate(0) gt 12 }"])
    client = stage.start(Skopeo())
    stage.endpoint(front.host)
    with stage.recording():
        for _ in range(2):
            stage.pulled(client.pull(f"{front.host}/demo:latest"))
        stage.fault_now()
        stage.pulled(client.pull(f"{front.host}/demo:latest", timeout_s=50))


def _silent_drop(stage: Stage) -> None:
    lines = abuse_limit(12, 120)
    front = stage.haproxy(stage.registry("demo"), lines=[*lines[:2], "http-request silent-drop if { sc_http_req_rate(0) gt 12 }"])
    client = stage.start(Skopeo())
    stage.endpoint(front.host)
    with stage.recording():
        for _ in range(2):
            stage.pulled(client.pull(f"{front.host}/demo:latest"))
        stage.fault_now()
        stage.pulled(client.pull(f"{front.host}/demo:latest", timeout_s=40))


SCENARIOS = [
    Scenario(
        "skopeo-429-closed",
        "skopeo meets a limit of all requests; HAProxy answers 429 and closes, as Docker Hub's abuse limit did.",
        "skopeo",
        "rate-limit",
        partial(_skopeo, closed),
    ),
    Scenario(
        "skopeo-429-kept",
        "skopeo meets a limit of pulls: 429 with a JSON body on the manifest only, and the server would keep the connection.",
        "skopeo",
        "rate-limit",
        partial(_skopeo, kept),
    ),
    Scenario(
        "skopeo-429-nginx",
        "skopeo meets nginx's limit_req, which answers 429 with a page of HTML.",
        "skopeo",
        "rate-limit",
        partial(_skopeo, nginx),
    ),
    Scenario(
        "skopeo-429-tls",
        "skopeo meets a limit of all requests over TLS, so that each refusal carries a handshake.",
        "skopeo",
        "rate-limit",
        _skopeo_tls,
    ),
    Scenario(
        "skopeo-429-retry-after",
        "skopeo meets a limit of all requests that says Retry-After: 5, so that its tries come at an even pace.",
        "skopeo",
        "rate-limit",
        partial(_skopeo, partial(closed, retry_after="5")),
    ),
    Scenario(
        "ctr-429-closed",
        "One ctr pull meets a limit of all requests in the middle; it tries six times within milliseconds, then tells.",
        "ctr",
        "rate-limit",
        partial(_ctr, closed, (0,)),
    ),
    Scenario(
        "ctr-429-kept",
        "One ctr pull meets a limit of pulls; it leaves each body unread, so its six tries are six connections all the same.",
        "ctr",
        "rate-limit",
        partial(_ctr, kept, (0,)),
    ),
    Scenario(
        "ctr-429-backoff",
        "ctr pulls meet a limit of pulls at the pace of a kubelet: after 10, 20 and 40 s.",
        "ctr",
        "rate-limit",
        partial(_ctr, kept, KUBELET_S),
        also=("retry-storm",),
    ),
    Scenario(
        "dockerd-429-closed",
        "One docker pull meets a limit of all requests; the error comes at once.",
        "dockerd",
        "rate-limit",
        partial(_dockerd, closed, (0,)),
    ),
    Scenario(
        "dockerd-429-every-5s",
        "docker pulls meet a limit of pulls every 5 s, as a Swarm service that can't start does.",
        "dockerd",
        "rate-limit",
        partial(_dockerd, kept, SWARM_S),
        also=("retry-storm",),
    ),
    Scenario(
        "curl-checks-429",
        "A healthy poller of a tag meets a limit of all requests after 20 s and goes on at its pace.",
        "curl",
        "rate-limit",
        partial(_curl_checks, "deny deny_status 429"),
        also=("retry-storm",),
    ),
    Scenario(
        "curl-kept-429",
        "A poller that keeps its connection meets a limit that keeps it too: no transition tells.",
        "curl",
        "rate-limit",
        _curl_kept,
        in_tcp=False,
    ),
    Scenario(
        "curl-checks-rejected",
        "A healthy poller of a tag meets a limit that closes without an answer, and goes on at its pace.",
        "curl",
        "rate-limit",
        partial(_curl_checks, "reject"),
        also=("retry-storm", "churn"),
    ),
    Scenario(
        "skopeo-tarpit",
        "A limit that holds refused requests for 20 s before it answers 500.",
        "skopeo",
        "stalled",
        _tarpit,
        also=("rate-limit",),
    ),
    Scenario(
        "skopeo-silent-drop",
        "A limit that forgets refused connections without a word: the client hangs.",
        "skopeo",
        "stalled",
        _silent_drop,
        also=("rate-limit",),
    ),
]
