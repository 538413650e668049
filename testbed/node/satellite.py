"""What a satellite does: embed its own pixels, share embeddings in its plane, send them down, train the head."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from testbed.collective.journeys import gather_ways
from testbed.collective.membership import Membership
from testbed.errors import LinkClosed, LinkError
from testbed.flow.assignment import Assignment
from testbed.node.base import Node
from testbed.node.orders import Order
from testbed.transfer.chunks import Chunk, ChunkId

if TYPE_CHECKING:
    from testbed.learning.raw import RawSamples
    from testbed.learning.shard import Shard


class Satellite(Node):
    """One satellite of a plane. ``ring`` is the plane in ring order, this node included."""

    shard: Shard
    samples: RawSamples
    """In its place where pixels and labels leave the satellite."""

    @property
    def ring(self) -> tuple[str, ...]:
        """The plane's ring."""
        return self.plan.ring_of(self.name)

    async def prepare(self) -> None:
        self.strategy.prepare_satellite(self)

    async def obey(self, order: Order) -> None:
        if order.kind == "begin_round":
            await self.strategy.satellite_round(self, order)
        elif order.kind == "send":
            await self.uplink(order.assignments)

    @property
    def membership(self) -> Membership:
        """Who of the plane takes part in this attempt at the round."""
        return self.plan.membership(self.ring, self.begun_s)

    async def gather(
        self, tensor: str, sizes: dict[str, int], payload: bytes, step: str = "gather"
    ) -> dict[str, bytes]:
        """All-gather in the plane: everybody's bytes by origin, the own included. ``sizes`` in bytes, of every member;
        ``step`` tells gathers of a round apart that are of the same tensor.

        Each attempt has chunks of its own: what an earlier one shared may have stopped at a node that is lost.
        """
        phase = self.in_attempt(step)
        self.share(self.cut(phase, tensor, self.name, payload))
        return {origin: await self.collect(tensor, phase, origin, size) for origin, size in sorted(sizes.items())}

    def share(self, block: Sequence[Chunk]) -> None:
        """Start sending the own block both ways around the ring, or to both ends of the line."""
        members = self.membership
        for chunk in block:
            self.mailbox.put(chunk)
            for route in gather_ways(members, self.name, chunk.id.index):
                self.share_on(chunk.along(route, keep=True))

    async def uplink(self, assignments: Sequence[Assignment]) -> None:
        """Send the chunks this satellite was assigned: its own contacts' up, contact by contact, others' over the ring
        to the satellite whose contact they use."""
        contacts: dict[tuple[str, float, float], list[Assignment]] = {}
        relayed = []
        for assignment in assignments:
            if assignment.route[1] in self.plan.satellites:
                relayed.append(assignment)
                continue
            key = (assignment.route[1], assignment.contact_start_s, assignment.contact_end_s)
            contacts.setdefault(key, []).append(assignment)
        await asyncio.gather(
            *(self._contact(*key, listed) for key, listed in contacts.items()), *(self._relay(a) for a in relayed)
        )

    async def _relay(self, assignment: Assignment) -> None:
        """Hand a chunk on towards the satellite that has the contact it is planned for."""
        chunk = await self.mailbox.get(ChunkId.parse(assignment.chunk))
        await self.clock.sleep_until(assignment.not_before_s)
        station = next(node for node in assignment.route[1:] if node not in self.plan.satellites)
        await self.forward(chunk.along(assignment.route[1:]).within(station, assignment.contact_end_s))

    async def _contact(self, station: str, start_s: float, end_s: float, listed: Sequence[Assignment]) -> None:
        left = await asyncio.gather(*(self._send_up(station, start_s, end_s, a) for a in listed))
        undelivered = [name for name in left if name is not None]
        if undelivered:
            await self.report("undelivered", chunks=undelivered, missed=[self.name, station])

    async def _send_up(self, station: str, start_s: float, end_s: float, assignment: Assignment) -> str | None:
        """Deliver one chunk in one contact; its name when the contact failed, or ended first with no other planned."""
        chunk = await self.mailbox.get(ChunkId.parse(assignment.chunk))
        onward = chunk.along(assignment.route[1:])
        not_before_s = max(start_s, assignment.not_before_s)
        try:
            await self.send(station, onward, not_before_s=not_before_s, until_s=end_s, planned=assignment)
        except LinkClosed:
            return None if assignment.cut_by_plan else assignment.chunk
        except LinkError:
            self.note("link_failed", sender=self.name, receiver=station, chunk=assignment.chunk)
            return assignment.chunk
        return None
