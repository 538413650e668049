"""The data plane over sockets: raw frames on one gRPC stream per link and contact.

A sender opens a contact's connection by plan: just after the contact starts where there was none before, else during
the contact before, as soon as bytes flow in it. That second connection waits through the gap with nothing on its way,
so no end of it backs off from a link that is down, and the next contact's first frame takes half a round trip instead
of the three and a half of TCP, TLS 1.3 and HTTP/2's settings. The connection that carried a contact's bytes is hung up
at the contact's end: what is in its buffers must not come out after the gap.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from testbed import rpc
from testbed.clock import Clock
from testbed.errors import IntegrityError, LinkClosed, LinkError
from testbed.link.plan import LinkPlan
from testbed.pki import Credentials
from testbed.transfer.chunks import Chunk, ChunkId
from testbed.transfer.connection import Connection, Offer, StandsStill
from testbed.transfer.exchange import ExchangeServer
from testbed.transfer.frames import frame_bytes
from testbed.transfer.transport import CHUNKS_IN_FLIGHT, Delivery, Recorder, Transport
from testbed.transfer.turns import Slot, Turns

__all__ = ["CHUNKS_IN_FLIGHT", "PUSH_BYTES", "ExchangeServer", "StreamTransport"]

PUSH_BYTES = 512 * 1024
"""Chunks up to this, or up to the link's frame size if that is larger, go in one frame over a link that is always up:
every message costs a guest about a millisecond."""
DIAL_GUARD_S = 0.02
"""Dial this long after the planned start: both ends' link changes are at that instant, each a little late, and a SYN
lost to an end still closed costs a second (RFC 6298, section 2.1)."""
STANDBY_GUARD_S = 0.005
"""The same for a connection that is there already, which has measured its round trip: a lost segment costs it some
0.2 s (Linux' least retransmission timeout)."""
EARLY_S = 0.1
"""A kernel may end a wait for a descriptor a thousandth of it late, at most 0.1 s (Linux, fs/select.c): the loop is to
be awake that long before a contact, so that its last wait is short and exact."""
STILL_S = 30.0
"""A link that the plan calls up and that carried nothing of a chunk for so long carries nothing: the deepest queue,
half a megabyte at 3 Mbit/s, is through in two seconds."""
ATTEMPTS = 5
"""Broken connections without progress, inside one contact, before the link is called broken."""

_log = logging.getLogger(__name__)


class _Link:
    """One directed link: its queue, its current connection, and the one that waits for the next contact."""

    def __init__(self) -> None:
        self.turns = Turns(CHUNKS_IN_FLIGHT)
        self.connection: Connection | None = None
        self.closes_s = 0.0
        self.standby: Connection | None = None
        self.warming: asyncio.Task[None] | None = None
        self.cut: dict[ChunkId, int] = {}
        """By chunk that a contact's end or a break cut: the bytes that its receiver is known to hold."""
        self.trusted: bool | None = None
        """Whether bytes may go ahead of the receiver's word: None while one guess is unanswered."""


class StreamTransport(Transport):
    """One node's data plane over gRPC.

    ``addresses`` are the peers' data addresses; ``on_break`` hears of connections that broke inside a contact.
    ``counts`` has the sender's side of what went wrong: ``breaks``, ``refusals``, ``put off`` (the receiver had no
    room), ``cuts`` (by the plan), ``resumed bytes`` (held by the receiver, and not sent again), ``resent bytes`` (sent
    again before it had said so); and ``dials``.
    """

    def __init__(
        self,
        node: str,
        plan: LinkPlan,
        addresses: Mapping[str, str],
        credentials: Credentials,
        clock: Clock,
        on_break: Callable[[str, str], None],
        recorder: Recorder | None = None,
    ) -> None:
        self._node = node
        self._plan = plan
        self._addresses = addresses
        self._credentials = credentials
        self._clock = clock
        self._on_break = on_break
        self._recorder = recorder
        self._links: dict[str, _Link] = {}
        self._beside: set[asyncio.Task[None]] = set()
        self.counts: Counter[str] = Counter()

    async def deliver(self, peer: str, chunk: Chunk, *, not_before_s: float, until_s: float) -> Delivery:
        link = self._links.setdefault(peer, _Link())
        async with link.turns.slot(chunk.priority) as slot, self._clock.in_flight():
            return await self._deliver(link, slot, peer, chunk.loaded(), not_before_s, until_s)

    async def _deliver(
        self, link: _Link, slot: Slot, peer: str, chunk: Chunk, not_before_s: float, until_s: float
    ) -> Delivery:
        start_s = self._clock.now()
        size = len(chunk.payload)
        begun_from = held = link.cut.get(chunk.id, 0)
        handed, breaks = 0, 0
        while True:
            offer: Offer | None = None
            connection: Connection | None = None
            number = 0
            try:
                async with slot:
                    connection = await self._connected(link, peer, not_before_s, until_s)
                    number, offer = connection.open(chunk, held)
                    if math.isinf(link.closes_s) and size <= self._push_bytes(peer) and not handed:
                        self._record(peer, chunk, 0)
                        await connection.push(number, offer, chunk)
                    else:
                        await self._begin(link, connection, number, offer, chunk, peer)
                        await connection.data(number, offer, chunk)
                await self._finish(link, slot, connection, number, offer, chunk)
                link.cut.pop(chunk.id, None)
                self.counts["resent bytes"] += offer.twice
                resumed = max(0, size - handed - offer.handed)
                self.counts["resumed bytes"] += resumed
                return Delivery(start_s, self._clock.now(), resumed)
            except IntegrityError as refusal:
                self.counts["refusals"] += 1
                _log.warning("%s -> %s: refused: %s", self._node, peer, refusal)
                raise IntegrityError(f"{self._node} -> {peer}: {refusal}") from None
            except StandsStill as still:
                raise LinkError(f"{self._node} -> {peer}: the plan says up, but {still}") from None
            except ConnectionError as error:
                progress = held
                if offer is not None:
                    handed += offer.handed
                    self.counts["resent bytes"] += offer.twice
                    progress = link.cut[chunk.id] = max(held, offer.held)
                held, breaks = progress, 0 if progress > held else breaks + 1
                if self._clock.now() >= min(until_s, link.closes_s):
                    self.counts["cuts"] += 1
                    raise LinkClosed(f"{self._node} -> {peer} closed by plan", held, begun_from) from None
                self.counts["breaks"] += 1
                _log.warning("%s -> %s: broke inside a contact: %s", self._node, peer, error)
                self._on_break(peer, str(error))
                if breaks >= ATTEMPTS:
                    raise LinkError(f"{self._node} -> {peer}: the plan says up, but {error}") from None
                await self._drop(link, connection, standby=True)
            finally:
                if connection is not None:
                    connection.forget(number)

    async def _begin(
        self, link: _Link, connection: Connection, number: int, offer: Offer, chunk: Chunk, peer: str
    ) -> None:
        """Announce a chunk; return when its bytes may go out.

        That is at once while the receiver holds what we believe it holds: an answer takes a round trip. A first guess
        goes out alone, and after a wrong one every chunk waits for its answer until a guess is right again.
        """
        before = connection.last
        if before is not None and link.trusted is None:
            await before.until(lambda: before.answered, STILL_S)
            link.trusted = before.guessed_right
        await connection.announce(number, offer, chunk)
        connection.frame_bytes = frame_bytes(self._plan.state(peer, self._clock.now()).rate_bps)
        if link.trusted is False:
            await offer.until(lambda: offer.answered, STILL_S)
            offer.check()
            link.trusted = offer.guessed_right
        self._record(peer, chunk, offer.position)

    async def _finish(
        self, link: _Link, slot: Slot, connection: Connection, number: int, offer: Offer, chunk: Chunk
    ) -> None:
        """Return when the receiver's application has the chunk; what it put off goes out when it has room."""
        while True:
            await offer.until(lambda: offer.accepted or offer.put_off, STILL_S)
            if offer.accepted:
                return
            self.counts["put off"] += 1
            await offer.until(lambda: not offer.put_off, STILL_S)
            async with slot:
                await connection.data(number, offer, chunk)

    def _push_bytes(self, peer: str) -> int:
        """Up to which size a chunk goes in one frame over a link that is always up."""
        return max(PUSH_BYTES, frame_bytes(self._plan.state(peer, self._clock.now()).rate_bps))

    def _record(self, peer: str, chunk: Chunk, offset: int) -> None:
        if self._recorder is not None:
            self._recorder(self._node, peer, chunk, offset)

    async def _connected(self, link: _Link, peer: str, not_before_s: float, until_s: float) -> Connection:
        """The link's connection in this contact: the one in use, the one that waited, or a new one."""
        await self._clock.sleep_until(not_before_s)
        if link.connection is not None and link.connection.broken is None:
            return link.connection
        now_s = max(self._clock.now(), not_before_s)  # waking may be a rounding early
        window = next((w for w in self._plan.windows(peer) if w[0] <= now_s < w[1]), None)
        if window is None or now_s >= until_s:
            raise LinkClosed(f"{self._node} -> {peer} is down at {now_s:.3f} s of mission time")
        waited, link.standby = link.standby, None
        if waited is not None and waited.broken is None:
            await self._clock.sleep_until(window[0] + STANDBY_GUARD_S)
            return self._use(link, peer, window, waited)
        await self._clock.sleep_until(window[0] + DIAL_GUARD_S)
        return self._use(link, peer, window, self._dial(peer))

    def _dial(self, peer: str) -> Connection:
        self.counts["dials"] += 1
        return Connection(rpc.data_channel(self._addresses[peer], peer, self._credentials))

    def _use(self, link: _Link, peer: str, window: tuple[float, float], connection: Connection) -> Connection:
        link.connection, link.closes_s, link.trusted = connection, window[1], None
        if math.isinf(window[1]):
            return connection
        self._spawn(self._close_by_plan(link, connection, window[1]))
        if any(start_s > window[1] for start_s, _ in self._plan.windows(peer)):
            link.warming = asyncio.get_running_loop().create_task(self._stand_by(link, peer, connection))
        return connection

    async def _stand_by(self, link: _Link, peer: str, current: Connection) -> None:
        """Open the next contact's connection, once the current one is through with its own opening."""
        try:
            await current.answered()
        except ConnectionError:
            return
        async with self._clock.in_flight():
            standby = self._dial(peer)
            try:
                await standby.answered()
            except ConnectionError as error:
                _log.info("%s -> %s: no connection waits for the next contact: %s", self._node, peer, error)
                await standby.hang_up()
                return
            except asyncio.CancelledError:
                await standby.hang_up()
                raise
            link.standby = standby

    async def _close_by_plan(self, link: _Link, connection: Connection, at_s: float) -> None:
        await self._clock.sleep_until(at_s)
        await self._drop(link, connection, standby=False)

    async def _drop(self, link: _Link, connection: Connection | None, *, standby: bool) -> None:
        """Hang up the link's connection, unless another has taken its place; with ``standby`` also the one that waits,
        whose peer may have gone as well."""
        if link.connection is not connection:
            return
        link.connection = None
        hung_up = [connection]
        if connection is not None:
            connection.fail(ConnectionError("closed by plan"))
        if standby:
            hung_up.append(link.standby)
            link.standby = None
        warming, link.warming = link.warming, None
        if warming is not None:
            warming.cancel()
            await asyncio.wait({warming})
        for each in hung_up:
            if each is not None:
                await each.hang_up()

    async def _wake(self, peer: str) -> None:
        """Have the loop awake before each of a peer's contacts."""
        for start_s, _ in self._plan.windows(peer):
            await self._clock.sleep_until(start_s - EARLY_S)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def open(self) -> None:
        for peer in self._plan.links:
            self._spawn(self._wake(peer))
        lasting = [(peer, w) for peer in self._plan.links for w in self._plan.windows(peer)[:1] if math.isinf(w[1])]
        for peer, window in lasting:
            self._use(self._links.setdefault(peer, _Link()), peer, window, self._dial(peer))
        connections = [link.connection for link in self._links.values() if link.connection is not None]
        await asyncio.gather(*(connection.ready() for connection in connections))

    async def close(self) -> None:
        for task in list(self._beside):
            task.cancel()
        for link in self._links.values():
            await self._drop(link, link.connection, standby=True)
