"""Clients whose pulls are made by, or through, a daemon.

The daemons run in the caller's network namespace and in a mount namespace of their own: their mounts go when they go, and nothing
is left in /run, /opt or /etc/docker.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.clients.base import NOBODY, Client, Credentials, last_lines, split_reference, stop
from tests.lab.daemon import die_with_parent
from tests.lab.traffic import Told

START_S = 30.0
# A daemon writes to these whatever its options say (a key, plug-in sockets, shims).
_HIDDEN = ("/run", "/opt", "/etc/docker")
_HIDE_AND_RUN = """
[ -z "$LAB_HOSTS" ] || mount --bind "$LAB_HOSTS" /etc/hosts
for folder in "$@"; do shift; [ "$folder" = -- ] && break; mount -t tmpfs lab "$folder"; done
exec "$@"
"""


class _Daemon(Client):
    """A client whose pulls are made by, or through, a daemon that this object owns.

    Enter it on the main thread: the daemon dies with the thread that started it.

    Attributes:
        names: what the daemon, and nobody else, takes these host names for (names of registries that the lab plays).
    """

    names: Mapping[str, str] = {}

    @abstractmethod
    def _daemon_command(self) -> list[str | Path]:
        """The daemon, with all that it keeps in `folder`."""

    @abstractmethod
    def _probe_command(self) -> list[str | Path]:
        """Succeeds once the daemon answers."""

    def __enter__(self) -> Self:
        super().__enter__()
        self.socket = self.folder / "sock"
        self.log = self.folder / "log"
        hidden = [folder for folder in _HIDDEN if Path(folder).is_dir()]
        apart = ["unshare", "--mount", "--propagation=private", "--", "sh", "-ec", _HIDE_AND_RUN, "sh", *hidden, "--"]
        hosts = self.folder / "hosts"
        if self.names:
            lines = [f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **self.names}.items()]
            hosts.write_text("".join(lines))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*apart, *self._daemon_command()],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment | {"LAB_HOSTS": str(hosts) if self.names else ""},
                text=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call; the lab's threads do nothing but wait
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.socket.exists() and self.run(*self._probe_command()).returncode == 0:
                return self
            time.sleep(0.05)
        said = last_lines(self.log.read_text(errors="replace"))
        self.__exit__(None, None, None)
        raise RuntimeError(f"{type(self).__name__} did not start: {said}")

    def __exit__(self, type_: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            stop(self.process, signal.SIGTERM)
        super().__exit__(type_, value, tb)

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


class Containerd(_Daemon):
    """containerd, pulled into by `ctr`. In containerd 1.6 it is `ctr` that holds the connections.

    Args:
        hosts_dir: a certs.d with a hosts.toml per registry (see `write_hosts`); `ca` and plain HTTP are then its matter.
        concurrent: layers at a time; 0 is `ctr`'s default, all of them.
    """

    def __init__(
        self, hosts_dir: Path | None = None, *, ca: Path | None = None, credentials: Credentials = NOBODY, concurrent: int = 0
    ) -> None:
        super().__init__(ca=ca, credentials=credentials)
        self.hosts_dir = hosts_dir
        self._concurrent = concurrent

    def _daemon_command(self) -> list[str | Path]:
        config = self.folder / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{self.folder}/root"\nstate = "{self.folder}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self.socket}"\n[ttrpc]\naddress = "{self.socket}.ttrpc"\n'
        )
        return ["containerd", "--config", config]

    def _probe_command(self) -> list[str | Path]:
        return self._ctr("version")

    def _ctr(self, *arguments: str | Path) -> list[str | Path]:
        return ["ctr", "--address", self.socket, *arguments]

    def pull(self, reference: str, timeout_s: float = 120) -> Told:
        options: list[str | Path] = ["--max-concurrent-downloads", str(self._concurrent)]
        if self.hosts_dir is not None:
            options += ["--hosts-dir", self.hosts_dir]
        elif self.ca is not None:
            # Whatever --tlscacert says, ctr speaks plain HTTP to a loopback address unless hosts.toml says https.
            host = split_reference(reference)[0]
            write_hosts(self.folder / "certs.d", host, [], f"https://{host}", self.ca)
            options += ["--hosts-dir", self.folder / "certs.d"]
        else:
            options += ["--plain-http"]
        if self.credentials.user:
            options += ["--user", f"{self.credentials.user}:{self.credentials.password}"]
        return self.tell(self._ctr("images", "pull", *options, reference), timeout_s)

    def forget(self, reference: str) -> None:
        self.run(*self._ctr("images", "rm", reference))
        # A pull that we ended may have left its lease, which would keep what it had of the layers for the next pull.
        leases = self.run(*self._ctr("leases", "ls", "--quiet")).stdout.split()
        for lease in leases:
            self.run(*self._ctr("leases", "rm", lease))
        left = self.run(*self._ctr("content", "ls", "--quiet")).stdout.split()
        if left:
            self.run(*self._ctr("content", "rm", *left))
        # --sync makes the collector run now; it takes an image or lease, and one that is not there will do.
        nothing = self.run(*self._ctr("leases", "create")).stdout.strip()
        self.run(*self._ctr("leases", "rm", "--sync", nothing))

    def versions(self) -> dict[str, str]:
        return {"containerd": self.version_of("containerd", "--version"), "ctr": self.version_of("ctr", "--version")}


def write_hosts(hosts_dir: Path, registry: str, mirrors: Sequence[str], server: str, ca: Path | None = None) -> None:
    """Write containerd's hosts.toml of one registry: the mirrors (URLs) in their order, then the server (a URL)."""
    folder = hosts_dir / registry
    folder.mkdir(parents=True, exist_ok=True)
    trust = "" if ca is None else f'ca = "{ca}"\n'
    # containerd 1.6 takes no hosts.toml without a host; the server as its own host is not to be asked for names a second time.
    only_push = "" if mirrors else 'capabilities = ["push"]\n'
    tables = [f'[host."{host}"]\ncapabilities = ["pull", "resolve"]\n{trust}' for host in mirrors or [server]]
    (folder / "hosts.toml").write_text(f'server = "{server}"\n{only_push}{trust}' + "".join(tables))


class Dockerd(_Daemon):
    """dockerd with the classic image store, pulled into by the `docker` command.

    Registries on loopback addresses are "insecure" to it without being told: it tries TLS without checking, then plain HTTP, so
    each pull from a plain registry begins with one connection that ends at the TLS handshake.

    Args:
        mirrors: URLs; they are asked for names of Docker Hub only.
        insecure: further registries that may be spoken to without TLS (`host:port` or a network).
        names: see `_Daemon`.
        concurrent: layers at a time; 3 is dockerd's default.
    """

    def __init__(
        self,
        mirrors: Sequence[str] = (),
        insecure: Sequence[str] = (),
        *,
        ca: Path | None = None,
        credentials: Credentials = NOBODY,
        names: Mapping[str, str] | None = None,
        concurrent: int = 3,
    ) -> None:
        super().__init__(ca=ca, credentials=credentials)
        self.names = names or {}
        self._mirrors = list(mirrors)
        self._insecure = list(insecure)
        self._concurrent = concurrent

    def _daemon_command(self) -> list[str | Path]:
        config = self.folder / "daemon.json"
        registries = {"registry-mirrors": self._mirrors, "insecure-registries": self._insecure}
        config.write_text(json.dumps({**registries, "max-concurrent-downloads": self._concurrent}))
        options = ["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]
        places = [f"--{name}={self.folder / name}" for name in ("data-root", "exec-root", "pidfile")]
        return ["dockerd", *options, *places, f"--config-file={config}", f"--host=unix://{self.socket}"]

    def _probe_command(self) -> list[str | Path]:
        return self.docker("version")

    def docker(self, *arguments: str | Path) -> list[str | Path]:
        """A `docker` command for this daemon."""
        return ["docker", "--config", self.folder / "cli", "--host", f"unix://{self.socket}", *arguments]

    def pull(self, reference: str, timeout_s: float = 120) -> Told:
        if self.credentials.user:
            (self.folder / "cli").mkdir(exist_ok=True)
            auths = {split_reference(reference)[0]: {"auth": self.credentials.basic}}
            (self.folder / "cli" / "config.json").write_text(json.dumps({"auths": auths}))
        return self.tell(self.docker("pull", reference), timeout_s)

    def forget(self, reference: str) -> None:
        self.run(*self.docker("rmi", "--force", reference))

    def versions(self) -> dict[str, str]:
        return {"dockerd": self.version_of("dockerd", "--version"), "docker": self.version_of("docker", "--version")}
