"""Regenerate the code beside the ``.proto`` files: ``python -m protos.generate``.

With ``--check`` nothing is written: the exit code is 1 when the committed code is not what the ``.proto`` files give.

The import path of generated code is the path of its ``.proto`` below the include folder. So the files lie inside the
package and are compiled from the folder that holds it, and imports need no rewriting afterwards.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import protos

ROOT = Path(protos.__file__).resolve().parents[1]
"""The folder that holds the package: ``protos.skyrack.v1`` is compiled as ``protos/skyrack/v1/*.proto`` from here."""

GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
"""What protoc and its plugins write, and nobody else."""

GENERATORS = {"grpcio-tools": "1.80.0", "mypy-protobuf": "5.1.0"}
"""Another generator writes other code. grpcio-tools is also the oldest grpcio that can import it (pyproject.toml)."""


def sources() -> list[str]:
    """The ``.proto`` files, relative to :data:`ROOT`, sorted."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "protos").rglob("*.proto"))


def compile_into(folder: Path) -> None:
    """Compile every source below ``folder``. Raises :class:`RuntimeError` when protoc refuses one (it says why).

    In a process of its own: grpc_tools and OR-Tools each bring a C++ protobuf, and one process cannot hold both.
    """
    suffix = sysconfig.get_config_var("EXE") or ""
    plugins = Path(sysconfig.get_path("scripts"))  # beside this Python, which need not be on PATH
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",  # [dev] only: the generated code itself does not need it
            f"--proto_path={ROOT}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--plugin=protoc-gen-mypy={plugins / f'protoc-gen-mypy{suffix}'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / f'protoc-gen-mypy_grpc{suffix}'}",
            f"--python_out={folder}",
            f"--grpc_python_out={folder}",
            f"--mypy_out=quiet:{folder}",
            f"--mypy_grpc_out=quiet:{folder}",
            *sources(),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    if ended.returncode != 0:
        raise RuntimeError(f"protoc ended with status {ended.returncode}: {ended.stderr.strip()}")


def generated(root: Path) -> dict[str, bytes]:
    """The generated files below ``root/protos`` by their path relative to ``root``."""
    paths = (path for pattern in GENERATED for path in (root / "protos").rglob(pattern))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def differences(fresh: dict[str, bytes], committed: dict[str, bytes]) -> list[str]:
    """One line per file that is missing, out of date or left over; empty when all is as it should be."""
    lines = [f"missing: {name}" for name in fresh.keys() - committed.keys()]
    lines += [f"left over: {name}" for name in committed.keys() - fresh.keys()]
    lines += [f"out of date: {name}" for name in fresh.keys() & committed.keys() if fresh[name] != committed[name]]
    return sorted(lines)


def replace(fresh: Path) -> None:
    """Put the code generated below ``fresh`` in place of the committed one."""
    for name in generated(ROOT):
        (ROOT / name).unlink()
    for name in generated(fresh):
        shutil.copyfile(fresh / name, ROOT / name)


def main(arguments: list[str] | None = None) -> int:
    """Regenerate, or check. Returns the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m protos.generate", description="Regenerate the code beside the .proto files."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the committed code is stale")
    check = parser.parse_args(arguments).check
    for name, needed in GENERATORS.items():
        if (found := version(name)) != needed:
            parser.error(f"{name} {found} is installed, the committed code is made by {needed}: pip install '.[dev]'")
    with tempfile.TemporaryDirectory(prefix="skyrack-protos-") as folder:
        compile_into(Path(folder))
        if not check:
            replace(Path(folder))
            return 0
        stale = differences(generated(Path(folder)), generated(ROOT))
    if stale:
        sys.stderr.write("\n".join([*stale, "regenerate with: make protos", ""]))
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
