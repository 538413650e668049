"""What a scenario asks of transfers: weights and deadlines."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from testbed.mission import MissionPlan


@dataclass(frozen=True)
class Terms:
    """Of one transfer. ``deadline_s`` is a mission time."""

    weight: float = 1.0
    deadline_s: float = math.inf


def terms_of(plan: MissionPlan, way: Literal["up", "down"], satellite: str, begins_s: float = math.inf) -> Terms:
    """What the scenario's ``transfers`` ask of what a satellite sends up, or is sent, if it can begin at a mission
    time. Of entries that fit the last one counts."""
    found = Terms()
    for entry in plan.scenario.transfers:
        if entry.way == way and entry.node in (None, satellite):
            found = Terms(entry.weight, math.inf if entry.deadline_s is None else begins_s + entry.deadline_s)
    return found


def without_deadlines(plan: MissionPlan) -> MissionPlan:
    """The same plan, in which transfers may take as long as they do: one that is late already must still arrive."""
    entries = tuple(entry.model_copy(update={"deadline_s": None}) for entry in plan.scenario.transfers)
    return replace(plan, scenario=plan.scenario.model_copy(update={"transfers": entries}))


def has_deadlines(plan: MissionPlan) -> bool:
    """Whether the scenario asks for any."""
    return any(entry.deadline_s is not None for entry in plan.scenario.transfers)
