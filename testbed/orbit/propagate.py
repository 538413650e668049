"""Where every satellite is at any second of mission time, Earth-fixed.

SGP4 with WGS72 constants gives positions in TEME; one rotation by Greenwich mean sidereal time (IAU 1982, of UT1) gives
the Earth-fixed frame (Vallado et al., AIAA 2006-6753, appendix C). Polar motion is left out, as in skyfield without an
IERS file: it is below 20 m on the ground and the same for all nodes. skyfield's built-in time scale needs no download.

sgp4 and skyfield are imported where they are used: a board that only reads a plan has neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from testbed.errors import BugError, ScenarioError
from testbed.orbit.constellation import EARTH_RADIUS_KM, WGS72_MU_KM3_S2, Constellation, Satellite
from testbed.orbit.motion import Array, Motion

if TYPE_CHECKING:
    from sgp4.api import Satrec

DAY_S = 86400.0

EARTH_RATE_RAD_S = 7.292115e-5
"""How fast the Earth turns (WGS84)."""

FINE_TURN_RAD = 0.22
"""Step of an ephemeris for :func:`longest_step_s`: 10 cm, two to three minutes in a low orbit."""

_SGP4_EPOCH_JD = 2433281.5
"""1949-12-31 00:00 UTC, from which ``sgp4init`` counts days."""

_MAX_STEP_S = 600.0

_BLOCK_STATES = 1 << 21
"""How many states are asked of a motion at once: some 250 MB with all that is made of them on the way."""

_REACH = 4
"""Nodes on either side from which derivatives are taken."""

_NEAR_S = 1.0
"""Between the positions from which they are taken at the ends of the time: their difference is then good to 2 mm/s in
a low orbit, and their second difference to the rounding of SGP4's angles, 1e-5 m/s2."""

_END_OFFSETS = ((0, 1, 2, 3), (-1, 0, 1))
"""Positions around the outermost node and around the next one, in units of that."""

_WGS84_RADIUS_KM = 6378.137
_WGS84_FLATTENING = 1 / 298.257223563


class Propagator:
    """Positions of a constellation's satellites, in the constellation's order, from ``epoch`` (aware) on."""

    def __init__(self, constellation: Constellation, epoch: datetime) -> None:
        clock = _Clock(epoch)
        satrecs = [_satrec(one, clock.epoch_jd, number) for number, one in enumerate(constellation.satellites, 1)]
        self._set(constellation.names, satrecs, clock)

    @classmethod
    def of_satrecs(cls, names: Sequence[str], satrecs: Sequence[Satrec], epoch: datetime) -> Propagator:
        """The same for satellites that come as SGP4 records, e.g. from two-line elements with their own epochs."""
        self = cls.__new__(cls)
        self._set(names, satrecs, _Clock(epoch))
        return self

    def _set(self, names: Sequence[str], satrecs: Sequence[Satrec], clock: _Clock) -> None:
        from sgp4.api import SatrecArray

        self.names = tuple(names)
        self._row_by_name = {name: row for row, name in enumerate(self.names)}
        self._clock = clock
        self.satrecs = tuple(satrecs)
        self._array = SatrecArray(list(satrecs))

    def row(self, name: str) -> int:
        """The place of a satellite in the first axis of every result."""
        return self._row_by_name[name]

    def position_teme_km(self, at_s: Array) -> Array:
        """SGP4's own output, shape (satellites, times, 3), in km."""
        return self._teme(np.asarray(at_s, dtype=np.float64))[0]

    def position_itrs_km(self, at_s: Array) -> Array:
        """Earth-fixed positions, shape (satellites, times, 3), in km. ``at_s`` has shape (times,)."""
        return self.state_itrs_km(at_s)[0]

    def state_itrs_km(self, at_s: Array) -> tuple[Array, Array]:
        """Earth-fixed positions in km and velocities in km/s (relative to the turning Earth).

        Each has shape (satellites, times, 3). Raises ScenarioError naming the satellite whose orbit SGP4 refuses.
        """
        at_s = np.asarray(at_s, dtype=np.float64)
        position, velocity = self._teme(at_s)
        angle, rate_rad_s = self._clock.sidereal(at_s)
        cos, sin = np.cos(angle), np.sin(angle)
        fixed = _turned(position, cos, sin)
        fixed_velocity = _turned(velocity, cos, sin)
        fixed_velocity[..., 0] += rate_rad_s * fixed[..., 1]
        fixed_velocity[..., 1] -= rate_rad_s * fixed[..., 0]
        return fixed, fixed_velocity

    def _teme(self, at_s: Array) -> tuple[Array, Array]:
        whole, fraction = self._clock.utc_jd(at_s)
        errors, position, velocity = self._array.sgp4(whole, fraction)
        if np.any(errors):
            from sgp4.api import SGP4_ERRORS

            row, column = np.argwhere(errors)[0]
            raise ScenarioError(
                f"the orbit of {self.names[row]} cannot be propagated {at_s[column]:.0f} s after the epoch",
                field="constellation",
                found=SGP4_ERRORS[int(errors[row, column])],
                allowed="an orbit that stays above the Earth",
            )
        return position, velocity


def longest_step_s(motion: Motion, duration_s: float, turn_rad: float) -> float:
    """The step in which no satellite turns by more than ``turn_rad`` / (1 + eccentricity), Earth's turn included.

    Counted where it turns fastest, at its perigee, from the states at both ends of the time. An ephemeris on this grid
    is wrong by (turn / 0.4)**6 x 5 m at most, from 300 to 36,000 km and to an eccentricity of 0.74; by half of that in
    circular orbits (measured against SGP4). At most ten minutes.
    """
    position, velocity = motion.state_itrs_km(np.array([0.0, duration_s]))
    inertial = velocity + np.cross([0.0, 0.0, EARTH_RATE_RAD_S], position)
    radius_km = np.linalg.norm(position, axis=-1)
    momentum = np.linalg.norm(np.cross(position, inertial), axis=-1)
    energy = np.einsum("...i,...i->...", inertial, inertial) / 2 - WGS72_MU_KM3_S2 / radius_km
    eccentricity = np.sqrt(np.maximum(0.0, 1 + 2 * energy * (momentum / WGS72_MU_KM3_S2) ** 2))
    perigee_km = np.maximum(momentum**2 / WGS72_MU_KM3_S2 / (1 + eccentricity), EARTH_RADIUS_KM)
    rate_rad_s = (momentum / perigee_km**2 + EARTH_RATE_RAD_S) * (1 + eccentricity)
    return min(_MAX_STEP_S, turn_rad / float(rate_rad_s.max()))


class Ephemeris:
    """Earth-fixed positions at any instant of ``[0, duration_s]``, from a grid of them.

    Between two nodes of the grid runs the quintic polynomial that has the position, velocity and acceleration of both
    (Hermite interpolation). The derivatives come from the positions alone, by differences over nine nodes: SGP4's own
    velocity is not the derivative of its position (1 cm/s off in a low circular orbit, 1 m/s in a Molniya orbit, which
    at 180 s would bend the curve by 50 m), and no force is assumed.

    The step is ``step_s``, or without one as long as keeps the error below 10 cm, and never longer than an eighth of
    the duration. :func:`longest_step_s` says what other steps cost.
    """

    def __init__(self, motion: Motion, duration_s: float, step_s: float | None = None) -> None:
        if not duration_s > 0 or (step_s is not None and not step_s > 0):
            raise BugError(f"an ephemeris needs a positive duration and step, not {duration_s} and {step_s}")
        if step_s is None:
            step_s = longest_step_s(motion, duration_s, FINE_TURN_RAD)
        intervals = max(2 * _REACH, math.ceil(duration_s / step_s))
        self.duration_s = duration_s
        self.step_s = duration_s / intervals
        self.grid_s: Array = np.linspace(0.0, duration_s, intervals + 1)
        self.position_km: Array = np.empty((len(motion.names), intervals + 1, 3))
        """At the nodes; shape (satellites, nodes, 3)."""
        block = max(1, _BLOCK_STATES // max(1, len(motion.names)))
        for first in range(0, intervals + 1, block):
            nodes = slice(first, first + block)
            self.position_km[:, nodes] = motion.state_itrs_km(self.grid_s[nodes])[0]
        self._ends = self._end_derivatives(motion)

    def nodes(self, rows: slice) -> tuple[Array, Array, Array]:
        """Positions, velocities and accelerations at the nodes, in km, km per step and km per step squared.

        Each has shape (3, satellites, nodes) and lies in memory in that order.
        """
        position = np.ascontiguousarray(np.moveaxis(self.position_km[rows], -1, 0))
        velocity, acceleration = np.empty_like(position), np.empty_like(position)
        count = position.shape[-1]
        inner = slice(_REACH, count - _REACH)
        velocity[..., inner] = 0.0
        acceleration[..., inner] = _CENTRAL[_REACH, 1] * position[..., inner]
        for offset in range(1, _REACH + 1):
            ahead = position[..., _REACH + offset : count - _REACH + offset]
            behind = position[..., _REACH - offset : count - _REACH - offset]
            velocity[..., inner] += _CENTRAL[_REACH + offset, 0] * (ahead - behind)
            acceleration[..., inner] += _CENTRAL[_REACH + offset, 1] * (ahead + behind)
        for node, weights in enumerate(_SHIFTED, start=len(_END_OFFSETS)):
            first = position[..., : 2 * _REACH + 1] @ weights
            last = position[..., : -2 * _REACH - 2 : -1] @ weights  # read backwards: velocity changes its sign
            velocity[..., node], acceleration[..., node] = first[..., 0], first[..., 1]
            velocity[..., -1 - node], acceleration[..., -1 - node] = -last[..., 0], last[..., 1]
        for node, derivatives in self._ends:
            velocity[..., node], acceleration[..., node] = np.moveaxis(derivatives[rows], 0, -1)
        return position, velocity, acceleration

    def position_at_km(self, row: NDArray[np.intp], at_s: Array) -> Array:
        """Positions of satellites ``row`` at ``at_s``, which broadcast together; shape (..., 3), in km."""
        row, at_s = np.broadcast_arrays(row, np.asarray(at_s, dtype=np.float64))
        left = np.clip((at_s / self.step_s).astype(np.intp), 0, len(self.grid_s) - 2)
        cell = row * len(self.grid_s) + left
        start, end = ([values.take(at, axis=1) for values in self._flat_nodes] for at in (cell, cell + 1))
        position = horner(quintic(*start, *end), at_s / self.step_s - left)
        return np.moveaxis(position, 0, -1)

    @cached_property
    def _flat_nodes(self) -> tuple[Array, ...]:
        return tuple(values.reshape(3, -1) for values in self.nodes(slice(None)))

    def _end_derivatives(self, motion: Motion) -> list[tuple[int, Array]]:
        """Nodes with too few neighbours on one side, and there (velocity, acceleration), shape (satellites, 2, 3).

        Positions a second apart give them: differences over nine nodes that lie on one side are a hundred times worse
        than central ones.
        """
        near_s = min(_NEAR_S, self.step_s / 4)
        stencils = []
        for number, offsets in enumerate(_END_OFFSETS):
            weights = _difference_weights(offsets) * (self.step_s / near_s) ** np.array([1, 2])
            from_edge_s = number * self.step_s + near_s * np.array(offsets)
            stencils.append((number, from_edge_s, weights))
            stencils.append((-1 - number, self.duration_s - from_edge_s, weights * [-1, 1]))
        position = motion.state_itrs_km(np.concatenate([at_s for _, at_s, _ in stencils]))[0]
        splits = np.cumsum([len(at_s) for _, at_s, _ in stencils])[:-1]
        return [
            (node, weights.T @ samples)
            for (node, _, weights), samples in zip(stencils, np.split(position, splits, axis=1), strict=True)
        ]


def quintic(
    position: Array, velocity: Array, acceleration: Array, end: Array, end_velocity: Array, end_acceleration: Array
) -> tuple[Array, ...]:
    """Coefficients, constant first, of the polynomial over [0, 1] that has these values and derivatives at 0 and 1."""
    bend = acceleration / 2
    way = end - position - velocity - bend
    gain = end_velocity - velocity - acceleration
    jerk = (end_acceleration - acceleration) / 2
    return (
        position,
        velocity,
        bend,
        10 * way - 4 * gain + jerk,
        -15 * way + 7 * gain - 2 * jerk,
        6 * way - 3 * gain + jerk,
    )


def horner(coefficients: Sequence[Array], u: Array) -> Array:
    """The polynomial with these coefficients, constant first, at ``u``."""
    *rest, value = coefficients
    for coefficient in reversed(rest):
        value = coefficient + u * value
    return value


def geodetic_itrs_km(latitude_deg: float, longitude_deg: float, altitude_m: float) -> tuple[Array, Array]:
    """Earth-fixed position (km) and zenith (unit normal of the ellipsoid) of a place on WGS84; each of shape (3,).

    ``altitude_m`` is above the ellipsoid. Closed form; agrees with skyfield's ``wgs84.latlon`` to a micrometre.
    """
    latitude, longitude = math.radians(latitude_deg), math.radians(longitude_deg)
    squared_eccentricity = _WGS84_FLATTENING * (2 - _WGS84_FLATTENING)
    normal_km = _WGS84_RADIUS_KM / math.sqrt(1 - squared_eccentricity * math.sin(latitude) ** 2)
    altitude_km = altitude_m / 1000
    zenith = np.array(
        [
            math.cos(latitude) * math.cos(longitude),
            math.cos(latitude) * math.sin(longitude),
            math.sin(latitude),
        ]
    )
    stretch = np.array([1.0, 1.0, 1.0 - squared_eccentricity])
    return (normal_km * stretch + altitude_km) * zenith, zenith


def _difference_weights(offsets: Sequence[int]) -> Array:
    """Weights of samples at ``offsets`` that give the first and second derivative at 0; shape (samples, 2).

    Exact for polynomials of as many coefficients as there are samples (Fornberg, Math. Comp. 51, 1988).
    """
    powers = np.vander(np.array(offsets, dtype=np.float64), increasing=True).T
    derivatives = np.zeros((len(offsets), 2))
    derivatives[1, 0], derivatives[2, 1] = 1.0, 2.0
    weights: Array = np.linalg.solve(powers, derivatives)
    return weights


_CENTRAL = _difference_weights(range(-_REACH, _REACH + 1))
_SHIFTED = tuple(_difference_weights(range(-node, 2 * _REACH + 1 - node)) for node in range(len(_END_OFFSETS), _REACH))


class _Clock:
    """Mission seconds to Julian dates and sidereal angle. Mission time is physical: it counts SI seconds from epoch."""

    def __init__(self, epoch: datetime) -> None:
        from skyfield.api import load

        if epoch.tzinfo is None:
            raise ScenarioError(
                "the epoch names no time zone", field="epoch", found=epoch.isoformat(), allowed="2026-06-01T12:00:00Z"
            )
        self._timescale = load.timescale(builtin=True)
        self._epoch = self._timescale.from_datetime(epoch)
        self.epoch_jd: tuple[float, float] = (
            float(self._epoch.whole),
            float(self._epoch.ut1_fraction - self._epoch.dut1 / DAY_S),
        )

    def utc_jd(self, at_s: Array) -> tuple[Array, Array]:
        time = self._time(at_s)
        return np.asarray(time.whole), np.asarray(time.ut1_fraction - time.dut1 / DAY_S)

    def sidereal(self, at_s: Array) -> tuple[Array, Array]:
        """Greenwich mean sidereal angle (rad, IAU 1982) and its rate (rad/s)."""
        from skyfield.sgp4lib import theta_GMST1982

        time = self._time(at_s)
        angle, rate_rad_day = theta_GMST1982(time.whole, time.ut1_fraction)
        return np.asarray(angle), np.asarray(rate_rad_day) / DAY_S

    def _time(self, at_s: Array) -> Any:
        whole = np.full(at_s.shape, self._epoch.whole)
        return self._timescale.tt_jd(whole, self._epoch.tt_fraction + at_s / DAY_S)


def _satrec(satellite: Satellite, epoch_jd: tuple[float, float], number: int) -> Satrec:
    from sgp4.api import WGS72, Satrec

    record = Satrec()
    record.sgp4init(
        WGS72,
        "i",  # the improved mode: the operational one ("a") keeps old bugs
        number,
        epoch_jd[0] - _SGP4_EPOCH_JD + epoch_jd[1],
        0.0,  # no drag: a constellation is kept on station
        0.0,
        0.0,
        satellite.eccentricity,
        math.radians(satellite.perigee_deg),
        math.radians(satellite.inclination_deg),
        math.radians(satellite.mean_anomaly_deg),
        satellite.mean_motion_rad_s * 60.0,
        math.radians(satellite.node_deg),
    )
    return record


def _turned(vectors: Array, cos: Array, sin: Array) -> Array:
    """Vectors of shape (satellites, times, 3) turned by minus the angle about z."""
    turned = np.empty_like(vectors)
    turned[..., 0] = cos * vectors[..., 0] + sin * vectors[..., 1]
    turned[..., 1] = cos * vectors[..., 1] - sin * vectors[..., 0]
    turned[..., 2] = vectors[..., 2]
    return turned
