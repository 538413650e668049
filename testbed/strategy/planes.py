"""Several planes: what each has averaged inside meets on the ground, which sends the mean over all back.

A plane's weights go up from whichever of its satellites the flow plan names, since all of them hold the same; the mean
comes down to one of them, which passes it on round its ring. What is averaged are plain numbers in fp32, added in the
planes' order in fp64 and cast once (DESIGN, decision 13).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from testbed.flow.assignment import Assignment, FlowPlan
from testbed.mission import MissionPlan
from testbed.node.orders import Order, Report, attempted
from testbed.strategy import sizes
from testbed.strategy.base import Desk, FlowPlanner
from testbed.strategy.forecast import Phase
from testbed.strategy.legs import Leg, plan_down, plan_up, ready_at
from testbed.strategy.sharing import Sharing
from testbed.strategy.sizes import Averaged
from testbed.transfer.chunks import Chunk

if TYPE_CHECKING:
    from testbed.node.ground import GroundServer
    from testbed.node.satellite import Satellite

READY = "plane_ready"
MEAN = "mean_ready"


class Replicated(Sharing):
    """Every satellite of a plane has made the same: whoever has a contact sends it."""

    over = frozenset({"up", "backhaul"})

    def held_s(
        self,
        plan: MissionPlan,
        blocks: Mapping[str, Sequence[int]],
        ready_s: Mapping[str, float],
        hop_delay_s: float,
        begun_s: float,
    ) -> dict[tuple[str, int], dict[str, float]]:
        return {
            (origin, index): dict.fromkeys(plan.plane_of(origin), ready_s[origin])
            for origin in blocks
            for index in range(len(blocks[origin]))
        }

    def holders(self, plan: MissionPlan, holder: str) -> tuple[str, ...]:
        return plan.plane_of(holder)

    def start(self, satellite: Satellite, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            satellite.mailbox.put(chunk)

    def isl_bytes(self, plan: MissionPlan, sizes_bytes: Iterable[int], assignments: Sequence[Assignment]) -> int:
        return 0


def speakers(plan: MissionPlan) -> tuple[str, ...]:
    """One satellite of each plane that has any left: whose name the plane's weights travel under, and who gets the
    mean."""
    return tuple(plane[0] for plane in plan.planes)


def legs(averaged: Averaged, attempt: int, of: Sequence[str]) -> tuple[Leg, Leg]:
    """The weights of the planes with these speakers up, and the mean down to them, in an attempt (or turn)."""
    made = dict.fromkeys(of, averaged.size_bytes)
    return (
        Leg("up", averaged.tensor, attempted("plane", attempt), made, Replicated()),
        Leg("down", averaged.tensor, attempted("mean", attempt), made),
    )


# -- the controller's view ----------------------------------------------------------------------------------------


async def plan_plane(desk: Desk, report: Report, averaged: Averaged) -> FlowPlan:
    """A plane's weights up."""
    up, _ = legs(averaged, report.data["again"], [report.node])
    now_s = desk.now()
    make = partial(plan_up, flows=desk.flows, legs=[up], ready_s=ready_at([up], now_s), now_s=now_s)
    return await desk.consider(partial(make, desk.plan, round=report.round, run=desk.run))


async def plan_mean(desk: Desk, report: Report, averaged: Averaged) -> FlowPlan:
    """The mean down, to those for whom it is."""
    _, down = legs(averaged, report.data["again"], report.data["to"])
    now_s = desk.now()
    make = partial(plan_down, flows=desk.flows, legs=[down], ready_s=ready_at([down], now_s), now_s=now_s)
    return await desk.consider(partial(make, desk.plan, round=report.round, run=desk.run))


def forecast(
    plan: MissionPlan, flows: FlowPlanner, averaged: Averaged, round: int, at_s: float
) -> tuple[tuple[Phase, ...], tuple[Assignment, ...]]:
    """What averaging over planes takes if all have averaged inside at a mission time; nothing for one plane."""
    if len(plan.planes) == 1:
        return (), ()
    up, down = legs(averaged, 1, speakers(plan))
    ups = plan_up(plan, flows, [up], ready_at([up], at_s), at_s, round, "plan")
    downs = plan_down(plan, flows, [down], ready_at([down], ups.end_s), ups.end_s, round, "plan")
    last_s = downs.end_s + max(plan.spread_s(plane, at_s, averaged.size_bytes) for plane in plan.planes)
    return (Phase("over the ground", at_s, last_s),), ups.assignments + downs.assignments


# -- the nodes' views ---------------------------------------------------------------------------------------------


async def meet(satellite: Satellite, packed: bytes, again: int) -> bytes:
    """What the ground makes of what every plane has averaged, in an attempt (or turn) of this number."""
    plan = satellite.plan
    plane = plan.plane_of(satellite.name)
    speaker = plane[0]
    averaged = Averaged(satellite.shard.learner.tensor, len(packed))
    up, down = legs(averaged, again, [speaker])
    up.sharing.start(satellite, satellite.cut(up.phase, up.tensor, speaker, packed))
    if satellite.name == speaker:
        await satellite.report(READY, again=again)
        mean = await satellite.wait("the mean", satellite.collect(down.tensor, down.phase, speaker, len(packed)))
        satellite.share(satellite.cut(attempted("spread", again), down.tensor, speaker, mean))
        return mean
    spread = satellite.collect(down.tensor, attempted("spread", again), speaker, len(packed))
    return await satellite.wait("the mean", spread)


async def average(ground: GroundServer, order: Order) -> None:
    """The ground's part: collect every plane's weights, and offer their mean, by the planes' samples."""
    plan = ground.plan
    if len(plan.planes) == 1:
        return
    up, down = legs(ground.strategy.averaged(plan), order.attempt, speakers(plan))
    counts = sizes.sample_counts(plan, order.round)
    weights = {plane[0]: float(sum(counts[name] for name in plane)) for plane in plan.planes}
    with ground.activity("wait", "planes"):
        blocks = {
            speaker: (weights[speaker], await ground.collect(up.tensor, up.phase, speaker, size))
            for speaker, size in up.sizes_bytes.items()
        }
    from testbed.learning.aggregate import mean_of_packed

    mean = mean_of_packed({speaker: block for speaker, block in blocks.items() if weights[speaker]})
    for speaker in down.sizes_bytes:
        ground.offer(ground.cut(down.phase, down.tensor, speaker, mean))
    await ground.report(MEAN, again=order.attempt, to=sorted(down.sizes_bytes))
