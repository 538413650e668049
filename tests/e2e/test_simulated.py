"""The whole demo on the simulated rack, by the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SKYRACK = str(Path(sys.executable).with_name("skyrack"))
RAW_PIXEL_LINEAR = 0.84
"""Test accuracy of logistic regression on the 36 raw pixel values."""


def _run(folder: Path, *flags: str) -> dict[str, Any]:
    ended = subprocess.run(
        [SKYRACK, "run", "demo", "--rack", "simulated", "--format", "json", *flags],
        cwd=folder, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout))


@pytest.mark.slow
def test_the_demo_as_it_stands_learns_in_both_places_and_only_time_differs(tmp_path: Path) -> None:
    collaborative, onboard = (_run(tmp_path, "--strategy", strategy) for strategy in ("collaborative", "onboard"))
    assert collaborative["weights_sha256"] == onboard["weights_sha256"]
    assert collaborative["accuracy"] == onboard["accuracy"]
    assert collaborative["rounds"] == onboard["rounds"] == 10
    assert collaborative["accuracy"]["before"] < 0.5
    # Three standard errors of 2,000 test samples are 0.022.
    assert collaborative["accuracy"]["after"] >= RAW_PIXEL_LINEAR + 0.01
    assert collaborative["mission_time_s"] != onboard["mission_time_s"]
    assert collaborative["bytes"]["up"] == 10 * 1536 * 9 * 384 * 2
    assert collaborative["bytes"]["down"] == 10 * 1536 * 384 * 2
    assert onboard["bytes"]["up"] == onboard["bytes"]["down"] == 0
    # A pass ends while a round's embeddings are on their way up: the prediction must know.
    assert collaborative["predicted_mission_time_s"] == pytest.approx(collaborative["mission_time_s"], rel=0.1)
    events = [
        json.loads(line) for line in (tmp_path / collaborative["run_dir"] / "events.jsonl").read_text().splitlines()
    ]
    cuts = [event for event in events if event["kind"] == "cut"]
    resumed = [event for event in events if event["kind"] == "transfer" and event["resumed_from"] > 0]
    assert cuts and resumed
