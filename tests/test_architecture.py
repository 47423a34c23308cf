"""Which module may import what: the arrows between the rooms, read from the source."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("bpf", "fallback", "tracer")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
CORE = (
    "events", "errors", "lifecycle", "segments", "rows", "adoption", "connections", "lifetimes", "churn", "cadence", "visits",
    "findings", "analysis", "endpoints", "roles", "clients", "header", "text", "anonymise", "facts", "summary",
    "learner", "watchlist", "remotes", "verdict", "lanes", "openings", "exactness",
    *(f"collected/{name}" for name in (
        "belonging", "collector", "dossier", "meanings", "ordering", "selection", "tables", "tables_csv",
    )),
    *(f"comparison/{name}" for name in (
        "changes", "compared", "difference", "matching", "metrics", "presence", "samples", "sentences", "sides", "significance",
    )),
    *(f"lines/{name}" for name in ("comparison", "connections", "findings", "stream", "summary", "transitions", "values")),
    *(f"filters/{name}" for name in ("connections", "filters", "findings", "places", "spans", "transitions")),
    *(f"exports/{name}" for name in ("about", "arguments", "counts", "stays", "timeline")),
    *(f"pages/{name}" for name in (
        "charts", "content", "counts", "figures", "layout", "markdown", "span", "stretches", "tallies",
    )),
    *(f"imports/{name}" for name in ("bpftrace", "columns", "ends", "formats", "ftrace", "importer", "readings", "selection")),
    *(f"imports/{name}" for name in ("tcpstates", "tcpstates_csv", "timeline", "window")),
    *(f"screen/{name}" for name in ("controls", "gauges", "journal", "keys", "matching", "moments", "numbers", "picture")),
    "screen/sparkline",
    "discovery/addresses", "discovery/buildkit", "discovery/commands", "discovery/containerd", "discovery/containers",
    "discovery/docker", "discovery/documents", "discovery/found", "discovery/gathering", "discovery/proxies",
    "discovery/rancher", "discovery/units", "names/records", "names/book", "names/packets", "names/wire", "owners/owner",
    "owners/cgroups", "owners/register", "owners/masking", "owners/secret_text",
    *(path.relative_to(ROOT / "tracer").with_suffix("").as_posix() for path in sorted((ROOT / "tracer/rules").rglob("*.py"))),
)  # fmt: skip
"""Modules of tracer that take values and return values, the rules among them."""
IO_MODULES = {
    "asyncio", "builtins", "ctypes", "dns", "fcntl", "io", "logging", "mmap", "multiprocessing", "os", "pathlib", "rich",
    "select", "selectors", "shutil", "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time", "bpf", "bcc",
    "fallback",
}  # fmt: skip
IO_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether it is imported when the module is), for each import; `from a import b` gives a.b."""
    yield from _imports(ast.parse(path.read_text("utf-8")), True)


def _imports(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, at_import) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield from ((f"{child.module}.{alias.name}", at_import) for alias in child.names)
        elif isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            yield from _imports(child, False)
        else:
            late = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, at_import and not late)


def room_of(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path).startswith(("bpf", "fallback"))], ids=name_of)
def test_a_source_imports_only_events_and_errors_of_the_tracer(path: Path) -> None:
    found = {name for name, _ in imports(path) if room_of(name) == "tracer"}
    assert {".".join(name.split(".")[:2]) for name in found} <= {"tracer.events", "tracer.errors"}


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path).startswith(("bpf", "fallback"))], ids=name_of)
def test_the_sources_do_not_import_each_other(path: Path) -> None:
    own = room_of(name_of(path))
    assert {room_of(name) for name, _ in imports(path)} & {"bpf", "fallback"} <= {own}


def test_one_module_alone_imports_the_sources() -> None:
    found = {
        name_of(path)
        for path in MODULES
        if room_of(name_of(path)) == "tracer" and any(room_of(name) in ("bpf", "fallback") for name, _ in imports(path))
    }
    assert found == {"tracer.source"}


@pytest.mark.parametrize("library", ["altair", "vl_convert", "jinja2"])
def test_what_an_extra_brings_is_imported_late_and_by_reports_alone(library: str) -> None:
    found = {name_of(path): at_import for path in MODULES for name, at_import in imports(path) if room_of(name) == library}
    assert set(found) <= {"tracer.commands.report", "tracer.pages.charts", "tracer.pages.page", "tracer.pages.picture"}
    assert found
    assert not any(found.values())


def test_the_sources_are_imported_late() -> None:
    found = [name for name, at_import in imports(ROOT / "tracer/source.py") if at_import and room_of(name) in ("bpf", "fallback")]
    assert found == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nobody_imports_bcc_by_name(path: Path) -> None:
    assert not [name for name, _ in imports(path) if room_of(name) in ("bcc", "bpfcc")]


def test_one_module_alone_loads_bcc_by_its_place() -> None:
    found = {
        name_of(path)
        for path in MODULES
        if any(isinstance(node, ast.Constant) and node.value == "bcc" for node in _arguments_of_loading(path))
    }
    assert found == {"bpf.attach"}


def _arguments_of_loading(path: Path) -> Iterator[ast.expr]:
    """What the importlib calls of a module are given."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("importlib."):
            yield from node.args


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_nothing_that_does_io(module: str) -> None:
    found = {room_of(name) for name, _ in imports(ROOT / "tracer" / f"{module}.py")}
    assert not found & IO_MODULES


@pytest.mark.parametrize("module", CORE)
def test_the_core_calls_nothing_that_does_io(module: str) -> None:
    tree = ast.parse((ROOT / "tracer" / f"{module}.py").read_text("utf-8"))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & IO_CALLS


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_neither_reports_nor_commands(module: str) -> None:
    found = {name for name, _ in imports(ROOT / "tracer" / f"{module}.py")}
    assert not [
        name for name in found if name.startswith(("tracer.reports", "tracer.commands", "tracer.pipeline", "tracer.source"))
    ]


_HEAVY = ["numpy", "rich", "nanoarrow", "dns", "bpf", "fallback", "polars", "perfetto", "altair", "vl_convert", "jinja2"]


@pytest.mark.parametrize("heavy", _HEAVY)
def test_help_imports_nothing_heavy(heavy: str) -> None:
    program = (
        "import contextlib, io, json, sys, tracer.main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): tracer.main.main(['--help'])\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    assert heavy not in json.loads(done.stdout)


def test_sources_offered_on_the_command_line_are_those_that_exist() -> None:
    from tracer.options import SOURCES
    from tracer.source import WANTED

    assert SOURCES == WANTED
