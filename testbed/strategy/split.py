"""Collaborative rounds in mode ``u-shaped``: cut tensors go up once, then for every optimiser step features come down
and their gradients go up. LoRA on the backbone is trained on the ground, heads on the satellites."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from testbed.errors import ScenarioError
from testbed.flow.assignment import FlowPlan
from testbed.learning.exchanges import Exchange, exchanges
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report, attempted
from testbed.scenario import Scenario
from testbed.strategy import charges, embeddings, planes, rounds, sizes
from testbed.strategy.base import Desk, FlowPlanner, RoundOutcome, Strategy, averages_plainly
from testbed.strategy.embeddings import embedding_legs
from testbed.strategy.forecast import Forecast, Phase
from testbed.strategy.legs import Leg, arrivals_s, plan_down, plan_up, ready_at
from testbed.strategy.passes import Handler, PassBound
from testbed.strategy.sizes import Averaged
from testbed.transfer.chunks import ChunkId

if TYPE_CHECKING:
    from testbed.learning.split_training import SplitHead
    from testbed.node.ground import GroundServer
    from testbed.node.satellite import Satellite


def steps_of(plan: MissionPlan, round: int) -> tuple[Exchange, ...]:
    """A round's optimiser steps, among the satellites that are not lost."""
    return exchanges(sizes.sample_counts(plan, round), plan.scenario.learning)


def step_legs(plan: MissionPlan, exchange: Exchange, attempt: int) -> tuple[Leg, Leg]:
    """A step's features down and their gradients up: both are made anew in every attempt at a round."""
    made = {name: sizes.feature_bytes(plan, exchange.count(name)) for name in exchange.places}
    return (
        Leg("down", "feature", attempted(f"features-{exchange.index}", attempt), made),
        Leg("up", "feature-gradient", attempted(f"gradients-{exchange.index}", attempt), made),
    )


class SplitBackbone(PassBound):
    """A round of as many steps as its samples make batches, epoch by epoch."""

    name: ClassVar[str] = "collaborative"
    modes: ClassVar[frozenset[str]] = frozenset({"u-shaped"})
    encoder_on_board: ClassVar[bool] = False
    encoder_on_ground: ClassVar[bool] = True
    tensors: ClassVar[frozenset[str]] = Strategy.tensors | {"feature-gradient", "head-gradient"}

    def check(self, scenario: Scenario) -> None:
        super().check(scenario)
        averages_plainly(scenario, "the one adapter is on the ground: there are no others to average it with")

    def check_plan(self, plan: MissionPlan) -> None:
        super().check_plan(plan)
        if len(plan.rings) > 1 and _HEADS[plan.scenario.learning.split_order].shared:
            raise ScenarioError(
                "one head for all is stepped over one ring",
                field="learning.split_order",
                found=f"{plan.scenario.learning.split_order}, with {len(plan.rings)} planes",
                allowed="per-satellite, or one plane",
            )

    def averaged(self, plan: MissionPlan) -> Averaged:
        return Averaged("head", sizes.head_bytes(plan))

    def prepare_satellite(self, satellite: Satellite) -> None:
        from testbed.learning.shard import Shard
        from testbed.learning.split_training import SplitHead

        satellite.shard = Shard(satellite.plan, satellite.name, SplitHead(satellite.plan.scenario))

    def prepare_ground(self, ground: GroundServer) -> None:
        from testbed.learning.split_training import GroundTrainer

        super().prepare_ground(ground)
        ground.trainer = GroundTrainer(ground.plan, ground.backbone)

    # -- the controller's view ------------------------------------------------------------------------------------

    async def begin(self, desk: Desk, round: int) -> None:
        flow = await self.in_time(desk, round, embeddings.uplink_of(desk, round))
        self.record(desk, flow, "up", round)
        await self.begin_with(desk, round, flow)

    def leg_of(self, plan: MissionPlan, chunk: ChunkId, attempt: int) -> Leg:
        legs = embedding_legs(plan, chunk.round, attempt)
        for exchange in steps_of(plan, chunk.round):
            legs += step_legs(plan, exchange, attempt)
        return next(leg for leg in legs if leg.phase == chunk.phase)

    def handlers(self) -> Mapping[str, Handler]:
        return {"features_ready": self._exchange, "backbone_done": self._keep}

    def expected(self, plan: MissionPlan) -> int:
        return len(plan.present) + 1

    def outcome(self, kept: list[Report]) -> RoundOutcome:
        # Packed weights are in name order, and LoRA's matrices (base_model...) come before the head's (linear...).
        adapter = next(report.blob for report in kept if report.kind == "backbone_done")
        return RoundOutcome.agreed([report for report in kept if report.kind == "round_done"], adapter)

    async def _exchange(self, desk: Desk, report: Report, kept: list[Report]) -> None:
        """Plan a step both ways: features that are ready now, gradients when each satellite should have them."""
        exchange = steps_of(desk.plan, report.round)[report.data["exchange"]]
        now_s = desk.now()
        make = partial(self._both_ways, desk.flows, exchange, desk.attempt, now_s, report.round, desk.run)
        down, up = await desk.consider(partial(make, desk.plan))
        self.record(desk, down, "down", report.round)
        self.record(desk, up, "up", report.round)
        await desk.order(desk.plan.ground, Order("send", report.round, down.assignments))
        await self.send(desk, up, report.round)

    def _both_ways(
        self,
        flows: FlowPlanner,
        exchange: Exchange,
        attempt: int,
        now_s: float,
        round: int,
        run: str,
        plan: MissionPlan,
    ) -> tuple[FlowPlan, FlowPlan]:
        features, gradients = step_legs(plan, exchange, attempt)
        down = plan_down(plan, flows, [features], ready_at([features], now_s), now_s, round, run)
        arrives_s = arrivals_s(down)
        ready_s = {
            (gradients.phase, name): arrives_s[features.phase, name] + charges.satellite_s(plan, "head", 1)
            for name in exchange.places
        }
        return down, plan_up(plan, flows, [gradients], ready_s, now_s, round, run)

    # -- prediction -----------------------------------------------------------------------------------------------

    def forecast(self, plan: MissionPlan, flows: FlowPlanner, round: int, now_s: float) -> Forecast:
        up = embeddings.uplink(plan, flows, round, now_s, run="plan")
        embedded_s = max(embeddings.made_s(plan, round, now_s).values())
        arrived_s = at_s = max(embedded_s, up.end_s)
        transfers = up.assignments
        for exchange in steps_of(plan, round):
            at_s += charges.ground_s(plan, "encode", exchange.total)
            down, back = self._both_ways(flows, exchange, 1, at_s, round, "plan", plan)
            transfers += down.assignments + back.assignments
            at_s = back.end_s + charges.ground_s(plan, "encode_backward", exchange.total)
        averaging, met = rounds.forecast_average(plan, flows, self.averaged(plan), round, now_s, at_s)
        phases = (
            Phase("embed", now_s, embedded_s),
            Phase("share and up", embedded_s, arrived_s),
            Phase("steps", arrived_s, at_s),
            *averaging,
        )
        return Forecast(round, phases, transfers + met, embeddings.isl_bytes(plan, round, up))

    # -- a satellite's view ---------------------------------------------------------------------------------------

    async def satellite_round(self, satellite: Satellite, order: Order) -> None:
        await asyncio.gather(satellite.uplink(order.assignments), self._train(satellite, order))

    async def _train(self, satellite: Satellite, order: Order) -> None:
        plan, name, shard = satellite.plan, satellite.name, satellite.shard
        head: SplitHead = shard.learner  # type: ignore[assignment]  # what prepare_satellite made
        heads = _HEADS[plan.scenario.learning.split_order]
        await embeddings.make_and_share(satellite, order.round, order.attempt)
        count = sizes.sample_counts(plan, order.round)[name]
        labels = shard.round_labels(order.round)
        head.begin_round(order.round, name, count)
        steps = steps_of(plan, order.round)
        loss = 0.0
        for exchange in steps:
            own = b""
            if name in exchange.places:
                features, gradients = step_legs(plan, exchange, order.attempt)
                got = satellite.collect(features.tensor, features.phase, name, features.sizes_bytes[name])
                payload = await satellite.wait("features", got)
                made = await satellite.compute(
                    "train",
                    charges.satellite_s(plan, "head", 1),
                    partial(head.gradients, exchange, name, payload, labels, heads.shared),
                )
                for chunk in satellite.cut(gradients.phase, gradients.tensor, name, made.features):
                    satellite.mailbox.put(chunk)
                own, loss = made.head, loss + made.loss
            await heads.step(satellite, head, exchange, own)
        head.finish(name, order.round)
        await heads.finish(satellite, count)
        mean_loss = loss / (count * plan.scenario.learning.local_epochs) if count else 0.0
        await rounds.report_done(satellite, mean_loss, count)

    # -- the ground server's view ---------------------------------------------------------------------------------

    async def ground_round(self, ground: GroundServer, order: Order) -> None:
        plan, trainer = ground.plan, ground.trainer
        with ground.activity("wait", "embeddings"):
            payloads = await self._embeddings(ground, order)
        trainer.begin(order.round, payloads)
        for exchange in steps_of(plan, order.round):
            features, gradients = step_legs(plan, exchange, order.attempt)
            forward_s = charges.ground_s(plan, "encode", exchange.total)
            await ground.compute("backbone", forward_s, partial(self._forward, ground, features, exchange))
            await ground.report("features_ready", exchange=exchange.index)
            with ground.activity("wait", "gradients"):
                arrived = await asyncio.gather(
                    *(
                        ground.collect(gradients.tensor, gradients.phase, name, size)
                        for name, size in gradients.sizes_bytes.items()
                    )
                )
            given = dict(zip(gradients.sizes_bytes, arrived, strict=True))
            await ground.compute(
                "backward", charges.ground_s(plan, "encode_backward", exchange.total), partial(trainer.backward, given)
            )
        await ground.report("backbone_done", blob=trainer.pack())
        await _HEADS[plan.scenario.learning.split_order].meet(ground, order)

    def _forward(self, ground: GroundServer, features: Leg, exchange: Exchange) -> None:
        for name, payload in ground.trainer.forward(exchange).items():
            ground.offer(ground.cut(features.phase, features.tensor, name, payload))

    async def _embeddings(self, ground: GroundServer, order: Order) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for leg in embedding_legs(ground.plan, order.round, order.attempt):
            for name, size in sorted(leg.sizes_bytes.items()):
                found.setdefault(name, []).append(await ground.collect(leg.tensor, leg.phase, name, size))
        return found


class Heads(ABC):
    """What becomes of the satellites' heads in a round. ``shared`` says that a step's loss is the mean over all."""

    shared: ClassVar[bool]

    @abstractmethod
    async def step(self, satellite: Satellite, head: SplitHead, exchange: Exchange, own: bytes) -> None:
        """Step, having made the packed gradient ``own``; empty where the satellite has no sample in this one."""

    @abstractmethod
    async def finish(self, satellite: Satellite, count: int) -> None:
        """The last step was taken."""

    @abstractmethod
    async def meet(self, ground: GroundServer, order: Order) -> None:
        """What the ground does about heads then."""


class PooledHeads(Heads):
    """One head, of which everybody has a copy: every step's gradients go round the ring."""

    shared: ClassVar[bool] = True

    async def step(self, satellite: Satellite, head: SplitHead, exchange: Exchange, own: bytes) -> None:
        members = satellite.membership.members
        given = {name: head.gradient_bytes() if name in exchange.places else 0 for name in members}
        gathered = satellite.gather("head-gradient", given, own, step=f"heads-{exchange.index}")
        head.step(await satellite.wait("the plane's gradients", gathered))

    async def finish(self, satellite: Satellite, count: int) -> None:
        """All are the same already."""

    async def meet(self, ground: GroundServer, order: Order) -> None:
        """Nothing."""


class OwnHeads(Heads):
    """A head each, averaged when the round ends."""

    shared: ClassVar[bool] = False

    async def step(self, satellite: Satellite, head: SplitHead, exchange: Exchange, own: bytes) -> None:
        if own:
            head.step({satellite.name: own})

    async def finish(self, satellite: Satellite, count: int) -> None:
        await rounds.average(satellite)

    async def meet(self, ground: GroundServer, order: Order) -> None:
        await planes.average(ground, order)


_HEADS: Mapping[str, Heads] = {"pooled": PooledHeads(), "per-satellite": OwnHeads()}
"""By the scenario's ``split_order``."""
