"""Contacts: when each station sees each satellite above its elevation mask.

Elevation is geometric (no refraction) and geodetic: measured from the plane normal to the ellipsoid's normal, as
skyfield's ``altaz`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from testbed.orbit.motion import Array, Motion
from testbed.orbit.propagate import Ephemeris, geodetic_itrs_km
from testbed.orbit.stations import Station

GRID_STEP_S = 30.0
"""Elevation of a low satellite has one maximum in any 60 s, so a 30 s grid brackets every pass."""

EDGE_TOLERANCE_S = 1e-6
"""Edges are bisected this fine; the ephemeris itself is good to some 14 microseconds of motion."""

_GOLDEN = (5**0.5 - 1) / 2

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Contact:
    """One pass: the station sees the satellite from ``start_s`` to ``end_s``, in seconds of mission time.

    A pass that is under way at the beginning (or the end) of the horizon is cut there; ``max_elevation_deg`` is the
    highest elevation within what is left of it.
    """

    satellite: str
    station: str
    start_s: float
    end_s: float
    max_elevation_deg: float

    @property
    def duration_s(self) -> float:
        """How long the contact lasts."""
        return self.end_s - self.start_s


def find_contacts(motion: Motion, stations: Sequence[Station], duration_s: float) -> tuple[Contact, ...]:
    """All contacts in ``[0, duration_s]``, sorted by start, satellite, station.

    At each edge that is not the horizon's, the elevation equals the station's mask within 0.01 s of motion.
    """
    ephemeris = Ephemeris(motion, duration_s, GRID_STEP_S)
    found = chain.from_iterable(_passes(motion.names, one, ephemeris) for one in stations)
    return tuple(sorted(found, key=lambda one: (one.start_s, one.satellite, one.station)))


def contacts_csv(contacts: Sequence[Contact], epoch: datetime) -> str:
    """The contact plan as CSV: instants in UTC (ISO 8601, to the microsecond), durations in s, angles in degrees."""
    lines = ["satellite,station,start,end,duration_s,max_elevation_deg"]
    lines += [
        f"{one.satellite},{one.station},{_iso(epoch, one.start_s)},{_iso(epoch, one.end_s)},"
        f"{one.duration_s:.3f},{one.max_elevation_deg:.3f}"
        for one in contacts
    ]
    return "\n".join(lines) + "\n"


def _iso(epoch: datetime, at_s: float) -> str:
    instant = epoch.astimezone(timezone.utc) + timedelta(seconds=at_s)
    return instant.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _passes(names: Sequence[str], station: Station, ephemeris: Ephemeris) -> list[Contact]:
    place_km, zenith = geodetic_itrs_km(station.latitude_deg, station.longitude_deg, station.altitude_m)

    def above_mask_deg(rows: Rows, at_s: Array) -> Array:
        return _elevation_deg(ephemeris.position_at_km(rows, at_s) - place_km, zenith) - station.min_elevation_deg

    grid_s = ephemeris.grid_s
    margin_deg = _elevation_deg(ephemeris.position_km - place_km, zenith) - station.min_elevation_deg
    peak_row, peak_s = _peaks(margin_deg, ephemeris, place_km, above_mask_deg)
    dip_row, dip_s = _dips(margin_deg, grid_s, above_mask_deg)

    # Grid, peaks and dips together: between neighbouring samples the elevation is monotonic, so a change of sign is
    # exactly one edge.
    contacts = []
    for row in np.unique(np.concatenate([peak_row, np.nonzero((margin_deg >= 0).any(axis=1))[0]])):
        at_s = np.unique(np.concatenate([grid_s, peak_s[peak_row == row], dip_s[dip_row == row]]))
        above = above_mask_deg(np.full(at_s.shape, row), at_s)
        up = above >= 0
        change = np.nonzero(up[1:] != up[:-1])[0]
        edge_s = _bisected(above_mask_deg, np.full(change.shape, row), at_s[change], at_s[change + 1], up[change])
        bounds_s = np.concatenate([[0.0][: int(up[0])], edge_s, [ephemeris.duration_s][: int(up[-1])]])
        for start_s, end_s in bounds_s.reshape(-1, 2):
            inside = above[(at_s >= start_s) & (at_s <= end_s)]
            if end_s <= start_s or not inside.size:
                continue
            highest_deg = float(inside.max()) + station.min_elevation_deg
            contacts.append(Contact(names[row], station.slug, float(start_s), float(end_s), highest_deg))
    return contacts


def _elevation_deg(sight_km: Array, zenith: Array) -> Array:
    range_km = np.sqrt(np.einsum("...i,...i->...", sight_km, sight_km))
    elevation: Array = np.degrees(np.arcsin(np.clip(sight_km @ zenith / range_km, -1.0, 1.0)))
    return elevation


def _peaks(
    margin_deg: Array, ephemeris: Ephemeris, place_km: Array, above_mask_deg: Callable[[Rows, Array], Array]
) -> tuple[Rows, Array]:
    """Rows and instants of the maxima of elevation that can reach the mask."""
    grid_s, step_s = ephemeris.grid_s, ephemeris.step_s
    fence = np.full((len(margin_deg), 1), -np.inf)
    left, right = np.hstack([fence, margin_deg[:, :-1]]), np.hstack([margin_deg[:, 1:], fence])
    row, column = np.nonzero((margin_deg >= left) & (margin_deg >= right))
    # In one step the direction to the satellite turns by no more than the way it flies over how near it comes.
    range_km = np.linalg.norm(ephemeris.position_km[row, column] - place_km, axis=-1)
    speed_km_s = 1.1 * np.linalg.norm(ephemeris.velocity_km_s[row, column], axis=-1)  # it varies along an ellipse
    way_km = step_s * speed_km_s
    nearest_km = np.maximum(range_km - way_km, 1e-3)
    reaches = margin_deg[row, column] + np.degrees(way_km / nearest_km) >= 0
    row, column = row[reaches], column[reaches]
    low_s, high_s = grid_s[np.maximum(column - 1, 0)], grid_s[np.minimum(column + 1, len(grid_s) - 1)]
    return row, _highest(above_mask_deg, row, low_s, high_s)


def _dips(margin_deg: Array, grid_s: Array, above_mask_deg: Callable[[Rows, Array], Array]) -> tuple[Rows, Array]:
    """Rows and instants of minima above the mask on the grid: between two samples they may dip below it."""
    middle = margin_deg[:, 1:-1]
    row, column = np.nonzero((middle <= margin_deg[:, :-2]) & (middle <= margin_deg[:, 2:]) & (middle >= 0))
    return row, _highest(lambda rows, at_s: -above_mask_deg(rows, at_s), row, grid_s[column], grid_s[column + 2])


def _highest(function: Callable[[Rows, Array], Array], rows: Rows, low_s: Array, high_s: Array) -> Array:
    """Golden-section search for the maximum of a function with one maximum in each bracket, to 0.1 ms."""
    while rows.size and float(np.max(high_s - low_s)) > 1e-4:
        width_s = _GOLDEN * (high_s - low_s)
        first_s, second_s = high_s - width_s, low_s + width_s
        rising = function(rows, first_s) < function(rows, second_s)
        low_s, high_s = np.where(rising, first_s, low_s), np.where(rising, high_s, second_s)
    middle: Array = (low_s + high_s) / 2
    return middle


def _bisected(
    function: Callable[[Rows, Array], Array], rows: Rows, low_s: Array, high_s: Array, up_at_low: NDArray[np.bool_]
) -> Array:
    """The instants at which the sign changes, one in each bracket, on the side where the satellite is up."""
    while rows.size and float(np.max(high_s - low_s)) > EDGE_TOLERANCE_S:
        middle_s = (low_s + high_s) / 2
        same = (function(rows, middle_s) >= 0) == up_at_low
        low_s, high_s = np.where(same, middle_s, low_s), np.where(same, high_s, middle_s)
    inner: Array = np.where(up_at_low, low_s, high_s)
    return inner
