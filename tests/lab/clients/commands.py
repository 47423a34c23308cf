"""Clients that are one command a pull."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.lab.clients.base import NOBODY, Client, Credentials, Told, split_reference


class Skopeo(Client):
    """skopeo copies into a folder that is thrown away, so each of its pulls is whole.

    Args:
        retry_times: the outer retries, as an operator's script would ask for them.
        registries_conf: text of a registries.conf, for mirrors.
    """

    def __init__(
        self, *, ca: Path | None = None, credentials: Credentials = NOBODY, retry_times: int = 0, registries_conf: str = ""
    ) -> None:
        super().__init__(ca=ca, credentials=credentials)
        self._retry_times = retry_times
        self._registries_conf = registries_conf

    def __enter__(self) -> Self:
        super().__enter__()
        conf = self.folder / "registries.conf"
        conf.write_text(self._registries_conf)
        self.environment["CONTAINERS_REGISTRIES_CONF"] = str(conf)
        if self.ca is not None:  # skopeo wants a folder for the one registry; Go's SSL_CERT_FILE serves the token server too
            (self.folder / "certs").mkdir()
            shutil.copy(self.ca, self.folder / "certs" / "ca.crt")
        return self

    def pull(self, reference: str, timeout_s: float = 120) -> Told:
        given = ["--src-no-creds"]
        if self.credentials.token:
            given = [f"--src-registry-token={self.credentials.token}"]
        elif self.credentials.user:
            auth = self.folder / "auth.json"
            host = split_reference(reference)[0]
            auth.write_text(json.dumps({"auths": {host: {"auth": self.credentials.basic}}}))
            given = [f"--src-authfile={auth}"]
        tls = "--src-tls-verify=false" if self.ca is None else f"--src-cert-dir={self.folder / 'certs'}"
        target = Path(tempfile.mkdtemp(dir=self.folder))
        command = ["skopeo", "--insecure-policy", "copy", f"--retry-times={self._retry_times}", tls, *given]
        try:
            return self.tell([*command, f"docker://{reference}", f"dir:{target}"], timeout_s)
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def forget(self, reference: str) -> None:
        return

    def versions(self) -> dict[str, str]:
        return {"skopeo": self.version_of("skopeo", "--version")}


class Curl(Client):
    """curl takes the manifest on one connection and all blobs on a second one, in a row."""

    def _run(self, options: Sequence[str | Path], urls: Sequence[str], timeout_s: float) -> Told:
        command: list[str | Path] = ["curl", "--silent", "--show-error", "--fail-with-body", "--location", *options]
        if self.ca is not None:
            command += ["--cacert", self.ca]
        config = self.folder / "curlrc"
        if self.credentials.token:
            config.write_text(f'header = "Authorization: Bearer {self.credentials.token}"\n')
            command += ["--config", config]
        elif self.credentials.user:
            config.write_text(f'user = "{self.credentials.user}:{self.credentials.password}"\n')
            command += ["--config", config]
        return self.tell([*command, *urls], timeout_s)

    def _base(self, reference: str) -> str:
        host, name, _ = split_reference(reference)
        return f"http{'s' if self.ca else ''}://{host}/v2/{name}"

    def manifest(self, reference: str, timeout_s: float = 120, *, head: bool = False) -> Told:
        """GET a manifest into `folder`/manifest, or ask by HEAD whether a tag has changed."""
        accepted = "application/vnd.oci.image.manifest.v1+json,application/vnd.docker.distribution.manifest.v2+json"
        how = ["--head", "--output", "/dev/null"] if head else ["--output", str(self.folder / "manifest")]
        url = f"{self._base(reference)}/manifests/{split_reference(reference)[2]}"
        return self._run([*how, "--header", f"Accept: {accepted}"], [url], timeout_s)

    def blobs(self, reference: str, digests: Sequence[str], timeout_s: float = 120) -> Told:
        """GET blobs and throw them away."""
        urls = [f"{self._base(reference)}/blobs/{digest}" for digest in digests]
        return self._run([word for _ in urls for word in ("--output", "/dev/null")], urls, timeout_s)

    def pull(self, reference: str, timeout_s: float = 120) -> Told:
        first = self.manifest(reference, timeout_s)
        if not first.ok:
            return first
        manifest = json.loads((self.folder / "manifest").read_text())
        digests = [part["digest"] for part in [manifest["config"], *manifest["layers"]]]
        left_s = timeout_s - (first.told_ns - first.started_ns) / 1e9
        return self.blobs(reference, digests, left_s)._replace(started_ns=first.started_ns)

    def forget(self, reference: str) -> None:
        return

    def versions(self) -> dict[str, str]:
        return {"curl": self.version_of("curl", "--version")}
