"""From a scenario to a mission plan: sky, network, capacity, and what the strategy predicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from controller.flow.chunks import ChunkPlanner
from controller.ground_track import least_distances_km
from testbed import registry
from testbed.errors import LinkError, ScenarioError
from testbed.learning import placement
from testbed.link.capacity import check_capacity, concurrent_rate_bps
from testbed.link.network import compile_network
from testbed.mission import MissionPlan
from testbed.orbit.sky import Sky, open_sky
from testbed.registry import DEFAULT_SCHEDULER
from testbed.scenario import Scenario
from testbed.strategy import sizes
from testbed.strategy.base import FlowPlanner, Strategy
from testbed.strategy.sharing import SHARINGS
from testbed.transfer.compression import open_compression


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
    open_compression(scenario.learning.compression)  # missing here, it is missing where nodes run
    sky = sky or open_sky(scenario)
    planes = sky.orbits.planes
    network = compile_network(scenario, sky)
    check_capacity(network.link_plans, scenario.ground.name, scenario.rack.capacity_bps)
    peak_bps, peak_at_s, _ = concurrent_rate_bps(network.link_plans, scenario.ground.name)
    plan = MissionPlan(
        scenario=_overflown(scenario, sky),
        rings=planes,
        stations=tuple(station.slug for station in scenario.stations),
        contacts=network.contacts,
        link_plans=dict(network.link_plans),
        peak_rate_bps=peak_bps,
        peak_at_s=peak_at_s,
        strategy=strategy,
    )
    _check_names(plan)
    _check_rings(plan)
    _check_projection(scenario)
    chosen.check_plan(plan)
    prediction = predict(plan, chosen, flows) | {"intra_orbit": _sharings(plan, chosen, flows)}
    return replace(plan, prediction=prediction)


def _overflown(scenario: Scenario, sky: Sky) -> Scenario:
    """The scenario with who flies over which sample, where that is how samples are shared out."""
    if scenario.learning.partition != "ground-track":
        return scenario
    places_deg = placement.training_places(scenario)
    names = sorted(sky.orbits.motion.names)
    distances_km = least_distances_km(sky.orbits.motion, names, places_deg, scenario.duration_s)
    return scenario.model_copy(update={"overflown": placement.overflown(scenario, names, distances_km)})


def _check_names(plan: MissionPlan) -> None:
    """What the scenario says of single nodes is said of nodes that there are."""
    told = {
        "failures": [(entry.node, (*plan.satellites, *plan.stations)) for entry in plan.scenario.failures],
        "transfers": [(entry.node or plan.satellites[0], plan.satellites) for entry in plan.scenario.transfers],
    }
    for key, entries in told.items():
        for index, (node, known) in enumerate(entries):
            if node not in known:
                raise ScenarioError(
                    "no such node",
                    where=plan.scenario.source,
                    field=f"{key}[{index}].node",
                    found=node,
                    allowed=", ".join(known),
                )


def _check_projection(scenario: Scenario) -> None:
    """Tokens cannot be projected to more dimensions than they have."""
    dimensions, width = scenario.learning.projection_dimensions, sizes.token_width(scenario)
    if dimensions is not None and dimensions > width:
        raise ScenarioError(
            "more dimensions than a token has",
            where=scenario.source,
            field="learning.projection_dimensions",
            found=dimensions,
            allowed=f"at most {width}",
        )


def _check_rings(plan: MissionPlan) -> None:
    """Training shares embeddings and weights in each plane, which must be a ring or a line every now and then."""
    try:
        plan.assembled_s(0.0)
    except LinkError as error:
        raise ScenarioError(
            "training needs every plane in one piece: a ring, or a line",
            where=plan.scenario.source,
            field="isl",
            found=f"{error} (topology {plan.scenario.isl.topology})",
            allowed="topology ring, or one that lacks at most one of its links at a time",
        ) from None


def predict(plan: MissionPlan, strategy: Strategy, flows: FlowPlanner) -> dict[str, Any]:
    """Every round in turn, each starting when the one before is predicted to end."""
    now_s = 0.0
    rounds = []
    for round in range(1, plan.scenario.learning.rounds + 1):
        forecast = strategy.forecast(plan, flows, round, plan.assembled_s(now_s))
        rounds.append(forecast.to_dict())
        now_s = forecast.end_s
    return {"mission_time_s": now_s, "rounds": rounds}


def _sharings(plan: MissionPlan, strategy: Strategy, flows: FlowPlanner) -> dict[str, dict[str, float]]:
    """What each way of getting cut tensors to the contacts takes: bytes between satellites, and mission time."""
    found = {}
    for name in SHARINGS:
        scenario = plan.scenario.model_copy(update={"intra_orbit": name})
        predicted = predict(replace(plan, scenario=scenario), strategy, flows)
        found[name] = {
            "isl_bytes": sum(round["shared_bytes"] for round in predicted["rounds"]),
            "mission_time_s": predicted["mission_time_s"],
        }
    return found if any(one["isl_bytes"] for one in found.values()) else {}
