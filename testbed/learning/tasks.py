"""Data sets: what a scenario's ``learning.dataset`` names. No torch here: the planner reads labels too."""

from __future__ import annotations

import pathlib
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.errors import ScenarioError
from testbed.learning.landsat import BANDS, LANDSAT_PATH, PIXELS

_FIELD = "learning.dataset"
_LAYOUT = f"train_x, test_x [n, {PIXELS}, {BANDS}] uint8; train_y, test_y [n] uint8; classes [c] str"
_EMBEDDED = {"landsat": LANDSAT_PATH}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled 3 x 3 pixel neighbourhoods in four bands, in a training and a test split.

    train_x, test_x are [n, 9, 4] uint8, train_y, test_y [n] uint8 counting into ``classes``.
    """

    name: str
    train_x: npt.NDArray[np.uint8]
    train_y: npt.NDArray[np.uint8]
    test_x: npt.NDArray[np.uint8]
    test_y: npt.NDArray[np.uint8]
    classes: tuple[str, ...]
    raw_bytes_per_sample: int
    """Size of a sample before any embedding, in bytes: what traffic is measured against."""


def load_dataset(name_or_path: str) -> Dataset:
    """The embedded data set of that name ("landsat"), or the ``.npz`` at that path in the same layout.

    ScenarioError (field learning.dataset) says what is wrong with the file.
    """
    path = _EMBEDDED.get(name_or_path, pathlib.Path(name_or_path))
    if not path.exists():
        known = ", ".join(sorted(_EMBEDDED))
        raise _wrong("no such data set or file", name_or_path, f"{known}, or the path of an .npz")
    if path.is_dir():
        raise _wrong("the data set is a folder", name_or_path, "the path of an .npz file")
    arrays = _read(path, name_or_path)
    train, test = (_check_split(arrays, split, name_or_path) for split in ("train", "test"))
    classes = tuple(str(name) for name in arrays["classes"])
    highest = int(max(train[1].max(), test[1].max()))
    if highest >= len(classes):
        raise _wrong("a label counts past the classes", f"label {highest} of {len(classes)} classes", _LAYOUT)
    return Dataset(
        name=name_or_path if name_or_path in _EMBEDDED else path.stem,
        train_x=train[0],
        train_y=train[1],
        test_x=test[0],
        test_y=test[1],
        classes=classes,
        raw_bytes_per_sample=train[0][0].nbytes,
    )


def _wrong(message: str, found: object, allowed: str) -> ScenarioError:
    return ScenarioError(message, field=_FIELD, found=found, allowed=allowed)


def _read(path: pathlib.Path, given: str) -> dict[str, npt.NDArray[Any]]:
    wanted = ("train_x", "train_y", "test_x", "test_y", "classes")
    try:
        with path.open("rb") as file:  # opened here: numpy leaves it open when the archive is broken
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise _wrong("the data set is not an .npz archive", given, _LAYOUT)
            missing = [name for name in wanted if name not in archive]
            if missing:
                raise _wrong(f"the data set lacks {', '.join(missing)}", given, _LAYOUT)
            arrays = {name: archive[name] for name in wanted}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _wrong(f"the data set cannot be read as an .npz: {error}", given, _LAYOUT) from error
    return arrays


def _check_split(
    arrays: dict[str, npt.NDArray[Any]], split: str, given: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    x, y = arrays[f"{split}_x"], arrays[f"{split}_y"]
    found = f"{given}: {split}_x {x.dtype} {x.shape}, {split}_y {y.dtype} {y.shape}"
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[1:] != (PIXELS, BANDS):
        raise _wrong(f"{split}_x has the wrong type or shape", found, _LAYOUT)
    if y.dtype != np.uint8 or y.shape != x.shape[:1]:
        raise _wrong(f"{split}_y has the wrong type or shape", found, _LAYOUT)
    if len(x) < 2:
        raise _wrong(f"the {split} split is empty or a single sample", found, _LAYOUT)
    return x, y
