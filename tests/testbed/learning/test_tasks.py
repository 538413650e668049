"""Loading data sets: the embedded one, and every way in which a file can be wrong."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

from testbed.errors import ScenarioError
from testbed.learning.landsat import LANDSAT_PATH, npz_bytes
from testbed.learning.tasks import load_dataset


def _arrays() -> dict[str, Any]:
    stream = np.random.default_rng(1)
    return {
        "train_x": stream.integers(0, 256, (5, 9, 4), dtype=np.uint8),
        "train_y": np.array([0, 1, 2, 1, 0], dtype=np.uint8),
        "test_x": stream.integers(0, 256, (3, 9, 4), dtype=np.uint8),
        "test_y": np.array([2, 1, 0], dtype=np.uint8),
        "classes": np.array(["water", "sand", "crop"]),
    }


def test_landsat_by_name_and_by_path_is_the_same_data() -> None:
    named, opened = load_dataset("landsat"), load_dataset(str(LANDSAT_PATH))
    assert named.name == opened.name == "landsat"
    assert named.train_x.shape == (4435, 9, 4) and named.test_x.shape == (2000, 9, 4)
    assert named.classes[1] == "cotton crop" and len(named.classes) == 6
    assert named.raw_bytes_per_sample == 36
    assert np.array_equal(named.train_x[:], opened.train_x[:])


def test_own_file_keeps_values_and_class_names(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "own.npz"
    arrays = _arrays()
    path.write_bytes(npz_bytes(arrays))
    data = load_dataset(str(path))
    assert (data.name, data.classes) == ("own", ("water", "sand", "crop"))
    assert np.array_equal(data.test_x[:], arrays["test_x"]) and np.array_equal(data.train_y, arrays["train_y"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_y": None}, "lacks test_y"),
        ({"train_x": np.zeros((5, 36), np.uint8)}, "train_x has the wrong"),
        ({"train_x": np.zeros((5, 9, 4), np.float32)}, "train_x has the wrong"),
        ({"train_x": np.zeros((4, 9, 4), np.uint8)}, "train_y has the wrong"),
        ({"test_x": np.zeros((0, 9, 4), np.uint8), "test_y": np.zeros(0, np.uint8)}, "test split is empty"),
        ({"classes": np.array(["water"])}, "counts past the classes"),
        ({"test_y": np.array([0.0, 1.0, 2.0])}, "test_y has the wrong"),
        ({"classes": np.array([{}], dtype=object)}, "cannot be read"),
    ],
)
def test_wrong_contents_are_named(tmp_path: pathlib.Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "wrong.npz"
    arrays = {name: array for name, array in {**_arrays(), **change}.items() if array is not None}
    np.savez(path, **arrays)
    with pytest.raises(ScenarioError, match=message) as caught:
        load_dataset(str(path))
    assert caught.value.field == "learning.dataset" and caught.value.allowed


@pytest.mark.parametrize("contents", [b"", b"not an archive", b"PK\x03\x04 cut short"])
def test_what_is_no_archive_is_refused(tmp_path: pathlib.Path, contents: bytes) -> None:
    path = tmp_path / "junk.npz"
    path.write_bytes(contents)
    with pytest.raises(ScenarioError) as caught:
        load_dataset(str(path))
    assert caught.value.field == "learning.dataset"


def test_plain_npy_absent_file_and_folder_are_refused(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "plain.npy", np.zeros(3))
    for name, message in (("plain.npy", "not an .npz"), ("absent.npz", "no such"), ("", "folder")):
        with pytest.raises(ScenarioError, match=message) as caught:
            load_dataset(str(tmp_path / name))
        assert caught.value.field == "learning.dataset"
