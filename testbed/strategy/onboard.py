"""The baseline: everything on the satellites. In mode ``head`` the same frozen encoder, head and rounding of the cut
tensors as ``collaborative``, so that the weights are equal bit for bit and only time differs; in mode ``u-shaped``
LoRA on the whole encoder, adapters averaged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from testbed.errors import BugError
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report
from testbed.strategy import charges, rounds, sizes
from testbed.strategy.base import Desk, FlowPlanner, Strategy
from testbed.strategy.forecast import Forecast, Phase

if TYPE_CHECKING:
    from testbed.node.ground import GroundServer
    from testbed.node.satellite import Satellite


class Onboard(Strategy):
    """Encoder and head on every satellite; only heads (or adapters) cross the ring."""

    name: ClassVar[str] = "onboard"
    modes: ClassVar[frozenset[str]] = frozenset({"head", "u-shaped"})
    encoder_on_board: ClassVar[bool] = True
    encoder_on_ground: ClassVar[bool] = False

    async def coordinate(self, desk: Desk, round: int) -> list[Report]:
        await asyncio.gather(*(desk.order(node, Order("begin_round", round)) for node in desk.plan.nodes))
        done: list[Report] = []
        while len(done) < len(desk.plan.present):
            report = await desk.next_report()
            if report.kind != "round_done":
                raise BugError(f"{report.node} reported {report.kind!r}, which {self.name!r} does not know")
            done.append(report)
        return done

    def forecast(self, plan: MissionPlan, flows: FlowPlanner, round: int, now_s: float) -> Forecast:
        counts = sizes.encoded_counts(plan, round)
        embedded_s = now_s + max(charges.satellite_s(plan, "embed", count) for count in counts.values())
        encode = max(charges.satellite_s(plan, "encode", count) for count in counts.values())
        phases = (
            Phase("embed", now_s, embedded_s),
            Phase("backbone", embedded_s, embedded_s + encode),
            *rounds.forecast_head(plan, sizes.sample_counts(plan, round), now_s, embedded_s + encode),
        )
        return Forecast(round, phases, ())

    async def satellite_round(self, satellite: Satellite, order: Order) -> None:
        shard = satellite.shard
        plan = satellite.plan
        count = sizes.encoded_counts(plan, order.round)[satellite.name]
        cut = await satellite.compute(
            "embed", charges.satellite_s(plan, "embed", count), lambda: shard.embed(order.round)
        )
        learner = shard.learner
        made = await satellite.compute(
            "backbone", charges.satellite_s(plan, *learner.input_work(count)), lambda: learner.make_inputs(cut, count)
        )
        inputs = shard.inputs(order.round, made)
        await rounds.train_and_average(satellite, inputs)

    async def ground_round(self, ground: GroundServer, order: Order) -> None:
        """Nothing: the ground is not asked."""
