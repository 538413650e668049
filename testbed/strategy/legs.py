"""What crosses between space and ground in a round, and when it is planned to: legs of one kind of tensor, one way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from testbed.flow.assignment import FlowPlan
from testbed.flow.problem import Demand
from testbed.mission import MissionPlan
from testbed.strategy import sizes
from testbed.strategy.base import FlowPlanner
from testbed.strategy.sharing import SHARINGS, Sharing
from testbed.strategy.terms import terms_of
from testbed.transfer.chunks import ChunkId

HeldBy = Callable[[str], frozenset[str]]
"""The nodes that are known to have a chunk."""

DOWN = frozenset({"backhaul", "down", "isl"})
"""The kinds of links that what comes down may use."""


@dataclass(frozen=True)
class Leg:
    """Tensors of one kind that cross one way in one step of a round. ``sizes_bytes`` is by the satellite that made what
    goes up, or that gets what comes down. How what goes up gets to whoever has a contact, ``sharing`` says."""

    way: Literal["up", "down"]
    tensor: str
    phase: str
    sizes_bytes: Mapping[str, int]
    sharing: Sharing = SHARINGS["relay"]

    def chunks(self, plan: MissionPlan, round: int, run: str) -> Iterator[tuple[ChunkId, int]]:
        """Every chunk and its size in bytes, by satellite and index."""
        for satellite, size_bytes in sorted(self.sizes_bytes.items()):
            for index, chunk_bytes in enumerate(sizes.chunks_of(plan, size_bytes)):
                yield ChunkId(run, round, self.phase, satellite, self.tensor, index), chunk_bytes

    def size_of(self, plan: MissionPlan, chunk: ChunkId) -> int:
        """Bytes of one of its chunks."""
        return sizes.chunks_of(plan, self.sizes_bytes[chunk.origin])[chunk.index]

    def again(self, plan: MissionPlan, chunk: ChunkId, holder: str, now_s: float) -> Demand:
        """A chunk that ``holder`` could not send, to be planned anew."""
        at_s = dict.fromkeys(self.sharing.holders(plan, holder), now_s) if self.way == "up" else {plan.ground: now_s}
        weight = terms_of(plan, self.way, chunk.origin).weight
        return Demand(str(chunk), at_s, self._destination(plan, chunk), self.size_of(plan, chunk), weight)

    @property
    def over(self) -> frozenset[str]:
        """The kinds of links it may use."""
        return self.sharing.over if self.way == "up" else DOWN

    def _destination(self, plan: MissionPlan, chunk: ChunkId) -> str:
        return plan.ground if self.way == "up" else chunk.origin


def nobody(chunk: str) -> frozenset[str]:
    """Of chunks that have not been sent yet."""
    return frozenset()


Ready = Mapping[tuple[str, str], float]
"""By phase and satellite: when what crosses then is there to be sent (mission time), or how long it takes to make."""


def plan_up(
    plan: MissionPlan, flows: FlowPlanner, legs: Sequence[Leg], ready_s: Ready, now_s: float, round: int, run: str
) -> FlowPlan:
    """The flow plan of what goes up in legs that are shared alike."""
    held_s = _held_s(plan, legs, ready_s, now_s)
    demands = [
        Demand(
            str(chunk),
            held_s[leg.phase, chunk.origin, chunk.index],
            plan.ground,
            size,
            **vars(terms_of(plan, "up", chunk.origin, now_s)),
        )
        for leg in legs
        for chunk, size in leg.chunks(plan, round, run)
    ]
    return flows.plan(plan, demands, now_s, legs[0].over)


def _held_s(
    plan: MissionPlan, legs: Sequence[Leg], ready_s: Ready, now_s: float
) -> dict[tuple[str, str, int], dict[str, float]]:
    """By phase, satellite and index of a chunk, who has it from when on: the legs follow each other over one ring."""
    first_s: dict[str, float] = {}
    places: dict[str, list[tuple[str, int]]] = {}
    blocks: dict[str, list[int]] = {}
    for leg in legs:
        for name, size in leg.sizes_bytes.items():
            first_s.setdefault(name, ready_s[leg.phase, name])
            for index, chunk_bytes in enumerate(sizes.chunks_of(plan, size)):
                places.setdefault(name, []).append((leg.phase, index))
                blocks.setdefault(name, []).append(chunk_bytes)
    shared = legs[0].sharing.held_s(plan, blocks, first_s, plan.isl_hop_s, now_s)
    return {
        (phase, name, index): {holder: max(at_s, ready_s[phase, name]) for holder, at_s in shared[name, place].items()}
        for name, listed in places.items()
        for place, (phase, index) in enumerate(listed)
    }


def plan_rest_up(
    plan: MissionPlan,
    flows: FlowPlanner,
    legs: Sequence[Leg],
    making_s: Ready,
    now_s: float,
    round: int,
    run: str,
    held_by: HeldBy,
) -> FlowPlan:
    """The flow plan, in a round that is begun again, of what is neither at the ground nor at a station, from whichever
    satellites have it. What nobody has sent yet may still have to be made, which takes ``making_s`` (seconds)."""
    present, arrived = set(plan.present), {plan.ground, *plan.stations} - set(plan.lost)
    demands = []
    for leg in legs:
        made = {chunk.origin for chunk, _ in leg.chunks(plan, round, run) if held_by(str(chunk))}
        for chunk, size in leg.chunks(plan, round, run):
            holders = held_by(str(chunk))
            if holders & arrived:
                continue
            own_s = now_s if chunk.origin in made else now_s + making_s[leg.phase, chunk.origin]
            ready_s = {chunk.origin: own_s} | dict.fromkeys(holders & present, now_s)
            weight = terms_of(plan, "up", chunk.origin).weight
            demands.append(Demand(str(chunk), ready_s, plan.ground, size, weight))
    return flows.plan(plan, demands, now_s, legs[0].over)


def plan_down(
    plan: MissionPlan,
    flows: FlowPlanner,
    legs: Sequence[Leg],
    ready_s: Ready,
    now_s: float,
    round: int,
    run: str,
    held_by: HeldBy = nobody,
) -> FlowPlan:
    """The flow plan of what comes down, but for what its owner has."""
    demands = [
        Demand(
            str(chunk),
            {plan.ground: ready_s[leg.phase, chunk.origin]},
            chunk.origin,
            size,
            **vars(terms_of(plan, "down", chunk.origin, now_s)),
        )
        for leg in legs
        for chunk, size in leg.chunks(plan, round, run)
        if chunk.origin not in held_by(str(chunk))
    ]
    return flows.plan(plan, demands, now_s, DOWN)


def ready_at(legs: Sequence[Leg], at_s: float) -> dict[tuple[str, str], float]:
    """All of them at one instant."""
    return {(leg.phase, satellite): at_s for leg in legs for satellite in leg.sizes_bytes}


def arrivals_s(flow: FlowPlan) -> dict[tuple[str, str], float]:
    """By phase and satellite, when the last chunk of what it made (or gets) is predicted to be where it belongs; what
    has no chunk on the way is not in it."""
    found: dict[tuple[str, str], float] = {}
    for assignment in flow.assignments:
        chunk = ChunkId.parse(assignment.chunk)
        key = chunk.phase, chunk.origin
        found[key] = max(found.get(key, assignment.arrives_s), assignment.arrives_s)
    return found
