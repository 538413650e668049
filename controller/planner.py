"""From a scenario to a mission plan: sky, network, capacity, and what the strategy predicts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from controller.flow.chunks import ChunkPlanner
from testbed import registry
from testbed.errors import ScenarioError
from testbed.link.capacity import check_capacity, concurrent_rate_bps
from testbed.link.network import Network, compile_network
from testbed.mission import MissionPlan
from testbed.orbit.sky import Sky, open_sky
from testbed.registry import DEFAULT_SCHEDULER
from testbed.scenario import Scenario
from testbed.strategy.base import FlowPlanner, Strategy
from testbed.strategy.sharing import SHARINGS


def make_plan(
    scenario: Scenario,
    strategy: str = "collaborative",
    scheduler: str = DEFAULT_SCHEDULER,
    sky: Sky | None = None,
) -> MissionPlan:
    """Everything about a run that is known before it; ScenarioError when the scenario cannot be run.

    ``sky`` is the scenario's own where the caller has opened it already.
    """
    chosen, flows = registry.load("strategies", strategy), ChunkPlanner(registry.load("schedulers", scheduler))
    chosen.check(scenario)
    sky = sky or open_sky(scenario)
    planes = sky.orbits.planes
    if len(planes) > 1:
        raise ScenarioError(
            "heads are averaged inside one plane so far",
            where=scenario.source,
            field="constellation",
            found=f"{scenario.constellation}: {len(planes)} planes",
            allowed="a constellation of one plane, such as D:705:98.2:8/1/0",
        )
    network = compile_network(scenario, sky)
    _check_rings(scenario, planes, network)
    check_capacity(network.link_plans, scenario.ground.name, scenario.rack.capacity_bps)
    peak_bps, peak_at_s, _ = concurrent_rate_bps(network.link_plans, scenario.ground.name)
    plan = MissionPlan(
        scenario=scenario,
        rings=planes,
        stations=tuple(station.slug for station in scenario.stations),
        contacts=network.contacts,
        link_plans=dict(network.link_plans),
        peak_rate_bps=peak_bps,
        peak_at_s=peak_at_s,
        strategy=strategy,
    )
    prediction = _predict(plan, chosen, flows) | {"intra_orbit": _sharings(plan, chosen, flows)}
    return replace(plan, prediction=prediction)


def _check_rings(scenario: Scenario, planes: tuple[tuple[str, ...], ...], network: Network) -> None:
    """Training shares embeddings and weights around each plane's ring, which must always be whole."""
    for plane in planes:
        for first, second in zip(plane, (*plane[1:], plane[0]), strict=True):
            links = network.link_plans[first]
            if first != second and (second not in links.links or links.windows(second) != ((0.0, math.inf),)):
                raise ScenarioError(
                    "training needs each plane's ring, at all times",
                    where=scenario.source,
                    field="isl",
                    found=f"no lasting link between {first} and {second} (topology {scenario.isl.topology})",
                    allowed="topology ring, or one that has all its links",
                )


def _predict(plan: MissionPlan, strategy: Strategy, flows: FlowPlanner) -> dict[str, Any]:
    """Every round in turn, each starting when the one before is predicted to end."""
    now_s = 0.0
    rounds = []
    for round in range(1, plan.scenario.learning.rounds + 1):
        forecast = strategy.forecast(plan, flows, round, now_s)
        rounds.append(forecast.to_dict())
        now_s = forecast.end_s
    return {"mission_time_s": now_s, "rounds": rounds}


def _sharings(plan: MissionPlan, strategy: Strategy, flows: FlowPlanner) -> dict[str, dict[str, float]]:
    """What each way of getting cut tensors to the contacts takes: bytes between satellites, and mission time."""
    found = {}
    for name in SHARINGS:
        scenario = plan.scenario.model_copy(update={"intra_orbit": name})
        predicted = _predict(replace(plan, scenario=scenario), strategy, flows)
        found[name] = {
            "isl_bytes": sum(round["shared_bytes"] for round in predicted["rounds"]),
            "mission_time_s": predicted["mission_time_s"],
        }
    return found if any(one["isl_bytes"] for one in found.values()) else {}
