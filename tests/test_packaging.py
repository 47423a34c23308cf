"""The wheel: exactly these files, and a program that finds its C sources when it is installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).with_name("wheel.txt")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this tree with the build tools that are installed (no network)."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_contents_are_the_golden_list(wheel: Path) -> None:
    """After a change that is meant: unzip -Z1 dist/*.whl | grep -v dist-info | sort > tests/wheel.txt."""
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if ".dist-info/" not in name)
    assert names == GOLDEN.read_text().split()


def test_the_installed_command_finds_its_sources(wheel: Path, tmp_path: Path) -> None:
    """From the unpacked wheel alone: the command starts, and the C files are where the loader looks for them."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import tracer.main, bpf.attach\n"
        "assert tracer.main.__file__.startswith(sys.argv[1]), tracer.main.__file__\n"
        "here = bpf.attach.HERE\n"
        "assert (here / 'tcp_states.c').is_file() and (here / 'include/linux/types.h').is_file()\n"
        "tracer.main.build_parser()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=tmp_path)


def test_the_package_of_that_name_on_the_index_is_no_dependency(wheel: Path) -> None:
    """PyPI's "bcc" is another program."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    required = [line.split()[1] for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    assert required
    assert not any(name.startswith("bcc") for name in required)
