"""The sending end of one stream: chunks offered over it, and what its receiver says of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from grpc import aio

from testbed.errors import IntegrityError
from testbed.transfer import frames as wire
from testbed.transfer.chunks import Chunk

READY_S = 5.0
"""A TLS handshake among thirteen nodes on one guest's processor takes a second at worst."""
FIRST_FRAME_BYTES = 4 << 10
"""A new connection's first frame, 10 ms at 3.5 Mbit/s: each next one is twice as large, up to the link's size."""


class StandsStill(Exception):
    """Nothing of a chunk moved for too long. Never leaves this package's transport."""


class Offer:
    """One chunk under way, as its sender knows it.

    ``position`` is the next byte to send, ``held`` what the receiver is known to hold, ``granted`` what it said first
    (None before), ``handed`` how many bytes went out, ``twice`` how many of those the receiver had already.
    """

    def __init__(self, size: int, guess: int) -> None:
        self.size = size
        self.position = self.held = self._guess = guess
        self.granted: int | None = None
        self.put_off = False
        self.handed = self.twice = 0
        self._durable: int | None = None
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._heard_s = 0.0

    @property
    def accepted(self) -> bool:
        """The receiver's application has the whole chunk."""
        return self._durable == self.size

    @property
    def answered(self) -> bool:
        """The receiver has said something of this chunk, or will not any more."""
        return self.granted is not None or self.put_off or self._error is not None

    @property
    def guessed_right(self) -> bool:
        """The receiver held what we believed."""
        return self.granted == self._guess

    def hear(self, kind: int, frame: bytes) -> None:
        """What the receiver says of this chunk."""
        self._heard_s = asyncio.get_running_loop().time()
        if kind == wire.REFUSAL:
            self.fail(IntegrityError(wire.parse_text(frame)))
        elif kind == wire.LATER:
            self.put_off = True
        else:
            self.held = wire.parse_number(frame)
            if kind == wire.DURABLE:
                self._durable = self.held
            else:
                self._grant(self.held)
        self._news.set()

    def _grant(self, held: int) -> None:
        # Bytes that went ahead of the first grant count, unless they left a hole; after a pause none do.
        first = self.granted is None and not self.put_off and held >= self._guess
        self.twice += max(0, min(self.position, held) - self._guess) if first else 0
        self.position = max(self.position, held) if first else held
        self.granted = held if self.granted is None else self.granted
        self.put_off = False

    def fail(self, error: Exception) -> None:
        """Whoever waits hears it."""
        self._error = self._error or error
        self._news.set()

    def check(self) -> None:
        """Raise what went wrong, if anything."""
        if self._error is not None:
            raise self._error

    async def until(self, reached: Callable[[], bool], patience_s: float) -> None:
        """Return when it is reached. Raises what went wrong, and :class:`StandsStill` when the receiver said nothing
        for ``patience_s``, unless it has put the chunk off."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        while not reached():
            self.check()
            end_s = max(begun_s, self._heard_s) + patience_s
            if not self.put_off and loop.time() >= end_s:
                raise StandsStill(f"nothing moved for {patience_s:g} s")
            self._news.clear()
            # A timer, because wait_for costs a task for every chunk.
            timer = None if self.put_off else loop.call_at(end_s, self._news.set)
            try:
                await self._news.wait()
            finally:
                if timer is not None:
                    timer.cancel()


class Connection:
    """One dialled stream.

    ``frame_bytes`` is the payload of its frames once it is under way; ``last`` the offer announced last.
    """

    def __init__(self, channel: aio.Channel) -> None:
        self._channel = channel
        self._call: Any = channel.stream_stream(wire.METHOD)()
        self._offers: dict[int, Offer] = {}
        self._next = 0
        self._frame_bytes = FIRST_FRAME_BYTES
        self.frame_bytes = wire.LEAST_FRAME_BYTES
        self.last: Offer | None = None
        self.broken: Exception | None = None
        self._writing: asyncio.Task[None] | None = None
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def _read(self) -> None:
        error: Exception = ConnectionError("the peer ended the stream")
        try:
            async for frame in self._call:
                kind, number = wire.parse_head(frame)
                offer = self._offers.get(number)
                if offer is not None:
                    offer.hear(kind, frame)
        except aio.AioRpcError as rpc_error:
            error = ConnectionError(f"{rpc_error.code().name}: {rpc_error.details()}")
        except asyncio.CancelledError:
            error = ConnectionError("hung up")
        except IntegrityError as nonsense:
            error = ConnectionError(f"the peer answered {nonsense}")
        self.fail(error)

    async def ready(self) -> None:
        """Return once connected, or after a while: a link that cannot connect is found out by its first chunk."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._channel.channel_ready(), READY_S)

    async def answered(self) -> None:
        """Return once the receiver has taken the stream: from then on nothing is on its way. ConnectionError: it will
        not."""
        try:
            await self._call.initial_metadata()
        except aio.AioRpcError as error:
            raise ConnectionError(str(error)) from None

    def fail(self, error: Exception) -> None:
        """Nothing more will come: everybody who waits hears it."""
        self.broken = self.broken or error
        if self._writing is not None:
            self._writing.cancel()
        for offer in self._offers.values():
            offer.fail(self.broken)

    def open(self, chunk: Chunk, guess: int) -> tuple[int, Offer]:
        """A number on this stream for a chunk of which the receiver is believed to hold ``guess`` bytes."""
        if self.broken is not None:
            raise self.broken
        self._next += 1
        offer = self._offers[self._next] = Offer(len(chunk.payload), guess)
        return self._next, offer

    async def announce(self, number: int, offer: Offer, chunk: Chunk) -> None:
        """Announce a chunk."""
        self.last = offer
        await self._write(wire.pack_offer(number, chunk))

    async def push(self, number: int, offer: Offer, chunk: Chunk) -> None:
        """Announce and send a chunk in one frame."""
        offer.granted, offer.position, offer.handed = 0, offer.size, offer.size
        await self._write(wire.pack_push(number, chunk))

    async def data(self, number: int, offer: Offer, chunk: Chunk) -> None:
        """Send a chunk's bytes from ``offer.position`` on, until the receiver puts it off or something goes wrong."""
        payload = memoryview(chunk.payload)
        while offer.position < offer.size and not offer.put_off:
            offer.check()
            start = offer.position
            piece = payload[start : start + self._frame_bytes]
            self._frame_bytes = min(2 * self._frame_bytes, self.frame_bytes)
            offer.position += len(piece)
            offer.handed += len(piece)
            await self._write(wire.pack_data(number, start, piece))

    def forget(self, number: int) -> None:
        """The chunk is through or given up."""
        self._offers.pop(number, None)

    async def _write(self, frame: bytes) -> None:
        if self.broken is not None:
            raise self.broken
        # A task, because a write that waits for room in a socket over a link that went down never returns, not even
        # when its call is cancelled (grpcio 1.80).
        self._writing = asyncio.get_running_loop().create_task(self._call.write(frame))
        try:
            await self._writing
        except asyncio.CancelledError:
            if self.broken is None:
                raise
            raise self.broken from None
        except (aio.AioRpcError, asyncio.InvalidStateError, aio.UsageError) as error:
            raise ConnectionError(str(error)) from None
        finally:
            self._writing = None

    async def hang_up(self) -> None:
        """Close the stream and its connection at once."""
        self._call.cancel()
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
        await self._channel.close()
