"""What a computation of a round costs in mission time: the one place where strategies ask device profiles."""

from __future__ import annotations

from testbed.mission import MissionPlan


def satellite_s(plan: MissionPlan, stage: str, count: int) -> float:
    """Seconds that ``count`` items of a stage (samples, or optimiser steps) take on one satellite."""
    return plan.scenario.devices.satellite.charge_s(stage, count)


def ground_s(plan: MissionPlan, stage: str, count: int) -> float:
    """The same on the ground server."""
    return plan.scenario.devices.ground.charge_s(stage, count)
