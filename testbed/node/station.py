"""What a ground station does: store and forward."""

from __future__ import annotations

from testbed.node.base import Node
from testbed.node.orders import Order


class GroundStation(Node):
    """Relays chunks between space and the ground server along each chunk's route, waiting for the contact it needs."""

    async def obey(self, order: Order) -> None:
        """A round's beginning is all that a station hears of."""
