"""The data plane of the one-process rack: links as fluid pipes that follow their link plan."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress

from testbed.clock import Clock
from testbed.errors import BugError, IntegrityError, LinkClosed, LinkError
from testbed.link.plan import LinkPlan
from testbed.transfer.chunks import Chunk
from testbed.transfer.spool import Spool
from testbed.transfer.store import NoRoom
from testbed.transfer.transport import PAYLOAD_SHARE, ROOM_CHECK_S, Delivery, Recorder, Transport
from testbed.transfer.turns import Turns

_log = logging.getLogger(__name__)


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

    def detach(self, node: str) -> None:
        """Nothing answers at a node any more."""
        self._spools.pop(node, None)

    def spool(self, node: str) -> Spool:
        """The receiving end of a node. Raises LinkError where nothing answers."""
        if node not in self._spools:
            raise LinkError(f"nothing answers at {node}")
        return self._spools[node]


class FluidTransport(Transport):
    """One node's end of a :class:`FluidNetwork`. ``counts``: ``refusals``, ``put off``, ``cuts``, ``resumed bytes``."""

    def __init__(self, node: str, network: FluidNetwork) -> None:
        self._node = node
        self._network = network
        self._plan = network.plans[node]
        self._turns: dict[str, Turns] = {}
        self.counts: Counter[str] = Counter()

    async def deliver(self, peer: str, chunk: Chunk, *, not_before_s: float, until_s: float) -> Delivery:
        start_s: float | None = None
        while True:
            async with self._turns.setdefault(peer, Turns(1)).slot(chunk.priority):
                await self._network.clock.sleep_until(not_before_s)
                # Waking may be a rounding early, where the link is still down.
                now_s = max(self._network.clock.now(), not_before_s)
                start_s = now_s if start_s is None else start_s
                try:
                    offset, arrival_s = await self._send(peer, chunk, now_s, until_s)
                except IntegrityError as refusal:
                    raise self._refused(peer, refusal) from None
                except NoRoom as full:
                    await self._later(peer, full)
                    continue
            await self._network.clock.sleep_until(arrival_s)
            try:
                # What the receiver has whole is not written again: it may have handed it on since it said so.
                has_it = 0 < len(chunk.payload) == offset
                if not has_it and not self._network.spool(peer).write(
                    self._node, chunk.header(), offset, chunk.payload[offset:]
                ):
                    raise BugError(f"chunk {chunk.id} complete at the sender, incomplete at {peer}")
            except IntegrityError as refusal:
                raise self._refused(peer, refusal) from None
            except NoRoom as full:
                await self._later(peer, full)
                continue
            back = self._network.plans[peer].state(self._node, arrival_s)
            await self._network.clock.sleep_until(arrival_s + back.delay_ms / 1000)
            self.counts["resumed bytes"] += offset
            return Delivery(start_s, self._network.clock.now(), offset)

    async def _send(self, peer: str, chunk: Chunk, now_s: float, until_s: float) -> tuple[int, float]:
        """Put a chunk's bytes on the link; the byte they go on from, and when the last of them arrives."""
        network = self._network
        window = next((w for w in self._plan.windows(peer) if w[0] <= now_s < w[1]), None)
        if window is None:
            raise LinkClosed(f"{self._node} -> {peer} is down at {now_s:.3f} s of mission time")
        closes_s = min(window[1], until_s)
        spool = network.spool(peer)
        offset = spool.offer(chunk.header())
        if network.recorder is not None:
            network.recorder(self._node, peer, chunk, offset)
        arrived, arrival_s = await self._serialise(peer, len(chunk.payload) - offset, now_s, closes_s)
        if arrival_s is not None:
            return offset, arrival_s
        self.counts["cuts"] += 1
        if arrived:
            with suppress(NoRoom):
                spool.write(self._node, chunk.header(), offset, chunk.payload[offset : offset + arrived])
        raise LinkClosed(f"{self._node} -> {peer} closed at {closes_s:.3f} s", offset + arrived, offset)

    async def _later(self, peer: str, full: NoRoom) -> None:
        """Wait as long as a real receiver would before it looks whether it has room."""
        self.counts["put off"] += 1
        _log.info("%s -> %s: put off: %s", self._node, peer, full)
        await self._network.clock.sleep_until(self._network.clock.now() + ROOM_CHECK_S)

    def _refused(self, peer: str, refusal: IntegrityError) -> IntegrityError:
        self.counts["refusals"] += 1
        _log.warning("%s -> %s: refused: %s", self._node, peer, refusal)
        return IntegrityError(f"{self._node} -> {peer}: {refusal}")

    async def _serialise(self, peer: str, size: int, now_s: float, closes_s: float) -> tuple[int, float | None]:
        """Sleep until ``size`` bytes, begun at ``now_s``, are on the link or it closes.

        Returns (bytes that arrive, when the last of them does), with None in place of the time when not all do, or not
        even the announcement of none.
        """
        clock = self._network.clock
        sent = arriving = 0.0
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
                return min(int(arriving), max(size - 1, 0)), None
            sent += (segment_end_s - now_s) * goodput
            now_s = segment_end_s
