"""Flies a mission on whatever fleet it is given: rounds in order, evaluation beside them, a verdict at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from controller.flow.chunks import ChunkPlanner
from controller.traffic import TrafficMeter
from controller.verdict import Judge
from testbed import registry
from testbed.errors import BoardError
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report
from testbed.orbit.contacts import Contact
from testbed.rack.base import Fleet, Job, Record
from testbed.strategy.base import FlowPlanner

T = TypeVar("T")


class _Desk:
    """What a strategy sees of the controller while it coordinates a round."""

    def __init__(self, fleet: Fleet, job: Job, flows: FlowPlanner, record: Record) -> None:
        self._fleet = fleet
        self._record = record
        self.plan: MissionPlan = job.plan
        self.run = job.run
        self.flows = flows

    def now(self) -> float:
        return self._fleet.clock.now()

    async def order(self, node: str, order: Order) -> None:
        await self._fleet.order(node, order)

    async def consider(self, work: Callable[[], T]) -> T:
        return await self._fleet.clock.compute(0.0, work)

    async def next_report(self) -> Report:
        report = await self._fleet.clock.wait(self._fleet.reports.get())
        if report.kind == "failed":
            raise BoardError(f"{report.node}: {report.data['error']}: {report.data['message']}")
        return report

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
    traffic, judge = TrafficMeter(plan), Judge()
    observers = (traffic.observe, judge.observe, record)

    def observe(event: dict[str, Any]) -> None:
        for observer in observers:
            observer(event)

    fleet.observe(observe)
    appraiser = Appraiser(plan.scenario, AheadStore(job.ahead) if job.ahead else None)
    certificate = await fleet.prepare()
    record({"kind": "certificate", "node": "controller", "mission_s": 0.0, "rows": certificate})
    await fleet.start()
    started = time.monotonic()
    desk = _Desk(fleet, job, flows, observe)
    weights = appraiser.first
    rounds = []
    for round in range(1, plan.scenario.learning.rounds + 1):
        begun_s = desk.now()
        desk.journal("round_started", round=round)
        done = await strategy.coordinate(desk, round)
        weights = next(report.blob for report in done if report.blob)
        loss = sum(report.data["loss"] * report.data["samples"] for report in done) / sum(
            report.data["samples"] for report in done
        )
        digests = {report.data["weights_sha256"] for report in done}
        if len(digests) > 1:
            judge.condemn(f"round {round}: the satellites ended with {len(digests)} different weights")
        rounds.append(
            {
                "round": round,
                "start_s": begun_s,
                "end_s": max(report.mission_s for report in done),
                "loss": loss,
                "weights_sha256": min(digests),
                "validation_accuracy": await desk.consider(partial(appraiser.validation_accuracy, weights)),
            }
        )
        desk.journal("round_finished", **rounds[-1])
    await fleet.settle()
    mission_s = rounds[-1]["end_s"]
    before, after = appraiser.test_accuracy(weights)
    judge.weigh_host(fleet.facts())
    verdict, reasons = judge.verdict()
    return {
        "rounds": rounds,
        "accuracy": {"before": before, "after": after, "validation": rounds[-1]["validation_accuracy"]},
        "mission_time_s": mission_s,
        "flight_real_time_s": time.monotonic() - started,
        "bytes": traffic.totals(),
        "bytes_by_link": traffic.by_link(),
        "exchange": traffic.met(),
        "verdict": verdict,
        "verdict_reasons": reasons,
        "weights": weights,
        "weights_sha256": rounds[-1]["weights_sha256"],
        "facts": fleet.facts(),
    }
