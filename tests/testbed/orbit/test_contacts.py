"""Contacts against skyfield: the same passes, and its own altitude at our edges."""

from __future__ import annotations

import csv
import dataclasses
import io
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from skyfield.api import EarthSatellite, load, wgs84

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

    def __init__(self, code: str, epoch: datetime, stations: tuple[Station, ...]) -> None:
        self.timescale = load.timescale(builtin=True)
        self.epoch = self.timescale.from_datetime(epoch)
        propagator = Propagator(parse_constellation(code), epoch)
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
    oracle = Skyfield(code, EPOCH, stations)
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
