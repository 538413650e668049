"""Satellite-ground collaborative fine-tuning (Zhu et al., GLOBECOM 2024, doi 10.1109/GLOBECOM52923.2024.10901682):
embedding and head on the satellites, backbone on the ground, embeddings shared in the plane, features sent back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from testbed.errors import BugError, LinkError
from testbed.flow.assignment import FlowPlan
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report
from testbed.strategy import rounds, sizes
from testbed.strategy.base import Desk, Scheduler, Strategy
from testbed.strategy.forecast import Forecast, Phase
from testbed.transfer.chunks import Chunk, ChunkId
from testbed.transfer.ring import gather_arrivals
from testbed.transfer.transport import PAYLOAD_SHARE

if TYPE_CHECKING:
    from testbed.node.ground import GroundServer
    from testbed.node.satellite import Satellite


@dataclass(frozen=True)
class _Parcel:
    """A chunk and when each node is predicted to hold it."""

    chunk: str
    size: int
    arrival_s: dict[str, float]

    def ready_s(self, node: str) -> float:
        return self.arrival_s.get(node, float("inf"))


class Collaborative(Strategy):
    """Embeddings up, features down, heads averaged in the plane."""

    name: ClassVar[str] = "collaborative"
    modes: ClassVar[frozenset[str]] = frozenset({"head"})
    encoder_on_board: ClassVar[bool] = False
    encoder_on_ground: ClassVar[bool] = True

    # -- the controller's view ------------------------------------------------------------------------------------

    async def coordinate(self, desk: Desk, round: int) -> list[Report]:
        plan = desk.plan
        flow = await desk.consider(partial(self.uplink, plan, desk.scheduler, round, desk.now(), run=desk.run))
        desk.journal("flow_plan", round=round, direction="up", assignments=[a.__dict__ for a in flow.assignments])
        listeners = (plan.ground, *plan.stations)
        await asyncio.gather(*(desk.order(node, Order("begin_round", round)) for node in listeners))
        await asyncio.gather(*(desk.order(s, Order("begin_round", round, flow.via(s))) for s in plan.satellites))
        done: list[Report] = []
        while len(done) < len(plan.satellites):
            report = await desk.next_report()
            handler = {
                "round_done": self._count,
                "features_ready": self._send_features,
                "undelivered": self._send_again,
            }.get(report.kind)
            if handler is None:
                raise BugError(f"{report.node} reported {report.kind!r}, which {self.name!r} does not know")
            await handler(desk, report, done)
        return done

    async def _count(self, desk: Desk, report: Report, done: list[Report]) -> None:
        done.append(report)

    async def _send_features(self, desk: Desk, report: Report, done: list[Report]) -> None:
        flow = await desk.consider(
            partial(self.downlink, desk.plan, desk.scheduler, report.round, desk.now(), run=desk.run)
        )
        desk.journal(
            "flow_plan", round=report.round, direction="down", assignments=[a.__dict__ for a in flow.assignments]
        )
        await desk.order(desk.plan.ground, Order("send", report.round, flow.assignments))

    async def _send_again(self, desk: Desk, report: Report, done: list[Report]) -> None:
        """A contact ended before its chunks were through: plan them anew over what contacts are left."""
        sender, receiver = report.data["missed"]
        open_ = desk.plan.contact(sender, receiver, desk.now())
        if open_ is not None:
            # Planned again it would be over the same contact, at the same instant, for ever.
            raise LinkError(
                f"{sender} -> {receiver}: closed at {desk.now():.3f} s of mission time; the contact plan says up until "
                f"{open_.end_s:.3f} s"
            )
        desk.journal("replan", round=report.round, missed=f"{sender} -> {receiver}", chunks=report.data["chunks"])
        missed = [ChunkId.parse(chunk) for chunk in report.data["chunks"]]
        await self._again_up(desk, [chunk for chunk in missed if chunk.phase == "gather"])
        await self._again_down(desk, [chunk for chunk in missed if chunk.phase == "down"])

    async def _again_up(self, desk: Desk, missed: list[ChunkId]) -> None:
        plan, now_s = desk.plan, desk.now()
        here = dict.fromkeys(plan.satellites, now_s)
        parcels = [_Parcel(str(chunk), self._size(plan, chunk), here) for chunk in missed]
        flow = await desk.consider(partial(desk.scheduler.plan_up, plan, parcels, now_s))
        self._journal(desk, flow, "up", missed)
        for satellite in sorted({a.route[0] for a in flow.assignments}):
            await desk.order(satellite, Order("send", missed[0].round, flow.via(satellite)))

    async def _again_down(self, desk: Desk, missed: list[ChunkId]) -> None:
        plan, now_s = desk.plan, desk.now()
        parcels = [_Parcel(str(chunk), self._size(plan, chunk), {plan.ground: now_s}) for chunk in missed]
        owners = [chunk.origin for chunk in missed]
        flow = await desk.consider(partial(desk.scheduler.plan_down, plan, parcels, owners, now_s))
        self._journal(desk, flow, "down", missed)
        if flow.assignments:
            await desk.order(plan.ground, Order("send", missed[0].round, flow.assignments))

    def _journal(self, desk: Desk, flow: FlowPlan, direction: str, missed: list[ChunkId]) -> None:
        if missed:
            assignments = [a.__dict__ for a in flow.assignments]
            desk.journal("flow_plan", round=missed[0].round, direction=direction, assignments=assignments)

    def _size(self, plan: MissionPlan, chunk: ChunkId) -> int:
        count = sizes.encoded_counts(plan, chunk.round)[chunk.origin]
        whole = {"embedding": sizes.embedding_bytes, "feature": sizes.feature_bytes}[chunk.tensor](plan, count)
        return sizes.chunks_of(plan, whole)[chunk.index]

    # -- prediction -----------------------------------------------------------------------------------------------

    def uplink(self, plan: MissionPlan, scheduler: Scheduler, round: int, now_s: float, run: str) -> FlowPlan:
        """The flow plan for a round's embeddings, if embedding starts now."""
        scenario = plan.scenario
        counts = sizes.encoded_counts(plan, round)
        ready = {n: now_s + scenario.devices.satellite.charge_s("embed", c) for n, c in counts.items()}
        arrival: dict[tuple[str, str, int], float] = {}
        for ring in plan.rings:
            blocks = {n: sizes.chunks_of(plan, sizes.embedding_bytes(plan, counts[n])) for n in ring}
            arrival |= gather_arrivals(
                ring, blocks, {n: ready[n] for n in ring}, plan.isl_rate_bps * PAYLOAD_SHARE / 8, self._hop_s(plan)
            )
        parcels = []
        for identity, size in self._embedding_chunks(plan, round, run):
            ring = plan.ring_of(identity.origin)
            held = {node: arrival[node, identity.origin, identity.index] for node in ring}
            parcels.append(_Parcel(str(identity), size, held))
        return scheduler.plan_up(plan, parcels, now_s)

    def downlink(self, plan: MissionPlan, scheduler: Scheduler, round: int, now_s: float, run: str) -> FlowPlan:
        """The flow plan for a round's features, if they are ready now."""
        parcels, owners = [], []
        for owner, count in sorted(sizes.encoded_counts(plan, round).items()):
            for index, size in enumerate(sizes.chunks_of(plan, sizes.feature_bytes(plan, count))):
                identity = ChunkId(run, round, "down", owner, "feature", index)
                parcels.append(_Parcel(str(identity), size, {plan.ground: now_s}))
                owners.append(owner)
        return scheduler.plan_down(plan, parcels, owners, now_s)

    def forecast(self, plan: MissionPlan, scheduler: Scheduler, round: int, now_s: float) -> Forecast:
        scenario = plan.scenario
        counts = sizes.encoded_counts(plan, round)
        up = self.uplink(plan, scheduler, round, now_s, run="plan")
        embedded_s = now_s + max(scenario.devices.satellite.charge_s("embed", c) for c in counts.values())
        backhaul_s = scenario.ground.backhaul_delay_ms / 1000
        computed_s = up.end_s + backhaul_s + scenario.devices.ground.charge_s("encode", sum(counts.values()))
        down = self.downlink(plan, scheduler, round, computed_s, run="plan")
        isl_Bps = plan.isl_rate_bps * PAYLOAD_SHARE / 8
        owned_s = max(a.end_s + (len(a.route) - 3) * (a.size / isl_Bps + self._hop_s(plan)) for a in down.assignments)
        phases = (
            Phase("embed", now_s, embedded_s),
            Phase("gather and up", embedded_s, up.end_s),
            Phase("backbone", up.end_s, computed_s),
            Phase("down", computed_s, owned_s),
            *rounds.forecast_head(plan, sizes.sample_counts(plan, round), owned_s, self._hop_s(plan)),
        )
        return Forecast(round, phases, up.assignments + down.assignments)

    def _embedding_chunks(self, plan: MissionPlan, round: int, run: str) -> list[tuple[ChunkId, int]]:
        return [
            (ChunkId(run, round, "gather", origin, "embedding", index), size)
            for origin, count in sorted(sizes.encoded_counts(plan, round).items())
            for index, size in enumerate(sizes.chunks_of(plan, sizes.embedding_bytes(plan, count)))
        ]

    def _hop_s(self, plan: MissionPlan) -> float:
        return rounds.ring_hop_s(plan)

    # -- a satellite's view ---------------------------------------------------------------------------------------

    async def satellite_round(self, satellite: Satellite, order: Order) -> None:
        plan, shard = satellite.plan, satellite.shard
        counts = sizes.encoded_counts(plan, order.round)
        charge_s = plan.scenario.devices.satellite.charge_s("embed", counts[satellite.name])
        satellite.share(
            await satellite.compute(
                "embed",
                charge_s,
                lambda: satellite.cut("gather", "embedding", satellite.name, shard.embed(order.round)),
            )
        )
        up = satellite.uplink(order.assignments)
        size = sizes.feature_bytes(plan, counts[satellite.name])
        down = satellite.wait("features", satellite.collect("feature", "down", satellite.name, size))
        _, features = await asyncio.gather(up, down)
        await rounds.train_and_average(satellite, shard.inputs(order.round, features))

    # -- the ground server's view ---------------------------------------------------------------------------------

    async def ground_round(self, ground: GroundServer, order: Order) -> None:
        plan = ground.plan
        counts = sizes.encoded_counts(plan, order.round)

        async def encoded(origin: str) -> list[Chunk]:
            """What the charge below stands for, done as soon as it can be: at the end bytes may still be in flight."""
            size = sizes.embedding_bytes(plan, counts[origin])
            payload = await ground.collect("embedding", "gather", origin, size)
            return await ground.clock.ahead(
                lambda: ground.cut("down", "feature", origin, ground.backbone.encode(payload, counts[origin]))
            )

        with ground.activity("wait", "embeddings"):
            features = await asyncio.gather(*(encoded(origin) for origin in sorted(counts)))
        charge_s = plan.scenario.devices.ground.charge_s("encode", sum(counts.values()))
        await ground.compute("backbone", charge_s, lambda: ground.offer([c for chunks in features for c in chunks]))
        await ground.report("features_ready", computed_ahead=ground.backbone.hits, computed_here=ground.backbone.misses)
