"""Flies a mission on whatever fleet it is given: rounds in order, evaluation beside them, a verdict at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any, TypeVar

from controller.collectives import CollectiveMeter
from controller.flow.chunks import ChunkPlanner
from controller.traffic import TrafficMeter
from controller.verdict import Judge
from controller.whereabouts import Whereabouts
from testbed import registry
from testbed.collective.membership import Membership
from testbed.errors import BoardError, FlowError, LinkError, NodeLost
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report
from testbed.orbit.contacts import Contact
from testbed.rack.base import Fleet, Job, Record
from testbed.scenario import FailureSettings
from testbed.strategy.base import EVERYBODY, FlowPlanner, RoundOutcome, Strategy

T = TypeVar("T")


class _Desk:
    """What a strategy sees of the controller while it coordinates a round."""

    def __init__(self, fleet: Fleet, job: Job, flows: FlowPlanner, whereabouts: Whereabouts, record: Record) -> None:
        self._fleet = fleet
        self._whereabouts = whereabouts
        self._record = record
        self.plan: MissionPlan = job.plan
        self.run = job.run
        self.flows = flows
        self.attempt = 1
        self._begun_s = 0.0

    def now(self) -> float:
        return self._fleet.clock.now()

    async def begin(self, round: int) -> None:
        """A round begins, for the first time. Raises LinkError where the satellites cannot all reach each other any
        more."""
        self.attempt = 1
        self._whereabouts.forget(round)
        self._begun_s = self._assembled_s(round)
        await self._fleet.clock.sleep_until(self._begun_s)

    def _assembled_s(self, round: int) -> float:
        """When every plane is in one piece; said where that is not now."""
        now_s = self.now()
        at_s = self.plan.assembled_s(now_s)
        if at_s > now_s:
            self.journal("apart", round=round, until_s=at_s)
        return at_s

    async def begin_again(self, round: int, loss: NodeLost) -> None:
        """A round begins once more, without a node that was lost in it. Raises LinkError where the others cannot all
        reach each other, and BoardError where nobody is left to train."""
        self.plan = self.plan.without_nodes({loss.node})
        if not self.plan.present:
            raise BoardError(f"{loss}; it was the last satellite")
        self.attempt, self._begun_s = self.attempt + 1, self._assembled_s(round)
        self.journal("node_lost", lost=loss.node, why=loss.why, round=round, members=self.members())
        remaining = [node for node in self.plan.nodes if node not in self.plan.lost]
        await asyncio.gather(*(self.order(node, Order("abandon", round)) for node in remaining))
        await self._fleet.clock.sleep_until(self._begun_s)

    def memberships(self) -> tuple[Membership, ...]:
        """Who takes part in this attempt, plane by plane."""
        return self.plan.memberships(self._begun_s)

    def members(self) -> str:
        """The same for the record."""
        return "; ".join(map(str, self.memberships()))

    async def order(self, node: str, order: Order) -> None:
        if node not in self.plan.lost:
            whole = replace(order, attempt=self.attempt, lost=self.plan.lost, begun_s=self._begun_s)
            await self._fleet.order(node, whole)

    async def consider(self, work: Callable[[], T]) -> T:
        return await self._fleet.clock.compute(0.0, work)

    async def next_report(self) -> Report:
        while True:
            report = await self._fleet.clock.wait(self._fleet.reports.get())
            if report.kind == "failed":
                raise BoardError(f"{report.node}: {report.data['error']}: {report.data['message']}")
            if report.kind == "lost":
                raise NodeLost(report.node, report.data["why"])
            if report.kind == "unreachable":
                if not await self._fleet.is_lost(report.data["peer"]):
                    raise LinkError(report.data["why"])
            elif report.data["attempt"] == self.attempt:
                return report

    def held_by(self, chunk: str) -> frozenset[str]:
        return self._whereabouts.of(chunk)

    def lose(self, contact: Contact) -> None:
        self.plan = self.plan.without(contact)
        self.journal("contact_lost", **vars(contact))

    def journal(self, kind: str, **data: object) -> None:
        self._record({"kind": kind, "node": "controller", "mission_s": self.now(), **data})


async def fly(fleet: Fleet, job: Job, record: Record) -> dict[str, Any]:
    """Run every round of a job; returns the figures that only the fleet's side knows.

    Evaluation uses the ground's own copy of the data and is charged nothing: no byte of it is on a data address.
    Validation accuracy is read every round, the test split once, at the end.
    """
    from testbed.learning.ahead import AheadStore
    from testbed.learning.appraisal import Appraiser

    plan = job.plan
    strategy = registry.load("strategies", job.strategy)
    flows = ChunkPlanner(registry.load("schedulers", job.scheduler))
    traffic, judge, whereabouts = TrafficMeter(plan), Judge(), Whereabouts()
    collectives = CollectiveMeter(plan)
    observers = (traffic.observe, judge.observe, whereabouts.observe, collectives.observe, record)

    def observe(event: dict[str, Any]) -> None:
        for observer in observers:
            observer(event)

    fleet.observe(observe)
    appraiser = Appraiser(plan.scenario, AheadStore(job.ahead) if job.ahead else None)
    certificate = await fleet.prepare()
    record({"kind": "certificate", "node": "controller", "mission_s": 0.0, "rows": certificate})
    await fleet.start()
    started = time.monotonic()
    desk = _Desk(fleet, job, flows, whereabouts, observe)
    failing = asyncio.get_running_loop().create_task(_fail(fleet, desk, plan.scenario.failures))
    models: Mapping[str, bytes] = {EVERYBODY: appraiser.first}
    rounds: list[dict[str, Any]] = []
    memberships: list[tuple[int, tuple[Membership, ...]]] = []
    for round in range(1, plan.scenario.learning.rounds + 1):
        begun_s = desk.now()
        desk.journal("round_started", round=round)
        outcome = await _coordinate(strategy, desk, round)
        models = outcome.models
        if outcome.disagreement:
            judge.condemn(f"round {round}: {outcome.disagreement}")
        accuracies = await desk.consider(partial(appraiser.validation_accuracies, models))
        rounds.append(
            {
                "round": round,
                "start_s": begun_s,
                "end_s": max(report.mission_s for report in outcome.reports),
                "loss": outcome.loss,
                "weights_sha256": appraiser.digest(models),
                "average_deviation": outcome.reports[0].data.get("average_deviation"),
                "codec_error": _codec_error(outcome.reports),
                "members": desk.members(),
                "attempts": desk.attempt,
                "validation_accuracy": fmean(accuracies.values()),
                **_by_satellite("validation_by_satellite", accuracies),
            }
        )
        memberships.append((desk.attempt, desk.memberships()))
        desk.journal("round_finished", **rounds[-1])
        # Beside the observers: it is of the host's concern, which keeps the weights and makes a checkpoint of it.
        record(
            {"kind": "weights", "node": "controller", "mission_s": desk.now(), **rounds[-1], "weights": dict(models)}
        )
    failing.cancel()
    await fleet.settle()
    for finished, took_part in zip(rounds, memberships, strict=True):
        finished["collectives"] = collectives.of(finished["round"], *took_part)
    mission_s = rounds[-1]["end_s"]
    before, after = appraiser.test_accuracies(models)
    judge.weigh_host(fleet.facts())
    verdict, reasons = judge.verdict()
    return {
        "rounds": rounds,
        "accuracy": {
            "before": before,
            "after": fmean(after.values()),
            "validation": rounds[-1]["validation_accuracy"],
            **_by_satellite("after_by_satellite", after),
        },
        "mission_time_s": mission_s,
        "flight_real_time_s": time.monotonic() - started,
        "bytes": traffic.totals(),
        "bytes_by_link": traffic.by_link(),
        "exchange": traffic.met(),
        "verdict": verdict,
        "verdict_reasons": reasons,
        "weights": dict(models),
        "weights_sha256": rounds[-1]["weights_sha256"],
        "facts": fleet.facts(),
    }


def _by_satellite(key: str, values: Mapping[str, float]) -> dict[str, Mapping[str, float]]:
    """Figures of several models, under a key; nothing where there is one for all."""
    return {} if values.keys() == {EVERYBODY} else {key: values}


def _codec_error(done: Sequence[Report]) -> dict[str, float] | None:
    """What rounding did to the round's cut tensors, those of all satellites together; nothing where none was cut."""
    from testbed.learning.codec import CodecError

    parts = [
        CodecError(**report.data["codec_error"])
        for report in sorted(done, key=lambda one: one.node)
        if "codec_error" in report.data
    ]
    return CodecError.total(parts).to_dict() if parts else None


async def _coordinate(strategy: Strategy, desk: _Desk, round: int) -> RoundOutcome:
    """A round, begun again by the others as often as a node is lost in it."""
    await desk.begin(round)
    while True:
        try:
            return await strategy.coordinate(desk, round)
        except NodeLost as loss:
            await desk.begin_again(round, loss)
        except FlowError as error:
            if not desk.plan.lost:
                raise
            # The scenario had contacts enough while these nodes lived.
            raise LinkError(f"without {', '.join(desk.plan.lost)}: {error.message}") from error


async def _fail(fleet: Fleet, desk: _Desk, failures: Sequence[FailureSettings]) -> None:
    """Let nodes fail when the scenario says so."""
    for failure in sorted(failures, key=lambda one: one.at_s):
        await fleet.clock.sleep_until(failure.at_s)
        if failure.node not in fleet.lost:
            desk.journal("failure", failed=failure.node)
            fleet.kill(failure.node)
