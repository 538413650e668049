"""The part of a round that strategies share: local training, then averaging over the plane's ring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testbed.mission import MissionPlan
from testbed.strategy import sizes
from testbed.strategy.forecast import Phase
from testbed.transfer.transport import PAYLOAD_SHARE

if TYPE_CHECKING:
    from testbed.learning.learners import Inputs
    from testbed.node.satellite import Satellite


async def train_and_average(satellite: Satellite, inputs: Inputs) -> None:
    """Train what is trained on this satellite's samples, gather everybody's in the plane, average, report.

    Averaging is by sample counts, in node order, in fp64 (DESIGN, decision 13): every satellite ends the round with
    the same bits.
    """
    shard, plan, round_ = satellite.shard, satellite.plan, satellite.round
    learner = shard.learner
    counts = sizes.sample_counts(plan, round_)
    count = counts[satellite.name]
    charge_s = learner.train_charge_s(plan.scenario.devices.satellite, sizes.head_steps(plan.scenario, count), count)
    loss = await satellite.compute("train", charge_s, lambda: shard.train(round_, inputs))
    payload = learner.pack()
    ring_sizes = dict.fromkeys(satellite.membership.members, len(payload))
    blocks = await satellite.wait("the plane's weights", satellite.gather(learner.tensor, ring_sizes, payload))
    learner.average({origin: (counts[origin], block) for origin, block in blocks.items()})
    first = satellite.name == plan.present[0]
    await satellite.report(
        "round_done",
        loss=loss,
        samples=count,
        weights_sha256=learner.sha256(),
        average_deviation=learner.deviation,
        blob=learner.pack() if first else b"",
    )


def ring_hop_s(plan: MissionPlan) -> float:
    """One-way delay of the first inter-satellite link there is in the first plane, at the start; 0 without any."""
    ring = plan.rings[0]
    links = ((name, peer) for name in ring for peer in ring if peer in plan.link_plans[name].links)
    return next((plan.link_plans[name].state(peer, 0.0).delay_ms / 1000 for name, peer in links), 0.0)


def forecast_head(plan: MissionPlan, counts: dict[str, int], start_s: float, hop_s: float) -> tuple[Phase, ...]:
    """Training and averaging of the head, predicted."""
    profile = plan.scenario.devices.satellite
    trained_s = start_s + max(profile.charge_s("head", sizes.head_steps(plan.scenario, c)) for c in counts.values())
    hops = len(plan.rings[0]) // 2
    isl_Bps = plan.isl_rate_bps * PAYLOAD_SHARE / 8
    averaged_s = trained_s + hops * (hop_s + sizes.head_bytes() / isl_Bps)
    return (Phase("train head", start_s, trained_s), Phase("average", trained_s, averaged_s))
