"""What a map in longitude and latitude needs: ground tracks, rings of visibility, and the world's coastlines."""

from __future__ import annotations

import math
from importlib.resources import files

import numpy as np

from testbed.orbit.constellation import EARTH_RADIUS_KM
from testbed.orbit.motion import Array
from testbed.orbit.stations import Station

_FLATTENING = 1 / 298.257223563
"""Of WGS84."""


def geodetic_deg(position_km: Array) -> tuple[Array, Array]:
    """Longitude and geodetic latitude (WGS84, degrees) below Earth-fixed positions of shape (..., 3).

    Bowring's formula (Survey Review 23, 1976), here within 1e-6 degrees from the ground up to geostationary orbit.
    """
    x, y, z = position_km[..., 0], position_km[..., 1], position_km[..., 2]
    across = np.hypot(x, y)
    polar_km = EARTH_RADIUS_KM * (1 - _FLATTENING)
    squared = _FLATTENING * (2 - _FLATTENING)
    angle = np.arctan2(z * EARTH_RADIUS_KM, across * polar_km)
    height = z + squared / (1 - squared) * polar_km * np.sin(angle) ** 3
    latitude = np.arctan2(height, across - squared * EARTH_RADIUS_KM * np.cos(angle) ** 3)
    return np.degrees(np.arctan2(y, x)), np.degrees(latitude)


def broken(longitude_deg: Array, latitude_deg: Array) -> list[Array]:
    """A line on the map as pieces of shape (points, 2): where it crosses the date line it ends and begins again."""
    points = np.column_stack([longitude_deg, latitude_deg])
    pieces, first = [], 0
    edge: Array = np.empty((0, 2))
    for at in np.nonzero(np.abs(np.diff(longitude_deg)) > 180.0)[0]:
        (west, south), (east, north) = points[at], points[at + 1]
        side = 180.0 if west > 0 else -180.0
        share = (side - west) / (east + 2 * side - west)
        crossing = south + share * (north - south)
        pieces.append(np.vstack([edge, points[first : at + 1], [[side, crossing]]]))
        edge, first = np.array([[-side, crossing]]), at + 1
    pieces.append(np.vstack([edge, points[first:]]))
    return pieces


def visibility_deg(station: Station, radius_km: float) -> tuple[Array, Array]:
    """Longitudes and latitudes of the ring in which a satellite at this distance from the Earth's centre is in view.

    One point per degree of azimuth, the last equal to the first: at the station's mask or its terrain, whichever is
    higher. On a sphere, which a map of this scale does not tell from the ellipsoid.
    """
    azimuth_deg = np.arange(361.0)
    mask_deg = np.full(361, station.min_elevation_deg)
    if station.horizon_deg:
        corners = np.array(station.horizon_deg)
        mask_deg = np.maximum(mask_deg, np.interp(azimuth_deg, corners[:, 0], corners[:, 1], period=360.0))
    mask, azimuth = np.radians(mask_deg), np.radians(azimuth_deg)
    reach = np.arccos(np.cos(mask) * EARTH_RADIUS_KM / max(radius_km, EARTH_RADIUS_KM)) - mask
    here, longitude = math.radians(station.latitude_deg), math.radians(station.longitude_deg)
    sine = np.sin(here) * np.cos(reach) + np.cos(here) * np.sin(reach) * np.cos(azimuth)
    turn = np.arctan2(np.sin(azimuth) * np.sin(reach) * np.cos(here), np.cos(reach) - np.sin(here) * sine)
    around = np.degrees(longitude + turn)
    return (around + 180.0) % 360.0 - 180.0, np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0)))


def filled(longitude_deg: Array, latitude_deg: Array) -> list[Array]:
    """A ring on the map as polygons that fill it: over the date line twice, and around a pole closed along it."""
    ring = np.column_stack([np.unwrap(longitude_deg, period=360.0), latitude_deg])
    turns = ring[-1, 0] - ring[0, 0]
    if abs(turns) > 180.0:
        pole = 90.0 if latitude_deg.mean() > 0 else -90.0
        ring = np.vstack([ring, [[ring[-1, 0], pole], [ring[0, 0], pole]]])
    shifted = (ring + [shift, 0.0] for shift in (-360.0, 0.0, 360.0))
    return [one for one in shifted if one[:, 0].max() > -180.0 and one[:, 0].min() < 180.0]


def coastlines() -> list[Array]:
    """The land as closed rings of (longitude, latitude) in degrees, from ``testbed/data/COASTLINES.md``."""
    with (files("testbed") / "data" / "coastlines.npz").open("rb") as file, np.load(file) as data:
        return np.split(data["points"] / 100.0, data["starts"][1:])
