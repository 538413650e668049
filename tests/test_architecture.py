"""The shape of the project: what lies where, and who loads what."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

PACKAGES = ("agent", "controller", "protos", "testbed")

ALLOWED_AT_ROOT = {
    *PACKAGES,
    "ansible",
    "docs",
    "tests",
    "LICENSE",
    "Makefile",
    "README.md",
    "buf.yaml",
    "constraints.txt",
    "pyproject.toml",
}
"""And files whose names start with a dot."""

HEAVY = ("torch", "transformers", "peft", "skyfield", "sgp4", "pyroute2", "grpc", "numpy")
"""What the command line loads only when a command needs it. Loading them all takes seconds."""


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_ours(package: str, root: Path) -> None:
    # All four names are taken on the package index by other people's distributions.
    location = import_module(package).__file__
    assert location is not None
    assert Path(location).resolve().parent == root / package


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_modules_is_a_package(package: str, root: Path) -> None:
    # A folder without __init__.py imports here, but is left out of a wheel.
    folders = {path.parent for path in (root / package).rglob("*.py")}
    assert sorted(str(folder) for folder in folders if not (folder / "__init__.py").is_file()) == []
    assert (root / package / "py.typed").is_file()


def test_root_holds_nothing_else(root: Path) -> None:
    if not (root / ".git").exists():
        pytest.skip("not a git checkout: what is ours and what was built here cannot be told apart")
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    top = {name.partition("/")[0] for name in listing}
    assert {name for name in top if not name.startswith(".")} - ALLOWED_AT_ROOT == set()


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    program = f"""
import json, sys
from controller.cli import main
sys.argv = ["skyrack", "--help"]
try:
    code = main()
except SystemExit as ended:
    code = ended.code
print("\\n" + json.dumps({{"code": code or 0, "heavy": [name for name in {HEAVY!r} if name in sys.modules]}}))
"""
    # From another folder: what counts is the installed command, not what happens to lie in the working directory.
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(ended.stdout.splitlines()[-1]) == {"code": 0, "heavy": []}
