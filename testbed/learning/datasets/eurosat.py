"""EuroSAT (Helber et al. 2019, doi 10.1109/JSTARS.2019.2918242): 27,000 Sentinel-2 images, 64 x 64 pixels, 10 classes.

By the package ``datasets``, which downloads it once from the model hub: this data set alone needs a network. Its images
are brought to the size that the scenario's model takes; a sample's raw bytes are those of its own 64 x 64 pixels.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.learning.datasets.images import CHANNELS
from testbed.learning.tasks import Dataset, Source, wrong

HUB_ID = "blanchon/EuroSAT_RGB"
_OWN_PX = 64


class EuroSat(Source):
    """The three visible bands, [n, px, px, 3] uint8."""

    def open(self, image_px: int) -> Dataset:
        if not image_px:
            raise wrong("the scenario's model takes no images", "eurosat", "a model of images, or another data set")
        if importlib.util.find_spec("datasets") is None:
            raise wrong("EuroSAT needs the package datasets", "eurosat", "pip install 'skyrack[eurosat]'")
        try:
            splits = {name: _load(name) for name in ("train", "test")}
        except (OSError, ValueError) as error:
            raise wrong(f"EuroSAT cannot be had: {error}", HUB_ID, "a network, or a copy in the hub's cache") from error
        labels = {name: np.array(split["label"]) for name, split in splits.items()}
        return Dataset(
            name="eurosat",
            train_x=_HubImages(splits["train"], image_px),
            train_y=labels["train"],
            test_x=_HubImages(splits["test"], image_px),
            test_y=labels["test"],
            classes=tuple(splits["train"].features["label"].names),
            raw_bytes_per_sample=_OWN_PX * _OWN_PX * CHANNELS,
        )


def _load(split: str) -> Any:
    return importlib.import_module("datasets").load_dataset(HUB_ID, split=split)


class _HubImages:
    """A split's images, decoded row by row."""

    def __init__(self, split: Any, px: int) -> None:
        self._split = split
        self.shape = (len(split), px, px, CHANNELS)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any, /) -> npt.NDArray[np.uint8]:
        size = self.shape[1:3]
        chosen = np.arange(len(self))[rows].tolist()
        images = [np.asarray(self._split[row]["image"].convert("RGB").resize(size)) for row in chosen]
        return np.stack(images) if images else np.empty((0, *self.shape[1:]), dtype=np.uint8)
