"""The part of a round that strategies share: local training, then averaging over the plane's ring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testbed.mission import MissionPlan
from testbed.strategy import charges, sizes
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
    steps = sizes.head_steps(plan.scenario, count)
    charge_s = charges.satellite_s(plan, *learner.train_work(steps, count))
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
        codec_error=shard.codec_error.to_dict(),
        blob=learner.pack() if first else b"",
    )


def ring_hop_s(plan: MissionPlan) -> float:
    """One-way delay of the first inter-satellite link there is in the first plane, when it is first up; 0 without
    any."""
    ring = plan.rings[0]
    states = (state for name in ring for peer in ring for state in plan.link_plans[name].links.get(peer, ()))
    return next((state.delay_ms / 1000 for state in states if state.up), 0.0)


def forecast_head(plan: MissionPlan, counts: dict[str, int], begun_s: float, start_s: float) -> tuple[Phase, ...]:
    """Training from ``start_s`` on and averaging of the head, predicted for a round that began at ``begun_s``."""
    steps = (sizes.head_steps(plan.scenario, count) for count in counts.values())
    trained_s = start_s + max(charges.satellite_s(plan, "head", count) for count in steps)
    members = plan.membership(plan.rings[0], begun_s)
    hops = len(members) // 2 if members.closed else len(members) - 1
    isl_Bps = plan.isl_rate_bps * PAYLOAD_SHARE / 8
    averaged_s = trained_s + hops * (ring_hop_s(plan) + sizes.head_bytes() / isl_Bps)
    return (Phase("train head", start_s, trained_s), Phase("average", trained_s, averaged_s))
