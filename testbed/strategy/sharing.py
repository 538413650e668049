"""How a plane gets its cut tensors to the satellites that can send them up: the scenario's ``intra_orbit``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from testbed.collective.journeys import gather_ways
from testbed.flow.assignment import Assignment
from testbed.metrics import direction
from testbed.mission import MissionPlan
from testbed.transfer.chunks import Chunk
from testbed.transfer.ring import gather_arrivals
from testbed.transfer.transport import PAYLOAD_SHARE

if TYPE_CHECKING:
    from testbed.node.satellite import Satellite


class Sharing(ABC):
    """One way. ``over`` are the kinds of links that the flow plan of cut tensors may use."""

    over: ClassVar[frozenset[str]]

    @abstractmethod
    def held_s(
        self,
        plan: MissionPlan,
        blocks: Mapping[str, Sequence[int]],
        ready_s: Mapping[str, float],
        hop_delay_s: float,
        begun_s: float,
    ) -> dict[tuple[str, int], dict[str, float]]:
        """By chunk (origin, index) which satellites hold it from when on (mission seconds), predicted. ``blocks`` are
        chunk sizes in bytes by origin, ``ready_s`` is when each origin has made its own, ``begun_s`` when the round
        began."""

    @abstractmethod
    def holders(self, plan: MissionPlan, holder: str) -> tuple[str, ...]:
        """Who holds a chunk that ``holder`` could not send."""

    @abstractmethod
    def start(self, satellite: Satellite, chunks: Sequence[Chunk]) -> None:
        """A satellite has made its chunks: share them, or keep them until the flow plan says where they go."""

    @abstractmethod
    def isl_bytes(self, plan: MissionPlan, sizes_bytes: Iterable[int], assignments: Sequence[Assignment]) -> int:
        """What crosses inter-satellite links when chunks of these sizes go up as assigned."""


class AllGather(Sharing):
    """Everybody gets everything round the ring, so that whoever has a contact can send any chunk of it: each chunk
    crosses as many inter-satellite links as the plane has other satellites."""

    over = frozenset({"up", "backhaul"})

    def held_s(
        self,
        plan: MissionPlan,
        blocks: Mapping[str, Sequence[int]],
        ready_s: Mapping[str, float],
        hop_delay_s: float,
        begun_s: float,
    ) -> dict[tuple[str, int], dict[str, float]]:
        held: dict[tuple[str, int], dict[str, float]] = {}
        for ring in plan.rings:
            members = plan.membership(ring, begun_s)
            inside = {origin: blocks[origin] for origin in ring if origin in members.members}
            rate_Bps = plan.isl_rate_bps * PAYLOAD_SHARE / 8  # noqa: N806
            arrivals = gather_arrivals(partial(gather_ways, members), inside, ready_s, rate_Bps, hop_delay_s)
            for (node, origin, index), arrives_s in arrivals.items():
                held.setdefault((origin, index), {})[node] = arrives_s
        return held

    def holders(self, plan: MissionPlan, holder: str) -> tuple[str, ...]:
        return plan.plane_of(holder)

    def start(self, satellite: Satellite, chunks: Sequence[Chunk]) -> None:
        satellite.share(chunks)

    def isl_bytes(self, plan: MissionPlan, sizes_bytes: Iterable[int], assignments: Sequence[Assignment]) -> int:
        return (len(plan.present) - 1) * sum(sizes_bytes)


class Relay(Sharing):
    """Nobody gets anything that need not pass through it: the flow plan routes each chunk over inter-satellite links
    to the contact it uses, once."""

    over = frozenset({"isl", "up", "backhaul"})

    def held_s(
        self,
        plan: MissionPlan,
        blocks: Mapping[str, Sequence[int]],
        ready_s: Mapping[str, float],
        hop_delay_s: float,
        begun_s: float,
    ) -> dict[tuple[str, int], dict[str, float]]:
        return {(origin, index): {origin: ready_s[origin]} for origin in blocks for index in range(len(blocks[origin]))}

    def holders(self, plan: MissionPlan, holder: str) -> tuple[str, ...]:
        return (holder,)

    def start(self, satellite: Satellite, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            satellite.mailbox.put(chunk)

    def isl_bytes(self, plan: MissionPlan, sizes_bytes: Iterable[int], assignments: Sequence[Assignment]) -> int:
        return sum(
            a.size for a in assignments for hop in zip(a.route, a.route[1:], strict=False) if direction(*hop) == "isl"
        )


SHARINGS: Mapping[str, Sharing] = {"all-gather": AllGather(), "relay": Relay()}
"""By the scenario's ``intra_orbit``."""


def sharing_of(plan: MissionPlan, attempt: int) -> Sharing:
    """How cut tensors get to the contacts: as the scenario says. In a round that is begun again what is left is relayed
    from whoever has it: most of it has been shared."""
    return SHARINGS[plan.scenario.intra_orbit if attempt == 1 else "relay"]
