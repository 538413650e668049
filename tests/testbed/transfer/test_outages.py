"""Whatever passes, outages, restarts, corruptions and duplicates there are: every byte arrives, and once.

A source sends through two relays to the ground over fluid links in virtual time; every process keeps its chunks in a
folder and is killed now and then. What a test counts is what the links were given to carry.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.clock import LoopClock
from testbed.errors import IntegrityError, LinkClosed
from testbed.link.plan import LinkPlan, LinkState
from testbed.rack.virtual_time import VirtualTimeLoop
from testbed.transfer.chunks import Chunk, split
from testbed.transfer.fluid import FluidNetwork
from testbed.transfer.outbox import Outbox
from testbed.transfer.spool import Spool
from testbed.transfer.store import ChunkStore, NoRoom

RUN = "r"
NODES = ("source", "east", "west", "ground")
LINKS = [("source", "east"), ("source", "west"), ("east", "ground"), ("west", "ground")]
RATE_BPS = 80e3  # 9,400 payload bytes a second
HORIZON_S = 60.0  # from then on every link is up and nothing fails: what is left must get through
LARGEST_BYTES = 12_000  # more than most windows carry
LIMIT_S = HORIZON_S + 3600.0
RETRY_S = 0.5


@dataclass(frozen=True)
class Trouble:
    """One generated story: windows (start, end) by link, who is killed when, and which writes are corrupted."""

    windows: dict[tuple[str, str], list[tuple[float, float]]]
    kills: list[tuple[float, str]]
    corrupted: frozenset[int]
    sizes: list[int]
    routes: list[tuple[str, ...]]
    relay_bytes: float
    seed: int


@st.composite
def _windows(draw: st.DrawFn) -> list[tuple[float, float]]:
    steps = draw(st.lists(st.tuples(st.floats(0.1, 10.0), st.floats(0.05, 3.0)), max_size=6))
    windows, now_s = [], 0.0
    for gap_s, length_s in steps:
        windows.append((now_s + gap_s, now_s + gap_s + length_s))
        now_s = windows[-1][1]
    return [window for window in windows if window[1] < HORIZON_S - 1]


@st.composite
def _trouble(draw: st.DrawFn) -> Trouble:
    sizes = draw(st.lists(st.integers(0, LARGEST_BYTES), min_size=1, max_size=10))
    ways = st.sampled_from([("east",), ("west",), ("east", "west"), ("west", "east")])
    return Trouble(
        windows={link: draw(_windows()) for link in LINKS},
        kills=sorted(draw(st.lists(st.tuples(st.floats(0.0, HORIZON_S), st.sampled_from(NODES)), max_size=6))),
        corrupted=frozenset(draw(st.lists(st.integers(0, 40), max_size=3))),
        sizes=sizes,
        routes=[draw(ways) for _ in sizes],
        relay_bytes=draw(st.sampled_from([1.0, 2.5, 100.0])) * LARGEST_BYTES,
        seed=draw(st.integers(0, 2**32)),
    )


class _Rack:
    """The nodes' processes, the links between them, and the counts."""

    def __init__(self, trouble: Trouble, folder: Path) -> None:
        self.trouble = trouble
        self.clock = LoopClock()
        plans = {node: LinkPlan(node, _links(node, trouble)) for node in NODES}
        self.network = FluidNetwork(plans, self.clock, self._declare)
        self.accepted: Counter[str] = Counter()
        self.arrived: dict[str, bytes] = {}
        self.crossed: Counter[tuple[str, str]] = Counter()
        self.distinct: Counter[tuple[str, str]] = Counter()
        self.declared: set[tuple[str, str, str]] = set()
        self._seen: set[tuple[str, str, str]] = set()
        self.writes = 0
        self.corrupted = 0
        self.boards = {node: _Board(node, self, folder / node) for node in NODES}

    def _declare(self, sender: str, receiver: str, chunk: Chunk, offset: int) -> None:
        """Everything from ``offset`` on may cross; what a plan's end cut off is given back by the sender."""
        link, crossing = (sender, receiver), (sender, receiver, str(chunk.id))
        self.declared.add(crossing)
        self.crossed[link] += len(chunk.payload) - offset
        if crossing not in self._seen:
            self._seen.add(crossing)
            self.distinct[link] += len(chunk.payload)

    def next_kill_s(self, node: str) -> float:
        now_s = self.clock.now()
        return next((at_s for at_s, name in self.trouble.kills if name == node and at_s > now_s), LIMIT_S)

    async def fly(self) -> None:
        for board in self.boards.values():
            board.boot()
        for at_s, node in self.trouble.kills:
            await self.clock.sleep_until(at_s)
            await self.boards[node].kill()
            self.boards[node].boot()
        while len(self.accepted) < len(self.trouble.sizes):
            assert self.clock.now() < LIMIT_S, f"stuck with {len(self.accepted)} of {len(self.trouble.sizes)} chunks"
            await asyncio.sleep(1.0)
        await self.boards["source"].finished()
        for board in self.boards.values():
            await board.outbox.drain()  # duplicates under way
            assert board.store.damaged == 0
            assert board.store.disk_used_bytes == 0
            await board.kill()


def _links(node: str, trouble: Trouble) -> dict[str, tuple[LinkState, ...]]:
    links = {}
    for link in LINKS:
        if link[0] == node:
            states = {0.0: 0.0, HORIZON_S: RATE_BPS}
            for start_s, end_s in trouble.windows[link]:
                states |= {start_s: RATE_BPS, end_s: 0.0}
            links[link[1]] = tuple(LinkState(at_s, 0.0, rate, 0.0, 64) for at_s, rate in sorted(states.items()))
        elif link[1] == node:  # the way of the acknowledgements
            links[link[0]] = (LinkState(0.0, 5.0, RATE_BPS, 0.0, 64),)
    return links


class _Board:
    """One node: a folder that stays, and processes that come and go. What the network calls is whichever is there."""

    def __init__(self, name: str, rack: _Rack, folder: Path) -> None:
        self.name = name
        self._rack = rack
        self._folder = folder
        self._transport = rack.network.attach(name, self)  # type: ignore[arg-type]
        self._producing: asyncio.Task[None] | None = None

    def boot(self) -> None:
        """A new process over the old folder."""
        room = self._rack.trouble.relay_bytes if self.name in ("east", "west") else 1e9
        self.store = ChunkStore(RUN, memory_bytes=0, folder=self._folder, disk_bytes=room)
        self.outbox = Outbox(self.store, self._send, room_chunks=3)
        self.spool = Spool(RUN, self._accept, self.store, NODES)
        self.spool.recover()
        self.outbox.recover()
        if self.name == "source":
            self._producing = asyncio.get_running_loop().create_task(self._produce())

    async def kill(self) -> None:
        """The process ends without a word; what it had in memory is gone."""
        if self._producing is not None:
            self._producing.cancel()
            await asyncio.gather(self._producing, return_exceptions=True)
        await self.outbox.close()
        self.store.close()

    async def finished(self) -> None:
        assert self._producing is not None
        await self._producing

    async def _produce(self) -> None:
        chunks = _chunks(self._rack.trouble)
        order = [(index, relay) for index, routes in enumerate(self._rack.trouble.routes) for relay in routes]
        random.Random(self._rack.trouble.seed).shuffle(order)
        for index, relay in order:
            await self.outbox.put(chunks[index].along((relay, "ground")))

    def _accept(self, peer: str, chunk: Chunk) -> None:
        if self.name == "ground":
            self._rack.accepted[str(chunk.id)] += 1
            self._rack.arrived[str(chunk.id)] = chunk.payload
        else:
            self.spool.keep(chunk.id)
            self.outbox.pass_on(chunk)

    async def _send(self, chunk: Chunk) -> bool:
        rack, clock, peer = self._rack, self._rack.clock, chunk.route[0]
        windows = rack.network.plans[self.name].windows(peer)
        while True:
            rack.declared.discard((self.name, peer, str(chunk.id)))
            start_s, end_s = next(window for window in windows if window[1] > clock.now())
            await clock.sleep_until(start_s)
            try:
                # A receiver that is killed ends the connection, as the contact's end does.
                until_s = min(end_s, rack.next_kill_s(peer))
                await self._transport.deliver(peer, chunk, not_before_s=start_s, until_s=until_s)
                return True
            except LinkClosed as closed:
                if (self.name, peer, str(chunk.id)) in rack.declared:
                    rack.crossed[self.name, peer] -= len(chunk.payload) - closed.durable_bytes
            except NoRoom:
                await asyncio.sleep(RETRY_S)
            except IntegrityError:
                rack.corrupted += 1

    # -- what the network calls -----------------------------------------------------------------------------------

    def offer(self, header: dict[str, Any]) -> int:
        return self.spool.offer(header)

    def write(self, peer: str, header: dict[str, Any], offset: int, data: bytes) -> bool:
        self._rack.writes += 1
        if self._rack.writes in self._rack.trouble.corrupted and data:
            at = self._rack.trouble.seed % len(data)
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return self.spool.write(peer, header, offset, data)


def _chunks(trouble: Trouble) -> list[Chunk]:
    """Chunks of several rounds, so that sizes can be anything."""
    noise = random.Random(trouble.seed)
    chunks = []
    for index, size in enumerate(trouble.sizes):
        payload = noise.randbytes(size)
        chunks += split(payload, LARGEST_BYTES, run=RUN, round=index, phase="up", origin="source", tensor="embedding")
    return chunks


def _fly(work: Coroutine[Any, Any, None]) -> None:
    loop = VirtualTimeLoop()
    try:
        loop.run_until_complete(work)
    finally:
        loop.close()


def _run(trouble: Trouble) -> _Rack:
    with tempfile.TemporaryDirectory() as name:
        rack = _Rack(trouble, Path(name))
        _fly(rack.fly())
    return rack


@settings(max_examples=80, deadline=None)
@given(_trouble())
def test_every_byte_arrives_and_once(trouble: Trouble) -> None:
    rack = _run(trouble)
    assert rack.arrived == {str(chunk.id): chunk.payload for chunk in _chunks(trouble)}
    assert set(rack.accepted.values()) == {1}
    for link in LINKS:
        # A contact's end costs nothing; a sender that is killed costs what it had on the link, less than a chunk; a
        # corrupted chunk comes again whole.
        interruptions = sum(node == link[0] for _, node in trouble.kills) + len(trouble.corrupted)
        assert rack.crossed[link] - rack.distinct[link] <= interruptions * max(trouble.sizes)
    for relay in ("east", "west"):  # nobody else could have given a relay its bytes
        assert rack.crossed["source", relay] >= rack.distinct["source", relay]
