"""Contacts against skyfield: the same passes, and its own altitude at our edges."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sgp4.api import WGS72, Satrec
from skyfield.api import EarthSatellite, load, wgs84

from testbed.errors import ScenarioError
from testbed.orbit import passes
from testbed.orbit.constellation import parse_constellation
from testbed.orbit.contacts import Contact, contacts_csv, find_contacts
from testbed.orbit.propagate import Propagator
from testbed.orbit.stations import STATIONS, Station, station

EPOCH = datetime(2026, 6, 1, 2, 24, tzinfo=timezone.utc)
DEMO = "D:705:98.2:8/1/0"
LANDSAT = tuple(station(name) for name in ("Svalbard", "Sioux Falls", "Alice Springs", "Neustrelitz"))


def _motion(code: str) -> Propagator:
    return Propagator(parse_constellation(code), EPOCH)


def _masked(stations: tuple[Station, ...], min_elevation_deg: float) -> tuple[Station, ...]:
    return tuple(dataclasses.replace(one, min_elevation_deg=min_elevation_deg) for one in stations)


class Skyfield:
    """The oracle: skyfield's satellites over skyfield's stations."""

    def __init__(self, propagator: Propagator, epoch: datetime, stations: Iterable[Station]) -> None:
        self.timescale = load.timescale(builtin=True)
        self.epoch = self.timescale.from_datetime(epoch)
        self.satellites = {
            name: EarthSatellite.from_satrec(record, self.timescale)
            for name, record in zip(propagator.names, propagator.satrecs, strict=True)
        }
        self.stations = {one.slug: one for one in stations}

    def place(self, slug: str) -> Any:
        one = self.stations[slug]
        return wgs84.latlon(one.latitude_deg, one.longitude_deg, one.altitude_m)

    def time(self, at_s: Any) -> Any:
        at_s = np.atleast_1d(at_s)
        return self.timescale.tt_jd(np.full(at_s.shape, self.epoch.whole), self.epoch.tt_fraction + at_s / 86400)

    def altitude_deg(self, satellite: str, slug: str, at_s: Any) -> Any:
        sight = (self.satellites[satellite] - self.place(slug)).at(self.time(at_s))
        return sight.altaz()[0].degrees

    def highest_deg(self, satellite: str, slug: str, start_s: float, end_s: float) -> float:
        low_s, high_s = start_s, end_s
        for _ in range(3):  # three times finer: near the zenith the elevation has all but a cusp
            at_s = np.linspace(low_s, high_s, 200)
            altitude_deg = self.altitude_deg(satellite, slug, at_s)
            best = int(altitude_deg.argmax())
            low_s, high_s = at_s[max(best - 1, 0)], at_s[min(best + 1, 199)]
        return float(altitude_deg.max())

    def passes(self, satellite: str, slug: str, duration_s: float) -> list[tuple[float, float]]:
        mask_deg = self.stations[slug].min_elevation_deg
        start, end = self.time(0.0)[0], self.time(duration_s)[0]
        times, events = self.satellites[satellite].find_events(self.place(slug), start, end, mask_deg)
        opened_s = 0.0 if self.altitude_deg(satellite, slug, 0.0)[0] >= mask_deg else None
        windows = []
        for time, event in zip(times, events, strict=True):
            at_s = (time - start) * 86400
            if event == 0:
                opened_s = at_s
            elif event == 2 and opened_s is not None:
                windows.append((opened_s, at_s))
                opened_s = None
        return windows + ([(opened_s, duration_s)] if opened_s is not None else [])


def _compare(code: str, stations: tuple[Station, ...], duration_s: float) -> int:
    """Same passes for every pair, and skyfield's altitude at our edges. Returns how many passes there were."""
    contacts = find_contacts(_motion(code), stations, duration_s)
    oracle = Skyfield(_motion(code), EPOCH, stations)
    for satellite in oracle.satellites:
        for slug, one in oracle.stations.items():
            ours = [contact for contact in contacts if (contact.satellite, contact.station) == (satellite, slug)]
            theirs = oracle.passes(satellite, slug, duration_s)
            assert len(ours) == len(theirs), f"{satellite} over {slug}: {ours} against {theirs}"
            for contact, (start_s, end_s) in zip(ours, theirs, strict=True):
                # find_events stops within half a second; the exact check of the edges follows.
                assert contact.start_s == pytest.approx(start_s, abs=1.0)
                assert contact.end_s == pytest.approx(end_s, abs=1.0)
                for edge_s in {contact.start_s, contact.end_s} - {0.0, duration_s}:
                    before, at, after = oracle.altitude_deg(satellite, slug, edge_s + np.array([-0.5, 0.0, 0.5]))
                    assert abs(at - one.min_elevation_deg) <= 0.01 * abs(after - before)
                highest_deg = oracle.highest_deg(satellite, slug, contact.start_s, contact.end_s)
                assert contact.max_elevation_deg == pytest.approx(highest_deg, abs=1e-3)
    return len(contacts)


@pytest.mark.parametrize("min_elevation_deg", [5.0, 10.0, 15.0])
def test_every_pair_of_the_demo_has_skyfields_passes(min_elevation_deg: float) -> None:
    assert _compare(DEMO, _masked(LANDSAT, min_elevation_deg), 3 * 3600.0) > 10


def test_half_a_day_of_one_satellite_over_every_station_has_skyfields_passes() -> None:
    assert _compare("D:550:97.6:1/1/0:77", _masked(tuple(STATIONS.values()), 0.0), 43200.0) > 25


def test_short_passes_under_a_high_mask_are_found() -> None:
    # Above 75 degrees a pass at 300 km lasts under 25 s: shorter than a step of the grid.
    assert _compare("D:300:53:24/4/1", _masked(LANDSAT, 75.0), 86400.0) > 5


def test_slow_orbits_have_skyfields_passes() -> None:
    assert _compare("D:20180:55:6/3/1", _masked(LANDSAT, 10.0), 86400.0) > 10


def test_a_grazing_pass_between_two_samples_is_one_short_contact() -> None:
    lone = _masked((station("Neustrelitz"),), 10.0)
    best = max(find_contacts(_motion(DEMO), lone, 10800.0), key=lambda one: one.max_elevation_deg)
    for below_deg in (0.1, 0.01, 0.001):
        mask_deg = best.max_elevation_deg - below_deg
        grazing = find_contacts(_motion(DEMO), _masked(lone, mask_deg), 10800.0)
        assert [one.satellite for one in grazing] == [best.satellite]
        assert grazing[0].max_elevation_deg == pytest.approx(best.max_elevation_deg, abs=1e-6)
        assert 0 < grazing[0].end_s - grazing[0].start_s < 30
    assert not find_contacts(_motion(DEMO), _masked(lone, best.max_elevation_deg + 0.001), 10800.0)


@pytest.mark.parametrize("latitude_deg", [-45.0, 0.0, 45.0, 90.0])
@pytest.mark.parametrize("code", ["D:550:97.6:1/1/0", "D:1200:53:1/1/0:40", "D:2000:120:1/1/0"])
def test_every_pass_is_found_down_to_its_last_hundredth_of_a_degree(code: str, latitude_deg: float) -> None:
    place = Station("There", "there", latitude_deg, 10.0, 0.0, 3.0, "an example")
    whole = [one for one in find_contacts(_motion(code), (place,), 86400.0) if one.start_s > 0 and one.end_s < 86400]
    assert whole or latitude_deg == 90.0
    for one in whole:
        just_below = _masked((place,), one.max_elevation_deg - 0.01)
        found = find_contacts(_motion(code), just_below, 86400.0)
        assert any(one.start_s < other.start_s < other.end_s < one.end_s for other in found)


def test_passes_are_cut_by_the_horizon() -> None:
    whole = find_contacts(_motion(DEMO), LANDSAT, 10800.0)
    chosen = next(one for one in whole if one.start_s > 0)
    middle_s = (chosen.start_s + chosen.end_s) / 2
    early = find_contacts(_motion(DEMO), LANDSAT, middle_s)
    cut = [one for one in early if (one.satellite, one.station) == (chosen.satellite, chosen.station)][-1]
    assert cut.end_s == middle_s
    assert cut.start_s == pytest.approx(chosen.start_s, abs=1e-3)
    # A geostationary satellite over the station's meridian is up all the time: one contact, cut at both ends.
    always = find_contacts(_motion("D:35786:0:6/1/0"), (STATIONS["Matera"],), 3600.0)
    assert always
    assert {(one.start_s, one.end_s) for one in always} == {(0.0, 3600.0)}


def _check_everywhere(
    motion: Propagator, epoch: datetime, stations: tuple[Station, ...], duration_s: float
) -> tuple[Contact, ...]:
    """skyfield's own altitude is on our side of the mask all the time: at our edges, inside and outside of them.

    It is asked every 30 s, and in the middle of every contact and of every gap: so nothing is missing that lasts for
    30 s, and nothing extra is there.
    """
    contacts = find_contacts(motion, stations, duration_s)
    oracle = Skyfield(motion, epoch, stations)
    grid_s = np.linspace(0.0, duration_s, math.ceil(duration_s / 30) + 1)
    grid = oracle.time(grid_s)
    for name, satellite in oracle.satellites.items():
        for one in stations:
            ours = [contact for contact in contacts if (contact.satellite, contact.station) == (name, one.slug)]
            bounds_s = np.array([bound_s for contact in ours for bound_s in (contact.start_s, contact.end_s)])
            assert (np.diff(bounds_s) > 0).all()
            altitude_deg = (satellite - oracle.place(one.slug)).at(grid).altaz()[0].degrees
            covered = np.searchsorted(bounds_s, grid_s, side="right") % 2 == 1
            if ours:
                covered |= np.isclose(grid_s, bounds_s[-1], rtol=0, atol=1e-9) & (bounds_s[-1] == duration_s)
                near = np.abs(grid_s[:, None] - bounds_s).min(axis=1) < 0.01
                altitude_deg = np.where(near, np.where(covered, 90.0, -90.0), altitude_deg)
            slow = np.abs(altitude_deg - one.min_elevation_deg) < 1e-5  # a metre of a geostationary satellite's
            assert (covered == (altitude_deg >= one.min_elevation_deg))[~slow].all(), f"{name} over {one}"

            edges_s = bounds_s[(bounds_s > 0) & (bounds_s < duration_s)]
            if edges_s.size:
                around_s = np.concatenate([edges_s - 0.5, edges_s, edges_s + 0.5])
                before, at, after = oracle.altitude_deg(name, one.slug, around_s).reshape(3, -1)
                late_s = np.abs(at - one.min_elevation_deg) / np.abs(after - before)
                assert late_s.max() <= 0.01, f"{name} over {one}"
            if ours:
                middle_s = np.array([(contact.start_s + contact.end_s) / 2 for contact in ours])
                # A pass is highest in its middle, or is long enough for its middle to be well inside.
                assert (oracle.altitude_deg(name, one.slug, middle_s) >= one.min_elevation_deg).all()
            for contact in ours:
                inside = (grid_s >= contact.start_s) & (grid_s <= contact.end_s)
                assert contact.max_elevation_deg >= one.min_elevation_deg
                assert contact.max_elevation_deg >= altitude_deg[inside & (altitude_deg < 90.0)].max(initial=-90) - 1e-3
    return contacts


def _satrec(perigee_km: float, eccentricity: float, *angles_deg: float) -> Satrec:
    """Mean elements at EPOCH; the angles are inclination, node, argument of perigee, mean anomaly."""
    inclination, node, perigee, anomaly = (math.radians(angle) for angle in angles_deg)
    mean_motion_rad_min = 60 * math.sqrt(398600.8 / ((6378.137 + perigee_km) / (1 - eccentricity)) ** 3)
    days = (EPOCH - datetime(1949, 12, 31, tzinfo=timezone.utc)) / timedelta(days=1)
    record = Satrec()
    elements = eccentricity, perigee, inclination, anomaly, mean_motion_rad_min, node
    record.sgp4init(WGS72, "i", 1, days, 0.0, 0.0, 0.0, *elements)
    return record


_ANGLE_DEG = st.floats(0, 360, exclude_max=True)
_ORBITS = st.builds(
    _satrec,
    st.one_of(st.floats(300, 2000), st.floats(2000, 36000), st.just(35786.0)),
    st.one_of(st.just(0.0), st.floats(0, 0.01), st.floats(0, 0.75)),
    st.one_of(st.floats(0, 180), st.sampled_from([0.0, 63.4, 90.0])),
    _ANGLE_DEG,
    _ANGLE_DEG,
    _ANGLE_DEG,
)
_PLACES = st.builds(
    Station,
    name=st.just("somewhere"),
    slug=st.just("somewhere"),
    latitude_deg=st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 0.0, 90.0])),
    longitude_deg=st.floats(-180, 180),
    altitude_m=st.sampled_from([0.0, 4000.0]),
    min_elevation_deg=st.one_of(st.floats(0, 85), st.sampled_from([0.0, 5.0, 10.0, 25.0, 80.0])),
    source=st.just("an example"),
)


@settings(max_examples=60)
@given(st.lists(_ORBITS, min_size=1, max_size=3), _PLACES, st.sampled_from([20.0, 1000.0, 30000.0, 86400.0]))
def test_any_orbit_over_any_place_is_up_when_skyfield_says_so(
    records: list[Satrec], place: Station, duration_s: float
) -> None:
    motion = Propagator.of_satrecs([f"sat-{number}" for number in range(len(records))], records, EPOCH)
    try:
        motion.state_itrs_km(np.linspace(0, duration_s, 200))
    except ScenarioError:
        assume(False)  # the moon's pull takes some eccentric orbits into the Earth within a day
    _check_everywhere(motion, EPOCH, (place,), duration_s)


@pytest.mark.parametrize("seed", [1, 2])
def test_random_constellations_have_skyfields_passes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    altitude_km, inclination_deg = generator.uniform(350, 1400), generator.uniform(30, 140)
    code = f"D:{altitude_km:.1f}:{inclination_deg:.2f}:6/3/{generator.integers(3)}:{generator.uniform(0, 360):.2f}"
    places = tuple(generator.choice(np.array(list(STATIONS.values()), dtype=object), 3, replace=False))
    assert _compare(code, _masked(places, generator.uniform(0, 30)), 43200.0) > 20


def test_a_molniya_orbit_is_up_when_skyfield_says_so() -> None:
    # Molniya 2-14, of the test cases of Vallado et al., AIAA 2006-6753.
    record = Satrec.twoline2rv(
        "1 08195U 75081A   06176.33215444  .00000099  00000-0  11873-3 0   813",
        "2 08195  64.1586 279.0717 6877146 264.7651  20.2257  2.00491383225656",
    )
    epoch = datetime(2006, 6, 25, tzinfo=timezone.utc)
    motion = Propagator.of_satrecs(["molniya"], [record], epoch)
    contacts = _check_everywhere(motion, epoch, tuple(STATIONS.values()), 2 * 86400.0)
    assert len(contacts) > 30
    assert max(one.duration_s for one in contacts) > 8 * 3600  # over the north it hangs
    assert min(one.duration_s for one in contacts) < 3600  # past its perigee it flits


@pytest.mark.parametrize("latitude_deg", [90.0, -90.0])
@pytest.mark.parametrize("mask_deg", [0.0, 80.0])
def test_a_polar_orbit_over_a_pole(latitude_deg: float, mask_deg: float) -> None:
    pole = Station("Pole", "pole", latitude_deg, 0.0, 2800.0, mask_deg, "an example")
    contacts = _check_everywhere(_motion("D:600:90:1/1/0"), EPOCH, (pole,), 86400.0)
    assert 14 <= len(contacts) <= 15  # one in every revolution
    lengths_s = [one.duration_s for one in contacts if one.start_s > 0 and one.end_s < 86400]
    # From horizon to horizon 2 arccos(R / r) of a revolution. The pole's own radius counts.
    if mask_deg == 0.0:
        expected_s = 2 * math.acos(6359.6 / 6978.1) * math.sqrt(6978.1**3 / 398600.4)
        assert lengths_s == pytest.approx([expected_s] * len(lengths_s), rel=0.01)


def test_a_dip_between_two_samples_splits_a_contact() -> None:
    # A geosynchronous satellite of 60 degrees inclination draws a figure of eight, twice a day low over Quito.
    motion = Propagator.of_satrecs(["eight"], [_motion("D:35786:60:4/4/0").satrecs[2]], EPOCH)
    quito = Station("Quito", "quito", -0.2, -78.5, 2800.0, 0.0, "an example")
    oracle = Skyfield(motion, EPOCH, [quito])
    at_s = np.linspace(0, 86400, 2881)
    lowest = int(oracle.altitude_deg("eight", "quito", at_s).argmin())
    assert 600 < at_s[lowest] < 85800
    dip_deg = oracle.altitude_deg("eight", "quito", np.linspace(at_s[lowest] - 30, at_s[lowest] + 30, 601)).min()
    for below_deg in (1e-1, 1e-2, 1e-3):
        assert len(_check_everywhere(motion, EPOCH, _masked((quito,), dip_deg - below_deg), 86400.0)) == 1
        before, after = find_contacts(motion, _masked((quito,), dip_deg + below_deg), 86400.0)[:2]
        assert before.end_s < at_s[lowest] + 30 < after.start_s + 60
        gap_s = np.linspace(before.end_s + 0.1, after.start_s - 0.1, 50)
        assert (oracle.altitude_deg("eight", "quito", gap_s) < dip_deg + below_deg).all()


def test_blocks_of_satellites_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = find_contacts(_motion("D:550:53:24/4/1"), LANDSAT, 43200.0)
    monkeypatch.setattr(passes, "_BLOCK_CELLS", 1)
    single = find_contacts(_motion("D:550:53:24/4/1"), LANDSAT, 43200.0)
    assert len(whole) > 100
    for ours, theirs in zip(single, whole, strict=True):
        assert (ours.satellite, ours.station) == (theirs.satellite, theirs.station)
        assert dataclasses.astuple(ours)[2:] == pytest.approx(dataclasses.astuple(theirs)[2:], abs=1e-6)


def test_a_fast_satellite_among_slow_ones_changes_little() -> None:
    # All share one grid, as fine as the fastest needs.
    alone = find_contacts(_motion("D:20180:55:3/3/1"), LANDSAT, 43200.0)
    among = find_contacts(_motion("D:20180:55:3/3/1+D:300:53:1/1/0"), LANDSAT, 43200.0)
    those = [one for one in among if one.satellite in _motion("D:20180:55:3/3/1").names]
    assert [(one.satellite, one.station) for one in those] == [(one.satellite, one.station) for one in alone]
    assert [one.start_s for one in those] == pytest.approx([one.start_s for one in alone], abs=2e-3)
    assert [one.end_s for one in those] == pytest.approx([one.end_s for one in alone], abs=2e-3)


def test_without_stations_there_are_no_contacts() -> None:
    assert find_contacts(_motion(DEMO), (), 3600.0) == ()


def test_contacts_are_sorted_and_repeatable() -> None:
    contacts = find_contacts(_motion(DEMO), LANDSAT, 10800.0)
    assert list(contacts) == sorted(contacts, key=lambda one: (one.start_s, one.satellite, one.station))
    assert contacts == find_contacts(_motion(DEMO), tuple(reversed(LANDSAT)), 10800.0)


def test_csv_says_when_in_utc() -> None:
    contact = Contact("sat-0-1", "svalbard", 78.5, 653.6543217, 72.7)
    row = next(csv.DictReader(io.StringIO(contacts_csv([contact], EPOCH.astimezone(timezone(timedelta(hours=2)))))))
    assert (row["satellite"], row["station"]) == ("sat-0-1", "svalbard")
    assert row["start"] == "2026-06-01T02:25:18.500000Z"
    assert row["end"] == "2026-06-01T02:34:53.654322Z"
    assert float(row["duration_s"]) == pytest.approx(575.154, abs=1e-3)
    assert float(row["max_elevation_deg"]) == pytest.approx(72.7)
