"""From chunks to a flow plan: the links of a mission as a flow problem, a scheduler's answer as orders for nodes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from controller.flow.bottleneck import clock, in_the_way, too_late
from controller.flow.prompt import prompt
from controller.flow.replay import Replayed, replay
from controller.flow.whole import TOUCH_S, whole
from testbed.errors import BugError, FlowError
from testbed.flow.assignment import Assignment, FlowPlan
from testbed.flow.problem import Demand, Problem, Window
from testbed.flow.schedule import FlowScheduler, Schedule, Share
from testbed.link.plan import LinkState
from testbed.metrics import direction
from testbed.mission import MissionPlan
from testbed.transfer.transport import PAYLOAD_SHARE

SPACE_GROUND = frozenset({"up", "down"})
LAG_S = 5.0
"""What misses a pass is later than planned by more than this: passes are further apart."""


@dataclass(frozen=True)
class Solved:
    """A problem of whole chunks: when its scheduler has it through (mission time), the schedule of whole chunks, and
    what the replay of that found."""

    problem: Problem
    completion_s: float
    schedule: Schedule
    replayed: Replayed


class ChunkPlanner:
    """Chunks by a scheduler's plan: each whole and along one way."""

    def __init__(self, scheduler: FlowScheduler) -> None:
        self._scheduler = scheduler

    def plan(self, mission: MissionPlan, demands: Sequence[Demand], now_s: float, over: frozenset[str]) -> FlowPlan:
        """The flow plan of these chunks over these kinds of links; FlowError when the horizon is too short."""
        try:
            solved = self.solve(flow_problem(mission, demands, now_s, over))
        except FlowError as error:
            in_time = any(demand.deadline_s < math.inf for demand in demands)
            raise FlowError(
                f"after {now_s:.0f} s of mission time {error.message}",
                field="transfers" if in_time else "duration",
                found=error.found or f"{mission.scenario.duration_s:.0f} s",
                allowed=(in_time and error.allowed) or "a horizon with enough contacts for all rounds",
            ) from None
        assignments = [_assignment(mission, solved.problem, share) for share in solved.schedule.shares]
        last_s: dict[str, float] = {}
        for a in assignments:
            last_s[a.chunk] = max(a.start_s, last_s.get(a.chunk, -math.inf))
        assignments = [replace(a, cut_by_plan=a.start_s < last_s[a.chunk]) for a in assignments]
        return FlowPlan(tuple(sorted(assignments, key=lambda a: (a.start_s, a.chunk))))

    def solve(self, problem: Problem) -> Solved:
        """Schedule, keep chunks whole, replay. FlowError when the scheduler finds no way, or one that takes a chunk
        past its deadline."""
        fluid = self._scheduler.schedule(problem)
        piece_bytes = max((demand.size_bytes for demand in problem.demands), default=1.0)
        found = self._rounded(problem, fluid, piece_bytes, 0.0)
        if not any(one.in_time for one in found):
            # Senders do not wait for what is planned next when something else is there: what was planned for the end
            # of a pass may then miss it.
            found += self._rounded(problem, fluid, piece_bytes, 1.0)
        best = min(found, key=lambda one: (len(one.replayed.missing_bytes), len(one.late), one.replayed.completion_s))
        missing, held_up = best.replayed.missing_bytes, best.replayed.held_up_bytes
        if missing:
            some = ", ".join(sorted(missing)[:3])
            full = f", and the storage of {', '.join(held_up)} is" if held_up else ""
            raise FlowError(f"the last contacts are too full{full}: {len(missing)} chunks miss them ({some})")
        for demand, at_s in best.late:
            more = f": sent whole it is at {clock(at_s)}"
            raise too_late(demand, problem.end_s, in_the_way(problem, demand), more)
        return Solved(problem, fluid.completion_s, best.schedule, best.replayed)

    def _rounded(self, problem: Problem, fluid: Schedule, piece_bytes: float, spare: float) -> list[_Rounded]:
        """The fluid schedule in whole chunks, in each way that the scheduler admits of and that finds room."""
        found, full = [], None
        for place in (whole, prompt) if self._scheduler.reroutable else (whole,):
            try:
                schedule = place(problem, fluid, spare)
            except FlowError as error:
                full = error
            else:
                found.append(_Rounded(problem, schedule, replay(problem, schedule, piece_bytes)))
        if full is not None and not found:
            raise full
        return found


@dataclass(frozen=True)
class _Rounded:
    """A schedule of whole chunks, and what became of it."""

    problem: Problem
    schedule: Schedule
    replayed: Replayed

    @property
    def in_time(self) -> bool:
        """Whether nothing misses a pass that it was planned for."""
        return not self.replayed.missing_bytes and self.replayed.completion_s <= self.schedule.completion_s + LAG_S

    @property
    def late(self) -> list[tuple[Demand, float]]:
        """What a fluid would have in time, and a whole chunk has not: when it arrives."""
        found = []
        for share in self.replayed.shares:
            demand = self.problem.demand[share.demand]
            if share.hops and demand.deadline_s < math.inf:
                at_s = share.hops[-1].end_s + self.problem.windows[share.hops[-1].window].delay_s
                if at_s > demand.deadline_s + TOUCH_S:
                    found.append((demand, at_s))
        return found


def flow_problem(mission: MissionPlan, demands: Sequence[Demand], now_s: float, over: frozenset[str]) -> Problem:
    """The mission's links of these kinds from ``now_s`` to the end of its horizon, between space and ground inside its
    contacts alone, and the demands."""
    windows = [
        window
        for sender, receiver, opens_s, closes_s in _spans(mission)
        if direction(sender, receiver) in over and closes_s > now_s
        for states in [mission.link_plans[sender].links.get(receiver)]
        if states is not None
        for window in link_windows(sender, receiver, states, max(opens_s, now_s), closes_s)
    ]
    return Problem(tuple(sorted(windows, key=lambda w: (w.start_s, w.sender, w.receiver))), tuple(demands), now_s)


def _spans(mission: MissionPlan) -> Iterator[tuple[str, str, float, float]]:
    """Every directed link and from when to when it may be planned for."""
    for contact in mission.contacts:
        yield contact.satellite, contact.station, contact.start_s, contact.end_s
        yield contact.station, contact.satellite, contact.start_s, contact.end_s
    for sender, plan in sorted(mission.link_plans.items()):
        for receiver in sorted(plan.links):
            if direction(sender, receiver) not in SPACE_GROUND:
                yield sender, receiver, 0.0, mission.scenario.duration_s


def link_windows(
    sender: str, receiver: str, states: Sequence[LinkState], start_s: float, end_s: float
) -> Iterator[Window]:
    """A link between two mission times: consecutive states of one rate are one window, as late as the latest of them.

    Delays of a pass differ by some milliseconds, and are the small part of what a chunk takes.
    """
    ends_s = [state.start_s for state in states[1:]] + [math.inf]
    for rate_bps, run in groupby(zip(states, ends_s, strict=True), key=lambda pair: pair[0].rate_bps):
        joined = list(run)
        opens_s = max(start_s, joined[0][0].start_s)
        closes_s = min(end_s, joined[-1][1])
        if rate_bps > 0 and opens_s < closes_s:
            delay_s = max(state.delay_ms for state, _ in joined) / 1000
            yield Window(sender, receiver, opens_s, closes_s, rate_bps * PAYLOAD_SHARE / 8, delay_s)


def _assignment(mission: MissionPlan, problem: Problem, share: Share) -> Assignment:
    windows = [problem.windows[hop.window] for hop in share.hops]
    route = (windows[0].sender, *(window.receiver for window in windows))
    hop, window = next((h, w) for h, w in zip(share.hops, windows, strict=True) if _leaves_space(w))
    contact = mission.contact(window.sender, window.receiver, (hop.start_s + hop.end_s) / 2)
    if contact is None:
        raise BugError(f"{window.sender} -> {window.receiver} is planned at {hop.start_s:.3f} s, outside every contact")
    size = round(problem.demand[share.demand].size_bytes)
    arrives_s = share.hops[-1].end_s + windows[-1].delay_s
    return Assignment(
        share.demand,
        size,
        route,
        contact.start_s,
        contact.end_s,
        hop.start_s,
        hop.end_s,
        arrives_s,
        share.not_before_s,
    )


def _leaves_space(window: Window) -> bool:
    return direction(window.sender, window.receiver) in SPACE_GROUND
