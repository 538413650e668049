"""The first leg of every round in which the ground computes: cut tensors, from all satellites to the ground."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from testbed.flow.assignment import FlowPlan
from testbed.mission import MissionPlan
from testbed.strategy import charges, sizes
from testbed.strategy.base import Desk, FlowPlanner
from testbed.strategy.legs import Leg, plan_rest_up, plan_up
from testbed.strategy.sharing import sharing_of
from testbed.transfer.chunks import Chunk

if TYPE_CHECKING:
    from testbed.node.satellite import Satellite


def parted(plan: MissionPlan, step: str, part: int) -> str:
    """The phase of one part of what a round's samples go through."""
    return step if plan.scenario.learning.pipeline == 1 else f"{step}-{part}"


def counts_by_part(plan: MissionPlan, round: int) -> list[dict[str, int]]:
    """Samples of each satellite that has such a part, part by part."""
    parts = sizes.encoded_parts(plan, round)
    return [
        {name: counts[part] for name, counts in parts.items() if part < len(counts)}
        for part in range(max(map(len, parts.values())))
    ]


def embedding_legs(plan: MissionPlan, round: int, attempt: int) -> list[Leg]:
    """A round's cut tensors, which get to the contacts as the scenario's ``intra_orbit`` says; a leg a part."""
    sharing = sharing_of(plan, attempt)
    return [
        Leg("up", "embedding", parted(plan, "gather", part), _bytes(plan, counts), sharing)
        for part, counts in enumerate(counts_by_part(plan, round))
    ]


def _bytes(plan: MissionPlan, counts: Mapping[str, int]) -> dict[str, int]:
    return {name: sizes.embedding_bytes(plan, count) for name, count in counts.items()}


def made_s(plan: MissionPlan, round: int, begun_s: float) -> dict[tuple[str, str], float]:
    """By phase and satellite, when it has made that part if it begins at a mission time: one after the other."""
    at_s: dict[tuple[str, str], float] = {}
    done_s: dict[str, float] = {}
    for part, counts in enumerate(counts_by_part(plan, round)):
        for name, count in counts.items():
            done_s[name] = done_s.get(name, begun_s) + charges.satellite_s(plan, "embed", count)
            at_s[parted(plan, "gather", part), name] = done_s[name]
    return at_s


def uplink(plan: MissionPlan, flows: FlowPlanner, round: int, now_s: float, run: str) -> FlowPlan:
    """Their flow plan, if embedding starts now."""
    return plan_up(plan, flows, embedding_legs(plan, round, 1), made_s(plan, round, now_s), now_s, round, run)


def uplink_of(desk: Desk, round: int) -> partial[FlowPlan]:
    """What makes the flow plan for a desk's attempt at a round, of a mission plan."""
    if desk.attempt == 1:
        return partial(uplink, flows=desk.flows, round=round, now_s=desk.now(), run=desk.run)
    return partial(_rest, desk=desk, round=round, now_s=desk.now())


def _rest(plan: MissionPlan, desk: Desk, round: int, now_s: float) -> FlowPlan:
    legs, making_s = embedding_legs(plan, round, desk.attempt), made_s(plan, round, 0.0)
    return plan_rest_up(plan, desk.flows, legs, making_s, now_s, round, desk.run, desk.held_by)


async def make_and_share(satellite: Satellite, round: int, attempt: int) -> None:
    """One satellite's part: compute its cut tensors, unless they are here from an earlier attempt, and share them."""
    plan, name = satellite.plan, satellite.name
    counts = sizes.encoded_parts(plan, round)[name]
    for part, leg in enumerate(embedding_legs(plan, round, attempt)[: len(counts)]):
        chunks = satellite.held(leg.tensor, leg.phase, name, leg.sizes_bytes[name])
        if not chunks:
            charge_s = charges.satellite_s(plan, "embed", counts[part])
            chunks = await satellite.compute("embed", charge_s, partial(_make, satellite, leg, round, part))
        leg.sharing.start(satellite, chunks)


def _make(satellite: Satellite, leg: Leg, round: int, part: int) -> list[Chunk]:
    return satellite.cut(leg.phase, leg.tensor, satellite.name, satellite.shard.embed(round, part))


def isl_bytes(plan: MissionPlan, round: int, up: FlowPlan) -> int:
    """What crosses inter-satellite links so that a round's cut tensors can go up as planned."""
    chunks = [size for leg in embedding_legs(plan, round, 1) for _, size in leg.chunks(plan, round, "plan")]
    return sharing_of(plan, 1).isl_bytes(plan, chunks, up.assignments)
