"""The table of stations."""

from __future__ import annotations

import re

import pytest

from testbed.errors import ScenarioError
from testbed.orbit.stations import STATIONS, station


def test_the_landsat_ground_network_is_there() -> None:
    for name in ("Svalbard", "Sioux Falls", "Alice Springs", "Neustrelitz"):
        assert "Landsat" in station(name).source


def test_slugs_are_distinct_host_names() -> None:
    slugs = [one.slug for one in STATIONS.values()]
    assert len(set(slugs)) == len(slugs)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", slug) for slug in slugs)


def test_every_station_is_on_the_earth_and_says_who_publishes_it() -> None:
    for one in STATIONS.values():
        assert -90 <= one.latitude_deg <= 90
        assert -180 <= one.longitude_deg <= 180
        assert -430 <= one.altitude_m <= 5000
        assert one.source


def test_a_name_is_found_by_slug_and_in_any_case() -> None:
    assert station("sioux-falls") is station(" SIOUX FALLS ") is STATIONS["Sioux Falls"]


def test_an_unknown_name_suggests_the_nearest_and_lists_all() -> None:
    with pytest.raises(ScenarioError, match="did you mean Svalbard") as refusal:
        station("Svalbad")
    assert refusal.value.found == "Svalbad"
    assert all(name in str(refusal.value.allowed) for name in STATIONS)
