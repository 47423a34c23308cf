"""Hosts made of files: what is discovered on each, kept in expected.json beside them. Run this module to write them anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tracer.discovery.found import Discovery
from tracer.discovery.host import discover

HOSTS = Path(__file__).parent / "fixtures/discovery"
CASES = sorted(path.name for path in HOSTS.iterdir())
PATIENCE_S = 60.0


def look_at(root: Path, **options: Any) -> Discovery:
    """Discover with a patience that no machine uses up, and nothing of the environment of the tests."""
    return discover(root, **{"environ": {}, "hub": False, "deadline_s": PATIENCE_S} | options)


def as_json(found: Discovery) -> dict[str, Any]:
    return {
        "found": [
            {"spec": one.spec, "role": one.role.value, "origin": one.origin}
            | ({"mirror_of": one.mirror_of} if one.mirror_of else {})
            for one in found.found
        ],
        "problems": list(found.problems),
        "looked_at": list(found.looked_at),
    }


if __name__ == "__main__":
    for case in CASES:
        content = json.dumps(as_json(look_at(HOSTS / case)), indent=1, ensure_ascii=False)
        (HOSTS / case / "expected.json").write_text(content + "\n")
