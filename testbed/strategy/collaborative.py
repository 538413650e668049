"""Satellite-ground collaborative fine-tuning (Zhu et al., GLOBECOM 2024, doi 10.1109/GLOBECOM52923.2024.10901682):
embedding and head on the satellites, backbone on the ground, embeddings sent up through whoever has a contact, features
sent back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from testbed.mission import MissionPlan
from testbed.node.orders import Order
from testbed.scenario import Scenario
from testbed.strategy.base import Desk, FlowPlanner, RoundOutcome, Strategy
from testbed.strategy.forecast import Forecast
from testbed.strategy.frozen import FrozenBackbone, PipelinedBackbone
from testbed.strategy.sizes import Averaged
from testbed.strategy.split import SplitBackbone

if TYPE_CHECKING:
    from testbed.node.ground import GroundServer
    from testbed.node.satellite import Satellite


class Collaborative(Strategy):
    """Mode ``head`` freezes the backbone, mode ``u-shaped`` trains LoRA on it with gradients that cross the link."""

    name: ClassVar[str] = "collaborative"
    modes: ClassVar[frozenset[str]] = frozenset({"head", "u-shaped"})
    encoder_on_board: ClassVar[bool] = False
    encoder_on_ground: ClassVar[bool] = True
    tensors: ClassVar[frozenset[str]] = Strategy.tensors | SplitBackbone.tensors

    def check(self, scenario: Scenario) -> None:
        super().check(scenario)
        _rounds(scenario).check(scenario)

    def check_plan(self, plan: MissionPlan) -> None:
        _rounds(plan.scenario).check_plan(plan)

    def averaged(self, plan: MissionPlan) -> Averaged:
        return _rounds(plan.scenario).averaged(plan)

    def prepare_satellite(self, satellite: Satellite) -> None:
        _rounds(satellite.plan.scenario).prepare_satellite(satellite)

    def prepare_ground(self, ground: GroundServer) -> None:
        _rounds(ground.plan.scenario).prepare_ground(ground)

    async def coordinate(self, desk: Desk, round: int) -> RoundOutcome:
        return await _rounds(desk.plan.scenario).coordinate(desk, round)

    def forecast(self, plan: MissionPlan, flows: FlowPlanner, round: int, now_s: float) -> Forecast:
        return _rounds(plan.scenario).forecast(plan, flows, round, now_s)

    async def satellite_round(self, satellite: Satellite, order: Order) -> None:
        await _rounds(satellite.plan.scenario).satellite_round(satellite, order)

    async def ground_round(self, ground: GroundServer, order: Order) -> None:
        await _rounds(ground.plan.scenario).ground_round(ground, order)


_ROUNDS: Mapping[tuple[str, bool], Strategy] = {
    ("head", False): FrozenBackbone(),
    ("head", True): PipelinedBackbone(),
    ("u-shaped", False): SplitBackbone(),
    ("u-shaped", True): SplitBackbone(),
}
"""By mode, and whether a round's samples go through it in parts. In mode ``u-shaped`` the cut tensors do."""


def _rounds(scenario: Scenario) -> Strategy:
    return _ROUNDS[scenario.learning.mode, scenario.learning.pipeline > 1]
