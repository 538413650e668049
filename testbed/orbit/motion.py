"""What moves: the one interface between where orbits come from and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Motion(Protocol):
    """Earth-fixed (ITRS) states of satellites by mission time: SGP4's, or those of an ephemeris file."""

    @property
    def names(self) -> tuple[str, ...]:
        """The satellites, in the order of every result's first axis."""
        ...

    def row(self, name: str) -> int:
        """The place of a satellite in that order."""
        ...

    def state_itrs_km(self, at_s: Array) -> tuple[Array, Array]:
        """Positions in km and velocities relative to the turning Earth in km/s, each of shape (satellites, times, 3).

        ``at_s`` has shape (times,), in seconds of mission time. Raises ScenarioError naming a satellite that has no
        state then.
        """
        ...


@dataclass(frozen=True)
class Orbits:
    """A scenario's satellites: how they move, and who follows whom in each plane (names in ring order)."""

    motion: Motion
    planes: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...] = ()
    """What a user should know and need not act on, such as elements that are weeks old."""
