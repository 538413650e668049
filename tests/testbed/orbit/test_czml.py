"""CZML read back as Cesium reads it: its clock, its intervals, its interpolation; and czml3 knows every property."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from testbed.orbit.constellation import parse_constellation
from testbed.orbit.contact_plan import Scope, contacts_document
from testbed.orbit.contacts import Contact, find_contacts
from testbed.orbit.motion import Orbits
from testbed.orbit.propagate import Propagator, geodetic_itrs_km
from testbed.orbit.stations import station

EPOCH = datetime(2026, 6, 1, 2, 24, 0, 500_000, tzinfo=timezone(timedelta(hours=2)))
STATIONS = tuple(station(name) for name in ("Svalbard", "Alice Springs"))
INTERVAL = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)/(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)")


def _scope(code: str, duration_s: float) -> Scope:
    constellation = parse_constellation(code)
    planes = tuple(tuple(one.name for one in plane) for plane in constellation.planes)
    return Scope("demo", EPOCH, duration_s, Orbits(Propagator(constellation, EPOCH), planes), STATIONS)


def _packets(scope: Scope, contacts: tuple[Contact, ...]) -> dict[str, dict[str, Any]]:
    packets = json.loads(contacts_document("czml", contacts, scope))
    assert packets[0]["id"] == "document"
    by_id = {packet["id"]: packet for packet in packets}
    assert len(by_id) == len(packets)
    return by_id


def _interval_s(text: str) -> tuple[float, float]:
    match = INTERVAL.fullmatch(text)
    assert match is not None, text
    start, end = (datetime.fromisoformat(part.replace("Z", "+00:00")) for part in match.groups())
    return (start - EPOCH).total_seconds(), (end - EPOCH).total_seconds()


def _interpolated(samples: NDArray[np.float64], degree: int, at_s: float) -> NDArray[np.float64]:
    """Cesium's way: a Lagrange polynomial through the degree + 1 samples around an instant."""
    times = samples[:, 0]
    first = int(np.clip(np.searchsorted(times, at_s) - (degree + 1) // 2, 0, len(times) - degree - 1))
    chosen = samples[first : first + degree + 1]
    others = ~np.eye(degree + 1, dtype=bool)
    weights = [
        np.prod((at_s - chosen[others[i], 0]) / (chosen[i, 0] - chosen[others[i], 0])) for i in range(degree + 1)
    ]
    result: NDArray[np.float64] = np.array(weights) @ chosen[:, 1:]
    return result


# A low, the demo's, a star of several planes, GPS's, and the geostationary.
@pytest.mark.parametrize(
    ("code", "duration_s"),
    [
        ("D:300:51.6:1/1/0", 7200.0),
        ("D:705:98.2:8/1/0", 10_800.0),
        ("S:780:86.4:66/6/1", 3000.0),
        ("D:20200:55:6/3/1", 43_200.0),
        ("D:35786:0:2/1/0", 86_400.0),
        ("D:705:98.2:2/1/0", 60.0),
    ],
)
def test_satellites_fly_where_the_propagator_says(code: str, duration_s: float) -> None:
    scope = _scope(code, duration_s)
    packets = _packets(scope, ())
    random = np.random.default_rng(7)
    at_s = np.concatenate([[0.0, duration_s, 1.0, duration_s - 1.0], random.uniform(0, duration_s, 60)])
    true_m = 1000 * scope.orbits.motion.state_itrs_km(at_s)[0]
    for name, expected_m in zip(scope.orbits.motion.names, true_m, strict=True):
        packet = packets[f"satellite/{name}"]
        position = packet["position"]
        assert (position["referenceFrame"], position["interpolationAlgorithm"]) == ("FIXED", "LAGRANGE")
        assert datetime.fromisoformat(position["epoch"].replace("Z", "+00:00")) == EPOCH
        assert _interval_s(packet["availability"]) == (0.0, duration_s)
        samples = np.array(position["cartesian"]).reshape(-1, 4)
        assert np.all(np.diff(samples[:, 0]) > 0)
        assert (samples[0, 0], samples[-1, 0]) == (0.0, duration_s)
        heights_km = np.linalg.norm(samples[:, 1:], axis=1) / 1000 - 6378.137
        altitude_km = float(code.split(":")[1])
        assert np.all(np.abs(heights_km - altitude_km) < 15)  # SGP4's mean elements: the flattening's short periods
        seen_m = np.array([_interpolated(samples, position["interpolationDegree"], at) for at in at_s])
        assert np.max(np.linalg.norm(seen_m - expected_m, axis=1)) < 2.0


def test_lines_are_there_while_contacts_are_open() -> None:
    scope = _scope("D:705:98.2:8/1/0", 10_800.0)
    contacts = find_contacts(scope.orbits.motion, STATIONS, 10_800.0)
    packets = _packets(scope, contacts)
    lines = {name: packet for name, packet in packets.items() if "polyline" in packet}
    shown = []
    for name, packet in lines.items():
        satellite, place = name.split("/")[1:]
        assert packet["polyline"]["positions"]["references"] == [
            f"satellite/{satellite}#position",
            f"station/{place}#position",
        ]
        assert packet["polyline"]["arcType"] == "NONE"
        shown += [(satellite, place, *_interval_s(interval)) for interval in packet["availability"]]
    assert len(shown) == len(contacts) > 10
    expected = sorted((one.satellite, one.station, one.start_s, one.end_s) for one in contacts)
    for found, wanted in zip(sorted(shown), expected, strict=True):
        assert found[:2] == wanted[:2]
        assert found[2:] == pytest.approx(wanted[2:], abs=1e-6)


def test_stations_stand_on_the_ground() -> None:
    packets = _packets(_scope("D:705:98.2:1/1/0", 600.0), ())
    for one in STATIONS:
        expected_km, _ = geodetic_itrs_km(one.latitude_deg, one.longitude_deg, one.altitude_m)
        packet = packets[f"station/{one.slug}"]
        assert packet["label"]["text"] == packet["name"] == one.name
        assert packet["position"]["cartesian"] == pytest.approx((1000 * expected_km).tolist(), abs=0.06)


def test_the_clock_starts_at_the_epoch() -> None:
    head = _packets(_scope("D:705:98.2:1/1/0", 600.0), ())["document"]
    assert (head["version"], head["name"]) == ("1.0", "demo")
    assert _interval_s(head["clock"]["interval"]) == (0.0, 600.0)
    assert head["clock"]["currentTime"] == "2026-06-01T00:24:00.500000Z"


def test_czml3_knows_every_property() -> None:
    """Its models refuse a property or a value that CZML has not."""
    import czml3

    scope = _scope("S:780:86.4:66/6/1", 3000.0)
    text = contacts_document("czml", find_contacts(scope.orbits.motion, STATIONS, 3000.0), scope)
    document = czml3.Document.model_validate_json(text)
    assert len(document.packets) == len(json.loads(text))
    with pytest.raises(ValueError, match="arcTypo"):
        czml3.Document.model_validate_json(text.replace("arcType", "arcTypo"))


def test_planes_differ_in_colour() -> None:
    for code in ("S:780:86.4:66/6/1", "D:550:53:240/24/1"):
        scope = _scope(code, 600.0)
        packets = _packets(scope, ())
        colours = [
            {tuple(packets[f"satellite/{name}"]["point"]["color"]["rgba"]) for name in plane}
            for plane in scope.orbits.planes
        ]
        assert all(len(one) == 1 for one in colours)
        assert len(set.union(*colours)) == len(colours)
        assert all("label" in p for i, p in packets.items() if i.startswith("satellite/")) == (len(packets) < 100)
