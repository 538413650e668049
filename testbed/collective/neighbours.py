"""What a collective may do with a network: give a neighbour something, and wait for something of its."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from testbed.transfer.chunks import Chunk, ChunkId

SUB_CHUNK_BYTES = 128 * 1024
"""What collectives cut their data into, so that a node sends on what it has while more arrives. Where both directions
of a link are in use, acknowledgements wait behind the other direction's bulk: with half of this under way
(``CHUNKS_IN_FLIGHT`` each) the links of a ring at 25 Mbit/s and 10 ms stand idle for some tenth of the time."""


class Neighbours(Protocol):
    """One node's links to the nodes beside it.

    ``tag`` and ``index`` name a message between two nodes; a pair is used once. A tag holds no '/'.
    """

    @property
    def name(self) -> str:
        """This node."""

    async def send(self, peer: str, tag: str, index: int, payload: bytes) -> None:
        """Give a neighbour a message; returns when it is durable there. Messages for one neighbour leave in the order
        of the calls."""

    async def receive(self, peer: str, tag: str, index: int) -> bytes:
        """A neighbour's message, as soon as it is here."""


class Mail(Protocol):
    """Where chunks that arrived can be waited for (a node's mailbox)."""

    async def get(self, identity: ChunkId) -> Chunk:
        """The chunk, as soon as it is here."""


class ChunkNeighbours:
    """Neighbours over a node's data plane: a message is one chunk, its tag the chunk's phase, its sender the origin.

    ``tensor`` is what is being exchanged (a tag of :data:`~testbed.transfer.chunks.TENSOR_TAGS`). ``forward`` delivers
    a chunk to the first node of its route, through as many of the link's windows as it takes (``Node.forward``);
    ``mail`` is where accepted chunks go (``Node.mailbox``).
    """

    def __init__(
        self,
        name: str,
        *,
        run: str,
        round: int,
        tensor: str,
        forward: Callable[[Chunk], Awaitable[Any]],
        mail: Mail,
    ) -> None:
        self._name = name
        self._run = run
        self._round = round
        self._tensor = tensor
        self._forward = forward
        self._mail = mail

    @property
    def name(self) -> str:
        return self._name

    async def send(self, peer: str, tag: str, index: int, payload: bytes) -> None:
        # How many chunks the sender makes in all is no matter here: both ends know which they need.
        digest = hashlib.sha256(payload).hexdigest()
        await self._forward(Chunk(self._identity(self._name, tag, index), 1, (peer,), payload, digest))

    async def receive(self, peer: str, tag: str, index: int) -> bytes:
        return (await self._mail.get(self._identity(peer, tag, index))).payload

    def _identity(self, sender: str, tag: str, index: int) -> ChunkId:
        return ChunkId(self._run, self._round, tag, sender, self._tensor, index)


class Errands:
    """Everything one node has under way in one collective; the first failure ends it all.

    >>> async with Errands() as errands:  # doctest: +SKIP
    ...     errands.start(neighbours.send("sat-0-1", "heads", 0, b"..."))
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside; works begin in the order of the calls, and may start others."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if self._over.done():
            return
        if error is not None:
            self._over.set_exception(error)
        elif not self._tasks:
            self._over.set_result(None)

    async def __aenter__(self) -> Errands:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        try:
            if kind is None and (self._tasks or self._over.done()):
                await self._over
        finally:
            self._over.cancel()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
