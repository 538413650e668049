"""The data plane over real sockets: TLS on loopback, cuts by plan, resumption, refusals."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from testbed import rpc
from testbed.clock import KernelClock, monotonic_s
from testbed.errors import IntegrityError, LinkClosed, LinkError
from testbed.link.plan import LinkPlan, LinkState
from testbed.pki import Credentials, RunAuthority
from testbed.transfer.chunks import Chunk, split
from testbed.transfer.frames import (
    DATA,
    DURABLE,
    FRAME_BYTES,
    LEAST_FRAME_BYTES,
    METHOD,
    OFFER,
    PUSH,
    REFUSAL,
    frame_bytes,
    pack_push,
)
from testbed.transfer.spool import Spool
from testbed.transfer.store import ChunkStore
from testbed.transfer.stream import CHUNKS_IN_FLIGHT, PUSH_BYTES, ExchangeServer, StreamTransport
from testbed.transfer.transport import Delivery

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux answers on all of 127.0.0.0/8")

ADDRESSES = {"a": "127.0.0.1", "b": "127.0.0.2", "c": "127.0.0.3"}
TAP = "127.0.0.9"


def _fly(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 120.0))


@pytest.fixture(autouse=True)
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port that is free on every address, instead of the usual one."""
    with socket.create_server(("", 0)) as probe:
        number = int(probe.getsockname()[1])
    monkeypatch.setattr(rpc, "DATA_PORT", number)
    return number


class _Receiver:
    """Node ``b`` (or another): a server on its address, a spool, and what was accepted."""

    def __init__(
        self,
        name: str,
        credentials: Credentials,
        run: str = "r",
        store: ChunkStore | None = None,
        nodes: tuple[str, ...] | None = None,
    ) -> None:
        self.name = name
        self.accepted: list[tuple[str, Chunk]] = []
        self._server = rpc.data_server()
        self.first = asyncio.Event()
        self.keeps = False
        self.spool = Spool(run, self.take, store, nodes)
        self.exchange = ExchangeServer(name, self.spool)
        self._server.add_generic_rpc_handlers((self.exchange.handler(),))
        rpc.bind(self._server, ADDRESSES[name], rpc.DATA_PORT, credentials)

    def take(self, peer: str, chunk: Chunk) -> None:
        """An accepted chunk."""
        self.accepted.append((peer, chunk))
        self.first.set()
        if self.keeps:
            self.spool.keep(chunk.id)

    async def __aenter__(self) -> _Receiver:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=0)


class _Tap:
    """A wire to ``b`` on an address of its own that writes down what passes, and lets no more than a rate through."""

    def __init__(self, rate_Bps: float = math.inf) -> None:  # noqa: N803
        self.seen = bytearray()
        self._pause_s = 1 / rate_Bps
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[_Tap]:
        server = await asyncio.start_server(self._connected, TAP, rpc.DATA_PORT, limit=1 << 16)
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for writer in self._writers:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, out = await asyncio.open_connection(ADDRESSES["b"], rpc.DATA_PORT)
        self._writers += [writer, out]
        for pump in (self._pump(reader, out, tapped=True), self._pump(back, writer, tapped=False)):
            self._tasks.append(asyncio.get_running_loop().create_task(pump))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, tapped: bool) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(1 << 14):
                writer.write(piece)
                await writer.drain()
                if tapped:
                    self.seen += piece
                    await asyncio.sleep(len(piece) * self._pause_s)
        writer.close()


def _links(*windows: tuple[float, float]) -> tuple[LinkState, ...]:
    """A link that is up in these windows; the rate means nothing on loopback."""
    states = [] if windows[0][0] == 0 else [LinkState(0.0, 1.0, 0.0, 0.0, 64)]
    for start_s, end_s in windows:
        states.append(LinkState(start_s, 1.0, 1e9, 0.0, 64))
        if end_s < math.inf:
            states.append(LinkState(end_s, 1.0, 0.0, 0.0, 64))
    return tuple(states)


ALWAYS = ((0.0, math.inf),)


@asynccontextmanager
async def _sender(
    credentials: Credentials,
    windows: tuple[tuple[float, float], ...] = ALWAYS,
    addresses: dict[str, str] = ADDRESSES,
    on_break: Callable[[str, str], None] = lambda peer, why: None,
) -> AsyncIterator[tuple[StreamTransport, KernelClock]]:
    clock = KernelClock()
    clock.start(monotonic_s())
    plan = LinkPlan("a", {"b": _links(*windows)})
    transport = StreamTransport("a", plan, addresses, credentials, clock, on_break)
    try:
        yield transport, clock
    finally:
        await transport.close()


def _chunk(size: int, index: int = 0, run: str = "r", route: tuple[str, ...] = ("b",)) -> Chunk:
    payload = os.urandom(size)
    (chunk,) = split(payload, size, run=run, round=index, phase="gather", origin="a", tensor="embedding")
    return chunk.along(route)


async def _send(transport: StreamTransport, chunk: Chunk, start_s: float = 0.0, end_s: float = math.inf) -> Delivery:
    return await transport.deliver("b", chunk, not_before_s=start_s, until_s=end_s)


@pytest.mark.parametrize("windows", [ALWAYS, ((0.0, 60.0),)], ids=["always up", "a contact"])
def test_chunks_arrive_whole_and_in_order(windows: tuple[tuple[float, float], ...]) -> None:
    # On a link that is always up small chunks are pushed in one frame; in a contact they are offered first.
    async def work() -> None:
        authority = RunAuthority("r")
        sizes = [1, 1000, 131_072, PUSH_BYTES, FRAME_BYTES, 2_000_000] * 2
        chunks = [_chunk(size, index) for index, size in enumerate(sizes)]
        assert len(chunks) > CHUNKS_IN_FLIGHT
        async with _Receiver("b", authority.issue("b")) as receiver:
            async with _sender(authority.issue("a"), windows) as (transport, _):
                await transport.open()
                deliveries = await asyncio.gather(*(_send(transport, chunk) for chunk in chunks))
            assert {d.resumed_from for d in deliveries} == {0}
            assert all(d.end_s >= d.start_s for d in deliveries)
            assert [chunk for _, chunk in receiver.accepted] == chunks
            assert {peer for peer, _ in receiver.accepted} == {"a"}  # by certificate, whatever the sender may claim

    _fly(work())


@pytest.mark.parametrize(
    ("rate_bps", "size", "one_frame"),
    [
        (25e6, PUSH_BYTES, True),
        (25e6, PUSH_BYTES + 1, False),
        (1e9, FRAME_BYTES, True),
        (1e9, FRAME_BYTES + 1, False),
    ],
)
def test_on_a_lasting_link_what_fits_one_frame_of_it_goes_in_one(rate_bps: float, size: int, one_frame: bool) -> None:
    async def work() -> None:
        authority, chunk = RunAuthority("r"), _chunk(size)
        kinds: list[int] = []
        async with _Receiver("b", authority.issue("b")) as receiver:
            take = receiver.exchange._take

            async def noting(stream: Any, frame: bytes) -> None:
                kinds.append(frame[0])
                await take(stream, frame)

            receiver.exchange._take = noting  # type: ignore[method-assign]
            clock = KernelClock()
            clock.start(monotonic_s())
            plan = LinkPlan("a", {"b": (LinkState(0.0, 1.0, rate_bps, 0.0, 64),)})
            transport = StreamTransport("a", plan, ADDRESSES, authority.issue("a"), clock, lambda peer, why: None)
            await _send(transport, chunk)
            await transport.close()
            assert receiver.accepted == [("a", chunk)]
        if one_frame:
            assert kinds == [PUSH]
        else:
            assert kinds[0] == OFFER
            assert set(kinds[1:]) == {DATA}

    _fly(work())


def test_an_empty_chunk_arrives() -> None:
    async def work() -> None:
        authority = RunAuthority("r")
        (chunk,) = split(b"", 10, run="r", round=1, phase="gather", origin="a", tensor="feature")
        async with _Receiver("b", authority.issue("b")) as receiver:
            for windows in (ALWAYS, ((0.0, 60.0),)):
                async with _sender(authority.issue("a"), windows) as (transport, _):
                    await _send(transport, chunk.along(("b",)))
            assert [one.id for _, one in receiver.accepted] == [chunk.id]

    _fly(work())


@pytest.mark.parametrize("windows", [ALWAYS, ((0.0, 60.0),)], ids=["pushed", "offered"])
def test_a_duplicate_is_acknowledged_and_accepted_once(windows: tuple[tuple[float, float], ...]) -> None:
    async def work() -> None:
        authority, chunk = RunAuthority("r"), _chunk(50_000)
        async with _Receiver("b", authority.issue("b")) as receiver:
            async with _sender(authority.issue("a"), windows) as (transport, _):
                for _ in range(3):
                    await _send(transport, chunk)
                await asyncio.gather(*(_send(transport, chunk) for _ in range(3)))
            async with _sender(authority.issue("a"), windows) as (transport, _):  # over another connection
                await _send(transport, chunk)
            assert receiver.accepted == [("a", chunk)]

    _fly(work())


def test_a_contacts_end_cuts_and_the_next_goes_on_at_the_byte() -> None:
    # 1.5 MB over 1 MB/s: a contact of 0.7 s takes less than half of it.
    async def work() -> None:
        authority, chunk, tap = RunAuthority("r"), _chunk(1_500_000), _Tap(rate_Bps=1e6)
        windows = ((0.0, 0.7), (1.4, 60.0))
        breaks: list[str] = []
        async with (
            _Receiver("b", authority.issue("b")) as receiver,
            tap.listening(),
            _sender(authority.issue("a"), windows, {"b": TAP}, on_break=lambda peer, why: breaks.append(why)) as (
                transport,
                clock,
            ),
        ):
            with pytest.raises(LinkClosed) as cut:
                await _send(transport, chunk, *windows[0])
            assert clock.now() >= 0.7
            assert cut.value.resumed_from == 0
            assert 0 <= cut.value.durable_bytes < len(chunk.payload)
            assert receiver.accepted == []
            with pytest.raises(LinkClosed, match="is down"):
                await _send(transport, chunk, 0.9)
            delivery = await _send(transport, chunk, *windows[1])
            assert receiver.accepted == [("a", chunk)]
            # The receiver may hold more than it had time to acknowledge, never less.
            assert delivery.resumed_from >= max(cut.value.durable_bytes, 1)
            assert delivery.end_s > 1.4
        # What crossed the wire is the chunk once, and besides what was under way when the contact ended (sockets'
        # buffers) handshakes, headers and records.
        assert len(chunk.payload) < len(tap.seen) < 1.9 * len(chunk.payload)
        assert breaks == []  # by plan, so no surprise

    _fly(work())


def test_a_closed_link_does_not_dial() -> None:
    async def work() -> None:
        authority, tap = RunAuthority("r"), _Tap()
        async with (
            _Receiver("b", authority.issue("b")),
            tap.listening(),
            _sender(authority.issue("a"), ((5.0, 60.0),), {"b": TAP}) as (transport, _),
        ):
            with pytest.raises(LinkClosed, match="is down"):
                await _send(transport, _chunk(1000))
            await asyncio.sleep(0.1)
            assert tap.seen == b""

    _fly(work())


def test_what_crosses_the_wire_is_tls_and_shows_nothing() -> None:
    async def work() -> None:
        authority, tap = RunAuthority("r"), _Tap()
        marker = b"every satellite's embedding, in the clear. " * 200
        (chunk,) = split(marker, len(marker), run="r", round=1, phase="gather", origin="a", tensor="embedding")
        async with (
            _Receiver("b", authority.issue("b")) as receiver,
            tap.listening(),
            _sender(authority.issue("a"), ALWAYS, {"b": TAP}) as (transport, _),
        ):
            await _send(transport, chunk.along(("b",)))
            assert receiver.accepted[0][1].payload == marker
        seen = bytes(tap.seen)
        assert len(seen) > len(marker)
        for secret in (b"embedding", b"gather", b"in the clear", chunk.sha256.encode(), bytes.fromhex(chunk.sha256)):
            assert secret not in seen
        # RFC 8446, section 5.1: a record is a type (20 to 23), a version 3.x, a length; the first is a handshake (22).
        position, kinds = 0, []
        while position + 5 <= len(seen):
            kinds.append(seen[position])
            assert seen[position + 1] == 3
            position += 5 + int.from_bytes(seen[position + 3 : position + 5], "big")
        assert kinds[0] == 22
        assert set(kinds) <= {20, 21, 22, 23}
        assert 23 in kinds

    _fly(work())


def test_who_has_no_certificate_of_the_run_is_refused() -> None:
    async def work() -> None:
        authority, stranger = RunAuthority("r"), RunAuthority("r")
        async with _Receiver("b", authority.issue("b")) as receiver:
            theirs, ours = stranger.issue("a"), authority.issue("a")
            # One who believes in another authority, one who believes in ours but was certified by another.
            for credentials in (theirs, Credentials("a", theirs.key, theirs.certificate, ours.authority)):
                breaks: list[str] = []
                async with _sender(credentials, on_break=lambda peer, why: breaks.append(why)) as (transport, _):  # noqa: B023
                    with pytest.raises(LinkError, match="a -> b: the plan says up"):
                        await _send(transport, _chunk(1000))
                assert breaks
            assert receiver.accepted == []

    _fly(work())


def test_a_server_under_another_name_is_not_believed() -> None:
    async def work() -> None:
        authority = RunAuthority("r")
        async with _Receiver("c", authority.issue("c")) as receiver:
            async with _sender(authority.issue("a"), addresses={"b": ADDRESSES["c"]}) as (transport, _):
                with pytest.raises(LinkError):
                    await _send(transport, _chunk(1000))
            assert receiver.accepted == []

    _fly(work())


@pytest.mark.parametrize("windows", [ALWAYS, ((0.0, 60.0),)], ids=["pushed", "offered"])
@pytest.mark.parametrize(
    ("chunk", "why"),
    [
        (_chunk(100, route=("c",)), "sent b a chunk for"),
        (_chunk(100, route=()), "sent b a chunk for"),
        (_chunk(100, run="yesterday"), "another run"),
    ],
    ids=["another's", "nobody's", "another run's"],
)
def test_what_does_not_belong_here_is_refused_and_the_next_chunk_gets_through(
    windows: tuple[tuple[float, float], ...], chunk: Chunk, why: str
) -> None:
    async def work() -> None:
        authority, right = RunAuthority("r"), _chunk(100, index=7)
        async with (
            _Receiver("b", authority.issue("b")) as receiver,
            _sender(authority.issue("a"), windows) as (transport, _),
        ):
            with pytest.raises(IntegrityError, match=why):
                await _send(transport, chunk)
            await _send(transport, right)
            assert receiver.accepted == [("a", right)]

    _fly(work())


def test_damaged_content_is_refused_and_not_kept() -> None:
    async def work() -> None:
        authority, right = RunAuthority("r"), _chunk(100)
        wrong = Chunk(right.id, right.count, right.route, b"x" * 100, right.sha256)
        for windows in (ALWAYS, ((0.0, 60.0),)):
            async with (
                _Receiver("b", authority.issue("b")) as receiver,
                _sender(authority.issue("a"), windows) as (transport, _),
            ):
                with pytest.raises(IntegrityError, match="damaged"):
                    await _send(transport, wrong)
                assert receiver.accepted == []
                await _send(transport, right)
                assert receiver.accepted == [("a", right)]

    _fly(work())


def test_a_peer_that_is_gone_is_said_to_be_while_the_plan_says_up() -> None:
    async def work() -> None:
        authority = RunAuthority("r")
        breaks: list[str] = []
        async with _sender(authority.issue("a"), on_break=lambda peer, why: breaks.append(peer)) as (transport, _):
            with pytest.raises(LinkError, match="a -> b: the plan says up"):
                await _send(transport, _chunk(1000))
        assert set(breaks) == {"b"}

    _fly(work())


CONTACT = ((0.0, 60.0),)


def test_the_highest_priority_goes_next_and_a_chunk_that_has_begun_is_finished() -> None:
    async def work() -> None:
        authority, tap = RunAuthority("r"), _Tap(rate_Bps=1e6)
        async with (
            _Receiver("b", authority.issue("b")) as receiver,
            tap.listening(),
            _sender(authority.issue("a"), CONTACT, {"b": TAP}) as (transport, _),
        ):
            priorities = [0] * (CHUNKS_IN_FLIGHT + 2) + [7, -7, 7]
            chunks = [_chunk(300_000, index).urgent(high) for index, high in enumerate(priorities)]
            waiting = [asyncio.ensure_future(_send(transport, chunk)) for chunk in chunks]
            await asyncio.gather(*waiting)
        order = [chunk.id.round for _, chunk in receiver.accepted]
        assert [chunk.priority for _, chunk in receiver.accepted] == [priorities[index] for index in order]
        # One has begun when the others come; then the urgent ones, and equals in the order of the calls.
        assert order == [0, 6, 8, 1, 2, 3, 4, 5, 7]

    _fly(work())


def test_a_contact_is_opened_ahead_and_nothing_of_the_one_before_comes_over_it() -> None:
    async def work() -> None:
        authority, tap = RunAuthority("r"), _Tap(rate_Bps=1e6)
        windows = ((0.0, 0.7), (1.4, 2.1), (2.8, 60.0))
        stamps: list[tuple[float, float]] = []
        async with (
            _Receiver("b", authority.issue("b")) as receiver,
            tap.listening(),
            _sender(authority.issue("a"), windows, {"b": TAP}) as (transport, clock),
        ):
            offer = receiver.spool.offer

            def noting(header: dict[str, Any]) -> int:
                stamps.append((clock.now(), header["contact_end_s"]))
                return offer(header)

            receiver.spool.offer = noting  # type: ignore[method-assign]
            chunks = [_chunk(900_000, index) for index in range(3)]

            async def through(chunk: Chunk) -> None:
                for start_s, end_s in windows:
                    with suppress(LinkClosed):
                        await _send(transport, chunk.within("b", end_s), start_s, end_s)
                        return

            await asyncio.gather(*map(through, chunks))
            assert sorted(chunk.id.round for _, chunk in receiver.accepted) == [0, 1, 2]
            assert transport.counts["dials"] == len(windows)
            assert transport.counts["cuts"] >= 2
            assert transport.counts["breaks"] == 0
            assert transport.counts["resumed bytes"] > 0
        assert {end_s for _, end_s in stamps} == {end_s for _, end_s in windows}
        # The wire drains into the gap, but what comes after one belongs to the contact that is then.
        assert all(end_s == max(window for window in windows if window[0] <= at_s)[1] for at_s, end_s in stamps)

    _fly(work())


@pytest.mark.parametrize("windows", [ALWAYS, CONTACT], ids=["pushed", "offered"])
def test_a_receiver_without_room_takes_the_chunk_when_it_has_some(windows: tuple[tuple[float, float], ...]) -> None:
    async def work() -> None:
        authority = RunAuthority("r")
        store = ChunkStore("r", memory_bytes=150_000.0)
        first, second = _chunk(100_000, 1), _chunk(100_000, 2)
        async with (
            _Receiver("b", authority.issue("b"), store=store) as receiver,
            _sender(authority.issue("a"), windows) as (transport, _),
        ):
            receiver.keeps = True
            await _send(transport, first)
            waits = asyncio.ensure_future(_send(transport, second))
            await asyncio.sleep(0.3)
            assert not waits.done()
            assert transport.counts["put off"] == receiver.exchange.counts["put off"] == 1
            receiver.spool.done(first.id)
            await waits
            assert receiver.accepted == [("a", first), ("a", second)]
            assert transport.counts["breaks"] == 0

    _fly(work())


@pytest.mark.parametrize("windows", [ALWAYS, CONTACT], ids=["pushed", "offered"])
def test_a_receiver_that_starts_anew_gets_what_it_had_lost(windows: tuple[tuple[float, float], ...]) -> None:
    # The new process holds nothing of what its sender believes it to hold.
    async def work() -> None:
        authority, tap = RunAuthority("r"), _Tap(rate_Bps=1e6)
        credentials = authority.issue("b")
        chunks = [_chunk(PUSH_BYTES + 300_000, index) for index in range(3)]
        async with (
            tap.listening(),
            _sender(authority.issue("a"), windows, {"b": TAP}) as (transport, _),
        ):
            async with _Receiver("b", credentials) as before:
                sending = [asyncio.ensure_future(_send(transport, chunk)) for chunk in chunks]
                await before.first.wait()
                await asyncio.sleep(0.3)
            async with _Receiver("b", credentials) as after:
                await asyncio.gather(*sending)
                assert [chunk for _, chunk in before.accepted + after.accepted] == chunks
            assert transport.counts["breaks"] >= 1

    _fly(work())


def test_who_is_no_node_of_the_run_is_refused_and_counted() -> None:
    async def work() -> None:
        authority = RunAuthority("r")
        async with (
            _Receiver("b", authority.issue("b"), nodes=("b", "c")) as receiver,
            _sender(authority.issue("a")) as (transport, _),
        ):
            with pytest.raises(IntegrityError, match="a -> b: .*'a', which is no node"):
                await _send(transport, _chunk(1000))
            assert receiver.accepted == []
            assert receiver.exchange.counts["refused"] == transport.counts["refusals"] == 1

    _fly(work())


@pytest.mark.parametrize(
    "frame",
    [b"", b"\x00", b"\x01\x00\x00\x00\x01\x00", b"\x05\x00\x00\x00\x01", b"\x00\x00\x00\x00\x01\xff\xff", b"\x63" * 5],
    ids=["empty", "no head", "data without offset", "push without header", "offer of noise", "type 99"],
)
def test_what_is_no_frame_is_refused_and_the_stream_goes_on(frame: bytes) -> None:
    async def work() -> None:
        authority, right = RunAuthority("r"), _chunk(1000)
        async with _Receiver("b", authority.issue("b")) as receiver:
            channel = rpc.data_channel(ADDRESSES["b"], "b", authority.issue("a"))
            call: Any = channel.stream_stream(METHOD)()
            await call.write(frame)
            assert (await call.read())[0] == REFUSAL
            assert receiver.exchange.counts["refused"] == 1
            await call.write(pack_push(9, right))
            assert (await call.read())[0] == DURABLE
            assert receiver.accepted == [("a", right)]
            call.cancel()
            await channel.close()

    _fly(work())


def test_a_frame_is_50_ms_of_its_link_between_its_limits() -> None:
    assert frame_bytes(3.5e6) == LEAST_FRAME_BYTES == 32 * 1024
    assert frame_bytes(80e6) == 500_000
    assert frame_bytes(1e9) == FRAME_BYTES == 1 << 20
