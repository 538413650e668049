"""Positions against skyfield's own, and against published SGP4 fixtures."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sgp4.api import WGS72, Satrec
from skyfield.api import EarthSatellite, load, wgs84
from skyfield.framelib import itrs

from testbed.errors import BugError, ScenarioError
from testbed.orbit.constellation import parse_constellation
from testbed.orbit.propagate import Ephemeris, Propagator, geodetic_itrs_km, longest_step_s

EPOCH = datetime(2026, 6, 1, 2, 24, tzinfo=timezone.utc)
METRE_KM = 1e-3


def _skyfield_itrs_km(propagator: Propagator, row: int, at_s: Any) -> Any:
    timescale = load.timescale(builtin=True)
    epoch = timescale.from_datetime(EPOCH)
    satellite = EarthSatellite.from_satrec(propagator.satrecs[row], timescale)
    time = timescale.tt_jd(np.full(len(at_s), epoch.whole), epoch.tt_fraction + np.asarray(at_s) / 86400)
    return satellite.at(time).frame_xyz(itrs).km.T


@pytest.mark.parametrize("code", ["D:705:98.2:8/1/0", "S:780:86.4:12/3/1+D:20180:55:6/6/1", "D:400:0:1/1/0"])
def test_positions_are_skyfields_to_a_metre(code: str) -> None:
    propagator = Propagator(parse_constellation(code), EPOCH)
    at_s = np.linspace(0, 2 * 86400, 97)
    ours_km = propagator.position_itrs_km(at_s)
    assert ours_km.shape == (len(propagator.names), 97, 3)
    for row in range(len(propagator.names)):
        error_km = np.linalg.norm(ours_km[row] - _skyfield_itrs_km(propagator, row, at_s), axis=1)
        assert error_km.max() < METRE_KM


def test_velocity_is_the_derivative_of_position() -> None:
    propagator = Propagator(parse_constellation("D:705:98.2:3/1/0"), EPOCH)
    at_s = np.linspace(100, 6000, 60)
    _, velocity_km_s = propagator.state_itrs_km(at_s)
    difference_km = propagator.position_itrs_km(at_s + 0.5) - propagator.position_itrs_km(at_s - 0.5)
    # SGP4's velocity leaves out derivatives of its short-period terms (order J2 squared): some cm/s.
    assert np.abs(difference_km - velocity_km_s).max() < 1e-4


ALL_ORBITS = {
    "D:300:53:3/3/0+D:550:97.6:3/3/0": 0.0,
    "D:780:86.4:3/3/0": 0.0,
    "D:8000:10:3/3/0": 0.0,
    "D:20180:55:3/3/0+D:35786:0:2/1/0": 0.0,
    "D:800:50:1/1/0": 0.3,
    "D:600:63.4:1/1/0": 0.74,
}
"""Codes, and the eccentricity given to orbits with the code's altitude at their perigee."""


def _motion(code: str, eccentricity: float) -> Propagator:
    propagator = Propagator(parse_constellation(code), EPOCH)
    if not eccentricity:
        return propagator
    records = []
    for one in propagator.satrecs:
        record = Satrec()
        mean_motion = one.no_kozai * (1 - eccentricity) ** 1.5
        days = one.jdsatepoch - 2433281.5 + one.jdsatepochF
        record.sgp4init(WGS72, "i", 1, days, 0, 0, 0, eccentricity, 4.7, one.inclo, one.mo, mean_motion, one.nodeo)
        records.append(record)
    return Propagator.of_satrecs(propagator.names, records, EPOCH)


def _worst_error_m(propagator: Propagator, duration_s: float, step_s: float | None) -> float:
    ephemeris = Ephemeris(propagator, duration_s, step_s)
    generator = np.random.default_rng(1)
    end_s = min(duration_s, 6 * ephemeris.step_s)  # derivatives come from elsewhere near the ends
    sides_s = generator.uniform(0, end_s, 300), duration_s - generator.uniform(0, end_s, 300)
    at_s = np.concatenate([[0.0, duration_s], *sides_s, generator.uniform(0, duration_s, 3000)])
    error_km = ephemeris.position_at_km(np.arange(len(propagator.names))[:, None], at_s)
    error_km -= propagator.position_itrs_km(at_s)
    return float(np.linalg.norm(error_km, axis=-1).max()) / METRE_KM


@pytest.mark.parametrize("duration_s", [0.5, 30.0, 1000.0, 6000.0, 90000.0])
@pytest.mark.parametrize("code", ALL_ORBITS)
def test_interpolation_stays_within_ten_centimetres(code: str, duration_s: float) -> None:
    assert _worst_error_m(_motion(code, ALL_ORBITS[code]), duration_s, None) < 0.1


@pytest.mark.parametrize("code", ALL_ORBITS)
def test_longer_steps_cost_what_is_said(code: str) -> None:
    propagator = _motion(code, ALL_ORBITS[code])
    for turn_rad in (0.3, 0.36, 0.4):
        step_s = longest_step_s(propagator, 90000.0, turn_rad)
        # A grid as coarse as this also serves contacts, whose slant range must be right to 10 m.
        assert _worst_error_m(propagator, 90000.0, step_s) < (turn_rad / 0.4) ** 6 * 5


def test_blocks_of_states_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    at_s = np.linspace(0, 6000, 50)
    whole = Ephemeris(_motion("D:705:98.2:4/1/0", 0.0), 6000.0).position_at_km(np.array([[1], [3]]), at_s)
    monkeypatch.setattr("testbed.orbit.propagate._BLOCK_STATES", 5)
    blocks = Ephemeris(_motion("D:705:98.2:4/1/0", 0.0), 6000.0).position_at_km(np.array([[1], [3]]), at_s)
    assert blocks == pytest.approx(whole, abs=1e-9)
    assert blocks.shape == (2, 50, 3)


@pytest.mark.parametrize(("duration_s", "step_s"), [(0.0, None), (-1.0, None), (10.0, 0.0), (float("nan"), None)])
def test_an_ephemeris_of_no_time_is_a_bug(duration_s: float, step_s: float | None) -> None:
    with pytest.raises(BugError, match="positive"):
        Ephemeris(_motion("D:705:98.2:1/1/0", 0.0), duration_s, step_s)


def test_satellites_start_where_the_code_puts_them() -> None:
    # The first satellite is at its node, on the equator, at the epoch; the one a quarter turn on at its northernmost.
    propagator = Propagator(parse_constellation("D:705:98.2:4/1/0"), EPOCH)
    x_km, y_km, z_km = propagator.position_itrs_km(np.array([0.0]))[:, 0].T
    latitude_deg = np.degrees(np.arctan2(z_km, np.hypot(x_km, y_km)))
    assert latitude_deg == pytest.approx([0, 180 - 98.2, 0, -(180 - 98.2)], abs=0.2)


@pytest.mark.parametrize(
    ("latitude_deg", "longitude_deg", "altitude_m"), [(78.2, 15.4, 450), (-90, 0, 0), (0, -180, 9)]
)
def test_places_are_skyfields(latitude_deg: float, longitude_deg: float, altitude_m: float) -> None:
    place_km, zenith = geodetic_itrs_km(latitude_deg, longitude_deg, altitude_m)
    theirs = wgs84.latlon(latitude_deg, longitude_deg, altitude_m)
    assert place_km == pytest.approx(theirs.itrs_xyz.km, abs=1e-9)
    higher = wgs84.latlon(latitude_deg, longitude_deg, altitude_m + 1000)
    assert zenith == pytest.approx(higher.itrs_xyz.km - theirs.itrs_xyz.km, abs=1e-9)


def test_iss_teme_is_the_fixtures_to_a_millimetre(shared: Path) -> None:
    fixture = json.loads((shared / "oracles/iss_sgp4.json").read_text())
    record = Satrec.twoline2rv(*fixture["tle"])
    midnight = datetime(2021, 3, 16, tzinfo=timezone.utc)
    propagator = Propagator.of_satrecs(["iss"], [record], midnight)
    for offset_s, teme_km in fixture["teme_km"].items():
        # The fixture has the Julian date in one double, whose grain is 40 us, 0.3 m of motion: take that date.
        julian = (record.jdsatepoch + record.jdsatepochF) + float(offset_s) / 86400
        at_s = np.array([(julian - 2459289.5) * 86400])
        assert propagator.position_teme_km(at_s)[0, 0] == pytest.approx(teme_km, abs=1e-6)


def test_iss_itrs_is_the_fixtures_to_a_metre(shared: Path) -> None:
    fixture = json.loads((shared / "oracles/iss_sgp4.json").read_text())
    record = Satrec.twoline2rv(*fixture["tle"])
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=fixture["unix_epoch_s"])
    propagator = Propagator.of_satrecs(["iss"], [record], epoch)
    for offset_s, itrs_km in fixture["itrs_km"].items():
        error_km = propagator.position_itrs_km(np.array([float(offset_s)]))[0, 0] - itrs_km
        assert np.linalg.norm(error_km) < METRE_KM


def test_an_orbit_inside_the_earth_names_the_satellite() -> None:
    # A circle 100 km up falls within days where the air is as thick as this drag term says.
    record = Satrec()
    record.sgp4init(WGS72, "i", 1, 27910.0, 0.5, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0714, 0.0)
    propagator = Propagator.of_satrecs(["sat-0-0"], [record], datetime(2026, 6, 1, tzinfo=timezone.utc))
    with pytest.raises(ScenarioError, match="sat-0-"):
        propagator.position_itrs_km(np.linspace(0, 6000, 50))


def test_an_epoch_without_time_zone_is_refused() -> None:
    with pytest.raises(ScenarioError, match="time zone"):
        Propagator(parse_constellation("D:705:98.2:1/1/0"), datetime(2026, 6, 1))
