"""How near satellites' ground tracks come to places on the Earth: who could have taken which picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from controller.geography import geodetic_deg
from testbed.orbit.motion import Array, Motion

EARTH_MEAN_RADIUS_KM = 6371.0088
"""Of WGS84 (IUGG): what an angle between two places is worth on the ground, to 0.6 %."""

STEP_S = 20.0
"""Between points of a track that great circles join. A low orbit's track leaves them by 50 m at most: the Earth turns
beneath it with 2 x 7.3e-5 rad/s x 6.8 km/s = 1e-3 km/s2, of which an arc of 20 s has an eighth of t squared."""

_BLOCK_ANGLES = 1 << 22
"""Arcs times places that are held at a time: 32 MB an array."""


def least_distances_km(motion: Motion, names: Sequence[str], places_deg: Array, duration_s: float) -> Array:
    """How near each satellite's ground track comes to each place in ``[0, duration_s]``, on the ground, in km.

    ``places_deg`` [n, 2] are geodetic latitudes and longitudes; the answer is [names, n]. A track is of the points
    straight below (geodetic), which great circles join every ``STEP_S``. Distances are angles between the normals of
    the ellipsoid times the mean radius.
    """
    at_s = np.linspace(0.0, duration_s, int(np.ceil(duration_s / STEP_S)) + 1)
    places = _normals(places_deg[:, 0], places_deg[:, 1])
    nearest = np.empty((len(names), len(places)))
    position_km, _ = motion.state_itrs_km(at_s)
    for index, name in enumerate(names):
        longitude_deg, latitude_deg = geodetic_deg(position_km[motion.row(name)])
        nearest[index] = _to_track(_normals(latitude_deg, longitude_deg), places)
    return nearest * EARTH_MEAN_RADIUS_KM


def _normals(latitude_deg: Array, longitude_deg: Array) -> Array:
    """Unit normals of the ellipsoid [n, 3] at geodetic places in degrees."""
    latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg)
    across = np.cos(latitude)
    return np.stack([across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)], axis=-1)


def _to_track(track: Array, places: Array) -> NDArray[np.float64]:
    """The least angle (rad) from each place [n, 3] to the great-circle arcs between the points of a track [t, 3].

    Beside an arc it is that to its great circle, asin |p . m| with m the circle's pole; else that to a point.
    """
    starts, ends = track[:-1], track[1:]
    poles = np.cross(starts, ends)
    # A satellite that stands still has no arcs: its poles stay 0, and nothing is beside them.
    poles /= np.maximum(np.linalg.norm(poles, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    behind, ahead = np.cross(poles, starts), np.cross(ends, poles)
    least = np.full(len(places), np.pi)
    size = max(1, _BLOCK_ANGLES // len(starts))
    for first in range(0, len(places), size):
        some = places[first : first + size].T
        to_points = np.arccos(np.clip((track @ some).max(axis=0), -1.0, 1.0))
        beside = (behind @ some > 0) & (ahead @ some > 0)
        to_arcs = np.where(beside, np.arcsin(np.clip(np.abs(poles @ some), 0.0, 1.0)), np.pi)
        least[first : first + size] = np.minimum(to_points, to_arcs.min(axis=0))
    return least
