"""The floor: every satellite trains on its own samples, and nothing is exchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from testbed.flow.assignment import Assignment
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report
from testbed.scenario import Scenario
from testbed.strategy import rounds, sizes
from testbed.strategy.base import FlowPlanner, RoundOutcome, averages_plainly
from testbed.strategy.forecast import Phase
from testbed.strategy.onboard import Onboard

if TYPE_CHECKING:
    from testbed.learning.learners import Inputs
    from testbed.node.ground import GroundServer
    from testbed.node.satellite import Satellite


class LocalOnly(Onboard):
    """Encoder and head on every satellite, as in ``onboard``, and a model each at the end. A run's accuracy is the mean
    of theirs."""

    name: ClassVar[str] = "local-only"
    tensors: ClassVar[frozenset[str]] = frozenset()

    def check(self, scenario: Scenario) -> None:
        super().check(scenario)
        averages_plainly(scenario, "nothing is averaged")

    def outcome(self, kept: list[Report]) -> RoundOutcome:
        return RoundOutcome.apart(kept)

    def forecast_training(
        self, plan: MissionPlan, flows: FlowPlanner, round: int, begun_s: float, start_s: float
    ) -> tuple[tuple[Phase, ...], tuple[Assignment, ...]]:
        counts = sizes.sample_counts(plan, round)
        return (Phase("train", start_s, start_s + max(rounds.training_s(plan, n) for n in counts.values())),), ()

    async def end_round(self, satellite: Satellite, inputs: Inputs) -> None:
        loss, count = await rounds.train(satellite, inputs)
        await rounds.report_done(satellite, loss, count, apart=True)

    async def ground_round(self, ground: GroundServer, order: Order) -> None:
        """Nothing."""
