"""What every scheduler makes of the same transfers, beside what no scheduler can beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controller.flow.chunks import ChunkPlanner, flow_problem
from controller.flow.expanded import certified_bound_s
from testbed import registry
from testbed.flow.assignment import FlowPlan
from testbed.flow.problem import Demand, Problem
from testbed.mission import MissionPlan


@dataclass(frozen=True)
class FlowRow:
    """One scheduler over all transfers of a mission: seconds from when the first byte of each direction of each round
    is there to when the last one has arrived, summed.

    ``completion_time_s`` is what the scheduler says, as a fluid; ``replayed_time_s`` what whole chunks take when its
    plan is replayed; ``lower_bound_s`` what nothing can beat.
    """

    scheduler: str
    completion_time_s: float
    replayed_time_s: float
    lower_bound_s: float


class _Listener:
    """Plans as its planner does, and keeps the problems."""

    def __init__(self, planner: ChunkPlanner) -> None:
        self._planner = planner
        self.problems: list[Problem] = []

    def plan(self, mission: MissionPlan, demands: Sequence[Demand], now_s: float, over: frozenset[str]) -> FlowPlan:
        self.problems.append(flow_problem(mission, demands, now_s, over))
        return self._planner.plan(mission, demands, now_s, over)


def compare_schedulers(plan: MissionPlan) -> list[FlowRow]:
    """Every registered scheduler on the problems that the mission poses when the default one flies it: the same bytes
    from the same instants on. The best first."""
    strategy = registry.load("strategies", plan.strategy)
    listener = _Listener(ChunkPlanner(registry.load("schedulers", registry.DEFAULT_SCHEDULER)))
    now_s = 0.0
    for round in range(1, plan.scenario.learning.rounds + 1):
        now_s = strategy.forecast(plan, listener, round, plan.assembled_s(now_s)).end_s
    bound_s = sum(certified_bound_s(problem) - _first_s(problem) for problem in listener.problems)
    rows = [_row(name, listener.problems, bound_s) for name in registry.names("schedulers")]
    return sorted(rows, key=lambda row: (row.replayed_time_s, row.scheduler))


def _row(name: str, problems: Sequence[Problem], bound_s: float) -> FlowRow:
    planner = ChunkPlanner(registry.load("schedulers", name))
    solved = [planner.solve(problem) for problem in problems]
    return FlowRow(
        name,
        sum(one.completion_s - _first_s(one.problem) for one in solved),
        sum(one.replayed.completion_s - _first_s(one.problem) for one in solved),
        bound_s,
    )


def _first_s(problem: Problem) -> float:
    return min((at_s for demand in problem.demands for at_s in demand.ready_s.values()), default=problem.start_s)
