"""registries.yaml of k3s and rke2. Pure.

docs.k3s.io, "Private registry configuration"; rke2 reads the same form.
"""

from __future__ import annotations

from tracer.discovery.containerd import take_mirrors
from tracer.discovery.documents import parse_yaml
from tracer.discovery.found import ANY_REGISTRY, Reading
from tracer.discovery.gathering import Gathering
from tracer.roles import Role


def parse_rancher(text: str, place: str) -> Reading:
    """The mirrors in a registries.yaml, the registries that they stand for, and those that have a configuration."""
    gathering = Gathering(place)
    content = gathering.document(parse_yaml, text)
    for entry, name, table in gathering.tables(content, "mirrors"):
        take_mirrors(gathering, name, table, "mirrors", entry)
    for entry, name, _ in gathering.tables(content, "configs"):
        if name != ANY_REGISTRY:
            gathering.take(name, "configs", Role.PRIVATE, entry=entry)
    return gathering.reading()
