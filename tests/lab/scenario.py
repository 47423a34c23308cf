"""A scenario is one story with real programs; the stage is what it is played on, and keeps what an audience would know.

The label beside a capture is the truth that rules are measured against: what went wrong, since when, and when the client's user
was told. All times are CLOCK_BOOTTIME, the captures' clock.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.lab.clients import Client
from tests.lab.daemon import Daemon, version_of
from tests.lab.images import Images
from tests.lab.registry import DockerRegistry
from tests.lab.servers import HAProxy, Nginx
from tests.lab.tls import Authority
from tests.lab.traffic import Told, ended_by_lab, now_ns
from tests.live import Watching, connections

AFTER_S = 2.0  # of recording once the traffic is over: last FINs, last samples
ROLES = ("api", "auth", "blob", "mirror", "proxy", "private")
CAPTURES = {"auto": "trace.arrows"}
"""Who records a scenario unless asked otherwise: a source and the name of its capture."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Scenario:
    """One story.

    Attributes:
        name: in kebab case; also of its folder.
        summary: one sentence.
        client: who pulls.
        fault: id of the rule that must find something; None for a healthy one.
        run: plays it.
        also: ids that may be found besides.
        in_tcp: False where the fault leaves no trace in TCP, so that no rule can be asked to find it.
    """

    name: str
    summary: str
    client: str
    fault: str | None
    run: Callable[[Stage], None]
    also: tuple[str, ...] = ()
    in_tcp: bool = True


@dataclass
class Label:
    """What is known about a capture, as in its label.json."""

    fault_ns: int | None = None
    told_ns: int | None = None
    told: str | None = None
    started_ns: int = 0
    ended_ns: int = 0
    pulls: int = 0
    healthy_pulls: int = 0
    connections: int = 0
    endpoints: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


class Stage:
    """What a scenario runs on: servers that end with it, the tracers, and notes for the label.

    Attributes:
        folder: private to the scenario, empty at the start.
        label: what was noted so far.
        images: what registries serve; `publish` before the recording.
    """

    def __init__(self, folder: Path, captures: Mapping[str, Path], images: Images) -> None:
        """Prepare.

        Args:
            folder: private to the scenario, empty.
            captures: what each source records into, by its name; the label says what the first one saw.
            images: what registries serve.
        """
        self.folder = folder
        self.label = Label()
        self._captures = captures
        self.images = images
        self._stack = ExitStack()
        self._count = 0

    def start(self, server: AbstractContextManager[_T]) -> _T:
        """Start a server, or a client with a daemon of its own, that ends with the scenario."""
        started = self._stack.enter_context(server)
        if isinstance(started, Daemon):
            self.label.versions.update(version_of(started.program))
        elif isinstance(started, Client):
            self.label.versions.update(started.versions())
        return started

    def authority(self) -> Authority:
        """Signs certificates; clients are given its own."""
        folder = self.new_folder("authority")
        folder.mkdir()
        return Authority(folder)

    def new_folder(self, name: str) -> Path:
        """A path within the scenario's folder that nobody else uses."""
        self._count += 1
        return self.folder / f"{self._count:03}-{name}"

    def registry(self, *images: str, **options: Any) -> DockerRegistry:
        """A running registry with these images in it (options as DockerRegistry's)."""
        for image in images:
            self.images.publish(image)
        options = {"address": "127.0.1.1", "data": self.images.data, **options}
        return self.start(DockerRegistry(self.new_folder("registry"), **options))

    def haproxy(self, *upstreams: Daemon, **options: Any) -> HAProxy:
        """A running HAProxy in front of these (options as HAProxy's)."""
        return self.start(HAProxy(self.new_folder("haproxy"), [upstream.host for upstream in upstreams], **options))

    def nginx(self, upstream: Daemon, **options: Any) -> Nginx:
        """A running nginx in front of this one (options as Nginx's)."""
        return self.start(Nginx(self.new_folder("nginx"), upstream.host, **options))

    def endpoint(self, spec: str, role: str = "api") -> None:
        """Watch this endpoint; before the recording begins."""
        assert role in ROLES, role
        assert not self.label.started_ns, "the recording has begun"
        self.label.endpoints[spec] = role

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what happens within, and a little longer."""
        roles = self.folder / "roles.toml"
        roles.write_text("[roles]\n" + "".join(f'"{spec}" = "{role}"\n' for spec, role in self.label.endpoints.items()))
        specs = [f"--registry={spec}" for spec in self.label.endpoints]
        tracers: list[Watching] = []
        with ExitStack() as running:
            for source, capture in self._captures.items():
                tracers.append(Watching("record", str(capture), "--json", f"--source={source}", f"--config={roles}", *specs))
                running.callback(tracers[-1].stop)
            self.label.started_ns = now_ns()
            yield
            self.label.ended_ns = now_ns()
            time.sleep(AFTER_S)
        rows = connections([json.loads(line) for line in tracers[0].raw])
        self.label.connections = len(rows)
        used = {row["endpoint"] for row in rows}
        # a mirror that has everything keeps its clients from the registry behind it
        unused = {spec for spec, role in self.label.endpoints.items() if spec not in used and role != "api"}
        assert used, "nobody connected to anything that is watched"
        assert not unused, f"nobody connected to {', '.join(sorted(unused))}"

    def fault_now(self) -> None:
        """The fault begins."""
        self.label.fault_ns = now_ns()

    def fault_at(self, at_ns: int) -> None:
        """The fault began then."""
        self.label.fault_ns = at_ns

    def told(self, text: str, at_ns: int | None = None) -> None:
        """The client's user is told that something is wrong; the first time counts."""
        if self.label.told_ns is None:
            self.label.told_ns = now_ns() if at_ns is None else at_ns
            self.label.told = text

    def pulled(self, *results: Told) -> None:
        """Count pulls, and note the first that told its user of a failure. One that the lab had to end told nobody."""
        for result in results:
            self.label.pulls += 1
            self.label.healthy_pulls += result.ok
            if not result.ok and not ended_by_lab(result):
                self.told(result.text, result.told_ns)

    def close(self) -> None:
        """End the servers."""
        self._stack.close()


def play(scenario: Scenario, out: Path, scratch: Path, images: Images, captures: Mapping[str, str] = CAPTURES) -> Label:
    """Play a scenario, and put its captures and label into OUT/NAME; older ones stay if this fails.

    Args:
        scenario: which.
        out: folder of all scenarios' captures.
        scratch: for files that are needed while it is played.
        images: what registries serve.
        captures: who records it: the name of a capture by source.

    Raises:
        AssertionError, RuntimeError, OSError: it could not be played as meant; what a server said is in the message.
    """
    folder, kept = scratch / scenario.name, out / scenario.name
    fresh = out / f".{scenario.name}.part"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    folder.mkdir(parents=True)
    stage = Stage(folder, {source: fresh / name for source, name in captures.items()}, images)
    try:
        try:
            scenario.run(stage)
        finally:
            stage.close()
            shutil.rmtree(folder, ignore_errors=True)
        if scenario.client in ("skopeo", "curl"):
            stage.label.versions.update(version_of(scenario.client))
        check(scenario, stage.label)
        (fresh / "label.json").write_text(json.dumps(describe(scenario, stage.label), indent=2) + "\n")
        shutil.rmtree(kept, ignore_errors=True)
        fresh.rename(kept)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # is there only if something failed
    return stage.label


def check(scenario: Scenario, label: Label) -> None:
    """A capture that does not show what its name says is worse than none.

    Raises:
        AssertionError: the story went otherwise.
    """
    assert label.ended_ns, "nothing was recorded"
    assert label.connections, "no connection was seen"
    if scenario.fault is None:
        assert label.told is None, f"the healthy client was told: {label.told}"
        assert label.pulls == label.healthy_pulls, f"{label.healthy_pulls} of {label.pulls} healthy pulls came through"
    else:
        assert label.fault_ns is not None, "no moment of the fault was noted"


def describe(scenario: Scenario, label: Label) -> dict[str, object]:
    """The contents of label.json."""
    return {
        "name": scenario.name,
        "summary": scenario.summary,
        "client": scenario.client,
        "fault": scenario.fault,
        "also": list(scenario.also),
        "in_tcp": scenario.in_tcp,
        **vars(label),
    }
