"""What strategies share whose tensors cross between space and ground: reports are answered with flow plans, and what
missed its contact is planned anew."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from testbed.errors import BugError, FlowError
from testbed.flow.assignment import FlowPlan
from testbed.flow.problem import Demand
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report
from testbed.strategy import planes
from testbed.strategy.base import Desk, RoundOutcome, Strategy, averages_plainly
from testbed.strategy.legs import Leg
from testbed.strategy.terms import has_deadlines, without_deadlines
from testbed.transfer.chunks import ChunkId

Handler = Callable[[Desk, Report, list[Report]], Awaitable[None]]
"""Acts on a report; the list is of those that the round's outcome is made of."""


class PassBound(Strategy):
    """A round is begun, reports are acted on by kind, and it is over when ``expected`` of them have been kept."""

    async def coordinate(self, desk: Desk, round: int) -> RoundOutcome:
        await self.begin(desk, round)
        kept: list[Report] = []
        handlers = {
            "round_done": self._keep,
            "undelivered": self._send_again,
            planes.READY: self._send_plane,
            planes.MEAN: self._send_mean,
            **self.handlers(),
        }
        while len(kept) < self.expected(desk.plan):
            report = await desk.next_report()
            handler = handlers.get(report.kind)
            if handler is None:
                raise BugError(f"{report.node} reported {report.kind!r}, which {self.name!r} does not know")
            await handler(desk, report, kept)
        return self.outcome(kept)

    def check_plan(self, plan: MissionPlan) -> None:
        if len(plan.rings) > 1:
            averages_plainly(
                plan.scenario, "over several planes weights are averaged, and nothing else is done with them"
            )

    @abstractmethod
    async def begin(self, desk: Desk, round: int) -> None:
        """Order what a round, or another attempt at it, begins with."""

    def leg_of(self, plan: MissionPlan, chunk: ChunkId, attempt: int) -> Leg:
        """The leg that a chunk belongs to, but for those in which planes meet."""
        raise BugError(f"{self.name!r} sends no {chunk} over passes")

    async def begin_with(self, desk: Desk, round: int, flow: FlowPlan) -> None:
        """Begin the round everywhere: listeners first, then each satellite with its part of a flow plan."""
        plan = desk.plan
        listeners = (plan.ground, *plan.stations)
        await asyncio.gather(*(desk.order(node, Order("begin_round", round)) for node in listeners))
        await asyncio.gather(*(desk.order(s, Order("begin_round", round, flow.via(s))) for s in plan.present))

    def handlers(self) -> Mapping[str, Handler]:
        """What is done about other kinds of reports."""
        return {}

    def expected(self, plan: MissionPlan) -> int:
        """How many reports a round's outcome is made of."""
        return len(plan.present)

    def outcome(self, kept: list[Report]) -> RoundOutcome:
        """What the round came to."""
        return RoundOutcome.agreed(kept)

    async def in_time(self, desk: Desk, round: int, make: Callable[[MissionPlan], FlowPlan]) -> FlowPlan:
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

    def record(self, desk: Desk, flow: FlowPlan, direction: str, round: int) -> None:
        """Journal a flow plan."""
        assignments = [a.__dict__ for a in flow.assignments]
        desk.journal("flow_plan", round=round, direction=direction, assignments=assignments)

    async def send(self, desk: Desk, flow: FlowPlan, round: int) -> None:
        """Tell every first sender of a flow plan its part."""
        for sender in sorted({a.route[0] for a in flow.assignments}):
            await desk.order(sender, Order("send", round, flow.via(sender)))

    async def _keep(self, desk: Desk, report: Report, kept: list[Report]) -> None:
        kept.append(report)

    async def _send_plane(self, desk: Desk, report: Report, kept: list[Report]) -> None:
        flow = await planes.plan_plane(desk, report, self.averaged(desk.plan))
        self.record(desk, flow, "up", report.round)
        await self.send(desk, flow, report.round)

    async def _send_mean(self, desk: Desk, report: Report, kept: list[Report]) -> None:
        flow = await planes.plan_mean(desk, report, self.averaged(desk.plan))
        self.record(desk, flow, "down", report.round)
        await self.send(desk, flow, report.round)

    async def _send_again(self, desk: Desk, report: Report, kept: list[Report]) -> None:
        """A contact ended, or failed, before its chunks were through: plan them anew over what contacts are left."""
        sender, receiver = report.data["missed"]
        failed = desk.plan.contact(sender, receiver, desk.now())
        if failed is not None:
            # Planned again it would be over the same contact, at the same instant, for ever.
            desk.lose(failed)
        desk.journal("replan", round=report.round, missed=f"{sender} -> {receiver}", chunks=report.data["chunks"])
        missed: dict[tuple[str, frozenset[str]], list[Demand]] = {}
        for chunk in map(ChunkId.parse, report.data["chunks"]):
            both = planes.legs(self.averaged(desk.plan), desk.attempt, planes.speakers(desk.plan))
            averaging = {leg.phase: leg for leg in both}
            leg = averaging.get(chunk.phase) or self.leg_of(desk.plan, chunk, desk.attempt)
            demand = leg.again(desk.plan, chunk, sender, desk.now())
            missed.setdefault((leg.way, leg.over), []).append(demand)
        for (way, over), demands in sorted(missed.items(), key=lambda item: item[0][0], reverse=True):
            flow = await desk.consider(partial(desk.flows.plan, desk.plan, demands, desk.now(), over))
            self.record(desk, flow, way, report.round)
            await self.send(desk, flow, report.round)
