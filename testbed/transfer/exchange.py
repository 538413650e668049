"""The receiving end of the data plane: a gRPC method that takes frames and hands them to the node's spool."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc

from testbed import rpc
from testbed.errors import IntegrityError
from testbed.transfer import frames as wire
from testbed.transfer.chunks import ChunkId
from testbed.transfer.spool import Spool
from testbed.transfer.store import NoRoom
from testbed.transfer.transport import CHUNKS_IN_FLIGHT, ROOM_CHECK_S

_log = logging.getLogger(__name__)


class _Open:
    """A chunk that is offered and not whole yet."""

    def __init__(self, header: dict[str, Any]) -> None:
        self.header = header
        self.held = 0
        self.put_off = False


class _Stream:
    """One exchange: what of it is open, and the way back to its sender."""

    def __init__(self, peer: str, context: Any) -> None:
        self.peer = peer
        self.open: dict[int, _Open] = {}
        self._task = asyncio.current_task()
        self._context = context
        self._turn = asyncio.Lock()

    def end(self) -> None:
        """Answer no more and hear no more."""
        if self._task is not None:
            self._task.cancel()

    async def answer(self, frame: bytes) -> None:
        """Send a frame; of several that are sent at a time each goes out whole."""
        async with self._turn:
            await self._context.write(frame)


class ExchangeServer:
    """The receiving end: every chunk goes through the node's spool, under the name the sender's certificate says.

    ``counts`` has what was not taken: ``refused`` (damaged, not ours, or no frame at all) and ``put off`` (no room).
    A sender's older streams end when it sends over a newer one: they are of contacts that are over, whose end could
    not be said over a link that was down.
    """

    def __init__(self, node: str, spool: Spool) -> None:
        self._node = node
        self._spool = spool
        self._streams: dict[str, list[_Stream]] = {}
        self._put_off: dict[tuple[_Stream, int], asyncio.Task[None]] = {}
        self.counts: Counter[str] = Counter()

    def handler(self) -> grpc.GenericRpcHandler:
        """For ``add_generic_rpc_handlers``: bytes in, bytes out."""
        service, method = wire.METHOD.strip("/").split("/")
        return grpc.method_handlers_generic_handler(
            service, {method: grpc.stream_stream_rpc_method_handler(self._exchange)}
        )

    async def _exchange(self, frames: AsyncIterator[bytes], context: Any) -> None:
        stream = _Stream(rpc.peer_name(context), context)
        streams = self._streams.setdefault(stream.peer, [])
        streams.append(stream)
        try:
            # The sender knows now that nothing of the opening is on its way any more.
            await context.send_initial_metadata(())
            async for frame in frames:
                while streams[0] is not stream:
                    streams.pop(0).end()
                await self._take(stream, frame)
        finally:
            with suppress(ValueError):
                streams.remove(stream)
            for number in list(stream.open):
                self._close(stream, number)

    async def _take(self, stream: _Stream, frame: bytes) -> None:
        kind = number = 0
        try:
            kind, number = wire.parse_head(frame)
            if kind == wire.OFFER:
                await self._offered(stream, number, wire.parse_offer(frame), None)
            elif kind == wire.PUSH:
                await self._offered(stream, number, *wire.parse_push(frame))
            elif kind == wire.DATA:
                await self._data(stream, number, *wire.parse_data(frame))
            else:
                raise IntegrityError(f"a frame of type {kind}, which no sender sends")
        except IntegrityError as error:
            self._close(stream, number)
            self.counts["refused"] += 1
            _log.warning("%s refused what %s sent: %s", self._node, stream.peer, error)
            await stream.answer(wire.pack_text(wire.REFUSAL, number, str(error)))

    async def _offered(self, stream: _Stream, number: int, header: dict[str, Any], payload: memoryview | None) -> None:
        """A chunk announced, and with ``payload`` the whole of it."""
        if len(stream.open) >= CHUNKS_IN_FLIGHT:
            raise IntegrityError(f"{stream.peer} offers more than {CHUNKS_IN_FLIGHT} chunks at a time")
        self._check(stream.peer, header)
        chunk = stream.open[number] = _Open(header)
        try:
            chunk.held = self._spool.offer(header)
        except NoRoom as full:
            await self._later(stream, number, chunk, full)
            return
        if payload is not None:
            if len(payload) != header["size"]:
                raise IntegrityError(f"{stream.peer} pushed {len(payload)} bytes of {header['size']} of {header['id']}")
            await self._data(stream, number, 0, payload)
            return
        await self._granted(stream, number, chunk)

    async def _granted(self, stream: _Stream, number: int, chunk: _Open) -> None:
        """Say from which byte to go on."""
        held = chunk.held
        await stream.answer(wire.pack_number(wire.GRANT, number, held))
        if held == 0 == chunk.header["size"]:
            await self._data(stream, number, 0, memoryview(b""))  # nothing more will come of it
        elif held == chunk.header["size"] and stream.open.pop(number, None):
            # It is here, and is not written again: this node may have handed it on since it was asked.
            await stream.answer(wire.pack_number(wire.DURABLE, number, held))

    async def _data(self, stream: _Stream, number: int, offset: int, data: memoryview) -> None:
        chunk = stream.open.get(number)
        if chunk is None or chunk.put_off or offset > chunk.held:
            return  # on its way when the chunk was granted elsewhere, put off or refused
        try:
            accepted = self._spool.write(stream.peer, chunk.header, offset, data)
        except NoRoom as full:
            await self._later(stream, number, chunk, full)
            return
        if accepted:
            del stream.open[number]
            chunk.held = chunk.header["size"]
        else:
            chunk.held = max(chunk.held, offset + len(data))
        await stream.answer(wire.pack_number(wire.DURABLE, number, chunk.held))

    async def _later(self, stream: _Stream, number: int, chunk: _Open, full: NoRoom) -> None:
        """Say that there is no room, and as soon as there is some, where to go on."""
        chunk.put_off = True
        self.counts["put off"] += 1
        waiting = asyncio.get_running_loop().create_task(self._grant_later(stream, number, chunk))
        self._put_off[stream, number] = waiting
        await stream.answer(wire.pack_text(wire.LATER, number, str(full)))

    async def _grant_later(self, stream: _Stream, number: int, chunk: _Open) -> None:
        while True:
            await asyncio.sleep(ROOM_CHECK_S)
            try:
                chunk.held = self._spool.offer(chunk.header)
            except NoRoom:
                continue
            except IntegrityError as error:
                await stream.answer(wire.pack_text(wire.REFUSAL, number, str(error)))
                return
            chunk.put_off = False
            del self._put_off[stream, number]
            await self._granted(stream, number, chunk)
            return

    def _close(self, stream: _Stream, number: int) -> None:
        """Nothing more of a chunk is expected on this stream."""
        stream.open.pop(number, None)
        waiting = self._put_off.pop((stream, number), None)
        if waiting is not None:
            waiting.cancel()

    def _check(self, peer: str, header: dict[str, Any]) -> None:
        if not header["route"] or header["route"][0] != self._node:
            raise IntegrityError(f"{peer} sent {self._node} a chunk for {header['route'][:1]}")
        try:
            ChunkId.parse(header["id"])
        except ValueError:
            raise IntegrityError(f"{peer} sent a chunk named {header['id']!r}; a name has six parts") from None
