"""What all links that are up together ask of the rack that has to carry them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from testbed.errors import ScenarioError
from testbed.link.plan import LinkPlan

Flow = tuple[str, str, float]
"""(sender, peer, rate_bps)."""


def concurrent_rate_bps(plans: Mapping[str, LinkPlan], ground_name: str) -> tuple[float, float, list[Flow]]:
    """The largest sum of rates of links that are up together: (peak_bps, the first instant it holds, its links).

    A station's backhaul counts no more than what its open contacts can feed it (towards the ground) or take from it
    (from the ground), since a relay carries on no more than enters. What a station kept from an earlier contact may for
    a while go on beside a new one; that excess is bounded by the backhaul's own rate and is not counted.
    """
    peak_bps, at_s, peak = 0.0, 0.0, list[Flow]()
    for instant_s in _instants_s(plans):
        flows = _flows(plans, ground_name, instant_s)
        total_bps = math.fsum(rate_bps for _, _, rate_bps in flows)
        if total_bps > peak_bps:
            peak_bps, at_s, peak = total_bps, instant_s, flows
    return peak_bps, at_s, peak


def check_capacity(plans: Mapping[str, LinkPlan], ground_name: str, capacity_bps: float) -> None:
    """Refuse a mission whose links together exceed what the rack carries. Raises ScenarioError with the sum shown."""
    peak_bps, at_s, flows = concurrent_rate_bps(plans, ground_name)
    if peak_bps <= capacity_bps:
        return
    raise ScenarioError(
        f"{at_s:.1f} s into the mission {len(flows)} links are up together, more than the rack can carry at once",
        field="rack.capacity",
        found=f"{_summed(flows)} = {peak_bps / 1e6:g} Mbit/s",
        allowed=f"at most {capacity_bps / 1e6:g} Mbit/s together: lower the links' rates, or use a larger rack",
    )


def _instants_s(plans: Mapping[str, LinkPlan]) -> list[float]:
    """When any link's rate changes: the sum is the same in between."""
    changes = {0.0}
    for plan in plans.values():
        for states in plan.links.values():
            pairs = zip(states, states[1:], strict=False)
            changes |= {later.start_s for earlier, later in pairs if later.rate_bps != earlier.rate_bps}
    return sorted(changes)


def _flows(plans: Mapping[str, LinkPlan], ground_name: str, at_s: float) -> list[Flow]:
    """What every link that is up may carry at ``at_s``."""
    rates = {(sender, peer): plan.state(peer, at_s).rate_bps for sender, plan in plans.items() for peer in plan.links}
    for station in plans[ground_name].links:
        fed_bps = math.fsum(rate for (sender, peer), rate in rates.items() if peer == station and sender != ground_name)
        drained_bps = math.fsum(rates[station, peer] for peer in plans[station].links if peer != ground_name)
        rates[station, ground_name] = min(rates[station, ground_name], fed_bps)
        rates[ground_name, station] = min(rates[ground_name, station], drained_bps)
    return [(sender, peer, rate_bps) for (sender, peer), rate_bps in rates.items() if rate_bps > 0]


def _summed(flows: list[Flow]) -> str:
    """The sum, equal terms together: ``16 x 3.5 + 2 x 8``, in Mbit/s."""
    counts = Counter(rate_bps for _, _, rate_bps in flows)
    return " + ".join(f"{count} x {rate_bps / 1e6:g}" for rate_bps, count in sorted(counts.items(), reverse=True))
