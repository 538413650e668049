"""From a scenario to a mission plan: orbit, contacts, link plans, capacity, and what the strategy predicts."""

from __future__ import annotations

from dataclasses import replace

from testbed import registry
from testbed.errors import ScenarioError
from testbed.link.capacity import check_capacity, concurrent_rate_bps
from testbed.link.compile import compile_link_plans
from testbed.mission import MissionPlan
from testbed.orbit.constellation import parse_constellation
from testbed.orbit.contacts import find_contacts
from testbed.orbit.propagate import Propagator
from testbed.orbit.topology import check_line_of_sight, ring_edges
from testbed.scenario import Scenario
from testbed.strategy.base import Scheduler, Strategy


def make_plan(scenario: Scenario, strategy: str = "collaborative", scheduler: str = "earliest-finish") -> MissionPlan:
    """Everything about a run that is known before it; ScenarioError when the scenario cannot be run."""
    chosen, flows = registry.load("strategies", strategy), registry.load("schedulers", scheduler)
    chosen.check(scenario)
    constellation = parse_constellation(scenario.constellation)
    propagator = Propagator(constellation, scenario.epoch)
    if len(constellation.planes) > 1:
        raise ScenarioError(
            "heads are averaged inside one plane so far",
            field="constellation",
            found=f"{scenario.constellation}: {len(constellation.planes)} planes",
            allowed="a constellation of one plane, such as D:705:98.2:8/1/0",
        )
    edges = ring_edges(constellation)
    check_line_of_sight(propagator, edges, duration_s=scenario.duration_s, min_altitude_km=scenario.isl.min_altitude_km)
    contacts = find_contacts(propagator, scenario.stations, scenario.duration_s)
    links = compile_link_plans(
        propagator=propagator,
        constellation=constellation,
        stations=scenario.stations,
        contacts=contacts,
        isl_edges=edges,
        isl_rate_bps=scenario.isl.rate_bps,
        up_rate_bps=scenario.space_ground.up_rate_bps,
        down_rate_bps=scenario.space_ground.down_rate_bps,
        ground_name=scenario.ground.name,
        backhaul_delay_ms=scenario.ground.backhaul_delay_ms,
        backhaul_rate_bps=scenario.ground.backhaul_rate_bps,
        delay_tolerance_ms=scenario.tolerance.delay_ms,
        duration_s=scenario.duration_s,
    )
    check_capacity(links, scenario.ground.name, scenario.rack.capacity_bps)
    peak_bps, peak_at_s, _ = concurrent_rate_bps(links, scenario.ground.name)
    plan = MissionPlan(
        scenario=scenario,
        rings=tuple(tuple(satellite.name for satellite in plane) for plane in constellation.planes),
        stations=tuple(station.slug for station in scenario.stations),
        contacts=contacts,
        link_plans=links,
        peak_rate_bps=peak_bps,
        peak_at_s=peak_at_s,
        strategy=strategy,
    )
    return replace(plan, prediction=_predict(plan, chosen, flows))


def _predict(plan: MissionPlan, strategy: Strategy, scheduler: Scheduler) -> dict[str, object]:
    """Every round in turn, each starting when the one before is predicted to end."""
    now_s = 0.0
    rounds = []
    for round in range(1, plan.scenario.learning.rounds + 1):
        forecast = strategy.forecast(plan, scheduler, round, now_s)
        rounds.append(forecast.to_dict())
        now_s = forecast.end_s
    return {"mission_time_s": now_s, "rounds": rounds}
