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
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from testbed.errors import BugError, ScenarioError
from testbed.orbit.constellation import Constellation, Satellite
from testbed.orbit.motion import Array, Motion

if TYPE_CHECKING:
    from sgp4.api import Satrec

DAY_S = 86400.0

_SGP4_EPOCH_JD = 2433281.5
"""1949-12-31 00:00 UTC, from which ``sgp4init`` counts days."""

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


class Ephemeris:
    """Earth-fixed positions between the nodes of a grid, by cubic Hermite interpolation.

    On a 30 s grid the error in a low orbit stays below 10 cm (it grows with the fourth power of the step), which
    at 7 km/s is 14 microseconds of motion. It lets every (satellite, instant) pair have an instant of its own, which
    SGP4's array interface does not.
    """

    def __init__(self, motion: Motion, duration_s: float, step_s: float = 30.0) -> None:
        if not (duration_s > 0 and step_s > 0):
            raise BugError(f"an ephemeris needs a positive duration and step, not {duration_s} and {step_s}")
        intervals = max(1, math.ceil(duration_s / step_s))
        self.duration_s = duration_s
        self.step_s = duration_s / intervals
        self.grid_s: Array = np.linspace(0.0, duration_s, intervals + 1)
        self.position_km, self.velocity_km_s = motion.state_itrs_km(self.grid_s)

    def position_at_km(self, row: NDArray[np.intp], at_s: Array) -> Array:
        """Positions of satellites ``row`` at ``at_s``, which broadcast together; shape (..., 3), in km."""
        row, at_s = np.broadcast_arrays(row, np.asarray(at_s, dtype=np.float64))
        left = np.clip((at_s / self.step_s).astype(np.intp), 0, len(self.grid_s) - 2)
        u = (at_s / self.step_s - left)[..., None]
        start, end = self.position_km[row, left], self.position_km[row, left + 1]
        start_slope = self.velocity_km_s[row, left] * self.step_s
        end_slope = self.velocity_km_s[row, left + 1] * self.step_s
        square = 3.0 * (end - start) - 2.0 * start_slope - end_slope
        cube = 2.0 * (start - end) + start_slope + end_slope
        position: Array = start + u * (start_slope + u * (square + u * cube))
        return position


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
