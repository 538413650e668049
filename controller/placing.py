"""Where things go in a picture: passes that overlap in time, and names beside points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from testbed.orbit.contacts import Contact
from testbed.orbit.motion import Array
from testbed.orbit.stations import Station

MOST_STRIPS = 10
"""Where more passes than this run at a time, a timeline shows how many there are and not which."""

_LANE_IN, _STRIP_IN = 0.36, 0.17  # a lane's least height, and that of each pass beside another
_COUNT_IN = 0.72  # that of a lane with a curve


class Lane:
    """A station's row of the timeline. ``strip`` holds for each pass which one it runs in beside those it overlaps."""

    def __init__(self, station: Station, contacts: Sequence[Contact]) -> None:
        self.station = station
        self.contacts = sorted(contacts, key=lambda one: (one.start_s, one.satellite))
        self.strip: list[int] = []
        ends_s: list[float] = []
        for one in self.contacts:
            free = next((index for index, end_s in enumerate(ends_s) if end_s <= one.start_s), len(ends_s))
            ends_s[free:] = [one.end_s, *ends_s[free + 1 :]]
            self.strip.append(free)
        self.strips = max(len(ends_s), 1)
        self.counted = self.strips > MOST_STRIPS

    @property
    def height_in(self) -> float:
        """How much of the picture it takes."""
        return _COUNT_IN if self.counted else max(_LANE_IN, _STRIP_IN * self.strips + 0.12)

    def in_view(self) -> tuple[Array, Array]:
        """When the number of satellites in view changes, and what it is from then on."""
        change = np.array([(one.start_s, 1.0) for one in self.contacts] + [(one.end_s, -1.0) for one in self.contacts])
        change = change[np.argsort(change[:, 0], kind="stable")]
        return change[:, 0], np.cumsum(change[:, 1])


class Labels:
    """Puts names beside points so that they cover neither each other nor a point, as far as there is room.

    Boxes are in points (1/72 inch) from the map's lower left corner: (left, bottom, right, top).
    """

    # Where a name may go: (dx, dy, alignment), best first, then further out.
    _SPOTS = tuple(
        (far * dx, far * dy, side)
        for far in (1.0, 2.4, 4.0)
        for dx, dy, side in (
            (6, 0, "left"), (-6, 0, "right"), (4, 7, "left"), (4, -7, "left"),
            (-4, 7, "right"), (-4, -7, "right"), (0, 10, "center"), (0, -10, "center"),
        )
    )  # fmt: skip

    def __init__(self, width_pt: float, height_pt: float) -> None:
        self._width_pt, self._height_pt = width_pt, height_pt
        self._taken: list[tuple[float, float, float, float]] = []

    def keep_clear(self, x_pt: float, y_pt: float, radius_pt: float) -> None:
        """No name shall cover this point."""
        self._taken.append((x_pt - radius_pt, y_pt - radius_pt, x_pt + radius_pt, y_pt + radius_pt))

    def place(self, text: str, size_pt: float, x_pt: float, y_pt: float) -> tuple[float, float, str]:
        """The offset (points) and horizontal alignment that cover least."""
        best, least = self._SPOTS[0], math.inf
        for dx, dy, side in self._SPOTS:
            box = self._box(text, size_pt, x_pt + dx, y_pt + dy, side)
            cost = sum(_overlap(box, other) for other in self._taken) + 20.0 * self._outside(box)
            if cost < least - 1e-9:
                best, least = (dx, dy, side), cost
        self._taken.append(self._box(text, size_pt, x_pt + best[0], y_pt + best[1], best[2]))
        return best

    @staticmethod
    def _box(text: str, size_pt: float, x_pt: float, y_pt: float, side: str) -> tuple[float, float, float, float]:
        width_pt, height_pt = 0.6 * size_pt * len(text), 1.15 * size_pt  # DejaVu Sans, a little generously
        left = x_pt - {"left": 0.0, "right": width_pt, "center": width_pt / 2}[side]
        return left, y_pt - height_pt / 2, left + width_pt, y_pt + height_pt / 2

    def _outside(self, box: tuple[float, float, float, float]) -> float:
        left, bottom, right, top = box
        return sum(max(0.0, over) for over in (-left, -bottom, right - self._width_pt, top - self._height_pt))


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0
