"""Rings, and links that must not look through the Earth."""

from __future__ import annotations

import math
from datetime import datetime, timezone

import networkx as nx
import pytest

from testbed.errors import ScenarioError
from testbed.orbit.constellation import parse_constellation
from testbed.orbit.propagate import Propagator
from testbed.orbit.topology import check_line_of_sight, lowest_altitudes_km, ring_edges

EPOCH = datetime(2026, 6, 1, 2, 24, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("total", "planes", "edges"), [(1, 1, 0), (2, 1, 1), (3, 1, 3), (8, 1, 8), (4, 2, 2), (12, 3, 12)]
)
def test_a_plane_is_a_ring(total: int, planes: int, edges: int) -> None:
    constellation = parse_constellation(f"D:705:98.2:{total}/{planes}/0")
    ring = ring_edges(constellation)
    graph = nx.Graph(ring)
    assert len(ring) == graph.number_of_edges() == edges
    per_plane = total // planes
    if per_plane > 2:
        cycles = nx.cycle_basis(graph)
        assert sorted(len(cycle) for cycle in cycles) == [per_plane] * planes
        assert all(len({name.split("-")[1] for name in cycle}) == 1 for cycle in cycles)


def test_neighbours_are_next_to_each_other_in_space() -> None:
    assert ring_edges(parse_constellation("D:705:98.2:4/1/0"))[0] == ("sat-0-0", "sat-0-1")
    assert ring_edges(parse_constellation("D:705:98.2:4/1/0"))[-1] == ("sat-0-3", "sat-0-0")


def test_lowest_altitude_is_the_chords() -> None:
    # A chord between satellites 45 degrees apart passes at r cos(22.5 deg). SGP4's mean radius lies some 10 km below
    # Kepler's at this inclination (J2), which is the tolerance.
    constellation = parse_constellation("D:705:98.2:8/1/0")
    expected_km = (6378.137 + 705) * math.cos(math.radians(22.5)) - 6371
    lowest = lowest_altitudes_km(Propagator(constellation, EPOCH), ring_edges(constellation), 6000.0)
    assert lowest == pytest.approx([expected_km] * 8, abs=12)


def test_satellites_side_by_side_are_as_low_as_the_lower_one() -> None:
    constellation = parse_constellation("D:705:98.2:360/1/0")
    (lowest,) = lowest_altitudes_km(Propagator(constellation, EPOCH), (("sat-0-0", "sat-0-1"),), 6000.0)
    assert lowest == pytest.approx(705 + 7, abs=15)


def test_a_grazing_ring_passes() -> None:
    constellation = parse_constellation("D:705:98.2:8/1/0")
    check_line_of_sight(Propagator(constellation, EPOCH), ring_edges(constellation), 10800.0, min_altitude_km=80)


@pytest.mark.parametrize("code", ["D:550:53:4/1/0", "D:705:98.2:2/1/0", "D:705:98.2:3/1/0"])
def test_a_ring_through_the_earth_is_refused(code: str) -> None:
    constellation = parse_constellation(code)
    with pytest.raises(ScenarioError, match=r"sat-0-\d and sat-0-\d looks through the Earth") as refusal:
        check_line_of_sight(Propagator(constellation, EPOCH), ring_edges(constellation), 6000.0)
    assert "80 km or more" in str(refusal.value.allowed)
    assert float(str(refusal.value.found).split()[0]) < 0


def test_the_limit_is_the_callers() -> None:
    constellation = parse_constellation("D:705:98.2:8/1/0")
    with pytest.raises(ScenarioError, match="above the Earth"):
        check_line_of_sight(Propagator(constellation, EPOCH), ring_edges(constellation), 6000.0, min_altitude_km=200)


def test_a_lone_satellite_has_nothing_to_see() -> None:
    check_line_of_sight(Propagator(parse_constellation("D:705:98.2:1/1/0"), EPOCH), (), 6000.0)
