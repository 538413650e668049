"""The part of a round that strategies share: local training, then averaging over the plane's ring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from testbed.errors import IntegrityError
from testbed.flow.assignment import Assignment
from testbed.mission import MissionPlan
from testbed.strategy import charges, planes, sizes
from testbed.strategy.base import FlowPlanner
from testbed.strategy.forecast import Phase
from testbed.strategy.sizes import Averaged

if TYPE_CHECKING:
    from testbed.learning.learners import Inputs
    from testbed.node.satellite import Satellite


async def train_and_average(satellite: Satellite, inputs: Inputs) -> None:
    """Train what is trained on this satellite's samples, average it over the plane, report."""
    loss, count = await train(satellite, inputs)
    await average(satellite)
    await report_done(satellite, loss, count)


async def train(satellite: Satellite, inputs: Inputs, drawn: int | None = None) -> tuple[float, int]:
    """Train on this satellite's samples of the round (of round ``drawn``, where they are another's); the mean loss, and
    how many samples."""
    shard, plan, round_ = satellite.shard, satellite.plan, satellite.round if drawn is None else drawn
    count = sizes.sample_counts(plan, round_)[satellite.name]
    steps = sizes.head_steps(plan.scenario, count)
    charge_s = charges.satellite_s(plan, *shard.learner.train_work(steps, count))
    return await satellite.compute("train", charge_s, lambda: shard.train(round_, inputs)), count


async def average(satellite: Satellite) -> None:
    """Average in the plane, then over planes, on the ground."""
    await average_inside(satellite, satellite.round)
    if len(satellite.plan.planes) > 1:
        learner = satellite.shard.learner
        learner.unpack(await planes.meet(satellite, learner.pack(), satellite.attempt))


async def average_inside(satellite: Satellite, drawn: int, step: str = "gather") -> None:
    """Gather everybody's weights in the plane and average them by the scenario's aggregation: the sample counts of
    round ``drawn`` as weights, in node order, in fp64 (DESIGN, decision 13), so that every satellite ends with the same
    bits."""
    learner = satellite.shard.learner
    counts = sizes.sample_counts(satellite.plan, drawn)
    payload = learner.contribution()
    ring_sizes = dict.fromkeys(satellite.membership.members, len(payload))
    gathered = satellite.gather(learner.tensor, ring_sizes, payload, step)
    everybody = weighed(counts, await satellite.wait("the plane's weights", gathered))
    if any(count for count, _ in everybody.values()):
        learner.average(everybody)


def weighed(counts: Mapping[str, int], blocks: Mapping[str, bytes]) -> dict[str, tuple[int, bytes]]:
    """Everybody's weights with the samples that each drew this round. IntegrityError names a node that
    takes no part in it."""
    unknown = sorted(blocks.keys() - counts.keys())
    if unknown:
        raise IntegrityError(f"{unknown[0]}: weights of an unknown node; those of this round are {', '.join(counts)}")
    return {node: (counts[node], block) for node, block in blocks.items()}


async def report_done(
    satellite: Satellite, loss: float, count: int, *, apart: bool = False, drawn: int | None = None
) -> None:
    """Say that the round is done here; one satellite sends the weights along, or, where they are ``apart``, each.
    ``drawn`` is the round whose samples were used, this one unless said."""
    learner = satellite.shard.learner
    first = satellite.name == satellite.plan.present[0]
    await satellite.report(
        "round_done",
        loss=loss,
        samples=count,
        weights_sha256=learner.sha256(),
        average_deviation=learner.deviation,
        codec_error=satellite.shard.codec_error(satellite.round if drawn is None else drawn).to_dict(),
        blob=learner.pack() if first or apart else b"",
    )


def forecast_training(
    plan: MissionPlan, flows: FlowPlanner, averaged: Averaged, round: int, begun_s: float, start_s: float
) -> tuple[tuple[Phase, ...], tuple[Assignment, ...]]:
    """Training from ``start_s`` on and averaging, predicted for a round that began at ``begun_s``: phases, and what
    crosses between space and ground for it."""
    counts = sizes.sample_counts(plan, round)
    trained_s = start_s + max(training_s(plan, count) for count in counts.values())
    averaging, transfers = forecast_average(plan, flows, averaged, round, begun_s, trained_s)
    return (Phase("train", start_s, trained_s), *averaging), transfers


def training_s(plan: MissionPlan, count: int) -> float:
    """What a round's training costs a satellite that uses ``count`` samples."""
    return charges.satellite_s(plan, *sizes.training_work(plan.scenario, count))


def forecast_average(
    plan: MissionPlan, flows: FlowPlanner, averaged: Averaged, round: int, begun_s: float, start_s: float
) -> tuple[tuple[Phase, ...], tuple[Assignment, ...]]:
    """Averaging inside planes, and over the ground where there are several."""
    averaged_s = start_s + max(plan.round_the_ring_s(plane, begun_s, averaged.size_bytes) for plane in plan.planes)
    met, transfers = planes.forecast(plan, flows, averaged, round, averaged_s)
    return (Phase("average", start_s, averaged_s), *met), transfers
