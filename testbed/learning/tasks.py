"""Data sets: what a scenario's ``learning.dataset`` names. No torch here: the planner reads labels too."""

from __future__ import annotations

import pathlib
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from testbed import registry
from testbed.errors import ScenarioError
from testbed.learning.landsat import BAND_DEVIATIONS, BAND_MEANS, BANDS, LANDSAT_PATH, PIXELS

FIELD = "learning.dataset"
_LAYOUT = f"train_x, test_x [n, {PIXELS}, {BANDS}] uint8; train_y, test_y [n] uint8; classes [c] str"
_ALLOWED = "the path of an .npz file or of a folder of images"


class Samples(Protocol):
    """The samples of one split: a numpy array, or what reads or makes rows when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, ...]"""

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> npt.NDArray[Any]:
        """The samples at these rows (an index array or a slice), in this order."""


@dataclass(frozen=True)
class SampleLayout:
    """What one sample looks like, and how the values of its last axis are spread where that is known."""

    shape: tuple[int, ...]
    dtype: str
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{list(self.shape)} {self.dtype}"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples in a training and a test split.

    train_x, test_x are [n, ...] of any number type; train_y, test_y [n] count into ``classes``. Labels are in memory,
    samples need not be.
    """

    name: str
    train_x: Samples
    train_y: npt.NDArray[np.integer[Any]]
    test_x: Samples
    test_y: npt.NDArray[np.integer[Any]]
    classes: tuple[str, ...]
    raw_bytes_per_sample: int
    """Size of a sample before any embedding, in bytes: what traffic is measured against."""
    means: tuple[float, ...] = ()
    """Mean of each value of the last axis, a constant of the data set. None for images, which models scale."""
    deviations: tuple[float, ...] = ()
    """Standard deviation of the same."""
    train_places: npt.NDArray[np.float64] | None = None
    """Where each training sample was taken: [n, 2], latitude and longitude in degrees, where that is known."""

    @property
    def layout(self) -> SampleLayout:
        """What one sample looks like."""
        return SampleLayout(tuple(self.train_x.shape[1:]), str(self.train_x.dtype), self.means, self.deviations)


class Source(ABC):
    """A data set that scenarios name, found by its name in the entry point group ``skyrack.datasets``."""

    @abstractmethod
    def open(self, image_px: int) -> Dataset:
        """The data set. ``image_px`` is the side of the images that the scenario's model takes (0: it takes none):
        what images that have other sizes are brought to. ScenarioError (field learning.dataset) where it is not to be
        had, with the pip call that gets it."""


class Landsat(Source):
    """Statlog Landsat, embedded."""

    def open(self, image_px: int) -> Dataset:
        return _load_npz(LANDSAT_PATH, "landsat", "landsat")


def load_dataset(name_or_path: str, image_px: int = 0) -> Dataset:
    """The data set of that name, or what lies at that path: an ``.npz`` of Landsat's layout or a folder of images.

    ``image_px`` is as for :meth:`Source.open`. ScenarioError (field learning.dataset) says what is wrong with it.
    """
    known = registry.names("datasets")
    if name_or_path in known:
        source: Source = registry.load("datasets", name_or_path)
        return source.open(image_px)
    path = pathlib.Path(name_or_path)
    if not path.exists():
        raise wrong("no such data set or file", name_or_path, f"{', '.join(known)}, or {_ALLOWED}")
    if path.is_dir():
        from testbed.learning.datasets.images import open_folder

        return open_folder(path, image_px)
    return _load_npz(path, name_or_path, path.stem)


def _load_npz(path: pathlib.Path, given: str, name: str) -> Dataset:
    arrays = _read(path, given)
    train, test = (_check_split(arrays, split, given) for split in ("train", "test"))
    classes = tuple(str(name) for name in arrays["classes"])
    highest = int(max(train[1].max(), test[1].max()))
    if highest >= len(classes):
        raise wrong("a label counts past the classes", f"label {highest} of {len(classes)} classes", _LAYOUT)
    return Dataset(
        name=name,
        train_x=train[0],
        train_y=train[1],
        test_x=test[0],
        test_y=test[1],
        classes=classes,
        raw_bytes_per_sample=train[0][0].nbytes,
        means=BAND_MEANS,
        deviations=BAND_DEVIATIONS,
    )


def wrong(message: str, found: object, allowed: str) -> ScenarioError:
    """What is wrong with a data set."""
    return ScenarioError(message, field=FIELD, found=found, allowed=allowed)


def _read(path: pathlib.Path, given: str) -> dict[str, npt.NDArray[Any]]:
    wanted = ("train_x", "train_y", "test_x", "test_y", "classes")
    try:
        with path.open("rb") as file:  # opened here: numpy leaves it open when the archive is broken
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise wrong("the data set is not an .npz archive", given, _LAYOUT)
            missing = [name for name in wanted if name not in archive]
            if missing:
                raise wrong(f"the data set lacks {', '.join(missing)}", given, _LAYOUT)
            arrays = {name: archive[name] for name in wanted}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise wrong(f"the data set cannot be read as an .npz: {error}", given, _LAYOUT) from error
    return arrays


def _check_split(
    arrays: dict[str, npt.NDArray[Any]], split: str, given: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    x, y = arrays[f"{split}_x"], arrays[f"{split}_y"]
    found = f"{given}: {split}_x {x.dtype} {x.shape}, {split}_y {y.dtype} {y.shape}"
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[1:] != (PIXELS, BANDS):
        raise wrong(f"{split}_x has the wrong type or shape", found, _LAYOUT)
    if y.dtype != np.uint8 or y.shape != x.shape[:1]:
        raise wrong(f"{split}_y has the wrong type or shape", found, _LAYOUT)
    if len(x) < 2:
        raise wrong(f"the {split} split is empty or a single sample", found, _LAYOUT)
    return x, y
