"""A busy host bends no measurement: the mission takes as long as on a quiet one, or the verdict is not `valid`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.rack.kernel import find_guest_kernel
from tests.lone_passes import LONE_PASSES

pytestmark = [pytest.mark.guest, pytest.mark.slow]

SKYRACK = str(Path(sys.executable).with_name("skyrack"))
TOLERANCE = 0.02
ROUND_TOLERANCE = 0.06
"""Of one round: gathering goes both ways over links that acknowledgements share, and TCP takes 24.6 to 25.3 s for the
same round on an idle host (six runs; standard deviation 1.1 %, so 1.6 % between two)."""


@contextmanager
def _busy_loops(count: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            os.kill(loop.pid, signal.SIGKILL)
            loop.wait()


def _mission(folder: Path, time: str, rounds: int) -> dict[str, Any]:
    command = [SKYRACK, "run", "demo", "--rack", "local", "--time", time, "--rounds", str(rounds), "--format", "json"]
    command += [flag for key, value in LONE_PASSES.items() for flag in ("--set", f"{key}={value}")]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1500, check=False)
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout))


def test_on_a_time_travel_kernel_load_changes_nothing(tmp_path: Path) -> None:
    if not find_guest_kernel("auto").time_travel:
        pytest.skip("no time-travel kernel: run `make kernel`")
    quiet = _mission(tmp_path, "auto", 2)
    with _busy_loops(2):
        loaded = _mission(tmp_path, "auto", 2)
    assert (quiet["verdict"], loaded["verdict"]) == ("valid", "valid")
    assert loaded["mission_time_s"] == pytest.approx(quiet["mission_time_s"], rel=TOLERANCE)
    first_s, loaded_first_s = (result["history"][0]["end_s"] for result in (quiet, loaded))
    assert loaded_first_s == pytest.approx(first_s, rel=ROUND_TOLERANCE)
    assert loaded["weights_sha256"] == quiet["weights_sha256"]


def test_in_real_time_a_run_that_load_bent_is_not_valid(tmp_path: Path) -> None:
    quiet = _mission(tmp_path, "real", 1)
    with _busy_loops(2):
        loaded = _mission(tmp_path, "real", 1)
    bent = abs(loaded["mission_time_s"] / quiet["mission_time_s"] - 1) > TOLERANCE
    assert not (bent and quiet["verdict"] == loaded["verdict"] == "valid"), (quiet["mission_time_s"], loaded)
    assert loaded["weights_sha256"] == quiet["weights_sha256"]
