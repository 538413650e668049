"""The bound on effort: pixels and labels are sent to the ground, which trains the whole model and sends it back. It
gives up what the others keep: that data stay where they were taken."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from testbed.flow.assignment import FlowPlan
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report, attempted
from testbed.scenario import Scenario
from testbed.strategy import charges, sizes
from testbed.strategy.base import Desk, FlowPlanner, RoundOutcome, averages_plainly
from testbed.strategy.forecast import Forecast, Phase
from testbed.strategy.legs import Leg, plan_down, plan_rest_up, plan_up, ready_at
from testbed.strategy.passes import Handler, PassBound
from testbed.transfer.chunks import ChunkId

if TYPE_CHECKING:
    from testbed.node.ground import GroundServer
    from testbed.node.satellite import Satellite


def sample_leg(plan: MissionPlan, round: int) -> Leg:
    """A round's samples that the ground does not have yet; each goes straight to the contact it uses."""
    counts = sizes.fresh_counts(plan, round)
    return Leg("up", "sample", "samples", {name: sizes.sample_bytes(plan, n) for name, n in counts.items()})


def weights_leg(plan: MissionPlan, attempt: int) -> Leg:
    """The trained weights, for every satellite."""
    tensor = sizes.weights_tensor(plan)
    return Leg("down", tensor, attempted("weights", attempt), dict.fromkeys(plan.present, sizes.weights_bytes(plan)))


class RawDownlink(PassBound):
    """Samples cross once in a run: the ground keeps them."""

    name: ClassVar[str] = "raw-downlink"
    modes: ClassVar[frozenset[str]] = frozenset({"head", "u-shaped"})
    encoder_on_board: ClassVar[bool] = False
    encoder_on_ground: ClassVar[bool] = True
    tensors: ClassVar[frozenset[str]] = frozenset({"sample", "head", "adapter"})

    def check(self, scenario: Scenario) -> None:
        super().check(scenario)
        averages_plainly(scenario, "the one model is on the ground: there are no others to average it with")

    def prepare_satellite(self, satellite: Satellite) -> None:
        from testbed.learning.raw import RawSamples

        satellite.samples = RawSamples(satellite.plan, satellite.name)

    def prepare_ground(self, ground: GroundServer) -> None:
        from testbed.learning.raw import GroundSchool

        super().prepare_ground(ground)
        ground.school = GroundSchool(ground.plan, ground.backbone)

    # -- the controller's view ------------------------------------------------------------------------------------

    async def begin(self, desk: Desk, round: int) -> None:
        flow = await self.in_time(desk, round, partial(self._up, desk, round, desk.now()))
        self.record(desk, flow, "up", round)
        await self.begin_with(desk, round, flow)

    def _up(self, desk: Desk, round: int, now_s: float, plan: MissionPlan) -> FlowPlan:
        legs = [sample_leg(plan, round)]
        if desk.attempt == 1:
            return plan_up(plan, desk.flows, legs, ready_at(legs, now_s), now_s, round, desk.run)
        return plan_rest_up(plan, desk.flows, legs, ready_at(legs, 0.0), now_s, round, desk.run, desk.held_by)

    def leg_of(self, plan: MissionPlan, chunk: ChunkId, attempt: int) -> Leg:
        legs = (sample_leg(plan, chunk.round), weights_leg(plan, attempt))
        return next(leg for leg in legs if leg.phase == chunk.phase)

    def handlers(self) -> Mapping[str, Handler]:
        return {"weights_ready": self._send_weights}

    def expected(self, plan: MissionPlan) -> int:
        return len(plan.present) + 1

    def outcome(self, kept: list[Report]) -> RoundOutcome:
        ready = next(report for report in kept if report.kind == "weights_ready")
        return RoundOutcome.agreed([one for one in kept if one.kind == "round_done"], loss=ready.data["loss"])

    async def _send_weights(self, desk: Desk, report: Report, kept: list[Report]) -> None:
        kept.append(report)
        flow = await self.in_time(desk, report.round, partial(self._down, desk, report.round, desk.now()))
        self.record(desk, flow, "down", report.round)
        await desk.order(desk.plan.ground, Order("send", report.round, flow.assignments))

    def _down(self, desk: Desk, round: int, now_s: float, plan: MissionPlan) -> FlowPlan:
        legs = [weights_leg(plan, desk.attempt)]
        return plan_down(plan, desk.flows, legs, ready_at(legs, now_s), now_s, round, desk.run, desk.held_by)

    # -- prediction -----------------------------------------------------------------------------------------------

    def forecast(self, plan: MissionPlan, flows: FlowPlanner, round: int, now_s: float) -> Forecast:
        ups, downs = [sample_leg(plan, round)], [weights_leg(plan, 1)]
        up = plan_up(plan, flows, ups, ready_at(ups, now_s), now_s, round, "plan")
        arrived_s = max(now_s, up.end_s)
        computed_s = arrived_s + _inputs_s(plan, round)
        trained_s = computed_s + _training_s(plan, round)
        down = plan_down(plan, flows, downs, ready_at(downs, trained_s), trained_s, round, "plan")
        phases = (
            Phase("up", now_s, arrived_s),
            Phase("backbone", arrived_s, computed_s),
            Phase("train", computed_s, trained_s),
            Phase("down", trained_s, max(trained_s, down.end_s)),
        )
        return Forecast(round, phases, up.assignments + down.assignments)

    # -- a satellite's view ---------------------------------------------------------------------------------------

    async def satellite_round(self, satellite: Satellite, order: Order) -> None:
        plan, name, samples = satellite.plan, satellite.name, satellite.samples
        leg = sample_leg(plan, order.round)
        packed = satellite.held(leg.tensor, leg.phase, name, leg.sizes_bytes[name])
        for chunk in packed or satellite.cut(leg.phase, leg.tensor, name, samples.pack(order.round)):
            satellite.mailbox.put(chunk)
        back = weights_leg(plan, order.attempt)
        got = satellite.collect(back.tensor, back.phase, name, back.sizes_bytes[name])
        _, samples.weights = await asyncio.gather(
            satellite.uplink(order.assignments), satellite.wait("the weights", got)
        )
        first = name == plan.present[0]
        await satellite.report("round_done", weights_sha256=samples.sha256(), blob=samples.weights if first else b"")

    # -- the ground server's view ---------------------------------------------------------------------------------

    async def ground_round(self, ground: GroundServer, order: Order) -> None:
        plan, school, round = ground.plan, ground.school, order.round
        leg = sample_leg(plan, round)
        origins = sorted(leg.sizes_bytes)
        with ground.activity("wait", "samples"):
            for origin in origins:
                school.take(round, origin, await ground.collect(leg.tensor, leg.phase, origin, leg.sizes_bytes[origin]))
        await ground.compute("backbone", _inputs_s(plan, round), partial(school.prepare, round, origins))
        loss = await ground.compute("train", _training_s(plan, round), partial(school.train, round, origins))
        back, packed = weights_leg(plan, order.attempt), school.learner.pack()
        for owner in back.sizes_bytes:
            ground.offer(ground.cut(back.phase, back.tensor, owner, packed))
        await ground.report("weights_ready", loss=loss)


def _inputs_s(plan: MissionPlan, round: int) -> float:
    """What embedding and backbone cost the ground, for what it has not computed before."""
    count = sum(sizes.encoded_counts(plan, round).values())
    return charges.ground_s(plan, "embed", count) + charges.ground_s(plan, *sizes.encoding_work(plan.scenario, count))


def _training_s(plan: MissionPlan, round: int) -> float:
    count = sum(sizes.sample_counts(plan, round).values())
    return charges.ground_s(plan, *sizes.training_work(plan.scenario, count))
