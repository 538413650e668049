"""What a computation of a round costs in mission time: the one place where strategies ask device profiles."""

from __future__ import annotations

from testbed.learning import placement
from testbed.mission import MissionPlan
from testbed.scenario import Scenario
from testbed.scenario_learning import LearningSettings
from testbed.stage_work import STAGES, StageWork, linear_flop

_TRAINED = frozenset({"encode_train", "head"})
"""Stages that optimiser steps are made of; the others go in micro-batches."""


def satellite_s(plan: MissionPlan, stage: str, count: int) -> float:
    """Seconds that ``count`` items of a stage (samples, or optimiser steps) take on one satellite."""
    return _charge_s(plan.scenario, "satellite", stage, count)


def ground_s(plan: MissionPlan, stage: str, count: int) -> float:
    """The same on the ground server."""
    return _charge_s(plan.scenario, "ground", stage, count)


def work(learning: LearningSettings) -> StageWork:
    """How many operations an item of every stage of the scenario's model is."""
    shape = placement.model_shape(learning)
    return StageWork.forward(
        learning.model,
        embed=shape.embedding_flops,
        encode=shape.backbone_flops,
        head=linear_flop(shape.feature_width, len(placement.dataset(learning).classes)),
        batch_size=learning.batch_size,
    )


def item_s(scenario: Scenario, node: str, stage: str) -> float:
    """Seconds that each item of a full call adds on a ``satellite`` or the ``ground``: what reports show."""
    batch = _batch(scenario.learning, stage)
    return (_charge_s(scenario, node, stage, 2 * batch) - _charge_s(scenario, node, stage, batch)) / batch


def items_s(scenario: Scenario, node: str) -> dict[str, float]:
    """The same of every stage."""
    return {stage: item_s(scenario, node, stage) for stage in STAGES}


def _charge_s(scenario: Scenario, node: str, stage: str, count: int) -> float:
    learning = scenario.learning
    return scenario.devices.by_node[node].charge_s(work(learning), stage, count, _batch(learning, stage))


def _batch(learning: LearningSettings, stage: str) -> int:
    return learning.batch_size if stage in _TRAINED else learning.micro_batch
