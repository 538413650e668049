"""Running a script of tests/agent/guest inside a guest kernel."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from testbed.rack.kernel import GuestKernel, find_guest_kernel
from testbed.rack.uml import run_in_guest

GUEST = Path(__file__).parent / "guest"
GuestScript = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def stock_kernel() -> GuestKernel:
    """Debian's guest kernel, in real time."""
    return find_guest_kernel("real")


@pytest.fixture(scope="session")
def time_travel_kernel() -> GuestKernel:
    """The guest kernel with virtual time."""
    kernel = find_guest_kernel("auto")
    if not kernel.time_travel:
        pytest.skip("no time-travel kernel: run `make kernel`")
    return kernel


@pytest.fixture(scope="session")
def guest_script(root: Path, tmp_path_factory: pytest.TempPathFactory) -> GuestScript:
    """``guest_script(kernel, "name.py", *arguments, binds=[], memory_mb=256)``: its JSON lines. It must end with exit
    code 0."""

    def run(
        kernel: GuestKernel, name: str, *arguments: str, binds: Sequence[Path] = (), memory_mb: int = 256
    ) -> list[dict[str, Any]]:
        lines: list[str] = []
        log = tmp_path_factory.mktemp("guest") / "log"
        code = run_in_guest(
            kernel,
            [sys.executable, str(GUEST / name), *arguments],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
            binds=[root, *binds],
            memory_mb=memory_mb,
            on_line=lines.append,
            log_path=log,
        )
        assert code == 0, log.read_text()
        return [json.loads(line) for line in lines]

    return run
