"""`regtrace doctor`: facts about this host and process, what will be used, and why."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from tracer import __version__
from tracer.discovery.found import Discovery
from tracer.discovery.host import discover
from tracer.errors import EXIT_FAILED, EXIT_OK
from tracer.source import AUTO, choose_source, probe_host, source_facts
from tracer.text import printable

Facts = dict[str, object]


def run(options: argparse.Namespace) -> int:
    """Print the facts; exit 1 if nothing can be traced here."""
    support = probe_host()
    choice = choose_source(support, AUTO)
    facts = host_facts() | source_facts(support)
    discovery = discover()
    if options.json:
        verdict = {"source": choice.source, "why": choice.why, "remedy": choice.remedy or None}
        registries = [
            {"endpoint": each.spec, "role": each.role.value, "origin": each.origin, "mirror_of": each.mirror_of}
            for each in discovery.found
        ]
        found = {"registries": registries, "configuration": list(discovery.looked_at), "problems": list(discovery.problems)}
        sys.stdout.write(json.dumps({"type": "doctor", **facts, **found, **verdict}) + "\n")
    else:
        for name, value in facts.items():
            sys.stdout.write(f"{name.replace('_', ' '):<24} {printable(_shown(value))}\n")
        _write_registries(discovery)
        sys.stdout.write(f"\n{'will use':<24} {choice.source or 'nothing'}: {choice.why}\n")
        if choice.remedy:
            sys.stdout.write(f"{'to do':<24} {choice.remedy}\n")
    return EXIT_OK if choice.source else EXIT_FAILED


def _write_registries(discovery: Discovery) -> None:
    """What `watch` would watch without being told, and what is wrong with this host's configuration."""
    sys.stdout.write(f"\n{'configuration read':<24} {', '.join(discovery.looked_at) or 'none'}\n")
    for problem in discovery.problems:
        sys.stdout.write(f"{'problem':<24} {problem}\n")
    for each in discovery.found:
        mirrored = f", mirror of {each.mirror_of}" if each.mirror_of else ""
        sys.stdout.write(f"{'registry':<24} {printable(f'{each.spec} ({each.role.value}{mirrored}): {each.origin}')}\n")


def _shown(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def host_facts() -> Facts:
    """What can be said without knowing any source."""
    uname = os.uname()
    return {
        "regtrace": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "kernel": f"{uname.sysname} {uname.release} {uname.machine}",
        "host": uname.nodename,
        "user": f"uid {os.geteuid()}",
        "cpus": os.cpu_count(),
        "tracefs_mounted": any(Path(place, "events").is_dir() for place in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")),
        "unprivileged_bpf_disabled": _setting("kernel/unprivileged_bpf_disabled"),
        "bpf_jit_enable": _setting("net/core/bpf_jit_enable"),
        "lockdown": _text(Path("/sys/kernel/security/lockdown")),
    }


def _setting(name: str) -> int | None:
    text = _text(Path("/proc/sys", name))
    return int(text) if text is not None and text.isdigit() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None
