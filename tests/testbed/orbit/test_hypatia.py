"""Round-trip times and contacts against Hypatia's golden files for Kuiper's 630 km shell (Kassing et al., IMC 2020).

34 planes of 34 satellites, +grid; a station reaches every satellite within 1,260 km; 2,000 instants 100 ms apart.
"""

from __future__ import annotations

import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from skyfield.api import load

from testbed.link.budget import delay_ms
from testbed.orbit.constellation import Constellation, Satellite
from testbed.orbit.propagate import Propagator, geodetic_itrs_km

EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)
PLANES = PER_PLANE = 34
REACH_KM = 1260.0
AT_S = np.arange(2000, dtype=np.float64) / 10
PLACES_DEG = {1173: (14.6042, 120.9822), 1241: (38.913811, 121.602322), 1229: (59.929858, 30.326228)}
PAIRS = [(1173, 1241), (1173, 1229)]


def _kuiper() -> Constellation:
    # Elements as Hypatia writes them into two-line elements: angles to 4 decimals, 14.80 revolutions a day.
    satellites = tuple(
        Satellite(
            name=f"sat-{plane}-{index}",
            plane=plane,
            index=index,
            mean_motion_rad_s=14.80 * 2 * math.pi / 86400,
            inclination_deg=51.9,
            node_deg=round(360 * plane / PLANES, 4),
            mean_anomaly_deg=round(360 * index / PER_PLANE + (plane % 2) * 360 / (2 * PER_PLANE), 4),
            eccentricity=1e-7,
        )
        for plane in range(PLANES)
        for index in range(PER_PLANE)
    )
    return Constellation("", satellites)


@pytest.fixture(scope="module")
def satellites_km() -> Any:
    return Propagator(_kuiper(), EPOCH).position_itrs_km(AT_S)


@pytest.fixture(scope="module")
def places_km() -> dict[int, Any]:
    # Hypatia takes UT1 for UTC, so its Earth lags ours by their difference: turn its stations by that angle.
    timescale = load.timescale(builtin=True)
    lag_deg = float(timescale.from_datetime(EPOCH).dut1) * 360 / 86164.1
    return {
        node: geodetic_itrs_km(latitude_deg, longitude_deg - lag_deg, 0.0)[0]
        for node, (latitude_deg, longitude_deg) in PLACES_DEG.items()
    }


def _golden(shared: Path, kind: str, pair: tuple[int, int]) -> list[tuple[float, str]]:
    text = (shared / f"oracles/hypatia_kuiper_630/networkx_{kind}_{pair[0]}_to_{pair[1]}.txt").read_text()
    rows = [line.split(",") for line in text.split()]
    return [(int(nanoseconds) / 1e9, value) for nanoseconds, value in rows]


def _path_at(paths: list[tuple[float, str]], at_s: float) -> str:
    return [path for start_s, path in paths if start_s <= at_s + 1e-6][-1]


@pytest.mark.parametrize("pair", PAIRS)
def test_round_trips_are_hypatias_to_a_microsecond(
    shared: Path, pair: tuple[int, int], satellites_km: Any, places_km: dict[int, Any]
) -> None:
    paths, round_trips = _golden(shared, "path", pair), _golden(shared, "rtt", pair)
    assert len(round_trips) == len(AT_S)
    compared = 0
    for step, (at_s, round_trip_ns) in enumerate(round_trips):
        path = _path_at(paths, at_s)
        if path == "Unreachable":
            continue
        nodes = [int(node) for node in path.split("-")]
        points = np.array([places_km[node] if node in places_km else satellites_km[node, step] for node in nodes])
        length_km = np.linalg.norm(np.diff(points, axis=0), axis=1)
        ours_ns = 2 * float(delay_ms(length_km).sum()) * 1e6
        assert ours_ns == pytest.approx(float(round_trip_ns), abs=1000), f"{path} at {at_s} s"
        compared += 1
    assert compared > 1800


@pytest.mark.parametrize("pair", PAIRS)
def test_shortest_paths_are_hypatias(
    shared: Path, pair: tuple[int, int], satellites_km: Any, places_km: dict[int, Any]
) -> None:
    paths = _golden(shared, "path", pair)
    changes_s = [start_s for start_s, _ in paths[1:]]
    neighbours = [
        (plane * PER_PLANE + index, other)
        for plane in range(PLANES)
        for index in range(PER_PLANE)
        for other in (plane * PER_PLANE + (index + 1) % PER_PLANE, (plane + 1) % PLANES * PER_PLANE + index)
    ]
    # Every 20 s, and in the middle between any two changes.
    bounds_s = [0.0, *changes_s, 200.0]
    middles_s = [(earlier + later) / 2 for earlier, later in zip(bounds_s, bounds_s[1:], strict=False)]
    for at_s in sorted({*range(0, 200, 20), *middles_s}):
        if min((abs(at_s - change_s) for change_s in changes_s), default=1.0) <= 0.15:
            continue  # at an edge a satellite may be metres within reach or beyond it
        step = round(at_s * 10)
        graph = nx.Graph()
        graph.add_nodes_from(pair)
        for one, other in neighbours:
            graph.add_edge(one, other, km=float(np.linalg.norm(satellites_km[one, step] - satellites_km[other, step])))
        for node in pair:
            range_km = np.linalg.norm(satellites_km[:, step] - places_km[node], axis=1)
            graph.add_edges_from((node, int(row), {"km": range_km[row]}) for row in np.nonzero(range_km <= REACH_KM)[0])
        # A station is no relay: with only the two ends in the graph none can be.
        expected = _path_at(paths, AT_S[step])
        if nx.has_path(graph, *pair):
            assert "-".join(map(str, nx.dijkstra_path(graph, *pair, weight="km"))) == expected
        else:
            assert expected == "Unreachable"


def test_st_petersburg_is_out_of_reach_when_hypatia_says_so(
    shared: Path, satellites_km: Any, places_km: dict[int, Any]
) -> None:
    round_trips = _golden(shared, "rtt", (1173, 1229))
    unreachable = np.array([float(value) == 0 or value == "Unreachable" for _, value in round_trips])
    nearest_km = np.linalg.norm(satellites_km - places_km[1229], axis=2).min(axis=0)
    differs = np.nonzero((nearest_km > REACH_KM) != unreachable)[0]
    edges = np.nonzero(np.diff(unreachable.astype(int)))[0]
    assert unreachable.sum() == pytest.approx(98, abs=2)  # 155.4 to 165.2 s
    assert all(np.abs(edges - step).min() <= 1 for step in differs)
