"""The data plane over sockets: raw frames on one gRPC stream per link and contact.

The sender dials when a contact starts, by plan, and hangs up when it ends; no connection lives through a gap. The
frames are described in protos/skyrack/v1/exchange.proto.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import grpc
from grpc import aio

from protos.skyrack.v1.exchange_pb2 import ChunkHeader
from testbed import rpc
from testbed.clock import Clock
from testbed.errors import IntegrityError, LinkClosed, LinkError
from testbed.link.plan import LinkPlan
from testbed.pki import Credentials
from testbed.transfer.chunks import Chunk
from testbed.transfer.spool import Spool
from testbed.transfer.transport import Delivery, Recorder, Transport

METHOD = "/protos.skyrack.v1.ExchangeService/Exchange"
FRAME_BYTES = 32 * 1024
"""Payload of one data frame on a link that contacts open and close: a cut loses at most this much of what arrived."""
PUSH_BYTES = 512 * 1024
"""Chunks up to this go in one frame over a link that is always up: every message costs a guest about a millisecond."""
CHUNKS_IN_FLIGHT = 4
"""Offered and not yet durable, per link: enough to keep the link busy while acknowledgements travel."""
DIAL_GUARD_S = 0.02
"""Dial this long after the planned start: both ends' link changes are at that instant, each a little late, and a SYN
lost to an end still closed costs a second (RFC 6298, section 2.1)."""
READY_S = 5.0
"""A TLS handshake among thirteen nodes on one guest's processor takes a second at worst."""
STILL_S = 30.0
"""A link that the plan calls up and that carried nothing of a chunk for so long carries nothing: the deepest queue,
half a megabyte at 3 Mbit/s, is through in two seconds."""
ATTEMPTS = 5
"""Broken connections without progress, inside one contact, before the link is called broken."""

T = TypeVar("T")

OFFER, DATA, GRANT, DURABLE, REFUSAL, PUSH = range(6)
_HEAD = struct.Struct("!BI")
_NUMBER = struct.Struct("!Q")
_SIZE = struct.Struct("!H")


def _frame(kind: int, number: int, value: int) -> bytes:
    return _HEAD.pack(kind, number) + _NUMBER.pack(value)


def _header(chunk: Chunk) -> bytes:
    return ChunkHeader(
        id=str(chunk.id),
        count=chunk.count,
        route=chunk.route,
        keep=chunk.keep,
        size_bytes=len(chunk.payload),
        sha256=bytes.fromhex(chunk.sha256),
        contact_peer=chunk.contact_peer,
        contact_end_s=chunk.contact_end_s,
    ).SerializeToString()


def _parse_header(data: bytes) -> dict[str, Any]:
    header = ChunkHeader.FromString(data)
    return {
        "id": header.id,
        "count": header.count,
        "route": list(header.route),
        "keep": header.keep,
        "size": header.size_bytes,
        "sha256": header.sha256.hex(),
        "contact_peer": header.contact_peer,
        "contact_end_s": header.contact_end_s,
    }


class ExchangeServer:
    """The receiving end: every chunk goes through the node's spool, under the name the sender's certificate says."""

    def __init__(self, node: str, spool: Spool) -> None:
        self._node = node
        self._spool = spool

    def handler(self) -> grpc.GenericRpcHandler:
        """For ``add_generic_rpc_handlers``: bytes in, bytes out."""
        service, method = METHOD.strip("/").split("/")
        return grpc.method_handlers_generic_handler(
            service, {method: grpc.stream_stream_rpc_method_handler(self._exchange)}
        )

    async def _exchange(self, frames: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        peer = rpc.peer_name(context)
        open_: dict[int, dict[str, Any]] = {}
        async for frame in frames:
            kind, number = _HEAD.unpack_from(frame)
            try:
                answer = self._take(peer, open_, kind, number, frame)
            except IntegrityError as error:
                yield _HEAD.pack(REFUSAL, number) + str(error).encode()
                continue
            if answer is not None:
                yield answer

    def _take(self, peer: str, open_: dict[int, dict[str, Any]], kind: int, number: int, frame: bytes) -> bytes | None:
        if kind == PUSH:
            size = _SIZE.unpack_from(frame, _HEAD.size)[0]
            start = _HEAD.size + _SIZE.size
            header = self._check(peer, _parse_header(frame[start : start + size]))
            offset = self._spool.offer(header)
            if not self._spool.write(peer, header, offset, frame[start + size + offset :]):
                raise IntegrityError(f"{peer} pushed chunk {header['id']} short of its size")
            return _frame(DURABLE, number, header["size"])
        if kind == OFFER:
            if len(open_) >= CHUNKS_IN_FLIGHT:
                raise IntegrityError(f"{peer} offers more than {CHUNKS_IN_FLIGHT} chunks at a time")
            header = self._check(peer, _parse_header(frame[_HEAD.size :]))
            offset = self._spool.offer(header)
            if offset < header["size"]:
                open_[number] = header
            elif not self._spool.write(peer, header, offset, b""):
                raise IntegrityError(f"chunk {header['id']} is whole but was not accepted")
            return _frame(GRANT, number, offset)
        header = open_[number]
        offset = _NUMBER.unpack_from(frame, _HEAD.size)[0]
        data = frame[_HEAD.size + _NUMBER.size :]
        try:
            accepted = self._spool.write(peer, header, offset, data)
        except IntegrityError:
            del open_[number]
            raise
        if accepted:
            del open_[number]
        return _frame(DURABLE, number, header["size"] if accepted else offset + len(data))

    def _check(self, peer: str, header: dict[str, Any]) -> dict[str, Any]:
        if not header["route"] or header["route"][0] != self._node:
            raise IntegrityError(f"{peer} sent {self._node} a chunk for {header['route'][:1]}")
        return header


class _Offer:
    """One chunk under way: what its sender waits for."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.granted: asyncio.Future[int] = loop.create_future()
        self.durable: asyncio.Future[None] = loop.create_future()
        self.size = 0
        self.held = 0

    def fail(self, error: Exception) -> None:
        for future in (self.granted, self.durable):
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen: at most one of the two is awaited


class _Connection:
    """One dialled stream. Lives within one contact."""

    def __init__(self, channel: aio.Channel) -> None:
        self._channel = channel
        self._call: Any = channel.stream_stream(METHOD)()
        self._offers: dict[int, _Offer] = {}
        self._next = 0
        self.broken: Exception | None = None
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        error: Exception = ConnectionError("the peer ended the stream")
        try:
            async for frame in self._call:
                kind, number = _HEAD.unpack_from(frame)
                offer = self._offers.get(number)
                if offer is None:
                    continue
                if kind == REFUSAL:
                    offer.fail(IntegrityError(frame[_HEAD.size :].decode()))
                    continue
                offer.held = _NUMBER.unpack_from(frame, _HEAD.size)[0]
                if kind == GRANT and not offer.granted.done():
                    offer.granted.set_result(offer.held)
                if offer.held == offer.size and not offer.durable.done():
                    offer.durable.set_result(None)
        except aio.AioRpcError as rpc_error:
            error = ConnectionError(f"{rpc_error.code().name}: {rpc_error.details()}")
        except asyncio.CancelledError:
            error = ConnectionError("hung up")
        self.fail(error)

    async def ready(self) -> None:
        """Return once connected, or after a while: a link that cannot connect is found out by its first chunk."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._channel.channel_ready(), READY_S)

    def fail(self, error: Exception) -> None:
        """Nothing more will come: everybody who waits hears it."""
        self.broken = self.broken or error
        for offer in self._offers.values():
            offer.fail(self.broken)

    async def offer(self, chunk: Chunk) -> tuple[int, _Offer]:
        """Announce a chunk; its number on this stream."""
        number, offer = self._open(chunk)
        await self._write(_HEAD.pack(OFFER, number) + _header(chunk))
        return number, offer

    async def push(self, chunk: Chunk) -> tuple[int, _Offer]:
        """Announce and send a chunk in one frame, where nobody can hold a part of it yet."""
        number, offer = self._open(chunk)
        header = _header(chunk)
        offer.granted.set_result(0)
        await self._write(_HEAD.pack(PUSH, number) + _SIZE.pack(len(header)) + header + chunk.payload)
        return number, offer

    def _open(self, chunk: Chunk) -> tuple[int, _Offer]:
        if self.broken is not None:
            raise self.broken
        self._next += 1
        offer = self._offers[self._next] = _Offer()
        offer.size = len(chunk.payload)
        return self._next, offer

    async def data(self, number: int, chunk: Chunk, offset: int) -> None:
        """Send a chunk's bytes from ``offset`` on."""
        for start in range(offset, len(chunk.payload), FRAME_BYTES):
            await self._write(_frame(DATA, number, start) + chunk.payload[start : start + FRAME_BYTES])

    def forget(self, number: int) -> None:
        """The chunk is through or given up."""
        self._offers.pop(number, None)

    async def _write(self, frame: bytes) -> None:
        try:
            await self._call.write(frame)
        except (aio.AioRpcError, asyncio.InvalidStateError, aio.UsageError) as error:
            raise ConnectionError(str(error)) from None

    async def hang_up(self) -> None:
        """Close the stream and its connection at once."""
        self._call.cancel()
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
        await self._channel.close()


class _Link:
    """One directed link: its queue and its current connection."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.room = asyncio.Semaphore(CHUNKS_IN_FLIGHT)
        self.connection: _Connection | None = None
        self.closes_s = 0.0


class StreamTransport(Transport):
    """One node's data plane over gRPC.

    ``addresses`` are the peers' data addresses; ``on_break`` hears of connections that broke inside a contact.
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
        self._closers: set[asyncio.Task[None]] = set()

    async def deliver(self, peer: str, chunk: Chunk, *, not_before_s: float, until_s: float) -> Delivery:
        link = self._links.setdefault(peer, _Link())
        async with link.room, self._clock.in_flight():
            return await self._deliver(link, peer, chunk, not_before_s, until_s)

    async def _deliver(self, link: _Link, peer: str, chunk: Chunk, not_before_s: float, until_s: float) -> Delivery:
        held, breaks = 0, 0
        first: int | None = None
        start_s = self._clock.now()
        while True:
            offer: _Offer | None = None
            connection: _Connection | None = None
            number = 0
            try:
                async with link.turn:
                    connection = await self._connected(link, peer, not_before_s, until_s)
                    whole = first is None and math.isinf(link.closes_s) and len(chunk.payload) <= PUSH_BYTES
                    number, offer = await (connection.push if whole else connection.offer)(chunk)
                    offset = await self._moving(offer, offer.granted, peer)
                    first = offset if first is None else first
                    if self._recorder is not None:
                        self._recorder(self._node, peer, chunk, offset)
                    if not whole:
                        await connection.data(number, chunk, offset)
                await self._moving(offer, offer.durable, peer)
                return Delivery(start_s, self._clock.now(), first)
            except ConnectionError as error:
                progress = max(held, offer.held if offer else 0)
                breaks = 0 if progress > held else breaks + 1
                held = progress
                if self._clock.now() >= min(until_s, link.closes_s):
                    raise LinkClosed(f"{self._node} -> {peer} closed by plan", held, first or 0) from None
                self._on_break(peer, str(error))
                if breaks >= ATTEMPTS:
                    raise LinkError(f"{self._node} -> {peer}: the plan says up, but {error}") from None
                await self._drop(link, connection)
            finally:
                if connection is not None:
                    connection.forget(number)

    async def _moving(self, offer: _Offer, awaited: asyncio.Future[T], peer: str) -> T:
        """What is awaited, as long as the receiver holds more every :data:`STILL_S`; LinkError names a link that
        stands still."""
        while True:
            held = offer.held
            done, _ = await asyncio.wait({awaited}, timeout=STILL_S)
            if done:
                return awaited.result()
            if offer.held == held:
                raise LinkError(f"{self._node} -> {peer}: the plan says up, but nothing moved for {STILL_S:g} s")

    async def _connected(self, link: _Link, peer: str, not_before_s: float, until_s: float) -> _Connection:
        """The link's connection in this contact, dialled when there is none."""
        await self._clock.sleep_until(not_before_s)
        if link.connection is not None and link.connection.broken is None:
            return link.connection
        now_s = self._clock.now()
        window = next((w for w in self._plan.windows(peer) if w[0] <= now_s < w[1]), None)
        if window is None or now_s >= until_s:
            raise LinkClosed(f"{self._node} -> {peer} is down at {now_s:.3f} s of mission time")
        await self._clock.sleep_until(window[0] + DIAL_GUARD_S)
        return self._dial(link, peer, window)

    def _dial(self, link: _Link, peer: str, window: tuple[float, float]) -> _Connection:
        channel = rpc.data_channel(self._addresses[peer], peer, self._credentials)
        connection = _Connection(channel)
        link.connection, link.closes_s = connection, window[1]
        if math.isinf(window[1]):
            return connection
        closer = asyncio.get_running_loop().create_task(self._close_by_plan(link, connection, window[1]))
        self._closers.add(closer)
        closer.add_done_callback(self._closers.discard)
        return connection

    async def _close_by_plan(self, link: _Link, connection: _Connection, at_s: float) -> None:
        await self._clock.sleep_until(at_s)
        await self._drop(link, connection)

    async def _drop(self, link: _Link, connection: _Connection | None) -> None:
        if connection is not None and link.connection is connection:
            link.connection = None
            connection.fail(ConnectionError("closed by plan"))
            await connection.hang_up()

    async def open(self) -> None:
        lasting = [(peer, w) for peer in self._plan.links for w in self._plan.windows(peer)[:1] if math.isinf(w[1])]
        for peer, window in lasting:
            self._dial(self._links.setdefault(peer, _Link()), peer, window)
        connections = [link.connection for link in self._links.values() if link.connection is not None]
        await asyncio.gather(*(connection.ready() for connection in connections))

    async def close(self) -> None:
        for closer in list(self._closers):
            closer.cancel()
        for link in self._links.values():
            await self._drop(link, link.connection)
