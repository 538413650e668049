"""The sending end of transfers: chunks that wait for their link, in a store instead of in memory."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable
from itertools import count

from testbed.transfer.chunks import Chunk
from testbed.transfer.store import OUTGOING, ChunkStore, NoRoom, incoming, outgoing

ROOM_CHUNKS = 16
"""Own chunks that may wait for one neighbour before a producer waits: 16 MiB of the usual chunks, four times what a
link has under way."""
LOADED_CHUNKS = 4
"""Chunks of one link whose payload is in memory: as many as a transport has under way."""

_log = logging.getLogger(__name__)

Send = Callable[[Chunk], Awaitable[bool]]
"""Deliver a chunk to the first node of its route, through as many contacts as it takes: True once that node has it,
False when it was given up (then the store forgets it)."""


class _Lane:
    """What waits for one neighbour."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, int, str]] = []
        self.sending: set[asyncio.Task[None]] = set()
        self.own = 0


class Outbox:
    """Sends chunks on, each loaded from the store when its turn comes: higher priority first, then in the order they
    came. A chunk leaves the store when ``send`` has returned; what fails stays there, and :meth:`put` and
    :meth:`drain` raise what ``send`` raised.

    A producer that is faster than the link waits in :meth:`put` while ``room_chunks`` of its chunks wait for one
    neighbour, or while the store has no room.
    """

    def __init__(self, store: ChunkStore, send: Send, *, room_chunks: int = ROOM_CHUNKS) -> None:
        self._store = store
        self._send = send
        self._room_chunks = room_chunks
        self._lanes: dict[str, _Lane] = {}
        self._order = count()
        self._progress = asyncio.Event()
        self._failure: BaseException | None = None

    async def put(self, chunk: Chunk) -> None:
        """Take a chunk made here; returns once the store has it. One that is here, or is through, changes nothing, so
        that a restarted producer may put everything once more. Raises :class:`~store.NoRoom` only when nothing that
        is under way could make room."""
        peer = chunk.route[0]
        key = outgoing(chunk.id, peer)
        lane = self._lanes.setdefault(peer, _Lane())
        while not self._known(key):
            self._check()
            if lane.own < self._room_chunks:
                try:
                    self._store.hold(key, chunk, peer)
                except NoRoom:
                    if not any(each.sending for each in self._lanes.values()):
                        raise
                else:
                    lane.own += 1
                    self._queue(key, peer)
                    return
            await self._progressed()

    def pass_on(self, chunk: Chunk) -> None:
        """Send on a chunk that arrived here and was kept (``Spool.keep``), along the rest of its route."""
        self._queue(incoming(chunk.id), chunk.route[1])

    def recover(self) -> int:
        """Send what a former process put and had not sent; how many chunks. Part of one that it was storing when it
        ended is dropped: its producer puts it again."""
        keys = self._store.held(OUTGOING)
        whole = [key for key in keys if self._store.whole(key)]
        for key in set(keys) - set(whole):
            self._store.drop(key)
        for key in whole:
            peer = self._store.peer(key)
            self._lanes.setdefault(peer, _Lane()).own += 1
            self._queue(key, peer)
        return len(whole)

    async def drain(self) -> None:
        """Return once nothing waits and nothing is under way."""
        while True:
            self._check()
            if not any(lane.waiting or lane.sending for lane in self._lanes.values()):
                return
            await self._progressed()

    async def close(self) -> None:
        """Stop sending; what was not sent stays in the store."""
        sending = [task for lane in self._lanes.values() for task in lane.sending]
        for lane in self._lanes.values():
            lane.waiting.clear()
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    def _known(self, key: str) -> bool:
        return self._store.done(key) is not None or self._store.held_bytes(key) is not None

    def _queue(self, key: str, peer: str) -> None:
        lane = self._lanes.setdefault(peer, _Lane())
        priority = int(self._store.header(key).get("priority", 0))
        heapq.heappush(lane.waiting, (-priority, next(self._order), key))
        self._fill(lane)

    def _fill(self, lane: _Lane) -> None:
        while lane.waiting and len(lane.sending) < LOADED_CHUNKS and self._failure is None:
            task = asyncio.get_running_loop().create_task(self._deliver(heapq.heappop(lane.waiting)[2]))
            lane.sending.add(task)
            task.add_done_callback(lambda task: self._ended(lane, task))

    async def _deliver(self, key: str) -> None:
        chunk = self._store.chunk(key)
        own = key.startswith(OUTGOING)
        delivered = await self._send(chunk if own else chunk.onward())
        if own:
            self._lanes[chunk.route[0]].own -= 1
        if self._store.held_bytes(key) is None:
            return  # its node said meanwhile that it is done with, or forgotten
        if not delivered:
            self._store.forget(key)
        elif own or not chunk.keep:  # a copy that stays here is its node's to be done with
            self._store.finish(key)

    def _ended(self, lane: _Lane, task: asyncio.Task[None]) -> None:
        lane.sending.discard(task)
        if not task.cancelled():
            error = task.exception()
            if error is not None:
                _log.error("a chunk stays in the store: %s", error)
                self._failure = self._failure or error
            self._fill(lane)
        self._progress.set()
        self._progress = asyncio.Event()

    async def _progressed(self) -> None:
        await self._progress.wait()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
