"""Terrain against a scan of every tenth of a second, which knows nothing of grids and polynomials."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skyfield.api import EarthSatellite, load, wgs84

from testbed.orbit.constellation import parse_constellation
from testbed.orbit.contacts import Contact, find_contacts
from testbed.orbit.motion import Array
from testbed.orbit.propagate import Propagator, geodetic_itrs_km
from testbed.orbit.stations import Station
from testbed.orbit.terrain import elevation_to_clear_deg, lowest_deg

EPOCH = datetime(2026, 6, 1, 2, 24, tzinfo=timezone.utc)
SCAN_S = 0.1


def _motion(code: str) -> Propagator:
    return Propagator(parse_constellation(code), EPOCH)


def _station(*horizon_deg: tuple[float, float], latitude_deg: float = 67.9, min_elevation_deg: float = 5.0) -> Station:
    return Station("There", "there", latitude_deg, 21.0, 400.0, min_elevation_deg, "an example", horizon_deg)


def _look_deg(motion: Propagator, station: Station, at_s: Array) -> tuple[Array, Array]:
    """Elevation and azimuth of every satellite, straight from SGP4; each of shape (satellites, times)."""
    place_km, zenith = geodetic_itrs_km(station.latitude_deg, station.longitude_deg, station.altitude_m)
    longitude = np.radians(station.longitude_deg)
    east = np.array([-np.sin(longitude), np.cos(longitude), 0.0])
    sight_km = motion.position_itrs_km(at_s) - place_km
    up, right, ahead = sight_km @ zenith, sight_km @ east, sight_km @ np.cross(zenith, east)
    return np.degrees(np.arctan2(up, np.hypot(right, ahead))), np.degrees(np.arctan2(right, ahead)) % 360.0


def _above_deg(motion: Propagator, station: Station, at_s: Array) -> Array:
    """How far satellites are above what hides them, with the corners looked up one by one."""
    elevation_deg, azimuth_deg = _look_deg(motion, station, at_s)
    hidden_deg = np.full(azimuth_deg.shape, -90.0)
    corners = station.horizon_deg
    for (start, low), (end, high) in zip(corners, (*corners[1:], (corners[0][0] + 360.0, corners[0][1])), strict=True):
        beyond = (azimuth_deg - start) % 360.0
        within = beyond <= (width := end - start)
        line_deg = low + (high - low) * (beyond / width if width else 0.0)
        hidden_deg = np.where(within, np.maximum(line_deg, -90.0), hidden_deg)
    above_deg: Array = elevation_deg - np.maximum(hidden_deg, station.min_elevation_deg)
    return above_deg


def _check(code: str, station: Station, duration_s: float) -> tuple[Contact, ...]:
    """Contacts cover the instants of the scan at which a satellite is clear, but for 0.01 s at their edges."""
    motion = _motion(code)
    contacts = find_contacts(motion, (station,), duration_s)
    scan_s = np.arange(0.0, duration_s, SCAN_S)
    elevation_deg, _ = _look_deg(motion, station, scan_s)
    above_deg = _above_deg(motion, station, scan_s)
    for row, name in enumerate(motion.names):
        ours = [contact for contact in contacts if contact.satellite == name]
        bounds_s = np.array([bound_s for contact in ours for bound_s in (contact.start_s, contact.end_s)])
        assert (np.diff(bounds_s) > 0).all()
        covered = np.searchsorted(bounds_s, scan_s, side="right") % 2 == 1
        for at_s in scan_s[covered != (above_deg[row] >= 0)]:
            around_s = at_s + np.array([-0.01, 0.0, 0.01])
            near = _above_deg(motion, station, around_s)[row]
            assert near.min() <= 0 <= near.max() or np.abs(near).max() < 1e-4, f"{name} at {at_s}"
        for edge_s in bounds_s[(bounds_s > 0) & (bounds_s < duration_s)]:
            near = _above_deg(motion, station, edge_s + np.array([-0.01, 0.0, 0.01]))[row]
            assert near.min() <= 0 <= near.max() or np.abs(near).max() < 1e-4, f"{name} at its edge {edge_s}"
        for contact in ours:
            inside = (scan_s >= contact.start_s) & (scan_s <= contact.end_s)
            if inside.any():
                highest_deg = elevation_deg[row, inside].max()
                assert highest_deg - 1e-3 < contact.max_elevation_deg < highest_deg + 0.1
    return contacts


def test_a_mountain_splits_a_pass() -> None:
    open_sky = find_contacts(_motion("D:550:97.6:1/1/0"), (_station(),), 86400.0)
    # To the east the pass is at its highest. A narrow mountain stands there.
    peak = max((one for one in open_sky if one.max_elevation_deg < 60), key=lambda one: one.max_elevation_deg)
    at_s = np.linspace(peak.start_s, peak.end_s, 1000)
    elevation_deg, azimuth_deg = _look_deg(_motion("D:550:97.6:1/1/0"), _station(), at_s)
    azimuth = float(azimuth_deg[0, elevation_deg[0].argmax()])
    around = sorted(((azimuth + offset) % 360.0, top) for offset, top in ((-10, 0.0), (-9, 70.0), (9, 70.0), (10, 0.0)))
    contacts = _check("D:550:97.6:1/1/0", _station(*around), 86400.0)
    parts = [one for one in contacts if peak.start_s - 1 <= one.start_s and one.end_s <= peak.end_s + 1]
    assert [one.start_s for one in parts][0] == pytest.approx(peak.start_s, abs=1e-3)
    assert [one.end_s for one in parts][-1] == pytest.approx(peak.end_s, abs=1e-3)
    assert len(parts) == 2
    assert all(part.max_elevation_deg < peak.max_elevation_deg for part in parts)


@pytest.mark.parametrize(
    "horizon_deg",
    [
        ((0.0, 2.0), (90.0, 12.0), (200.0, 1.0)),
        ((10.0, 30.0),),  # one corner: as high all around
        ((0.0, 0.0), (100.0, 0.0), (100.0, 40.0), (200.0, 40.0), (200.0, 0.0)),  # a plateau with cliffs
        tuple((float(azimuth), 25.0 * (azimuth // 5 % 2)) for azimuth in range(0, 360, 5)),  # a comb
        ((170.0, -5.0), (180.0, 89.0), (190.0, -5.0)),  # a needle in the south
        ((0.0, 20.0), (180.0, -10.0), (360.0, 20.0)),  # the same corner twice
    ],
)
@pytest.mark.parametrize("code", ["D:550:97.6:3/3/1", "D:20180:55:3/3/1"])
def test_contacts_are_when_the_sky_is_clear(code: str, horizon_deg: tuple[tuple[float, float], ...]) -> None:
    assert _check(code, _station(*horizon_deg), 43200.0)


@settings(max_examples=15)
@given(
    st.dictionaries(st.integers(0, 3599), st.floats(-5, 60), min_size=1, max_size=12),
    st.one_of(st.floats(-90, 90), st.just(90.0)),
    st.sampled_from(["D:550:97.6:2/2/1", "D:1200:87:2/1/0", "D:8000:40:2/2/1", "D:35786:20:3/3/0"]),
)
def test_any_horizon_hides_what_is_behind_it(
    elevation_deg_by_tenth: dict[int, float], latitude_deg: float, code: str
) -> None:
    corners = ((tenth / 10, elevation_deg) for tenth, elevation_deg in sorted(elevation_deg_by_tenth.items()))
    _check(code, _station(*corners, latitude_deg=latitude_deg), 10800.0)


def test_a_horizon_below_the_minimum_changes_nothing() -> None:
    flat = find_contacts(_motion("D:550:97.6:4/2/1"), (_station(),), 43200.0)
    low = find_contacts(_motion("D:550:97.6:4/2/1"), (_station((0.0, 4.9), (180.0, -3.0)),), 43200.0)
    assert len(flat) > 20
    for ours, theirs in zip(low, flat, strict=True):
        assert (ours.satellite, ours.station) == (theirs.satellite, theirs.station)
        assert dataclasses.astuple(ours)[2:] == pytest.approx(dataclasses.astuple(theirs)[2:], abs=1e-3)


def test_stations_with_and_without_terrain_do_not_mix() -> None:
    hidden = _station((0.0, 20.0), (180.0, 30.0))
    free = dataclasses.replace(_station(latitude_deg=40.0), slug="elsewhere")
    both = find_contacts(_motion("D:550:97.6:4/2/1"), (hidden, free), 43200.0)
    alone = [find_contacts(_motion("D:550:97.6:4/2/1"), (one,), 43200.0) for one in (hidden, free)]
    assert [len([one for one in both if one.station == slug]) for slug in ("there", "elsewhere")] == [*map(len, alone)]
    assert all(alone)
    assert list(both) == sorted(both, key=lambda one: (one.start_s, one.satellite, one.station))


def test_azimuth_is_skyfields() -> None:
    motion, station = _motion("D:550:97.6:1/1/0"), _station()
    timescale = load.timescale(builtin=True)
    start = timescale.from_datetime(EPOCH)
    at_s = np.linspace(0, 6000, 200)
    time = timescale.tt_jd(np.full(200, start.whole), start.tt_fraction + at_s / 86400)
    place = wgs84.latlon(station.latitude_deg, station.longitude_deg, station.altitude_m)
    satellite = EarthSatellite.from_satrec(motion.satrecs[0], timescale)
    altitude, azimuth, _ = (satellite - place).at(time).altaz()
    elevation_deg, azimuth_deg = _look_deg(motion, station, at_s)
    assert elevation_deg[0] == pytest.approx(altitude.degrees, abs=1e-4)
    assert (azimuth_deg[0] - azimuth.degrees + 180) % 360 - 180 == pytest.approx(np.zeros(200), abs=1e-3)


def test_what_must_be_cleared_goes_around() -> None:
    station = _station((10.0, 20.0), (350.0, 0.0), min_elevation_deg=4.0)
    azimuth_deg = np.array([10.0, 350.0, 0.0, 360.0, 355.0, 351.0, 180.0, 300.0, -5.0])
    # Between 350 and 10 degrees the line climbs by a degree a degree, and the minimum holds until 354.
    assert elevation_to_clear_deg(station, azimuth_deg) == pytest.approx([20, 4, 10, 10, 5, 4, 10, 4, 5])
    assert lowest_deg(station) == 4.0
    assert lowest_deg(_station((0.0, 9.0), (90.0, 7.0))) == 7.0
