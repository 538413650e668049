"""Synthetic scenes that look somewhat like land from above: image-sized traffic where no images can be had.

They are drawn, not photographed, and say nothing about how well a model sees the Earth. What they are for: cut tensors
of real models at real image sizes, and a task that features of even a frozen random model solve in part.

A scene follows from its class and row alone. All arithmetic is in integers: the same bits on every processor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.learning.seeds import Generator, random_stream
from testbed.learning.tasks import Dataset, Source

TRAIN_SCENES, TEST_SCENES = 3_000, 600
DEFAULT_PX = 224
"""Side of a scene where the scenario's model takes no images of its own size."""
_SEED = 0
_ONE = 1 << 10
"""1.0 in the fixed-point numbers of this module."""

Plane = npt.NDArray[Any]
"""[px, px] of int64, values from 0 to _ONE; or [px, px, 3], values from 0 to 255."""
Colour = tuple[int, int, int]


class Scenes(Source):
    """Ten kinds of land, [n, px, px, 3] uint8, drawn when they are asked for."""

    def open(self, image_px: int) -> Dataset:
        px = image_px or DEFAULT_PX
        train, test = SceneRows("train", TRAIN_SCENES, px), SceneRows("test", TEST_SCENES, px)
        return Dataset(
            name="scenes",
            train_x=train,
            train_y=train.labels,
            test_x=test,
            test_y=test.labels,
            classes=tuple(_PAINTERS),
            raw_bytes_per_sample=px * px * 3,
        )


class SceneRows:
    """One split. Its labels are drawn evenly."""

    def __init__(self, split: str, count: int, px: int) -> None:
        self._split = split
        self.shape = (count, px, px, 3)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.labels: npt.NDArray[np.uint8] = (
            random_stream("scene-labels", _SEED, split).permutation(np.arange(count) % len(_PAINTERS)).astype(np.uint8)
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any, /) -> npt.NDArray[np.uint8]:
        chosen = np.arange(len(self))[rows]
        scenes = np.empty((len(chosen), *self.shape[1:]), dtype=np.uint8)
        for scene, row in zip(scenes, chosen.tolist(), strict=True):
            scene[:] = paint(int(self.labels[row]), self._split, row, self.shape[1])
        return scenes


def paint(label: int, split: str, row: int, px: int) -> npt.NDArray[np.uint8]:
    """One scene [px, px, 3]: land of its class under its own light, haze and noise."""
    stream = random_stream("scene", _SEED, split, row)
    scene = list(_PAINTERS.values())[label](stream, px)
    light = stream.integers(_ONE * 6 // 10, _ONE * 13 // 10)  # sun and season
    tint = stream.integers(_ONE * 85 // 100, _ONE * 115 // 100, 3)
    haze = int(stream.integers(0, _ONE * 4 // 10))
    lit = scene * light // _ONE * tint // _ONE
    hazy = (lit * (_ONE - haze) + 190 * haze) // _ONE
    grain = int(stream.integers(2, 12))
    noisy = hazy + stream.integers(-grain, grain + 1, scene.shape)
    pixels: npt.NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return pixels


# -- what scenes are made of ------------------------------------------------------------------------------------------


def _grid(px: int) -> tuple[Plane, Plane]:
    """Rows and columns in units of the scene's side: a scene of another size is the same scene."""
    axis = np.arange(px, dtype=np.int64) * _ONE // px
    return axis[:, None], axis[None, :]


def _clouds(stream: Generator, px: int, cells: int) -> Plane:
    """Smooth noise: random values on a lattice of ``cells`` a side, linear between them."""
    lattice = stream.integers(0, _ONE + 1, (cells + 2, cells + 2))
    at = np.arange(px, dtype=np.int64) * cells * _ONE // px
    cell, part = at // _ONE, at % _ONE
    rows = (lattice[cell] * (_ONE - part)[:, None] + lattice[cell + 1] * part[:, None]) // _ONE
    return (rows[:, cell] * (_ONE - part) + rows[:, cell + 1] * part) // _ONE


def _rough(stream: Generator, px: int, cells: int) -> Plane:
    """Noise on three scales, the finest ``4 cells`` a side."""
    coarse, middle, fine = (_clouds(stream, px, factor * cells) for factor in (1, 2, 4))
    found: Plane = (4 * coarse + 2 * middle + fine) // 7
    return found


def _ramp(stream: Generator, px: int) -> Plane:
    """Position along a random direction; not bounded."""
    down, right = _grid(px)
    slope = stream.integers(-_ONE, _ONE + 1, 2)
    steep = _ONE if max(abs(slope)) < _ONE // 2 else 0  # never flat both ways
    found: Plane = (down * (slope[0] + steep) + right * slope[1]) // _ONE
    return found


def _wave(position: Plane, period: int) -> Plane:
    """A triangle from 0 to _ONE and back every ``period``."""
    phase = position % period
    found: Plane = np.minimum(phase, period - phase) * 2 * _ONE // period
    return found


def _mix(low: Colour, high: Colour, weight: Plane) -> Plane:
    """From one colour to another, [px, px, 3]."""
    share = weight[:, :, None]
    found: Plane = (np.array(low) * (_ONE - share) + np.array(high) * share) // _ONE
    return found


def _over(scene: Plane, mask: npt.NDArray[np.bool_], colour: Colour) -> Plane:
    return np.where(mask[:, :, None], np.array(colour), scene)


def _meadow(stream: Generator, px: int) -> Plane:
    """Ground that several kinds of land share."""
    return _mix((74, 92, 52), (132, 128, 84), _rough(stream, px, int(stream.integers(3, 9))))


def _blocks(stream: Generator, px: int, count: int, least: int, most: int) -> list[npt.NDArray[np.bool_]]:
    """``count`` rectangles with sides from ``least`` to ``most`` (in 1 / _ONE of the scene's)."""
    down, right = _grid(px)
    found = []
    for _ in range(count):
        top, left = stream.integers(0, _ONE, 2)
        height, width = stream.integers(least, most + 1, 2)
        found.append((down >= top) & (down < top + height) & (right >= left) & (right < left + width))
    return found


# -- kinds of land ----------------------------------------------------------------------------------------------------


def _annual_crop(stream: Generator, px: int) -> Plane:
    scene = _mix((120, 104, 70), (96, 122, 62), _clouds(stream, px, 3))
    for field in _blocks(stream, px, 5, _ONE // 4, _ONE * 7 // 10):
        furrows = _wave(_ramp(stream, px), int(stream.integers(24, 60)))
        low, high = ((88, 84, 56), (142, 132, 86)) if stream.integers(2) else ((70, 98, 50), (118, 140, 78))
        scene = np.where(field[:, :, None], _mix(low, high, furrows), scene)
    return scene


def _forest(stream: Generator, px: int) -> Plane:
    return _mix((38, 62, 38), (92, 108, 66), _rough(stream, px, int(stream.integers(16, 40))))


def _herbaceous(stream: Generator, px: int) -> Plane:
    return _mix((66, 82, 48), (130, 124, 80), _rough(stream, px, int(stream.integers(6, 14))))


def _highway(stream: Generator, px: int) -> Plane:
    scene, across = _meadow(stream, px), _ramp(stream, px)
    middle, width = int(np.median(across)) + int(stream.integers(-80, 81)), int(stream.integers(24, 56))
    scene = _over(scene, np.abs(across - middle) < width, (128, 126, 122))
    return _over(scene, np.abs(across - middle) < width // 8, (196, 194, 188))


def _industrial(stream: Generator, px: int) -> Plane:
    scene = _mix((98, 98, 92), (134, 130, 122), _clouds(stream, px, 8))
    for hall in _blocks(stream, px, int(stream.integers(6, 14)), _ONE // 10, _ONE * 3 // 10):
        roof = int(stream.integers(110, 220))
        scene = _over(scene, hall, (roof, roof, roof - 6))
    return scene


def _pasture(stream: Generator, px: int) -> Plane:
    scene = _mix((78, 100, 54), (116, 130, 76), _clouds(stream, px, int(stream.integers(2, 6))))
    for _ in range(2):  # hedges
        across = _ramp(stream, px)
        scene = _over(scene, np.abs(across - int(np.median(across))) < int(stream.integers(4, 12)), (52, 72, 42))
    return scene


def _permanent_crop(stream: Generator, px: int) -> Plane:
    down, right = _grid(px)
    period, lean = int(stream.integers(40, 80)), int(stream.integers(-_ONE // 2, _ONE // 2))
    crowns = np.minimum(_wave(down + right * lean // _ONE, period), _wave(right - down * lean // _ONE, period))
    soil = _mix((112, 98, 66), (138, 124, 88), _clouds(stream, px, 6))
    return _over(soil, crowns > _ONE * 45 // 100, (66, 88, 48))


def _residential(stream: Generator, px: int) -> Plane:
    scene = _mix((76, 92, 58), (122, 120, 98), _rough(stream, px, 8))
    down, right = _grid(px)
    street = int(stream.integers(120, 260))
    scene = _over(scene, (down % street < 20) | (right % street < 20), (130, 128, 126))
    for house in _blocks(stream, px, int(stream.integers(60, 120)), 20, 50):
        scene = _over(scene, house, ((158, 96, 78), (124, 114, 108), (176, 168, 156))[int(stream.integers(3))])
    return scene


def _river(stream: Generator, px: int) -> Plane:
    scene, across = _meadow(stream, px), _ramp(stream, px)
    bends = (_clouds(stream, px, 3) - _ONE // 2) * int(stream.integers(20, 60)) // 100
    water = np.abs(across - int(np.median(across)) + bends) < int(stream.integers(50, 120))
    return _over(scene, water, (58, 80, 96))


def _water(stream: Generator, px: int) -> Plane:
    waves = (_wave(_ramp(stream, px), int(stream.integers(16, 48))) + 3 * _clouds(stream, px, 4)) // 4
    return _mix((44, 68, 84), (84, 104, 108), waves)


_PAINTERS: Mapping[str, Callable[[Generator, int], Plane]] = {
    "annual crop": _annual_crop,
    "forest": _forest,
    "herbaceous vegetation": _herbaceous,
    "highway": _highway,
    "industrial": _industrial,
    "pasture": _pasture,
    "permanent crop": _permanent_crop,
    "residential": _residential,
    "river": _river,
    "sea or lake": _water,
}
"""The kinds of land, named after EuroSAT's classes."""
