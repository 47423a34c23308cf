"""`python -m tests.lab`: play scenarios in a network namespace of the lab's own, and keep their captures and labels."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType

from tests.lab.images import Images
from tests.lab.scenario import CAPTURES, Label, Scenario, play
from tests.lab.scenarios import SCENARIOS

OUT = Path("build/lab")
PROGRAMS = ("docker-registry", "haproxy", "nginx", "skopeo", "curl", "nft", "ip", "ss", "tc", "unshare", "bash")
BY_CLIENT = {"ctr": ("containerd", "ctr"), "dockerd": ("dockerd", "docker")}
_OUTSIDE = "REGTRACE_LAB_OUTSIDE"  # in the environment: the namespace that the lab was started in


def main(arguments: list[str] | None = None) -> int:
    """Play what was asked for; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="GLOB", help="scenarios whose name matches one of these")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"where captures go (default: {OUT})")
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    options = parser.parse_args(arguments)
    chosen = scenarios(options.only)
    if options.list:
        for item in chosen:
            print(f"{item.name:32} {item.fault or 'healthy':14} {item.summary}")
        return 0
    lacking = lacks(chosen, options.only)
    if lacking is not None:
        print(f"lab: {lacking}", file=sys.stderr)
        return 1
    enter_namespace("tests.lab")
    return play_all(chosen, options.out.resolve())


def scenarios(globs: list[str] | None) -> list[Scenario]:
    """Those whose name matches one of these; all for None."""
    assert len({item.name for item in SCENARIOS}) == len(SCENARIOS), "two scenarios of one name"
    return [item for item in SCENARIOS if not globs or any(fnmatch(item.name, glob) for glob in globs)]


def lacks(chosen: list[Scenario], globs: list[str] | None) -> str | None:
    """Why these, which were chosen by globs, can't be played here; None if they can be."""
    if not chosen:
        return f"no scenario matches {' '.join(globs or ())}; see --list"
    missing = missing_programs(chosen)
    if missing:
        return f"not installed: {', '.join(missing)}; `apt install` them, see .ci/setup"
    return None if os.geteuid() == 0 else "needs root, for the network namespace and for eBPF"


def missing_programs(chosen: list[Scenario]) -> list[str]:
    """Which programs these scenarios need and this machine has not."""
    wanted = {*PROGRAMS, *(name for item in chosen for name in BY_CLIENT.get(item.client, ()))}
    return sorted(name for name in wanted if shutil.which(name) is None)


def enter_namespace(module: str) -> None:
    """Start this module again in a network namespace of our own, unless that is where we are."""
    here = str(Path("/proc/self/ns/net").readlink())
    if os.environ.setdefault(_OUTSIDE, here) == here:
        command = ["unshare", "--net", "--", sys.executable, "-m", module, *sys.argv[1:]]
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def play_all(chosen: list[Scenario], out: Path, captures: Mapping[str, str] = CAPTURES) -> int:
    """One after another, each recorded into these captures by source; a failure does not keep the next from being played."""

    def ended(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, ended)
    failed = []
    with tempfile.TemporaryDirectory(prefix="lab-") as scratch:
        images = Images(Path(scratch) / "images")
        for item in chosen:
            begun = time.monotonic()
            try:
                said = outcome(play(item, out, Path(scratch), images, captures))
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are played
                failed.append(item.name)
                said = f"FAILED: {type(error).__name__}: {error}"
            print(f"{item.name:32} {time.monotonic() - begun:6.1f} s  {said}", flush=True)
    if failed:
        print(f"lab: {len(failed)} of {len(chosen)} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def outcome(label: Label) -> str:
    """One line: connections, pulls, and what the user was told when."""
    counts = f"{label.connections} connections, {label.healthy_pulls}/{label.pulls} pulls"
    if label.told is None or label.told_ns is None:
        return f"{counts}; told nothing"
    after = "" if label.fault_ns is None else f" {(label.told_ns - label.fault_ns) / 1e9:.2f} s after the fault"
    return f"{counts}; told{after}: {label.told[:160]}"


if __name__ == "__main__":
    sys.exit(main())
