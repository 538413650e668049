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
from testbed.link.budget import ConstantBudget, ElevationTable, LinkBudget
from testbed.link.compile import EDGE_S, Budgets, Tolerance, compile_link_plans, hold, usable_contacts
from testbed.link.plan import LinkPlan, LinkState
from testbed.orbit.constellation import Constellation, parse_constellation
from testbed.orbit.contacts import Contact, find_contacts
from testbed.orbit.motion import Orbits
from testbed.orbit.propagate import Propagator
from testbed.orbit.stations import station
from testbed.orbit.topology import Ring

EPOCH = datetime(2026, 6, 1, 2, 24, tzinfo=timezone.utc)
STATIONS = tuple(station(name) for name in ("Svalbard", "Sioux Falls", "Alice Springs", "Neustrelitz"))
DURATION_S = 10800.0
LIGHT_KM_MS = 299.792458
RATE_TOLERANCE = 0.01


class Mission:
    """A compiled mission and what it was compiled from."""

    def __init__(
        self,
        code: str,
        tolerance_ms: float = 0.1,
        up: LinkBudget | None = None,
        traces: dict[tuple[str, str], tuple[LinkState, ...]] | None = None,
    ) -> None:
        self.constellation: Constellation = parse_constellation(code)
        self.propagator = Propagator(self.constellation, EPOCH)
        planes = tuple(tuple(one.name for one in plane) for plane in self.constellation.planes)
        self.links = Ring().links(Orbits(self.propagator, planes), DURATION_S)
        self.edges = [(link.first, link.second) for link in self.links]
        self.contacts: tuple[Contact, ...] = find_contacts(self.propagator, STATIONS, DURATION_S)
        self.plans: dict[str, LinkPlan] = compile_link_plans(
            motion=self.propagator,
            stations=STATIONS,
            contacts=self.contacts,
            isl_links=self.links,
            budgets=Budgets(
                isl=ConstantBudget(3.5e6),
                up={one.slug: up or ConstantBudget(8e6) for one in STATIONS},
                down={one.slug: ConstantBudget(3e6) for one in STATIONS},
                backhaul=ConstantBudget(11e6),
            ),
            ground_name="ground",
            backhaul_delay_ms=20.0,
            tolerance=Tolerance(tolerance_ms, RATE_TOLERANCE),
            traces=traces,
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


def _truth(
    true_ms: Callable[[Any], Any], rate_bps: Callable[[Any], Any] = lambda at_s: np.full(np.shape(at_s), 8e6)
) -> Callable[[Any], tuple[Any, Any, Any]]:
    return lambda at_s: (true_ms(at_s), rate_bps(at_s), np.zeros(np.shape(at_s)))


@given(
    coefficients=st.lists(st.floats(-3, 3), min_size=1, max_size=4),
    tolerance_ms=st.floats(0.02, 2.0),
    length_s=st.floats(1.0, 2000.0),
)
def test_held_pieces_are_right_and_all_but_the_fewest(
    coefficients: list[float], tolerance_ms: float, length_s: float
) -> None:
    true_ms = _curve(coefficients)
    pieces = hold(_truth(true_ms), 5.0, 5.0 + length_s, Tolerance(tolerance_ms, RATE_TOLERANCE))
    assert pieces[0].start_s == 5.0
    starts_s = np.array([piece.start_s for piece in pieces])
    assert (np.diff(starts_s) > 0).all()

    at_s = np.linspace(5.0, 5.0 + length_s, 20000)
    held_ms = np.array([piece.delay_ms for piece in pieces])[np.searchsorted(starts_s, at_s, side="right") - 1]
    sampled_ms = true_ms(at_s)
    assert np.abs(held_ms - sampled_ms).max() <= tolerance_ms

    # Greedy on dense samples gives a lower bound on the pieces that any plan needs. Holding back 2 % of the tolerance
    # for what lies between samples can cost that share, and a piece or two where extremes just miss each other.
    fewest, low_ms, high_ms = 1, sampled_ms[0], sampled_ms[0]
    for value_ms in sampled_ms:
        low_ms, high_ms = min(low_ms, value_ms), max(high_ms, value_ms)
        if high_ms - low_ms > 2 * tolerance_ms:
            fewest, low_ms, high_ms = fewest + 1, value_ms, value_ms
    assert len(pieces) <= fewest * 1.03 + 2


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


# -- rates that vary -------------------------------------------------------------------------------------------------


@given(
    steps_s=st.lists(st.floats(1.0, 999.0), max_size=5, unique=True),
    slope=st.floats(-0.9, 5.0),
    tolerance=st.floats(0.005, 0.1),
    wave_ms=st.floats(0.0, 3.0),
)
def test_rates_never_leave_the_tolerance_and_steps_are_edges(
    steps_s: list[float], slope: float, tolerance: float, wave_ms: float
) -> None:
    """A rate that drifts (a link budget after Shannon) and steps (a change of coding), each down to nothing or up."""
    levels = np.array([8.0, 2.0, 0.0, 5.0, 1.0, 7.0])[: len(steps_s) + 1] * 1e6

    def rate_bps(at_s: Any) -> Any:
        return levels[np.searchsorted(np.sort(steps_s), at_s, side="right")] * (1 + slope * np.asarray(at_s) / 1000)

    pieces = hold(_truth(_curve([wave_ms]), rate_bps), 0.0, 1000.0, Tolerance(0.1, tolerance))
    starts_s = np.array([piece.start_s for piece in pieces])
    assert (np.diff(starts_s) > 0).all()
    at_s = np.linspace(0.0, 1000.0, 20000)
    near_a_step = np.zeros(at_s.shape, dtype=bool)
    for step_s in steps_s:
        near_a_step |= (at_s >= step_s - EDGE_S) & (at_s <= step_s + EDGE_S)
    held = np.searchsorted(starts_s, at_s, side="right") - 1
    held_bps, true_bps = np.array([piece.rate_bps for piece in pieces])[held], rate_bps(at_s)
    off = np.abs(held_bps - true_bps) > tolerance * true_bps * (1 + 1e-9)
    assert not (off & ~near_a_step).any()
    held_ms, true_ms = np.array([piece.delay_ms for piece in pieces])[held], _curve([wave_ms])(at_s)
    assert np.abs(held_ms - true_ms).max() <= 0.1


def test_a_table_by_elevation_shortens_contacts_and_steps_where_skyfield_says() -> None:
    table = ElevationTable(((15.0, 2e6), (40.0, 8e6)))
    mission = Mission("D:705:98.2:8/1/0:16.5", up=table)
    usable = usable_contacts(mission.contacts, mission.plans, mission.propagator.names, DURATION_S)
    high = [one for one in mission.contacts if one.max_elevation_deg > 15.0]
    assert [(one.satellite, one.station) for one in usable] == [(one.satellite, one.station) for one in high]
    assert sum(one.max_elevation_deg > 40.0 for one in usable) >= 2
    timescale = load.timescale(builtin=True)
    epoch = timescale.from_datetime(EPOCH)
    compared = 0
    for contact in usable:
        place = station(contact.station)
        record = mission.propagator.satrecs[mission.propagator.row(contact.satellite)]
        sight = EarthSatellite.from_satrec(record, timescale) - wgs84.latlon(
            place.latitude_deg, place.longitude_deg, place.altitude_m
        )
        states = mission.plans[contact.satellite].links[contact.station]
        for earlier, later in zip(states, states[1:], strict=False):
            if not contact.start_s <= later.start_s <= contact.end_s or earlier.rate_bps == later.rate_bps:
                continue
            if {earlier.rate_bps, later.rate_bps} == {0.0, 2e6} and 0 < later.start_s < DURATION_S:
                step_deg = 15.0
            elif {earlier.rate_bps, later.rate_bps} == {2e6, 8e6}:
                step_deg = 40.0
            else:
                continue
            around_s = later.start_s + np.array([-0.01, 0.01])
            time = timescale.tt_jd(np.full(2, epoch.whole), epoch.tt_fraction + around_s / 86400)
            altitude_deg = sight.at(time).altaz()[0].degrees
            assert min(altitude_deg) <= step_deg <= max(altitude_deg)
            compared += 1
    assert compared >= 10


def test_usable_contacts_are_the_contacts_where_nothing_is_in_the_way(demo: Mission) -> None:
    assert usable_contacts(demo.contacts, demo.plans, demo.propagator.names, DURATION_S) == demo.contacts


def test_a_trace_stands_in_place_of_the_model(demo: Mission) -> None:
    states = (
        LinkState(0.0, 30.0, 0.0, 0.0, 64),
        LinkState(100.0, 31.0, 5e6, 0.01, 70),
        LinkState(250.0, 31.0, 0.0, 0.0, 64),
    )
    traces: dict[tuple[str, str], tuple[LinkState, ...]] = {
        ("sat-0-3", "svalbard"): states,
        ("svalbard", "sat-0-3"): states,
    }
    mission = Mission("D:705:98.2:8/1/0:16.5", traces=traces)
    assert mission.plans["sat-0-3"].links["svalbard"] == states
    usable = usable_contacts(mission.contacts, mission.plans, mission.propagator.names, DURATION_S)
    mine = [(one.start_s, one.end_s) for one in usable if (one.satellite, one.station) == ("sat-0-3", "svalbard")]
    assert mine == [(100.0, 250.0)]
    others = [one for one in usable if (one.satellite, one.station) != ("sat-0-3", "svalbard")]
    assert others == [one for one in demo.contacts if (one.satellite, one.station) != ("sat-0-3", "svalbard")]


# -- what a link carries ---------------------------------------------------------------------------------------------


@given(
    rates=st.lists(st.sampled_from([0.0, 1e6, 8e6, 2.5e6]), min_size=1, max_size=8),
    start_s=st.floats(0.0, 90.0),
    size_bytes=st.floats(1.0, 5e7),
)
def test_when_bytes_are_through_is_when_the_integral_of_the_rate_says(
    rates: list[float], start_s: float, size_bytes: float
) -> None:
    states = tuple(LinkState(10.0 * index, 5.0, rate_bps, 0.0, 64) for index, rate_bps in enumerate(rates))
    plan = LinkPlan("a", {"b": states})
    end_s = plan.finish_s("b", start_s, size_bytes)
    if math.isinf(end_s):
        assert rates[-1] == 0.0
        assert plan.carried_bytes("b", start_s, 1e6) < size_bytes
        return
    assert end_s > start_s
    assert plan.carried_bytes("b", start_s, end_s) == pytest.approx(size_bytes, rel=1e-9, abs=1e-3)
    # No sooner: the link carries in the very last moment.
    assert plan.carried_bytes("b", start_s, end_s - 1e-6 * (end_s - start_s)) < size_bytes
    # The integral, by a sum over small steps.
    at_s = np.linspace(start_s, end_s, 4001)
    middle_s = (at_s[1:] + at_s[:-1]) / 2
    summed = sum(plan.state("b", instant_s).rate_bps / 8 for instant_s in middle_s) * (end_s - start_s) / 4000
    assert summed == pytest.approx(size_bytes, rel=0.01, abs=8e6 / 8 * (end_s - start_s) / 4000 * 9)


@given(closest_s=st.floats(100.0, 900.0), length_s=st.floats(0.05, 20.0))
def test_a_coding_that_only_the_closest_approach_allows_is_not_missed(closest_s: float, length_s: float) -> None:
    def delay_ms(at_s: Any) -> Any:
        return np.sqrt(9.0 + ((np.asarray(at_s) - closest_s) * 0.025) ** 2)  # 7.5 km/s past 900 km

    limit_ms = float(delay_ms(closest_s + length_s / 2))

    def rate_bps(at_s: Any) -> Any:
        return np.where(delay_ms(at_s) <= limit_ms, 9e6, 8e6)

    pieces = hold(_truth(delay_ms, rate_bps), 0.0, 1000.0, Tolerance(0.1, RATE_TOLERANCE))
    best = [piece.start_s for piece in pieces if piece.rate_bps == 9e6]
    assert best, "the best coding is in no piece"
    assert min(best) == pytest.approx(closest_s - length_s / 2, abs=2 * EDGE_S)
