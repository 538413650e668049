"""Satellite-ground collaborative fine-tuning (Zhu et al., GLOBECOM 2024, doi 10.1109/GLOBECOM52923.2024.10901682):
embedding and head on the satellites, backbone on the ground, embeddings sent up through whoever has a contact, features
sent back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from testbed.errors import BugError, FlowError
from testbed.flow.assignment import FlowPlan
from testbed.flow.problem import Demand
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report
from testbed.strategy import charges, rounds, sizes
from testbed.strategy.base import Desk, FlowPlanner, Strategy
from testbed.strategy.forecast import Forecast, Phase
from testbed.strategy.sharing import sharing_of
from testbed.strategy.terms import has_deadlines, terms_of, without_deadlines
from testbed.transfer.chunks import Chunk, ChunkId

if TYPE_CHECKING:
    from testbed.node.ground import GroundServer
    from testbed.node.satellite import Satellite


HeldBy = Callable[[str], frozenset[str]]
"""The nodes that are known to have a chunk."""


def _nobody(chunk: str) -> frozenset[str]:
    return frozenset()


DOWN = frozenset({"backhaul", "down", "isl"})
"""The kinds of links that features may use."""


class Collaborative(Strategy):
    """Embeddings up, features down, heads averaged in the plane. How embeddings reach the satellites that have a
    contact, the scenario's ``intra_orbit`` says."""

    name: ClassVar[str] = "collaborative"
    modes: ClassVar[frozenset[str]] = frozenset({"head"})
    encoder_on_board: ClassVar[bool] = False
    encoder_on_ground: ClassVar[bool] = True

    # -- the controller's view ------------------------------------------------------------------------------------

    async def coordinate(self, desk: Desk, round: int) -> list[Report]:
        plan = desk.plan
        make: Callable[..., FlowPlan] = self.uplink
        if desk.attempt > 1:
            make = partial(self._rest_up, held_by=desk.held_by)
        make = partial(make, flows=desk.flows, round=round, now_s=desk.now(), run=desk.run)
        flow = await self._in_time(desk, round, make)
        desk.journal("flow_plan", round=round, direction="up", assignments=[a.__dict__ for a in flow.assignments])
        listeners = (plan.ground, *plan.stations)
        await asyncio.gather(*(desk.order(node, Order("begin_round", round)) for node in listeners))
        await asyncio.gather(*(desk.order(s, Order("begin_round", round, flow.via(s))) for s in plan.present))
        done: list[Report] = []
        while len(done) < len(plan.present):
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

    async def _in_time(self, desk: Desk, round: int, make: Callable[[MissionPlan], FlowPlan]) -> FlowPlan:
        """A flow plan that keeps the scenario's deadlines; where they cannot be kept as things stand now, one without
        them, and a note that says what is in the way."""
        try:
            return await desk.consider(partial(make, desk.plan))
        except FlowError as error:
            if not has_deadlines(desk.plan):
                raise
            flow = await desk.consider(partial(make, without_deadlines(desk.plan)))
            desk.journal("late", round=round, why=error.message, found=error.found)
            return flow

    async def _count(self, desk: Desk, report: Report, done: list[Report]) -> None:
        done.append(report)

    async def _send_features(self, desk: Desk, report: Report, done: list[Report]) -> None:
        make = partial(self.downlink, flows=desk.flows, round=report.round, now_s=desk.now(), run=desk.run)
        flow = await self._in_time(desk, report.round, partial(make, held_by=desk.held_by))
        desk.journal(
            "flow_plan", round=report.round, direction="down", assignments=[a.__dict__ for a in flow.assignments]
        )
        await desk.order(desk.plan.ground, Order("send", report.round, flow.assignments))

    async def _send_again(self, desk: Desk, report: Report, done: list[Report]) -> None:
        """A contact ended, or failed, before its chunks were through: plan them anew over what contacts are left."""
        sender, receiver = report.data["missed"]
        failed = desk.plan.contact(sender, receiver, desk.now())
        if failed is not None:
            # Planned again it would be over the same contact, at the same instant, for ever.
            desk.lose(failed)
        desk.journal("replan", round=report.round, missed=f"{sender} -> {receiver}", chunks=report.data["chunks"])
        missed = [ChunkId.parse(chunk) for chunk in report.data["chunks"]]
        await self._again_up(desk, sender, [chunk for chunk in missed if chunk.phase == "gather"])
        await self._again_down(desk, [chunk for chunk in missed if chunk.phase == "down"])

    async def _again_up(self, desk: Desk, holder: str, missed: list[ChunkId]) -> None:
        plan, now_s = desk.plan, desk.now()
        sharing = sharing_of(plan, desk.attempt)
        held_s = dict.fromkeys(sharing.holders(plan, holder), now_s)
        demands = [
            Demand(str(c), held_s, plan.ground, self._size(plan, c), terms_of(plan, "up", c.origin).weight)
            for c in missed
        ]
        await self._send_anew(desk, demands, missed, "up", sharing.over)

    async def _again_down(self, desk: Desk, missed: list[ChunkId]) -> None:
        plan, now_s = desk.plan, desk.now()
        demands = [
            Demand(str(c), {plan.ground: now_s}, c.origin, self._size(plan, c), terms_of(plan, "down", c.origin).weight)
            for c in missed
        ]
        await self._send_anew(desk, demands, missed, "down", DOWN)

    async def _send_anew(
        self, desk: Desk, demands: list[Demand], missed: list[ChunkId], direction: str, over: frozenset[str]
    ) -> None:
        if not missed:
            return
        flow = await desk.consider(partial(desk.flows.plan, desk.plan, demands, desk.now(), over))
        self._journal(desk, flow, direction, missed)
        for sender in sorted({a.route[0] for a in flow.assignments}):
            await desk.order(sender, Order("send", missed[0].round, flow.via(sender)))

    def _journal(self, desk: Desk, flow: FlowPlan, direction: str, missed: list[ChunkId]) -> None:
        if missed:
            assignments = [a.__dict__ for a in flow.assignments]
            desk.journal("flow_plan", round=missed[0].round, direction=direction, assignments=assignments)

    def _size(self, plan: MissionPlan, chunk: ChunkId) -> int:
        count = sizes.encoded_counts(plan, chunk.round)[chunk.origin]
        whole = {"embedding": sizes.embedding_bytes, "feature": sizes.feature_bytes}[chunk.tensor](plan, count)
        return sizes.chunks_of(plan, whole)[chunk.index]

    # -- prediction -----------------------------------------------------------------------------------------------

    def uplink(self, plan: MissionPlan, flows: FlowPlanner, round: int, now_s: float, run: str) -> FlowPlan:
        """The flow plan for a round's embeddings, if embedding starts now."""
        counts = sizes.encoded_counts(plan, round)
        ready_s = {n: now_s + charges.satellite_s(plan, "embed", c) for n, c in counts.items()}
        blocks = {n: sizes.chunks_of(plan, sizes.embedding_bytes(plan, c)) for n, c in counts.items()}
        sharing = sharing_of(plan, 1)
        held_s = sharing.held_s(plan, blocks, ready_s, rounds.ring_hop_s(plan), now_s)
        demands = [
            Demand(
                str(identity),
                held_s[identity.origin, identity.index],
                plan.ground,
                size,
                **vars(terms_of(plan, "up", identity.origin, now_s)),
            )
            for identity, size in self._embedding_chunks(plan, round, run)
        ]
        return flows.plan(plan, demands, now_s, sharing.over)

    def _rest_up(
        self, plan: MissionPlan, flows: FlowPlanner, round: int, now_s: float, run: str, held_by: HeldBy
    ) -> FlowPlan:
        """The flow plan for those of a round's embeddings that are neither at the ground nor at a station, from
        whichever satellites have them. One that nobody has sent yet may still have to be made."""
        counts = sizes.encoded_counts(plan, round)
        present, arrived = set(plan.present), {plan.ground, *plan.stations} - set(plan.lost)
        made = {chunk.origin for chunk, _ in self._embedding_chunks(plan, round, run) if held_by(str(chunk))}
        demands = []
        for chunk, size in self._embedding_chunks(plan, round, run):
            holders = held_by(str(chunk))
            if holders & arrived:
                continue
            charge_s = charges.satellite_s(plan, "embed", counts[chunk.origin])
            own_s = now_s if chunk.origin in made else now_s + charge_s
            ready_s = {chunk.origin: own_s} | dict.fromkeys(holders & present, now_s)
            weight = terms_of(plan, "up", chunk.origin).weight
            demands.append(Demand(str(chunk), ready_s, plan.ground, size, weight))
        return flows.plan(plan, demands, now_s, sharing_of(plan, 2).over)

    def downlink(
        self, plan: MissionPlan, flows: FlowPlanner, round: int, now_s: float, run: str, held_by: HeldBy = _nobody
    ) -> FlowPlan:
        """The flow plan for a round's features, if they are ready now, but for those that their owner has."""
        demands = [
            Demand(name, {plan.ground: now_s}, owner, size, **vars(terms_of(plan, "down", owner, now_s)))
            for owner, count in sorted(sizes.encoded_counts(plan, round).items())
            for index, size in enumerate(sizes.chunks_of(plan, sizes.feature_bytes(plan, count)))
            for name in [str(ChunkId(run, round, "down", owner, "feature", index))]
            if owner not in held_by(name)
        ]
        return flows.plan(plan, demands, now_s, DOWN)

    def forecast(self, plan: MissionPlan, flows: FlowPlanner, round: int, now_s: float) -> Forecast:
        counts = sizes.encoded_counts(plan, round)
        up = self.uplink(plan, flows, round, now_s, run="plan")
        embedded_s = now_s + max(charges.satellite_s(plan, "embed", c) for c in counts.values())
        arrived_s = max(embedded_s, up.end_s)
        computed_s = arrived_s + charges.ground_s(plan, "encode", sum(counts.values()))
        down = self.downlink(plan, flows, round, computed_s, run="plan")
        owned_s = max(computed_s, down.end_s)
        phases = (
            Phase("embed", now_s, embedded_s),
            Phase("share and up", embedded_s, arrived_s),
            Phase("backbone", arrived_s, computed_s),
            Phase("down", computed_s, owned_s),
            *rounds.forecast_head(plan, sizes.sample_counts(plan, round), now_s, owned_s),
        )
        chunks_bytes = [size for _, size in self._embedding_chunks(plan, round, "plan")]
        shared = sharing_of(plan, 1).isl_bytes(plan, chunks_bytes, up.assignments)
        return Forecast(round, phases, up.assignments + down.assignments, shared)

    def _embedding_chunks(self, plan: MissionPlan, round: int, run: str) -> list[tuple[ChunkId, int]]:
        return [
            (ChunkId(run, round, "gather", origin, "embedding", index), size)
            for origin, count in sorted(sizes.encoded_counts(plan, round).items())
            for index, size in enumerate(sizes.chunks_of(plan, sizes.embedding_bytes(plan, count)))
        ]

    # -- a satellite's view ---------------------------------------------------------------------------------------

    async def satellite_round(self, satellite: Satellite, order: Order) -> None:
        plan, shard = satellite.plan, satellite.shard
        counts = sizes.encoded_counts(plan, order.round)
        charge_s = charges.satellite_s(plan, "embed", counts[satellite.name])
        made_bytes = sizes.embedding_bytes(plan, counts[satellite.name])
        chunks = satellite.held("embedding", "gather", satellite.name, made_bytes) or await satellite.compute(
            "embed",
            charge_s,
            lambda: satellite.cut("gather", "embedding", satellite.name, shard.embed(order.round)),
        )
        sharing_of(plan, order.attempt).start(satellite, chunks)
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

        missing = [
            origin
            for origin, count in sorted(counts.items())
            if not ground.held("feature", "down", origin, sizes.feature_bytes(plan, count))
        ]
        with ground.activity("wait", "embeddings"):
            features = await asyncio.gather(*(encoded(origin) for origin in missing))
        charge_s = charges.ground_s(plan, "encode", sum(counts[origin] for origin in missing))
        await ground.compute("backbone", charge_s, lambda: ground.offer([c for chunks in features for c in chunks]))
        await ground.report("features_ready", computed_ahead=ground.backbone.hits, computed_here=ground.backbone.misses)
