"""Any folder of images: one sub-folder per class, or those below ``train`` and ``test``. Needs Pillow.

Images are read when they are asked for and brought to the square size that the scenario's model takes, so the raw bytes
of a sample are those of uint8 pixels at that size, whatever the files' own sizes are.
"""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.learning.seeds import random_stream
from testbed.learning.tasks import Dataset, wrong

CHANNELS = 3
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_LAYOUT = "one sub-folder of images per class, or folders train and test with the same"
_TEST_SHARE = 0.2
"""Of each class, where the folder does not say what is for testing."""

Labelled = list[tuple[pathlib.Path, int]]


class ImageFiles:
    """The images of a split, [n, px, px, 3] uint8, read row by row."""

    def __init__(self, paths: Sequence[pathlib.Path], px: int) -> None:
        self._paths = tuple(paths)
        self.shape = (len(self._paths), px, px, CHANNELS)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, rows: Any, /) -> npt.NDArray[np.uint8]:
        chosen = np.arange(len(self))[rows]
        images = np.empty((len(chosen), *self.shape[1:]), dtype=np.uint8)
        for image, row in zip(images, chosen, strict=True):
            image[:] = _read(self._paths[row], self.shape[1])
        return images


def open_folder(folder: pathlib.Path, px: int) -> Dataset:
    """The data set in a folder, its images brought to ``px`` x ``px``. ScenarioError (field learning.dataset) if that
    is no such folder, Pillow is missing, or the model takes no images (``px`` 0)."""
    if not px:
        raise wrong("a folder holds images, and the scenario's model takes none", str(folder), "a model of images")
    if importlib.util.find_spec("PIL") is None:
        raise wrong("images need Pillow, which is not installed", str(folder), "pip install 'skyrack[images]'")
    divided = (folder / "train").is_dir() and (folder / "test").is_dir()
    classes = _classes(folder / "train" if divided else folder)
    if divided:
        if _classes(folder / "test") != classes:
            raise wrong("train and test have different classes", str(folder), _LAYOUT)
        train, test = (_list(folder / split, classes) for split in ("train", "test"))
    else:
        train, test = _divide(_list(folder, classes))
    if min(len(train), len(test)) < 2:
        raise wrong("a split is empty or a single image", f"{len(train)} and {len(test)} images", _LAYOUT)
    return Dataset(
        name=folder.name,
        train_x=ImageFiles([path for path, _ in train], px),
        train_y=np.array([label for _, label in train]),
        test_x=ImageFiles([path for path, _ in test], px),
        test_y=np.array([label for _, label in test]),
        classes=classes,
        raw_bytes_per_sample=px * px * CHANNELS,
    )


def _classes(folder: pathlib.Path) -> tuple[str, ...]:
    found = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if len(found) < 2:
        raise wrong("the folder has fewer than two classes", str(folder), _LAYOUT)
    return found


def _list(folder: pathlib.Path, classes: Sequence[str]) -> Labelled:
    """Every image with its label, by class and name: the same order on every file system."""
    return [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]


def _divide(images: Labelled) -> tuple[Labelled, Labelled]:
    """Into training and test images, class by class, the same way for every seed of a scenario."""
    train: Labelled = []
    test: Labelled = []
    for label in sorted({label for _, label in images}):
        of_class = [image for image in images if image[1] == label]
        chosen = random_stream("image-test", 0, label).permutation(len(of_class))[: round(_TEST_SHARE * len(of_class))]
        for index, image in enumerate(of_class):
            (test if index in chosen else train).append(image)
    return train, test


def _read(path: pathlib.Path, px: int) -> npt.NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((px, px), Image.Resampling.BILINEAR))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise wrong(f"an image cannot be read: {error}", str(path), "what Pillow reads: PNG, JPEG, TIFF") from error
