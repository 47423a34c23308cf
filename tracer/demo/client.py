"""The demo's client, and the entry point of its process.

Protocol with the parent, one JSON object a line: it says its ports, waits for a line on standard input, then says of each
phase when it began and ended and what the client was told.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Callable

from tracer.demo.registry import BLOB_BYTES, Registry

HOST = "127.0.0.1"
PAUSE_S = 0.3
FIRST_RETRY_S = 1.0
ATTEMPTS = 4
MIRROR_PAUSE_S = 0.5
PATIENCE_S = 2.0
_NAME = b"skopeo"
"""It has skopeo's manners (pauses that double after a 429), which the rules expect of that name."""
_PR_SET_NAME = 15  # include/uapi/linux/prctl.h


class PullError(Exception):
    """What the client's user would be told."""


def _get(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise PullError(f"HTTP {response.status} {response.reason}")
    return body


def _pull_blob(port: int, number: int) -> None:
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)
    try:
        _get(connection, f"/v2/demo/blobs/{number}")
    finally:
        connection.close()


def pull(port: int) -> None:
    """One pull: token and manifest over one connection, each blob over its own, all at a time."""
    api = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)
    try:
        _get(api, "/token?scope=repository:demo:pull")
        layers = json.loads(_get(api, "/v2/demo/manifests/latest"))["layers"]
        blobs = [threading.Thread(target=_pull_blob, args=(port, number)) for number in range(len(layers))]
        for blob in blobs:
            blob.start()
        for blob in blobs:
            blob.join()
    finally:
        api.close()


def _healthy(port: int, times: int) -> str:
    for _ in range(times):
        pull(port)
        time.sleep(PAUSE_S)
    return f"{times} pull{'s' if times > 1 else ''} done"


def _with_backoff(port: int) -> str:
    told = ""
    wait_s = FIRST_RETRY_S
    for attempt in range(ATTEMPTS):
        try:
            pull(port)
        except PullError as error:
            told = str(error)
        if attempt < ATTEMPTS - 1:
            time.sleep(wait_s)
            wait_s *= 2
    return f"{told}, after {ATTEMPTS} attempts"


def _dead_mirror(mirror_port: int, registry_port: int) -> str:
    """Ask the mirror first and the registry then, as engines do."""
    told = ""
    for _ in range(ATTEMPTS):
        try:
            pull(mirror_port)
        except OSError as error:
            told = error.strerror or str(error)
            pull(registry_port)
        time.sleep(MIRROR_PAUSE_S)
    return f"{ATTEMPTS} pulls done, from the registry instead (the mirror: {told})"


def _stalled_blob(port: int) -> str:
    try:
        _pull_blob(port, len(BLOB_BYTES) - 1)
    except OSError:
        return f"timed out, after {PATIENCE_S:g} s"
    return "a blob came whole"


def run_phases(registry: Registry, mirror_port: int, say: Callable[[dict[str, object]], None]) -> None:
    """Everything the demo shows, phase by phase."""

    def phase(name: str, act: Callable[[], str]) -> None:
        start_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        told = act()
        say({"phase": name, "start_ns": start_ns, "end_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME), "told": told})

    phase("three healthy pulls", lambda: _healthy(registry.port, 3))
    registry.limited = True
    phase("the registry refuses: rate limit", lambda: _with_backoff(registry.port))
    registry.limited = False
    phase("a mirror that is down", lambda: _dead_mirror(mirror_port, registry.port))
    registry.stalled = True
    phase("a blob that stalls", lambda: _stalled_blob(registry.port))
    registry.stalled = False
    registry.done.set()
    phase("healthy again", lambda: _healthy(registry.port, 1))


def main() -> int:
    """Entry point of the demo's process."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, _NAME)

    def say(message: dict[str, object]) -> None:
        print(json.dumps(message), flush=True)  # noqa: T201 - the protocol with the parent

    # Bound and not listening: connections are refused, and the port can't become some client's own.
    with Registry() as registry, socket.socket() as mirror:
        mirror.bind((HOST, 0))
        say({"registry": registry.port, "mirror": mirror.getsockname()[1]})
        if not sys.stdin.readline():
            return 0  # the parent gave up
        threading.Thread(target=registry.serve_forever, daemon=True).start()
        run_phases(registry, mirror.getsockname()[1], say)
        registry.shutdown()
    return 0
