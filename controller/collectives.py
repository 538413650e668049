"""Collectives of a run, each predicted and measured: what all-gathers in the plane took against the closed form."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from testbed.collective.forecast import Links, gather_crossings, gather_s, replay_s
from testbed.collective.membership import Membership
from testbed.metrics import direction
from testbed.mission import MissionPlan
from testbed.node.orders import attempted
from testbed.transfer.chunks import ChunkId
from testbed.transfer.transport import PAYLOAD_SHARE

_Key = tuple[int, str, str, str]
"""Round, phase, tensor, and the first satellite of the plane."""


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
        self._begun_s: dict[_Key, dict[str, float]] = defaultdict(dict)
        self._ended_s: dict[_Key, float] = defaultdict(float)
        self._blocks: dict[_Key, dict[ChunkId, int]] = defaultdict(dict)
        self._sent_bytes: dict[_Key, int] = defaultdict(int)

    def observe(self, event: dict[str, Any]) -> None:
        """Take a transfer of a collective into account: one between satellites of which a copy stays."""
        if event["kind"] != "transfer" or not event["kept"] or direction(event["sender"], event["receiver"]) != "isl":
            return
        chunk = ChunkId.parse(event["chunk"])
        if not chunk.phase.startswith("gather"):
            return
        key = (chunk.round, chunk.phase, chunk.tensor, self._plan.ring_of(chunk.origin)[0])
        if event["sender"] == chunk.origin:
            begun_s = self._begun_s[key]
            begun_s[chunk.origin] = min(begun_s.get(chunk.origin, event["start_s"]), event["start_s"])
            self._blocks[key][chunk] = max(self._blocks[key].get(chunk, 0), event["bytes"])
        self._ended_s[key] = max(self._ended_s[key], event["end_s"])
        self._sent_bytes[key] += event["bytes"]

    def of(self, round: int, attempt: int, memberships: Sequence[Membership]) -> list[dict[str, Any]]:
        """The collectives that a round's last attempt carried out among these members of planes; none that a loss broke
        off."""
        found = []
        for key, begun_s in sorted(self._begun_s.items()):
            if key[0] == round and key[1] == attempted("gather", attempt):
                took_part = (one for one in memberships if begun_s.keys() == set(one.members))
                found += [asdict(self._collective(key, membership)) for membership in took_part]
        return found

    def _collective(self, key: _Key, membership: Membership) -> Collective:
        sizes = dict.fromkeys(membership.members, 0)
        for chunk, size in self._blocks[key].items():
            sizes[chunk.origin] += size
        chunk_bytes = self._plan.scenario.chunk_bytes
        links = Links(self._plan.isl_rate_bps * PAYLOAD_SHARE / 8, self._plan.isl_hop_s)
        return Collective(
            tensor=key[2],
            members=str(membership),
            size_bytes=self._sent_bytes[key],
            closed_form_s=gather_s(membership, sum(sizes.values()) / len(sizes), links),
            predicted_s=replay_s(gather_crossings(membership, sizes, sub_chunk_bytes=chunk_bytes), links),
            measured_s=self._ended_s[key] - max(self._begun_s[key].values()),
        )
