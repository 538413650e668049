"""The data plane of the one-process rack: links as fluid pipes that follow their link plan."""

from __future__ import annotations

import asyncio

from testbed.clock import Clock
from testbed.errors import BugError, LinkClosed
from testbed.link.plan import LinkPlan
from testbed.transfer.chunks import Chunk
from testbed.transfer.spool import Spool
from testbed.transfer.transport import PAYLOAD_SHARE, Delivery, Recorder, Transport


class FluidNetwork:
    """All links of a rack. A directed link serialises one chunk at a time at its planned rate, then delays it.

    What has not arrived when a link closes is lost with the link's queue, as on a kernel that flushes it.
    """

    def __init__(self, plans: dict[str, LinkPlan], clock: Clock, recorder: Recorder | None = None) -> None:
        self.plans = plans
        self.clock = clock
        self.recorder = recorder
        self._spools: dict[str, Spool] = {}

    def attach(self, node: str, spool: Spool) -> FluidTransport:
        """The transport of one node."""
        self._spools[node] = spool
        return FluidTransport(node, self)

    def spool(self, node: str) -> Spool:
        """The receiving end of a node."""
        return self._spools[node]


class FluidTransport(Transport):
    """One node's end of a :class:`FluidNetwork`."""

    def __init__(self, node: str, network: FluidNetwork) -> None:
        self._node = node
        self._network = network
        self._plan = network.plans[node]
        self._turns: dict[str, asyncio.Lock] = {}

    async def deliver(self, peer: str, chunk: Chunk, *, not_before_s: float, until_s: float) -> Delivery:
        network, clock = self._network, self._network.clock
        async with self._turns.setdefault(peer, asyncio.Lock()):
            await clock.sleep_until(not_before_s)
            start_s = clock.now()
            window = next((w for w in self._plan.windows(peer) if w[0] <= start_s < w[1]), None)
            if window is None:
                raise LinkClosed(f"{self._node} -> {peer} is down at {start_s:.3f} s of mission time")
            closes_s = min(window[1], until_s)
            spool = network.spool(peer)
            offset = spool.offer(chunk.header())
            remaining = len(chunk.payload) - offset
            if network.recorder is not None:
                network.recorder(self._node, peer, chunk, offset)
            sent, arrival_s = await self._serialise(peer, remaining, closes_s)
        if sent < remaining:
            spool.write(self._node, chunk.header(), offset, chunk.payload[offset : offset + sent])
            raise LinkClosed(f"{self._node} -> {peer} closed at {closes_s:.3f} s", offset + sent, offset)
        await clock.sleep_until(arrival_s)
        if not spool.write(self._node, chunk.header(), offset, chunk.payload[offset:]):
            raise BugError(f"chunk {chunk.id} complete at the sender, incomplete at {peer}")
        back = network.plans[peer].state(self._node, arrival_s)
        await clock.sleep_until(arrival_s + back.delay_ms / 1000)
        return Delivery(start_s, clock.now(), offset)

    async def _serialise(self, peer: str, size: int, closes_s: float) -> tuple[int, float]:
        """Sleep until ``size`` bytes are on the link or it closes; returns (bytes that arrive, last arrival time)."""
        clock = self._network.clock
        sent = arriving = 0.0
        now_s = clock.now()
        starts = [state.start_s for state in self._plan.links[peer]]
        while True:
            state = self._plan.state(peer, now_s)
            goodput = state.rate_bps * PAYLOAD_SHARE / 8
            segment_end_s = min([start for start in starts if start > now_s] + [closes_s])
            done_s = now_s + (size - sent) / goodput
            delay_s = state.delay_ms / 1000
            if done_s <= segment_end_s and done_s + delay_s <= closes_s:
                await clock.sleep_until(done_s)
                return size, done_s + delay_s
            # What leaves later than a delay before the close does not arrive, whichever state it left under.
            arriving += max(0.0, min(segment_end_s, done_s, closes_s - delay_s) - now_s) * goodput
            if segment_end_s >= closes_s or done_s <= segment_end_s:
                await clock.sleep_until(closes_s)
                return min(int(arriving), max(size - 1, 0)), closes_s
            sent += (segment_end_s - now_s) * goodput
            now_s = segment_end_s
