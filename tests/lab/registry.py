"""A real docker-registry, an image to pull from it, and what its access log says."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections import defaultdict
from pathlib import Path
from random import Random

from tests.lab.daemon import Daemon, free_port

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_COMPLETED = re.compile(
    r'msg="response completed".* http\.request\.remoteaddr="127\.[0-9.]+:(\d+)".* http\.response\.written=(\d+)'
)


def missing_programs() -> list[str]:
    """Which of the real programs are not installed."""
    return [name for name in ("docker-registry", "skopeo") if shutil.which(name) is None]


def make_image(folder: Path, layer_bytes: tuple[int, ...]) -> None:
    """Write an OCI image layout, tagged latest, with one layer of each size (random, so that it does not compress)."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    random = Random(len(layer_bytes))

    def put(media_type: str, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    layers, diff_ids = [], []
    for number, size in enumerate(layer_bytes):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            member = tarfile.TarInfo(f"layer-{number}")
            member.size = size
            tar.addfile(member, io.BytesIO(random.randbytes(size)))
        diff_ids.append(f"sha256:{hashlib.sha256(archive.getvalue()).hexdigest()}")
        layers.append(put(_LAYER, gzip.compress(archive.getvalue(), 1, mtime=0)))
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": put(_CONFIG, json.dumps(config).encode()),
        "layers": layers,
    }
    described = put(_MANIFEST, json.dumps(manifest).encode())
    described["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))


class DockerRegistry(Daemon):
    """docker-registry on a free port, with its configuration, data and log in a folder."""

    def __init__(
        self,
        folder: Path,
        *,
        address: str = "127.0.0.1",
        port: int | None = None,
        data: Path | None = None,
        certificate: tuple[Path, Path] | None = None,
        extra: dict[str, object] | None = None,
    ) -> None:
        """Write its configuration.

        Args:
            folder: made here.
            address: it listens on.
            port: a free one by default.
            data: its storage; by default within the folder. Several registries may share one that nobody writes to.
            certificate: PEM files of certificate and key, for TLS.
            extra: more of its configuration: `auth` for tokens, `proxy` (`remoteurl`) to make it a pull-through mirror.
        """
        folder.mkdir(parents=True)
        port = port or free_port(address)
        http: dict[str, object] = {"addr": f"{address}:{port}"}
        if certificate:
            http["tls"] = {"certificate": str(certificate[0]), "key": str(certificate[1])}
        config = {
            "version": 0.1,
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": str(data or folder / "data")}},
            "http": http,
            **(extra or {}),
        }
        (folder / "config.yml").write_text(json.dumps(config))  # YAML is a superset of JSON
        super().__init__(["docker-registry", "serve", str(folder / "config.yml")], address, port, folder / "log")

    @property
    def reference(self) -> str:
        """The image's name in this registry."""
        return f"docker://{self.host}/demo:latest"

    def body_bytes_by_client_port(self, since_line: int = 0) -> dict[int, list[int]]:
        """From the access log: the body bytes of each response, by the client's port."""
        found: dict[int, list[int]] = defaultdict(list)
        for line in self.log().splitlines()[since_line:]:
            match = _COMPLETED.search(line)
            if match:
                found[int(match[1])].append(int(match[2]))
        return dict(found)

    def log_lines(self) -> int:
        """How long the log is now."""
        return len(self.log().splitlines())


def skopeo_copy(source: str, destination: str) -> None:
    """Copy an image with skopeo.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", source, destination],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
