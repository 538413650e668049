"""What a picture of a scenario's sky is about, and the colours and measures that all parts of it keep to."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from controller.placing import Lane
from testbed.orbit.constellation import EARTH_RADIUS_KM
from testbed.orbit.contacts import Contact
from testbed.orbit.motion import Array
from testbed.orbit.plan_rows import Scope

WIDTH_IN = 13.0
MARGIN_IN, LABELS_IN = 0.35, 1.15  # around everything; left of the timeline, for the stations' names

TRACKS_REVOLUTIONS = 12.0
"""How much of ground tracks a map bears: in all of a constellation's satellites together."""

INK, QUIET, GRID = "#1c2530", "#5c6875", "#c9d5dd"
# Okabe and Ito (2008), which the colour-blind can tell apart, without the yellow that is lost on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6a4c93")


@dataclass(frozen=True)
class Scene:
    """The contacts of a scope, and what of its satellites and stations is drawn."""

    contacts: Sequence[Contact]
    scope: Scope

    @cached_property
    def plane_by_name(self) -> dict[str, int]:
        """The plane of each satellite."""
        planes = self.scope.orbits.planes
        return {name: plane for plane, names in enumerate(planes) for name in names}

    @cached_property
    def state_km(self) -> tuple[Array, Array]:
        """Everybody's state at the epoch."""
        position, velocity = self.scope.orbits.motion.state_itrs_km(np.array([0.0]))
        return position[:, 0], velocity[:, 0]

    @cached_property
    def radius_km(self) -> float:
        """The satellites' median distance from the Earth's centre."""
        return float(np.median(np.linalg.norm(self.state_km[0], axis=-1)))

    @property
    def altitude_text(self) -> str:
        """The height that goes with it, to 10 km."""
        return f"{round(self.radius_km - EARTH_RADIUS_KM, -1):,.0f} km"

    @cached_property
    def track_s(self) -> float:
        """How long the tracks are: one revolution, the horizon, or as much as the map bears."""
        revolution_s = 2 * math.pi * math.sqrt(self.radius_km**3 / 398600.4418)  # WGS84's gravitational parameter
        share = min(1.0, TRACKS_REVOLUTIONS / len(self.scope.orbits.motion.names))
        return min(self.scope.duration_s, revolution_s * share)

    def colour(self, satellite: str) -> str:
        """Its plane's."""
        plane, planes = self.plane_by_name.get(satellite, 0), max(len(self.scope.orbits.planes), 1)
        if planes <= len(COLOURS):
            return COLOURS[plane]
        parts = colorsys.hls_to_rgb(plane / planes, 0.42, 0.65)
        return "#" + "".join(f"{round(255 * part):02x}" for part in parts)

    @cached_property
    def lanes(self) -> list[Lane]:
        """The timeline's rows: each station with its passes."""
        by_station: dict[str, list[Contact]] = {station.slug: [] for station in self.scope.stations}
        for one in self.contacts:
            by_station.setdefault(one.station, []).append(one)
        return [Lane(station, by_station[station.slug]) for station in self.scope.stations]
