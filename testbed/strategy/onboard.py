"""The baseline: everything on the satellites. In mode ``head`` the same frozen encoder, head and rounding of the cut
tensors as ``collaborative``, so that the weights are equal bit for bit and only time differs; in mode ``u-shaped``
LoRA on the whole encoder, adapters averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from testbed.flow.assignment import Assignment, FlowPlan
from testbed.mission import MissionPlan
from testbed.node.orders import Order
from testbed.strategy import charges, planes, rounds, sizes
from testbed.strategy.base import Desk, FlowPlanner
from testbed.strategy.forecast import Forecast, Phase
from testbed.strategy.passes import PassBound

if TYPE_CHECKING:
    from testbed.learning.learners import Inputs
    from testbed.node.ground import GroundServer
    from testbed.node.satellite import Satellite


class Onboard(PassBound):
    """Encoder and head on every satellite; only heads (or adapters) cross the ring."""

    name: ClassVar[str] = "onboard"
    modes: ClassVar[frozenset[str]] = frozenset({"head", "u-shaped"})
    encoder_on_board: ClassVar[bool] = True
    encoder_on_ground: ClassVar[bool] = False

    async def begin(self, desk: Desk, round: int) -> None:
        await self.begin_with(desk, round, FlowPlan(()))

    def forecast(self, plan: MissionPlan, flows: FlowPlanner, round: int, now_s: float) -> Forecast:
        counts = sizes.encoded_counts(plan, round)
        embedded_s = now_s + max(charges.satellite_s(plan, "embed", count) for count in counts.values())
        encode = max(charges.satellite_s(plan, *sizes.encoding_work(plan.scenario, count)) for count in counts.values())
        computed_s = embedded_s + encode
        training, met = self.forecast_training(plan, flows, round, now_s, computed_s)
        phases = (Phase("embed", now_s, embedded_s), Phase("backbone", embedded_s, computed_s), *training)
        return Forecast(round, phases, met)

    def forecast_training(
        self, plan: MissionPlan, flows: FlowPlanner, round: int, begun_s: float, start_s: float
    ) -> tuple[tuple[Phase, ...], tuple[Assignment, ...]]:
        """Phases from training on, and what crosses between space and ground in them."""
        return rounds.forecast_training(plan, flows, self.averaged(plan), round, begun_s, start_s)

    async def satellite_round(self, satellite: Satellite, order: Order) -> None:
        await self.end_round(satellite, await self.encode(satellite, order.round))

    async def encode(self, satellite: Satellite, drawn: int) -> Inputs:
        """What a satellite trains on: features (or cut tensors) of its samples of a round."""
        shard = satellite.shard
        plan = satellite.plan
        count = sizes.encoded_counts(plan, drawn)[satellite.name]
        parts = sizes.encoded_parts(plan, drawn)[satellite.name]
        cuts = await satellite.compute(
            "embed",
            charges.satellite_s(plan, "embed", count),
            lambda: [shard.embed(drawn, part) for part in range(len(parts))],
        )
        learner = shard.learner
        made = await satellite.compute(
            "backbone",
            charges.satellite_s(plan, *learner.input_work(count)),
            lambda: [learner.make_inputs(cut, n) for cut, n in zip(cuts, parts, strict=True)],
        )
        return shard.inputs(drawn, made)

    async def end_round(self, satellite: Satellite, inputs: Inputs) -> None:
        """Train, and do with what was trained whatever this strategy does with it."""
        await rounds.train_and_average(satellite, inputs)

    async def ground_round(self, ground: GroundServer, order: Order) -> None:
        """Nothing, unless there are several planes."""
        await planes.average(ground, order)
