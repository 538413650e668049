"""Compiled link plans against the true delay, and against the fewest pieces possible."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skyfield.api import EarthSatellite, load, wgs84

from testbed.errors import ScenarioError
from testbed.link.compile import compile_link_plans, hold
from testbed.link.plan import LinkPlan
from testbed.orbit.constellation import Constellation, parse_constellation
from testbed.orbit.contacts import Contact, find_contacts
from testbed.orbit.propagate import Propagator
from testbed.orbit.stations import station
from testbed.orbit.topology import ring_edges

EPOCH = datetime(2026, 6, 1, 2, 24, tzinfo=timezone.utc)
STATIONS = tuple(station(name) for name in ("Svalbard", "Sioux Falls", "Alice Springs", "Neustrelitz"))
DURATION_S = 10800.0
LIGHT_KM_MS = 299.792458


class Mission:
    """A compiled mission and what it was compiled from."""

    def __init__(self, code: str, tolerance_ms: float = 0.1) -> None:
        self.constellation: Constellation = parse_constellation(code)
        self.propagator = Propagator(self.constellation, EPOCH)
        self.edges = ring_edges(self.constellation)
        self.contacts: tuple[Contact, ...] = find_contacts(self.propagator, STATIONS, DURATION_S)
        self.plans: dict[str, LinkPlan] = compile_link_plans(
            propagator=self.propagator,
            constellation=self.constellation,
            stations=STATIONS,
            contacts=self.contacts,
            isl_edges=self.edges,
            isl_rate_bps=3.5e6,
            up_rate_bps=8e6,
            down_rate_bps=3e6,
            ground_name="ground",
            backhaul_delay_ms=20.0,
            backhaul_rate_bps=11e6,
            delay_tolerance_ms=tolerance_ms,
            duration_s=DURATION_S,
        )


@pytest.fixture(scope="module")
def demo() -> Mission:
    return Mission("D:705:98.2:8/1/0:16.5")


def test_every_node_has_a_plan(demo: Mission) -> None:
    assert set(demo.plans) == {*demo.constellation.names, *(one.slug for one in STATIONS), "ground"}
    assert all(plan.node == name for name, plan in demo.plans.items())


def test_space_ground_links_are_up_exactly_in_contacts(demo: Mission) -> None:
    for satellite in demo.constellation.names:
        for one in STATIONS:
            windows = tuple(
                (contact.start_s, contact.end_s)
                for contact in demo.contacts
                if (contact.satellite, contact.station) == (satellite, one.slug)
            )
            if not windows:
                assert one.slug not in demo.plans[satellite].links
                assert satellite not in demo.plans[one.slug].links
                continue
            assert demo.plans[satellite].windows(one.slug) == windows
            assert demo.plans[one.slug].windows(satellite) == windows
            for start_s, end_s in windows:
                middle_s = (start_s + end_s) / 2
                assert demo.plans[satellite].state(one.slug, middle_s).rate_bps == 8e6
                assert demo.plans[one.slug].state(satellite, middle_s).rate_bps == 3e6
                assert demo.plans[satellite].state(one.slug, end_s).rate_bps == 0


def test_rings_and_backhauls_are_up_both_ways_all_the_time(demo: Mission) -> None:
    always = [(first, second, 3.5e6) for first, second in demo.edges]
    always += [(one.slug, "ground", 11e6) for one in STATIONS]
    for first, second, rate_bps in always:
        for sender, peer in ((first, second), (second, first)):
            assert demo.plans[sender].windows(peer) == ((0.0, math.inf),)
            assert {state.rate_bps for state in demo.plans[sender].links[peer]} == {rate_bps}
    assert {state.delay_ms for state in demo.plans["ground"].links["svalbard"]} == {20.0}


def _skyfield_delay_ms(mission: Mission, satellite: str, slug: str, at_s: Any) -> Any:
    timescale = load.timescale(builtin=True)
    epoch = timescale.from_datetime(EPOCH)
    record = mission.propagator.satrecs[mission.propagator.row(satellite)]
    place = station(slug)
    sight = EarthSatellite.from_satrec(record, timescale) - wgs84.latlon(
        place.latitude_deg, place.longitude_deg, place.altitude_m
    )
    time = timescale.tt_jd(np.full(len(at_s), epoch.whole), epoch.tt_fraction + at_s / 86400)
    return sight.at(time).distance().km / LIGHT_KM_MS


@pytest.mark.parametrize("tolerance_ms", [0.01, 0.1, 1.0])
def test_delay_never_leaves_the_tolerance(tolerance_ms: float) -> None:
    mission = Mission("D:705:98.2:8/1/0:16.5", tolerance_ms)
    worst_ms = 0.0
    for contact in mission.contacts:
        at_s = np.linspace(contact.start_s, contact.end_s, 700, endpoint=False)
        planned_ms = [mission.plans[contact.satellite].state(contact.station, instant_s).delay_ms for instant_s in at_s]
        true_ms = _skyfield_delay_ms(mission, contact.satellite, contact.station, at_s)
        worst_ms = max(worst_ms, float(np.abs(true_ms - planned_ms).max()))
    at_s = np.linspace(0, DURATION_S, 2000)
    position_km = mission.propagator.position_itrs_km(at_s)
    for first, second in mission.edges:
        planned_ms = [mission.plans[first].state(second, instant_s).delay_ms for instant_s in at_s]
        rows = mission.propagator.row(first), mission.propagator.row(second)
        true_ms = np.linalg.norm(position_km[rows[0]] - position_km[rows[1]], axis=1) / LIGHT_KM_MS
        worst_ms = max(worst_ms, float(np.abs(true_ms - planned_ms).max()))
    assert 0.9 * tolerance_ms < worst_ms <= tolerance_ms


def test_a_down_link_keeps_a_delay_it_had_or_will_have(demo: Mission) -> None:
    for plan in demo.plans.values():
        for states in plan.links.values():
            up_delays = {state.delay_ms for state in states if state.up}
            assert all(state.delay_ms in up_delays for state in states)


def _curve(coefficients: list[float]) -> Callable[[Any], Any]:
    def delay_ms(at_s: Any) -> Any:
        phase = np.asarray(at_s) / 600.0
        waves = [size * np.sin((number + 1) * phase + number) for number, size in enumerate(coefficients)]
        return 10.0 + sum(waves)

    return delay_ms


@given(
    coefficients=st.lists(st.floats(-3, 3), min_size=1, max_size=4),
    tolerance_ms=st.floats(0.02, 2.0),
    length_s=st.floats(1.0, 2000.0),
)
def test_held_pieces_are_right_and_all_but_the_fewest(
    coefficients: list[float], tolerance_ms: float, length_s: float
) -> None:
    true_ms = _curve(coefficients)
    pieces = hold(true_ms, 5.0, 5.0 + length_s, tolerance_ms)
    assert pieces[0].start_s == 5.0
    starts_s = np.array([piece.start_s for piece in pieces])
    assert (np.diff(starts_s) > 0).all()

    at_s = np.linspace(5.0, 5.0 + length_s, 20000)
    held_ms = np.array([piece.delay_ms for piece in pieces])[np.searchsorted(starts_s, at_s, side="right") - 1]
    sampled_ms = true_ms(at_s)
    assert np.abs(held_ms - sampled_ms).max() <= tolerance_ms

    # Greedy on dense samples gives a lower bound on the pieces that any plan needs. Holding back 2 % of the tolerance
    # for what lies between samples can cost that share, and one piece more.
    fewest, low_ms, high_ms = 1, sampled_ms[0], sampled_ms[0]
    for value_ms in sampled_ms:
        low_ms, high_ms = min(low_ms, value_ms), max(high_ms, value_ms)
        if high_ms - low_ms > 2 * tolerance_ms:
            fewest, low_ms, high_ms = fewest + 1, value_ms, value_ms
    assert len(pieces) <= fewest * 1.03 + 1


def test_few_pieces_replace_many_ticks(demo: Mission) -> None:
    contact = max(demo.contacts, key=lambda one: one.end_s - one.start_s)
    states = demo.plans[contact.satellite].links[contact.station]
    pieces = sum(contact.start_s <= state.start_s < contact.end_s for state in states)
    assert 10 < pieces < (contact.end_s - contact.start_s) / 5


@pytest.mark.parametrize("code", ["D:705:98.2:1/1/0", "D:705:98.2:24/2/1"])
def test_other_sizes_compile(code: str) -> None:
    mission = Mission(code)
    assert len(mission.plans) == len(mission.constellation.satellites) + len(STATIONS) + 1
    isl = [peer for name in mission.constellation.names for peer in mission.plans[name].links if peer.startswith("sat")]
    assert len(isl) == 2 * len(mission.edges)


def test_compiling_twice_gives_the_same_digests(demo: Mission) -> None:
    again = Mission("D:705:98.2:8/1/0:16.5")
    assert {name: plan.digest() for name, plan in again.plans.items()} == {
        name: plan.digest() for name, plan in demo.plans.items()
    }


def test_a_tolerance_below_the_kernels_grain_is_refused() -> None:
    with pytest.raises(ScenarioError, match="finer than a kernel can play"):
        Mission("D:705:98.2:8/1/0", tolerance_ms=1e-4)
