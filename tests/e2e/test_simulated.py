"""The whole demo on the simulated rack, by the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lone_passes import LONE_PASSES

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
    # The last round's embeddings wait for a later pass: the prediction must know.
    assert collaborative["predicted_mission_time_s"] == pytest.approx(collaborative["mission_time_s"], rel=0.02)


@pytest.mark.slow
def test_what_a_pass_cuts_goes_on_in_the_next_one_where_it_ended(tmp_path: Path) -> None:
    flags = [flag for key, value in LONE_PASSES.items() for flag in ("--set", f"{key}={value}")]
    result = _run(tmp_path, "--rounds", "2", "--set", "learning.samples_per_round=2048", *flags)
    events = [json.loads(line) for line in (tmp_path / result["run_dir"] / "events.jsonl").read_text().splitlines()]
    (cut,) = [event for event in events if event["kind"] == "cut"]
    sent = [event for event in events if event["kind"] == "transfer" and event["chunk"] == cut["chunk"]]
    (resumed,) = [event for event in sent if event["receiver"] == cut["receiver"]]
    assert cut["sender"] != resumed["sender"]
    assert 0 < resumed["resumed_from"] == cut["durable_bytes"]
    assert resumed["start_s"] > cut["end_s"] + 300
    # Not a byte of it went up twice.
    assert result["bytes"]["up"] == 2 * 2048 * 9 * 384 * 2
    assert result["predicted_mission_time_s"] == pytest.approx(result["mission_time_s"], rel=0.02)
