"""Motion along tables of states: interpolated in a table's own frame, turned to the Earth-fixed one afterwards.

A frame in which the orbit is smooth interpolates best. Nothing is interpolated across the bounds of segments. Polar
motion is left out, as in ``testbed.orbit.propagate``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from testbed.errors import ScenarioError
from testbed.orbit.motion import Array

EARTH_RATE_RAD_S = 7.292115146706979e-5
"""The Earth's rotation (IERS Conventions 2010, table 1.1: 7.292115e-5), to the digits of Aoki et al. 1982."""

SLACK_S = 1e-6
"""A horizon may begin with the very first state: instants are compared this finely."""

_BLOCK = 4096
"""Instants whose nutation is computed at a time: its series takes 11 kB an instant."""
_DAY_S = 86_400.0


class EphemerisMotion:
    """States of a file's objects by mission time; a ``testbed.orbit.motion.Motion``. Made by
    ``testbed.orbit.oem.read_oem``."""

    def __init__(self, where: str, objects: Mapping[str, tuple[Segment, ...]], clock: FileClock) -> None:
        self.where = where
        self.names = tuple(objects)
        self._row_by_name = {name: row for row, name in enumerate(self.names)}
        self._objects = tuple(objects.values())
        self._clock = clock

    def row(self, name: str) -> int:
        """The place of a satellite in the first axis of every result."""
        return self._row_by_name[name]

    def check_span(self, duration_s: float) -> None:
        """Refuse a file that leaves any instant of ``[0, duration_s]`` without a state. Raises ScenarioError."""
        for name, segments in zip(self.names, self._objects, strict=True):
            reached_s = 0.0
            for segment in segments:
                if segment.start_s > reached_s + SLACK_S:
                    break
                reached_s = max(reached_s, segment.stop_s)
            if reached_s < duration_s - SLACK_S or segments[0].start_s > SLACK_S:
                self._outside(name, f"a horizon from {self._utc(0.0)} to {self._utc(duration_s)}")

    def state_itrs_km(self, at_s: Array) -> tuple[Array, Array]:
        """Earth-fixed positions in km and velocities in km/s (relative to the turning Earth).

        Each has shape (satellites, times, 3). Raises ScenarioError that names the satellite and the span of its
        states where ``at_s`` is outside of it.
        """
        at_s = np.asarray(at_s, dtype=np.float64)
        position_km = np.empty((len(self.names), len(at_s), 3))
        velocity_km_s = np.empty_like(position_km)
        turns: dict[str, Array] = {}
        for row, segments in enumerate(self._objects):
            starts = np.array([one.start_s for one in segments]) - SLACK_S
            chosen = np.searchsorted(starts, at_s, side="right") - 1
            stops = np.array([one.stop_s for one in segments]) + SLACK_S
            outside = (chosen < 0) | (at_s > stops[chosen])
            if outside.any():
                self._outside(self.names[row], f"an instant of {self._utc(float(at_s[outside][0]))}")
            for number in np.unique(chosen):
                segment, columns = segments[number], np.nonzero(chosen == number)[0]
                position, velocity = segment.interpolated(at_s[columns])
                if segment.frame != "ITRF":
                    if segment.frame not in turns:
                        turns[segment.frame] = self._clock.turns(segment.frame, at_s)
                    turn = turns[segment.frame][columns]
                    position = np.einsum("tij,tj->ti", turn, position)
                    velocity = np.einsum("tij,tj->ti", turn, velocity)
                    velocity[:, 0] += EARTH_RATE_RAD_S * position[:, 1]
                    velocity[:, 1] -= EARTH_RATE_RAD_S * position[:, 0]
                position_km[row, columns] = position
                velocity_km_s[row, columns] = velocity
        return position_km, velocity_km_s

    def _outside(self, name: str, found: str) -> NoReturn:
        segments = self._objects[self._row_by_name[name]]
        spans = [f"{self._utc(one.start_s)} to {self._utc(one.stop_s)}" for one in segments]
        raise ScenarioError(
            f"the ephemeris of {name} has no states for this time",
            where=self.where,
            line=segments[0].line,
            field="epoch and duration",
            found=found,
            allowed=", ".join(spans[:3]) + (f" and {len(spans) - 3} more spans" if len(spans) > 3 else ""),
        )

    def _utc(self, at_s: float) -> str:
        instant = self._clock.epoch.astimezone(timezone.utc) + timedelta(seconds=at_s)
        return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- one segment ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segment:
    """One table of one object's states, in order of time.

    ``node_s`` are mission seconds, shape (nodes,); positions in km and velocities in km/s, of shape (nodes, 3), are in
    ``frame``: ITRF, TEME, ICRF or EME2000. They hold from ``start_s`` to ``stop_s``; a polynomial goes through
    ``points`` of them. ``line`` is where the table begins in its file, ``title`` and ``object_id`` are what it says.
    """

    name: str
    title: str
    object_id: str
    line: int
    frame: str
    interpolate: Callable[[Segment, Array], tuple[Array, Array]]
    points: int
    start_s: float
    stop_s: float
    node_s: Array
    position_km: Array
    velocity_km_s: Array

    def interpolated(self, at_s: Array) -> tuple[Array, Array]:
        """Positions and velocities in the segment's frame, each of shape (times, 3)."""
        return self.interpolate(self, np.clip(at_s, self.node_s[0], self.node_s[-1]))

    def window(self, at_s: Array) -> NDArray[np.intp]:
        """The nodes around each instant, shape (times, points): as many before as after, but at the ends."""
        left = np.searchsorted(self.node_s, at_s, side="right") - 1 - (self.points - 1) // 2
        left = np.clip(left, 0, len(self.node_s) - self.points)
        return np.asarray(left[:, None] + np.arange(self.points))


def _hermite(segment: Segment, at_s: Array) -> tuple[Array, Array]:
    """The polynomial through positions with the velocities as its slopes, and its derivative."""
    rows = np.repeat(segment.window(at_s), 2, axis=1)
    nodes = segment.node_s[rows]
    table = segment.position_km[rows]
    slopes = segment.velocity_km_s[rows]
    for order in range(1, rows.shape[1]):
        width = (nodes[:, order:] - nodes[:, :-order])[..., None]
        difference = table[:, order:] - table[:, order - 1 : -1]
        if order == 1:  # every other pair is the same node twice: the slope stands there
            table[:, 2::2] = difference[:, 1::2] / width[:, 1::2]
            table[:, 1::2] = slopes[:, 1::2]
        else:
            table[:, order:] = difference / width
    return _newton(table, nodes, at_s)


def _lagrange(segment: Segment, at_s: Array) -> tuple[Array, Array]:
    """The polynomial through positions, and another through velocities."""
    rows = segment.window(at_s)
    nodes = segment.node_s[rows]

    def through(values: Array) -> Array:
        table = values[rows]
        for order in range(1, rows.shape[1]):
            width = (nodes[:, order:] - nodes[:, :-order])[..., None]
            table[:, order:] = (table[:, order:] - table[:, order - 1 : -1]) / width
        return _newton(table, nodes, at_s)[0]

    return through(segment.position_km), through(segment.velocity_km_s)


def _newton(coefficients: Array, nodes: Array, at_s: Array) -> tuple[Array, Array]:
    """Newton's form and its derivative by Horner's rule; coefficients (times, orders, 3), nodes (times, orders)."""
    value = coefficients[:, -1].copy()
    slope = np.zeros_like(value)
    for order in range(coefficients.shape[1] - 2, -1, -1):
        step = (at_s - nodes[:, order])[:, None]
        slope = slope * step + value
        value = value * step + coefficients[:, order]
    return value, slope


METHODS: Mapping[str, tuple[Callable[[Segment, Array], tuple[Array, Array]], Callable[[int], int]]] = {
    # By the name that an OEM has for it: the function, and how many states a polynomial of this degree takes.
    "HERMITE": (_hermite, lambda degree: max(2, degree // 2 + 1)),
    "LAGRANGE": (_lagrange, lambda degree: degree + 1),
    "LINEAR": (_lagrange, lambda degree: 2),
}


# -- time and frames --------------------------------------------------------------------------------------------------

TIME_SYSTEMS: Mapping[str, tuple[str, float]] = {
    # skyfield's name for the scale, and what it reads more than the file's clock does.
    "UTC": ("utc", 0.0),
    "TAI": ("tai", 0.0),
    "TT": ("tt", 0.0),
    "GPS": ("tai", 19.0),
}


class FileClock:
    """Instants of a file to mission seconds, and mission seconds to the Earth's attitude."""

    def __init__(self, epoch: datetime) -> None:
        from skyfield.api import load

        self.epoch = epoch
        self._timescale = load.timescale(builtin=True)
        self._epoch = self._timescale.from_datetime(epoch)

    def mission_s(self, system: str, instants: list[tuple[datetime, float]]) -> Array:
        """Mission seconds, shape (instants,), of minutes and seconds that a clock of ``TIME_SYSTEMS`` reads."""
        scale, ahead_s = TIME_SYSTEMS[system]
        minutes = np.array([(one.year, one.month, one.day, one.hour, one.minute) for one, _ in instants]).T
        seconds = np.array([second for _, second in instants]) + ahead_s
        time = getattr(self._timescale, scale)(*minutes, seconds)
        days = (time.whole - self._epoch.whole) + (time.tt_fraction - self._epoch.tt_fraction)
        return np.asarray(days * _DAY_S)

    def turns(self, frame: str, at_s: Array) -> Array:
        """Rotations from a frame to the Earth-fixed one, shape (times, 3, 3)."""
        turns = np.empty((len(at_s), 3, 3))
        for first in range(0, len(at_s), _BLOCK):
            block = slice(first, first + _BLOCK)
            whole = np.full(at_s[block].shape, self._epoch.whole)
            time = self._timescale.tt_jd(whole, self._epoch.tt_fraction + at_s[block] / _DAY_S)
            turns[block] = _TURNS[frame](time)
        return turns


def _from_teme(time: Any) -> Array:
    from skyfield.sgp4lib import theta_GMST1982

    angle, _ = theta_GMST1982(time.whole, time.ut1_fraction)
    turn = np.zeros((len(angle), 3, 3))
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(angle)
    turn[:, 0, 1] = np.sin(angle)
    turn[:, 1, 0] = -turn[:, 0, 1]
    turn[:, 2, 2] = 1.0
    return turn


def _from_icrf(time: Any) -> Array:
    from skyfield.framelib import itrs

    return np.asarray(np.moveaxis(itrs.rotation_at(time), 2, 0))


def _from_eme2000(time: Any) -> Array:
    from skyfield.framelib import ICRS_to_J2000

    return np.asarray(_from_icrf(time) @ ICRS_to_J2000.T)


_TURNS: Mapping[str, Callable[[Any], Array]] = {
    "TEME": _from_teme,
    "ICRF": _from_icrf,
    "EME2000": _from_eme2000,
}
