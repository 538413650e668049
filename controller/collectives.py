"""Collectives of a run, each predicted and measured: what all-gathers in the plane took against the closed form."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from testbed.collective.forecast import Links, gather_crossings, gather_s, replay_s
from testbed.collective.membership import Membership
from testbed.metrics import direction
from testbed.mission import MissionPlan
from testbed.strategy.rounds import ring_hop_s
from testbed.transfer.chunks import ChunkId
from testbed.transfer.transport import PAYLOAD_SHARE


@dataclass(frozen=True)
class Collective:
    """One all-gather. ``measured_s`` is from when the last member had begun to share its block to when the last copy
    had arrived; ``closed_form_s`` is (K-1)(m/B + tau) for equal blocks, halved both ways, and ``predicted_s`` a replay
    of the blocks as they are, in the same chunks, through links that serve in order."""

    tensor: str
    members: str
    size_bytes: int
    closed_form_s: float
    predicted_s: float
    measured_s: float


class CollectiveMeter:
    """Puts together, from what nodes report, what each round's collectives took."""

    def __init__(self, plan: MissionPlan) -> None:
        self._plan = plan
        self._begun_s: dict[tuple[int, str, str], dict[str, float]] = defaultdict(dict)
        self._ended_s: dict[tuple[int, str, str], float] = defaultdict(float)
        self._blocks: dict[tuple[int, str, str], dict[ChunkId, int]] = defaultdict(dict)
        self._sent_bytes: dict[tuple[int, str, str], int] = defaultdict(int)

    def observe(self, event: dict[str, Any]) -> None:
        """Take a transfer of a collective into account: one between satellites of which a copy stays."""
        if event["kind"] != "transfer" or not event["kept"] or direction(event["sender"], event["receiver"]) != "isl":
            return
        chunk = ChunkId.parse(event["chunk"])
        if not chunk.phase.startswith("gather"):
            return
        key = (chunk.round, chunk.phase, chunk.tensor)
        if event["sender"] == chunk.origin:
            begun_s = self._begun_s[key]
            begun_s[chunk.origin] = min(begun_s.get(chunk.origin, event["start_s"]), event["start_s"])
            self._blocks[key][chunk] = max(self._blocks[key].get(chunk, 0), event["bytes"])
        self._ended_s[key] = max(self._ended_s[key], event["end_s"])
        self._sent_bytes[key] += event["bytes"]

    def of(self, round: int, attempt: int, membership: Membership) -> list[dict[str, Any]]:
        """The collectives that a round's last attempt carried out among these members; none that a loss broke off."""
        found = []
        phases = {"gather"} if attempt == 1 else {f"gather.{attempt}"}
        for key, begun_s in sorted(self._begun_s.items()):
            if key[0] == round and key[1] in phases and begun_s.keys() == set(membership.members):
                found.append(asdict(self._collective(key, membership)))
        return found

    def _collective(self, key: tuple[int, str, str], membership: Membership) -> Collective:
        sizes = dict.fromkeys(membership.members, 0)
        for chunk, size in self._blocks[key].items():
            sizes[chunk.origin] += size
        chunk_bytes = self._plan.scenario.chunk_bytes
        links = Links(self._plan.isl_rate_bps * PAYLOAD_SHARE / 8, ring_hop_s(self._plan))
        return Collective(
            tensor=key[2],
            members=str(membership),
            size_bytes=self._sent_bytes[key],
            closed_form_s=gather_s(membership, sum(sizes.values()) / len(sizes), links),
            predicted_s=replay_s(gather_crossings(membership, sizes, sub_chunk_bytes=chunk_bytes), links),
            measured_s=self._ended_s[key] - max(self._begun_s[key].values()),
        )
