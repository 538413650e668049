"""The committed data set against its digest, its rebuild, and what UCI publishes about it."""

from __future__ import annotations

import hashlib
import os
import pathlib

import numpy as np
import pytest

from testbed.errors import RackError, ScenarioError
from testbed.learning import landsat


def test_committed_file_has_the_stated_digest() -> None:
    assert hashlib.sha256(landsat.LANDSAT_PATH.read_bytes()).hexdigest() == landsat.LANDSAT_SHA256
    assert landsat.LANDSAT_SHA256 in landsat.LANDSAT_PATH.with_name("LANDSAT.md").read_text()


def test_class_counts_and_first_lines_are_the_published_ones() -> None:
    # Oracle: UCI's sat.doc (class table) and the first lines of sat.trn and sat.tst.
    data = np.load(landsat.LANDSAT_PATH)
    assert np.bincount(data["train_y"]).tolist() == [1072, 479, 961, 415, 470, 1038]
    assert np.bincount(data["test_y"]).tolist() == [461, 224, 397, 211, 237, 470]
    assert data["train_x"][0, :2].tolist() == [[92, 115, 120, 94], [84, 102, 106, 79]]
    assert data["test_x"][0, :2].tolist() == [[80, 102, 102, 79], [76, 102, 102, 79]]


def test_columns_run_pixel_by_pixel() -> None:
    # Physics: the same band of two neighbouring pixels correlates more than two bands of one pixel do (green and
    # near infra-red least). Band-major columns would fail this.
    data = np.load(landsat.LANDSAT_PATH)
    pixels = data["train_x"].astype(np.float64)
    same_band = np.corrcoef(pixels[:, 4, 0], pixels[:, 5, 0])[0, 1]
    across_bands = np.corrcoef(pixels[:, 4, 0], pixels[:, 4, 3])[0, 1]
    assert same_band > 0.8 > across_bands + 0.3


def test_rebuild_gives_the_same_bytes(tmp_path: pathlib.Path) -> None:
    given = os.environ.get("SKYRACK_MLBENCH_DEB")  # where the package cannot be downloaded
    out = tmp_path / "landsat.npz"
    try:
        deb = pathlib.Path(given) if given else landsat.fetch_deb(tmp_path)
    except RackError as error:
        pytest.skip(f"no r-cran-mlbench to be had: {error}")
    assert landsat.rebuild(deb, out) == landsat.LANDSAT_SHA256
    assert out.read_bytes() == landsat.LANDSAT_PATH.read_bytes()


def test_archive_bytes_depend_on_the_arrays_alone() -> None:
    data = np.load(landsat.LANDSAT_PATH)
    arrays = {name: data[name] for name in data.files}
    strided = {name: np.asfortranarray(array) for name, array in arrays.items()}
    assert landsat.npz_bytes(strided) == landsat.LANDSAT_PATH.read_bytes()


def test_a_package_that_is_not_there_is_the_users_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ScenarioError, match="no such package file"):
        landsat.read_deb(pathlib.Path("absent.deb"))
    assert landsat.main(["rebuild", "--deb", "absent.deb"]) == 2
    assert "absent.deb" in capsys.readouterr().err
