"""A scenario's links: what each directed link is at every second of the horizon, and what the rack must carry."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from testbed.errors import ScenarioError
from testbed.link.budget import ConstantBudget
from testbed.link.carrier import budget_of
from testbed.link.compile import Budgets, Tolerance, compile_link_plans, usable_contacts
from testbed.link.plan import LinkPlan, LinkState, queue_limit_packets
from testbed.link.trace import read_trace
from testbed.orbit.contacts import Contact
from testbed.orbit.sight import Limits
from testbed.orbit.sky import Sky
from testbed.orbit.topology import IslOptions, open_topology
from testbed.scenario import Scenario


@dataclass(frozen=True)
class Network:
    """One link plan per node, and the contacts in which links between satellites and stations go both ways."""

    link_plans: Mapping[str, LinkPlan]
    contacts: tuple[Contact, ...]


def compile_network(scenario: Scenario, sky: Sky, node: str | None = None) -> Network:
    """Every node's link plan; with ``node`` only that node's links (both directions of each) are compiled."""
    orbits = sky.orbits
    names = {*orbits.motion.names, *(one.slug for one in scenario.stations), scenario.ground.name}
    if node is not None and node not in names:
        raise ScenarioError("no such node", where="--node", found=node, allowed=_some(sorted(names)))
    isl = scenario.isl
    limits = Limits(isl.min_altitude_km, math.inf if isl.max_range_km is None else isl.max_range_km)
    options = IslOptions(limits, isl.pairs, isl.seam, isl.shift, isl.neighbours)
    isl_links = open_topology(isl.topology, options).links(orbits, scenario.duration_s)
    contacts = sky.contacts
    if node is not None:
        isl_links = tuple(link for link in isl_links if node in (link.first, link.second))
        contacts = tuple(one for one in contacts if node in (one.satellite, one.station))
    ground = scenario.ground
    plans = compile_link_plans(
        motion=orbits.motion,
        stations=scenario.stations,
        contacts=contacts,
        isl_links=isl_links,
        budgets=Budgets(
            isl=budget_of(isl.carrier, None, "isl"),
            up={one.slug: budget_of(scenario.space_ground.up, one, "space_ground.up") for one in scenario.stations},
            down={
                one.slug: budget_of(scenario.space_ground.down, one, "space_ground.down") for one in scenario.stations
            },
            backhaul=ConstantBudget(ground.backhaul_rate_bps, ground.backhaul_loss),
        ),
        ground_name=ground.name,
        backhaul_delay_ms=ground.backhaul_delay_ms,
        tolerance=Tolerance(scenario.tolerance.delay_ms, scenario.tolerance.rate),
        duration_s=scenario.duration_s,
        mtu_bytes=scenario.network.mtu_bytes,
        traces=_traces(scenario, names),
    )
    return Network(plans, usable_contacts(contacts, plans, orbits.motion.names, scenario.duration_s))


def contact_rates_bps(scenario: Scenario, sky: Sky) -> Callable[[Contact], tuple[float, float]]:
    """What each contact carries at its best, up and down."""
    plans = compile_network(scenario, sky).link_plans

    def rates_bps(contact: Contact) -> tuple[float, float]:
        ends = (contact.satellite, contact.station), (contact.station, contact.satellite)
        up_bps, down_bps = (
            max(
                (
                    state.rate_bps
                    for state in plans[sender].links[receiver]
                    if contact.start_s <= state.start_s < contact.end_s
                ),
                default=0.0,
            )
            for sender, receiver in ends
        )
        return up_bps, down_bps

    return rates_bps


def _traces(scenario: Scenario, names: set[str]) -> dict[tuple[str, str], tuple[LinkState, ...]]:
    traces: dict[tuple[str, str], tuple[LinkState, ...]] = {}
    for index, settings in enumerate(scenario.traces):
        for key, name in (("sender", settings.sender), ("receiver", settings.receiver)):
            if name not in names or settings.sender == settings.receiver:
                raise ScenarioError(
                    "a trace needs two nodes",
                    where=scenario.source,
                    field=f"traces[{index}].{key}",
                    found=name,
                    allowed=_some(sorted(names)),
                )
        pair = settings.sender, settings.receiver
        if pair in traces:
            raise ScenarioError(
                "a link has two traces", where=scenario.source, field=f"traces[{index}]", found=" -> ".join(pair)
            )
        trace = read_trace(Path(settings.file))
        states = trace.states(scenario.epoch, scenario.duration_s, repeat=settings.repeat)
        mtu_bytes = scenario.network.mtu_bytes
        traces[pair] = tuple(
            replace(one, limit_packets=queue_limit_packets(one.rate_bps, one.delay_ms, mtu_bytes)) for one in states
        )
    return traces


def _some(names: list[str], most: int = 24) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
