"""The images that the lab's registries serve: made and pushed once a run, and read by all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.lab.registry import DockerRegistry, make_image, skopeo_copy

_MB = 1_000_000
# Layers, in bytes. `demo` is the shape of a small service's image, `large` of one with a model or a JVM in it.
LAYERS: dict[str, tuple[int, ...]] = {
    "demo": (200_000, 1_000_000, 3_000_000),
    "medium": (2 * _MB, 8 * _MB, 20 * _MB),
    "large": (40 * _MB, 100 * _MB),
    "layer": (100 * _MB,),
    "many": (500,) * 30,  # layers of one size, as a Dockerfile with many small steps makes them
    "library/demo": (200_000, 1_000_000, 3_000_000),
}


class Images:
    """A registry's storage, filled as images are asked for.

    Attributes:
        data: the storage folder, for `DockerRegistry(data=...)`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.data = folder / "data"
        self._blobs: dict[str, list[str]] = {}

    def publish(self, name: str) -> None:
        """Make sure that NAME:latest is in the storage. Not while a trace records, for its traffic."""
        if name in self._blobs:
            return
        number = len(self._blobs)
        image, registry = self._folder / f"image-{number}", self._folder / f"publish-{number}"
        make_image(image, LAYERS[name])
        with DockerRegistry(registry, address="127.0.9.1", data=self.data) as server:
            skopeo_copy(f"oci:{image}:latest", f"docker://{server.host}/{name}:latest")
        index = json.loads((image / "index.json").read_text())
        digest = index["manifests"][0]["digest"].removeprefix("sha256:")
        manifest = json.loads((image / "blobs" / "sha256" / digest).read_text())
        self._blobs[name] = [layer["digest"] for layer in manifest["layers"]]
        shutil.rmtree(image)

    def layer_url(self, host: str, name: str, number: int = -1) -> str:
        """Where a registry has one layer of a published image; the last, which is the largest, unless told."""
        return f"http://{host}/v2/{name}/blobs/{self._blobs[name][number]}"
