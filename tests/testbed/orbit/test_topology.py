"""Topologies against published rules, closed forms, graph theory and scans that look at every tenth of a second."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from testbed.errors import ScenarioError
from testbed.orbit.constellation import Constellation, parse_constellation
from testbed.orbit.motion import Orbits
from testbed.orbit.propagate import Propagator
from testbed.orbit.sight import ALWAYS, IslLink, Limits, lowest_altitudes_km
from testbed.orbit.topology import (
    TOPOLOGIES,
    Explicit,
    IslOptions,
    NearestVisible,
    PlusGrid,
    Ring,
    Topology,
    open_topology,
)

EPOCH = datetime(2026, 6, 1, 2, 24, tzinfo=timezone.utc)
IRIDIUM = "S:780:86.4:66/6/1"
ANYWHERE = Limits(min_altitude_km=-7000.0)


def _orbits(code: str) -> Orbits:
    return _orbits_of(parse_constellation(code))


def _orbits_of(constellation: Constellation) -> Orbits:
    planes = tuple(tuple(satellite.name for satellite in plane) for plane in constellation.planes)
    return Orbits(Propagator(constellation, EPOCH), planes)


def _graph(pairs: Sequence[tuple[str, str]] | Sequence[IslLink]) -> nx.Graph:
    edges = [(pair.first, pair.second) if isinstance(pair, IslLink) else pair for pair in pairs]
    graph = nx.Graph(edges)
    assert graph.number_of_edges() == len(edges), "an edge stands there twice"
    assert nx.number_of_selfloops(graph) == 0
    return graph


def _true_margin_km(first_km: Any, second_km: Any, limits: Limits) -> Any:
    """The margin another way: a triangle's height from its area, where the foot lies between the satellites."""
    range_km = np.linalg.norm(second_km - first_km, axis=-1)
    height_km = np.linalg.norm(np.cross(first_km, second_km), axis=-1) / np.maximum(range_km, 1e-9)
    dot = np.sum(first_km * second_km, axis=-1)
    squares = np.sum(first_km**2, axis=-1), np.sum(second_km**2, axis=-1)
    between = (dot < squares[0]) & (dot < squares[1])
    lowest_km = np.where(between, height_km, np.sqrt(np.minimum(*squares)))
    return np.minimum(lowest_km - 6371.0 - limits.min_altitude_km, limits.max_range_km - range_km)


def _scanned(margin_km: Any, at_s: Any) -> list[tuple[float, float]]:
    clear = np.concatenate([[False], margin_km >= 0, [False]])
    starts, ends = np.flatnonzero(clear[1:] & ~clear[:-1]), np.flatnonzero(~clear[1:] & clear[:-1]) - 1
    return list(zip(at_s[starts].tolist(), at_s[ends].tolist(), strict=True))


# Rings.


@pytest.mark.parametrize(
    ("total", "planes", "edges"), [(1, 1, 0), (2, 1, 1), (3, 1, 3), (8, 1, 8), (4, 2, 2), (12, 3, 12)]
)
def test_a_plane_is_a_ring(total: int, planes: int, edges: int) -> None:
    links = Ring(ANYWHERE).links(_orbits(f"D:705:98.2:{total}/{planes}/0"), 6000.0)
    graph = _graph(links)
    assert graph.number_of_edges() == edges
    assert all(link.windows == ALWAYS for link in links)
    per_plane = total // planes
    if per_plane > 2:
        cycles = nx.cycle_basis(graph)
        assert sorted(len(cycle) for cycle in cycles) == [per_plane] * planes
        assert all(len({name.split("-")[1] for name in cycle}) == 1 for cycle in cycles)


def test_neighbours_are_next_to_each_other_in_space() -> None:
    orbits = _orbits("D:705:98.2:8/1/0")
    links = Ring().links(orbits, 6000.0)
    assert (links[0].first, links[0].second) == ("sat-0-0", "sat-0-1")
    assert (links[-1].first, links[-1].second) == ("sat-0-7", "sat-0-0")
    # 2 r sin(pi / S). SGP4's mean radius lies some 10 km below Kepler's at this inclination (J2): 0.2 %.
    position_km = orbits.motion.state_itrs_km(np.arange(0.0, 6000.0, 100.0))[0]
    for link in links:
        apart_km = position_km[orbits.motion.row(link.first)] - position_km[orbits.motion.row(link.second)]
        expected_km = 2 * (6378.137 + 705) * math.sin(math.pi / 8)
        assert np.linalg.norm(apart_km, axis=1) == pytest.approx(expected_km, rel=0.003)


def test_lowest_altitude_is_the_chords() -> None:
    # A chord between satellites 45 degrees apart passes at r cos(22.5 deg), J2 again being the tolerance.
    orbits = _orbits("D:705:98.2:8/1/0")
    pairs = [(link.first, link.second) for link in Ring().links(orbits, 6000.0)]
    expected_km = (6378.137 + 705) * math.cos(math.radians(22.5)) - 6371
    assert lowest_altitudes_km(orbits.motion, pairs, 6000.0) == pytest.approx([expected_km] * 8, abs=12)


def test_satellites_side_by_side_are_as_low_as_the_lower_one() -> None:
    orbits = _orbits("D:705:98.2:360/1/0")
    (lowest_km,) = lowest_altitudes_km(orbits.motion, [("sat-0-0", "sat-0-1")], 6000.0)
    assert lowest_km == pytest.approx(705 + 7, abs=15)


def test_lowest_altitude_is_found_between_samples() -> None:
    orbits = _orbits(IRIDIUM)
    pairs = [("sat-0-0", "sat-5-3"), ("sat-0-0", "sat-1-0"), ("sat-2-4", "sat-4-9")]
    position_km = orbits.motion.state_itrs_km(np.arange(0.0, 6000.0, 0.5))[0]
    for pair, lowest_km in zip(pairs, lowest_altitudes_km(orbits.motion, pairs, 6000.0), strict=True):
        first_km, second_km = (position_km[orbits.motion.row(name)] for name in pair)
        scanned_km = _true_margin_km(first_km, second_km, Limits(0.0)).min()
        # Half a second of two satellites that fly past each other is some metres of the ray between them.
        assert scanned_km - 0.01 < lowest_km <= scanned_km + 0.0001


@pytest.mark.parametrize("code", ["D:550:53:4/1/0", "D:705:98.2:2/1/0", "D:705:98.2:3/1/0"])
def test_a_ring_through_the_earth_is_refused(code: str) -> None:
    with pytest.raises(ScenarioError, match=r"sat-0-\d and sat-0-\d looks through the Earth") as refusal:
        Ring().links(_orbits(code), 6000.0)
    assert refusal.value.field == "constellation"
    assert "80 km or more" in str(refusal.value.allowed)
    assert float(str(refusal.value.found).split()[0]) < 0


def test_the_limits_of_a_ring_are_the_callers() -> None:
    orbits = _orbits("D:705:98.2:8/1/0")
    lowest_km = min(lowest_altitudes_km(orbits.motion, [("sat-0-0", "sat-0-1")], 10800.0))
    two = Orbits(orbits.motion, (("sat-0-0", "sat-0-1"),))
    assert Ring(Limits(lowest_km - 0.001)).links(two, 10800.0)
    with pytest.raises(ScenarioError, match="above the Earth"):
        Ring(Limits(lowest_km + 0.001)).links(two, 10800.0)
    # The ring's links are 5421 km long, give or take what J2 does.
    assert Ring(Limits(max_range_km=5450)).links(orbits, 10800.0)
    with pytest.raises(ScenarioError, match=r"is too long \(8 of 8 links do\)") as refusal:
        Ring(Limits(max_range_km=5400)).links(orbits, 10800.0)
    assert 5400 < float(str(refusal.value.found).split()[0]) < 5450
    assert "5400 km or less" in str(refusal.value.allowed)


# Grids.


@pytest.mark.parametrize(("planes", "per_plane", "shift"), [(25, 25, 1), (10, 5, 0), (24, 66, 6), (3, 3, 0)])
def test_a_grid_has_hypatias_neighbours(planes: int, per_plane: int, shift: int) -> None:
    # The cases and the rule of satgenpy's test of its +grid (Kassing et al., IMC 2020).
    pairs = PlusGrid(shift=shift).pairs(_orbits(f"D:630:51.9:{planes * per_plane}/{planes}/0"))
    expected = set()
    for plane in range(planes):
        for place in range(per_plane):
            name = f"sat-{plane}-{place}"
            expected.add(frozenset({name, f"sat-{plane}-{(place + 1) % per_plane}"}))
            expected.add(frozenset({name, f"sat-{(plane + 1) % planes}-{(place + shift) % per_plane}"}))
    assert {frozenset(pair) for pair in pairs} == expected
    graph = _graph(pairs)
    assert graph.number_of_edges() == 2 * planes * per_plane
    assert {degree for _, degree in graph.degree} == {4}


def test_staggered_planes_are_joined_at_the_same_place_as_hypatia_does() -> None:
    # Its Kuiper shell: every other plane is ahead by half a place, which phasing does not explain.
    satellites = tuple(
        replace(one, mean_anomaly_deg=one.mean_anomaly_deg + one.plane % 2 * 180 / 34)
        for one in parse_constellation("D:630:51.9:1156/34/0").satellites
    )
    orbits = _orbits_of(Constellation("", satellites))
    pairs = {frozenset(pair) for pair in PlusGrid().pairs(orbits)}
    assert len(pairs) == 2312
    assert all(frozenset({f"sat-33-{place}", f"sat-0-{place}"}) in pairs for place in range(34))


@settings(max_examples=60)
@given(planes=st.integers(1, 9), per_plane=st.integers(1, 9), phasing=st.integers(0, 8), seam=st.booleans())
def test_a_grid_of_any_size(planes: int, per_plane: int, phasing: int, seam: bool) -> None:
    phasing %= planes
    orbits = _orbits(f"D:1200:55:{planes * per_plane}/{planes}/{phasing}")
    pairs = PlusGrid(seam=seam).pairs(orbits)
    graph = _graph(pairs)
    graph.add_nodes_from(orbits.motion.names)
    in_plane = {1: 0, 2: 1}.get(per_plane, per_plane)
    steps = planes if seam and planes > 2 else planes - 1
    assert len(pairs) == planes * in_plane + steps * per_plane
    assert nx.is_connected(graph)
    assert max(dict(graph.degree).values()) <= 4
    if seam and planes >= 3:
        # Going around all planes, phasing has added up to F places (Walker 1984).
        across = {pair for pair in pairs if pair[0].startswith(f"sat-{planes - 1}-") and pair[1].startswith("sat-0-")}
        assert across == {
            (f"sat-{planes - 1}-{place}", f"sat-0-{(place + phasing) % per_plane}") for place in range(per_plane)
        }
        if per_plane >= 3:
            assert len(pairs) == 2 * planes * per_plane
            assert {degree for _, degree in graph.degree} == {4}


def test_starlinks_grid_is_whole_and_always_up() -> None:
    links = PlusGrid().links(_orbits("D:550:53.0:1584/72/17"), 5700.0)
    assert len(links) == _graph(links).number_of_edges() == 3168
    assert {link.windows for link in links} == {ALWAYS}


def test_every_shell_is_a_grid_of_its_own() -> None:
    # The first two are as near to each other as Starlink's: 10 km and 0.2 degrees.
    orbits = _orbits("D:550:53.0:40/5/1+D:540:53.2:48/6/2+D:570:70:36/4/1")
    pairs = PlusGrid().pairs(orbits)
    shells = [set(range(5)), set(range(5, 11)), set(range(11, 15))]
    parts = list(nx.connected_components(_graph(pairs)))
    assert sorted(({int(name.split("-")[1]) for name in part} for part in parts), key=min) == shells
    assert len(pairs) == 2 * (40 + 48 + 36)


@pytest.mark.parametrize("code", ["D:550:90:12/12/7", "D:1200:10:5/5/3", "S:780:86.4:7/7/0", "D:20180:55:24/6/1"])
def test_planes_of_one_shell_stay_together(code: str) -> None:
    # Where a plane has few satellites, oblateness alone makes their orbits' apparent sizes differ by up to 19 km.
    orbits = _orbits(code)
    assert nx.is_connected(_graph(PlusGrid().pairs(orbits)))
    assert len(_graph(PlusGrid().pairs(orbits))) == len(orbits.motion.names)


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(1, 7), min_size=2, max_size=6), shift=st.integers(-3, 3))
def test_planes_of_unequal_size(sizes: list[int], shift: int) -> None:
    whole = _orbits("D:550:53:42/6/0")
    planes = tuple(plane[:size] for plane, size in zip(whole.planes, sizes, strict=False))
    orbits = Orbits(whole.motion, planes)
    pairs = PlusGrid(seam=False, shift=shift).pairs(orbits)
    graph = _graph(pairs)
    assert max(dict(graph.degree).values()) <= 4
    place = {name: (plane, index) for plane, members in enumerate(planes) for index, name in enumerate(members)}
    for number, (count, following) in enumerate(zip(sizes, sizes[1:], strict=False)):
        across = [
            (place[one][1], place[other][1]) for one, other in pairs if place[one][0] == number == place[other][0] - 1
        ]
        assert len(across) == min(count, following)
        assert len({one for one, _ in across}) == len({other for _, other in across}) == min(count, following)
        for one, other in across:
            unshifted = (other - shift) % following
            apart = abs(one / count - unshifted / following)
            assert min(apart, 1 - apart) <= 0.5 / max(count, following) + 1e-12


def test_two_planes_have_one_link_a_place_with_or_without_seam() -> None:
    orbits = _orbits("D:1200:55:20/2/1")
    assert PlusGrid(seam=True).pairs(orbits) == PlusGrid(seam=False).pairs(orbits)
    assert len(PlusGrid().pairs(orbits)) == 30


# Windows.


@pytest.fixture(scope="module")
def iridium() -> tuple[Orbits, Any, Any]:
    """Iridium, and where SGP4 has it every 0.1 s of half an orbit and a bit."""
    orbits = _orbits(IRIDIUM)
    at_s = np.arange(0, 32001) / 10
    return orbits, at_s, orbits.motion.state_itrs_km(at_s)[0]


LIMITS = [
    Limits(),  # the seam's links, between planes that fly against each other, see each other near the poles alone
    Limits(max_range_km=2500.0),  # links between planes are longer near the equator
    Limits(min_altitude_km=600.0),  # and lower
    Limits(min_altitude_km=560.0, max_range_km=3900.0),
]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_windows_are_those_of_a_scan(limits: Limits, iridium: tuple[Orbits, Any, Any]) -> None:
    orbits, at_s, position_km = iridium
    horizon_s = float(at_s[-1])
    grid = PlusGrid(limits=limits)
    windows = {(link.first, link.second): link.windows for link in grid.links(orbits, horizon_s)}
    several = 0
    for pair in grid.pairs(orbits):
        first_km, second_km = (position_km[orbits.motion.row(name)] for name in pair)
        scanned = _scanned(_true_margin_km(first_km, second_km, limits), at_s)
        if scanned == [(0.0, horizon_s)]:
            assert windows[pair] == ALWAYS
            continue
        found = windows.get(pair, ())
        assert len(found) == len(scanned), pair
        for (start_s, end_s), (first_seen_s, last_seen_s) in zip(found, scanned, strict=True):
            assert first_seen_s - 0.11 <= start_s <= first_seen_s + 0.01
            assert last_seen_s - 0.01 <= end_s <= last_seen_s + 0.11
        several += len(found)
    assert several >= 6, "these limits test nothing"


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_edges_are_right_to_a_hundredth_of_a_second(limits: Limits) -> None:
    orbits, horizon_s = _orbits(IRIDIUM), 12000.0
    edges = [
        (orbits.motion.row(link.first), orbits.motion.row(link.second), edge_s)
        for link in PlusGrid(limits=limits).links(orbits, horizon_s)
        for window in link.windows
        for edge_s in window
        if 0 < edge_s < horizon_s
    ]
    assert len(edges) > 20
    first, second, at_s = (np.array(column) for column in zip(*edges, strict=True))
    which = np.arange(len(at_s))
    margins_km = []
    for offset_s in (-0.05, 0.0, 0.05):
        position_km = orbits.motion.state_itrs_km(at_s + offset_s)[0]
        margins_km.append(_true_margin_km(position_km[first, which], position_km[second, which], limits))
    rate_km_s = np.abs(margins_km[2] - margins_km[0]) / 0.1
    assert (np.abs(margins_km[1]) / rate_km_s).max() <= 0.01


class _HeadOn:
    """Pairs that fly at each other, each along a line of its own far out, and meet at ``meetings_s``."""

    def __init__(self, meetings_s: Sequence[float], speed_km_s: float) -> None:
        self.names = tuple(f"sat-{lane}-{end}" for lane in range(len(meetings_s)) for end in (0, 1))
        self._meetings_s = np.repeat(np.array(meetings_s), 2)[:, None]
        self._out_km = np.repeat(40_000.0 + 5_000.0 * np.arange(len(meetings_s)), 2)[:, None]
        self._speed_km_s = np.tile([0.5, -0.5], len(meetings_s))[:, None] * speed_km_s

    def row(self, name: str) -> int:
        return self.names.index(name)

    def state_itrs_km(self, at_s: Any) -> tuple[Any, Any]:
        position_km, velocity_km_s = np.zeros((2, len(self.names), len(at_s), 3))
        position_km[..., 0] = self._out_km
        position_km[..., 1] = self._speed_km_s * (at_s - self._meetings_s)
        velocity_km_s[..., 1] = self._speed_km_s
        return position_km, velocity_km_s

    def windows(self, reach_km: float) -> dict[int, tuple[tuple[float, float], ...]]:
        """By lane, within 300 s."""
        orbits = Orbits(self, tuple(zip(self.names[::2], self.names[1::2], strict=True)))
        links = PlusGrid(limits=Limits(max_range_km=reach_km)).links(orbits, 300.0)
        return {int(link.first.split("-")[1]): link.windows for link in links}


@settings(max_examples=300)
@given(
    meetings_s=st.lists(st.floats(-5, 305), min_size=1, max_size=4),
    speed_km_s=st.floats(1, 15),
    reach_km=st.floats(0.1, 400),
)
# One that is met at the end of its span and one at the beginning, beside each other: neither may look at the other.
@example(meetings_s=[289.0, 14.0], speed_km_s=10.0, reach_km=100.0)
@example(meetings_s=[286.0, 11.0], speed_km_s=10.0, reach_km=100.0)
@example(meetings_s=[286.0, 12.0], speed_km_s=10.0, reach_km=100.0)
def test_a_meeting_is_a_window_as_long_as_it_takes(meetings_s: list[float], speed_km_s: float, reach_km: float) -> None:
    windows = _HeadOn(meetings_s, speed_km_s).windows(reach_km)
    for lane, meeting_s in enumerate(meetings_s):
        start_s, end_s = max(0.0, meeting_s - reach_km / speed_km_s), min(300.0, meeting_s + reach_km / speed_km_s)
        if end_s - start_s < 0.009:
            assert lane not in windows
        elif end_s - start_s > 0.011:
            (found,) = windows[lane]
            expected = ALWAYS[0] if (start_s, end_s) == (0.0, 300.0) else (start_s, end_s)
            assert found == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize("deep_km", [0.0005, 0.02, 1.0])
def test_what_happens_between_two_samples_is_found(deep_km: float, iridium: tuple[Orbits, Any, Any]) -> None:
    orbits, at_s, position_km = iridium
    horizon_s = float(at_s[-1])
    for pair in [("sat-5-3", "sat-0-3"), ("sat-5-7", "sat-0-8")]:
        two = Orbits(orbits.motion, (pair[:1], ("sat-2-0",), pair[1:]))
        first_km, second_km = (position_km[orbits.motion.row(name)] for name in pair)
        range_km = np.linalg.norm(first_km - second_km, axis=1)
        nearest = int(range_km.argmin())
        assert 0 < nearest < len(at_s) - 1
        # A window about their meeting, and none if they are allowed to come no nearer than that.
        limits = Limits(-7000.0, max_range_km=float(range_km.min()) + deep_km)
        met = [one for one in PlusGrid(limits=limits).links(two, horizon_s) if {one.first, one.second} == set(pair)]
        assert [len(link.windows) for link in met] == [1]
        ((start_s, end_s),) = met[0].windows
        assert start_s <= at_s[nearest] + 0.05 and at_s[nearest] - 0.05 <= end_s
        expected_s = 0.1 * np.count_nonzero(range_km <= limits.max_range_km)
        assert end_s - start_s == pytest.approx(expected_s, abs=0.21)
        limits = Limits(-7000.0, max_range_km=float(range_km.min()) - deep_km - 0.01)
        met = [one for one in PlusGrid(limits=limits).links(two, horizon_s) if {one.first, one.second} == set(pair)]
        assert met == []


@pytest.mark.parametrize("meeting_s", [0.0, 100.0, 300.0])
def test_what_is_shorter_than_edges_are_sharp_is_no_window(meeting_s: float) -> None:
    assert _HeadOn([meeting_s], 10.0).windows(0.04) == {}  # up for 8 ms at most
    assert len(_HeadOn([meeting_s], 10.0).windows(0.12)) == 1  # 12 ms or more


class _Eclipsed:
    """Two that fly side by side, 80,000 km apart; at ``passing_s`` the Earth's centre is halfway between them."""

    names = ("one", "other")

    def __init__(self, passing_s: float) -> None:
        self._passing_s = passing_s

    def row(self, name: str) -> int:
        return self.names.index(name)

    def state_itrs_km(self, at_s: Any) -> tuple[Any, Any]:
        position_km, velocity_km_s = np.zeros((2, 2, len(at_s), 3))
        position_km[..., 0] = [[-40_000.0], [40_000.0]]
        position_km[..., 1] = 10.0 * (at_s - self._passing_s)
        velocity_km_s[..., 1] = 10.0
        return position_km, velocity_km_s


@pytest.mark.parametrize("passing_s", [95.0, 119.0, 131.3])
@pytest.mark.parametrize("radius_km", [0.1, 2.0, 45.0, 120.0])
def test_a_small_earth_passes_between_two(passing_s: float, radius_km: float) -> None:
    # A sphere of that radius stands in the way for its diameter at 10 km/s. A choice that falls into that time gives no
    # link until the next one, 60 s later.
    topology = NearestVisible(limits=Limits(radius_km - 6371.0))
    (link,) = topology.links(Orbits(_Eclipsed(passing_s), (("one",), ("other",))), 300.0)
    from_s, to_s = passing_s - radius_km / 10, passing_s + radius_km / 10
    if from_s < 120.0 < to_s:
        to_s = 180.0
    assert np.array(link.windows) == pytest.approx(np.array([(0.0, from_s), (to_s, 300.0)]), abs=0.001)


@pytest.mark.parametrize("deep_km", [0.0005, 0.02, 1.0])
def test_a_short_blockage_is_cut_out(deep_km: float, iridium: tuple[Orbits, Any, Any]) -> None:
    orbits, at_s, position_km = iridium
    pair = ("sat-1-0", "sat-2-0")
    first_km, second_km = (position_km[orbits.motion.row(name)] for name in pair)
    altitude_km = _true_margin_km(first_km, second_km, Limits(0.0))
    inside = slice(1, -1)
    lowest = 1 + int(altitude_km[inside].argmin())
    assert 10 < lowest < len(at_s) - 10
    two = Orbits(orbits.motion, (pair[:1], pair[1:]))
    (link,) = PlusGrid(limits=Limits(float(altitude_km[lowest]) + deep_km)).links(two, float(at_s[-1]))
    (from_start, to_end) = link.windows
    assert (from_start[0], to_end[1]) == (0.0, at_s[-1])
    assert from_start[1] < at_s[lowest] + 0.05 and at_s[lowest] - 0.05 < to_end[0]
    expected_s = 0.1 * np.count_nonzero(altitude_km < altitude_km[lowest] + deep_km)
    assert to_end[0] - from_start[1] == pytest.approx(expected_s, abs=0.21)
    (link,) = PlusGrid(limits=Limits(float(altitude_km[lowest]) - 0.01)).links(two, float(at_s[-1]))
    assert link.windows == ALWAYS


def test_windows_do_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    orbits, limits = _orbits(IRIDIUM), Limits(max_range_km=2500.0)
    topologies: tuple[Topology, ...] = (PlusGrid(limits=limits), NearestVisible(3, limits=limits))
    whole = [one.links(orbits, 3000.0) for one in topologies]
    altitudes_km = lowest_altitudes_km(orbits.motion, PlusGrid().pairs(orbits), 3000.0)
    monkeypatch.setattr("testbed.orbit.sight.BLOCK_SAMPLES", 250)
    assert [one.links(orbits, 3000.0) for one in topologies] == whole
    assert lowest_altitudes_km(orbits.motion, PlusGrid().pairs(orbits), 3000.0) == altitudes_km


# Nearest in view.


def _chosen_by_sorting(position_km: Any, most: int, share: float, held: set[Any], limits: Limits) -> set[Any]:
    """All pairs in view from the shortest on: the definition, as plainly as it can be put."""
    in_view = _true_margin_km(position_km[:, None], position_km[None, :], limits) >= 0
    wanted = []
    for first, second in np.argwhere(np.triu(in_view, 1)).tolist():
        range_m = 1000 * math.dist(position_km[first], position_km[second])
        wanted.append((round(range_m * (1 - share if (first, second) in held else 1)), first, second))
    links: set[Any] = set()
    degree: Counter[int] = Counter()
    for _, first, second in sorted(wanted):
        if degree[first] < most and degree[second] < most:
            links.add((first, second))
            degree.update((first, second))
    return links


@pytest.mark.parametrize(
    ("code", "most", "share", "limits"),
    [
        (IRIDIUM, 4, 0.1, Limits()),
        (IRIDIUM, 1, 0.1, Limits()),
        (IRIDIUM, 3, 0.0, Limits(max_range_km=3000.0)),
        ("D:550:53:40/5/1", 4, 0.3, Limits()),  # few see each other
        ("D:705:98.2:8/1/0+D:20180:55:24/6/1", 2, 0.1, Limits()),  # two heights: the nearest of one has nearer ones
        ("D:1200:55:5/5/2", 7, 0.1, Limits()),  # more links than satellites
    ],
)
def test_the_choice_is_that_of_plain_sorting(code: str, most: int, share: float, limits: Limits) -> None:
    orbits = _orbits(code)
    names, duration_s = orbits.motion.names, 2430.0
    links = NearestVisible(most, hysteresis=share, limits=limits).links(orbits, duration_s)
    grid_s = np.arange(0, duration_s, 60.0)
    position_km = orbits.motion.state_itrs_km(grid_s)[0]
    held: set[Any] = set()
    for column, now_s in enumerate(grid_s.tolist()):
        held = _chosen_by_sorting(position_km[:, column], most, share, held, limits)
        expected = {(names[first], names[second]) for first, second in held}
        up = {(one.first, one.second) for one in links if any(start <= now_s < end for start, end in one.windows)}
        assert up == expected, now_s


def test_nobody_ever_has_more_links_than_allowed_or_looks_through_the_earth(iridium: tuple[Orbits, Any, Any]) -> None:
    orbits, at_s, position_km = iridium
    limits = Limits(min_altitude_km=300.0)
    links = NearestVisible(3, limits=limits).links(orbits, float(at_s[-1]))
    most = 0
    for index in np.random.default_rng(1).integers(0, len(at_s) - 1, 300):
        now_s = at_s[index]
        up = [link for link in links if any(start <= now_s < end for start, end in link.windows)]
        degrees = Counter(name for link in up for name in (link.first, link.second))
        most = max(most, *degrees.values())
        for link in up:
            first_km, second_km = (position_km[orbits.motion.row(name), index] for name in (link.first, link.second))
            # A hundredth of a second at the speed of two orbits is 150 m.
            assert _true_margin_km(first_km, second_km, limits) >= -0.2
    assert most == 3
    inner = {edge for link in links for window in link.windows for edge in window if edge % 60 and edge < at_s[-1]}
    assert inner, "no link was cut between two choices"
    assert max(end for link in links for _, end in link.windows if math.isfinite(end)) <= at_s[-1]


def test_a_standing_link_gives_way_only_to_a_clearly_nearer_one() -> None:
    orbits = _orbits("D:550:53:300/15/4")
    windows = {
        share: sum(len(link.windows) for link in NearestVisible(2, hysteresis=share).links(orbits, 3600.0))
        for share in (0.0, 0.1, 0.5)
    }
    assert windows[0.5] < windows[0.1] < windows[0.0]


def test_the_nearest_two_of_a_plane_are_its_ring() -> None:
    orbits = _orbits("D:705:98.2:20/1/0")
    links = NearestVisible(2).links(orbits, 3630.0)
    assert {link.windows for link in links} == {ALWAYS}
    assert nx.utils.graphs_equal(_graph(links), _graph(Ring().links(orbits, 3630.0)))


# Lists.


def test_an_explicit_list_is_taken_as_it_stands() -> None:
    pairs = (("sat-0-0", "sat-1-0"), ("sat-0-1", "sat-0-0"))
    links = Explicit(pairs).links(_orbits(IRIDIUM), 6000.0)
    assert links == tuple(IslLink(*pair, ALWAYS) for pair in pairs)


@pytest.mark.parametrize(
    ("pairs", "message", "field", "allowed"),
    [
        ((("sat-0-0", "sat-6-0"),), "no satellite is called sat-6-0", "isl.pairs[0]", r"sat-.*66 names"),
        ((("sat-0-0", "sat-1-0"), ("sat-0-0", "sat-0-0")), "itself", "isl.pairs[1]", r"^sat-0-0 and another.*65 names"),
        ((("sat-0-0", "sat-1-0"), ("sat-1-0", "sat-0-0")), "twice", "isl.pairs[1]", r"isl\.pairs\[0\]"),
        ((("sat-0-0", "sat-0-5"),), "looks through the Earth", "isl.pairs", "80 km or more: link satellites"),
    ],
)
def test_a_list_that_cannot_be_is_refused(pairs: Any, message: str, field: str, allowed: str) -> None:
    with pytest.raises(ScenarioError, match=message) as refusal:
        Explicit(pairs).links(_orbits(IRIDIUM), 6000.0)
    assert refusal.value.field == field
    assert refusal.value.allowed is not None
    assert re.search(allowed, refusal.value.allowed)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ScenarioError) as refusal:
        Explicit((("sat-3-11", "sat-0-0"),)).links(_orbits(IRIDIUM), 6000.0)
    assert str(refusal.value.allowed).startswith("sat-3-1,")


# All of them.


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("counts", ["1/1/0", "2/1/0", "5/1/0", "2/2/1", "4/2/1", "7/7/3", "10/2/1", "14/7/2", "9/3/2"])
def test_small_constellations_work_everywhere(name: str, counts: str) -> None:
    # So high that all but the very opposite ones see each other.
    orbits = _orbits(f"D:20180:55:{counts}")
    names = orbits.motion.names
    options = IslOptions(ANYWHERE, pairs=tuple(zip(names, names[1:], strict=False)), neighbours=2)
    links = open_topology(name, options).links(orbits, 1000.0)
    assert set(_graph(links)) <= set(names)
    if len(names) > 1 and (name != "ring" or len(orbits.planes[0]) > 1):
        assert links
    for link in links:
        assert link.windows == ALWAYS or all(0 <= start_s < end_s <= 1000 for start_s, end_s in link.windows)
        assert list(link.windows) == sorted(link.windows)


def test_a_lone_satellite_has_nothing_to_see() -> None:
    lone = _orbits("D:705:98.2:1/1/0")
    assert [open_topology(name, IslOptions()).links(lone, 6000.0) for name in TOPOLOGIES] == [()] * len(TOPOLOGIES)


def test_a_topology_that_does_not_exist() -> None:
    with pytest.raises(ScenarioError, match="no such topology") as refusal:
        open_topology("mesh", IslOptions())
    assert refusal.value.allowed == "ring, plus-grid, nearest-visible, explicit"
