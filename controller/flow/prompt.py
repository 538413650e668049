"""Whole chunks as soon as each can be through: the farthest first, wherever there is room."""

from __future__ import annotations

from controller.flow.whole import Placed, Placing
from testbed.flow.problem import Demand, Problem
from testbed.flow.schedule import Schedule


def prompt(problem: Problem, schedule: Schedule, spare: float = 0.0) -> Schedule:
    """A schedule in which no demand is split, from a fluid one whose ways it knows and whose shares it does not follow.

    A fluid plan gives every link its share of the bytes, and none of it has to wait until all of a chunk is there. With
    few chunks, which of them goes over which link matters more than how many bytes do: so, as list scheduling has it
    (Graham, 1969), those that are there first are placed first, of these the ones with the longest way behind their
    slowest link, each where it is through first. ``spare`` and errors as in :func:`~controller.flow.whole.whole`.
    """
    return _Prompt(problem, schedule, spare).schedule()


class _Prompt(Placing):
    """The farthest first, on any way that the schedule uses or that is quickest now."""

    def in_order(self) -> list[Demand]:
        start_s = self.problem.start_s
        behind_s = {demand.name: self._behind_s(demand) for demand in self.problem.demands}
        return sorted(
            self.problem.demands,
            key=lambda d: (d.deadline_s, -d.weight, max(start_s, min(d.ready_s.values())), -behind_s[d.name], d.name),
        )

    def found(self, demand: Demand, spare: float) -> list[Placed]:
        ways = {nodes for nodes in self.every if nodes[0] in demand.ready_s and nodes[-1] == demand.destination}
        quickest = self.earliest(demand, spare)
        if quickest is not None:
            ways.add(quickest)
        return [placed for nodes in sorted(ways) for placed in self.options(demand, nodes, 0.0, spare)]

    def _behind_s(self, demand: Demand) -> float:
        """How much longer a demand is under way than on its slowest link, on its quickest way through empty links."""
        nodes = None if demand.destination in demand.ready_s else self.earliest(demand, 0.0)
        crossed = nodes and self.along(nodes, demand.size_bytes, max(demand.ready_s[nodes[0]], self.problem.start_s), 0)
        if not crossed:
            return 0.0
        windows = [self.problem.windows[crossing.hop.window] for crossing in crossed]
        on_links_s = [demand.size_bytes / window.rate_Bps for window in windows]
        return sum(window.delay_s for window in windows) + sum(on_links_s) - max(on_links_s)
