"""Collaborative rounds in mode ``head``: the backbone stays as it is, cut tensors go up, features come down, and the
satellites train heads, which are averaged in the plane."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from testbed.flow.assignment import FlowPlan
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report
from testbed.strategy import charges, embeddings, planes, rounds, sizes
from testbed.strategy.base import Desk, FlowPlanner
from testbed.strategy.embeddings import counts_by_part, embedding_legs, parted
from testbed.strategy.forecast import Forecast, Phase
from testbed.strategy.legs import Leg, arrivals_s, plan_down, ready_at
from testbed.strategy.passes import Handler, PassBound
from testbed.transfer.chunks import Chunk, ChunkId

if TYPE_CHECKING:
    from testbed.node.ground import GroundServer
    from testbed.node.satellite import Satellite


def feature_legs(plan: MissionPlan, round: int) -> list[Leg]:
    """A round's features, each satellite's own; a leg a part."""
    return [
        Leg(
            "down",
            "feature",
            parted(plan, "down", part),
            {name: sizes.feature_bytes(plan, count) for name, count in counts.items()},
        )
        for part, counts in enumerate(counts_by_part(plan, round))
    ]


class FrozenBackbone(PassBound):
    """Every sample crosses once each way. The ground computes when it has all, and what comes down is planned then."""

    name: ClassVar[str] = "collaborative"
    modes: ClassVar[frozenset[str]] = frozenset({"head"})
    encoder_on_board: ClassVar[bool] = False
    encoder_on_ground: ClassVar[bool] = True

    # -- the controller's view ------------------------------------------------------------------------------------

    async def begin(self, desk: Desk, round: int) -> None:
        flow = await self.in_time(desk, round, embeddings.uplink_of(desk, round))
        self.record(desk, flow, "up", round)
        await self.begin_with(desk, round, flow)

    def leg_of(self, plan: MissionPlan, chunk: ChunkId, attempt: int) -> Leg:
        legs = (*embedding_legs(plan, chunk.round, attempt), *feature_legs(plan, chunk.round))
        return next(leg for leg in legs if leg.phase == chunk.phase)

    def handlers(self) -> Mapping[str, Handler]:
        return {"features_ready": self._send_features}

    async def _send_features(self, desk: Desk, report: Report, kept: list[Report]) -> None:
        flow = await self.in_time(desk, report.round, partial(self._downlink, desk, report.round, desk.now()))
        self.record(desk, flow, "down", report.round)
        await desk.order(desk.plan.ground, Order("send", report.round, flow.assignments))

    def _downlink(self, desk: Desk, round: int, now_s: float, plan: MissionPlan) -> FlowPlan:
        legs = feature_legs(plan, round)
        return plan_down(plan, desk.flows, legs, ready_at(legs, now_s), now_s, round, desk.run, desk.held_by)

    # -- prediction -----------------------------------------------------------------------------------------------

    def forecast(self, plan: MissionPlan, flows: FlowPlanner, round: int, now_s: float) -> Forecast:
        up = embeddings.uplink(plan, flows, round, now_s, run="plan")
        embedded_s = max(embeddings.made_s(plan, round, now_s).values())
        arrived_s = max(embedded_s, up.end_s)
        computed_s, down = self._down(plan, flows, round, up, arrived_s)
        owned_s = max(computed_s, down.end_s)
        training, met = rounds.forecast_training(plan, flows, self.averaged(plan), round, now_s, owned_s)
        phases = (
            Phase("embed", now_s, embedded_s),
            Phase("share and up", embedded_s, arrived_s),
            Phase("backbone", arrived_s, computed_s),
            Phase("down", computed_s, owned_s),
            *training,
        )
        transfers = up.assignments + down.assignments + met
        return Forecast(round, phases, transfers, embeddings.isl_bytes(plan, round, up))

    def _down(
        self, plan: MissionPlan, flows: FlowPlanner, round: int, up: FlowPlan, arrived_s: float
    ) -> tuple[float, FlowPlan]:
        """When the ground has computed, and what comes down, if the last cut tensors arrive at a mission time."""
        counts = sizes.encoded_counts(plan, round)
        computed_s = arrived_s + charges.ground_s(plan, "encode", sum(counts.values()))
        legs = feature_legs(plan, round)
        return computed_s, plan_down(plan, flows, legs, ready_at(legs, computed_s), computed_s, round, "plan")

    # -- a satellite's view ---------------------------------------------------------------------------------------

    async def satellite_round(self, satellite: Satellite, order: Order) -> None:
        _, features = await asyncio.gather(satellite.uplink(order.assignments), self._features(satellite, order))
        await rounds.train_and_average(satellite, satellite.shard.inputs(order.round, features))

    async def _features(self, satellite: Satellite, order: Order) -> list[bytes]:
        await embeddings.make_and_share(satellite, order.round, order.attempt)
        return await satellite.wait("features", self._collected(satellite, order.round))

    async def _collected(self, satellite: Satellite, round: int) -> list[bytes]:
        name = satellite.name
        legs = [leg for leg in feature_legs(satellite.plan, round) if name in leg.sizes_bytes]
        return [await satellite.collect(leg.tensor, leg.phase, name, leg.sizes_bytes[name]) for leg in legs]

    # -- the ground server's view ---------------------------------------------------------------------------------

    async def ground_round(self, ground: GroundServer, order: Order) -> None:
        missing = self._missing(ground, order)
        with ground.activity("wait", "embeddings"):
            features = await asyncio.gather(*(self._encoded(ground, *one) for one in missing))
        charge_s = charges.ground_s(ground.plan, "encode", sum(count for *_, count in missing))
        await ground.compute("backbone", charge_s, lambda: ground.offer([c for chunks in features for c in chunks]))
        await ground.report("features_ready", computed_ahead=ground.backbone.hits, computed_here=ground.backbone.misses)
        await planes.average(ground, order)

    def _missing(self, ground: GroundServer, order: Order) -> list[tuple[Leg, Leg, str, int]]:
        """What is not computed yet: the leg up, the leg down, whose it is, and how many samples."""
        plan = ground.plan
        ups, downs = embedding_legs(plan, order.round, order.attempt), feature_legs(plan, order.round)
        return [
            (up, down, origin, count)
            for up, down, counts in zip(ups, downs, counts_by_part(plan, order.round), strict=True)
            for origin, count in sorted(counts.items())
            if not ground.held(down.tensor, down.phase, origin, down.sizes_bytes[origin])
        ]

    async def _encoded(self, ground: GroundServer, up: Leg, down: Leg, origin: str, count: int) -> Sequence[Chunk]:
        """What a charge stands for, done as soon as it can be: when the charge begins bytes may still be in flight."""
        payload = await ground.collect(up.tensor, up.phase, origin, up.sizes_bytes[origin])
        encode = partial(ground.backbone.encode, payload, count)
        return await ground.clock.ahead(lambda: ground.cut(down.phase, down.tensor, origin, encode()))


class PipelinedBackbone(FrozenBackbone):
    """The same in parts. The ground computes each part as it comes, and both ways are planned when the round begins,
    by when each part should have been computed."""

    async def begin(self, desk: Desk, round: int) -> None:
        begun_s = desk.now()
        up = await self.in_time(desk, round, embeddings.uplink_of(desk, round))
        self.record(desk, up, "up", round)
        down = await self.in_time(desk, round, partial(self._down_after, desk, round, up, begun_s))
        self.record(desk, down, "down", round)
        await self.begin_with(desk, round, up)
        await desk.order(desk.plan.ground, Order("send", round, down.assignments))

    def handlers(self) -> Mapping[str, Handler]:
        return {}

    def _down_after(self, desk: Desk, round: int, up: FlowPlan, begun_s: float, plan: MissionPlan) -> FlowPlan:
        legs, ready_s = feature_legs(plan, round), self._ready_s(plan, round, up, begun_s)
        return plan_down(plan, desk.flows, legs, ready_s, begun_s, round, desk.run, desk.held_by)

    def _ready_s(self, plan: MissionPlan, round: int, up: FlowPlan, begun_s: float) -> dict[tuple[str, str], float]:
        """By phase and satellite, when the ground has its features: one part after the other, as they arrive. What is
        not on its way up is there already."""
        arrives_s = arrivals_s(up)
        waiting = sorted(
            (arrives_s.get((parted(plan, "gather", part), name), begun_s), part, name, count)
            for part, counts in enumerate(counts_by_part(plan, round))
            for name, count in counts.items()
        )
        free_s, ready_s = begun_s, {}
        for at_s, part, name, count in waiting:
            free_s = max(free_s, at_s) + charges.ground_s(plan, "encode", count)
            ready_s[parted(plan, "down", part), name] = free_s
        return ready_s

    def _down(
        self, plan: MissionPlan, flows: FlowPlanner, round: int, up: FlowPlan, arrived_s: float
    ) -> tuple[float, FlowPlan]:
        ready_s = self._ready_s(plan, round, up, 0.0)
        first_s = min(ready_s.values())
        down = plan_down(plan, flows, feature_legs(plan, round), ready_s, first_s, round, "plan")
        return max(ready_s.values()), down

    async def ground_round(self, ground: GroundServer, order: Order) -> None:
        turn = asyncio.Lock()
        await asyncio.gather(*(self._compute(ground, turn, *one) for one in self._missing(ground, order)))
        await planes.average(ground, order)

    async def _compute(
        self, ground: GroundServer, turn: asyncio.Lock, up: Leg, down: Leg, origin: str, count: int
    ) -> None:
        chunks = await self._encoded(ground, up, down, origin, count)
        async with turn:
            charge_s = charges.ground_s(ground.plan, "encode", count)
            await ground.compute("backbone", charge_s, lambda: ground.offer(chunks))
