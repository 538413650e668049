"""What the ground server does: hold the backbone, turn embeddings into features, send them back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from testbed.flow.assignment import Assignment
from testbed.node.base import Node
from testbed.node.orders import Order
from testbed.transfer.chunks import Chunk, ChunkId

if TYPE_CHECKING:
    from testbed.learning.features import Backbone
    from testbed.learning.mixing import Mixer
    from testbed.learning.raw import GroundSchool
    from testbed.learning.split_training import GroundTrainer


class GroundServer(Node):
    """The ground server, behind its backhaul links to the stations."""

    backbone: Backbone
    trainer: GroundTrainer
    """Where the backbone is trained with gradients from the satellites."""
    mixer: Mixer
    """Where planes are heard one by one."""
    school: GroundSchool
    """Where everything is trained on the ground."""

    async def prepare(self) -> None:
        self.strategy.prepare_ground(self)

    async def obey(self, order: Order) -> None:
        if order.kind == "begin_round":
            await self.strategy.ground_round(self, order)
        elif order.kind == "send":
            await self.downlink(order.assignments)

    def offer(self, chunks: Sequence[Chunk]) -> None:
        """Keep a result's chunks until the flow plan says where they go."""
        for chunk in chunks:
            self.mailbox.put(chunk)

    async def downlink(self, assignments: Sequence[Assignment]) -> None:
        """Hand each chunk to the station its contact is at; the station keeps it until the contact opens."""
        await asyncio.gather(*(self._send_down(assignment) for assignment in assignments))

    async def _send_down(self, assignment: Assignment) -> None:
        chunk = await self.mailbox.get(ChunkId.parse(assignment.chunk))
        await self.clock.sleep_until(assignment.not_before_s)
        # The route: ground, station, the satellite of the contact, then perhaps others of its ring.
        await self.forward(chunk.along(assignment.route[1:]).within(assignment.route[2], assignment.contact_end_s))
